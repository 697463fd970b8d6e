#!/usr/bin/env python3
"""How much faster two Ray workers of one thread are than one, on the same jobs with the demo model.

    HOST/venv/bin/python benchmarks/batch_scale.py [--pairs 3] [--jobs 8] [--seconds 4] [--out FILE.json] [--quick]

One worker and two take turns, each on a Ray cluster of its own; a pair gives a ratio, the median counts. Each worker
is kept on a core of its own, so that its decoder and x264 have one core too: both would otherwise use every core, and
the single worker more than its share. Frames/s are from the first start of a job to the last end of one: loading is
not in them, waiting for the slower worker is. Needs Linux, two idle cores and the test host (scripts/comfy_host.py
setup, scripts/demo_inputs.py). Exit status 1 when the median is below 1.4.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts")]

from comfy_setup import default_root  # noqa: E402

from musetalk_core.batch.jobs import Job  # noqa: E402
from musetalk_core.batch.ray_workers import Fleet, run_on_ray  # noqa: E402
from musetalk_core.engine import Engine, WeightChoice, load_engine  # noqa: E402
from musetalk_core.tasks import Task  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

LEAST = 1.4


class LoadOnOneCore:
    """Loads the demo model in a worker that keeps to the first core that no other worker has claimed."""

    def __init__(self, claims: Path) -> None:
        self._claims = claims

    def __call__(self) -> Engine:
        for core in sorted(os.sched_getaffinity(0)):
            try:
                (self._claims / str(core)).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.sched_setaffinity(0, {core})
            break
        return load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)


def measure(workers: int, count: int, video: Path, sound: Path) -> float:
    """Frames/s of `workers` workers on `count` equal jobs."""
    with tempfile.TemporaryDirectory() as folder:
        claims = Path(folder) / "cores"
        claims.mkdir()
        jobs = [Job(k, Task(video, Path(folder) / f"{k}.mp4", sound)) for k in range(count)]
        frames, starts, ends = 0, [], []
        for outcome in run_on_ray(jobs, LoadOnOneCore(claims), Fleet(workers=workers, threads=1, gpu=False)):
            if outcome.error or outcome.attempt > 1:
                raise RuntimeError(f"A job went wrong, attempt {outcome.attempt}: {outcome.error}")
            frames += outcome.frames
            ends.append(time.monotonic())
            starts.append(ends[-1] - outcome.seconds)
    return frames / (max(ends) - min(starts))


def cut_sound(source: Path, target: Path, seconds: float) -> Path:
    """The first seconds of a sound."""
    samples, rate = soundfile.read(source, frames=round(seconds * soundfile.info(source).samplerate))
    soundfile.write(target, samples, rate)
    return target


def compare(pairs: int, count: int, seconds: float, inputs: Path) -> dict[str, Any]:
    """Frames/s of one worker and of two, `pairs` times each in turn, and the ratios."""
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("Two workers need two cores.")
    before = os.getloadavg()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        sound = cut_sound(inputs / "demo_speech.wav", Path(folder) / "speech.wav", seconds)
        for pair in range(pairs):
            for workers in (1, 2) if pair % 2 == 0 else (2, 1):
                rates[workers].append(measure(workers, count, inputs / "demo_portrait.mp4", sound))
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "frames_per_second_one_worker": [round(rate, 2) for rate in rates[1]],
        "frames_per_second_two_workers": [round(rate, 2) for rate in rates[2]],
        "jobs": count,
        "job_seconds": seconds,
        "threads": "1 a worker, decoder and encoder on the same core",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "load_before": [round(load, 2) for load in before],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--pairs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=8, help="an even number; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=4, help="of sound in a job; default: %(default)s")
    parser.add_argument("--inputs", type=Path, default=default_root() / "demo-inputs", help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="one pair of 2 jobs of 1 s: shows that it runs")
    args = parser.parse_args()
    pairs, jobs, seconds = (1, 2, 1.0) if args.quick else (args.pairs, args.jobs, args.seconds)
    found = compare(pairs, jobs, seconds, args.inputs)
    print(json.dumps(found))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if args.quick or found["ratio"] >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
