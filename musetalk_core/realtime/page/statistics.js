// What the browser knows of a WebRTC connection: frames per second, its buffer, the network.

export class Statistics {
  #last;

  /** The numbers of the time since the last call, undefined where there is none yet; times in ms. */
  of(report) {
    const entries = [...report.values()];
    const video = entries.find((entry) => entry.type === "inbound-rtp" && entry.kind === "video");
    const pair = entries.find((entry) => entry.type === "candidate-pair" && entry.nominated);
    if (!video) return {};
    const last = this.#last ?? video;
    this.#last = video;
    const seconds = (video.timestamp - last.timestamp) / 1000;
    const emitted = video.jitterBufferEmittedCount - last.jitterBufferEmittedCount;
    return {
      frames: seconds ? (video.framesDecoded - last.framesDecoded) / seconds : undefined,
      buffer: emitted ? ((video.jitterBufferDelay - last.jitterBufferDelay) / emitted) * 1000 : undefined,
      roundTrip: pair?.currentRoundTripTime === undefined ? undefined : pair.currentRoundTripTime * 1000,
    };
  }
}
