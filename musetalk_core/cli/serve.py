"""`serve`: avatars that speak while one listens, over WebRTC, WebSocket and HTTP."""

import argparse
import asyncio
import logging
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MuseTalkError
from .infer import add_weights, load, option

if TYPE_CHECKING:
    from ..realtime.config import ServerConfig
    from ..realtime.service import RealtimeService

SHUTDOWN_SECONDS = 5.0


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `serve` command; what is not given comes from --config, then from ServerConfig's defaults."""
    parser = commands.add_parser(
        "serve",
        help="serve avatars in real time over WebRTC, WebSocket and HTTP",
        description="Serves avatars in real time. Only this machine reaches it unless --host says otherwise, which "
        "needs a token.",
    )
    parser.set_defaults(run=run)
    group = parser.add_argument_group("server")
    option(group, "config", type=Path, metavar="FILE", help="YAML or JSON; its keys are in docs/server.md")
    group.add_argument("--host", "--ip", help="address to listen on; default: 127.0.0.1")
    group.add_argument("--port", "--listenport", type=int, help="default: 8010; 0 any free one")
    option(group, "token", help="bearer token of every route; other users see it here, so better in --config")
    option(group, "max-session", dest="max_sessions", type=int, help="sessions at once; default: 5")
    option(group, "idle-timeout", type=float, metavar="SECONDS", help="closes forgotten sessions; default: 120")
    option(group, "cors-origin", metavar="URL", help="the one foreign site whose pages may call; default: none")
    option(group, "video-bitrate", type=int, metavar="BITS", help="of WebRTC video; default: 2000000")
    option(group, "push-url", metavar="URL", help="WHIP address that session 0 is pushed to")
    group = parser.add_argument_group("avatars and files")
    group.add_argument("--avatar", "--avatar-id", "--avatar_id", help="a session's avatar when it names none")
    option(group, "avatars", type=Path, metavar="DIR", help="folder of prepared avatars; default: avatars")
    option(group, "input", type=Path, metavar="DIR", help="folder that requests name files in; default: input")
    option(group, "output", type=Path, metavar="DIR", help="folder of recordings and results; default: output")
    group = parser.add_argument_group("voice")
    option(group, "tts", choices=("embedded", "http", "none"), help="who says texts; default: embedded")
    option(group, "tts-voice", help="embedded: en-US, en-GB, de-DE, es-ES, fr-FR, it-IT")
    option(group, "tts-url", metavar="URL", help="speech server of --tts http")
    add_weights(parser.add_argument_group("weights and device"))


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; 0. Raises MuseTalkError."""
    from ..realtime.config import read_config

    config = read_config(args.config, _changes(args))
    if not config.loopback and config.token is None:
        raise MuseTalkError(
            f"--host {config.host} lets other machines in; set a token (in --config or --token) or use 127.0.0.1."
        )
    if find_spec("aiohttp") is None:
        raise MuseTalkError("The server needs aiohttp; run `pip install -r requirements-realtime.txt`.")
    asyncio.run(_serve(args, config))
    return 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The given options that are settings of the server."""
    from dataclasses import fields

    from ..realtime.config import ServerConfig

    return {entry.name: getattr(args, entry.name, None) for entry in fields(ServerConfig)}


async def _serve(args: argparse.Namespace, config: "ServerConfig") -> None:
    from aiohttp import web

    from ..realtime.server import create_app

    engine, service = _make(args, config)
    engine.start()
    try:
        if config.avatar is not None:
            engine.warm_up(service.shelf.get(config.avatar))
        runner = web.AppRunner(create_app(service, config), access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            site = web.TCPSite(runner, config.host, config.port)
            await _listen(site, config)
            await service.start_push()
            print(f"MuseTalk Suite listens on {_address(runner)}; Ctrl+C ends it", file=sys.stderr)
            await _until_told()
        finally:
            await runner.cleanup()
    finally:
        engine.stop()
    logging.getLogger(__name__).info("The server has ended; streams and recordings are closed.")


def _make(args: argparse.Namespace, config: "ServerConfig") -> "tuple[Any, RealtimeService]":
    """The networks, and the service around them."""
    from ..realtime.avatar_shelf import AvatarShelf
    from ..realtime.engine import RealtimeEngine, RealtimeModels, ResidentModels
    from ..realtime.service import RealtimeService
    from ..realtime.workshop import Workshop

    networks = load(args)
    holder = ResidentModels(RealtimeModels(networks.codec, networks.generator, networks.audio_encoder))
    engine = RealtimeEngine(holder)
    workshop = Workshop(AvatarShelf(config.avatars, networks.version), holder, networks.models)
    return engine, RealtimeService(engine, workshop, config)


async def _listen(site: Any, config: "ServerConfig") -> None:
    try:
        await site.start()
    except OSError as error:
        raise MuseTalkError(f"{config.host}:{config.port} cannot be listened on: {error.strerror or error}.") from error


def _address(runner: Any) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


async def _until_told() -> None:
    """Wait for Ctrl+C or a polite kill; on Windows the former comes as an exception."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, told.set)
        except NotImplementedError:
            continue
    await told.wait()
