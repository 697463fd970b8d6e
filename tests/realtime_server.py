"""A real server in this process for tests: the demo model, an avatar on disk, aiohttp on a free port."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import torch
from aiohttp import web
from clips import moving_portrait
from comfy_client import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

from musetalk_core.avatars.prepare import prepare_avatar
from musetalk_core.engine import Engine, WeightChoice, load_engine
from musetalk_core.media.source import TensorFrames
from musetalk_core.realtime.avatar_shelf import AvatarShelf
from musetalk_core.realtime.config import ServerConfig
from musetalk_core.realtime.engine import RealtimeEngine, RealtimeModels, ResidentModels
from musetalk_core.realtime.server import create_app
from musetalk_core.realtime.service import RealtimeService
from musetalk_core.realtime.workshop import Workshop
from musetalk_core.settings import LipSyncSettings
from musetalk_core.weights.folders import ModelFolders

AVATAR = "portrait"


def demo_engine() -> Engine:
    """The demo model on the CPU."""
    return load_engine(
        WeightChoice("demo"), ModelFolders.default(REPOSITORY / "models"), torch.device("cpu"), torch.float32
    )


def prepared_folder(engine: Engine, folder: Path, count: int = 12, size: int = 256) -> Path:
    """A folder that holds the avatar AVATAR."""
    settings = LipSyncSettings()
    frames = TensorFrames(torch.from_numpy(moving_portrait(count, size)), Fraction(25))
    prepare_avatar(AVATAR, frames, engine.models(settings), settings, "demo", folder / AVATAR)
    return folder


@dataclass
class Running:
    """A server that runs, and a client for it."""

    service: RealtimeService
    engine: RealtimeEngine
    client: aiohttp.ClientSession
    url: str

    async def json(self, method: str, path: str, body: Any = None, **arguments: Any) -> tuple[int, Any]:
        """Status and answer, JSON where it is that."""
        if body is not None:
            arguments["json"] = body
        async with self.client.request(method, self.url + path, **arguments) as reply:
            if reply.content_type == "application/json":
                return reply.status, await reply.json()
            return reply.status, await reply.text()


@asynccontextmanager
async def running(networks: Engine, avatars: Path, folder: Path, **changes: Any) -> AsyncIterator[Running]:
    """A server on its own port; `folder` gets its input and output folders."""
    (folder / "input").mkdir(exist_ok=True)
    folders = {"avatars": avatars, "input": folder / "input", "output": folder / "output"}
    config = replace(ServerConfig(avatar=AVATAR, **folders), **changes)
    holder = ResidentModels(RealtimeModels(networks.codec, networks.generator, networks.audio_encoder))
    engine = RealtimeEngine(holder)
    service = RealtimeService(engine, Workshop(AvatarShelf(avatars, networks.version), holder, networks.models), config)
    engine.warm_up(service.shelf.get(AVATAR))
    engine.start()
    runner = web.AppRunner(create_app(service, config), access_log=None, shutdown_timeout=2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
    try:
        async with aiohttp.ClientSession(headers=headers) as client:
            yield Running(service, engine, client, f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()
        await asyncio.to_thread(engine.stop)


async def until(condition, seconds: float = 30.0) -> None:
    """Wait for a condition that must come true."""
    for _ in range(round(seconds / 0.05)):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not happen")
