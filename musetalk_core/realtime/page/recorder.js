// Recording on the server, and its file.

export class Recorder {
  #server;
  #session;
  on = false;

  constructor(server, session) {
    this.#server = server;
    this.#session = session;
  }

  async start() {
    await this.#server.post("record", { sessionid: this.#session, type: "start_record" });
    this.on = true;
  }

  async stop() {
    this.on = false;
    await this.#server.post("record", { sessionid: this.#session, type: "end_record" });
  }

  /** Hand the file to the browser's downloads. */
  async download() {
    const file = await this.#server.file(`record/${this.#session}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = `musetalk_${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.mp4`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
}
