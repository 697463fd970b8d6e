"""`python -m musetalk_core batch` on one machine: every job's video, failures apart, going on after Ctrl-C and kill."""

import json
import os
import signal
import time

import numpy as np
import pytest
from batch_files import FRAMES, ROOT, arguments, command, journal, make_batch, outputs
from clips import probe, read_frames
from interruptible import interruptible

from musetalk_core.__main__ import main


def test_each_line_makes_a_video_and_a_bad_one_stops_no_other(tmp_path, capsys):
    jobs = make_batch(tmp_path, [1, 1, 0.4], nobody=True)
    assert main(arguments(jobs)) == 1
    assert outputs(jobs) == ["0.mp4", "2.mp4"]
    assert [probe(tmp_path / "out" / name)["frames"] for name in outputs(jobs)] == [25, 10]
    assert [(entry["line"], entry["frames"], entry["attempt"]) for entry in journal(jobs)] == [
        (1, 25, 1),
        (2, 0, 1),
        (3, 10, 1),
    ]
    assert [bool(entry["error"]) for entry in journal(jobs)] == [False, True, False]
    told = capsys.readouterr()
    assert "2 of 3 jobs done, 1 failed" in told.out and "failed: line 2" in told.out and "No face" in told.out
    assert "[3/3] line 3, 2.mp4" in told.err


def test_a_second_run_makes_only_what_is_absent(tmp_path, capsys):
    jobs = make_batch(tmp_path, [0.4, 0.4, 0.4], nobody=True)
    assert main(arguments(jobs)) == 1
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in outputs(jobs)}
    mended = jobs.read_text().replace("nobody.mp4", "face.mp4")
    jobs.write_text(mended)
    (tmp_path / "out" / "2.mp4").unlink()
    assert main(arguments(jobs)) == 0
    assert outputs(jobs) == ["0.mp4", "1.mp4", "2.mp4"]
    assert (tmp_path / "out" / "0.mp4").stat().st_mtime_ns == before["0.mp4"]
    assert [entry["line"] for entry in journal(jobs)] == [1, 2, 3, 2, 3]
    capsys.readouterr()
    assert main(arguments(jobs)) == 0
    assert "3 of 3 jobs done, 0 failed" in capsys.readouterr().out and len(journal(jobs)) == 5


def test_settings_of_the_command_hold_where_a_line_has_none_and_overwrite_makes_anew(tmp_path):
    jobs = make_batch(tmp_path, [0.2, 0.2])
    first, second = map(json.loads, jobs.read_text().splitlines())
    jobs.write_text(json.dumps(first) + "\n" + json.dumps({**second, "bbox_shift": 2, "fps": 50}))
    assert main(arguments(jobs, "--bbox-shift", 1)) == 0
    size = (tmp_path / "out" / "0.mp4").stat().st_size
    assert main(arguments(jobs, "--bbox-shift", 4, "--crf", 45, "--overwrite")) == 0
    assert (tmp_path / "out" / "0.mp4").stat().st_size < 0.7 * size
    facts = [probe(tmp_path / "out" / name) for name in ("0.mp4", "1.mp4")]
    assert [json.loads(fact["comment"])["bbox_shift"] for fact in facts] == [4, 2]
    assert [fact["frames"] for fact in facts] == [5, 10]
    assert len(journal(jobs)) == 4


def test_a_batch_gives_the_frames_that_infer_gives(tmp_path):
    jobs = make_batch(tmp_path, [0.4])
    assert main(arguments(jobs)) == 0
    files = ["--video", tmp_path / "face.mp4", "--audio", tmp_path / "0.wav", "--output", tmp_path / "infer.mp4"]
    assert main(["infer", "--version", "demo", "--device", "cpu", *map(str, files)]) == 0
    assert np.array_equal(read_frames(tmp_path / "out" / "0.mp4"), read_frames(tmp_path / "infer.mp4"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--workers", 2], "give --ray as well"),
        (["--threads", 0], "--threads is 0"),
        (["--attempts", -1], "--attempts is -1"),
        (["--blur", 9], "blur is 9"),
    ],
)
def test_options_that_mean_nothing_are_told_before_anything_starts(tmp_path, capsys, options, words):
    jobs = make_batch(tmp_path, [0.2])
    assert main(arguments(jobs, *options)) == 1
    assert words in capsys.readouterr().err and outputs(jobs) == []


def test_bad_lines_are_told_before_anything_starts(tmp_path, capsys):
    jobs = make_batch(tmp_path, [0.2])
    jobs.write_text(jobs.read_text() + '\n{"video": "x.mp4", "blur": -1}\n{"video": "x.mp4", "output": "y.avi"}')
    assert main(arguments(jobs)) == 1
    told = capsys.readouterr().err
    assert "line 2: blur is -1" in told and "line 3: The output y.avi" in told and "Traceback" not in told
    assert outputs(jobs) == [] and not jobs.with_suffix(".results.jsonl").exists()


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_in_mid_job_the_same_command_goes_on(tmp_path, blow):
    jobs = make_batch(tmp_path, [0.4, 20])
    run = interruptible(command(jobs), cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("out/.1.mp4.part/*")):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(run.pid, blow)
    told = run.communicate(timeout=60)[1]
    if blow == signal.SIGINT:
        assert run.returncode == 130 and "goes on from here" in told and outputs(jobs) == ["0.mp4"]
    else:
        assert outputs(jobs) == [".1.mp4.part", "0.mp4"]
    whole = (tmp_path / "out" / "0.mp4").stat().st_mtime_ns
    rest = jobs.read_text().replace("1.wav", "0.wav")
    jobs.write_text(rest)
    assert main(arguments(jobs)) == 0
    assert outputs(jobs) == ["0.mp4", "1.mp4"] and (tmp_path / "out" / "0.mp4").stat().st_mtime_ns == whole
    assert [(entry["line"], entry["frames"]) for entry in journal(jobs)] == [(1, 10), (2, 10)]


def test_a_folder_that_cannot_be_made_is_one_jobs_failure(tmp_path):
    jobs = make_batch(tmp_path, [1])
    (tmp_path / "file").touch()
    jobs.write_text(jobs.read_text().replace("out/0.mp4", "file/0.mp4") + "\n" + jobs.read_text())
    assert main(arguments(jobs)) == 1
    assert [bool(entry["error"]) for entry in journal(jobs)] == [True, False]
    assert "file/0.mp4 cannot be written" in journal(jobs)[0]["error"] and journal(jobs)[1]["frames"] == FRAMES
