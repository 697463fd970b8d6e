"""Preparing an avatar: every frame of a source is located, encoded and parsed once, and written down."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import torch

from ..errors import MuseTalkError
from ..faces.track import FaceTrack
from ..faces.track_file import save_track
from ..media.container import LIBRARY_ERROR
from ..media.lossless import LosslessWriter
from ..media.source import FrameSource, ShownFrames
from ..media.video_writer import frame_bytes
from ..pipeline import Models, PreparedFrame, prepare_frames
from ..report import Report
from ..settings import LipSyncSettings
from ..tasks import Progress, whole_track
from .avatar import REALTIME_FPS, Avatar
from .files import (
    FRAMES,
    LATENTS,
    TRACK,
    StoredFrames,
    check_avatar,
    load_avatar,
    new_part,
    put_in_place,
    save_latents,
)
from .info import INFO, AvatarInfo, StoredFile, read_info
from .source_hash import source_hash, source_name
from .timing import Timing

log = logging.getLogger(__name__)

LATENT_SIZE = (4, 32, 32)


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
    return _prepare(info, pictures, models, folder, progress)


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
    return _prepare(replace(info, settings=settings, version=version), pictures, models, folder, progress)


def ready_avatar(
    name: str, order: Order, models: Callable[[], Models], folder: Path, progress: Progress | None = None
) -> tuple[Avatar, str]:
    """The avatar as ordered and why it had to be prepared for that, "" when it was there.

    models: called only if it must be prepared.
    """
    reason = check_avatar(folder, order.source, order.settings, order.version, order.rate())
    if not reason:
        return load_avatar(folder), ""
    log.info("The avatar %s is prepared: %s.", name, reason)
    return prepare_avatar(
        name, order.source, models(), order.settings, order.version, folder, progress, order.fps
    ), reason


def _prepare(
    info: AvatarInfo, pictures: FrameSource, models: Models, folder: Path, progress: Progress | None
) -> Avatar:
    try:
        part = new_part(folder)
        try:
            _write(part, info, pictures, models, progress)
            put_in_place(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except (OSError, LIBRARY_ERROR) as error:
        raise MuseTalkError(f"The avatar {info.name!r} cannot be written to {folder}: {error}.") from error
    return load_avatar(folder)


def _write(part: Path, info: AvatarInfo, pictures: FrameSource, models: Models, progress: Progress | None) -> None:
    """Fill the folder of a new avatar, avatar.json last."""
    from safetensors import SafetensorError

    settings = info.settings
    track = whole_track(pictures, models.locator, settings, progress)
    tracks, prepared = [], list[PreparedFrame]()
    frames = iter(pictures.read(range(len(pictures))))
    with LosslessWriter(part / FRAMES, info.timing.fps, info.size) as video:
        while batch := [torch.from_numpy(frame_bytes(frame)) for frame in islice(frames, settings.batch_size)]:
            rows = range(len(prepared), len(prepared) + len(batch))
            images = torch.stack(batch)
            tracks.append(models.locator.locate(images) if track is None else track.select(rows))
            prepared += prepare_frames(images, tracks[-1], models, settings.batch_size)
            for frame in batch:
                video.write(frame)
            if progress is not None:
                progress(len(prepared), len(pictures))
    whole = FaceTrack.join(tracks)
    if not whole.present.any() and not settings.allow_no_face:
        raise MuseTalkError(Report.of_track(whole).nothing_found())
    save_track(part / TRACK, whole)
    size = next((tuple(frame.masked.shape) for frame in prepared if frame.masked is not None), LATENT_SIZE)
    try:
        save_latents(part / LATENTS, prepared, size)
    except SafetensorError as error:
        raise MuseTalkError(f"The avatar {info.name!r} cannot be written: {error}.") from error
    files = {file: StoredFile.of(part / file) for file in (TRACK, LATENTS, FRAMES)}
    (part / INFO).write_text(replace(info, files=files).text(), encoding="utf-8")
