"""Each stage alone, in both ways: seconds a frame, and the share of the machine's peak."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..blending import Masker
from ..faces.track import FaceTrack
from ..latents import decode_faces, encode_crops
from ..pipeline import PreparedFrame, pasted
from .baseline import BATCH, Baseline, paste
from .fast import Fast
from .networks import BISENET_GFLOP, DECODE_GFLOP, ENCODE_GFLOP, S3FD_GFLOP_PER_PIXEL, UNET_GFLOP
from .timing import timed

SIZE = (720, 1280)
BOX = np.array([480, 180, 800, 540], np.float32)
# Of a stage that has one network.
GFLOP = {
    "encode": 2 * ENCODE_GFLOP,
    "unet": UNET_GFLOP,
    "decode": DECODE_GFLOP,
    "blend": BISENET_GFLOP,
    "s3fd": S3FD_GFLOP_PER_PIXEL * SIZE[0] * SIZE[1],
}

# A stage: what is called, and how many frames a call makes.
Stages = dict[str, tuple[Callable[[], object], int]]


def baseline_stages(way: Baseline) -> Stages:
    """encode, unet, decode, blend (parsing and compositing) and s3fd of the plain way."""
    frame, crops, tokens = _pictures()
    latents = torch.randn(BATCH, 8, 32, 32, device=way.device)
    made = torch.randn(BATCH, 4, 32, 32, device=way.device, dtype=way.dtype)
    return {
        "encode": (lambda: way.encode(crops[0]), 1),
        "unet": (lambda: way.predict(latents, tokens), BATCH),
        "decode": (lambda: way.decode(made), BATCH),
        "blend": (lambda: paste(frame, crops[0], BOX, way.parser), 1),
        "s3fd": (lambda: way.detect(frame), 1),
    }


def fast_stages(way: Fast) -> Stages:
    """The same stages of our way, and `tracker`, the embedded detector that it uses instead of s3fd."""
    frame, crops, tokens = _pictures()
    picture, faces = torch.from_numpy(frame), torch.from_numpy(crops)
    made = torch.randn(BATCH, 4, 32, 32, device=way.device) * 5
    models = way.models()
    return {
        "encode": (lambda: encode_crops(way.codec, faces), BATCH),
        "unet": (lambda: way.generator.generate(made, made, tokens), BATCH),
        "decode": (lambda: decode_faces(way.codec, made).cpu(), BATCH),
        "blend": (lambda: _blended(models.masker, picture, faces[0].float() / 255), 1),
        "s3fd": (lambda: way.searching.detect(picture), 1),
        "tracker": (lambda: way.detector.detect(picture), 1),
    }


def measured(stages: Stages, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds a frame of each stage, `repeats` times."""
    times: dict[str, list[float]] = {}
    for name, (call, frames) in stages.items():
        times[name] = [seconds * 1000 / frames for seconds in timed(call, repeats, device)]
    return times


def _blended(masker: Masker, picture: torch.Tensor, face: torch.Tensor) -> torch.Tensor:
    track = FaceTrack(BOX[None], np.zeros((1, 68, 2), np.float32), np.ones(1, bool), SIZE)
    (mask,) = masker.masks([picture], track)
    return pasted(picture, PreparedFrame(BOX, mask=mask), face, 1.0, 0.0)


def _pictures() -> tuple[np.ndarray, np.ndarray, torch.Tensor]:
    """A frame (720,1280,3), BATCH crops (B,256,256,3), both uint8, and tokens (B,50,384)."""
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    crops = rng.integers(0, 256, (BATCH, 256, 256, 3), np.uint8)
    return frame, crops, torch.randn(BATCH, 50, 384)


def frame_gflops(times: dict[str, float]) -> dict[str, float]:
    """GFLOP/s of the stages whose work is known, from their milliseconds a frame."""
    return {name: round(GFLOP[name] / ms * 1000, 1) for name, ms in times.items() if name in GFLOP}


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """The numbers rounded to what a measurement of time can mean."""
    return {name: round(value, 2) for name, value in values.items()}
