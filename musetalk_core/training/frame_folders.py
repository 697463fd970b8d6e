"""Samples of MuseTalk 1.0's training data: folders of face crops and of audio features, one file a frame."""

import re
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import MuseTalkError
from ..latents import CROP_SIZE

APART = 5  # frames; the reference is further away than this
REACH = 2  # frames of sound before and after a frame
WHOLE_WINDOW = 50  # tokens of a frame with its neighbours


class FrameFolders(Dataset[dict[str, torch.Tensor]]):
    """Pairs of a target and a reference, as the branch train_codes and MuseTalk_train lay them out.

    folder: holds images/<path>/<number>.png, the face crops, and audios/<path>/<number, six digits>.npy, Whisper's
    hidden states of a frame; lists: lines "<path> TAB <frames>", found in <folder>/filelists/<split>.txt or
    <folder>/<split>.txt. samples, seed: as for ClipWindows.

    A sample: target and reference (1,3,256,256) float32 in [-1,1], more than 5 frames apart; tokens (1,50,D) float32.
    A feature file holds the frame's own rows (2,5,D), which are joined with those of two frames before and after
    (zeros outside), or the whole window (10,5,D) or (50,D).
    """

    def __init__(self, folder: Path, split: str, samples: int, seed: int = 0) -> None:
        self._folder, self._samples, self._seed = folder, samples, seed
        self._pictures = [(path, _pictures(folder / "images" / path)) for path in _listed(folder, split)]

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Sample `index`. Raises MuseTalkError, naming the file, for one that is missing or wrong."""
        if not 0 <= index < self._samples:
            raise IndexError(f"sample {index} of {self._samples}")
        draw = np.random.default_rng([self._seed, index])
        path, pictures = self._pictures[int(draw.integers(len(self._pictures)))]
        place = int(draw.integers(len(pictures)))
        places = np.arange(len(pictures))
        apart = places[np.abs(places - place) > APART]
        if not len(apart):
            raise MuseTalkError(
                f"{self._folder / 'images' / path} has {len(pictures)} pictures, none more than {APART} from {place}."
            )
        other = pictures[int(draw.choice(apart))]
        tokens = _tokens(self._folder / "audios" / path, int(pictures[place].stem))
        return {"target": _picture(pictures[place]), "reference": _picture(other), "tokens": tokens[None]}


def _listed(folder: Path, split: str) -> list[str]:
    places = [folder / "filelists" / f"{split}.txt", folder / f"{split}.txt"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise MuseTalkError(f"There is no {places[0]}; write a list of lines PATH TAB FRAMES.")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    paths = [line.split("\t")[0].strip() for line in lines if "\t" in line]
    if not paths:
        raise MuseTalkError(f"The list {path} has no line PATH TAB FRAMES.")
    return paths


def _pictures(folder: Path) -> list[Path]:
    """The numbered pictures of a folder, in the order of their numbers."""
    numbered = [path for path in folder.glob("*.png") if re.fullmatch(r"[0-9]+", path.stem)]
    if not numbered:
        raise MuseTalkError(f"There are no pictures NUMBER.png in {folder}.")
    return sorted(numbered, key=lambda path: int(path.stem))


def _picture(path: Path) -> torch.Tensor:
    """(1,3,256,256) float32 in [-1,1]."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            face = np.asarray(image.convert("RGB").resize((CROP_SIZE, CROP_SIZE)))
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"{path} cannot be read as a picture ({error}); make it again.") from error
    return torch.from_numpy(face.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def _tokens(folder: Path, number: int) -> torch.Tensor:
    """(50,D) of a frame."""
    rows = _rows(folder, number)
    if rows is None:
        raise MuseTalkError(f"There is no {_rows_file(folder, number)}; every picture needs its sound.")
    if rows.ndim == 2 and len(rows) == WHOLE_WINDOW:
        return torch.from_numpy(rows)
    if rows.ndim == 3 and len(rows) == 2:
        around = [_rows(folder, number + step) for step in range(-REACH, REACH + 1)]
        rows = np.concatenate([np.zeros_like(rows) if part is None else part for part in around])
    tokens = rows.reshape(-1, rows.shape[-1])
    if len(tokens) != WHOLE_WINDOW:
        raise MuseTalkError(
            f"{_rows_file(folder, number)} has the shape {rows.shape}; (2,5,D), (10,5,D) or (50,D) is expected."
        )
    return torch.from_numpy(tokens)


def _rows(folder: Path, number: int) -> np.ndarray | None:
    path = _rows_file(folder, number)
    if number < 0 or not path.is_file():
        return None
    try:
        return np.squeeze(np.load(path, allow_pickle=False)).astype(np.float32)
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"{path} cannot be read ({error}); make it again.") from error


def _rows_file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npy"
