"""A real ComfyUI server for the tests: starting one, asking it, and turning a page's workflow into a prompt."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
HOST_ROOT = Path(os.environ.get("MUSETALK_HOST_ROOT") or REPOSITORY / ".host")
HOST_TOOL = REPOSITORY / "scripts" / "comfy_host.py"
PAGE_ONLY = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
# What the page adds to a widget of its own: the upload button, and nothing else in our workflows.
PAGE_WIDGETS = {"LoadVideo": 1, "LoadAudio": 2, "LoadImage": 1}


class PromptRefused(Exception):
    """POST /prompt answered 400; `answer` is its JSON."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(json.dumps(answer))
        self.answer = answer


class ComfyServer:
    """One running server, by HTTP."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.url: str = info["url"]
        self.folder = Path(info["run_dir"])
        self.log = Path(info["log"])

    def read(self, path: str, body: Any = None) -> bytes:
        """What GET, or with a body POST, answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def ask(self, path: str, body: Any = None) -> Any:
        """The same as JSON; None when the answer is empty."""
        content = self.read(path, body)
        return json.loads(content) if content else None

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue a prompt; its id. Raises PromptRefused."""
        try:
            return self.ask("/prompt", {"prompt": prompt})["prompt_id"]
        except urllib.error.HTTPError as error:
            raise PromptRefused(json.loads(error.read())) from error

    def wait(self, prompt_id: str, seconds: float = 240) -> dict[str, Any]:
        """The history entry of a prompt once it is there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = self.ask(f"/history/{prompt_id}").get(prompt_id)
            if entry:
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt_id} did not end in {seconds} s:\n{self.log.read_text()[-2000:]}")

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Outputs by node id of a prompt that must succeed."""
        entry = self.wait(self.queue(prompt))
        assert entry["status"]["status_str"] == "success", failure(entry)
        return entry["outputs"]

    def fail(self, prompt: dict[str, Any]) -> str:
        """The error sentence of a prompt that must fail while it runs."""
        entry = self.wait(self.queue(prompt))
        assert entry["status"]["status_str"] == "error", entry["status"]
        return failure(entry)

    def file(self, saved: dict[str, Any]) -> Path:
        """The file that an output entry {"filename","subfolder","type"} names."""
        return self.folder / saved["type"] / saved["subfolder"] / saved["filename"]


def failure(entry: dict[str, Any]) -> str:
    """The exception's message in a history entry, or all messages."""
    for kind, detail in entry["status"]["messages"]:
        if kind == "execution_error":
            return detail["exception_message"].strip()
    return json.dumps(entry["status"]["messages"])


def start_server(inputs: list[Path], *arguments: str) -> ComfyServer:
    """Set up the host if it is not, and start it on a free port with this pack."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    set_up_host()
    files = [f"--input={path}" for path in inputs]
    output = host_tool("start", f"--port={port}", *files, "--server-arg=--disable-api-nodes", *arguments)
    return ComfyServer(json.loads(output.strip().splitlines()[-1]))


def set_up_host() -> None:
    """Install ComfyUI into the host root unless that has been done."""
    if not (HOST_ROOT / "host.json").is_file():
        files = [REPOSITORY / "requirements.txt", REPOSITORY / "requirements-dev.txt"]
        host_tool("setup", *(f"--requirements={file}" for file in files))


def stop_server(server: ComfyServer) -> None:
    """End the server and remove its folder."""
    host_tool("stop", f"--port={urllib.parse.urlsplit(server.url).port}")


def host_tool(command: str, *arguments: str) -> str:
    call = [sys.executable, str(HOST_TOOL), command, f"--root={HOST_ROOT}", *arguments]
    # On busy cores OpenMP's threads wait for one another: one thread was 10 times faster than two.
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def prompt_of(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """The API prompt that the page makes of a UI workflow: links by [node, slot], widgets by their order."""
    links = {link[0]: link for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in PAGE_ONLY:
            continue
        info = object_info[node["type"]]
        inputs = _widgets(node, info)
        for socket_ in node.get("inputs", []):
            if socket_.get("link") is not None:
                _, source, slot, target, _, _ = links[socket_["link"]]
                assert target == node["id"]
                inputs[socket_["name"]] = [str(source), slot]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    names = [name for name, spec in specs.items() if _is_widget(spec)]
    values = node.get("widgets_values", [])
    extra = PAGE_WIDGETS.get(node["type"], 0)
    assert len(names) <= len(values) <= len(names) + extra, (node["type"], names, values)
    return dict(zip(names, values, strict=False))


def _is_widget(spec: list[Any]) -> bool:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
