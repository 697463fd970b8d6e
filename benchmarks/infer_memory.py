#!/usr/bin/env python3
"""Resident memory of `infer` while it makes short and long videos: it must stand still, however long the video is.

    HOST/venv/bin/python benchmarks/infer_memory.py [--minutes 1 5 20] [--cutaway 60] [--fps 5] [--output FILE.json]

Clips of 1280x720 are made of the NASA portrait, moving: one of each of --minutes with a face in every frame, and one of
--cutaway minutes of which 95 % show no face. Each is made anew by the demo model in a process of its own, whose
resident memory is read every second (Linux). slope: MiB a minute of video over the second half of a run (least
squares). Exit status 1 when a run's peak is over 1.05 times the shortest's or its slope over 1 MiB a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from video_memory import CYCLE_SECONDS, FACE_SECONDS, HEIGHT, WIDTH, head, memory

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]

from musetalk_core.bench.machine import machine  # noqa: E402
from musetalk_core.media.audio import AudioArray  # noqa: E402
from musetalk_core.media.encoding import Encoding  # noqa: E402
from musetalk_core.media.video_reader import VideoReader  # noqa: E402
from musetalk_core.media.video_writer import VideoWriter  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "infer_memory.json"
MOST_GROWTH, MOST_SLOPE = 1.05, 1.0


def make_clip(path: Path, minutes: float, fps: int, cutaways: bool) -> Path:
    """The portrait moving before a gradient, with a beating tone; cutaways: away for 19 of each 20 s."""
    seconds = round(60 * minutes)
    picture = head()
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    t = np.arange(16000 * seconds, dtype=np.float32) / 16000
    tone = (0.3 * np.sin(2 * np.pi * 220 * t) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * t))).astype(np.float32)
    sound, encoding = AudioArray(tone[None], 16000), Encoding(preset="ultrafast")
    with VideoWriter(path, Fraction(fps), (HEIGHT, WIDTH), sound, encoding=encoding) as writer:
        for k in range(seconds * fps):
            frame = np.stack([(x // 4 + k) % 256, (y // 3 + k // 7) % 256, np.full_like(x, 90)], -1).astype(np.uint8)
            if not cutaways or k % (CYCLE_SECONDS * fps) < FACE_SECONDS * fps:
                left = 200 + k % (4 * fps)
                frame[:, left : left + HEIGHT] = picture
            writer.write(torch.from_numpy(frame))
    return path


def measure(minutes: float, fps: int, cutaways: bool) -> dict[str, Any]:
    """One run: its peak, its slope, and whether the stored video has every frame."""
    with tempfile.TemporaryDirectory(prefix="infer-memory-") as folder:
        clip = make_clip(Path(folder, "clip.mp4"), minutes, fps, cutaways)
        output = Path(folder, "out.mp4")
        command = [sys.executable, "-m", "musetalk_core", "infer", "--version", "demo", "--preset", "ultrafast"]
        started, samples = time.monotonic(), []
        process = subprocess.Popen([*command, "--video", clip, "--output", output], cwd=REPOSITORY)
        peak = 0.0
        while process.poll() is None:
            time.sleep(1)
            try:
                peak = memory(process.pid, "VmHWM")
                samples.append((time.monotonic() - started, memory(process.pid, "VmRSS")))
            except (FileNotFoundError, StopIteration):
                break
        if process.wait() != 0:
            raise SystemExit(f"infer failed with exit status {process.returncode}")
        seconds = time.monotonic() - started
        assert len(VideoReader(output)) == round(60 * minutes) * fps, len(VideoReader(output))
    later = [(when / seconds * minutes, mib) for when, mib in samples if when > seconds / 2]
    slope = float(np.polyfit(*np.transpose(later), 1)[0]) if len(later) > 2 else 0.0
    return {
        "minutes": minutes,
        "cutaways": cutaways,
        "fps": fps,
        "frames": round(60 * minutes) * fps,
        "seconds": round(seconds, 1),
        "peak_mib": peak,
        "slope_mib_per_minute": round(slope, 3),
        "samples_mib": [mib for _, mib in samples][:: max(1, len(samples) // 60)],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20], help="default: 1 5 20")
    parser.add_argument("--cutaway", type=float, default=60, help="minutes, 95 %% of them without a face; 0: none; 60")
    parser.add_argument("--fps", type=int, default=5, help="frames/s of the clips, default: %(default)s")
    parser.add_argument("--cutaway-fps", type=int, default=2, help="of the one with cutaways, default: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    kinds = [(minutes, args.fps, False) for minutes in args.minutes]
    kinds += [(args.cutaway, args.cutaway_fps, True)] if args.cutaway else []
    runs: list[dict[str, Any]] = []
    for kind in kinds:
        runs.append(measure(*kind))
        print(json.dumps({key: value for key, value in runs[-1].items() if key != "samples_mib"}), flush=True)
        growth = max(run["peak_mib"] for run in runs) / runs[0]["peak_mib"]
        result = {"machine": machine(torch.device("cpu")), "size": [HEIGHT, WIDTH], "runs": runs}
        args.output.write_text(json.dumps(result | {"growth": round(growth, 4)}, indent=1) + "\n", encoding="utf-8")
    # A run of a minute or five is too short to tell a step from a slope.
    slopes = [run["slope_mib_per_minute"] for run in runs if run["minutes"] >= 20]
    return 1 if growth > MOST_GROWTH or max(slopes, default=0) > MOST_SLOPE else 0


if __name__ == "__main__":
    sys.exit(main())
