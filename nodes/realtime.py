"""An avatar that answers live, on ComfyUI's own server."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..musetalk_core.errors import MuseTalkError
from .avatars import avatars_root
from .comfy_models import ComfyCodec
from .lipsync import model_inputs
from .realtime_routes import LIVE_ROUTES, PREFIX
from .sockets import MuseTalkAvatar


class MuseTalkRealtimeSession(io.ComfyNode):
    """Avatar in, the address of its page out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="MuseTalkRealtimeSession",
            display_name="Realtime Session (MuseTalk)",
            category="MuseTalk",
            description="Puts the avatar on a page where it answers live: to the microphone, to text and to files. It "
            "stays there until this node runs again or ComfyUI ends. While a prompt runs, its mouth stands still.",
            inputs=[
                *model_inputs()[:3],
                MuseTalkAvatar.Input("avatar", tooltip="The avatar of Prepare Avatar or Load Avatar."),
                io.Int.Input(
                    "max_sessions",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="How many pages may be open at a time; each is a speaker of its own. All share the GPU: "
                    "those that speak at the same time need 25 frames a second each.",
                ),
                io.Int.Input(
                    "idle_timeout",
                    default=120,
                    min=1,
                    max=86400,
                    tooltip="Seconds after which a session ends that nobody watches or speaks to.",
                ),
                io.Float.Input(
                    "bitrate",
                    default=2.0,
                    min=0.1,
                    max=100.0,
                    step=0.1,
                    tooltip="Mbit/s of the picture by WebRTC. 2 is enough for 512 pixels, 720p wants 4; less is "
                    "softer, more needs a better network.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="address", tooltip="The page, for a browser on this machine. The node shows it too."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model, vae, audio_encoder, avatar, max_sessions, idle_timeout, bitrate) -> io.NodeOutput:
        from server import PromptServer

        from .realtime_config import config_file, live_config, page_address
        from .realtime_models import ComfyModels

        server = PromptServer.instance
        config = live_config(
            {
                "avatar": avatar.name,
                "max_sessions": max_sessions,
                "idle_timeout": idle_timeout,
                "video_bitrate": round(bitrate * 1e6),
                "avatars": avatars_root(),
                "input": Path(folder_paths.get_input_directory()),
                "output": Path(folder_paths.get_output_directory()) / "musetalk_live",
            }
        )
        models = ComfyModels(model, ComfyCodec(vae), audio_encoder, server.prompt_queue)
        asyncio.run_coroutine_threadsafe(_open(server.app, models, config, model.version), server.loop).result()
        text = page_address()
        if config.token is not None:
            text += f"\nThe page asks for the token in {config_file()}."
        server.send_progress_text(text, cls.hidden.unique_id)  # the one text that ComfyUI's page shows on any node
        return io.NodeOutput(page_address(), ui=ui.PreviewText(text))


async def _open(app, models, config, version: str) -> None:
    """Serve an avatar instead of what was served before; on ComfyUI's event loop."""
    from ..musetalk_core.realtime.avatar_shelf import AvatarShelf
    from ..musetalk_core.realtime.engine import RealtimeEngine
    from ..musetalk_core.realtime.server import route_definitions
    from ..musetalk_core.realtime.service import RealtimeService
    from ..musetalk_core.realtime.workshop import Workshop

    shelf = AvatarShelf(config.avatars, version)
    avatar = await asyncio.to_thread(shelf.get, config.avatar)
    engine = RealtimeEngine(models)
    left = _LeftToNodes()
    service = RealtimeService(engine, Workshop(shelf, left, left.hold), config)
    await app[LIVE_ROUTES].close()
    engine.start()
    warming = asyncio.create_task(asyncio.to_thread(engine.warm_up, avatar))  # once this prompt is done
    app[LIVE_ROUTES].serve(_Live(models, engine, service, avatar, warming), route_definitions(service, config, PREFIX))
    await service.start_push()


@dataclass(frozen=True)
class _Live:
    """What is kept and closed together; the avatar stays in memory for the next session."""

    models: Any
    engine: Any
    service: Any
    avatar: Any
    warming: "asyncio.Task[None]"

    async def close(self) -> None:
        self.models.close()
        await self.service.close()
        await asyncio.gather(self.warming, return_exceptions=True)
        await asyncio.to_thread(self.engine.stop)


class _LeftToNodes:
    """In place of networks for work that would hold ComfyUI's for minutes."""

    def hold(self, *_: Any) -> Any:
        raise MuseTalkError(
            "In ComfyUI avatars are prepared and rendered by the nodes Prepare Avatar and Avatar Lip Sync (MuseTalk); "
            "queue them with POST /prompt, or use the standalone server."
        )
