// The microphone at whatever rate the sound card has -> blocks of 640 samples at 16 kHz, by a windowed sinc.

const RATE = 16000;
const BLOCK = 640;
const HALF = 16; // zero crossings of the sinc at either side

class Microphone extends AudioWorkletProcessor {
  #step = sampleRate / RATE;
  #reach = Math.ceil(HALF * Math.max(1, this.#step));
  #past = new Float32Array(this.#reach * 2);
  #next = this.#reach; // where in #past the next sample is taken
  #block = new Float32Array(BLOCK);
  #filled = 0;

  process([[input]]) {
    if (!input) return true;
    const sound = new Float32Array(this.#past.length + input.length);
    sound.set(this.#past);
    sound.set(input, this.#past.length);
    for (; this.#next + this.#reach < sound.length; this.#next += this.#step) this.#give(this.#taken(sound));
    const done = Math.max(0, Math.floor(this.#next) - this.#reach);
    this.#past = sound.slice(done);
    this.#next -= done;
    return true;
  }

  /** The sample at #next: below half the lower of the two rates only, and 1 for a constant 1. */
  #taken(sound) {
    const cut = Math.min(1, 1 / this.#step);
    let sum = 0;
    let weights = 0;
    for (let i = Math.ceil(this.#next - this.#reach); i <= this.#next + this.#reach; i++) {
      const distance = (i - this.#next) * cut;
      const window = 0.5 + 0.5 * Math.cos((Math.PI * distance) / (HALF + 1));
      const weight = distance ? (Math.sin(Math.PI * distance) / (Math.PI * distance)) * window : 1;
      sum += sound[i] * weight;
      weights += weight;
    }
    return sum / weights;
  }

  #give(sample) {
    this.#block[this.#filled++] = sample;
    if (this.#filled < BLOCK) return;
    this.port.postMessage(this.#block, [this.#block.buffer]);
    this.#block = new Float32Array(BLOCK);
    this.#filled = 0;
  }
}

registerProcessor("microphone", Microphone);
