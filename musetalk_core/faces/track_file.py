"""Face tracks on disk: JSON, no pickle."""

import json
from pathlib import Path

import numpy as np

from ..errors import MuseTalkError
from ..files import whole_file
from .track import REASON_LENGTH, FaceTrack

FORMAT = "musetalk-face-track-1"


def save_track(path: Path, track: FaceTrack) -> None:
    """Write a track as JSON, whole or not at all. Raises MuseTalkError when that is impossible."""
    content = {
        "format": FORMAT,
        "identity": track.identity,
        "image_size": list(track.image_size),
        "present": track.present.astype(int).tolist(),
        "reasons": track.reasons.tolist(),
        "scenes": track.scenes.tolist(),
        "boxes": track.boxes.tolist(),
        "angles": track.angles.tolist(),
        "landmarks": None if track.landmarks is None else np.round(track.landmarks, 2).tolist(),
    }
    with whole_file(path) as part:
        part.write_text(json.dumps(content), encoding="utf-8")


def load_track(path: Path) -> FaceTrack:
    """Read a track written by save_track. Raises MuseTalkError for a missing or foreign file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise MuseTalkError(f"{path} has the format {content['format']!r}, not {FORMAT!r}; locate the faces again.")
        count = len(content["present"])
        landmarks = content["landmarks"]
        return FaceTrack(
            np.asarray(content["boxes"], dtype=np.float32).reshape(count, 4),
            None if landmarks is None else np.asarray(landmarks, dtype=np.float32),
            np.asarray(content["present"], dtype=bool),
            (int(content["image_size"][0]), int(content["image_size"][1])),
            content["identity"],
            np.array(content.get("reasons", []), dtype=f"<U{REASON_LENGTH}"),
            np.array(content.get("scenes", []), dtype=np.int32),
            np.array(content.get("angles", []), dtype=np.float32),
        )
    except FileNotFoundError as error:
        raise MuseTalkError(
            f"There is no face track at {path}; save one with --saved-coord or Save Face Track (MuseTalk)."
        ) from error
    except MuseTalkError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise MuseTalkError(
            f"{path} is no face track; save one with --saved-coord or Save Face Track (MuseTalk)."
        ) from error
