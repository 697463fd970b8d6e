#!/usr/bin/env python3
"""Draw the pictures of the help pages of the avatar nodes, with the demo model on the demo's inputs.

    .host/venv/bin/python scripts/show_avatars.py .host/demo-inputs/demo_portrait.mp4 .host/demo-inputs/demo_speech.wav

Writes web/docs/<node id>/<picture>.jpg, each below 60 KB. Needs no ComfyUI.
"""

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from show_nodes import LOUD, MARK, column, row, tile  # noqa: E402
from show_options import save  # noqa: E402

from musetalk_core.avatars.avatar import Avatar  # noqa: E402
from musetalk_core.avatars.prepare import prepare_avatar  # noqa: E402
from musetalk_core.avatars.speaking import AvatarVideo  # noqa: E402
from musetalk_core.engine import Engine, WeightChoice, load_engine  # noqa: E402
from musetalk_core.latents import decode_faces  # noqa: E402
from musetalk_core.media.audio import AudioFile  # noqa: E402
from musetalk_core.media.source import TensorFrames, open_source  # noqa: E402
from musetalk_core.report import Report  # noqa: E402
from musetalk_core.settings import LipSyncSettings  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

SIDE = 145
STEP = 6
COUNT = 5


def boxed(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """A frame with the face's crop drawn on it."""
    import cv2

    x1, y1, x2, y2 = (int(value) for value in box)
    return cv2.rectangle(picture.copy(), (x1, y1), (x2, y2), MARK, 4)


def masked(picture: np.ndarray, avatar: Avatar, k: int) -> np.ndarray:
    """A frame with what is replaced in green."""
    mask, (x1, y1, x2, y2) = avatar.masks[k], (int(value) for value in avatar.track.boxes[k])
    shown = picture.copy()
    if mask is not None:
        weight = mask[..., None] / 510
        shown[y1:y2, x1:x2] = (shown[y1:y2, x1:x2] * (1 - weight) + np.array([0, 220, 90]) * weight).astype(np.uint8)
    return shown


def prepared(avatar: Avatar, engine: Engine, pictures: list[np.ndarray]) -> np.ndarray:
    """What is stored of a frame: the picture, its crop, its mask, its latents (as pictures)."""
    latents = torch.stack([avatar.masked[0], avatar.reference[0]])
    half, whole = (decode_faces(engine.codec, latents).cpu().numpy() * 255).astype(np.uint8)
    named = (
        (pictures[0], "frame"),
        (boxed(pictures[0], avatar.track.boxes[0]), "crop"),
        (masked(pictures[0], avatar, 0), "mask"),
        (half, "masked latent"),
        (whole, "reference latent"),
    )
    return row([tile(picture, name, SIDE) for picture, name in named])


def said(avatar: Avatar, engine: Engine, pictures: list[np.ndarray], speech: Path) -> np.ndarray:
    """Frames of the avatar above the same frames while it speaks."""
    parts = engine.audio_encoder, engine.generator, engine.codec
    video = AvatarVideo(avatar, AudioFile(speech), None, *parts, avatar.settings, engine.version)
    frames = islice(video.frames(Report()), LOUD, LOUD + STEP * COUNT, STEP)
    results = [frame.numpy() for frame in frames]
    sources = [next(iter(avatar.frames.read([(LOUD + k * STEP) % len(avatar)]))).numpy() for k in range(COUNT)]
    face = slice(60, 420), slice(90, 450)
    return column(
        [
            row([tile(picture[face], f"avatar, frame {LOUD + k * STEP}", SIDE) for k, picture in enumerate(sources)]),
            row([tile(picture[face], "speaking", SIDE) for picture in results]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    options = parser.parse_args()
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    clip = open_source(options.clip)
    count = LOUD + STEP * COUNT
    source = TensorFrames(torch.stack(list(clip.read(range(count)))), clip.fps)
    settings = LipSyncSettings.for_version("demo")
    with tempfile.TemporaryDirectory() as folder:
        avatar = prepare_avatar("demo", source, engine.models(settings), settings, "demo", Path(folder, "demo"))
        pictures = [frame.numpy() for frame in avatar.frames.read(range(LOUD, count, STEP))]
        save("MuseTalkPrepareAvatar", "prepared", prepared(avatar, engine, pictures))
        tracks = [
            boxed(masked(frame, avatar, LOUD + k * STEP), avatar.track.boxes[LOUD + k * STEP])
            for k, frame in enumerate(pictures)
        ]
        save(
            "MuseTalkLoadAvatar",
            "loaded",
            row([tile(picture, f"frame {LOUD + k * STEP}", SIDE) for k, picture in enumerate(tracks)]),
        )
        save("MuseTalkAvatarLipSync", "said", said(avatar, engine, pictures, options.speech))


if __name__ == "__main__":
    main()
