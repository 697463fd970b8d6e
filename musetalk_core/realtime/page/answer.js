// How long the avatar takes to answer: from the first sound or text that leaves the page to its first sound here.

const AUDIBLE = 0.01; // root of the mean square
const PAUSE = 1000; // ms of silence after which sound is a new utterance

export class Answer {
  #asked;
  #lastSpoken = -Infinity;
  #lastHeard = -Infinity;
  milliseconds; // of the newest answer

  /** Something to say leaves the page. */
  asked() {
    if (performance.now() - this.#lastHeard > PAUSE) this.#asked = performance.now();
  }

  /** A block of the microphone leaves the page. */
  spoken(loudness) {
    if (loudness < AUDIBLE) return;
    if (performance.now() - this.#lastSpoken > PAUSE) this.asked();
    this.#lastSpoken = performance.now();
  }

  /** The avatar is this loud now. */
  heard(loudness) {
    if (loudness < AUDIBLE) return;
    this.#lastHeard = performance.now();
    if (this.#asked === undefined) return;
    this.milliseconds = performance.now() - this.#asked;
    this.#asked = undefined;
  }
}

/** Tell `take` every 10 ms how loud a stream that is played is now; the function that ends it. */
export function listenTo(stream, take) {
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 512 });
  context.createMediaStreamSource(stream).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    take(Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length));
  }, 10);
  return () => {
    clearInterval(timer);
    context.close();
  };
}
