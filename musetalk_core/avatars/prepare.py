"""Preparing an avatar: every frame of a source is located, encoded and parsed once, and written down."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch

from ..batches import BatchSize, batch_frames
from ..errors import MuseTalkError
from ..media.source import FrameSource, ShownFrames
from ..media.video_writer import frame_bytes
from ..pipeline import Models, prepare_frames
from ..settings import LipSyncSettings
from ..tasks import whole_track
from ..writing import Progress
from .avatar import REALTIME_FPS, Avatar
from .files import StoredFrames, check_avatar, load_avatar
from .info import AvatarInfo, read_info
from .source_hash import source_hash, source_name
from .store import PreparedBatch, store_avatar
from .timing import Timing

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What an avatar shall be of. fps: frames/s of the avatar; real time needs REALTIME_FPS, None is the source's."""

    source: FrameSource
    settings: LipSyncSettings
    version: str
    fps: Fraction | None = REALTIME_FPS

    def rate(self) -> Fraction:
        """The avatar's frames/s."""
        return self.source.fps if self.fps is None else self.fps


def prepare_avatar(
    name: str,
    source: FrameSource,
    models: Models,
    settings: LipSyncSettings,
    version: str,
    folder: Path,
    progress: Progress | None = None,
    fps: Fraction | None = REALTIME_FPS,
) -> Avatar:
    """Prepare a source as the avatar in `folder` (its own, see files.avatar_folder) and load it from there.

    version: whose networks `models` are. fps: see Order. progress(done, total) is called after every batch, and
    before, when faces are smoothed, while all are located. An avatar that is there already is replaced when the new
    one is whole. Memory: one batch of frames, and latents and mask (0.1 MB) of every frame. Raises MuseTalkError for a
    source without a face (unless settings.allow_no_face), and when the avatar cannot be written.
    """
    order = Order(source, settings, version, fps)
    timing = Timing(len(source), source.fps, order.rate())
    pictures = ShownFrames(source, timing.stored(), source.fps)
    info = AvatarInfo(name, version, settings, timing, source_name(source), source_hash(source), source.size, {})
    store_avatar(info, _batches(pictures, models, settings, progress), folder, progress)
    return load_avatar(folder)


def renew_avatar(
    folder: Path, models: Models, settings: LipSyncSettings, version: str, progress: Progress | None = None
) -> Avatar:
    """Prepare an avatar again from its own frames, with other settings or networks; see prepare_avatar.

    Raises MuseTalkError when the avatar is damaged.
    """
    reason = check_avatar(folder)
    if reason:
        raise MuseTalkError(f"The avatar {folder.name!r} cannot be prepared from itself: {reason}; give its source.")
    info = read_info(folder)
    pictures = StoredFrames(folder, info, len(info.timing.stored()))
    info = replace(info, settings=settings, version=version)
    store_avatar(info, _batches(pictures, models, settings, progress), folder, progress)
    return load_avatar(folder)


def ready_avatar(
    name: str,
    order: Order,
    models: Callable[[], Models],
    folder: Path,
    progress: Progress | None = None,
    again: bool = False,
) -> tuple[Avatar, str]:
    """The avatar as ordered and why it had to be prepared for that, "" when it was there.

    models: called only if it must be prepared. again: prepare it in any case.
    """
    reason = check_avatar(folder, order.source, order.settings, order.version, order.rate())
    if not reason and again:
        reason = "it was asked for"
    if not reason:
        return load_avatar(folder), ""
    log.info("The avatar %s is prepared: %s.", name, reason)
    made = prepare_avatar(name, order.source, models(), order.settings, order.version, folder, progress, order.fps)
    return made, reason


def _batches(
    pictures: FrameSource, models: Models, settings: LipSyncSettings, progress: Progress | None
) -> Iterator[PreparedBatch]:
    track = whole_track(pictures, models.locator, settings, progress)
    size = BatchSize(batch_frames(settings.batch_size, models.codec.device, models.codec.dtype))
    frames, done = iter(pictures.read(range(len(pictures)))), 0
    while batch := [torch.from_numpy(frame_bytes(frame)) for frame in islice(frames, size.frames)]:
        images = torch.stack(batch)
        faces = models.locator.locate(images) if track is None else track.select(range(done, done + len(batch)))
        done += len(batch)
        yield PreparedBatch(batch, faces, prepare_frames(images, faces, models, size))
