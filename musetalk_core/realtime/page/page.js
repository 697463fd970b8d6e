// The page: its buttons and what they do.
import { Live } from "./live.js";
import { Microphone } from "./microphone.js";
import { loudness } from "./pcm.js";
import { Server } from "./server.js";
import { texts, translate } from "./texts.js";

const part = (id) => document.getElementById(id);
const only = new URLSearchParams(location.search).get("transport"); // "webrtc" or "socket": to try one of them
const server = new Server();
const microphone = new Microphone();
let config = {};
let live;
let timer;

function show(error) {
  console.info(error);
  part("error").firstElementChild.textContent = error.message;
  part("error").hidden = false;
}

/** A listener that shows what goes wrong and keeps its button from being pressed twice. */
function guarded(act) {
  return async (event) => {
    event.preventDefault();
    const button = event.submitter ?? event.currentTarget;
    if (button.ariaBusy === "true") return;
    button.ariaBusy = "true";
    try {
      part("error").hidden = true;
      await act(event);
    } catch (error) {
      show(error);
    } finally {
      button.ariaBusy = "false";
    }
  };
}

async function askToken(wrong) {
  part("tokenWrong").hidden = !wrong;
  part("token").value = "";
  part("tokenDialog").showModal();
  await new Promise((resolve) => part("tokenDialog").addEventListener("close", resolve, { once: true }));
  server.token = part("token").value.trim();
}

/** Settings and avatars of the server; asks for the token until it is right. */
async function load() {
  for (let asked = false; ; asked = true) {
    try {
      ({ config } = await server.get("api/admin/config"));
      return await server.get("api/avatars");
    } catch (error) {
      if (error.status !== 401) throw error;
      await askToken(asked);
    }
  }
}

async function open() {
  try {
    const { avatars, default: first, actions } = await load();
    part("avatar").replaceChildren(...avatars.map((name) => new Option(name, name, false, name === first)));
    part("avatar").onchange = () => showActions(actions?.[part("avatar").value] ?? []);
    part("avatar").onchange();
    part("start").disabled = avatars.length === 0;
    if (!avatars.length) show(new Error(texts.noAvatars));
  } catch (error) {
    show(error);
    part("start").disabled = true;
  }
}

function showActions(actions) {
  const buttons = actions.map((audiotype) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${texts.action} ${audiotype}`;
    button.addEventListener("click", guarded(() => live.act(audiotype)));
    return button;
  });
  part("actions").replaceChildren(...buttons);
  part("actions").hidden = !buttons.length;
}

/** state: "ready", "connecting" or "connected". */
function setState(state) {
  const on = state === "connected";
  part("state").textContent = texts[state];
  part("start").hidden = state !== "ready";
  part("stop").hidden = state === "ready";
  part("avatar").disabled = state !== "ready";
  part("speech").disabled = part("keep").disabled = !on;
  part("hint").hidden = on;
  document.body.dataset.state = state;
}

async function start() {
  setState("connecting");
  const session = new Live(server, { lost: () => end(session, texts.lost), event: onEvent });
  live = session;
  try {
    await session.start(part("avatar").value, part("video"), part("canvas"), config.ice_servers ?? [], only);
  } catch (error) {
    end(session);
    throw error;
  }
  if (live !== session) return session.stop(); // stopped meanwhile
  part("video").hidden = session.transport !== "webrtc";
  part("canvas").hidden = session.transport !== "socket";
  part("transport").textContent = texts[session.transport];
  part("download").hidden = true;
  setState("connected");
  timer = setInterval(() => showNumbers().catch(show), 1000);
}

function end(session, reason) {
  if (live !== session) return;
  clearInterval(timer);
  stopMicrophone();
  session.stop();
  live = undefined;
  part("video").srcObject = null;
  part("canvas").hidden = true;
  for (const id of ["speaking", "recording"]) part(id).hidden = true;
  part("caption").textContent = "";
  showRecording(false);
  setState("ready");
  if (reason) show(new Error(reason));
}

function onEvent({ status, text }) {
  part("speaking").hidden = status !== "start";
  if (status === "start") part("caption").textContent = text;
}

async function showNumbers() {
  const session = live;
  const [numbers, speaking] = await Promise.all([session.numbers(), session.speaking()]);
  if (live !== session) return;
  part("speaking").hidden = !speaking; // the microphone makes no events, and an interruption drops them
  const write = (id, value, digits, unit) => {
    part(id).textContent = value === undefined ? "–" : `${value.toFixed(digits)}${unit}`;
  };
  write("frames", numbers.frames, 1, "");
  for (const id of ["buffer", "roundTrip"]) write(id, numbers[id], 0, ` ${texts.ms}`);
  write("answer", session.answer.milliseconds, 0, ` ${texts.ms}`);
}

async function toggleMicrophone() {
  if (microphone.on) return stopMicrophone();
  await microphone.start((samples) => {
    part("level").value = Math.min(1, loudness(samples) * 4);
    live?.speak(samples);
  });
  part("microphone").ariaPressed = "true";
  part("microphone").textContent = texts.microphoneOff;
}

function stopMicrophone() {
  microphone.stop();
  live?.silence();
  part("microphone").ariaPressed = "false";
  part("microphone").textContent = texts.microphone;
  part("level").value = 0;
}

async function say() {
  const text = part("text").value.trim();
  if (!text) return;
  await live.say(text);
  part("text").value = "";
}

async function interrupt() {
  await live.interrupt();
  part("speaking").hidden = true;
}

async function upload() {
  const [file] = part("file").files;
  if (!file) return;
  part("file").value = "";
  await live.upload(file);
}

async function toggleRecording() {
  if (live.recorder.on) {
    await live.recorder.stop();
    part("download").hidden = false;
  } else {
    await live.recorder.start();
    part("download").hidden = true;
  }
  showRecording(live.recorder.on);
}

function showRecording(on) {
  part("recording").hidden = !on;
  part("record").ariaPressed = String(on);
  part("record").textContent = on ? texts.recordStop : texts.record;
}

translate(document);
setState("ready");
part("error").lastElementChild.addEventListener("click", () => (part("error").hidden = true));
part("session").addEventListener("submit", guarded(start));
part("stop").addEventListener("click", () => end(live));
part("microphone").addEventListener("click", guarded(toggleMicrophone));
part("type").addEventListener("submit", guarded(say));
part("interrupt").addEventListener("click", guarded(interrupt));
part("file").addEventListener("change", guarded(upload));
part("record").addEventListener("click", guarded(toggleRecording));
part("download").addEventListener("click", guarded(() => live.recorder.download()));
part("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  part("say").click();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.dataset.state === "connected") part("interrupt").click();
});
addEventListener("pagehide", () => live?.stop());
open();
