// Sound and picture by WebSocket where WebRTC is not to be had: a block of 40 ms there, a picture and its sound back.
import { bytesOf, floatsOf, pcmOf, RATE, textOf } from "./pcm.js";

const BLOCK = 640; // samples
const SILENCE = new Float32Array(BLOCK);
const WAITING = 25; // blocks of the microphone that may wait: one second
const UNANSWERED = 12; // blocks on the way; a slower server sets the pace

export class SocketStream {
  #socket;
  #context;
  #player;
  #timer;
  #spoken = [];
  #sent = 0;
  #began = 0;
  #lost;
  pictures = 0;
  onsound = () => {};

  constructor(server, lost) {
    this.server = server;
    this.#lost = lost;
  }

  /** Show a new session of `avatar` on `canvas`; its id. */
  async start(avatar, canvas) {
    this.#context = new AudioContext({ sampleRate: RATE });
    await this.#context.audioWorklet.addModule(new URL("player_worklet.js", import.meta.url));
    this.#player = new AudioWorkletNode(this.#context, "player", { outputChannelCount: [1] });
    this.#player.connect(this.#context.destination);
    const socket = (this.#socket = this.server.socket("ws"));
    const session = await new Promise((resolve, reject) => {
      socket.onopen = () => socket.send(JSON.stringify({ type: "session", sessionid: "", avatar }));
      socket.onclose = socket.onerror = () => reject(new Error("the WebSocket was closed"));
      socket.onmessage = ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === "session_ack") resolve(message.sessionid);
        if (message.type === "error") reject(new Error(message.message));
      };
    });
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data), canvas);
    socket.onerror = null;
    socket.onclose = () => this.#lost();
    this.#began = performance.now();
    this.#timer = setInterval(() => this.#send(), 10);
    return { session };
  }

  /** Samples of the microphone, 16 kHz, blocks of 640. */
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
    this.#context?.close();
  }

  #send() {
    const due = Math.floor((performance.now() - this.#began) / 40);
    while (this.#sent < due && this.#sent - this.pictures < UNANSWERED) {
      const samples = this.#spoken.shift() ?? SILENCE;
      this.#socket.send(JSON.stringify({ type: "audio", data: textOf(pcmOf(samples)) }));
      this.#sent += 1;
    }
    this.#sent = Math.max(this.#sent, due - UNANSWERED); // what could not be sent in time is left out
  }

  async #take(message, canvas) {
    if (message.type !== "video") return;
    this.pictures += 1;
    if (message.audio) {
      const samples = floatsOf(bytesOf(message.audio));
      this.onsound(samples);
      this.#player.port.postMessage(samples, [samples.buffer]);
    }
    const picture = await createImageBitmap(new Blob([bytesOf(message.data)], { type: "image/jpeg" }));
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      [canvas.width, canvas.height] = [picture.width, picture.height];
    }
    canvas.getContext("2d").drawImage(picture, 0, 0);
    picture.close();
  }
}
