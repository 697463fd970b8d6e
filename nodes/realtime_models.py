"""The networks of live avatars under ComfyUI's memory management, in turns with the queue's prompts."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..musetalk_core.errors import MuseTalkError
from ..musetalk_core.realtime.engine import RealtimeModels
from .comfy_models import ComfyAudioEncoder, ComfyCodec, ComfyGenerator, load_on_device

LOOK_AGAIN = 0.02  # seconds
MOST_FRAMES = 8  # of the engine's batches


class ComfyModels:
    """A ModelHolder that gives the networks to the live engine while no prompt waits or runs.

    ComfyUI's memory management is for one thread, and a prompt may unload what it does not use: so a batch of live
    frames holds the lock of the queue (PromptServer's prompt_queue), which a prompt needs to start, and while a prompt
    runs the avatar speaks with a mouth that stands still.
    """

    def __init__(self, model: ComfyGenerator, codec: ComfyCodec, encoder: ComfyAudioEncoder, queue: Any) -> None:
        self._models = RealtimeModels(codec, model.generator, encoder.encoder)
        self._patchers = [model.patcher, codec.patcher, encoder.patcher]
        self._memory = max(model.memory(MOST_FRAMES), codec.memory(MOST_FRAMES))
        self._queue = queue
        self._closed = False

    @contextmanager
    def hold(self) -> Iterator[RealtimeModels]:
        """The networks on their devices, once no prompt waits or runs; raises MuseTalkError after close()."""
        while True:
            with self._queue.mutex:
                if self._closed:
                    raise MuseTalkError("The live avatar was closed; run Realtime Session (MuseTalk) again.")
                if not self._queue.queue and not self._queue.currently_running:
                    if any(patcher.current_loaded_device() != patcher.load_device for patcher in self._patchers):
                        load_on_device(self._patchers, self._memory)
                    yield self._models
                    return
            time.sleep(LOOK_AGAIN)

    def close(self) -> None:
        """Nobody gets the networks any more, and who waits for them does not wait longer."""
        self._closed = True
