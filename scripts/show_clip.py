#!/usr/bin/env python3
"""A sheet of every stage on a moving clip, a row a frame: box, crop, masked crop, mask, generated face, result.

.host/venv/bin/python scripts/show_clip.py CLIP SPEECH docs/images/clip_stages.png
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from musetalk_core.audio_features import extract_features
from musetalk_core.batches import BatchSize
from musetalk_core.blending import composite
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.faces.geometry import crop_face
from musetalk_core.latents import decode_faces
from musetalk_core.media.audio import AudioFile, mono16k
from musetalk_core.media.source import open_source
from musetalk_core.pipeline import prepare_frames
from musetalk_core.settings import LipSyncSettings
from musetalk_core.weights.folders import ModelFolders

SHOWN = (5, 30, 55, 80)
TILE = 256


def tile(picture: np.ndarray) -> np.ndarray:
    """A picture of any size, gray or RGB, as a (256,256,3) tile."""
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, 2)
    return cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA)


def rows(clip: Path, speech: Path) -> list[np.ndarray]:
    """One row of tiles for each shown frame."""
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    models = engine.models(LipSyncSettings())
    audio, source = AudioFile(speech), open_source(clip)
    tokens = extract_features(engine.audio_encoder, mono16k(audio), audio.seconds, Fraction(25))
    frames = torch.stack(list(source.read(SHOWN)))
    faces = models.locator.locate(frames)
    prepared = prepare_frames(frames, faces, models, BatchSize(len(SHOWN)))
    latents = models.generator.generate(
        torch.stack([p.masked for p in prepared]),
        torch.stack([p.reference for p in prepared]),
        torch.cat([tokens.tokens(k, k + 1) for k in SHOWN]),
    )
    generated = decode_faces(models.decode_codec, latents)
    return [_row(frame, one, face) for frame, one, face in zip(frames, prepared, generated, strict=True)]


def _row(frame: torch.Tensor, prepared, face: torch.Tensor) -> np.ndarray:
    crop = crop_face(frame, prepared.box).numpy()
    masked = crop.copy()
    masked[TILE // 2 :] = 0
    boxed = frame.numpy().copy()
    x1, y1, x2, y2 = (int(v) for v in prepared.box)
    cv2.rectangle(boxed, (x1, y1), (x2, y2), (255, 200, 0), 3)
    result = composite(frame, face, prepared.box, prepared.mask).numpy()
    picture = (face.numpy() * 255).round().astype(np.uint8)
    return np.hstack([tile(p) for p in (boxed, crop, masked, prepared.mask, picture, result)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    cv2.imwrite(str(args.out), np.vstack(rows(args.clip, args.speech))[..., ::-1])
    print(args.out)


if __name__ == "__main__":
    main()
