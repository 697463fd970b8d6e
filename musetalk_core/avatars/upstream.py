"""Avatars that MuseTalk's own real-time script has prepared (scripts/realtime_inference.py at 0a89dec), taken over.

Their folder holds full_imgs/*.png, mask/*.png, coords.pkl, mask_coords.pkl, latents.pt and avator_info.json, each
frame twice: there and back. LiveTalking's folders are the same with each frame once.
"""

import filecmp
import json
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import MuseTalkError
from ..faces.track import FaceTrack
from ..generator import SCALING
from ..media.images import ImageFolder, read_image
from ..pipeline import PreparedFrame
from ..settings import LipSyncSettings
from ..writing import Progress
from .avatar import REALTIME_FPS, Avatar
from .files import load_avatar
from .info import AvatarInfo
from .number_pickle import load_boxes
from .source_hash import source_hash
from .store import PreparedBatch, store_avatar
from .timing import Timing

VERSIONS = {"v1": "v1.0", "v15": "v1.5"}
REALTIME_BLUR = 0.1  # upstream's real-time masks are blurred twice as far as its offline ones
BOX_BYTES = 1024  # more than a pickled box of four numpy numbers takes
LATENT_SHAPE = (1, 8, 32, 32)
LATENT_BYTES = 8 * 32 * 32 * 4 + 4096  # in float32, with what torch's format adds
SLACK_BYTES = 2**20
NO_FACE = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Upstream:
    """An upstream avatar as it is found. boxes: faces' crops; regions: where the mask pictures lie; latents: of the
    frames that have a face, scaled.
    """

    frames: ImageFolder
    masks: ImageFolder
    boxes: Sequence[tuple[int, ...]]
    regions: Sequence[tuple[int, ...]]
    latents: Sequence[torch.Tensor]

    def count(self) -> int:
        """Frames without those on the way back."""
        total, half = len(self.boxes), len(self.boxes) // 2
        if total < 2 or total % 2 or list(self.boxes) != list(self.boxes)[::-1]:
            return total
        files = self.frames.files
        same = all(filecmp.cmp(files[k], files[total - 1 - k], shallow=False) for k in range(half))
        return half if same else total


def import_avatar(source: Path, name: str, folder: Path, progress: Progress | None = None) -> Avatar:
    """Take over the upstream avatar in `source` as the avatar in `folder`, at 25 frames/s, and load it from there.

    Its crops, masks and latents are kept, so it looks as it did upstream. No code in its files is run. Raises
    MuseTalkError, naming the file, for files that are missing, do not fit together, or hold anything else.
    """
    described = _described(source)
    found = _read(source)
    count = found.count()
    timing = Timing(count, REALTIME_FPS, REALTIME_FPS)
    version = VERSIONS[described.get("version", "v1")]
    settings = LipSyncSettings.for_version(version, bbox_shift=described["bbox_shift"], blur=REALTIME_BLUR)
    info = AvatarInfo(
        name, version, settings, timing, source.name, source_hash(found.frames), found.frames.size, files={}
    )
    store_avatar(info, _batches(found, count), folder, progress)
    return load_avatar(folder)


def _described(source: Path) -> dict[str, Any]:
    """avator_info.json (upstream's spelling)."""
    file = source / "avator_info.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"{file} cannot be read ({error}); give a folder that MuseTalk has prepared.") from error
    if not isinstance(content, dict) or content.get("version", "v1") not in VERSIONS:
        raise MuseTalkError(f"{file} names no version of MuseTalk (v1 or v15); prepare the avatar from its video.")
    return {"bbox_shift": 0, **content}


def _read(source: Path) -> _Upstream:
    for name in ("full_imgs", "mask"):
        if not (source / name).is_dir():
            raise MuseTalkError(f"There is no folder {source / name}; give a folder that MuseTalk has prepared.")
    frames = ImageFolder(source / "full_imgs", REALTIME_FPS)
    limit = len(frames) * BOX_BYTES + SLACK_BYTES
    boxes, regions = (load_boxes(source / name, limit) for name in ("coords.pkl", "mask_coords.pkl"))
    masks = _MaskFolder(source / "mask", REALTIME_FPS)
    counts = {"full_imgs": len(frames), "coords.pkl": len(boxes), "mask_coords.pkl": len(regions), "mask": len(masks)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise MuseTalkError(f"The files of {source} are of different numbers of frames ({told}); prepare it again.")
    faces = sum(box != NO_FACE for box in boxes)
    latents = _latents(source / "latents.pt", faces)
    return _Upstream(frames, masks, [_whole(box) for box in boxes], [_whole(box) for box in regions], latents)


class _MaskFolder(ImageFolder):
    """Mask pictures, each of its own size."""

    def _check_size(self, file: Path, size: tuple[int, ...]) -> None:
        pass


def _whole(box: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(int(value) for value in box)


def _latents(file: Path, faces: int) -> list[torch.Tensor]:
    limit = faces * LATENT_BYTES + SLACK_BYTES
    try:
        length = file.stat().st_size
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                length = max(length, sum(item.file_size for item in archive.infolist()))
        if length > limit:
            raise MuseTalkError(f"{file} holds {length} bytes, more than {limit} for {faces} faces; it is refused.")
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise MuseTalkError(f"{file} is refused: it is damaged or holds more than tensors; do not trust it.") from error
    except OSError as error:
        raise MuseTalkError(f"{file} cannot be read: {error.strerror}.") from error
    fit = isinstance(content, list) and all(
        isinstance(item, torch.Tensor) and tuple(item.shape) == LATENT_SHAPE and item.is_floating_point()
        for item in content
    )
    if not fit or len(content) != faces:
        raise MuseTalkError(
            f"{file} does not hold a tensor {LATENT_SHAPE} for each of {faces} faces; prepare it again."
        )
    return content


def _batches(found: _Upstream, count: int) -> Iterator[PreparedBatch]:
    latents = iter(found.latents)
    pictures = zip(found.frames.read(range(count)), found.masks.files, found.boxes, found.regions, strict=False)
    for frame, mask, box, region in pictures:
        track = FaceTrack.absent(1, found.frames.size)
        if not any(box):
            yield PreparedBatch([frame], track, [PreparedFrame(reason=str(track.reasons[0]))])
            continue
        _check_box(box, found.frames.size)
        corners = np.array(box, np.float32)
        faces = FaceTrack(corners[None], track.landmarks, np.array([True]), track.image_size)
        latent = next(latents).float() / SCALING
        prepared = PreparedFrame(corners, latent[0, :4], latent[0, 4:], _mask(mask, box, region))
        yield PreparedBatch([frame], faces, [prepared])


def _check_box(box: tuple[int, ...], size: tuple[int, int]) -> None:
    (x1, y1, x2, y2), (height, width) = box, size
    if not (x1 < x2 and y1 < y2 and max(-x1, x2 - width) <= width and max(-y1, y2 - height) <= height):
        raise MuseTalkError(f"A box of the avatar is {box} in pictures of {width}x{height}; prepare it again.")


def _mask(file: Path, box: tuple[int, ...], region: tuple[int, ...]) -> np.ndarray:
    """The part of a mask picture, which covers `region` of the frame, that lies in the box: the rest has no effect."""
    mask = read_image(file).numpy()[..., 0]
    left, top = box[0] - region[0], box[1] - region[1]
    part = mask[max(top, 0) : box[3] - region[1], max(left, 0) : box[2] - region[0]]
    wide, high = box[2] - box[0], box[3] - box[1]
    if mask.shape != (region[3] - region[1], region[2] - region[0]) or part.shape != (high, wide):
        raise MuseTalkError(f"{file} does not cover its face {box}; prepare the avatar again.")
    return np.ascontiguousarray(part)
