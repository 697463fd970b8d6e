"""The queue's table, addressing and state: what a user can write, what is refused, what survives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from musetalk_core.__main__ import main
from musetalk_core.errors import MuseTalkError
from musetalk_core.remote.comfy_api import InputSpec
from musetalk_core.remote.jobs import read_jobs
from musetalk_core.remote.results import Results
from musetalk_core.remote.state import Record, State, StateFile
from musetalk_core.remote.workflow import Input, find_input, read_workflow, with_values

REPOSITORY = Path(__file__).resolve().parent.parent
WORKFLOW = {
    "1": {"class_type": "LoadVideo", "inputs": {"file": "talk.mp4"}, "_meta": {"title": "The video"}},
    "2": {"class_type": "LoadAudio", "inputs": {"audio": "a.wav"}, "_meta": {"title": "Speech v1.5"}},
    "3": {
        "class_type": "LipSync",
        "inputs": {"video": ["1", 0], "fps": 25, "crop": True, "shift": 0.5, "mode": "jaw"},
        "_meta": {"title": "Lip Sync"},
    },
    "4": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "filename_prefix": "video/talk"}},
    "5": {"class_type": "SaveVideo", "inputs": {"video": ["3", 0], "filename_prefix": "b"}},
}


def table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "jobs.csv"
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("1.file", Input("1", "file")),
        ("The video.file", Input("1", "file")),
        ("LoadVideo.file", Input("1", "file")),
        ("Speech v1.5.audio", Input("2", "audio")),
        ("5.filename_prefix", Input("5", "filename_prefix")),
    ],
)
def test_an_input_is_found_by_id_title_and_class(address, target):
    assert find_input(WORKFLOW, address) == target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("file", "write node.input"),
        ("SaveVideo.filename_prefix", "4.filename_prefix, 5.filename_prefix"),
        ("LoadVideo.path", "The node 1 (The video) has no 'path'; it has file."),
        ("LoadImage.image", "no node 'LoadImage'; it has 1 (The video), 2 (Speech v1.5)"),
        ("Lip Sync.video", "fed by the node 1 (The video)"),
    ],
)
def test_an_address_that_means_nothing_or_too_much_is_explained(address, words):
    with pytest.raises(MuseTalkError) as error:
        find_input(WORKFLOW, address)
    assert words in str(error.value)


def test_values_take_the_type_that_the_workflow_holds(tmp_path):
    text = "name,3.fps,3.crop,3.shift,3.mode\nfirst,29.97,FALSE,2,007\n,24,1,-1.5,neck\n"
    first, second = read_jobs(table(tmp_path, text), WORKFLOW, [])
    assert first.name == "first" and second.name == "0002"
    assert list(first.values.values()) == [29.97, False, 2, "007"]
    assert list(second.values.values()) == [24, True, -1.5, "neck"]


def test_a_rows_value_wins_over_the_common_one_and_an_empty_cell_keeps_it(tmp_path):
    jobs = read_jobs(table(tmp_path, "3.fps,3.mode\n30,\n,neck\n"), WORKFLOW, ["3.fps=12", "Lip Sync.mode=raw=x"])
    fps, mode = Input("3", "fps"), Input("3", "mode")
    assert [(job.values[fps], job.values[mode]) for job in jobs] == [(30, "raw=x"), (12, "neck")]


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")])
def test_tables_as_spreadsheets_save_them_are_read(tmp_path, separator, encoding):
    text = separator.join(["name", "1.file"]) + "\r\n" + separator.join(["张三", '"a, b;c.mp4"']) + "\r\n\r\n"
    (job,) = read_jobs(table(tmp_path, text, encoding), WORKFLOW, [])
    assert (job.name, job.values) == ("张三", {Input("1", "file"): "a, b;c.mp4"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3.fps\nfast\n", "Row 1 of"),
        ("3.fps\n25\nnan\n", "Row 2 of"),
        ("3.crop\nperhaps\n", "takes true or false, not 'perhaps'"),
        ("name,3.fps\nA,1\na,2\n", "is given twice"),
        ("name,3.fps\n../x,1\n", "cannot be a folder"),
        ("name,3.fps\nCON.txt,1\n", "cannot be a folder"),
        ("name,3.fps\n.x,1\n", "cannot be a folder"),
        ("3.fps,Lip Sync.fps\n1,2\n", "sets what another column sets"),
        ("3.mode\na,b\n", "2 cells under 1 columns"),
        ("3.fps\n", "holds no jobs"),
        ("", "holds no jobs"),
        ('3.mode\n"open\n', "is no CSV"),
    ],
)
def test_a_mistake_in_the_table_is_told_with_its_place(tmp_path, text, words):
    with pytest.raises(MuseTalkError) as error:
        read_jobs(table(tmp_path, text), WORKFLOW, [])
    assert words in str(error.value)


def test_a_table_in_another_encoding_is_told(tmp_path):
    with pytest.raises(MuseTalkError, match="not UTF-8"):
        read_jobs(table(tmp_path, "name,3.fps\n张三,1\n", "gbk"), WORKFLOW, [])


def test_a_workflow_saved_for_the_page_is_told(tmp_path):
    with pytest.raises(MuseTalkError, match=r"Export \(API\)"):
        read_workflow(REPOSITORY / "workflows" / "musetalk_all_in_one.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(MuseTalkError, match="no workflow in API format"):
        read_workflow(tmp_path / "list.json")


def test_what_a_job_saves_goes_to_its_own_folder_unless_the_user_says_where():
    values = {Input("5", "filename_prefix"): "mine/x", Input("3", "fps"): 30}
    prompt = with_values(WORKFLOW, values, "queue/ab/first")
    assert prompt["4"]["inputs"]["filename_prefix"] == "queue/ab/first/talk"
    assert prompt["5"]["inputs"]["filename_prefix"] == "mine/x"
    assert (prompt["3"]["inputs"]["fps"], WORKFLOW["3"]["inputs"]["fps"]) == (30, 25)


def test_a_value_is_a_file_to_upload_when_the_node_uploads_or_does_not_offer_it(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(b"x")
    assert InputSpec("COMBO", (), upload=True).takes_file(str(file))
    assert InputSpec("COMBO", ("other.png",)).takes_file(str(file))
    assert not InputSpec("COMBO", (str(file),)).takes_file(str(file))
    assert not InputSpec("STRING").takes_file(str(file))
    assert not InputSpec("COMBO", (), upload=True).takes_file(str(tmp_path / "none.png"))


def test_the_state_of_a_job_on_a_server_survives_and_what_failed_starts_anew(tmp_path):
    jobs = read_jobs(table(tmp_path, "3.fps\n1\n2\n3\n"), WORKFLOW, [])
    state = StateFile(tmp_path / "queue.sqlite")
    sent, failed, waiting = state.load(jobs)
    sent.send_to("http://a")
    failed.state = State.FAILED
    state.save(sent)
    state.save(failed)
    batch = state.batch
    state.close()
    state = StateFile(tmp_path / "queue.sqlite")
    assert state.batch == batch
    assert state.load(jobs) == [sent, Record(jobs[1]), waiting]
    changed = read_jobs(table(tmp_path, "3.fps\n9\n2\n3\n"), WORKFLOW, [])
    with pytest.raises(MuseTalkError, match="'0001' is on http://a with other values"):
        state.load(changed)
    state.close()


def test_two_queues_on_one_folder_are_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    path = tmp_path / "queue.sqlite"
    code = "import sys, time; from pathlib import Path; from musetalk_core.remote.state import StateFile\n"
    code += f"state = StateFile(Path({str(path)!r})); print('open', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(MuseTalkError, match="Another queue works on"):
            StateFile(path)
        other.kill()
        other.wait()
    StateFile(path).close()
    (tmp_path / "other.sqlite").write_text("no base at all, but long enough to be looked at as one" * 20)
    with pytest.raises(MuseTalkError, match="is not the state of a queue"):
        StateFile(tmp_path / "other.sqlite")


def test_a_folder_that_is_not_the_jobs_result_is_never_taken_or_replaced(tmp_path):
    (job,) = read_jobs(table(tmp_path, "name,3.fps\nmine,1\n"), WORKFLOW, [])
    results = Results(tmp_path)
    assert results.find(job) is None
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"x")
    with pytest.raises(MuseTalkError, match="is not the result of these values"):
        results.find(job)
    (tmp_path / "mine" / "job.json").write_text(json.dumps({"fingerprint": job.fingerprint, "files": []}))
    assert results.find(job)["files"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--server", "127.0.0.1:8188"], "is no address"),
        (["--server", "http://127.0.0.1:1", "--ahead", "0"], "--ahead is at least 1"),
        (["--server", "http://127.0.0.1:1", "--set", "3.fps"], "gives no value"),
    ],
)
def test_mistakes_on_the_command_line_are_told_before_anything_is_sent(tmp_path, capsys, arguments, words):
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    files = ["--workflow", str(tmp_path / "w.json"), "--jobs", str(table(tmp_path, "3.fps\n1\n"))]
    assert main(["queue", *files, "--out", str(tmp_path / "out"), *arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out" / "0001").exists()


def test_the_registrys_copy_says_where_the_queue_is(tmp_path):
    pack = tmp_path / "musetalk_core"
    for path in (REPOSITORY / "musetalk_core").rglob("*.py"):
        part = path.relative_to(REPOSITORY / "musetalk_core")
        if part.parts[0] != "remote":
            (pack / part).parent.mkdir(parents=True, exist_ok=True)
            (pack / part).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "musetalk_core", "queue", "--server", "http://127.0.0.1:1"]
    command += ["--workflow", "w.json", "--jobs", "jobs.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "run it from a git clone" in done.stderr and "Traceback" not in done.stderr
