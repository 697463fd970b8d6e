"""Latency and steadiness at a WebRTC client of the real server, with the demo model on the CPU.

    python benchmarks/realtime_server.py [--utterances 10] [--minutes 0] [--output FILE.json]

First frame: from the request that brings the sound (POST /humanaudio, or feeding it in the process) to the first
picture at the client whose mouth moves, with the stages of the server's own metrics and the time of encoding measured
around aiortc's H.264 encoder. --minutes: how the rate and the time stamps hold over minutes of the real clock.
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from aiortc.codecs.h264 import H264Encoder

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))
sys.path.insert(0, str(REPOSITORY / "scripts"))
sys.path.insert(0, str(REPOSITORY / "tests"))

from realtime_parts import demo_speech  # noqa: E402
from realtime_server import demo_engine, prepared_folder, running  # noqa: E402
from realtime_viewer import Viewer  # noqa: E402

STAGES = ("audio_in", "features", "batch_wait", "generation", "compositing", "lateness")
RATE = 16000


class TimedEncoder:
    """Times aiortc's H.264 encoder, in ms."""

    def __init__(self) -> None:
        self.times: list[float] = []
        encode = H264Encoder.encode

        def timed(encoder, frame, force_keyframe=False):
            begun = time.perf_counter()
            made = encode(encoder, frame, force_keyframe)
            self.times.append(1000 * (time.perf_counter() - begun))
            return made

        H264Encoder.encode = timed


async def first_frames(server, viewer: Viewer, count: int) -> dict[str, list[float]]:
    """ms from feeding to: the first block that speaks, its picture at the client, its sound at the client."""
    live = server.service.manager.get(viewer.sessionid)
    speech = demo_speech()
    speech = speech[int(np.argmax(np.abs(speech) > 0.05)) :][: 2 * RATE]  # begins with the voice
    found: dict[str, list[float]] = {"block": [], "picture": [], "sound": []}
    for _ in range(count):
        await asyncio.sleep(1.0)
        blocks = asyncio.create_task(first_speech(live))
        begun, mark = time.monotonic(), viewer.sounds[-1].time
        live.session.feed(speech)
        live.session.finish()
        came = await blocks
        found["block"].append(1000 * (came - begun))
        heard, shown = await first_seen(viewer, mark)
        found["sound"].append(1000 * (heard - begun))
        found["picture"].append(1000 * (shown - begun))
        await asyncio.sleep(2.5)
    return found


async def first_seen(viewer: Viewer, mark: float) -> tuple[float, float]:
    """When the first sound after the time stamp `mark` came to the client, and the picture that belongs to it."""
    for _ in range(1000):
        heard = [seen for seen in viewer.sounds if seen.time > mark and seen.what > 0.005]
        shown = [seen for seen in viewer.pictures if heard and seen.time >= heard[0].time - 0.02]
        if shown:
            return heard[0].came, shown[0].came
        await asyncio.sleep(0.02)
    raise RuntimeError("nothing was heard")


async def first_speech(live) -> float:
    subscription = live.subscribe(50)
    async for block in subscription:
        if block.kind == "speech":
            subscription.close()
            return time.monotonic()
    raise RuntimeError("the session ended")


async def steadiness(server, viewer: Viewer, minutes: float) -> dict[str, float]:
    """Rate, and the difference between time stamps and the clock at the end against the beginning."""
    begun, first = time.monotonic(), len(viewer.pictures)
    live = server.service.manager.get(viewer.sessionid)
    speech = demo_speech()
    while time.monotonic() - begun < 60 * minutes:
        live.session.feed(speech)
        live.session.finish()
        await asyncio.sleep(10)
    pictures, sounds = viewer.pictures[first:], viewer.sounds
    seconds = pictures[-1].came - pictures[0].came
    late = [np.median([seen.came - seen.time for seen in part]) for part in (pictures[:250], pictures[-250:])]
    heard = [seen for seen in sounds if pictures[0].came <= seen.came <= pictures[-1].came]
    return {
        "minutes": round(seconds / 60, 2),
        "frames_per_second": round((len(pictures) - 1) / seconds, 3),
        "drift_ms": round(1000 * float(late[1] - late[0]), 1),
        "sound_packets_per_second": round((len(heard) - 1) / (heard[-1].came - heard[0].came), 3),
        "longest_gap_ms": round(1000 * max(np.diff([seen.came for seen in pictures])), 1),
    }


async def measure(utterances: int, minutes: float) -> dict:
    folder = Path(tempfile.mkdtemp())
    (folder / "avatars").mkdir()
    networks = demo_engine()
    avatars = prepared_folder(networks, folder / "avatars", 12, 512)
    encoder = TimedEncoder()
    async with running(networks, avatars, folder) as server:
        viewer = await Viewer(lambda picture: None).connect(lambda body: server.json("POST", "/offer", body))
        await viewer.received(50)
        found = await first_frames(server, viewer, utterances)
        steady = await steadiness(server, viewer, minutes) if minutes else None
        numbers = server.service.manager.metrics()[viewer.sessionid]
        await viewer.close()
    stages = {f"{name}_ms": round(numbers.get(f"{name}_ms", 0.0), 1) for name in STAGES}
    result = {
        "first_ms_at": {
            name: {"median": round(float(np.median(v)), 1), "worst": round(max(v), 1)} for name, v in found.items()
        },
        "stages": stages | {"encoding_ms": round(float(np.median(encoder.times)), 1)},
        "fps_infer": round(numbers.get("fps_infer", 0.0), 1),
        "counters": {
            k: numbers[k] for k in ("underruns", "duplicated_frames", "dropped_frames", "blocks") if k in numbers
        },
        "av_skew_max_ms": numbers.get("av_skew_max_ms"),
    }
    return result | ({"steadiness": steady} if steady else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "benchmarks" / "results" / "realtime_server.json")
    args = parser.parse_args()
    result = {
        "what": "first frame of a 512x512 avatar at an aiortc client on the same machine, demo model",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}",
        "load_before": round(os.getloadavg()[0], 1),
        "utterances": args.utterances,
        **asyncio.run(measure(args.utterances, args.minutes)),
        "load_after": round(os.getloadavg()[0], 1),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
