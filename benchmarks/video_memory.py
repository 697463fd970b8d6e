#!/usr/bin/env python3
"""Peak memory of ComfyUI while Lip Sync Video makes a short and a long video: it must not grow with the length.

    HOST/venv/bin/python benchmarks/video_memory.py [--minutes 1 10] [--fps 10] [--root HOST] [--output FILE.json]

For each length a clip of 1280x720 is made (each 20 s one of the NASA portrait, moving, and 19 without a face, so that
the run ends in minutes on a CPU), a fresh ComfyUI server is started, Load Video, Lip Sync Video and Save Video are
queued with the demo model, and the server's peak resident memory (VmHWM) is read. Linux. Needs the test host
(scripts/comfy_host.py setup). Exit status 1 when the longest peak is over 1.05 times the shortest's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
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
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts")]

import comfy_host  # noqa: E402
from comfy_setup import default_root, say  # noqa: E402
from run_workflow import run_workflow  # noqa: E402

from musetalk_core.media.audio import AudioArray  # noqa: E402
from musetalk_core.media.encoding import Encoding  # noqa: E402
from musetalk_core.media.video_reader import VideoReader  # noqa: E402
from musetalk_core.media.video_writer import VideoWriter  # noqa: E402

HEIGHT, WIDTH = 720, 1280
CYCLE_SECONDS, FACE_SECONDS = 20, 1
LIMIT = 1.05
RESULTS = REPOSITORY / "benchmarks" / "results" / "video_memory.json"
DEFAULTS = {
    "fps": 0.0, "mode": "ping-pong", "bbox_shift": 0, "extra_margin": 10, "face": "largest", "parsing_mode": "jaw",
    "left_cheek_width": 90, "right_cheek_width": 90, "expand": 1.5, "blur": 0.05, "upper_boundary_ratio": 0.5,
    "audio_padding_left": 2, "audio_padding_right": 2, "segmentation": "overlap", "batch_size": 8, "crf": 18,
    "pixel_format": "yuv420p",
}  # fmt: skip


def head() -> np.ndarray:
    """The NASA portrait, as high as the clip."""
    return cv2.resize(data.astronaut()[0:300, 80:380], (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA)


def make_clip(path: Path, minutes: float, fps: int) -> Path:
    """The clip, with a tone of the same length as its sound."""
    seconds = round(60 * minutes)
    picture = head()
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(16000 * seconds, dtype=np.float32) / 16000, dtype=np.float32)
    sound, encoding = AudioArray(tone[None], 16000), Encoding(preset="ultrafast")
    with VideoWriter(path, Fraction(fps), (HEIGHT, WIDTH), sound, encoding=encoding) as writer:
        for i in range(seconds * fps):
            frame = np.stack([(x // 4 + i) % 256, (y // 3 + i // 7) % 256, np.full_like(x, 90)], -1).astype(np.uint8)
            if i % (CYCLE_SECONDS * fps) < FACE_SECONDS * fps:
                left = 200 + i % (4 * fps)
                frame[:, left : left + HEIGHT] = picture
            writer.write(torch.from_numpy(frame))
    return path


def workflow(clip: str) -> dict[str, Any]:
    models = {
        "model": ["models", 0],
        "vae": ["models", 1],
        "audio_encoder": ["models", 2],
        "face_models": ["models", 3],
    }
    inputs = {"video": ["load", 0], **models, **DEFAULTS}
    return {
        "load": {"class_type": "LoadVideo", "inputs": {"file": clip}},
        "models": {"class_type": "LoadMuseTalkModels", "inputs": {"version": "demo", "precision": "auto"}},
        "lipsync": {"class_type": "MuseTalkLipSyncVideo", "inputs": inputs},
        "save": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["lipsync", 0], "filename_prefix": "long", "format": "auto", "codec": "auto"},
        },
    }


def memory(pid: int, line: str) -> float:
    """A line of /proc/PID/status in MiB: VmHWM is the peak of resident memory, VmRSS what it is now."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(row.split()[1]) for row in status if row.startswith(line)) / 1024, 1)


def measure(root: Path, minutes: float, fps: int) -> dict[str, Any]:
    """One length on a fresh server: its peak, and what the stored video holds."""
    with tempfile.TemporaryDirectory(prefix="video-memory-") as folder:
        say(f"{minutes:g} minutes: making the clip")
        clip = make_clip(Path(folder, f"clip_{minutes:g}.mp4"), minutes, fps)
        server = comfy_host.start(root, comfy_host.free_port(), inputs=[clip], server_args=["--disable-api-nodes"])
        port = int(server["url"].rsplit(":", 1)[1])
        try:
            idle = memory(server["pid"], "VmRSS")
            started = time.monotonic()
            (stored,) = asyncio.run(run_workflow(server["url"], workflow(clip.name), Path(folder, "stored")))
            seconds = time.monotonic() - started
            peak = memory(server["pid"], "VmHWM")
        finally:
            comfy_host.stop(root, port)
        frames = len(VideoReader(stored))
    assert frames == round(60 * minutes) * fps, frames
    return {
        "minutes": minutes,
        "frames": frames,
        "seconds": round(seconds, 1),
        "idle_mib": idle,
        "peak_mib": peak,
        "load": round(os.getloadavg()[0], 2),
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    total = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": cpu[0] if cpu else platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(total / 2**20, 1),
        "system": platform.platform(),
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10], help="default: %(default)s")
    parser.add_argument("--fps", type=int, default=10, help="frames/s of the clips, default: %(default)s")
    parser.add_argument("--root", type=Path, default=default_root(), help="the test host, default: %(default)s")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    runs = []
    for minutes in sorted(args.minutes):
        runs.append(measure(args.root, minutes, args.fps))
        say(json.dumps(runs[-1]))
    ratio = round(runs[-1]["peak_mib"] / runs[0]["peak_mib"], 4)
    found = {
        "what": "peak resident memory of the ComfyUI server, demo model on the CPU, fresh server for each length",
        "clip": f"{WIDTH}x{HEIGHT} at {args.fps} frames/s, own sound, {FACE_SECONDS} of {CYCLE_SECONDS} s with a face",
        "machine": machine(),
        "runs": runs,
        "longest_by_shortest": ratio,
        "limit": LIMIT,
        "holds": ratio <= LIMIT,
    }
    args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    comfy_host.catch_signals()
    sys.exit(main())
