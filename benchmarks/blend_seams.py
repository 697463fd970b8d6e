#!/usr/bin/env python3
"""How much of a seam the mask's border leaves: the demo model on a still, a moving and differently lit portraits.

    HOST/venv/bin/python benchmarks/blend_seams.py --speech demo_speech.wav [--seconds 2] [--sheet FILE]

Figures are grey levels (luma, 0..255): the mean absolute difference between neighbours across the border of the mask,
in the output and in the source, and what the output has more. Mask shapes and colour match are compared on the same
generated faces. Writes benchmarks/results/blend_seams.json. Exit: 0 when the landmark mask with colour match stays
within LIMIT above the source on every source, else 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.data import astronaut

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts")]

from demo_inputs import portrait_frame  # noqa: E402

from musetalk_core.audio_features import AudioFeatures, extract_features  # noqa: E402
from musetalk_core.batches import BatchSize  # noqa: E402
from musetalk_core.blending import Masker, composite  # noqa: E402
from musetalk_core.engine import Engine, WeightChoice, load_engine  # noqa: E402
from musetalk_core.evaluation.image import seam_energy, temporal_jitter  # noqa: E402
from musetalk_core.faces.track import FaceTrack  # noqa: E402
from musetalk_core.latents import decode_faces  # noqa: E402
from musetalk_core.media.audio import AudioFile, mono16k  # noqa: E402
from musetalk_core.media.source import TensorFrames  # noqa: E402
from musetalk_core.pipeline import prepare_frames  # noqa: E402
from musetalk_core.settings import MASK_SHAPES, LipSyncSettings, MaskSettings  # noqa: E402
from musetalk_core.tasks import locate_all  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "blend_seams.json"
FPS = Fraction(25)
BATCH = 8
LIMIT = 2.0  # grey levels above the source's own difference across the border
FEATHER = 12  # pixels, of a face about 190 wide
SHEET_FRAMES = 2


@dataclass(frozen=True)
class Made:
    """A source (N,H,W,3) uint8, its track, and the faces (N,256,256,3) float32 made for it."""

    frames: np.ndarray
    track: FaceTrack
    faces: torch.Tensor


def side_light(frames: np.ndarray) -> np.ndarray:
    """Light from the right: 0.6 to 1.5 of the brightness, from edge to edge."""
    return _scaled(frames, np.linspace(0.6, 1.5, frames.shape[2])[None, None, :, None])


def bright_light(frames: np.ndarray) -> np.ndarray:
    """All of it 1.35 times as bright."""
    return _scaled(frames, np.float64(1.35))


def warm_light(frames: np.ndarray) -> np.ndarray:
    """Dim and reddish, as from a lamp."""
    return _scaled(frames, np.array([0.85, 0.62, 0.42]))


def _scaled(frames: np.ndarray, factor: np.ndarray | np.float64) -> np.ndarray:
    return np.round(frames * factor).clip(0, 255).astype(np.uint8)


def sources(count: int) -> dict[str, np.ndarray]:
    """The compared clips by name, each (count,512,512,3) uint8."""
    picture = astronaut()
    moving = np.stack([portrait_frame(picture, i) for i in range(count)])
    still = np.repeat(moving[:1], count, 0)
    lights: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "bright": bright_light,
        "side-lit": side_light,
        "warm": warm_light,
    }
    return {"still": still, "moving": moving, **{name: light(moving) for name, light in lights.items()}}


def make(engine: Engine, frames: np.ndarray, features: AudioFeatures) -> Made:
    """The faces that the demo model makes for the frames and the sound's first frames."""
    models = engine.models(LipSyncSettings.for_version("demo"))
    source = torch.from_numpy(frames)
    track = locate_all(TensorFrames(source, FPS), models.locator, BATCH)
    faces = []
    for start in range(0, len(source), BATCH):
        rows = range(start, min(start + BATCH, len(source)))
        prepared = prepare_frames(source[start : start + BATCH], track.select(rows), models, BatchSize(BATCH))
        masked = torch.stack([frame.masked for frame in prepared if frame.masked is not None])
        reference = torch.stack([frame.reference for frame in prepared if frame.reference is not None])
        latents = models.generator.generate(masked, reference, features.tokens(rows.start, rows.stop))
        faces.append(decode_faces(models.decode_codec, latents))
    return Made(frames, track, torch.cat(faces))


def blend(made: Made, settings: MaskSettings) -> tuple[np.ndarray, np.ndarray]:
    """The finished frames and the masks (N,H,W) uint8 in them."""
    source = torch.from_numpy(made.frames)
    masks = Masker(None, settings).masks(source, made.track)
    full = np.zeros(made.frames.shape[:3], np.uint8)
    output = made.frames.copy()
    for k, mask in enumerate(masks):
        if mask is not None:
            x1, y1, x2, y2 = made.track.boxes[k].astype(int)
            full[k, y1:y2, x1:x2] = mask
            box = made.track.boxes[k]
            output[k] = composite(source[k], made.faces[k], box, mask, settings.colour_match).numpy()
    return output, full


def seams(made: Made, settings: MaskSettings) -> dict[str, float]:
    """Mean grey levels across the border of output and source, their difference, and the output's unrest over time."""
    output, masks = blend(made, settings)
    pairs = [(seam_energy(o, m), seam_energy(s, m)) for o, s, m in zip(output, made.frames, masks, strict=True)]
    mine, own = (float(np.nanmean(values)) for values in zip(*pairs, strict=True))
    worst = float(np.nanmax([a - b for a, b in pairs]))
    levels = np.array([frame[mask >= 128].mean() for frame, mask in zip(output, masks, strict=True)])
    return {
        "output": round(mine, 3),
        "source": round(own, 3),
        "above": round(mine - own, 3),
        "worst_frame_above": round(worst, 3),
        "level_jitter": round(temporal_jitter(levels), 3),
    }


def variants() -> dict[str, MaskSettings]:
    """The compared settings by name."""
    shaped: dict[str, MaskSettings] = {}
    for shape in MASK_SHAPES[1:]:
        for match in (0.0, 1.0):
            name = f"{shape}, colour match {match:g}"
            shaped[name] = MaskSettings(mask_shape=shape, colour_match=match)
    shaped[f"landmarks, feather {FEATHER}, colour match 1"] = MaskSettings(
        mask_shape="landmarks", feather=FEATHER, colour_match=1.0
    )
    shaped["landmarks, hard edge, colour match 0"] = MaskSettings(mask_shape="landmarks", blur=0.0)
    shaped["landmarks, hard edge, colour match 1"] = MaskSettings(mask_shape="landmarks", blur=0.0, colour_match=1.0)
    return shaped


def save_sheet(path: Path, made: dict[str, Made]) -> None:
    """A row for every source: source, generated face, then the face in the frame with every variant."""
    import cv2

    rows = []
    for one in made.values():
        k = len(one.frames) // SHEET_FRAMES
        x1, y1, x2, y2 = one.track.boxes[k].astype(int)
        part = (slice(max(y1 - 30, 0), y2 + 30), slice(max(x1 - 30, 0), x2 + 30))
        face = (one.faces[k] * 255).round().to(torch.uint8).numpy()
        tiles = [one.frames[k][part], face]
        tiles += [blend(one, settings)[0][k][part] for settings in variants().values()]
        rows.append(np.concatenate([cv2.resize(tile, (300, 340)) for tile in tiles], 1))
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--speech", type=Path, required=True, help="a recording, as scripts/demo_inputs.py makes it")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each source; default: %(default)s")
    parser.add_argument("--sheet", type=Path, help="also write a picture of all of it")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    sound = AudioFile(options.speech)
    features = extract_features(engine.audio_encoder, mono16k(sound), sound.seconds, FPS)
    count = min(features.frames, round(options.seconds * FPS))
    made = {name: make(engine, frames, features) for name, frames in sources(count).items()}
    figures: dict[str, Any] = {
        name: {variant: seams(one, settings) for variant, settings in variants().items()} for name, one in made.items()
    }
    checked = {name: figures[name]["landmarks, colour match 1"]["above"] for name in figures}
    passed = max(checked.values()) <= LIMIT
    result = {"frames": count, "limit": LIMIT, "passed": passed, "checked": checked, "sources": figures}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if options.sheet:
        save_sheet(options.sheet, made)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
