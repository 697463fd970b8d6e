// The microphone as blocks of 640 samples at 16 kHz.
import { texts } from "./texts.js";

export class Microphone {
  #context;
  #stream;

  get on() {
    return this.#stream !== undefined;
  }

  /** Give every block to `take`; asks the user the first time. */
  async start(take) {
    if (!navigator.mediaDevices) throw new Error(texts.insecure);
    // The avatar's own voice from the loudspeaker must not come back: echo cancellation stays on.
    const wanted = { audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true } };
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia(wanted);
    } catch (error) {
      throw new Error(texts.noMicrophone, { cause: error });
    }
    this.#context = new AudioContext();
    await this.#context.audioWorklet.addModule(new URL("microphone_worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.#context, "microphone", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => take(data);
    this.#context.createMediaStreamSource(this.#stream).connect(node);
    node.connect(this.#context.destination); // gives silence; a node that leads nowhere is not run everywhere
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = undefined;
    this.#context?.close();
    this.#context = undefined;
  }
}
