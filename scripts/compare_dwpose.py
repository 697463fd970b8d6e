#!/usr/bin/env python3
"""Compare our DWPose with mmpose's inference_topdown on the same random checkpoint.

    python3 -m venv /tmp/mmpose && /tmp/mmpose/bin/pip install torch torchvision numpy opencv-python-headless
    /tmp/mmpose/bin/pip install --no-deps -r requirements-mmpose.txt
    /tmp/mmpose/bin/python scripts/compare_dwpose.py [--output FILE.json] [--golden FILE.json]

mmengine itself saves the checkpoint, with its own objects in it; both networks get what our loader reads. Writes the
largest differences of points and scores, with and without flip test; exit status 1 unless those of the points are 0.
--golden writes what mmpose answers on given inputs of the network, for tests/test_dwpose.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import save_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]

from seeded_weights import calibrate, picture, seeded  # noqa: E402

from musetalk_core.faces.mmpose_estimator import OPTIONAL, MMPoseEstimator  # noqa: E402
from musetalk_core.faces.top_down import DWPoseEstimator, normalised  # noqa: E402
from musetalk_core.nets.dwpose import HEIGHT, WIDTH, DWPose  # noqa: E402
from musetalk_core.weights.models import dwpose_state_dict, load_dwpose  # noqa: E402

SIZES = ((512, 512), (720, 1280), (479, 333), (1281, 401))  # height, width
FLOAT_BOXES = [[101.25, 33.6, 402.9, 377.125], [20.5, 10.25, 210.75, 300.0]]  # in the first of SIZES
GOLDEN_BOXES = [[0, 0, 1280, 720], [101.25, 33.6, 402.9, 377.125]]
RESULTS = REPOSITORY / "benchmarks" / "results" / "dwpose_parity.json"


def make_checkpoint(path: Path) -> None:
    """A random DWPose in the format of dw-ll_ucoco_384.pth, with what mmengine leaves beside the tensors."""
    net = DWPose()
    net.load_state_dict(seeded(net.state_dict(), seed=0))
    calibrate(net, normalised(np.stack([picture(HEIGHT, WIDTH, seed) for seed in range(4)])))
    meta = {"epoch": 270, "dataset_meta": {"sigmas": np.ones(133), "dataset_name": "coco_wholebody"}}
    history = {"train/loss": HistoryBuffer([1.0, 0.5], [1, 1])}
    save_checkpoint({"meta": meta, "state_dict": net.state_dict(), "message_hub": {"log_scalars": history}}, str(path))


def cases() -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, frame (H,W,3) uint8 and boxes (N,4) of what is compared."""
    found = []
    for height, width in SIZES:
        whole = np.array([[0, 0, width, height]], np.float32)
        found.append((f"{width}x{height}, whole frame", picture(height, width, height), whole))
    frame = picture(*SIZES[0], seed=99)
    found += [(f"float box {box}", frame, np.array([box], np.float32)) for box in FLOAT_BOXES[:1]]
    found.append(("two boxes at once", frame, np.array(FLOAT_BOXES, np.float32)))
    return found


def compare(ours: DWPoseEstimator, theirs: MMPoseEstimator, flip_test: bool) -> list[dict[str, Any]]:
    """The largest differences in every case."""
    theirs.net.test_cfg["flip_test"] = flip_test
    ours = DWPoseEstimator(ours.net, ours.device, flip_test)
    rows = []
    for name, frame, boxes in cases():
        points, scores = ours.estimate(frame, boxes)
        wanted, wanted_scores = theirs.estimate(frame, boxes)
        differences = np.abs(points - wanted)
        row = {"case": name, "flip test": flip_test, "points": float(differences.max())}
        row |= {"scores": float(np.abs(scores - wanted_scores).max())}
        row |= {"highest score": float(wanted_scores.max()), "different places": len(np.unique(wanted))}
        rows.append(row)
    return rows


def golden(theirs: MMPoseEstimator) -> dict[str, Any]:
    """mmpose's centres, sizes, points and scores for views made by seed: the warping of OpenCV is left out."""
    theirs.net.load_state_dict(seeded(theirs.net.state_dict(), seed=0))
    views = np.stack([picture(HEIGHT, WIDTH, seed=50 + k) for k in range(len(GOLDEN_BOXES))])
    boxes = np.array(GOLDEN_BOXES, np.float32)
    samples = _samples(theirs, boxes)
    theirs.net.test_cfg["flip_test"] = True
    with torch.no_grad():
        people = theirs.net.predict(normalised(views), samples)
    metas = [sample.metainfo for sample in samples]
    return {
        "weights": 0,
        "flip_indices": list(theirs.net.dataset_meta["flip_indices"]),
        "boxes": GOLDEN_BOXES,
        "view pictures": [50, 51],
        "centres": [np.ravel(meta["input_center"]).tolist() for meta in metas],
        "sizes": [np.ravel(meta["input_scale"]).tolist() for meta in metas],
        "points": [np.round(person.pred_instances.keypoints[0], 3).tolist() for person in people],
        "scores": [np.round(person.pred_instances.keypoint_scores[0], 3).tolist() for person in people],
    }


def _samples(theirs: MMPoseEstimator, boxes: np.ndarray) -> list[Any]:
    """What mmpose's own pipeline says of the boxes."""
    from mmengine.dataset import Compose

    steps = Compose(theirs.net.cfg.test_dataloader.dataset.pipeline)
    frame = np.zeros((720, 1280, 3), np.uint8)
    given = [{"img": frame, "bbox": box[None], "bbox_score": np.ones(1, np.float32)} for box in boxes]
    return [steps({**one, **theirs.net.dataset_meta})["data_samples"] for one in given]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--golden", type=Path, help="also write this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "dw-ll_ucoco_384.pth"
        make_checkpoint(checkpoint)
        theirs = MMPoseEstimator(dwpose_state_dict(checkpoint))
        ours = DWPoseEstimator(load_dwpose(checkpoint), torch.device("cpu"))
    left = [name for modules in OPTIONAL.values() for name in modules if name in sys.modules]
    rows = [row for flip_test in (True, False) for row in compare(ours, theirs, flip_test)]
    packages = ("torch", "numpy", "mmpose", "mmcv-lite", "onedl-mmengine")
    versions = {name: metadata.version(name) for name in packages} | {"opencv": cv2.__version__}
    result = {"versions": versions, "machine": platform.machine(), "stand-ins left": left, "largest differences": rows}
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    if args.golden:
        args.golden.write_text(json.dumps(golden(theirs)) + "\n", encoding="utf-8")
    return 0 if not left and all(row["points"] == 0 for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
