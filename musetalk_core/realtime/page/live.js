// A session as the page has it: one stream of sound and picture, the ways to make it speak, and what it tells.
import { Answer, listenTo } from "./answer.js";
import { loudness, pcmOf } from "./pcm.js";
import { Recorder } from "./recorder.js";
import { SocketStream } from "./socket.js";
import { Statistics } from "./statistics.js";
import { WebRTCStream } from "./webrtc.js";

export class Live {
  #server;
  #stream;
  #echo; // the WebSocket that takes the microphone
  #events = new AbortController();
  #deafen = () => {};
  #statistics = new Statistics();
  #pictures = 0;
  #asked = 0;
  answer = new Answer();
  transport;
  recorder;

  /** on: {lost(), event({status, text})}. */
  constructor(server, on) {
    this.#server = server;
    this.on = on;
  }

  /** Open a session of an avatar; by WebSocket where WebRTC cannot be had, or `only` says so. */
  async start(avatar, video, canvas, iceServers, only) {
    if (only !== "socket" && WebRTCStream.possible) {
      try {
        await this.#startWebRTC(avatar, video, iceServers);
      } catch (error) {
        this.#stream.stop();
        if (only === "webrtc" || refused(error)) throw error;
        console.info(`WebSocket instead of WebRTC: ${error.message}`);
        this.transport = undefined;
      }
    }
    if (!this.transport) await this.#startSocket(avatar, canvas);
    this.recorder = new Recorder(this.#server, this.session);
    this.#hearEvents();
  }

  stop() {
    this.#events.abort();
    this.#deafen();
    this.#echo?.close();
    this.#stream?.stop();
  }

  say(text) {
    this.answer.asked();
    return this.#post("human", { text, type: "echo" });
  }

  upload(file) {
    const form = new FormData();
    form.set("sessionid", this.session);
    form.set("file", file);
    this.answer.asked();
    return this.#server.post("humanaudio", form);
  }

  interrupt() {
    return this.#post("interrupt_talk", {});
  }

  /** Whether it speaks or is about to, whoever made it. */
  speaking() {
    return this.#post("is_speaking", {});
  }

  act(audiotype) {
    return this.#post("set_audiotype", { audiotype });
  }

  /** A block of the microphone: 640 samples at 16 kHz. */
  speak(samples) {
    this.answer.spoken(loudness(samples));
    if (this.transport === "socket") return this.#stream.speak(samples);
    this.#echo ??= this.#server.socket(`humanecho?sessionid=${this.session}`);
    if (this.#echo.readyState === WebSocket.OPEN) this.#echo.send(pcmOf(samples));
    if (this.#echo.readyState === WebSocket.CLOSED) this.on.lost();
  }

  /** The microphone is off: the utterance ends here. */
  silence() {
    this.#echo?.close();
    this.#echo = undefined;
  }

  /** {frames, buffer, roundTrip} of the last second, as far as they can be known. */
  async numbers() {
    if (this.transport === "webrtc") return this.#statistics.of(await this.#stream.report());
    const [pictures, now] = [this.#stream.pictures, performance.now()];
    const frames = this.#asked ? ((pictures - this.#pictures) * 1000) / (now - this.#asked) : undefined;
    [this.#pictures, this.#asked] = [pictures, now];
    return { frames };
  }

  async #startWebRTC(avatar, video, iceServers) {
    this.#stream = new WebRTCStream(this.#server, () => this.on.lost());
    const { session, stream } = await this.#stream.start(avatar, video, iceServers);
    this.#deafen = listenTo(stream, (level) => this.answer.heard(level));
    [this.session, this.transport] = [session, "webrtc"];
  }

  async #startSocket(avatar, canvas) {
    this.#stream = new SocketStream(this.#server, () => this.on.lost());
    this.#stream.onsound = (samples) => this.answer.heard(loudness(samples));
    this.session = await this.#stream.start(avatar, canvas);
    this.transport = "socket";
  }

  async #hearEvents() {
    try {
      await this.#server.listen(`sse?sessionid=${this.session}`, this.#events.signal, this.on.event);
      this.on.lost(); // the server ends the events with the session
    } catch (error) {
      if (error.name !== "AbortError") console.info(`The events ended: ${error.message}`);
    }
  }

  #post(path, body) {
    return this.#server.post(path, { sessionid: this.session, ...body });
  }
}

/** Whether the server said no to the session itself, which another way would not change. */
function refused(error) {
  return error.status === 401 || error.status === 400 || /session limit|avatar/i.test(error.message);
}
