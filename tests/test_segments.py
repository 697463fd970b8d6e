"""infer --resume: segments that outlive the process, joined without encoding them again."""

import json
import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import clips
import numpy as np
import pytest
import torch

from musetalk_core.__main__ import main
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.audio import AudioArray, AudioFile
from musetalk_core.media.encoding import Encoding
from musetalk_core.media.joining import join_segments
from musetalk_core.media.video_writer import VideoWriter
from musetalk_core.report import Gap, Report
from musetalk_core.segments import segment_frames

REPOSITORY = Path(__file__).parents[1]
NTSC = Fraction(30000, 1001)
SECONDS, FRAMES, SEGMENTS = 5.0, 125, 4  # segments of 1 s at 25 frames/s in batches of 8: 32 frames each


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """A portrait that moves for 1.2 s, the last quarter of it without a face, and 5 s of speech."""
    folder = tmp_path_factory.mktemp("inputs")
    pictures = np.concatenate([clips.moving_portrait(22), clips.faceless(8, 256)])
    return clips.write_video(folder / "clip.mp4", pictures), clips.write_audio(folder / "voice.wav", SECONDS)


@pytest.fixture
def short(files, tmp_path) -> tuple[Path, Path]:
    """The same portrait and 2 s of speech: 50 frames, two segments."""
    return files[0], clips.write_audio(tmp_path / "short.wav", 2.0)


def arguments(files: tuple[Path, Path], output: Path, *more: str) -> list[str]:
    video, audio = files
    named = ["--video", str(video), "--audio", str(audio), "--output", str(output)]
    return ["infer", "--version", "demo", "--resume", "--segment-seconds", "1", "--preset", "veryfast", *named, *more]


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def stamps(path: Path) -> tuple[list[Fraction], list[Fraction]]:
    """When packets are shown and decoded, in seconds, in the order of the file."""
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        base = file.streams.video[0].time_base
        return [packet.pts * base for packet in packets], [packet.dts * base for packet in packets]


def segments(output: Path) -> list[str]:
    return sorted(path.name for path in Path(f"{output}.parts").glob("[0-9]*.mp4"))


def kill_after(command: list[str], output: Path, count: int) -> None:
    """Run infer in a process of its own and end it by SIGKILL in the segment after the first `count`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "musetalk_core", *command], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 240
        while len(segments(output)) < count:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait(60)


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory) -> Path:
    """The result of a run that nothing interrupts."""
    output = tmp_path_factory.mktemp("whole") / "out.mp4"
    assert main(arguments(files, output, "--report", str(output.with_suffix(".json")))) == 0
    return output


def test_a_run_killed_twice_gives_the_same_frames_and_report(files, whole, tmp_path):
    output, report = tmp_path / "out.mp4", tmp_path / "out.json"
    command = arguments(files, output, "--report", str(report))
    kill_after(command, output, 1)
    first = segments(output)
    kept = {name: (output.with_name("out.mp4.parts") / name).stat().st_mtime_ns for name in first}
    assert 1 <= len(first) < SEGMENTS and not output.exists()
    kill_after(command, output, len(first) + 1)
    assert segments(output)[: len(first)] == first and not output.exists()
    times = {name: (output.with_name("out.mp4.parts") / name).stat().st_mtime_ns for name in first}
    assert times == kept  # what was done is not done again
    assert main(command) == 0
    assert np.array_equal(decoded(output), decoded(whole))
    assert json.loads(report.read_text()) == json.loads(whole.with_suffix(".json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.mp4"]


def test_the_joined_file_is_one_video(files, whole):
    facts = clips.probe(whole)
    assert (facts["frames"], facts["fps"], facts["size"]) == (FRAMES, 25, (256, 256))
    shown, coded = stamps(whole)
    assert sorted(shown) == [Fraction(i, 25) for i in range(FRAMES)]
    assert all(after > before for before, after in zip(coded, coded[1:], strict=False))
    assert all(at <= seen for seen, at in zip(shown, coded, strict=True))
    assert len(decoded(whole)) == FRAMES
    assert AudioFile(whole).samples == AudioFile(files[1]).samples
    assert json.loads(facts["comment"])["version"] == "demo"
    report = json.loads(whole.with_suffix(".json").read_text())
    # Ping-pong over 30 frames, 8 of them without a face: 0-21 made, 22-37 not, 38-81 made, 82-97 not, 98-124 made.
    assert (report["frames"], report["found"], report["passed_through"]) == (FRAMES, 93, 32)
    assert [(gap["first"], gap["last"]) for gap in report["gaps"]] == [(22, 37), (82, 97)]


def test_pictures_are_those_of_a_run_without_segments(short, tmp_path):
    """Lossless files. Other batches round the networks' sums differently, a stored track its landmarks."""
    plain, parted = tmp_path / "plain.mp4", tmp_path / "parted.mp4"
    assert main(arguments(short, parted, "--crf", "0")) == 0
    assert main([word for word in arguments(short, plain, "--crf", "0") if word != "--resume"]) == 0
    difference = np.abs(decoded(plain).astype(int) - decoded(parted))
    assert len(difference) == 50 and difference.max() <= 4 and difference.mean() < 0.01


def test_another_job_is_refused_and_the_same_one_goes_on(short, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    kill_after(arguments(short, output), output, 1)
    for more, word in [(["--bbox-shift", "3"], "settings"), (["--crf", "30"], "encoding"), (["--fps", "24"], "fps")]:
        assert main(arguments(short, output, *more)) == 1
        error = capsys.readouterr().err
        assert "out.mp4.parts holds another job" in error and word in error and "choose another output" in error
    status = short[1].stat()
    os.utime(short[1], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert main(arguments(short, output)) == 1
    assert "another job (audio differ)" in capsys.readouterr().err
    os.utime(short[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(arguments(short, output)) == 0 and len(decoded(output)) == 50


def test_what_a_finished_job_left_is_cleaned_up(short, tmp_path, monkeypatch, capsys):
    """Interrupted between the output's appearance and the end of the folder."""
    output = tmp_path / "out.mp4"
    parts = output.with_name("out.mp4.parts")

    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        assert main(arguments(short, output)) == 130
    assert len(decoded(output)) == 50 and (parts / "job.json").exists()
    made = output.stat().st_mtime_ns
    os.utime(output, ns=(made, 10**9))  # as if it had been there before the job
    assert main(arguments(short, output)) == 1 and "exists already" in capsys.readouterr().err
    os.utime(output, ns=(made, made))
    assert main(arguments(short, output)) == 0
    # 0-21 made, 22-37 without a face, 38-49 made.
    assert "50 frames: 34 lip-synced" in capsys.readouterr().out
    assert output.stat().st_mtime_ns == made and not parts.exists()


def test_an_old_output_is_not_taken_for_the_result(files, tmp_path, capsys):
    output = tmp_path / "out.mp4"
    output.write_bytes(b"something else")
    assert main(arguments(files, output)) == 1
    assert "exists already" in capsys.readouterr().err
    assert output.read_bytes() == b"something else" and not output.with_name("out.mp4.parts").exists()


def test_a_video_without_faces_is_refused_before_any_segment(tmp_path, capsys):
    video = clips.write_video(tmp_path / "empty.mp4", clips.faceless(10, 128))
    audio = clips.write_audio(tmp_path / "voice.wav", 2.0)
    assert main(arguments((video, audio), tmp_path / "out.mp4")) == 1
    assert "No face was found in any of the 10 frames" in capsys.readouterr().err
    assert segments(tmp_path / "out.mp4") == []


def test_a_folder_of_something_else_is_left_alone(files, tmp_path, capsys):
    folder = tmp_path / "out.mp4.parts"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    assert main(arguments(files, tmp_path / "out.mp4")) == 1
    assert "is not the folder of a job" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("seconds", "fps", "batch", "frames"), [(60, Fraction(25), 8, 1504), (1, NTSC, 8, 32), (60, NTSC, 1, 1798)]
)
def test_segments_are_whole_batches(seconds, fps, batch, frames):
    """60 s * 25 = 1500 frames, 188 batches; 30 frames, 4 batches; 60 * 29.97 = 1798.2."""
    assert segment_frames(seconds, fps, batch) == frames


@pytest.mark.parametrize("seconds", [0, 3601])
def test_segments_of_no_use_are_refused(seconds):
    with pytest.raises(MuseTalkError, match=f"segment of {seconds} s .* give 1 to 3600"):
        segment_frames(seconds, Fraction(25), 8)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [Fraction(25), NTSC], ids=["25", "29.97"])
def test_joined_packets_decode_to_the_segments_frames(tmp_path, suffix, fps):
    frames = torch.from_numpy(clips.moving_portrait(37, 64))
    paths = []
    for start in range(0, 37, 12):  # the last one is a single frame
        paths.append(tmp_path / f"{start}.mp4")
        with VideoWriter(paths[-1], fps, (64, 64)) as writer:
            for frame in frames[start : start + 12]:
                writer.write(frame)
    sound = AudioArray(clips.tone(37 / 25)[None], 16000)
    output = tmp_path / f"out{suffix}"
    join_segments(paths, output, fps, 37, sound, Fraction(1), {"title": "joined"})
    with av.open(str(output)) as file:
        assert file.streams.video[0].average_rate == fps
        assert {key.lower(): value for key, value in file.metadata.items()}["title"] == "joined"
    assert np.array_equal(decoded(output), np.concatenate([decoded(path) for path in paths]))
    padding = 1024 if suffix == ".mkv" else 0
    assert abs(AudioFile(output).samples - 16000) <= padding


def test_segments_that_do_not_fit_are_refused(tmp_path):
    frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
    for name, encoding in [("a", Encoding()), ("b", Encoding(pixel_format="yuv444p"))]:
        with VideoWriter(tmp_path / f"{name}.mp4", Fraction(25), (64, 64), encoding=encoding) as writer:
            writer.write(frame)
    a, b, output, sound = (
        tmp_path / "a.mp4",
        tmp_path / "b.mp4",
        tmp_path / "out.mp4",
        AudioArray(np.zeros((1, 9)), 8000),
    )
    with pytest.raises(MuseTalkError, match=r"b\.mp4 was encoded in another way"):
        join_segments([a, b], output, Fraction(25), 2, sound)
    with pytest.raises(MuseTalkError, match="hold 1 frames instead of 2"):
        join_segments([a], output, Fraction(25), 2, sound)
    assert not output.exists() and not list(tmp_path.glob(".*"))


def test_reports_are_put_one_behind_the_other():
    first, second = Report(), Report()
    first.made()
    first.passed("lost")
    second.passed("lost")
    second.hushed()
    second.kept()
    first.extend(second)
    assert (first.frames, first.found, first.passed_through, first.silent, first.failed) == (5, 1, 2, 1, 1)
    assert first.gaps[0] == Gap(1, 2, "lost") and [gap.first for gap in first.gaps] == [1, 3, 4]
    assert first.reasons == {"lost": 2, "nobody speaks": 1, "unusable result": 1}
