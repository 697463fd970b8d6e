"""The engine: one thread that makes the mouths of all sessions."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ..audio_features import AudioEncoder
from ..avatars.avatar import Avatar
from ..generator import Generator
from ..latents import Codec
from .session import Session


@dataclass(frozen=True)
class RealtimeModels:
    """The networks of real time, each already on its device."""

    codec: Codec
    generator: Generator
    audio_encoder: AudioEncoder


class ModelHolder(Protocol):
    """Who owns the networks. A holder may take a lock, and load them, whenever they are held."""

    def hold(self) -> AbstractContextManager[RealtimeModels]:
        """The networks, ready to run until the context ends."""
        ...


@dataclass(frozen=True)
class ResidentModels:
    """A ModelHolder of networks that stay where they are and nobody else uses."""

    models: RealtimeModels

    def hold(self) -> AbstractContextManager[RealtimeModels]:
        """The networks, at once."""
        raise NotImplementedError


class RealtimeEngine:
    """Sessions share it; it batches their frames."""

    def __init__(self, holder: ModelHolder) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Start the worker thread."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the worker thread and wait for it; open sessions stay idle."""
        raise NotImplementedError

    def session(self, avatar: Avatar, max_queued_seconds: float = 600.0) -> Session:
        """A new session of an avatar."""
        raise NotImplementedError
