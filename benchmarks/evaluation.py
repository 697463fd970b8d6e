#!/usr/bin/env python3
"""Time and memory of `evaluate` on many clips.

    HOST/venv/bin/python benchmarks/evaluation.py [--clips 100] [--seconds 5] [--threads 2] [--detect-every 1]

Renders RENDERED faces that say different sounds (once, into --inputs), and measures them in turn: each 3 frames late,
against itself as the reference and against the next one as the source, so that three videos are searched for faces. One
broken file is among them. Every measure runs that needs no download, and SyncNet with random weights in the true
format, which costs what the true ones cost; what it says means nothing and is not kept. The result file is written
after every clip. On a busy machine compare processor seconds, not wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.data import astronaut

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "scripts")]

from clips import write_video  # noqa: E402
from comfy_setup import default_root  # noqa: E402
from portrait.portrait import NEUTRAL, Portrait, find_mesh  # noqa: E402

from musetalk_core.evaluation.dataset import ClipFiles  # noqa: E402
from musetalk_core.evaluation.run import Evaluation, Ruler, evaluate  # noqa: E402
from musetalk_core.evaluation.speech import loudness  # noqa: E402
from musetalk_core.evaluation.sync import SyncScorer  # noqa: E402
from musetalk_core.faces.detector import FaceDetector  # noqa: E402
from musetalk_core.nets.syncnet import SyncNet  # noqa: E402
from musetalk_core.settings import FaceSettings, LipSyncSettings  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "evaluation.json"
SIZE, FPS, RENDERED, LATE = 384, 25, 5, 3


def babble(seconds: float, seed: int) -> np.ndarray:
    """A tone whose loudness comes and goes without a period, float32 at 16 kHz."""
    count = round(seconds * 16000)
    level = np.repeat(np.random.default_rng(seed).uniform(0, 1, count // 2000 + 1), 2000)[:count]
    level = np.convolve(level, np.ones(1500) / 1500, "same")
    return (0.5 * level**2 * np.sin(np.arange(count) * 0.2)).astype(np.float32)


def rendered(folder: Path, seconds: float) -> list[ClipFiles]:
    """The clips; files that are there already are taken as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{SIZE}_{seconds:g}s_{k}" for k in range(RENDERED)]
    truths, lates = ([folder / f"{name}{part}.mov" for name in names] for part in ("", "_late"))
    if not all(path.is_file() for path in (*truths, *lates)):
        picture = astronaut()[0:300, 80:380]
        portrait = Portrait(picture, find_mesh(picture, FaceDetector(FaceDetector.load_nets())), size=SIZE)
        for k in range(RENDERED):
            sound = babble(seconds, k)
            levels = loudness(sound, round(seconds * FPS))
            shown = np.stack([portrait.render(np.float32([level, *NEUTRAL[1:]])).frame for level in levels])
            write_video(truths[k], shown, audio=sound)
            write_video(lates[k], shown[np.maximum(np.arange(len(shown)) - LATE, 0)], audio=sound)
    return [ClipFiles(names[k], lates[k], None, truths[(k + 1) % RENDERED], truths[k]) for k in range(RENDERED)]


class Account:
    """The figures of a run so far. memory: the process's highest in MB after each clip."""

    def __init__(self, path: Path, facts: dict[str, Any]) -> None:
        self.path, self.facts = path, facts
        self.memory: list[float] = []
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __call__(self, result: Evaluation, done: int) -> None:
        self.memory.append(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1))
        cpu, measured = time.process_time() - self.cpu, len(result.measured)
        lags = {one.figures["lip_audio_lag"] for one in result.measured}
        figures = {
            **self.facts,
            "measured": measured,
            "skipped": list(result.skipped),
            "wall_seconds": round(time.perf_counter() - self.wall, 1),
            "cpu_seconds": round(cpu, 1),
            "cpu_seconds_per_clip": round(cpu / max(1, measured), 2),
            "lip_audio_lags": sorted(lags, key=str),
            "memory_mb_after_clip": {str(k): self.memory[k - 1] for k in (1, 10, 50, done) if k <= done},
            "load": [round(value, 1) for value in os.getloadavg()],
        }
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path)
        print(f"{done}: {cpu:.0f} s of processor time, {self.memory[-1]} MB", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--clips", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--detect-every", type=int, default=1, help="as of evaluate; default: %(default)s")
    parser.add_argument("--inputs", type=Path, default=default_root() / "evaluation", help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=RESULT, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    made = rendered(args.inputs, args.seconds)
    broken = args.inputs / "broken.mp4"
    broken.write_bytes(b"\0" * 5000)
    rows = [made[k % RENDERED] for k in range(args.clips)]
    rows.insert(1, ClipFiles("broken", broken))
    facts = {
        "clips": args.clips,
        "clip_seconds": args.seconds,
        "frame": f"{SIZE}x{SIZE}",
        "detect_every": args.detect_every,
        "threads": args.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    syncnet = SyncScorer(SyncNet().train(False).requires_grad_(False))
    settings = LipSyncSettings(faces=FaceSettings(detect_every=args.detect_every))
    ruler = Ruler(FaceDetector(FaceDetector.load_nets()), settings, syncnet=syncnet)
    result = evaluate(rows, ruler, progress=Account(args.json, facts))
    print(args.json.read_text(encoding="utf-8"))
    return 0 if len(result.measured) == args.clips else 1


if __name__ == "__main__":
    sys.exit(main())
