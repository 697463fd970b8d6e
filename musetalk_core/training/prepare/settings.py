"""What preparing depends on."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ...errors import MuseTalkError
from ...settings import DetectorChoice

EncoderChoice = Literal["whisper", "demo", "none"]
ENCODERS: tuple[EncoderChoice, ...] = ("whisper", "demo", "none")


@dataclass(frozen=True)
class PrepareSettings:
    """How videos become clips.

    clip_seconds: length that videos are cut to; min_seconds: shorter clips are rejected. min_face: least width of the
    face in pixels, in the clip's median frame. val_share: share of the sources that are for validation. detector as in
    faces.backends; detect_every: it searches every n-th frame and follows between. What follows does not change the
    clips: audio_encoder: whose features are stored; models: the weights' folder, None for the default; device;
    threads: of torch and of the video encoder, in each process.
    """

    clip_seconds: float = 30.0
    min_seconds: float = 1.0
    min_face: int = 150
    val_share: float = 0.02
    detector: DetectorChoice = "auto"
    detect_every: int = 1
    audio_encoder: EncoderChoice = "whisper"
    models: Path | None = None
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.clip_seconds < self.min_seconds or self.min_seconds < 0.08:
            raise MuseTalkError(
                f"Clips of {self.clip_seconds:g} s with at least {self.min_seconds:g} s cannot be cut; give "
                "clip_seconds >= min_seconds >= 0.08."
            )
        if not 0 <= self.val_share <= 1:
            raise MuseTalkError(f"val_share is {self.val_share:g}; give 0 to 1.")
        if self.detect_every < 1 or self.threads < 1:
            raise MuseTalkError("detect_every and threads must be 1 or more.")

    @property
    def key(self) -> str:
        """Equal for settings that give the same clips."""
        names = ("clip_seconds", "min_seconds", "min_face", "detector", "detect_every")
        facts: dict[str, Any] = asdict(self)
        return json.dumps({name: facts[name] for name in names}, sort_keys=True)
