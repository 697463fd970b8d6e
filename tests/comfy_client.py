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
SEED_CONTROL = "control_after_generate"
MUTED = 2  # mode of a node that the page leaves out of the prompt
SUBGRAPH_INPUT, SUBGRAPH_OUTPUT = -10, -20  # node ids of a subgraph's two ends


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
            # Without a client ComfyUI leaves the outputs of nodes that it did not run again out of the history.
            return self.ask("/prompt", {"prompt": prompt, "client_id": "tests"})["prompt_id"]
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
    """The API prompt that the page makes of a UI workflow: links by [node, slot], widgets by their order.

    A subgraph's nodes get the ids "instance:node"; its promoted widgets' values are the instance's.
    """
    subgraphs = {graph["id"]: graph for graph in workflow.get("definitions", {}).get("subgraphs", [])}
    prompt: dict[str, Any] = {}
    _unfold(workflow, "", [], subgraphs, object_info, prompt)
    return prompt


def _unfold(
    graph: dict[str, Any],
    prefix: str,
    given: list[Any],
    subgraphs: dict[str, Any],
    object_info: dict[str, Any],
    prompt: dict[str, Any],
) -> list[Any]:
    """Put a graph's nodes into `prompt`; given: what its inputs carry; returns what its outputs carry."""
    links = {link[0]: link for link in map(link_fields, graph["links"])}
    results: dict[int, list[Any]] = {SUBGRAPH_INPUT: given}

    def source(link: int) -> Any:
        _, node, slot, _, _, _ = links[link]
        return results[node][slot] if node in results else [f"{prefix}{node}", slot]

    for node in sorted(graph["nodes"], key=lambda item: item["order"]):
        if node["type"] in PAGE_ONLY or node.get("mode") == MUTED:
            continue
        linked = {item["name"]: source(item["link"]) for item in node["inputs"] if item.get("link") is not None}
        inputs = {name: value for name, value in linked.items() if value is not None}
        if node["type"] in subgraphs:
            inner = subgraphs[node["type"]]
            promoted = [name for _, name in node["properties"]["proxyWidgets"]]
            inputs = {**dict(zip(promoted, node["widgets_values"], strict=True)), **inputs}
            carried = [inputs.get(item["name"]) for item in inner["inputs"]]
            results[node["id"]] = _unfold(inner, f"{prefix}{node['id']}:", carried, subgraphs, object_info, prompt)
        else:
            widgets = _widgets(node, object_info[node["type"]])
            prompt[f"{prefix}{node['id']}"] = {"class_type": node["type"], "inputs": {**widgets, **inputs}}
    return [source(link) for item in graph.get("outputs", []) for link in item["linkIds"]]


def link_fields(link: Any) -> tuple[int, int, int, int, int, str]:
    """A link's id, source node and slot, target node and slot, type: a graph has lists, a subgraph has objects."""
    if isinstance(link, list):
        return tuple(link)
    names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    return tuple(link[name] for name in names)


def _widgets(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    names = [name for name, spec in specs.items() if _is_widget(spec)]
    if "seed" in names:  # the page puts a widget of its own behind it
        names.insert(names.index("seed") + 1, SEED_CONTROL)
    values = node.get("widgets_values", [])
    extra = PAGE_WIDGETS.get(node["type"], 0)
    assert len(names) <= len(values) <= len(names) + extra, (node["type"], names, values)
    return {name: value for name, value in zip(names, values, strict=False) if name != SEED_CONTROL}


def _is_widget(spec: list[Any]) -> bool:
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    if options.get("forceInput"):
        return False
    return isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
