#!/usr/bin/env python3
"""Draw the pictures of the help pages of the evaluation nodes, with the demo model on the demo's inputs.

    .host/venv/bin/python scripts/show_evaluation.py .host/demo-inputs/demo_{portrait.mp4,speech.wav}

Writes web/docs/<node id>/<picture>.jpg, each below 60 KB. Needs no ComfyUI.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from show_nodes import FPS, bar, column, row, tile  # noqa: E402
from show_options import save  # noqa: E402

from musetalk_core.audio_features import extract_features  # noqa: E402
from musetalk_core.engine import WeightChoice, load_engine  # noqa: E402
from musetalk_core.evaluation.clip import Clip  # noqa: E402
from musetalk_core.evaluation.compare import compare_frames  # noqa: E402
from musetalk_core.evaluation.faces import ClipFaces, Faces  # noqa: E402
from musetalk_core.evaluation.image import mouth_region  # noqa: E402
from musetalk_core.evaluation.jitter import REGIONS, SIZE, steadied  # noqa: E402
from musetalk_core.evaluation.lips import lip_gap  # noqa: E402
from musetalk_core.evaluation.speech import loudness  # noqa: E402
from musetalk_core.media.audio import AudioFile, mono16k  # noqa: E402
from musetalk_core.media.source import TensorFrames, open_source  # noqa: E402
from musetalk_core.pipeline import lip_sync  # noqa: E402
from musetalk_core.settings import LipSyncSettings  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

COUNT, SHOWN = 75, 6  # frames measured, faces shown of them
GAP, LOUD, MOUTH, NOSE = (192, 57, 43), (41, 128, 185), (39, 174, 96), (41, 128, 185)
WIDEST = 0.35  # lip gap at the top of the plot


def curves(frames: torch.Tensor, faces: Faces, samples: np.ndarray) -> np.ndarray:
    """Faces of the clip, and below them the opening of the mouth and the loudness."""
    chosen = np.linspace(0, COUNT - 1, SHOWN).round().astype(int)
    pictures = row([tile(head(frames[k], faces.boxes[k]), side=120) for k in chosen])
    width, height = pictures.shape[1], 200
    plot = np.full((height, width, 3), 255, np.uint8)
    for values, colour in ((lip_gap(faces.landmarks) / WIDEST, GAP), (loudness(samples, COUNT), LOUD)):
        points = np.stack([np.linspace(0, width - 1, COUNT), height - 8 - (height - 16) * values.clip(0, 1)], 1)
        cv2.polylines(plot, [points.round().astype(np.int32)], False, colour, 2, cv2.LINE_AA)
    return column([pictures, bar("red: lip gap, 0 to 0.35 eye distances    blue: loudness, 50 dB", width), plot])


def head(frame: torch.Tensor, box: np.ndarray) -> np.ndarray:
    """The square of a face box with a little around it."""
    middle, half = (box[:2] + box[2:]) / 2, 0.6 * (box[2:] - box[:2]).max()
    x1, y1, x2, y2 = (int(value) for value in (*(middle - half).clip(0), *(middle + half)))
    return frame[y1:y2, x1:x2].numpy()


def regions(frame: torch.Tensor, landmarks: np.ndarray) -> np.ndarray:
    """The mouth region of a frame, and nose and mouth of the steadied face."""
    picture = frame.numpy().copy()
    y, x = np.nonzero(mouth_region(landmarks, picture.shape[:2]))
    cv2.rectangle(picture, (int(x.min()), int(y.min())), (int(x.max()), int(y.max())), MOUTH, 3)
    zoom = 3
    still = cv2.resize(steadied(frame.numpy(), landmarks[[36, 45]]), (SIZE * zoom, SIZE * zoom))
    for (rows, columns), colour in zip(REGIONS.values(), (NOSE, GAP), strict=True):
        corners = [(side.start * zoom, side.stop * zoom) for side in (columns, rows)]
        cv2.rectangle(still, *zip(*corners, strict=True), colour, 2)
    return row([tile(picture, "a frame and its mouth", 360), tile(still, "the steadied face: nose and mouth", 360)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    options = parser.parse_args()
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    source = torch.stack(list(open_source(options.clip).read(range(COUNT))))
    sound = AudioFile(options.speech)
    samples = mono16k(sound)
    features = extract_features(engine.audio_encoder, samples, sound.seconds, FPS)
    settings = LipSyncSettings.for_version("demo")
    made = torch.stack(list(lip_sync(TensorFrames(source, FPS), features, COUNT, engine.models(settings), settings)))
    faces = ClipFaces(Clip("demo", TensorFrames(made, FPS)), engine.backends.get("mediapipe").detector).own
    widest = int(np.nanargmax(lip_gap(faces.landmarks)))
    sheet, _ = compare_frames(made[widest : widest + 1], source[widest : widest + 1], 4.0)
    beside = (sheet[0].numpy() * 255).round().astype(np.uint8)
    save("MuseTalkEvaluateSync", "curves", curves(made, faces, samples))
    save("MuseTalkEvaluateQuality", "regions", regions(made[widest], faces.landmarks[widest]))
    save("MuseTalkComparePreview", "compare", cv2.resize(beside, (960, 320), interpolation=cv2.INTER_AREA))


if __name__ == "__main__":
    main()
