// Sound and picture by WebSocket where WebRTC is not to be had: a block of 40 ms there, a picture and its sound back.
import { bytesOf, floatsOf, pcmOf, textOf } from "./pcm.js";
import { Player } from "./player.js";

const SILENCE = new Float32Array(640);
const WAITING = 25; // blocks of the microphone that may wait: one second
const UNANSWERED = 12; // blocks on the way; a slower server sets the pace

export class SocketStream {
  #server;
  #lost;
  #socket;
  #player;
  #timer;
  #spoken = [];
  #sent = 0;
  #began = 0;
  pictures = 0;
  onsound = () => {};

  /** `lost` is called when the socket ends by itself. */
  constructor(server, lost) {
    this.#server = server;
    this.#lost = lost;
  }

  /** Show a new session of `avatar` on `canvas`; its id. */
  async start(avatar, canvas) {
    this.#player = new Player();
    const socket = (this.#socket = this.#server.socket("ws"));
    const session = await new Promise((resolve, reject) => {
      socket.onopen = () => socket.send(JSON.stringify({ type: "session", avatar }));
      socket.onclose = () => reject(new Error("the WebSocket was closed"));
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "session_ack") resolve(message.sessionid);
        if (message.type === "error") reject(new Error(message.message));
      };
    });
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data), canvas);
    socket.onclose = () => this.#lost();
    this.#began = performance.now();
    this.#timer = setInterval(() => this.#send(), 10);
    return session;
  }

  /** A block of the microphone: 640 samples at 16 kHz. */
  speak(samples) {
    this.#spoken.push(samples);
    if (this.#spoken.length > WAITING) this.#spoken.shift();
  }

  stop() {
    clearInterval(this.#timer);
    if (this.#socket) {
      this.#socket.onclose = null;
      if (this.#socket.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type: "end" }));
      this.#socket.close();
    }
    this.#player?.close();
  }

  #send() {
    const due = Math.floor((performance.now() - this.#began) / 40);
    while (this.#sent < due && this.#sent - this.pictures < UNANSWERED) {
      // Without samples it only asks for the next picture: silence would come between what is said otherwise.
      const samples = this.#spoken.shift() ?? [];
      this.#socket.send(JSON.stringify({ type: "audio", data: textOf(pcmOf(samples)) }));
      this.#sent += 1;
    }
    const late = due - this.#sent - UNANSWERED;
    if (late > 0) this.#began += late * 40; // time the server had no room for is given up
  }

  async #take(message, canvas) {
    if (message.type !== "video") return;
    this.pictures += 1;
    const samples = message.audio ? floatsOf(bytesOf(message.audio)) : SILENCE;
    const delay = this.#player.play(samples);
    const picture = await createImageBitmap(new Blob([bytesOf(message.data)], { type: "image/jpeg" }));
    setTimeout(() => {
      this.onsound(samples);
      draw(picture, canvas);
    }, delay ?? 0);
  }
}

function draw(picture, canvas) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    [canvas.width, canvas.height] = [picture.width, picture.height];
  }
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
}
