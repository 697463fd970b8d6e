// Plays blocks of sound one after the other, a little later, so that one that comes late is not heard.
import { RATE } from "./pcm.js";

const HELD = 0.12; // seconds that the first block waits, and the first after a gap
const MOST = 0.5; // seconds that may wait; more would only be delay

export class Player {
  #context = new AudioContext({ sampleRate: RATE });
  #next = 0;

  /** Put samples at the end; in how many ms they are heard, undefined when they are left out. */
  play(samples) {
    const now = this.#context.currentTime;
    if (this.#next < now) this.#next = now + HELD;
    if (this.#next - now > MOST) return undefined;
    const buffer = this.#context.createBuffer(1, samples.length, RATE);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(this.#context, { buffer });
    source.connect(this.#context.destination);
    source.start(this.#next);
    const delay = this.#next - now;
    this.#next += samples.length / RATE;
    return delay * 1000;
  }

  close() {
    this.#context.close();
  }
}
