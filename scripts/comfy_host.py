#!/usr/bin/env python3
"""Run a real, unmodified ComfyUI server as a test host (CPU, headless).

    python scripts/comfy_host.py setup  [--root DIR] [--requirements FILE ...]
    python scripts/comfy_host.py start  [--root DIR] [--port N] [--input FILE ...] [--custom-node [NAME=]PATH ...]
    python scripts/comfy_host.py status [--root DIR]
    python scripts/comfy_host.py stop   [--root DIR] [--port N]

DIR is .host in the repository, or what the variable MUSETALK_HOST_ROOT names. setup installs (comfy_setup.py);
start gives the server a base folder of its own, DIR/run-PORT, with the packs linked into its custom_nodes (this
repository as musetalk-suite unless --custom-node says otherwise), waits until the server answers and prints one JSON
line; stop ends it by its pid and removes DIR/run-PORT. Linux and macOS, standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from comfy_setup import (
    REPOSITORY,
    TORCH_VERSIONS,
    HostError,
    check_checkout,
    check_host,
    default_root,
    lock,
    read_json,
    say,
    setup,
    venv_python,
    write_json,
)

PACK = "musetalk-suite"
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models")


def start(
    root: Path,
    port: int,
    packs: dict[str, Path] | None = None,
    inputs: Sequence[Path] = (),
    server_args: Sequence[str] = (),
    timeout: float = 300,
    copy: bool = False,
    keep: bool = False,
    allow_failed_import: bool = False,
    first_run: bool = False,
) -> dict[str, Any]:
    """Start a server on 127.0.0.1:port and return its url, pid, run_dir, log and versions once it answers.

    packs: folder name in custom_nodes -> pack (default: this repository); copy: copied instead of linked. inputs:
    files copied into the server's input folder. keep: leave the run folder when the start fails. first_run: leave
    the page's first-visit dialog on. Raises HostError, with the log's end, and leaves nothing running.
    """
    packs = {PACK: REPOSITORY} if packs is None else packs
    comfy = Path(check_host(root)["path"])
    check_checkout(comfy, "the checkout that setup used")
    for path in inputs:
        if not path.is_file():
            raise HostError(f"no such input file: {path}")
    run_dir = root / f"run-{port}"
    with lock(root):
        _claim(run_dir, port)
        process = None
        try:
            _fill_run_dir(run_dir, packs, [comfy / "input" / "example.png", *inputs], copy, first_run)
            started = time.monotonic()
            process = _launch(root, comfy, run_dir, port, server_args)
            url = f"http://127.0.0.1:{port}"
            write_json(run_dir / "server.json", {"pid": process.pid, "url": url})
            stats = _wait_until_up(process, url, timeout, run_dir / "server.log")
            seconds = round(time.monotonic() - started, 1)
            failed = _failed_imports(run_dir / "server.log")
            if failed and not allow_failed_import:
                raise HostError(
                    f"custom node(s) failed to import: {', '.join(failed)}\n" + _import_errors(run_dir / "server.log")
                )
        except BaseException:
            if process is not None:
                _end_process(process.pid, run_dir)
            if keep:
                say(f"kept {run_dir}")
            else:
                _remove_run_dir(run_dir)
            raise
        info = {
            "url": url,
            "pid": process.pid,
            "seconds": seconds,
            "comfyui": stats["system"].get("comfyui_version"),
            "pytorch": stats["system"].get("pytorch_version"),
            "run_dir": str(run_dir),
            "log": str(run_dir / "server.log"),
            "custom_nodes": {name: str(path) for name, path in packs.items()},
            "failed_imports": failed,
        }
        write_json(run_dir / "server.json", info)
        return info


def stop(root: Path, port: int | None = None, keep: bool = False) -> None:
    """End the server on `port`, or all of the root's, and remove the run folders unless `keep`."""
    if not root.is_dir():
        raise HostError(f"no such root: {root}")
    with lock(root):
        found = _run_dirs(root, port)
        for run_dir in found:
            info = read_json(run_dir / "server.json")
            alive = bool(info) and _pid_is_ours(info["pid"], run_dir)
            if alive:
                _end_process(info["pid"], run_dir)
            if not keep:
                _remove_run_dir(run_dir)
            what = f"stopped pid {info['pid']}" if alive else "not running"
            say(f"{what}: {run_dir}" + ("" if keep else " (removed)"))
        if not found:
            say("nothing to stop")


def status(root: Path) -> dict[str, Any]:
    """What is set up below root and which servers live."""
    servers = []
    for run_dir in _run_dirs(root, None):
        info = read_json(run_dir / "server.json")
        if info:
            servers.append({**info, "alive": _pid_is_ours(info["pid"], run_dir)})
    return {"setup": read_json(root / "host.json") or None, "servers": servers}


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on right now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _claim(run_dir: Path, port: int) -> None:
    old = read_json(run_dir / "server.json")
    if old and _pid_is_ours(old["pid"], run_dir):
        raise HostError(f"a server already runs for this root on port {port}, pid {old['pid']}; stop it first")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError as error:
            raise HostError(f"port {port} is taken by another program") from error
    if run_dir.exists():
        _remove_run_dir(run_dir)


def _fill_run_dir(run_dir: Path, packs: dict[str, Path], inputs: Sequence[Path], copy: bool, first_run: bool) -> None:
    for name in FOLDERS:
        (run_dir / name).mkdir(parents=True)
    for name, path in packs.items():
        target = run_dir / "custom_nodes" / name
        if not copy:
            target.symlink_to(path, path.is_dir())
        elif path.is_dir():
            ignore = shutil.ignore_patterns(".git", ".host", "__pycache__")
            shutil.copytree(path, target, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(path, target)
    for path in inputs:
        if path.is_file():
            shutil.copy2(path, run_dir / "input" / path.name)
    if not first_run:
        # Else the page opens the template gallery over the canvas at the first visit.
        (run_dir / "user" / "default").mkdir()
        write_json(run_dir / "user" / "default" / "comfy.settings.json", {"Comfy.TutorialCompleted": True})


def _launch(root: Path, comfy: Path, run_dir: Path, port: int, server_args: Sequence[str]) -> subprocess.Popen[bytes]:
    env = dict(os.environ, PYTHONUNBUFFERED="1", HF_HUB_OFFLINE="1", DO_NOT_TRACK="1")
    env["PYTHONPYCACHEPREFIX"] = str(root / "pycache")
    # Waiting OpenMP threads that spin starve one another when other programs use the cores.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"):
        env.pop(name, None)
    command = [str(venv_python(root)), str(comfy / "main.py"), "--cpu", "--listen", "127.0.0.1"]
    command += ["--port", str(port), "--base-directory", str(run_dir), "--disable-auto-launch"]
    command += ["--database-url", f"sqlite:///{run_dir}/user/comfyui.db", *server_args]
    with open(run_dir / "server.log", "wb") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=run_dir,
            env=env,
            start_new_session=True,
        )


def _wait_until_up(process: subprocess.Popen[bytes], url: str, timeout: float, log: Path) -> dict[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout
    while True:
        code = process.poll()
        if code is not None:
            raise HostError(f"the server ended (exit {code}) before it answered:\n{_log_tail(log)}")
        with contextlib.suppress(OSError, ValueError), opener.open(url + "/system_stats", timeout=5) as reply:
            return json.load(reply)
        if time.monotonic() > deadline:
            raise HostError(f"the server did not answer within {timeout:g} s:\n{_log_tail(log)}")
        time.sleep(0.25)


def _log_tail(log: Path, lines: int = 25) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def _failed_imports(log: Path) -> list[str]:
    return re.findall(r"\(IMPORT FAILED\): (.*)", log.read_text(encoding="utf-8", errors="replace"))


def _import_errors(log: Path) -> str:
    """The tracebacks of a log, else its end."""
    text = log.read_text(encoding="utf-8", errors="replace")
    traceback = r"^Traceback \(most recent call last\):\n.*?^Cannot import [^\n]*"
    notes = r"^(?:Error while calling comfy_entrypoint|comfy_entrypoint in|Skip ).*"
    found = re.findall(traceback, text, re.S | re.M) + re.findall(notes, text, re.M)
    return "\n".join(found) or _log_tail(log)


def _pid_is_ours(pid: int, run_dir: Path) -> bool:
    """True when pid lives and is the server started for run_dir."""
    try:
        if Path("/proc/self").exists():
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
            return str(run_dir).encode() in line.split(b"\0")
        ps = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True)
        return str(run_dir) in ps.stdout
    except OSError:
        return False


def _end_process(pid: int, run_dir: Path) -> None:
    for sig, wait in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if not _pid_is_ours(pid, run_dir):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sig)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not _pid_is_ours(pid, run_dir):
                return
            time.sleep(0.1)
    raise HostError(f"the server, pid {pid}, does not end")


def _remove_run_dir(run_dir: Path) -> None:
    nodes = run_dir / "custom_nodes"
    if nodes.is_dir():
        for path in nodes.iterdir():  # links first, so that no pack is ever walked into
            if path.is_symlink():
                path.unlink()
    shutil.rmtree(run_dir)


def _run_dirs(root: Path, port: int | None) -> list[Path]:
    if port is not None:
        return [root / f"run-{port}"] if (root / f"run-{port}").is_dir() else []
    return sorted(p for p in root.glob("run-*") if p.is_dir())


def _parse_packs(given: list[str]) -> dict[str, Path] | None:
    packs: dict[str, Path] = {}
    for item in given:
        name, sep, rest = item.partition("=")
        named = sep and "/" not in name
        path = Path(rest if named else item).expanduser().resolve()
        name = name if named else PACK if path == REPOSITORY else path.name
        if not path.exists():
            raise HostError(f"no such custom node: {path}")
        if path.is_dir() and not (path / "__init__.py").is_file():
            raise HostError(f"{path} has no __init__.py: not a custom-node pack")
        if name in packs:
            raise HostError(f"two custom nodes are named {name}; give one as NAME=PATH")
        packs[name] = path
    return packs or None


def _interrupted(*_args: object) -> None:
    raise KeyboardInterrupt


def catch_signals() -> None:
    """SIGINT and SIGTERM raise KeyboardInterrupt, so that nothing is left behind.

    A shell starts background jobs with SIGINT ignored, which the server would inherit; with a handler set here it is
    reset to the default there.
    """
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, _interrupted)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--root", type=Path, default=default_root(), help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)

    p = commands.add_parser("setup", parents=[shared], help="install ComfyUI and what it requires")
    p.add_argument("--force", action="store_true", help="make the virtual environment anew")
    p.add_argument("--no-templates", action="store_true", help="leave out core's template gallery, which is large")
    p.add_argument(
        "--requirements",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="a pack's requirements file to install as well",
    )
    for spec in TORCH_VERSIONS:
        p.add_argument(f"--{spec.split('==')[0]}", default=spec)

    p = commands.add_parser("start", parents=[shared], help="start a server and wait until it answers")
    p.add_argument("--custom-node", action="append", default=[], metavar="[NAME=]PATH")
    p.add_argument("--input", action="append", type=Path, default=[], metavar="FILE")
    p.add_argument("--port", type=int, default=8188)
    p.add_argument("--timeout", type=float, default=300)
    p.add_argument("--copy", action="store_true", help="copy the packs instead of linking them")
    p.add_argument("--keep", action="store_true", help="keep the run folder if the start fails")
    p.add_argument("--allow-failed-import", action="store_true")
    p.add_argument("--first-run", action="store_true", help="leave the page's first-visit dialog on")
    p.add_argument("--server-arg", action="append", default=[], metavar="ARG", help="one more for main.py")

    p = commands.add_parser("stop", parents=[shared], help="stop the server(s), remove their run folders")
    p.add_argument("--port", type=int, help="only the one on this port")
    p.add_argument("--keep", action="store_true", help="leave the run folder, with log and outputs")

    commands.add_parser("status", parents=[shared], help="print what is set up and running")
    return parser


def _call(args: argparse.Namespace) -> None:
    root = args.root.expanduser().resolve()
    if args.command == "setup":
        versions = (args.torch, args.torchvision, args.torchaudio)
        print(json.dumps(setup(root, args.requirements, not args.no_templates, versions, args.force)))
    elif args.command == "start":
        catch_signals()
        info = start(
            root,
            args.port,
            _parse_packs(args.custom_node),
            [path.expanduser().resolve() for path in args.input],
            args.server_arg,
            args.timeout,
            args.copy,
            args.keep,
            args.allow_failed_import,
            args.first_run,
        )
        print(json.dumps(info))
    elif args.command == "stop":
        stop(root, args.port, args.keep)
    else:
        print(json.dumps(status(root), indent=1))


def main() -> int:
    try:
        _call(_parser().parse_args())
    except HostError as error:
        print(f"comfy_host: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("comfy_host: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
