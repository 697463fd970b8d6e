#!/usr/bin/env python3
"""Queue a workflow in API format on a running ComfyUI, show its progress, fetch what it saved.

    HOST/venv/bin/python scripts/run_workflow.py URL WORKFLOW.json FOLDER [--timeout SECONDS]

Prints one JSON line: the seconds it took and the files, fetched into FOLDER. Needs aiohttp (ComfyUI has it).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp


class WorkflowError(Exception):
    """The server refused the workflow or a node failed; one message for the user."""


class Progress:
    """Prints a line when a node begins and at every further tenth of its work."""

    def __init__(self, workflow: dict[str, Any]) -> None:
        self.titles = {key: node.get("_meta", {}).get("title") or node["class_type"] for key, node in workflow.items()}
        self.shown: set[tuple[str, int]] = set()

    def begins(self, node: str) -> None:
        print(f"  {self.titles.get(node, node)}", file=sys.stderr, flush=True)

    def at(self, node: str, value: float, maximum: float) -> None:
        tenth = int(10 * value / maximum) if maximum else 10
        if tenth and (node, tenth) not in self.shown:
            self.shown.add((node, tenth))
            title = self.titles.get(node, node)
            print(f"  {title}: {value:g} of {maximum:g}", file=sys.stderr, flush=True)


async def run_workflow(url: str, workflow: dict[str, Any], folder: Path) -> list[Path]:
    """Run `workflow` to its end and return the files it saved, fetched into `folder`."""
    client = uuid.uuid4().hex
    async with aiohttp.ClientSession(url, trust_env=False) as session:
        async with session.ws_connect(f"/ws?clientId={client}", max_msg_size=0) as events:
            prompt = await _queue(session, workflow, client)
            await _follow(events, prompt, Progress(workflow))
        outputs = await _outputs(session, prompt)
        folder.mkdir(parents=True, exist_ok=True)
        return [await _fetch(session, entry, folder) for entry in outputs]


async def _queue(session: aiohttp.ClientSession, workflow: dict[str, Any], client: str) -> str:
    async with session.post("/prompt", json={"prompt": workflow, "client_id": client}) as reply:
        answer = await reply.json()
    if reply.status != 200:
        raise WorkflowError(f"the server refused the workflow:\n{json.dumps(answer, indent=1)}")
    return answer["prompt_id"]


async def _follow(events: aiohttp.ClientWebSocketResponse, prompt: str, progress: Progress) -> None:
    async for message in events:
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue  # previews are binary
        event = json.loads(message.data)
        data = event.get("data", {})
        if data.get("prompt_id") != prompt:
            continue
        if event["type"] == "executing" and data.get("node"):
            progress.begins(data["node"])
        elif event["type"] == "progress":
            progress.at(data["node"], data["value"], data["max"])
        elif event["type"] == "execution_success":
            return
        elif event["type"] == "execution_interrupted":
            raise WorkflowError("the workflow was interrupted")
        elif event["type"] == "execution_error":
            trace = "".join(data.get("traceback", []))
            raise WorkflowError(f"{data['node_type']} failed: {data['exception_message']}\n{trace}")
    raise WorkflowError("the server closed the connection before the workflow ended")


async def _outputs(session: aiohttp.ClientSession, prompt: str) -> list[dict[str, str]]:
    history: dict[str, Any] = {}
    while prompt not in history:  # success is announced a little before the history has it
        await asyncio.sleep(0.1)
        async with session.get(f"/history/{prompt}") as reply:
            history = await reply.json()
    return [
        entry
        for node in history[prompt]["outputs"].values()
        for entries in node.values()
        for entry in entries
        if isinstance(entry, dict) and entry.get("type") == "output"
    ]


async def _fetch(session: aiohttp.ClientSession, entry: dict[str, str], folder: Path) -> Path:
    async with session.get("/view", params=entry) as reply:
        reply.raise_for_status()
        data = await reply.read()
    path = folder / Path(entry["filename"]).name
    path.write_bytes(data)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("url")
    parser.add_argument("workflow", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds, default: %(default)s")
    args = parser.parse_args()
    started = time.monotonic()
    try:
        workflow = json.loads(args.workflow.read_text(encoding="utf-8"))
        job = run_workflow(args.url, workflow, args.folder)
        files = asyncio.run(asyncio.wait_for(job, args.timeout))
    except TimeoutError:
        print(f"run_workflow: error: not done after {args.timeout:g} s", file=sys.stderr)
        return 1
    except (WorkflowError, aiohttp.ClientError, OSError, ValueError) as error:
        print(f"run_workflow: error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"seconds": seconds, "files": [str(path) for path in files]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
