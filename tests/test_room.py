"""What a job needs of disk and memory: refused with numbers before it begins, and one sentence when it ends midway."""

import logging
import shutil
import subprocess
import sys
from collections import namedtuple
from fractions import Fraction
from pathlib import Path

import clips
import pytest
import torch

from musetalk_core.__main__ import main
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.encoding import Encoding
from musetalk_core.media.video_writer import VideoWriter
from musetalk_core.room import LEAST_BITS, check_memory, check_video_room, video_bytes

REPOSITORY = Path(__file__).parents[1]
Usage = namedtuple("Usage", "total used free")


def test_a_video_that_cannot_fit_is_refused_with_numbers(tmp_path):
    """10^10 frames of 3840x2160 at 0.004 bits per pixel: 41472 GB."""
    with pytest.raises(MuseTalkError, match=r"a\.mp4 with its 10000000000 frames of 3840x2160") as caught:
        check_video_room(tmp_path / "a.mp4", (2160, 3840), 10**10, Encoding(), 8)
    assert "needs at least 41472.0 GB of disk in" in str(caught.value) and "are free; make room" in str(caught.value)


def test_a_batch_that_cannot_fit_is_refused_with_numbers(tmp_path):
    """1024 frames of 30000x30000, twice: 2 * 1024 * 9e8 * 3 bytes, 5529.6 GB."""
    with pytest.raises(MuseTalkError, match=r"batch of 1024 frames of 30000x30000 needs 5529\.6 GB .* smaller batch"):
        check_video_room(tmp_path / "a.mp4", (30000, 30000), 1, Encoding(), 1024)


def test_memory_is_compared_byte_by_byte():
    check_memory("It", 1000, 1000, "wait")
    with pytest.raises(MuseTalkError, match=r"^It needs 3\.0 GB and 1\.5 GB of memory are free; wait\.$"):
        check_memory("It", 3 * 10**9, 15 * 10**8, "wait")


@pytest.mark.parametrize("crf", [18, 36, 51])
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_the_least_is_below_what_a_still_face_takes(tmp_path, crf, preset):
    """The smallest real job: a portrait that does not move."""
    frame = torch.from_numpy(clips.portrait())
    path = tmp_path / "still.mp4"
    with VideoWriter(path, Fraction(25), (256, 256), encoding=Encoding(crf, preset)) as writer:
        for _ in range(250):
            writer.write(frame)
    assert 0 < video_bytes((256, 256), 250, crf, LEAST_BITS) < path.stat().st_size


def test_infer_stops_before_its_first_frame(tmp_path, monkeypatch, capsys):
    """25 frames of 256x256: 256 * 256 * 25 * 0.004 / 8 = 819.2 bytes at least."""
    video = clips.write_video(tmp_path / "clip.mp4", clips.moving_portrait(25))
    audio = clips.write_audio(tmp_path / "voice.wav", 1.0)
    files = ["--video", str(video), "--audio", str(audio), "--output", str(tmp_path / "out.mp4")]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**6, 10**6 - 818, 818))
    assert main(["infer", "--version", "demo", *files]) == 1
    error = capsys.readouterr().err
    assert "25 frames of 256x256 needs at least 0.00 MB of disk" in error and "frame/s" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "voice.wav"]


def test_little_room_is_told_and_tried(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**6, 10**6 - 5000, 5000))
    with caplog.at_level(logging.WARNING):
        check_video_room(tmp_path / "a.mp4", (256, 256), 25, Encoding(), 8)
    assert "a.mp4 with its 25 frames of 256x256 usually needs" in caplog.text


FULL = """
import resource, signal, sys
from musetalk_core.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(["infer", "--version", "demo", "--crf", "1", "--video", sys.argv[1], "--output", sys.argv[2]]))
"""


def test_a_disk_that_fills_midway_is_a_sentence_and_leaves_nothing(tmp_path):
    """A limit on file size stands for the full disk: the kernel refuses the write in the same way."""
    video = clips.write_video(tmp_path / "clip.mp4", clips.moving_portrait(25), audio=clips.tone(1.0))
    call = [sys.executable, "-c", FULL, str(video), str(tmp_path / "out.mp4")]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=300)
    assert done.returncode == 1
    assert "out.mp4 cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
