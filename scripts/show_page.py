#!/usr/bin/env python3
"""Draw the docs' pictures of the real ComfyUI page: templates, workflows that ran, help, Chinese, Nodes 2.0, an error.

    .host/venv/bin/python scripts/show_page.py [--root DIR] [--folder docs/images]

Writes FOLDER/page_*.jpg, each below 200 KB. Needs the host and the demo's inputs (make demo) and Chromium; where
Chromium was there before, also a Chinese font (fonts-wqy-microhei).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy_host
from comfy_setup import REPOSITORY, HostError, default_root

sys.path.insert(0, str(REPOSITORY / "tests"))

from comfy_client import ComfyServer
from page_client import NODES_2, ComfyPage, chromium
from playwright.sync_api import Browser

INPUTS = ("demo_portrait.mp4", "demo_speech.wav")
SIZE, HELP_SIZE = (1600, 900), (1600, 1180)
QUALITY = 80
SIDE_Y = 30  # where the help panel's edge is taken: beside its head, not beside a picture
# The page's own fit goes under its bars or, by its command, gets so small that texts are left out.
FIT_BETWEEN_BARS = """() => {
  const [left, top, right, bottom] = [75, 140, innerWidth - 15, innerHeight - 15];
  const boxes = [...app.graph.nodes, ...app.graph.groups].map(item => item.boundingRect);
  const x = Math.min(...boxes.map(box => box[0])), y = Math.min(...boxes.map(box => box[1]));
  const width = Math.max(...boxes.map(box => box[0] + box[2])) - x;
  const height = Math.max(...boxes.map(box => box[1] + box[3])) - y;
  const scale = Math.min((right - left) / width, (bottom - top) / height);
  const canvas = app.canvas.canvas.getBoundingClientRect();
  app.canvas.ds.changeScale(scale);
  app.canvas.ds.offset[0] = (left - canvas.left) / scale - x;
  app.canvas.ds.offset[1] = (top - canvas.top) / scale - y;
  app.canvas.setDirty(true, true);
}"""

SHOW_BESIDE = """type => {
  const node = app.graph.nodes.find(node => node.type === type);
  app.canvas.ds.offset[0] = innerWidth * 0.6 / app.canvas.ds.scale - node.pos[0];
  app.canvas.setDirty(true, true);
}"""


class Pictures:
    """Opens pages on one server and writes what they show."""

    def __init__(self, browser: Browser, server: ComfyServer, folder: Path) -> None:
        self.browser, self.server, self.folder = browser, server, folder

    @contextmanager
    def page(
        self, name: str, workflow: str | None = None, size: tuple[int, int] = SIZE, **settings: object
    ) -> Iterator[ComfyPage]:
        """A page with a shipped workflow; on leaving, its picture is page_NAME.jpg."""
        page = ComfyPage(self.browser, self.server, settings, size)
        if workflow:
            page.load(REPOSITORY / "workflows" / f"musetalk_{workflow}.json")
            page.page.evaluate(FIT_BETWEEN_BARS)
        yield page
        path = self.folder / f"page_{name}.jpg"
        page.page.wait_for_timeout(1000)  # what fades in and out has no other end to wait for
        page.page.screenshot(path=path, type="jpeg", quality=QUALITY)
        page.close()
        print(f"{path}: {path.stat().st_size // 1000} KB")

    def ran(self, name: str, workflow: str, **settings: object) -> None:
        """The picture of a workflow that has run."""
        with self.page(name, workflow, **settings) as page:
            if message := page.run(seconds=900):
                raise HostError(f"{workflow} failed: {message}")
            page.wait_for_video(f"musetalk_{workflow}")


def draw(pictures: Pictures) -> None:
    """All pictures."""
    with pictures.page("templates") as page:
        page.open_templates()
    pictures.ran("all_in_one", "all_in_one")
    pictures.ran("nodes2", "all_in_one", **NODES_2)
    pictures.ran("discrete", "discrete")
    with pictures.page("help", "discrete", HELP_SIZE) as page:
        page.open_help("MuseTalkUNetStep")
        page.page.locator(".p-splitter-gutter").first.hover(position={"x": 1, "y": SIDE_Y})
        page.page.mouse.down()
        page.page.mouse.move(SIZE[0] * 0.55, SIDE_Y, steps=5)
        page.page.mouse.up()
        page.page.evaluate(SHOW_BESIDE, "MuseTalkUNetStep")
    with pictures.page("chinese", "discrete", **{"Comfy.Locale": "zh"}):
        pass
    with pictures.page("error", "all_in_one") as page:
        page.set_widget("LoadMuseTalkModels", "version", "v1.5")
        page.run()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=default_root(), help="the host, default: %(default)s")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "docs" / "images", help="default: %(default)s")
    args = parser.parse_args()
    comfy_host.catch_signals()
    root, port = args.root.expanduser().resolve(), comfy_host.free_port()
    try:
        inputs = [root / "demo-inputs" / name for name in INPUTS]
        info = comfy_host.start(root, port, inputs=inputs, server_args=["--disable-api-nodes"])
        try:
            with chromium() as browser:
                draw(Pictures(browser, ComfyServer(info), args.folder))
        finally:
            comfy_host.stop(root, port)
    except HostError as error:
        print(f"show_page: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
