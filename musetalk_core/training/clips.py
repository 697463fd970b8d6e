"""Talking faces on disk as MuseTalk's own scripts lay them out: clips at 25 frames/s, sound, faces, lists."""

import json
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..errors import MuseTalkError
from ..files import whole_file

FPS = Fraction(25)
SPLITS = ("train", "val")
VIDEOS, FACES, SOUND = "clips", "meta", "sound"  # folders inside a data folder; SOUND holds what is computed of it
LANDMARKS = 68


@dataclass(frozen=True)
class FaceClip:
    """A clip of one face at 25 frames/s.

    video, sound: the .mp4 and its 16 kHz mono .wav. size: (height, width) in pixels. boxes: (N,4) float32 x1 y1 x2 y2
    of the face, as its detector gives it; landmarks: (N,68,2) float32 iBUG points; both in pixels, for every frame.
    """

    name: str
    video: Path
    sound: Path
    size: tuple[int, int]
    boxes: np.ndarray
    landmarks: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def save_clip(folder: Path, clip: FaceClip) -> Path:
    """Write meta/<name>.json with the keys of upstream's scripts/preprocess.py; numbers are rounded to whole pixels.

    The paths in it are relative to the data folder, so that it can be moved. Raises MuseTalkError when that fails.
    """
    boxes, landmarks = np.rint(clip.boxes).astype(int), np.rint(clip.landmarks).astype(int)
    first = boxes[0]
    content = {
        "mp4_path": clip.video.relative_to(folder).as_posix(),
        "wav_path": clip.sound.relative_to(folder).as_posix(),
        "video_size": list(clip.size),
        "face_size": [int(first[3] - first[1]), int(first[2] - first[0])],
        "frames": len(clip),
        "face_list": boxes.tolist(),
        "landmark_list": landmarks.tolist(),
        "isvalid": True,
    }
    path = folder / FACES / f"{clip.name}.json"
    with whole_file(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")
    return path


def read_clip(path: Path, folder: Path) -> FaceClip:
    """The clip of a .json that save_clip or upstream's preprocessing wrote; folder: the data folder.

    A stated path is looked for in the data folder, from here, and by its name in the folders of the data folder, as
    upstream's paths are relative to wherever it ran. Raises MuseTalkError, naming the file, when it is unreadable, its
    clip is marked as not valid, faces do not cover all frames, or video or sound are not there.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _clip(path, folder, content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MuseTalkError(f"{path} is no clip's description ({error}); prepare the data again.") from error


def _clip(path: Path, folder: Path, content: dict[str, Any]) -> FaceClip:
    frames = int(content["frames"])
    if not content.get("isvalid", True):
        raise MuseTalkError(f"{path} is marked as not valid: a frame has no face; leave it out of the list.")
    found = len(content["face_list"]), len(content["landmark_list"])
    if frames < 1 or found != (frames, frames):
        raise MuseTalkError(f"{path} has {found[0]} boxes and {found[1]} sets of landmarks for {frames} frames.")
    boxes = np.array(content["face_list"], np.float32)
    landmarks = np.array(content["landmark_list"], np.float32)
    if boxes.shape != (frames, 4) or landmarks.shape != (frames, LANDMARKS, 2):
        raise MuseTalkError(f"{path} has landmarks of shape {landmarks.shape}; {(frames, LANDMARKS, 2)} is expected.")
    height, width = content["video_size"]
    video, sound = _place(folder, content["mp4_path"]), _place(folder, content["wav_path"])
    return FaceClip(path.stem, video, sound, (int(height), int(width)), boxes, landmarks)


def _place(folder: Path, stated: str) -> Path:
    name = PureWindowsPath(stated).name  # splits at both kinds of slash
    for place in (folder / stated, Path(stated), *sorted(folder.glob(f"*/{name}"))):
        if place.is_file():
            return place
    raise MuseTalkError(f"There is no {name} in {folder}; put the clips back or prepare the data again.")


def clip_files(folder: Path, split: str) -> list[Path]:
    """The .json files that <folder>/<split>.txt names, one a line, in meta/ or in the folder itself.

    Every line counts, the first one too, which upstream's FaceDataset drops; a first line that names no .json is a
    heading. Raises MuseTalkError for a list that is missing or names a file that is not there.
    """
    path = folder / f"{split}.txt"
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise MuseTalkError(f"The list {path} cannot be read ({error}); make it with `train prepare`.") from error
    files = []
    for number, line in enumerate(lines):
        if not line or (number == 0 and ".json" not in line):
            continue
        places = [folder / FACES / line, folder / line, folder / FACES / line.split()[0]]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise MuseTalkError(f"Line {number + 1} of {path} names {line}, which is not in {folder / FACES}.")
        files.append(found)
    return files
