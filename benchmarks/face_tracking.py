#!/usr/bin/env python3
"""How fast faces are located in 720p with and without tracking, and how much the crop box trembles.

    python benchmarks/face_tracking.py [--frames 1000] [--threads 2] [--output benchmarks/results/face_tracking.json]

Speed: frames/s of FaceLocator (detection, landmarks, tracking) on a moving head in 1280x720, with a search in every
frame and in every tenth; the bound is 15 frames/s with tracking. Trembling: mean absolute second difference of the crop
box in pixels, on a still head in noise and on one that moves evenly, where a true box has none; "lag" is how far the
box's middle lies behind the true motion. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from musetalk_core.faces.detector import FaceDetector  # noqa: E402
from musetalk_core.faces.locator import FaceLocator  # noqa: E402
from musetalk_core.settings import FaceSettings  # noqa: E402

WIDTH, HEIGHT = 1280, 720
NOISE = 4.0  # grey levels
BOUND = 15.0  # frames/s
WAYS = {
    "search in every frame": FaceSettings(),
    "search in every 10th frame": FaceSettings(detect_every=10),
    "every 10th, sub-pixel": FaceSettings(detect_every=10, subpixel=True),
    "every 10th, sub-pixel, smoothing 2": FaceSettings(detect_every=10, subpixel=True, smoothing=2.0),
}


def head_clip(count: int, step: tuple[float, float], seed: int = 0) -> list[torch.Tensor]:
    """The portrait of 400 pixels on a plain ground, moved by `step` pixels a frame and back, with noise."""
    head = cv2.resize(data.astronaut()[0:300, 80:380], (400, 400), interpolation=cv2.INTER_CUBIC)
    random = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        along = 100 - abs(k % 200 - 100)
        move = np.array([[1, 0, 400 + step[0] * along], [0, 1, 160 + step[1] * along]])
        frame = cv2.warpAffine(head, move, (WIDTH, HEIGHT), borderValue=(110, 110, 110))
        noisy = frame + random.normal(0, NOISE, (HEIGHT, WIDTH, 1)).astype(np.float32)
        frames.append(torch.from_numpy(noisy.clip(0, 255).astype(np.uint8)))
    return frames


def speed(detector: FaceDetector, options: FaceSettings, frames: int, clip: list[torch.Tensor]) -> dict[str, Any]:
    """Frames/s over `frames` frames, the clip shown there and back; how many of them had a face."""
    locator = FaceLocator(detector, options=options)
    there_and_back = clip + clip[::-1]
    present = 0
    start = time.perf_counter()
    for k in range(frames):
        present += int(locator.locate(there_and_back[k % len(there_and_back)]).present.sum())
    seconds = time.perf_counter() - start
    return {"frames_per_second": round(frames / seconds, 2), "present": present, "frames": frames}


def trembling(detector: FaceDetector, options: FaceSettings, clip: list[torch.Tensor], step: float) -> dict[str, float]:
    """Pixels of trembling of a whole track (looking ahead) and of a live one, and how far each lies behind."""
    found = {}
    for name, live in (("whole", False), ("live", True)):
        locator = FaceLocator(detector, extra_margin=0, options=options)
        track = locator.smoothed(locator.locate(torch.stack(clip), live=live)) if not live else None
        boxes = (locator.locate(torch.stack(clip)) if track is None else track).boxes[5:]
        middles = (boxes[:, 0] + boxes[:, 2]) / 2
        ahead = middles - middles[0] - step * np.arange(len(middles))
        found[f"{name}_px"] = round(float(np.abs(np.diff(boxes, 2, axis=0)).mean()), 4)
        found[f"{name}_drift_px"] = round(float(np.abs(ahead).max()), 3)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--frames", type=int, default=1000, help="default: %(default)s")
    parser.add_argument("--still-frames", type=int, default=60, help="frames of the trembling, default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="file for the JSON")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    detector = FaceDetector(FaceDetector.load_nets())
    load = os.getloadavg()[0]
    clip = head_clip(40, (2.0, 0.5))
    speeds = {name: speed(detector, WAYS[name], args.frames, clip) for name in list(WAYS)[:2]}
    heads = {"still head": (0.0, 0.0), "moving head": (1.3, 0.4)}
    found = {
        "size": [WIDTH, HEIGHT],
        "speed": speeds,
        "bound_frames_per_second": BOUND,
        "holds": speeds["search in every 10th frame"]["frames_per_second"] >= BOUND,
        "trembling": {
            head: {
                name: trembling(detector, options, head_clip(args.still_frames, step), step[0])
                for name, options in WAYS.items()
            }
            for head, step in heads.items()
        },
        "noise_grey_levels": NOISE,
        "threads": args.threads,
        "cpus": os.cpu_count(),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }
    text = json.dumps(found, indent=1)
    print(text)
    if args.output:
        args.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
