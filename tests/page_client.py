"""ComfyUI's real page in Chromium: opening it, loading a workflow, running it, reading what a user sees."""

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comfy_client import REPOSITORY, ComfyServer
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

sys.path.insert(0, str(REPOSITORY / "scripts"))

from system_packages import find_browser

PACK = "musetalk-suite"
# No name is resolved, so that a page asks nobody but its server. (Playwright's routes would do, without any cache.)
# Chromium's own traffic would be refused on a closed network, again and again.
FLAGS = (
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 120  # what anything but a run may take; a busy machine is ten times slower than a quiet one
# All that a test may change is set at every opening: the server keeps settings.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.VueNodes.Enabled": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
}
NODES_2 = {"Comfy.VueNodes.Enabled": True}
# What frontend 1.32.9 says without our pack, too: files a new user has not got, its registry (closed off), a fault of
# its own at opening; and the refusal of a prompt, which it shows in a dialog as well.
NOISE = re.compile(
    r"favicon\.ico|user\.css|/api/userdata|api\.comfy\.org|reading 'id'\)\s+at onChange"
    r"|^PromptExecutionError|/api/prompt$"
)
READY = "() => window.app?.vueAppReady && app.extensionManager && app.graph"
OPEN_FILE = "async ([text, name]) => app.handleFile(new File([text], name, {type: 'application/json'}))"
LISTEN = """() => {
  window.runEnds = [];
  for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(kind, () => window.runEnds.push(kind));
}"""
# The view is fitted to a loaded graph some pictures later.
VIEW_RESTS = """async () => {
  for (let seen, rested = 0; rested < 10; ) {
    await new Promise(requestAnimationFrame);
    const view = [...app.canvas.ds.offset, app.canvas.ds.scale].join();
    rested = view === seen ? rested + 1 : 0;
    seen = view;
  }
}"""
ENDED = "() => window.runEnds.length || document.querySelector('[role=dialog]')"
# All that a page leaves behind but the files of ComfyUI's page, which Chromium need not fetch and compile again.
LEFT_BEHIND = "cookies,local_storage,indexeddb,service_workers,cache_storage,file_systems"
NODE = "const node = type => app.graph.nodes.find(node => node.type === type);"
CONNECT = f"""([from, output, to, input]) => {{
  {NODE}
  return node(from).connect(node(from).findOutputSlot(output), node(to), input) != null;
}}"""
DISCONNECT = f"([type, input]) => {{ {NODE} node(type).disconnectInput(node(type).findInputSlot(input)); }}"
SET_WIDGET = f"([type, name, value]) => {{ {NODE} node(type).widgets.find(w => w.name === name).value = value; }}"
TITLE_BAR = f"""type => {{
  {NODE}
  const [x, y] = app.canvas.convertOffsetToCanvas([node(type).pos[0] + node(type).size[0] / 2, node(type).pos[1] - 15]);
  const canvas = app.canvas.canvas.getBoundingClientRect();
  return [x + canvas.left, y + canvas.top];
}}"""
SHOWN_VIDEO = """prefix => [...document.querySelectorAll('video')].some(video => {
  const address = new URL(video.currentSrc || video.src, location);
  return address.searchParams.get('type') === 'output' && address.searchParams.get('filename').startsWith(prefix)
    && video.readyState >= 2 && video.videoWidth > 0 && video.getBoundingClientRect().width > 50;
})"""
PICTURES_THERE = "element => [...element.querySelectorAll('img')].every(img => img.complete && img.naturalWidth > 0)"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; Playwright leaves the sandbox off, which root could not use."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=FLAGS)
        yield browser
        browser.close()


class ComfyPage:
    """A page without cookies and storage on a server; `errors`: what its console says against our pack."""

    def __init__(self, browser: Browser, server: ComfyServer, settings: dict[str, Any], size: tuple[int, int]) -> None:
        server.ask("/api/settings", {**SETTINGS, **settings})
        context = browser.contexts[0] if browser.contexts else browser.new_context()
        self.page: Page = context.new_page()
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        forget = {"origin": server.url, "storageTypes": LEFT_BEHIND}
        context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", forget)
        self.page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        self.page.set_default_timeout(SECONDS * 1000)
        self.errors: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(server.url, wait_until="domcontentloaded")
        self.page.wait_for_function(READY)
        self.page.evaluate(LISTEN)

    def close(self) -> None:
        self.page.close()

    def change(self, settings: dict[str, Any]) -> None:
        """Change settings as the settings dialog does."""
        for name, value in settings.items():
            self.page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [name, value])

    def load(self, workflow: Path) -> None:
        """What the page does with a file that is opened or dropped, to its end."""
        self.page.evaluate(OPEN_FILE, [workflow.read_text(encoding="utf-8"), workflow.name])
        self.wait_for_nodes(workflow)

    def wait_for_nodes(self, workflow: Path) -> None:
        """Until the graph is a workflow file's and the view rests on it."""
        count = len(json.loads(workflow.read_text(encoding="utf-8"))["nodes"])
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=count)
        self.page.evaluate(VIEW_RESTS)

    def missing_nodes(self) -> set[str]:
        """Types of the loaded workflow that the page does not know."""
        return set(
            self.page.evaluate("""() => app.graph.nodes.map(node => node.type)
                .filter(type => !LiteGraph.registered_node_types[type])""")
        )

    def prompt(self) -> dict[str, Any]:
        """The prompt that Run would queue."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def connect(self, source: str, output: str, target: str, name: str) -> bool:
        """Draw a link between the first nodes of two types; False when the page refuses it."""
        return self.page.evaluate(CONNECT, [source, output, target, name])

    def disconnect(self, kind: str, name: str) -> None:
        self.page.evaluate(DISCONNECT, [kind, name])

    def set_widget(self, kind: str, name: str, value: Any) -> None:
        self.page.evaluate(SET_WIDGET, [kind, name, value])

    def run(self, seconds: float = 300) -> str:
        """Click Run and wait for the end: "" after success, else the text of the dialog that the user gets."""
        self.page.locator("[data-testid=queue-button]").first.click()
        self.page.wait_for_function(ENDED, timeout=seconds * 1000)
        if self.page.evaluate("() => window.runEnds") == ["execution_success"]:
            return ""
        return self.dialog().inner_text()

    def dialog(self) -> Locator:
        """The open dialog."""
        dialog = self.page.get_by_role("dialog")
        dialog.wait_for()
        return dialog

    def dialogs(self) -> list[str]:
        """The texts of all open dialogs."""
        return self.page.get_by_role("dialog").all_inner_texts()

    def close_dialogs(self) -> None:
        if self.dialogs():
            self.page.keyboard.press("Escape")
            self.page.get_by_role("dialog").wait_for(state="detached")

    def wait_for_dom_nodes(self) -> None:
        """Until Nodes 2.0 has drawn every node of the graph as an element."""
        self.page.wait_for_function(
            "() => document.querySelectorAll('[data-node-id]').length === app.graph.nodes.length"
        )

    def wait_for_video(self, prefix: str) -> None:
        """Until the page plays an output file whose name begins with `prefix`."""
        self.page.wait_for_function(SHOWN_VIDEO, arg=prefix)

    def open_templates(self) -> Locator:
        """The template browser on our pack; its thumbnails are there."""
        self.page.get_by_text("Templates", exact=True).first.click()
        dialog = self.dialog()
        dialog.get_by_text(PACK, exact=True).click()
        cards = dialog.locator("[data-testid^=template-workflow-musetalk]")
        cards.first.wait_for()
        self._wait_for_pictures(dialog.get_by_test_id("template-workflows-content"))
        return cards

    def open_help(self, kind: str) -> Locator:
        """The help panel of the first node of a type, opened as a user does; its pictures are there."""
        self.page.mouse.click(*self.page.evaluate(TITLE_BAR, kind))
        self.page.get_by_test_id("info-button").first.click()
        panel = self.page.locator(".node-help-content")
        panel.get_by_role("table").first.wait_for()
        self._wait_for_pictures(panel)
        return panel

    def _wait_for_pictures(self, element: Locator) -> None:
        handle = element.element_handle()
        self.page.wait_for_function(PICTURES_THERE, arg=handle)

    def _note(self, message: ConsoleMessage) -> None:
        text = f"{message.text}\n{message.location.get('url', '')}"
        if message.type == "error" and not NOISE.search(text):
            self.errors.append(text)
