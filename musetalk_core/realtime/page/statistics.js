// What the browser knows of a WebRTC connection: frames per second, its buffer, the network, sound against picture.

export class Statistics {
  #last;

  /** The numbers of the time since the last call, undefined where there is none yet; times in ms. */
  of(report) {
    const found = { video: undefined, audio: undefined, pair: undefined };
    for (const entry of report.values()) {
      if (entry.type === "inbound-rtp") found[entry.kind] = entry;
      if (entry.type === "candidate-pair" && entry.nominated) found.pair = entry;
    }
    const { video, audio, pair } = found;
    if (!video) return {};
    const last = this.#last ?? video;
    this.#last = video;
    const seconds = (video.timestamp - last.timestamp) / 1000;
    const emitted = video.jitterBufferEmittedCount - last.jitterBufferEmittedCount;
    return {
      frames: seconds ? (video.framesDecoded - last.framesDecoded) / seconds : undefined,
      buffer: emitted ? ((video.jitterBufferDelay - last.jitterBufferDelay) / emitted) * 1000 : undefined,
      roundTrip: pair?.currentRoundTripTime === undefined ? undefined : pair.currentRoundTripTime * 1000,
      // Both are the sender's time of what is played now: the difference is what a person sees and hears apart.
      skew: playing(audio) && playing(video) ? audio.estimatedPlayoutTimestamp - video.estimatedPlayoutTimestamp : undefined,
    };
  }
}

function playing(entry) {
  return entry?.estimatedPlayoutTimestamp;
}
