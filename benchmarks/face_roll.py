#!/usr/bin/env python3
"""How much the crop of a rolling head trembles, with and without upright and smoothing.

    python benchmarks/face_roll.py [--frames 75] [--output benchmarks/results/face_roll.json]

The head is the portrait of 400 pixels in 1280x720, with noise, turned by a sine of 20 degrees and 50 frames. Figures
are taken in the head's own pixels, where a perfect crop stands still: "px" and "degrees" are the mean absolute second
differences of the crop's middle and of its angle to the head (trembling), "lean_degrees" is the mean absolute
deviation of that angle from its mean (what the networks see of the roll), "middle_px" the same of the middle. "whole":
smoothing that looks ahead; "live": that does not. Prints JSON. The machine's speed does not matter.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage import data

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from musetalk_core.faces.detector import FaceDetector  # noqa: E402
from musetalk_core.faces.locator import FaceLocator  # noqa: E402
from musetalk_core.faces.track import FaceTrack  # noqa: E402
from musetalk_core.settings import FaceSettings  # noqa: E402

WIDTH, HEIGHT, HEAD = 1280, 720, 400
NOISE = 4.0  # grey levels
AMPLITUDE, PERIOD = 20.0, 50  # degrees, frames
FACE = np.array([0.477, 0.407]) * HEAD  # the middle of the portrait's face
WAYS = {
    "as MuseTalk": FaceSettings(),
    "sub-pixel, smoothing 2": FaceSettings(subpixel=True, smoothing=2.0),
    "upright": FaceSettings(upright=True),
    "upright, smoothing 2": FaceSettings(upright=True, smoothing=2.0),
}


def matrix(k: int) -> np.ndarray:
    """(2,3) from pixels of the portrait to those of frame k."""
    degrees = AMPLITUDE * np.sin(2 * np.pi * k / PERIOD)
    turned = cv2.getRotationMatrix2D((float(FACE[0]), float(FACE[1])), -degrees, 1)
    turned[:, 2] += [WIDTH / 2 - FACE[0], HEIGHT / 2 - FACE[1]]
    return turned


def clip(count: int) -> torch.Tensor:
    """(count,720,1280,3) uint8."""
    head = cv2.resize(data.astronaut()[0:300, 80:380], (HEAD, HEAD), interpolation=cv2.INTER_CUBIC)
    random = np.random.default_rng(0)
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    for k in range(count):
        frame = cv2.warpAffine(head, matrix(k), (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderValue=(110, 110, 110))
        frames[k] = (frame + random.normal(0, NOISE, (HEIGHT, WIDTH, 1))).clip(0, 255)
    return torch.from_numpy(frames)


def figures(track: FaceTrack) -> dict[str, float]:
    """The figures of a track, in the head's pixels and degrees."""
    middles, leans = [], []
    for k, (box, angle) in enumerate(zip(track.boxes, track.angles, strict=True)):
        back = cv2.invertAffineTransform(matrix(k))
        middles.append(back @ [*(box.reshape(2, 2).mean(0) - 0.5), 1])
        leans.append(np.rad2deg(angle + np.arctan2(back[1, 0], back[0, 0])))
    places, angles = np.array(middles[5:]), np.array(leans[5:])
    return {
        "px": round(float(np.abs(np.diff(places, 2, axis=0)).mean()), 3),
        "degrees": round(float(np.abs(np.diff(angles, 2)).mean()), 3),
        "middle_px": round(float(np.abs(places - places.mean(0)).mean()), 3),
        "lean_degrees": round(float(np.abs(angles - angles.mean()).mean()), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--frames", type=int, default=75, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    args = parser.parse_args()
    detector = FaceDetector(FaceDetector.load_nets())
    frames = clip(args.frames)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, options in WAYS.items():
        found[name] = {}
        for way in ("whole", "live") if options.smoothing else ("whole",):
            locator = FaceLocator(detector, extra_margin=0, options=options)
            track = locator.locate(frames, live=way == "live")
            found[name][way] = figures(locator.smoothed(track) if way == "whole" else track)
    facts = {"size": [WIDTH, HEIGHT], "amplitude_degrees": AMPLITUDE, "period_frames": PERIOD}
    text = json.dumps({**facts, "frames": args.frames, "noise_grey_levels": NOISE, "trembling": found}, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
