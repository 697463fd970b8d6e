"""Our way: the engine that every command runs, around random networks of the true architecture."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from ..audio_features import WhisperEncoder
from ..blending import Masker
from ..face_parsing import FaceParser
from ..faces.detector import Face, FaceDetector
from ..faces.locator import FaceLocator
from ..generator import MuseTalkGenerator
from ..latents import DiffusersCodec
from ..media.video_reader import VideoReader
from ..nets.s3fd import S3FD
from ..pipeline import Models
from ..settings import LipSyncSettings
from ..tasks import LipSyncVideo
from ..weights.layouts import MUSETALK_LAYOUT
from .clip import Clip
from .networks import random_bisenet, random_s3fd, random_unet, random_vae, random_whisper


class Fast:
    """The engine's parts on a device in a dtype. s3fd: faces are searched by S3FD too, in every frame."""

    def __init__(self, device: torch.device, dtype: torch.dtype, s3fd: bool = False) -> None:
        self.device = device
        self.codec = DiffusersCodec(random_vae(dtype, device), device, dtype)
        self.generator = MuseTalkGenerator(random_unet(dtype, device), MUSETALK_LAYOUT, device, dtype)
        self.parser = FaceParser(random_bisenet(device), device)
        self.whisper = WhisperEncoder(random_whisper(device), device, torch.float32)
        nets: Any = FaceDetector.load_nets().to(device)
        self.detector = FaceDetector(nets, device)
        self.searching = _Searching(random_s3fd(device), self.detector, device) if s3fd else self.detector
        self.settings = LipSyncSettings.for_version("v1.5")

    def models(self) -> Models:
        """What the pipeline takes."""
        locator = FaceLocator(self.searching, extra_margin=self.settings.extra_margin)
        return Models(self.codec, self.codec, self.generator, locator, Masker(self.parser, self.settings.mask))

    def run(self, clip: Clip, folder: Path) -> Path:
        """Make the clip's video in `folder` as `infer` does."""
        output = folder / "fast.mp4"
        source = _Start(VideoReader(clip.video), clip.frames)
        sound = clip.sound()
        video = LipSyncVideo(source, sound, source.fps, self.whisper, self.models(), self.settings, "bench")
        report = video.write(output)
        assert report.frames == clip.frames, report.frames
        return output


class _Searching:
    """The embedded detector after S3FD, whose answer (random weights see nothing) is not used. As in the real detector
    with S3FD, faces are searched in every frame and followed without it."""

    def __init__(self, s3fd: S3FD, detector: FaceDetector, device: torch.device) -> None:
        self._s3fd, self._detector, self._device = s3fd, detector, device

    def detect(self, frame: torch.Tensor) -> list[Face]:
        self._s3fd.find(frame.permute(2, 0, 1)[None].to(self._device))
        return self._detector.detect(frame)

    def follow(self, frame: torch.Tensor, faces: Sequence[Face]) -> list[Face | None]:
        return self._detector.follow(frame, faces)


class _Start:
    """The first frames of a source."""

    def __init__(self, source: VideoReader, frames: int) -> None:
        self._source, self._frames = source, frames
        self.fps: Fraction = source.fps
        self.size, self.tags, self.read = source.size, source.tags, source.read

    def __len__(self) -> int:
        return self._frames
