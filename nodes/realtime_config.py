"""What the live avatar in ComfyUI is told: ComfyUI's address, the node's inputs, and a file of the user's."""

import json
import logging
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ..musetalk_core.realtime.config import ServerConfig, is_loopback, read_config

log = logging.getLogger(__name__)

EVERYWHERE = ("0.0.0.0", "::")


def config_file() -> Path:
    """Settings of the standalone server's names, JSON; ComfyUI serves its folder to nobody."""
    return Path(folder_paths.get_system_user_directory("musetalk")) / "realtime.json"


def live_config(changes: Mapping[str, Any]) -> ServerConfig:
    """The user's file, then `changes`, then where ComfyUI listens.

    Beyond this machine there is always a token: the file's, or a new one that is written into it. Raises MuseTalkError
    for a file that is no good.
    """
    file = config_file()
    config = read_config(file if file.is_file() else None, {**changes, "host": _widest(), "port": args.port})
    if config.tts == "embedded" and find_spec("py_nanotts") is None:
        log.warning("Texts are not spoken: py-nanotts is not installed; see requirements-realtime.txt.")
        config = replace(config, tts="none")
    if config.token is None and not config.loopback:
        config = replace(config, token=secrets.token_urlsafe(24))
        _add_token(file, str(config.token))
    return config


def page_address() -> str:
    """Where a browser on this machine finds the page."""
    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    host = "127.0.0.1" if _widest() in EVERYWHERE else _widest()
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{args.port}/musetalk/"


def _widest() -> str:
    """Of the addresses ComfyUI listens on, one that other machines reach, if there is one."""
    addresses = [address.strip() for address in args.listen.split(",")]
    return next((address for address in addresses if not is_loopback(address)), addresses[0])


def _add_token(file: Path, token: str) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes files that their owner alone can read.
    handle, part = tempfile.mkstemp(".part", ".", file.parent)
    with open(handle, "w", encoding="utf-8") as target:
        json.dump({**content, "token": token}, target, indent=2)
    Path(part).replace(file)
