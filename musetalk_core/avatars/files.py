"""Avatars on disk: a folder with avatar.json, track.json, latents.safetensors and frames.mkv."""

import re
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from ..errors import MuseTalkError
from ..faces.track_file import load_track
from ..media.source import FrameSource, ShownFrames, TensorFrames
from ..media.video_reader import VideoReader
from ..room import check_memory, free_memory
from ..settings import LipSyncSettings
from .avatar import REALTIME_FPS, Avatar
from .info import DATA, FRAMES, INFO, LATENTS, TRACK, AvatarInfo, StoredFile, preparing, read_info
from .source_hash import source_hash
from .store import recover

MOST_LETTERS = 64
DEVICES = {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(10))}
SPARE_BYTES = 512 * 2**20


class StoredFrames:
    """The stored pictures of an avatar. The file is open only while it is read, so that it can be replaced."""

    def __init__(self, folder: Path, info: AvatarInfo, count: int) -> None:
        self.folder, self.size, self.fps = folder, info.size, info.timing.fps
        self.tags: dict[str, str] = {}
        self._info, self._count = info, count

    def __len__(self) -> int:
        return self._count

    def read(self, indices: Iterable[int]) -> Iterator[torch.Tensor]:
        """Yield frames (H,W,3) uint8; see FrameSource.read. Raises MuseTalkError when they are not those any more."""
        if _reason(self.folder) or read_info(self.folder) != self._info:
            raise MuseTalkError(
                f"The avatar {self._info.name!r} was changed after it was loaded; load it again (run the graph again)."
            )
        with VideoReader(self.folder / FRAMES) as reader:
            yield from reader.read(indices)


def avatar_folder(root: Path, name: str) -> Path:
    """The folder of an avatar among others in `root`. Raises MuseTalkError for a name that is not a plain one."""
    plain = re.fullmatch(r"\w[\w .+-]*", name) and not name.endswith((".", " "))
    if not plain or len(name) > MOST_LETTERS or name.split(".")[0].lower() in DEVICES:
        raise MuseTalkError(
            f"The name {name!r} cannot be that of a folder or file; give up to {MOST_LETTERS} letters, digits, spaces, "
            "points and - _ +, beginning with a letter or digit."
        )
    return root / name


def list_avatars(root: Path) -> list[str]:
    """The names of the avatars in a folder, sorted."""
    if not root.is_dir():
        return []
    for old in root.glob(".*.old"):
        recover(root / old.name[1:].rsplit(".", 2)[0])
    return sorted(file.parent.name for file in root.glob(f"*/{INFO}") if not file.parent.name.startswith("."))


def load_avatar(folder: Path, in_memory: bool = False) -> Avatar:
    """The avatar in a folder (its own, see avatar_folder).

    in_memory: its frames are held as one uint8 tensor, for real time; otherwise they are read when they are asked
    for. Raises MuseTalkError when something is missing or damaged; for real time also when it is not at REALTIME_FPS,
    and with the numbers when memory does not suffice.
    """
    reason = check_avatar(folder)
    if reason:
        raise MuseTalkError(f"The avatar {folder.name!r} cannot be used: {reason}; prepare it again.")
    info = read_info(folder)
    if in_memory and info.timing.fps != REALTIME_FPS:
        raise MuseTalkError(
            f"The avatar {folder.name!r} has {info.timing.fps} frames/s and real time needs {REALTIME_FPS}; prepare it "
            "again with fps 25."
        )
    tensors = _tensors(folder, info)
    track = load_track(folder / TRACK)
    masks = _masks(tensors["masks"].numpy(), tensors["mask_sizes"].numpy())
    stored, places = len(track), info.timing.places()
    if {len(tensors["masked"]), len(tensors["reference"]), len(masks), max(places) + 1} != {stored}:
        raise MuseTalkError(f"The avatar {folder.name!r} cannot be used: its files do not fit; prepare it again.")
    kept = StoredFrames(folder, info, stored)
    frames: FrameSource = _in_memory(kept) if in_memory else kept
    masked, reference = tensors["masked"], tensors["reference"]
    if places != list(range(stored)):
        frames, track = ShownFrames(frames, places, info.timing.fps), track.select(places)
        masked, reference, masks = masked[places], reference[places], [masks[k] for k in places]
    return Avatar(folder.name, frames, track, masked, reference, tuple(masks), info.settings, info.version)


def check_avatar(
    folder: Path,
    source: FrameSource | None = None,
    settings: LipSyncSettings | None = None,
    version: str | None = None,
    fps: Fraction | None = None,
    every_byte: bool = False,
) -> str:
    """Why an avatar must be prepared (again), "" when it need not.

    source, settings, version, fps: what it shall be of; None is not looked at. Settings that count only while it
    speaks (info.SPEAKING) may differ. every_byte: the files' content is compared with its checksum, not their length
    alone.
    """
    recover(folder)
    reason = _reason(folder, every_byte)
    if reason:
        return reason
    info = read_info(folder)
    if version not in (None, info.version):
        return f"it was prepared with {info.version}, now {version} is wanted"
    if fps not in (None, info.timing.fps):
        return f"it has {info.timing.fps} frames/s, now {fps} are wanted"
    if settings is not None:
        before, now = preparing(info.settings), preparing(settings)
        for name in now:
            if before[name] != now[name]:
                return f"{name} is {now[name]}, it was prepared with {before[name]}"
    if source is not None and source_hash(source) != info.source_hash:
        return "the source has changed"
    return ""


def _reason(folder: Path, every_byte: bool = False) -> str:
    """Why the files cannot be used, "" when they can."""
    if not folder.is_dir():
        return "it is not prepared yet"
    try:
        info = read_info(folder)
    except MuseTalkError as error:
        return str(error)
    for name in DATA:
        if name not in info.files or not (folder / name).is_file():
            return f"{name} is missing"
        length, wanted = (folder / name).stat().st_size, info.files[name].length
        if length != wanted:
            return f"{name} has {length} of {wanted} bytes"
        if every_byte and StoredFile.of(folder / name) != info.files[name]:
            return f"{name} is damaged"
    return ""


def _tensors(folder: Path, info: AvatarInfo) -> Mapping[str, torch.Tensor]:
    """The content of the latents' file, copied into memory so that the file can be replaced."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load((folder / LATENTS).read_bytes())
    except SafetensorError as error:
        raise MuseTalkError(
            f"The avatar {info.name!r} cannot be used: {LATENTS} is damaged; prepare it again."
        ) from error
    for name in ("masked", "reference", "masks", "mask_sizes"):
        if name not in tensors:
            raise MuseTalkError(f"The avatar {info.name!r} cannot be used: {LATENTS} lacks {name}; prepare it again.")
    return tensors


def _masks(packed: np.ndarray, sizes: np.ndarray) -> list[np.ndarray | None]:
    """The masks (height, width) uint8, views of the packed bytes; None where none is."""
    ends = np.cumsum(sizes.prod(1, dtype=np.int64))
    if len(ends) == 0 or ends[-1] != len(packed):
        raise MuseTalkError(f"{LATENTS} holds {len(packed)} bytes of masks, their sizes ask for another number.")
    return [
        packed[end - height * width : end].reshape(height, width) if height else None
        for end, (height, width) in zip(ends, sizes, strict=True)
    ]


def _in_memory(frames: StoredFrames) -> TensorFrames:
    height, width = frames.size
    needed = len(frames) * height * width * 3
    what = f"The avatar {frames.folder.name!r} with its {len(frames)} frames of {width}x{height}"
    advice = "prepare it from a shorter or a smaller video"
    check_memory(what, needed + SPARE_BYTES, free_memory(), advice)
    held = torch.empty((len(frames), height, width, 3), dtype=torch.uint8)
    for k, frame in enumerate(frames.read(range(len(frames)))):
        held[k] = frame
    return TensorFrames(held, frames.fps)
