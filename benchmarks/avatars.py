#!/usr/bin/env python3
"""How long preparing an avatar takes, and how much faster it then speaks than the whole chain on the same source.

    .host/venv/bin/python benchmarks/avatars.py [--frames 100] [--runs 3] [--output FILE.json]

The demo model on the CPU with the demo's inputs (make demo): frames/s of preparing, of Lip Sync Video's loop and of
Avatar Lip Sync's, neither written to a file, their frames compared, and the avatar's size on the disk. The fastest
of several runs counts: others only add what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts")]

from comfy_setup import default_root  # noqa: E402

from musetalk_core.avatars.files import load_avatar  # noqa: E402
from musetalk_core.avatars.prepare import prepare_avatar  # noqa: E402
from musetalk_core.avatars.speaking import AvatarVideo  # noqa: E402
from musetalk_core.engine import WeightChoice, load_engine  # noqa: E402
from musetalk_core.media.audio import AudioFile  # noqa: E402
from musetalk_core.media.source import ShownFrames, open_source  # noqa: E402
from musetalk_core.pipeline import lip_sync  # noqa: E402
from musetalk_core.report import Report  # noqa: E402
from musetalk_core.settings import LipSyncSettings  # noqa: E402
from musetalk_core.tasks import stream_tokens  # noqa: E402
from musetalk_core.timeline import frame_count  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "avatars.json"
FPS = Fraction(25)


def fastest(runs: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, and what the last one gave."""
    seconds, result = [], None
    for _ in range(runs):
        started = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def measure(clip: Path, speech: Path, frames: int, runs: int, folder: Path) -> dict[str, Any]:
    """All figures; see above."""
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    settings = LipSyncSettings.for_version("demo")
    video = open_source(clip)
    source = ShownFrames(video, range(min(frames, len(video))), video.fps)
    audio = AudioFile(speech)
    count = frame_count(audio.seconds, FPS)

    def prepare() -> None:
        prepare_avatar("bench", source, engine.models(settings), settings, "demo", folder / "bench")

    def whole() -> list[int]:
        tokens = stream_tokens(engine.audio_encoder, audio, FPS, settings)
        made = lip_sync(source, tokens, count, engine.models(settings), settings)
        return [int(frame.sum()) for frame in made]

    def speaking() -> list[int]:
        parts = engine.audio_encoder, engine.generator, engine.codec
        job = AvatarVideo(load_avatar(folder / "bench"), audio, None, *parts, settings, "demo")
        return [int(frame.sum()) for frame in job.frames(Report())]

    preparing, _ = fastest(runs, prepare)
    chain, expected = fastest(runs, whole)
    avatar, made = fastest(runs, speaking)
    loading, _ = fastest(runs, lambda: load_avatar(folder / "bench", in_memory=True))
    size = sum(file.stat().st_size for file in (folder / "bench").iterdir())
    return {
        "source": {"frames": len(source), "height": source.size[0], "width": source.size[1]},
        "spoken_frames": count,
        "prepare_frames_per_second": round(len(source) / preparing, 2),
        "lip_sync_video_frames_per_second": round(count / chain, 2),
        "avatar_lip_sync_frames_per_second": round(count / avatar, 2),
        "avatar_by_whole_chain": round(chain / avatar, 3),
        "equal_frames": sum(a == b for a, b in zip(expected, made, strict=True)),
        "load_into_memory_seconds": round(loading, 3),
        "disk_megabytes_per_frame": round(size / len(source) / 1e6, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=default_root(), help="the host, default: %(default)s")
    parser.add_argument("--frames", type=int, default=100, help="of the source, default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of each, default: %(default)s")
    parser.add_argument("--note", default="", help="what else the machine did")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    inputs = options.root / "demo-inputs"
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        clip, speech = inputs / "demo_portrait.mp4", inputs / "demo_speech.wav"
        figures = measure(clip, speech, options.frames, options.runs, Path(folder))
    machine = {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "load_before_and_after": [round(before, 1), round(os.getloadavg()[0], 1)],
        "note": options.note,
    }
    result = {"what": "avatars with the demo model on the CPU", "machine": machine, **figures}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0 if figures["equal_frames"] == figures["spoken_frames"] else 1


if __name__ == "__main__":
    sys.exit(main())
