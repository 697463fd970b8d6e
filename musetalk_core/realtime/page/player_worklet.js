// Plays the blocks that come from the WebSocket one after the other, a little later, so that a late one is not heard.

const HELD = 16000 * 0.12; // samples that are waited for at the start and after a gap
const MOST = 16000 * 0.5; // samples that may wait; more would only be delay

class Player extends AudioWorkletProcessor {
  #blocks = [];
  #waiting = 0;
  #at = 0;
  #playing = false;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      this.#blocks.push(data);
      this.#waiting += data.length;
      while (this.#waiting > MOST && this.#blocks.length > 1) this.#drop();
      this.#playing ||= this.#waiting >= HELD;
    };
  }

  process(_, [[output]]) {
    for (let i = 0; this.#playing && i < output.length; i++) {
      output[i] = this.#blocks[0][this.#at++];
      this.#waiting -= 1;
      if (this.#at === this.#blocks[0].length) {
        this.#blocks.shift();
        this.#at = 0;
        this.#playing = this.#blocks.length > 0;
      }
    }
    return true;
  }

  #drop() {
    this.#waiting -= this.#blocks.shift().length - this.#at;
    this.#at = 0;
  }
}

registerProcessor("player", Player);
