"""The live page in Chromium with a microphone of its own: opening it, talking to it, measuring what it shows."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from page_client import FLAGS, SECONDS
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from system_packages import find_browser

# The page keeps its connections to itself.
KEEP_CONNECTIONS = """
window.connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(...given) { super(...given); window.connections.push(this); }
};
"""
# What the receiver of each kind says now, as objects.
RECEIVED = """async () => {
  const report = await connections.at(-1).getStats();
  const found = {};
  for (const entry of report.values()) if (entry.type === 'inbound-rtp') found[entry.kind] = entry;
  return found;
}"""
# `count` different pictures as PNG, `apart` seconds apart.
PICTURES = """async ([count, apart]) => {
  const shown = document.querySelector('#picture > :is(video, canvas):not([hidden])');
  const canvas = document.createElement('canvas');
  canvas.width = shown.videoWidth ?? shown.width;
  canvas.height = shown.videoHeight ?? shown.height;
  const pictures = [];
  for (let i = 0; i < count; i++) {
    canvas.getContext('2d').drawImage(shown, 0, 0);
    pictures.push(canvas.toDataURL('image/png').split(',')[1]);
    await new Promise(resolve => setTimeout(resolve, apart * 1000));
  }
  return pictures;
}"""
# How many ms after a tone begins the picture turns from black to white.
FLASH = """() => new Promise(resolve => {
  const video = document.getElementById('video');
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, {fftSize: 256});
  context.createMediaStreamSource(video.srcObject).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const canvas = Object.assign(document.createElement('canvas'), {width: 8, height: 8});
  const pen = canvas.getContext('2d', {willReadFrequently: true});
  let dark = false, seen, heard;
  const end = () => {
    if (seen === undefined || heard === undefined) return;
    clearInterval(timer);
    context.close();
    resolve(seen - heard);
  };
  const timer = setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    if (heard === undefined && Math.max(...samples) > 0.1) end(heard = performance.now());
  }, 4);
  const look = (_, frame) => {
    pen.drawImage(video, 0, 0, 8, 8);
    const light = pen.getImageData(4, 4, 1, 1).data[1];
    dark ||= light < 40;
    if (dark && light > 200) return end(seen = frame.presentationTime);
    video.requestVideoFrameCallback(look);
  };
  video.requestVideoFrameCallback(look);
})"""


@contextmanager
def chromium_with_microphone(speech: Path) -> Iterator[Browser]:
    """A headless Chromium whose microphone plays a sound file again and again, and may be used unasked."""
    flags = [
        *FLAGS,
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={speech}",
    ]
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=flags)
        yield browser
        browser.close()


class LivePage:
    """A live page of its own context; `errors`: what its console says against it."""

    def __init__(self, browser: Browser, url: str, token: str = "", **context: Any) -> None:
        self._context = browser.new_context(**context)
        self._context.add_init_script(KEEP_CONNECTIONS)
        if token:
            self._context.add_init_script(f"sessionStorage.setItem('musetalk-token', '{token}')")
        self.page: Page = self._context.new_page()
        self.errors: list[str] = []
        self._follow()
        self.page.goto(url)

    @classmethod
    def opened(cls, page: Page) -> "LivePage":
        """One that another page has opened."""
        live = cls.__new__(cls)
        live._context, live.page, live.errors = page.context, page, []
        page.locator("#avatar").wait_for()  # before, the opener's own scripts run in an empty document
        live._follow()
        return live

    def _follow(self) -> None:
        self.page.set_default_timeout(SECONDS * 1000)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)

    def close(self) -> None:
        self._context.close()

    def start(self) -> None:
        """Press Start and wait until sound and picture come."""
        self.page.locator("#start:enabled").click()
        self.page.locator("body[data-state=connected]").wait_for()
        self.page.wait_for_function("() => parseFloat(document.getElementById('frames').textContent) > 0")

    def text(self, part: str) -> str:
        return self.page.locator(f"#{part}").inner_text()

    def say(self, text: str) -> None:
        self.page.locator("#text").fill(text)
        self.page.locator("#text").press("Enter")

    def wait_for_speech(self) -> None:
        """Until the page says that the avatar speaks."""
        self.page.locator("#speaking").wait_for(state="visible")

    def wait_for_silence(self) -> None:
        self.page.locator("#speaking").wait_for(state="hidden")

    def wait_for_answer(self) -> None:
        """Until the avatar was heard and the page knows after how long."""
        self.page.wait_for_function("() => /\\d/.test(document.getElementById('answer').textContent)")

    def flash(self) -> float:
        """Let the first movement be shown, which turns from black to white with a tone; ms of picture after sound."""
        self.page.locator("#actions button").first.click()
        return self.page.evaluate(FLASH)

    def received(self) -> dict[str, dict[str, Any]]:
        """WebRTC's statistics of what arrives: {"audio", "video"}."""
        return self.page.evaluate(RECEIVED)

    def pictures(self, count: int, apart: float = 0.08) -> np.ndarray:
        """(count,H,W,3) float32 as the page shows them."""
        shown = self.page.evaluate(PICTURES, [count, apart])
        files = (io.BytesIO(base64.b64decode(text)) for text in shown)
        return np.stack([np.asarray(Image.open(file).convert("RGB"), np.float32) for file in files])
