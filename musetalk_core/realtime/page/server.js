// The server's routes, relative to the page's own address: alone at /, in ComfyUI at /musetalk/.
import { texts } from "./texts.js";

const TOKEN = "musetalk-token";

/** A sentence for people; status is HTTP's, 0 when nobody answered. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export class Server {
  get token() {
    return sessionStorage.getItem(TOKEN);
  }

  set token(value) {
    sessionStorage.setItem(TOKEN, value);
  }

  /** What GET answers, out of its envelope. */
  async get(path) {
    return opened(await this.#fetch(path));
  }

  /** What POST answers, out of its envelope; the body is an object or a FormData. */
  async post(path, body) {
    const form = body instanceof FormData;
    return opened(
      await this.#fetch(path, {
        method: "POST",
        body: form ? body : JSON.stringify(body),
        headers: form ? {} : { "Content-Type": "application/json" },
      }),
    );
  }

  /** A file as a Blob. */
  async file(path) {
    return (await this.#fetch(path)).blob();
  }

  /** Give each event of a server-sent stream to `take` until `signal` aborts. EventSource could not send the token. */
  async listen(path, signal, take) {
    const answer = await this.#fetch(path, { signal, headers: { Accept: "text/event-stream" } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let text = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (text + value).split(/\r?\n\r?\n/);
      text = events.pop();
      for (const event of events) {
        const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) take(JSON.parse(lines.map((line) => line.slice(5)).join("\n")));
      }
    }
  }

  /** An opening WebSocket; the token goes with the subprotocols, the only header a page can set. */
  socket(path) {
    const address = new URL(path, document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = new WebSocket(address, this.token ? ["musetalk", `bearer.${this.token}`] : ["musetalk"]);
    socket.binaryType = "arraybuffer";
    return socket;
  }

  async #fetch(path, options = {}) {
    const headers = { ...options.headers };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    let answer;
    try {
      answer = await fetch(new URL(path, document.baseURI), { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(texts.unreachable, 0);
    }
    if (!answer.ok) throw new ServerError((await sentence(answer)) || answer.statusText, answer.status);
    return answer;
  }
}

async function sentence(answer) {
  const text = (await answer.text()).trim();
  return text.startsWith("{") ? JSON.parse(text).msg : text;
}

/** The envelope {"code", "msg", "data"} is opened; an answer without one is given as it is. */
async function opened(answer) {
  const content = await answer.json();
  if (content.code === undefined) return content;
  if (content.code !== 0) throw new ServerError(content.msg, answer.status);
  return content.data;
}
