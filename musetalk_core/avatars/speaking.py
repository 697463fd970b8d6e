"""An avatar says a sound: the loop of the pipeline without locating, encoding or parsing anything."""

from collections import abc
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from ..audio_features import AudioEncoder, TokenSource
from ..batches import steady_frames
from ..errors import MuseTalkError
from ..execution import Execution
from ..generator import Generator
from ..latents import Codec
from ..media.audio import AudioSource
from ..media.encoding import Encoding
from ..media.video_writer import VideoWriter
from ..pipeline import PreparedFrame, speak
from ..report import Report
from ..room import check_video_room
from ..settings import LipSyncSettings
from ..tasks import made_by, stream_tokens
from ..timeline import output_count, rational_fps
from ..writing import Progress, write_frames
from .avatar import Avatar


def avatar_lip_sync(
    avatar: Avatar,
    tokens: TokenSource,
    frames: int,
    generator: Generator,
    codec: Codec,
    settings: LipSyncSettings,
    report: Report,
) -> abc.Generator[torch.Tensor, None, None]:
    """Yield `frames` frames (H,W,3) uint8 of the avatar saying the tokens, as pipeline.lip_sync would.

    codec decodes. settings: those of info.SPEAKING count, the others are the avatar's.
    """

    def prepare(_: Sequence[torch.Tensor], indices: Sequence[int]) -> list[PreparedFrame]:
        return [avatar.prepared(k) for k in indices]

    execution = Execution.on(codec.device)
    return speak(avatar.frames, tokens, frames, generator, codec, settings, prepare, report, execution)


@dataclass(frozen=True)
class AvatarVideo:
    """An avatar and a sound that become a video.

    fps: frames/s of the result, None for the avatar's. generator, codec and audio_encoder: on their devices; version:
    whose weights they are. settings: the avatar's, with other ones of info.SPEAKING where wanted.
    """

    avatar: Avatar
    audio: AudioSource
    fps: Fraction | None
    audio_encoder: AudioEncoder
    generator: Generator
    codec: Codec
    settings: LipSyncSettings
    version: str

    def __post_init__(self) -> None:
        if self.version != self.avatar.version:
            raise MuseTalkError(
                f"The avatar {self.avatar.name!r} was prepared with {self.avatar.version} and the model is "
                f"{self.version}; load {self.avatar.version} or prepare the avatar again."
            )

    @property
    def rate(self) -> Fraction:
        """Frames/s of the result."""
        return rational_fps(self.avatar.frames.fps if self.fps is None else self.fps)

    @property
    def count(self) -> int:
        """Frames of the result. Raises MuseTalkError for sound shorter than a frame."""
        return output_count(self.audio.seconds, self.rate, len(self.avatar), self.avatar.frames.fps, self.settings.mode)

    def frames(self, report: Report) -> abc.Generator[torch.Tensor, None, None]:
        """Yield the result's frames (H,W,3) uint8, in memory that does not grow with the sound's length."""
        tokens = stream_tokens(self.audio_encoder, self.audio, self.rate, self.settings)
        return avatar_lip_sync(self.avatar, tokens, self.count, self.generator, self.codec, self.settings, report)

    def write(
        self,
        output: Path,
        encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Report:
        """Make the video file, which appears only when it is whole; see LipSyncVideo.write."""
        report, count = Report(), self.count
        cut = count / self.rate if self.settings.mode == "trim" else None
        tags = made_by({}, self.version, self.settings)
        size = self.avatar.frames.size
        check_video_room(output, size, count, encoding, steady_frames(self.settings.batch_size))
        with VideoWriter(output, self.rate, size, self.audio, cut, encoding, tags, overwrite) as writer:
            write_frames(writer, self.frames(report), count, progress, Execution.on(self.codec.device).overlap)
        return report

    def speed(self, clock: Callable[[], float], progress: Progress | None = None) -> float:
        """Frames/s of making all frames without writing them."""
        started = clock()
        with closing(self.frames(Report())) as frames:
            for done, _ in enumerate(frames, 1):
                if progress is not None:
                    progress(done, self.count)
        return self.count / (clock() - started)
