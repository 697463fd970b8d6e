"""4K: a clip of 3840x2160 goes through infer, in memory that a few frames explain."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import clips
import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).parents[1]
HEIGHT, WIDTH, FRAMES = 2160, 3840, 4
FRAME_MB = HEIGHT * WIDTH * 3 / 1e6
CHILD = """
import sys
from pathlib import Path
import torch
from musetalk_core.__main__ import main
torch.set_num_threads(1)
def peak():
    return int(next(row.split()[1] for row in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in row))
options = ["infer", "--version", "demo", "--device", "cpu", "--preset", "ultrafast", "--batch-size", "2"]
def infer(video, output):
    return main([*options, "--video", video, "--audio", sys.argv[1], "--output", output, "--report", output + ".json"])
assert infer(sys.argv[2], sys.argv[4] + ".small.mp4") == 0
before = peak()
assert infer(sys.argv[3], sys.argv[4]) == 0
print(before, peak())
"""


def clip(path: Path, height: int, width: int, side: int) -> tuple[Path, np.ndarray]:
    """A still head and shoulders of so many pixels in the middle of a gradient, two frames of it."""
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1).astype(np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    head = cv2.resize(clips.portrait(), (side, side), interpolation=cv2.INTER_CUBIC)
    picture[top : top + side, left : left + side] = head
    return clips.write_video(path, np.stack([picture] * 2), Fraction(25)), picture


@pytest.mark.parametrize("side", [2160, 320], ids=["large face", "small face"])
def test_a_4k_clip_is_lip_synced_in_the_memory_of_a_few_frames(tmp_path, side):
    """Beyond a small clip's run: less than 32 frames of 24.9 MB, of which reader, encoder and two batches hold most."""
    video, picture = clip(tmp_path / "4k.mp4", HEIGHT, WIDTH, side)
    small, _ = clip(tmp_path / "small.mp4", 256, 256, 256)
    audio = clips.write_audio(tmp_path / "voice.wav", FRAMES / 25)
    output = tmp_path / "out.mp4"
    call = [sys.executable, "-c", CHILD, str(audio), str(small), str(video), str(output)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=500)
    assert done.returncode == 0, done.stderr
    report = json.loads(Path(f"{output}.json").read_text())
    assert (report["frames"], report["found"]) == (FRAMES, FRAMES)
    with av.open(str(output)) as file:
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert [shape.shape for shape in pictures] == [(HEIGHT, WIDTH, 3)] * FRAMES
    changed = np.abs(pictures[-1].astype(np.int16) - picture).max(2) > 40
    rows, columns = np.nonzero(changed)
    middle = slice((WIDTH - side) // 2, (WIDTH + side) // 2)
    assert len(rows) > (side // 40) ** 2 and middle.start <= columns.min() and columns.max() < middle.stop
    before, peak = (int(number) * 1024 / 1e6 for number in done.stdout.split()[-2:])
    assert peak - before < 32 * FRAME_MB, (before, peak)
