"""The batch's file of jobs and its journal: what a user can write, what is refused, what a killed process leaves."""

import json
from fractions import Fraction
from pathlib import Path

import pytest

from musetalk_core.batch.jobs import Job, read_jobs, unfinished
from musetalk_core.batch.journal import Journal
from musetalk_core.batch.ray_workers import Fleet, Share, share_out
from musetalk_core.batch.work import Outcome
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.encoding import Encoding
from musetalk_core.settings import LipSyncSettings
from musetalk_core.tasks import Task

BASE = Task(Path(), Path(), settings=LipSyncSettings(bbox_shift=3), encoding=Encoding(crf=23))


def jobs_of(folder: Path, *lines: object, base: Task = BASE) -> list[Job]:
    file = folder / "jobs.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return read_jobs(file, base, Path("results"), "v1.5")


def test_a_line_is_a_task_that_starts_from_the_commands_own(tmp_path):
    first, second, third = jobs_of(
        tmp_path,
        {"video": "a.mp4", "audio": "b.wav", "output": "out/x.mkv", "fps": "30000/1001", "bbox_shift": -7, "blur": 0.1},
        "",
        {"video": "a.mp4", "audio": None, "result_name": "张三"},
        {"video": "photos", "audio": "d/c.m4a", "fps": 12.5},
    )
    assert [job.line for job in (first, second, third)] == [1, 3, 4]
    assert first.task.output == Path("out/x.mkv") and first.task.fps == Fraction(30000, 1001)
    assert (first.task.settings.bbox_shift, first.task.settings.mask.blur) == (-7, 0.1)
    assert second.task.audio is None and second.task.output == Path("results/v1.5/张三.mp4")
    assert second.task.settings == BASE.settings and second.task.encoding.crf == 23
    assert third.task.output == Path("results/v1.5/photos_c.mp4") and third.task.fps == Fraction(25, 2)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    assert jobs_of(tmp_path, '\ufeff{"video": "a.mp4"}')[0].task.video == Path("a.mp4")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{video: a.mp4}", "It is no JSON"),
        ('["a.mp4"]', "no JSON object"),
        ({"audio": "a.wav"}, "no video"),
        ({"video": 3}, "video is 3"),
        ({"video": "a.mp4", "output": ["x.mp4"]}, "output is ['x.mp4']"),
        ({"video": "a.mp4", "output": "x.avi"}, "x.avi does not end in .mp4"),
        ({"video": "a.mp4", "output": "x.mp4", "result_name": "y"}, "give one of them"),
        ({"video": "a.mp4", "result_name": "../y"}, "has a folder in it"),
        ({"video": "a.mp4", "fps": 240}, "240 frames/s"),
        ({"video": "a.mp4", "bbox": 3}, "'bbox' is no setting"),
        ({"video": "a.mp4", "batch_size": -1}, "batch_size is -1"),
        ({"video": "a.mp4", "blur": "much"}, "blur is 'much'"),
        ({"video": "a.mp4", "output": "./A.mp4"}, "is an input"),
        ({"video": "b.mp4", "output": "OUT/../x.MP4"}, "Line 1 has the output"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path, line, words):
    with pytest.raises(MuseTalkError) as error:
        jobs_of(tmp_path, {"video": "a.mp4", "output": "x.mp4"}, line)
    (told,) = str(error.value).splitlines()[1:]
    assert told.startswith("  line 2: ") and words in told


def test_all_bad_lines_are_told_at_once_up_to_twenty(tmp_path):
    with pytest.raises(MuseTalkError) as error:
        jobs_of(tmp_path, *["{}"] * 21, {"video": "a.mp4"}, "x")
    told = str(error.value).splitlines()
    assert told[1].startswith("  line 1: ") and told[20].startswith("  line 20: ") and told[21] == "  and 2 more"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\n \n", "holds no jobs"), (b'{"video": "\xff"}', "is not UTF-8"), (None, "cannot be read")],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path, content, words):
    file = tmp_path / "jobs.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MuseTalkError, match=words):
        read_jobs(file, BASE, Path("results"), "v1.5")


def test_jobs_whose_output_exists_are_finished_unless_they_replace_it(tmp_path):
    (tmp_path / "there.mp4").touch()
    lines = [{"video": "a.mp4", "output": str(tmp_path / name)} for name in ("there.mp4", "absent.mp4")]
    assert [job.line for job in unfinished(jobs_of(tmp_path, *lines))] == [2]
    again = jobs_of(tmp_path, *lines, base=Task(Path(), Path(), overwrite=True))
    assert [job.line for job in unfinished(again)] == [1, 2]


@pytest.fixture
def three(tmp_path):
    return jobs_of(tmp_path, *({"video": "a.mp4", "output": str(tmp_path / f"{name}.mp4")} for name in "abc"))


def test_the_journal_holds_an_outcome_a_line(tmp_path, three):
    path = tmp_path / "jobs.results.jsonl"
    with Journal(path) as journal:
        journal.append(Outcome(three[0], "pc:7", 25, 2.5, 2))
        assert json.loads(path.read_text()) == {
            "output": str(tmp_path / "a.mp4"),
            "line": 1,
            "frames": 25,
            "seconds": 2.5,
            "worker": "pc:7",
            "attempt": 2,
            "error": "",
        }
        journal.append(Outcome(three[1], "pc:7", error="No face."))
    assert len(path.read_text().splitlines()) == 2


def test_the_last_line_of_a_job_counts_and_outputs_without_a_line_are_done(tmp_path, three):
    a, b, c = three
    with Journal(tmp_path / "j") as journal:
        journal.append(Outcome(a, "pc:7", error="No face."))
        journal.append(Outcome(b, "pc:7", error="No sound."))
    with Journal(tmp_path / "j") as journal:
        journal.append(Outcome(a, "pc:8", 25, 2.5))
        a.task.output.touch(), c.task.output.touch()
        summary = journal.summary(three)
    assert (summary.jobs, summary.done, summary.failed) == (3, 2, [(b, "No sound.")])
    assert (summary.frames, summary.seconds) == (25, 2.5)


def test_a_replacement_that_failed_has_failed_although_the_old_output_is_there(tmp_path):
    line = {"video": "a.mp4", "output": str(tmp_path / "a.mp4")}
    (job,) = jobs_of(tmp_path, line, base=Task(Path(), Path(), overwrite=True))
    job.task.output.touch()
    with Journal(tmp_path / "j") as journal:
        journal.append(Outcome(job, "pc:7", error="No face."))
        assert journal.summary([job]).failed == [(job, "No face.")]


def test_a_torn_last_line_is_cut_off_wherever_the_process_was_killed(tmp_path, three):
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(Outcome(three[0], "pc:7", 25, 2.5))
    line = path.read_bytes()
    for length in range(1, len(line)):
        path.write_bytes(line + line[:length])
        with Journal(path) as journal:
            journal.append(Outcome(three[1], "pc:8", 10, 1.0))
        assert [json.loads(text)["line"] for text in path.read_text().splitlines()] == [1, 2]


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"output": "a"}\n', b"[1]\nx"])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "j"
    path.write_bytes(content)
    with pytest.raises(MuseTalkError, match="no journal of a batch"):
        Journal(path)
    assert path.read_bytes() == content


PC, SERVER = {"CPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("fleet", "nodes", "share"),
    [
        (Fleet(), [PC], Share(1, 8, 0)),
        (Fleet(workers=2, threads=1), [PC], Share(2, 1, 0)),
        (Fleet(), [SERVER, SERVER], Share(16, 8, 1)),
        (Fleet(workers=24), [SERVER], Share(24, 2, 1 / 3)),
        (Fleet(workers=3), [SERVER], Share(3, 21, 1)),
        (Fleet(workers=4, gpu=False), [SERVER, {"memory": 1.0}], Share(4, 16, 0)),
    ],
)
def test_processors_and_gpus_are_shared_out(fleet, nodes, share):
    assert share_out(fleet, nodes) == share


@pytest.mark.parametrize(
    ("fleet", "nodes", "room"),
    [
        (Fleet(workers=9), [PC], 8),
        (Fleet(workers=2, threads=5), [PC], 1),
        (Fleet(workers=3, threads=5), [PC, PC], 2),
        (Fleet(workers=12, threads=1), [SERVER, {"CPU": 0.0, "GPU": 4.0}], 8),
    ],
)
def test_more_workers_than_a_cluster_has_room_for_are_refused(fleet, nodes, room):
    with pytest.raises(MuseTalkError, match=f"room for {room} workers"):
        share_out(fleet, nodes)
