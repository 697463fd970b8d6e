"""What the evaluation takes from a corpus (scripts/make_corpus.py): its held-out frames, and what it must not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_setup import HostError
from portrait.librivox import samples_sha256

from musetalk_core.errors import MuseTalkError
from musetalk_core.evaluation import image
from musetalk_core.faces.geometry import CROP_SIZE, crop_face
from musetalk_core.latents import Codec, crops_to_pixels, decode_faces
from musetalk_core.media.source import open_source

FRAMES = 120  # of all held-out tracks together, evenly spread
BATCH = 8
SOUNDS = ("samples", "samples_a", "samples_b")


def read_index(data: Path) -> dict[str, Any]:
    """The corpus's index.json. HostError when there is none."""
    try:
        return json.loads((data / "index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HostError(f"{data} is no finished corpus (scripts/make_corpus.py makes one): {error}") from error


def sounds_among(data: Path, hashes: set[str]) -> tuple[int, int]:
    """(how many sounds of the corpus have one of these sha256 of their samples, how many sounds there are).

    The hashes are computed anew from the samples, of the speech and of both sounds of every track.
    """
    found: list[str] = []
    for path in [*(data / "speech").glob("*.npz"), *(data / "tracks").glob("*/track.npz")]:
        with np.load(path, allow_pickle=False) as file:
            found += [samples_sha256(file[name]) for name in SOUNDS if name in file]
    return sum(one in hashes for one in found), len(found)


def autoencoder_figures(codec: Codec, data: Path) -> dict[str, float]:
    """Mean PSNR in dB of decode(encode(crop)) over held-out crops: in the mouth region, and of the whole crop.

    NaN without held-out tracks.
    """
    tracks = [track["name"] for track in read_index(data)["tracks"] if track["split"] == "val"]
    mouth: list[float] = []
    whole: list[float] = []
    each = max(1, FRAMES // max(1, 2 * len(tracks)))
    for name in tracks:
        for twin in ("a", "b"):
            for crops, points in _batches(data / "tracks" / name, twin, each):
                with torch.inference_mode():
                    back = decode_faces(codec, codec.encode(crops_to_pixels(crops))).cpu().numpy()
                given = crops.numpy() / 255.0
                for made, crop, landmarks in zip(back, given, points, strict=True):
                    region = image.mouth_region(landmarks, (CROP_SIZE, CROP_SIZE))
                    mouth.append(image.psnr(made, crop, region))
                    whole.append(image.psnr(made, crop))
    return {"mouth_db": _mean(mouth), "crop_db": _mean(whole), "frames": len(mouth), "tracks": len(tracks)}


def _batches(folder: Path, twin: str, count: int) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Crops (B,256,256,3) uint8 and their landmarks (B,68,2) in crop pixels, `count` frames of the track's twin."""
    source = open_source(folder / f"{twin}.mp4")
    with np.load(folder / "track.npz", allow_pickle=False) as file:
        boxes, landmarks = file["boxes"], file[f"landmarks_{twin}"]
    if len(boxes) != len(source):
        raise MuseTalkError(f"{folder} has {len(boxes)} boxes for {len(source)} frames; make the corpus again.")
    rows = np.unique(np.linspace(0, len(source) - 1, count).round().astype(int)).tolist()
    frames = source.read(rows)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        height, width = source.size
        whole = boxes[part].round().clip(0, [width, height, width, height])
        crops = torch.stack([crop_face(next(frames), box) for box in whole])
        scale = CROP_SIZE / (whole[:, 2:] - whole[:, :2])
        # Pixel centres lie on whole numbers: the crop's first pixel covers -0.5 .. scale - 0.5 in the box's grid.
        points = (landmarks[part] - whole[:, None, :2] + 0.5) * scale[:, None] - 0.5
        yield crops, points


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
