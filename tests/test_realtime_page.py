"""The live page in Chromium against the real servers: sound and picture, microphone, recording, both transports."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from statistics import median

import clips
import numpy as np
import pytest
import soundfile
import torch
from comfy_client import HOST_ROOT, REPOSITORY, ComfyServer, start_server, stop_server
from live_page import LivePage, chromium_with_microphone
from page_client import ComfyPage
from playwright.sync_api import Browser

from musetalk_core.avatars.actions import Action, save_actions
from musetalk_core.avatars.avatar import Avatar
from musetalk_core.avatars.files import load_avatar
from musetalk_core.avatars.prepare import prepare_avatar
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.media.source import TensorFrames
from musetalk_core.settings import LipSyncSettings
from musetalk_core.weights.folders import ModelFolders

sys.path.insert(0, str(REPOSITORY / "scripts"))

from demo_inputs import make_speech

pytestmark = pytest.mark.alone
TOKEN = "a-token-of-the-tests"
SIZE = 256
SUSTAINED = 60  # seconds
STEP = 10
FLASH_FRAMES = 50
OPEN_MOUTH = 60  # levels by which some pixel changes: over 100 in the server's pictures, a codec's own changes below 40
LONG_TEXT = "This is a long sentence that nobody wants to hear to its very end, so it will be interrupted. " * 4


@pytest.fixture(scope="module")
def speech() -> Path:
    """A LibriVox recording (public domain)."""
    path = HOST_ROOT / "demo-inputs" / "demo_speech.wav"
    path.parent.mkdir(parents=True, exist_ok=True)
    make_speech(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def avatar(folder: Path) -> Avatar:
    """A face that stands still, so that whatever moves was made, and a movement: black, then white with a tone."""
    cpu = torch.device("cpu")
    engine = load_engine(WeightChoice("demo"), ModelFolders({"musetalk": [folder]}), cpu, torch.float32)
    settings = LipSyncSettings.for_version("demo")
    frames = TensorFrames(torch.from_numpy(np.repeat(clips.portrait(SIZE)[None], 4, 0)), Fraction(25))
    place = folder / "avatars" / "portrait"
    place.parent.mkdir()
    prepare_avatar("portrait", frames, engine.models(settings), settings, "demo", place)
    flash = np.repeat(np.uint8([0, 255]), FLASH_FRAMES // 2)[:, None, None, None]
    clips.write_video(place / "flash.mp4", np.broadcast_to(flash, (FLASH_FRAMES, SIZE, SIZE, 3)).copy())
    soundfile.write(place / "flash.wav", np.r_[np.zeros(16000), 2 * clips.tone(1)], 16000)
    save_actions(place, [Action(2, "flash.mp4", "flash.wav")])
    return load_avatar(place, in_memory=True)


@pytest.fixture(scope="module")
def server(folder: Path, avatar: Avatar) -> Iterator[str]:
    """The address of a real standalone server that asks for a token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "live.json"
    config.write_text(
        json.dumps(
            {
                "port": port,
                "token": TOKEN,
                "avatar": "portrait",
                "max_sessions": 2,
                "avatars": str(folder / "avatars"),
                "input": str(folder),
                "output": str(folder / "output"),
            }
        )
    )
    command = [sys.executable, "-m", "musetalk_core", "serve", "--config", str(config), "--version", "demo"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield wait_for(f"http://127.0.0.1:{port}/", process, folder / "server.log")
    finally:
        process.terminate()
        assert process.wait(30) == 0, (folder / "server.log").read_text()[-2000:]


def wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address, once the server answers there."""
    for _ in range(1200):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return url
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise TimeoutError(log.read_text())


@pytest.fixture(scope="module")
def browser(speech: Path) -> Iterator[Browser]:
    with chromium_with_microphone(speech) as browser:
        yield browser


@pytest.fixture
def live(server: str, browser: Browser) -> Iterator[LivePage]:
    """A page that may talk to the server; afterwards its console must hold no error."""
    page = LivePage(browser, server, TOKEN, viewport={"width": 1280, "height": 860})
    yield page
    page.close()
    assert page.errors == []


def mouth(avatar: Avatar) -> np.ndarray:
    """(H,W) bool: where the avatar's picture may change, with the 16 pixels around that a video codec mixes in."""
    import cv2

    area = np.zeros((SIZE, SIZE), np.uint8)
    prepared = avatar.prepared(0)
    x1, y1, x2, y2 = (int(round(value)) for value in prepared.box)
    area[y1:y2, x1:x2] = cv2.resize(prepared.mask, (x2 - x1, y2 - y1)) > 0
    return cv2.dilate(area, np.ones((33, 33), np.uint8)) > 0


def test_page_gets_25_frames_a_second_with_sound_and_picture_together(live):
    live.start()
    assert live.text("transport") == "WebRTC"
    begun, rates, skews = live.received()["video"], [], []
    for _ in range(SUSTAINED // STEP):
        skews.append(live.flash())
        live.say("Sound and picture stay together, however long I speak.")
        live.page.wait_for_timeout(STEP * 1000 - 1500)
        now = live.received()["video"]
        seconds = (now["timestamp"] - begun["timestamp"]) / 1000
        rates.append((now["framesDecoded"] - begun["framesDecoded"]) / seconds)
        begun = now
    assert min(rates) >= 24 and max(rates) <= 26, rates
    assert median(map(abs, skews)) <= 60, skews  # the browser's buffers settle in the first seconds
    assert live.text("buffer").endswith(" ms") and live.text("roundTrip").endswith(" ms")


def test_speech_into_the_microphone_moves_the_lips_and_nothing_else(live, avatar):
    live.start()
    live.page.wait_for_timeout(3000)  # the codec's first pictures are soft
    still = live.pictures(10)
    live.page.locator("#microphone").click()
    live.wait_for_answer()
    here, calm = mouth(avatar), np.median(still, 0)
    for _ in range(10):  # a machine that is too slow now shows the source's mouth
        spoken = live.pictures(20)
        moved = np.abs(spoken - calm).mean(3)
        if moved[:, here].max() > OPEN_MOUTH:
            break
    live.page.locator("#microphone").click()
    assert moved[:, here].max() > OPEN_MOUTH > np.abs(still - calm).mean(3).max()
    assert moved[:, ~here].mean() < 2
    source = clips.portrait(SIZE).astype(np.float32)
    assert psnr(still, source) > 30 and psnr(spoken[:, ~here], source[~here]) > 30


def psnr(pictures: np.ndarray, source: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((pictures - source) ** 2)))


def test_text_is_said_shown_and_interrupted(live):
    live.start()
    live.say(LONG_TEXT)
    live.page.locator("#caption", has_text=LONG_TEXT.strip()).wait_for()
    live.page.keyboard.press("Escape")
    live.wait_for_silence()
    still = live.pictures(6, 0.2)
    assert np.abs(still - still[0]).mean() < 2


def test_movement_is_shown_once_and_the_avatar_is_back(live):
    live.start()
    still = live.pictures(1)[0]
    live.page.locator("#actions button").click()
    assert np.abs(live.pictures(20, 0.06) - still).mean((1, 2, 3)).max() > 20
    live.page.wait_for_timeout(2000)
    assert np.abs(live.pictures(1)[0] - still).mean() < 3


def test_recording_is_downloaded_with_sound_as_long_as_its_picture(live, speech, tmp_path):
    live.start()
    live.page.locator("#record").click()
    live.page.locator("#recording").wait_for(state="visible")
    live.page.locator("#file").set_input_files(speech)
    live.wait_for_answer()
    live.page.locator("#record").click()
    with live.page.expect_download() as download:
        live.page.locator("#download").click()
    file = tmp_path / "recording.mp4"
    download.value.save_as(file)
    facts = clips.probe(file)
    assert facts["fps"] == 25 and facts["size"] == (SIZE, SIZE) and facts["frames"] >= 10
    assert facts["audio_seconds"] == pytest.approx(facts["video_seconds"], abs=0.04)


def test_page_takes_the_websocket_where_webrtc_is_not_to_be_had(server, browser):
    page = LivePage(browser, f"{server}?transport=socket", TOKEN)
    page.start()
    assert page.text("transport") == "WebSocket"
    page.say("Do you hear me by the other way?")
    page.wait_for_speech()
    page.wait_for_answer()
    assert np.abs(page.pictures(1)[0] - clips.portrait(SIZE)).mean() < 8
    page.close()
    assert page.errors == []


def test_page_asks_for_the_token_until_it_is_right(server, browser):
    page = LivePage(browser, server)
    for given in ("wrong", TOKEN):
        page.page.locator("#tokenDialog[open]").wait_for()
        page.page.locator("#token").fill(given)
        page.page.locator("#token").press("Enter")
    page.page.locator("#start:enabled").wait_for()
    assert page.page.locator("#avatar").input_value() == "portrait"
    assert page.page.evaluate("Object.keys(localStorage).length + document.cookie.length") == 0
    page.close()


def test_sentence_of_the_server_is_shown_when_all_places_are_taken(server, browser):
    pages = [LivePage(browser, server, TOKEN) for _ in range(3)]
    for page in pages[:2]:
        page.start()
    pages[2].page.locator("#start:enabled").click()
    pages[2].page.locator("#error").wait_for(state="visible")
    assert "Maximum session limit reached (2/2)" in pages[2].text("error")
    for page in pages:
        page.close()


@pytest.mark.parametrize(("language", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_fits_and_speaks_the_browsers_language(server, browser, width, language, scheme):
    size = {"width": width, "height": 844}
    page = LivePage(browser, server, TOKEN, viewport=size, locale=language, color_scheme=scheme)
    page.page.locator("#start:enabled").wait_for()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.text("start") == {"en-US": "Start", "zh-CN": "开始"}[language]
    assert page.page.evaluate("[...document.querySelectorAll('[data-text]')].every(part => part.textContent)")
    page.page.locator("#avatar").focus()
    page.page.keyboard.press("Tab")
    assert page.page.evaluate("document.activeElement.id") == "start"
    page.close()
    assert page.errors == []


@pytest.fixture(scope="module")
def open_to_all(comfy_inputs: list[Path]) -> Iterator[ComfyServer]:
    """A ComfyUI that other machines can reach."""
    server = start_server(comfy_inputs, "--server-arg=--listen=0.0.0.0")
    yield server
    stop_server(server)


def run_session(server: ComfyServer) -> str:
    """What Realtime Session shows when the shipped workflow has run."""
    prompt = json.loads((REPOSITORY / "workflows" / "api" / "musetalk_realtime.json").read_text(encoding="utf-8"))
    prompt["1"]["inputs"]["file"] = "portrait.mp4"
    return server.run(prompt)["6"]["text"][0]


def status(url: str, body: bytes | None = None, token: str = "") -> int:
    """HTTP's status of GET, or with a body of POST."""
    request = urllib.request.Request(url, body, {"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_comfyui_tells_how_to_prepare_and_asks_for_a_token_beyond_this_machine(open_to_all, browser):
    live = f"{open_to_all.url}/musetalk/"
    assert status(live) == status(live + "page.js") == 200
    page = LivePage(browser, live)
    page.page.locator("#error").wait_for(state="visible")
    assert "Realtime Session" in page.text("error")
    page.close()
    shown = run_session(open_to_all)
    file = open_to_all.folder / "user" / "__musetalk" / "realtime.json"
    token = json.loads(file.read_text())["token"]
    assert str(file) in shown and len(token) >= 32 and file.stat().st_mode & 0o077 == 0
    assert token not in shown + open_to_all.log.read_text()
    for path, body in (("api/avatars", None), ("offer", b"{}"), ("human", b"{}"), ("set_audiotype", b"{}")):
        assert status(live + path, body) == status(live + path, body, "wrong") == 401, path
    assert status(live + "api/avatars", token=token) == 200
    assert status(live + "offer", b"{}", token) == 400


def test_page_opens_from_comfyuis_menu_and_lives_beside_prompts(comfy, browser):
    assert run_session(comfy) == f"{comfy.url}/musetalk/"
    editor = ComfyPage(browser, comfy, {}, (1600, 900))
    with editor.page.context.expect_page() as opened:
        editor.page.locator(".comfyui-logo").first.click()
        editor.page.get_by_text("Extensions", exact=True).last.hover()
        editor.page.get_by_text("MuseTalk live").last.click()
    live = LivePage.opened(opened.value)
    live.start()
    live.say("I speak inside ComfyUI.")
    live.wait_for_speech()
    live.wait_for_answer()
    prompt = json.loads((REPOSITORY / "workflows" / "api" / "demo.json").read_text(encoding="utf-8"))
    comfy.run(prompt)
    live.page.wait_for_timeout(1000)
    live.page.wait_for_function("() => parseFloat(document.getElementById('frames').textContent) > 20")
    assert live.text("state") == "Connected"
    editor.close()
    assert live.errors + editor.errors == []
