#!/usr/bin/env python3
"""Measure speed, memory and accuracy: sets up the requirements, makes a clip of 1280x720, runs the `bench` command.

    python3 scripts/bench.py [--root DIR] [--no-setup] [BENCH ARGUMENT ...]

Without BENCH ARGUMENTs all parts are measured into benchmarks/results/bench_cpu.json, or bench_gpu.json where torch
sees a GPU, which takes about 15 minutes on two cores: have nothing else running. The clip is the NASA portrait, moving.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from comfy_setup import REPOSITORY, REQUIREMENTS, HostError, check_host, default_root, run, setup, venv_python

FRAMES, HEIGHT, WIDTH = 50, 720, 1280


def make_clip(path: Path) -> None:
    """The portrait moving before a gradient, 25 frames/s; runs in the host's environment."""
    import av
    import cv2
    import numpy as np
    from skimage import data

    head = cv2.resize(data.astronaut()[0:300, 80:380], (HEIGHT, HEIGHT), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for k in range(FRAMES):
            frame = np.stack([(x // 4 + k) % 256, (y // 3) % 256, np.full_like(x, 90)], -1).astype(np.uint8)
            frame[:, 200 + 2 * k : 200 + 2 * k + HEIGHT] = head
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=default_root(), help="the host, default: %(default)s")
    parser.add_argument("--no-setup", action="store_true", help="take the host as it is")
    parser.add_argument("--make-clip", type=Path, help=argparse.SUPPRESS)
    args, given = parser.parse_known_args()
    if args.make_clip:
        make_clip(args.make_clip)
        return 0
    root = args.root.expanduser().resolve()
    try:
        if not args.no_setup:
            setup(root, REQUIREMENTS)
        check_host(root)
        python, inputs = venv_python(root), root / "demo-inputs"
        run([python, REPOSITORY / "scripts" / "demo_inputs.py", "--folder", inputs], "making the demo's inputs")
        clip = root / "bench_clip.mp4"
        run([python, __file__, "--make-clip", clip], "making the clip")
    except HostError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    files = ["--video", str(clip), "--audio", str(inputs / "demo_speech.wav")]
    return subprocess.call(
        [str(python), "-m", "musetalk_core", "bench", *files, *(given or _result(python))], cwd=REPOSITORY
    )


def _result(python: Path) -> list[str]:
    asked = "import torch; print('gpu' if torch.cuda.is_available() else 'cpu')"
    device = run([python, "-c", asked], "asking torch for a GPU").strip()
    return ["--result", str(REPOSITORY / "benchmarks" / "results" / f"bench_{device}.json")]


if __name__ == "__main__":
    sys.exit(main())
