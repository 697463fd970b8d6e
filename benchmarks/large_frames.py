#!/usr/bin/env python3
"""Peak memory and speed of `infer` on large frames: 1080p and 2160p, with a large and with a small face.

    HOST/venv/bin/python benchmarks/large_frames.py [--frames 24] [--output FILE.json]

Each row is a process of its own that makes a clip's video with the demo model on the CPU, at the default batch of 8 and
preset veryfast; its peak resident memory is VmHWM. The clip is the NASA portrait on a gradient, moving. Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from musetalk_core.media.audio import AudioArray  # noqa: E402
from musetalk_core.media.encoding import Encoding  # noqa: E402
from musetalk_core.media.video_writer import VideoWriter  # noqa: E402

SIZES = {"1080p": (1080, 1920), "2160p": (2160, 3840)}
HEADS = {"large": 1.0, "small": 0.15}  # height of head and shoulders as a share of the frame's
RESULTS = REPOSITORY / "benchmarks" / "results" / "large_frames.json"
FPS = 25
CHILD = """
import sys
from pathlib import Path
from musetalk_core.__main__ import main
arguments = ["infer", "--version", "demo", "--device", "cpu", "--preset", "veryfast"]
assert main([*arguments, "--video", sys.argv[1], "--output", sys.argv[2], "--report", sys.argv[3]]) == 0
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def make_clip(path: Path, size: tuple[int, int], share: float, frames: int) -> Path:
    """A clip of `frames` frames and its sound: head and shoulders, `share` of the height high, move to the right."""
    height, width = size
    side = round(height * share)
    head = cv2.resize(data.astronaut()[0:300, 80:380], (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[0:height, 0:width]
    back = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(16000 * frames // FPS) / 16000)
    sound, encoding = AudioArray(tone[None].astype(np.float32), 16000), Encoding(preset="ultrafast")
    with VideoWriter(path, Fraction(FPS), size, sound, encoding=encoding) as writer:
        for i in range(frames):
            picture = back.copy()
            top, left = (height - side) // 2, (width - side) // 2 + 2 * i
            picture[top : top + side, left : left + side] = head
            writer.write(torch.from_numpy(picture))
    return path


def measure(size: tuple[int, int], share: float, frames: int) -> dict[str, Any]:
    """One row: what a run of its own took."""
    with tempfile.TemporaryDirectory(prefix="large-frames-") as name:
        folder = Path(name)
        clip, report = make_clip(folder / "clip.mkv", size, share, frames), folder / "report.json"
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(clip), str(folder / "out.mp4"), str(report)],
            capture_output=True,
            text=True,
            check=False,
            cwd=REPOSITORY,
        )
        seconds = time.monotonic() - started
        if done.returncode:
            raise SystemExit(done.stderr)
        counts = json.loads(report.read_text(encoding="utf-8"))
    frame_mb = size[0] * size[1] * 3 / 1e6
    return {
        "frames": counts["frames"],
        "found": counts["found"],
        "frame_mb": round(frame_mb, 1),
        "peak_mb": round(int(done.stdout.split()[-1]) * 1024 / 1e6),
        "seconds": round(seconds, 1),
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "system": platform.platform(),
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--frames", type=int, default=24, help="of every clip")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for name, size in SIZES.items():
        for head, share in HEADS.items():
            row = {"size": name, "face": head, **measure(size, share, options.frames)}
            row["load"] = round(os.getloadavg()[0], 2)
            rows.append(row)
            print(row, flush=True)
    content = {"machine": machine(), "batch_size": 8, "rows": rows}
    options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
