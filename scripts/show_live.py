#!/usr/bin/env python3
"""Draw the docs' pictures of the live page from a running server that asks for no token.

    .host/venv/bin/python scripts/show_live.py http://127.0.0.1:8010/ SPEECH.wav [--folder .]

Writes docs/images/live_page.jpg, live_phone.jpg and web/docs/MuseTalkRealtimeSession/page.jpg below FOLDER, while the
first avatar speaks. The microphone hears SPEECH.wav. Needs Chromium.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comfy_setup import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tests"))

from live_page import LivePage, chromium_with_microphone
from playwright.sync_api import Browser

TEXT = "Good morning. I idle until somebody speaks, and then I say what I hear, what you type, or what is in a file."
DESK, PHONE, HELP = (1280, 780), (390, 844), (900, 576)
QUALITY = 70


def draw(browser: Browser, url: str, path: Path, size: tuple[int, int], scheme: str) -> None:
    """The page while the avatar speaks a text."""
    page = LivePage(browser, url, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.start()
    page.say(TEXT)
    page.wait_for_speech()
    page.wait_for_answer()
    page.page.wait_for_timeout(2000)  # the numbers are of the last second
    path.parent.mkdir(parents=True, exist_ok=True)
    page.page.screenshot(path=path, type="jpeg", quality=QUALITY)
    page.close()
    print(f"{path}: {path.stat().st_size // 1000} KB")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("url", help="of the page")
    parser.add_argument("speech", type=Path, help="what the microphone hears")
    parser.add_argument("--folder", type=Path, default=REPOSITORY, help="default: the repository")
    args = parser.parse_args()
    images, help_page = args.folder / "docs" / "images", args.folder / "web" / "docs" / "MuseTalkRealtimeSession"
    with chromium_with_microphone(args.speech) as browser:
        draw(browser, args.url, images / "live_page.jpg", DESK, "light")
        draw(browser, args.url, images / "live_phone.jpg", PHONE, "dark")
        draw(browser, args.url, help_page / "page.jpg", HELP, "light")
    return 0


if __name__ == "__main__":
    sys.exit(main())
