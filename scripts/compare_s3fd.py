#!/usr/bin/env python3
"""Compare our S3FD with the one of the face-alignment package on the same random weights.

    python3 -m venv /tmp/fa && /tmp/fa/bin/pip install torch opencv-python-headless face-alignment==1.5.0
    /tmp/fa/bin/python scripts/compare_s3fd.py [--output FILE.json] [--golden FILE.json]

Writes the largest differences of the twelve outputs and of the final boxes; exit status 1 unless all are 0. --golden
writes what the package finds on one picture, for tests/test_s3fd.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from face_alignment.detection.sfd import sfd_detector
from face_alignment.detection.sfd.detect import batch_detect

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]

from seeded_weights import picture, seeded_s3fd  # noqa: E402

from musetalk_core.nets.s3fd import MEAN_BGR, S3FD  # noqa: E402

SIZES = ((256, 256), (360, 640), (333, 479), (64, 48), (40, 300))
GOLDEN = (192, 256, 7)  # height, width, seed
RESULTS = REPOSITORY / "benchmarks" / "results" / "s3fd_parity.json"


def their_boxes(net: torch.nn.Module, frame: np.ndarray) -> np.ndarray:
    """The package's own way from a frame to boxes."""
    detector = sfd_detector.SFDDetector.__new__(sfd_detector.SFDDetector)  # without fetching its weights
    detector.filter_threshold = 0.5
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    return np.reshape(detector._filter_bboxes(batch_detect(net, pixels, "cpu")[0]), (-1, 5))


def compare(ours: S3FD, theirs: torch.nn.Module, size: tuple[int, int]) -> dict[str, Any]:
    """The largest differences on one picture."""
    frame = picture(*size, seed=size[1])
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        inputs = pixels.flip(1) - torch.tensor(MEAN_BGR).view(1, 3, 1, 1)
        mine, wanted = [part for head in ours(inputs) for part in head], theirs(inputs)
    boxes, wanted_boxes = ours.find(pixels)[0], their_boxes(theirs, frame)
    same = boxes.shape == wanted_boxes.shape
    return {
        "height x width": "x".join(map(str, size)),
        "outputs": max(float((a - b).abs().max()) for a, b in zip(mine, wanted, strict=True)),
        "boxes found": len(wanted_boxes),
        "boxes": float(np.abs(boxes - wanted_boxes).max(initial=0)) if same else "another number",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--golden", type=Path, help="also write this file")
    args = parser.parse_args()
    theirs, ours = sfd_detector.s3fd().eval(), S3FD().train(False)
    weights = seeded_s3fd(theirs.state_dict(), seed=0)
    theirs.load_state_dict(weights)
    ours.load_state_dict(weights)  # strict: the same names and shapes
    rows = [compare(ours, theirs, size) for size in SIZES]
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "face-alignment")}
    result = {"versions": versions, "machine": platform.machine(), "largest differences": rows}
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if args.golden:
        *size, seed = GOLDEN
        boxes = their_boxes(theirs, picture(*size, seed=seed))
        golden = {"size": size, "picture": seed, "weights": 0, "boxes": boxes.round(4).tolist()}
        args.golden.write_text(json.dumps(golden) + "\n", encoding="utf-8")
    return 0 if all(row["outputs"] == 0 and row["boxes"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
