// Sound and picture by WebRTC: the page receives only, and offers once all its addresses are gathered.

const GATHERING = 3000; // ms; a STUN server that does not answer must not stop those who need none
const CONNECTING = 10000; // ms

export class WebRTCStream {
  #connection;
  #lost;

  /** `lost` is called when an established connection ends by itself. */
  constructor(server, lost) {
    this.server = server;
    this.#lost = lost;
  }

  static get possible() {
    return "RTCPeerConnection" in window;
  }

  /** Play a new session of `avatar` in `video`; its id. */
  async start(avatar, video, iceServers) {
    const connection = (this.#connection = new RTCPeerConnection({ iceServers }));
    const stream = new MediaStream();
    connection.addEventListener("track", ({ track }) => stream.addTrack(track));
    connection.addTransceiver("video", { direction: "recvonly" });
    connection.addTransceiver("audio", { direction: "recvonly" });
    await connection.setLocalDescription();
    await gathered(connection);
    const { sdp, type } = connection.localDescription;
    const answer = await this.server.post("offer", { sdp, type, avatar });
    await connection.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    video.srcObject = stream;
    await connected(connection);
    connection.addEventListener("connectionstatechange", () => {
      if (["failed", "closed"].includes(connection.connectionState)) this.#lost();
    });
    await video.play();
    return { session: answer.sessionid, stream };
  }

  stop() {
    this.#connection?.close();
    this.#connection = undefined;
  }

  /** The browser's statistics of the connection. */
  async report() {
    return this.#connection ? this.#connection.getStats() : new Map();
  }
}

function gathered(connection) {
  return new Promise((resolve) => {
    if (connection.iceGatheringState === "complete") return resolve();
    setTimeout(resolve, GATHERING);
    connection.addEventListener("icegatheringstatechange", () => {
      if (connection.iceGatheringState === "complete") resolve();
    });
  });
}

function connected(connection) {
  return new Promise((resolve, reject) => {
    const fail = () => reject(new Error("no way through by WebRTC"));
    setTimeout(fail, CONNECTING);
    connection.addEventListener("connectionstatechange", () => {
      if (connection.connectionState === "connected") resolve();
      if (connection.connectionState === "failed") fail();
    });
  });
}
