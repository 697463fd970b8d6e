#!/usr/bin/env python3
"""Real time on this machine: the first frame, where the time goes, and how many sessions hold 25 frames a second.

    python benchmarks/realtime.py [--size 512] [--threads 2] [--seconds 60] [--most-sessions 3] [--drift-minutes 0]
                                  [--output benchmarks/results/realtime.json]

The demo model on the CPU (or --device cuda), a moving portrait, LibriVox speech; the engine, its thread and the paced
sessions as the server runs them, with one listener each, without encoding and network. `mic` feeds 40 ms of sound every
40 ms, `burst` all of it at once. Times are in milliseconds. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]

from realtime_parts import Holder, demo_speech, mouths_live_and_offline, portrait_avatar  # noqa: E402

from musetalk_core.audio_features import AudioEncoder, WhisperEncoder, extract_features  # noqa: E402
from musetalk_core.engine import Engine, WeightChoice, load_engine  # noqa: E402
from musetalk_core.evaluation.lips import correlation, find_landmarks, lip_gap  # noqa: E402
from musetalk_core.realtime.block import BLOCK_SECONDS, FPS, RATE  # noqa: E402
from musetalk_core.realtime.compositor import speaking_picture  # noqa: E402
from musetalk_core.realtime.engine import RealtimeEngine  # noqa: E402
from musetalk_core.realtime.features import LOOKAHEAD_ROWS, LiveFeatures, SampleRing  # noqa: E402
from musetalk_core.realtime.runner import LiveSession  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

LOOKAHEADS = (0, 2, 4, 6, 8, 20)
STAGES = ("audio_in_ms", "features_ms", "batch_wait_ms", "generation_ms", "compositing_ms", "lateness_ms")


async def speak(live: LiveSession, sound: np.ndarray, pace: str) -> None:
    """Feed a sound at a pace and end it."""
    if pace == "burst":
        live.session.feed(sound)
    else:
        begun = time.monotonic()
        for k, start in enumerate(range(0, len(sound), 640)):
            await asyncio.sleep(max(begun + k * BLOCK_SECONDS - time.monotonic(), 0))
            live.session.feed(sound[start : start + 640])
    live.session.finish()


async def run_sessions(
    engine: RealtimeEngine, avatar: Any, sounds: list[np.ndarray], pace: str
) -> list[dict[str, Any]]:
    """Speak every sound in a session of its own, at the same time; the numbers of each session."""
    lives = [LiveSession(engine.session(avatar)) for _ in sounds]
    listeners = [asyncio.ensure_future(listen(live)) for live in lives]
    await asyncio.sleep(0.5)
    begun, before = time.monotonic(), [live.metrics.snapshot()["blocks"] for live in lives]
    await asyncio.gather(*(speak(live, sound, pace) for live, sound in zip(lives, sounds, strict=True)))
    while any(live.session.queued_seconds for live in lives):
        await asyncio.sleep(0.02)
    seconds = time.monotonic() - begun
    numbers = []
    for live, first in zip(lives, before, strict=True):
        snapshot = live.metrics.snapshot()
        snapshot["fps"] = (snapshot["blocks"] - first) / seconds
        snapshot["seconds"] = seconds
        numbers.append({name: round(value, 2) for name, value in sorted(snapshot.items())})
        await live.close()
    await asyncio.gather(*listeners)
    return numbers


async def listen(live: LiveSession) -> None:
    async for _ in live.subscribe():
        pass


def first_frames(engine: RealtimeEngine, avatar: Any, speech: np.ndarray, repeats: int) -> dict[str, Any]:
    """Milliseconds from the first fed sample to its block, warm, at both paces."""
    result: dict[str, Any] = {}
    for pace in ("mic", "burst"):
        numbers = [asyncio.run(run_sessions(engine, avatar, [speech[: 2 * RATE]], pace))[0] for _ in range(repeats)]
        first = sorted(one["first_frame_ms"] for one in numbers)
        result[pace] = {
            "first_frame_ms": {"median": statistics.median(first), "worst": first[-1], "all": first},
            "stages": {name: statistics.median(one.get(name, 0.0) for one in numbers) for name in STAGES},
        }
    return result


def held(numbers: list[dict[str, Any]]) -> bool:
    """Whether every session kept 25 +-1 frames/s with at most 1 % of its pictures repeated or late by 40 ms."""
    return all(
        abs(one["fps"] - 25) <= 1
        and one["duplicated_frames"] + one["underruns"] <= 0.01 * one["blocks"]
        and one["lateness_p99_ms"] <= 40
        for one in numbers
    )


def how_many(engine: RealtimeEngine, avatar: Any, sound: np.ndarray, most: int) -> dict[str, Any]:
    """Sessions that all speak at once, one more each time, until they do not hold 25 frames/s."""
    runs, best = {}, 0
    for count in range(1, most + 1):
        numbers = asyncio.run(run_sessions(engine, avatar, [np.roll(sound, k * RATE) for k in range(count)], "burst"))
        runs[str(count)] = numbers
        if not held(numbers):
            break
        best = count
    return {"hold_25_fps": best, "runs": runs}


def feature_errors(encoder: AudioEncoder, speech: np.ndarray, lookaheads: tuple[int, ...]) -> dict[str, Any]:
    """How far tokens of a microphone, with some rows of lookahead, and of a known sound are from those of a file."""
    offline = extract_features(encoder, speech, Fraction(len(speech), RATE), FPS)
    expected = offline.tokens(0, offline.frames)
    result: dict[str, Any] = {}
    ways = [(f"mic, lookahead {rows}", rows, 640) for rows in lookaheads] + [("burst", LOOKAHEAD_ROWS, len(speech))]
    for name, lookahead, piece in ways:
        ring = SampleRing()
        features = LiveFeatures(ring, 2, 2, lookahead)
        parts, done, took = [], 0, []
        for start in [*range(0, len(speech), piece), len(speech)]:
            ring.append(speech[start : start + piece])
            if start + piece >= len(speech):
                ring.finish()
            while done < (ready := min(features.frames, offline.frames)):
                stop = min(done + 8, ready)
                begun = time.perf_counter()
                parts.append(features.tokens(encoder, done, stop))
                took.append(time.perf_counter() - begun)
                done = stop
        error = torch.cat(parts) - expected
        result[name] = {
            "max_relative_error": float(error.abs().max() / expected.abs().max()),
            "rms_relative_error": float(error.norm() / expected.norm()),
            "ms_per_call": statistics.median(took) * 1000,
            "calls": len(took),
        }
    return result


def lips(loaded: Engine, sound: np.ndarray) -> dict[str, float]:
    """How the gap between the lips of a microphone's pictures follows that of a file's."""
    live, offline = mouths_live_and_offline(loaded, sound)
    detector = loaded.backends.get("mediapipe").detector
    gaps = [lip_gap(find_landmarks(map(torch.tensor, pictures), detector)) for pictures in (live, offline)]
    difference = float(np.abs(np.stack(live).astype(int) - np.stack(offline)).max())
    return {"frames": len(live), "correlation": correlation(*gaps), "largest_pixel_difference": difference}


def random_whisper(device: torch.device) -> WhisperEncoder:
    """whisper-tiny's architecture with random weights: what it costs, not what it hears."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as Module

    torch.manual_seed(0)
    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536)
    return WhisperEncoder(Module(config).train(False).to(device), device, torch.float32)


def compositing(avatar: Any, seconds: float = 2.0) -> float:
    """Milliseconds to paste a face into a frame."""
    face, times = torch.rand(256, 256, 3), []
    while sum(times) < seconds:
        begun = time.perf_counter()
        speaking_picture(avatar, len(times) % len(avatar), face, 1.0)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000


def drift(engine: RealtimeEngine, avatar: Any, minutes: float) -> dict[str, float]:
    """An idle session on the real clock: blocks handed out against the time that passed."""

    async def play() -> dict[str, float]:
        live = LiveSession(engine.session(avatar))
        await asyncio.sleep(1)
        begun, first = time.monotonic(), live.clock.samples
        await asyncio.sleep(60 * minutes)
        passed, sound = time.monotonic() - begun, (live.clock.samples - first) / RATE
        stalls = live.clock.stalls
        await live.close()
        return {"seconds": passed, "sound_minus_time_ms": (sound - passed) * 1000, "stalls": stalls}

    return asyncio.run(play())


def measure(loaded: Engine, options: argparse.Namespace) -> dict[str, Any]:
    """Every figure."""
    speech = demo_speech()
    sound = np.tile(speech, int(options.seconds * RATE / len(speech)) + 1)[: int(options.seconds * RATE)]
    avatar = portrait_avatar(loaded, 50, options.size)
    engine = RealtimeEngine(Holder(loaded))
    engine.warm_up(avatar)
    engine.start()
    result: dict[str, Any] = {}

    def add(name: str, figures: Any) -> None:
        result[name] = figures
        print(f"{time.strftime('%H:%M:%S')} {name} done", file=sys.stderr)

    add("first_frame", first_frames(engine, avatar, speech[8000:], options.repeats))
    add("sustained", asyncio.run(run_sessions(engine, avatar, [sound], "mic"))[0])
    add("sessions", how_many(engine, avatar, sound[: 15 * RATE], options.most_sessions))
    add("compositing_ms", compositing(avatar))
    add("features_demo", feature_errors(loaded.audio_encoder, speech, LOOKAHEADS))
    add("lips_mic_against_file", lips(loaded, speech[: round(3.6 * RATE)]))
    if options.whisper:
        encoder = random_whisper(options.device)
        add("features_whisper_random_weights", feature_errors(encoder, speech[: 2 * RATE], (LOOKAHEAD_ROWS,)))
    if options.drift_minutes:
        add("drift", drift(engine, avatar, options.drift_minutes))
    engine.stop()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--most-sessions", type=int, default=3)
    parser.add_argument("--drift-minutes", type=float, default=0.0)
    parser.add_argument("--whisper", action="store_true", help="also what whisper-tiny costs (random weights)")
    parser.add_argument("--models", type=Path, default=REPOSITORY / "models")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()
    folders = ModelFolders({"musetalk": [options.models]})
    loaded = load_engine(WeightChoice("demo"), folders, options.device, torch.float32)
    result = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "load_before": load,
            "device": str(options.device),
            "threads": options.threads,
            "torch": torch.__version__,
        },
        "size": options.size,
        **measure(loaded, options),
    }
    result["machine"]["load_after"] = os.getloadavg()
    text = json.dumps(result, indent=2) + "\n"
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
