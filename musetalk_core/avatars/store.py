"""Writing avatars: in a folder beside the one they get, which takes its place when all is whole."""

import os
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import MuseTalkError
from ..faces.track import FaceTrack
from ..faces.track_file import save_track
from ..media.container import LIBRARY_ERROR
from ..media.lossless import LosslessWriter
from ..pipeline import PreparedFrame
from ..report import Report
from ..writing import Progress
from .info import DATA, FRAMES, INFO, LATENTS, TRACK, AvatarInfo, StoredFile

STALE_SECONDS = 3600.0
LATENT_SIZE = torch.Size((4, 32, 32))
# In the names of folders beside an avatar; a plain * would find those of other avatars whose names go on after a point.
NUMBER = "[0-9a-f]" * 12


@dataclass(frozen=True)
class PreparedBatch:
    """Consecutive frames (H,W,3) uint8, their faces, and what is made of them."""

    frames: Sequence[torch.Tensor]
    faces: FaceTrack
    prepared: Sequence[PreparedFrame]


def store_avatar(
    info: AvatarInfo, batches: Iterable[PreparedBatch], folder: Path, progress: Progress | None = None
) -> None:
    """Write the stored frames of an avatar, batch after batch as they come, and give it its folder.

    info.files is filled in. progress(done, total) is called after every batch. Raises MuseTalkError for frames none of
    which has a face (unless the settings allow it), and when something cannot be written; the folder is then as before.
    """
    from safetensors import SafetensorError

    try:
        part = _new_part(folder)
        try:
            _write(part, info, batches, progress)
            _put_in_place(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except (OSError, LIBRARY_ERROR, SafetensorError) as error:
        raise MuseTalkError(f"The avatar {info.name!r} cannot be written to {folder}: {error}.") from error


def _write(part: Path, info: AvatarInfo, batches: Iterable[PreparedBatch], progress: Progress | None) -> None:
    """Fill the folder of a new avatar, avatar.json last."""
    tracks: list[FaceTrack] = []
    prepared: list[PreparedFrame] = []
    total = len(info.timing.stored())
    with LosslessWriter(part / FRAMES, info.timing.fps, info.size) as video:
        for batch in batches:
            tracks.append(batch.faces)
            prepared += batch.prepared
            for frame in batch.frames:
                video.write(frame)
            if progress is not None:
                progress(len(prepared), total)
    track = FaceTrack.join(tracks)
    if not track.present.any() and not info.settings.allow_no_face:
        raise MuseTalkError(Report.of_track(track).nothing_found())
    save_track(part / TRACK, track)
    _save_latents(part / LATENTS, prepared)
    files = {file: StoredFile.of(part / file) for file in DATA}
    (part / INFO).write_text(replace(info, files=files).text(), encoding="utf-8")


def _save_latents(path: Path, prepared: Sequence[PreparedFrame]) -> None:
    """Write latents and masks of prepared frames.

    masked, reference: (N,4,h,w) float32, zeros where no face is. masks: (bytes,) uint8, all masks row by row, one after
    the other. mask_sizes: (N,2) int32, their (height, width), zeros where none is.
    """
    from safetensors.torch import save_file

    nothing = torch.zeros(next((frame.masked.shape for frame in prepared if frame.masked is not None), LATENT_SIZE))
    masks = [np.zeros((0, 0), np.uint8) if frame.mask is None else frame.mask for frame in prepared]
    tensors = {
        "masked": torch.stack([nothing if frame.masked is None else frame.masked for frame in prepared]),
        "reference": torch.stack([nothing if frame.reference is None else frame.reference for frame in prepared]),
        "masks": torch.from_numpy(np.concatenate([mask.ravel() for mask in masks])),
        "mask_sizes": torch.tensor([mask.shape for mask in masks], dtype=torch.int32),
    }
    save_file(tensors, path)


def _new_part(folder: Path) -> Path:
    """An empty folder beside an avatar's, to prepare it in. What killed preparations have left there is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover(folder)
    for left in folder.parent.glob(f".{folder.name}.{NUMBER}.part"):
        newest = max((file.stat().st_mtime for file in [left, *left.iterdir()]), default=0.0)
        if time.time() - newest > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    part = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.part")
    part.mkdir()
    return part


def _put_in_place(part: Path, folder: Path) -> None:
    """Give a whole new avatar its place; an older one leaves it only then, and its other files (actions) stay."""
    if not folder.exists():
        part.rename(folder)
        return
    for file in folder.iterdir():
        if file.name not in (INFO, *DATA):
            copy = shutil.copytree if file.is_dir() else shutil.copy2
            copy(file, part / file.name)
    old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.old")
    folder.rename(old)
    try:
        part.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def recover(folder: Path) -> None:
    """Put the older avatar back where a process was killed between taking it away and placing the new one."""
    if folder.exists():
        return
    olds = [old for old in folder.parent.glob(f".{folder.name}.{NUMBER}.old") if (old / INFO).is_file()]
    if olds:
        os.rename(max(olds, key=lambda old: old.stat().st_mtime), folder)
