#!/usr/bin/env python3
"""How many frames a second the demo model generates on the CPU: UNet, decoder and audio encoder.

    python benchmarks/demo_speed.py [--model FILE] [--threads 2] [--batch 8] [--seconds 10] [--precision fp32]

Timed is what every output frame of a live stream costs: one UNet step, one decode, and the frame's share of the audio
encoder, which hears its 30 s window anew for every batch. For a whole file it hears one window every 24 s, which is the
second figure. Locating, encoding and masking are done once per source frame and are not in it. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from musetalk_core.audio_features import HOP_SAMPLES, SAMPLE_RATE, WINDOW_SAMPLES  # noqa: E402
from musetalk_core.demo.loader import DemoModels, load_demo  # noqa: E402
from musetalk_core.latents import decode_faces  # noqa: E402

FPS = 25
TOKEN_ROWS = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def median_seconds(call: Callable[[], object], seconds: float) -> float:
    """The median time of a call, repeated for about `seconds` (at least 5 times) after two that do not count."""
    call()
    call()
    times: list[float] = []
    while len(times) < 5 or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(models: DemoModels, threads: int = 2, batch: int = 8, seconds: float = 10.0) -> dict[str, Any]:
    """Frames/s of all parts together and milliseconds of each (UNet and decoder a frame), on `threads` threads.

    Takes about `seconds`. The threads that torch uses are set back afterwards.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator, encoder = models.generator, models.audio_encoder
        masked, reference = torch.randn(2, batch, 4, 32, 32)
        tokens = torch.randn(batch, TOKEN_ROWS * encoder.states, encoder.width)
        samples = np.random.default_rng(0).normal(0, 0.1, WINDOW_SAMPLES).astype(np.float32)
        latents = generator.generate(masked, reference, tokens)
        each = seconds / 3
        unet = median_seconds(lambda: generator.generate(masked, reference, tokens), each) / batch
        decoder = median_seconds(lambda: decode_faces(models.codec, latents), each) / batch
        window = median_seconds(lambda: encoder.encode(samples), each)
    finally:
        torch.set_num_threads(before)
    frames_per_window = HOP_SAMPLES["overlap"] / SAMPLE_RATE * FPS
    return {
        "frames_per_second": round(1 / (unet + decoder + window / batch), 2),
        "frames_per_second_whole_file": round(1 / (unet + decoder + window / frames_per_window), 2),
        "unet_ms": round(unet * 1e3, 3),
        "decoder_ms": round(decoder * 1e3, 3),
        "audio_window_ms": round(window * 1e3, 3),
        "batch": batch,
        "threads": threads,
        "trained": models.trained,
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a demo.safetensors, default: the package's own")
    parser.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="frames at a time, default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10, help="how long to measure, default: %(default)s")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32", help="default: %(default)s")
    args = parser.parse_args()
    models = load_demo("cpu", DTYPES[args.precision], args.model)
    found = measure(models, args.threads, args.batch, args.seconds)
    print(json.dumps({**found, "precision": args.precision}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
