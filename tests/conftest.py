"""Shared fixtures: one real ComfyUI server for the whole run, started when a test first asks for it."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import numpy as np
import pytest
from comfy_client import ComfyServer, start_server, stop_server
from page_client import ComfyPage, chromium
from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def comfy_inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What the server's input folder holds: a talking head, two of them, a faceless clip, a picture, sounds."""
    folder = tmp_path_factory.mktemp("inputs")
    frames = clips.moving_portrait(12)
    cutaway = frames.copy()
    cutaway[4:8] = clips.faceless(4, 256)
    two = np.concatenate([frames, frames[:, :, ::-1]], 2)
    return [
        clips.write_video(folder / "portrait.mp4", frames, Fraction(25)),
        clips.write_video(folder / "two.mp4", two, Fraction(25)),
        clips.write_video(folder / "with_sound.mp4", frames, Fraction(25), clips.tone(0.48)),
        clips.write_video(folder / "nobody.mp4", clips.faceless(12), Fraction(25)),
        clips.write_video(folder / "cutaway.mp4", cutaway, Fraction(25)),
        clips.write_audio(folder / "voice.wav", 1.0),
        clips.write_audio(folder / "short.wav", 0.08),
        clips.write_audio(folder / "minute.wav", 60.0),
        clips.write_audio(folder / "stereo 44k.wav", 1.0, 44100, 2),
        # Small ones under the names that the shipped workflows have.
        clips.write_video(folder / "demo_portrait.mp4", clips.moving_portrait(12, 320), Fraction(25)),
        clips.write_video(folder / "demo_two_speakers.mp4", two, Fraction(25)),
        clips.write_audio(folder / "demo_speech.wav", 1.0),
    ]


@pytest.fixture(scope="session")
def comfy(comfy_inputs: list[Path]) -> Iterator[ComfyServer]:
    """A real ComfyUI 0.3.75 with this pack and nothing else."""
    server = start_server(comfy_inputs)
    yield server
    stop_server(server)


@pytest.fixture(scope="session")
def object_info(comfy: ComfyServer) -> dict[str, Any]:
    """What the server says about all its nodes."""
    return comfy.ask("/object_info")


# While Playwright's synchronous interface is open, an event loop runs in this thread and asyncio.run() of other tests
# would fail: not for the session.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of a file."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(comfy: ComfyServer, browser: Browser) -> Iterator[Callable[[dict[str, Any]], ComfyPage]]:
    """Opens fresh pages with settings; afterwards their consoles must hold no error of our making."""
    pages = []

    def open_page(settings: dict[str, Any]) -> ComfyPage:
        pages.append(ComfyPage(browser, comfy, settings, (1600, 900)))
        return pages[-1]

    yield open_page
    errors = [error for page in pages for error in page.errors]
    for page in pages:
        page.close()
    assert errors == []
