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
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from musetalk_core.errors import MuseTalkError
from musetalk_core.remote.comfy_api import ComfyApi, ServerLost, session
from musetalk_core.remote.results import saved_files


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
    client, prompt = uuid.uuid4().hex, str(uuid.uuid4())
    async with session() as connections:
        api = ComfyApi(url, connections)
        async with api.events(client) as events:
            await api.queue(workflow, prompt, client)
            await _show(events, prompt, Progress(workflow))
        ending = await api.history(prompt)
        if ending is None:
            raise ServerLost("the server closed the connection before the workflow ended")
        if ending.error:
            raise MuseTalkError(ending.error)
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for entry in saved_files(ending.outputs):
            files.append(folder / Path(entry["filename"]).name)
            await api.download(entry, files[-1])
        return files


async def _show(events: AsyncIterator[dict[str, Any]], prompt: str, progress: Progress) -> None:
    """Until the prompt is over and in the history, or the connection ends."""
    async for event in events:
        data = event["data"]
        if data.get("prompt_id") != prompt:
            continue
        if event["type"] == "executing":
            if data["node"] is None:
                return
            progress.begins(data["node"])
        elif event["type"] == "progress":
            progress.at(data["node"], data["value"], data["max"])
        elif event["type"] == "execution_error":
            print("".join(data.get("traceback", [])), file=sys.stderr)


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
    except (MuseTalkError, ServerLost, OSError, ValueError) as error:
        print(f"run_workflow: error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"seconds": seconds, "files": [str(path) for path in files]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
