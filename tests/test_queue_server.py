"""The queue command against real servers that are killed, interrupted, shared and given wrong jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import clips
import numpy as np
import pytest
from comfy_client import REPOSITORY, ComfyServer, host_tool, set_up_host, stop_server
from PIL import Image
from ports import free_port, is_free

from musetalk_core.remote.jobs import read_jobs
from musetalk_core.remote.state import StateFile
from musetalk_core.remote.workflow import with_values

AHEAD = 2  # the command's default: jobs on a server at once
PAINT = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "picture"}},
}
COPY = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
}


class Spare(ComfyServer):
    """A server that may be killed: started again on its port, it has its output folder still, as a user's has."""

    def __init__(self, port: int, output: Path) -> None:
        self.port, self.output = port, output
        self.start()

    def start(self) -> None:
        options = ["--disable-api-nodes", f"--output-directory={self.output}"]
        told = host_tool("start", f"--port={self.port}", *(f"--server-arg={option}" for option in options))
        info = json.loads(told.strip().splitlines()[-1])
        super().__init__(info)
        self.pid: int = info["pid"]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        # On a busy machine a killed process, and the last of its threads, hold its port for a moment still.
        stop = time.monotonic() + 60
        while alive(self.pid) or not is_free(self.port):
            assert time.monotonic() < stop, f"{self.pid} does not die, or port {self.port} is held by another one"
            time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be noticed does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spare]:
    set_up_host()
    server = Spare(free_port(), tmp_path_factory.mktemp("output"))
    yield server
    stop_server(server)


class Batch:
    """A workflow, a table and a result folder, and the command on them."""

    def __init__(self, folder: Path, workflow: dict, table: str, *arguments: str) -> None:
        (folder / "workflow.json").write_text(json.dumps(workflow))
        (folder / "jobs.csv").write_text(table)
        self.out = folder / "out"
        self.command = [sys.executable, "-m", "musetalk_core", "queue", f"--out={self.out}"]
        self.command += [f"--workflow={folder / 'workflow.json'}", f"--jobs={folder / 'jobs.csv'}", *arguments]

    def start(self) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(self.command, cwd=REPOSITORY, **pipes)

    def run(self, *more: str) -> tuple[int, str]:
        done = subprocess.run([*self.command, *more], cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout + done.stderr

    def done(self) -> list[str]:
        return sorted(path.parent.name for path in self.out.glob("[!.]*/job.json"))

    def summary(self) -> dict[str, list[str]]:
        lines = (self.out / "summary.csv").read_text().splitlines()
        return {line.split(",", 1)[0]: line.split(",", 5)[1:] for line in lines[1:]}


def wait_until(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.02)


def colour(number: int) -> tuple[int, int, int]:
    """A colour of its own for each of 200 jobs; neighbours differ by 4 or more, saving may round by 1."""
    return 4 * (number % 50) + 10, 50 * (number // 50) + 10, 128


def painting(count: int) -> list[str]:
    """The cells of EmptyImage.color."""
    return [str(red << 16 | green << 8 | blue) for red, green, blue in map(colour, range(count))]


def assert_painted(batch: Batch, number: int, name: str) -> None:
    """The job's folder holds its own picture and what made it, nothing else."""
    files = sorted(path.name for path in (batch.out / name).iterdir())
    assert files == ["job.json", *json.loads((batch.out / name / "job.json").read_text())["files"]]
    assert len(files) == 2
    pixels = np.asarray(Image.open(batch.out / name / files[1]).convert("RGB"), dtype=int)
    assert np.abs(pixels - np.array(colour(number))).max() <= 1


def runs(*outputs: Path) -> Counter:
    """How often each job's picture was saved on the servers."""
    saved = [path for output in outputs for path in (output / "musetalk_queue").rglob("*.png")]
    return Counter(path.parent.name for path in saved)


def test_200_jobs_are_each_done_once_though_client_and_server_are_killed(spare, tmp_path):
    cells = painting(200)
    rows = [f"{cell}," for cell in cells]
    rows[20] = "-5,"  # refused: below the minimum
    rows[150] = f"{cells[150]},../../../outside"  # raises while it runs
    table = "EmptyImage.color,SaveImage.filename_prefix\n" + "\n".join(rows) + "\n"
    batch = Batch(tmp_path, PAINT, table, f"--server={spare.url}")

    client = batch.start()
    wait_until(lambda: len(batch.done()) >= 50, client)
    client.kill()
    client.communicate()
    after_kill = batch.done()
    assert 50 <= len(after_kill) < 198

    client = batch.start()
    wait_until(lambda: len(batch.done()) >= 120, client)
    assert set(runs(spare.output).values()) == {1}, "the client's death made the server do something twice"
    spare.kill()
    assert len(batch.done()) < 198
    spare.start()
    told = client.communicate(timeout=600)[0]

    good = [number for number in range(200) if number not in (20, 150)]
    names = [f"{number + 1:04d}" for number in good]
    assert client.returncode == 1, told
    assert batch.done() == names, told
    for number, name in zip(good, names, strict=True):
        assert_painted(batch, number, name)
    summary = batch.summary()
    assert [name for name, row in summary.items() if row[0] == "failed"] == ["0021", "0151"]
    assert "EmptyImage (node 1): Value -5 smaller than min of 0" in summary["0021"][-1]
    assert "SaveImage (node 2) failed" in summary["0151"][-1]
    counts = runs(spare.output)
    assert set(counts) == set(names)
    # Only jobs whose end the client could not read when the server died were run again.
    assert sum(counts.values()) - len(names) <= AHEAD

    before = {path: path.stat().st_mtime_ns for path in batch.out.glob("*/*")}
    status, told = batch.run()
    assert (status, runs(spare.output)) == (1, counts), told
    assert {path: path.stat().st_mtime_ns for path in batch.out.glob("*/*")} == before


def test_two_servers_share_the_work_and_ctrl_c_leaves_a_queue_that_goes_on(comfy, spare, tmp_path):
    table = "name,1.color\n" + "".join(f"p{number},{cell}\n" for number, cell in enumerate(painting(60)))
    batch = Batch(tmp_path, PAINT, table, f"--server={comfy.url}/", f"--server={spare.url}")
    client = batch.start()
    wait_until(lambda: len(batch.done()) >= 8, client)
    client.send_signal(signal.SIGINT)
    told = client.communicate(timeout=600)[0]
    assert client.returncode == 1
    assert "run the same command again" in told and "Traceback" not in told
    assert 8 <= len(batch.done()) < 60

    batch.command.remove(f"--server={spare.url}")  # what is there already is fetched all the same
    status, told = batch.run()
    assert status == 0, told
    for number in range(60):
        assert_painted(batch, number, f"p{number}")
    shares = Counter(row[1] for row in batch.summary().values())
    assert set(shares) == {spare.url, comfy.url}
    mine = {f"p{number}" for number in range(60)}
    counts = runs(spare.output, comfy.folder / "output")
    assert {name: count for name, count in counts.items() if name in mine} == dict.fromkeys(mine, 1)


def test_jobs_of_a_server_that_stays_away_go_to_the_others(comfy, spare, tmp_path):
    table = "name,1.color\n" + "".join(f"away{number},{cell}\n" for number, cell in enumerate(painting(60)))
    batch = Batch(tmp_path, PAINT, table, f"--server={comfy.url}", f"--server={spare.url}", "--patience=2")
    client = batch.start()
    wait_until(lambda: len(batch.done()) >= 8, client)
    spare.kill()
    told = client.communicate(timeout=600)[0]
    spare.start()
    assert client.returncode == 0, told
    for number in range(60):
        assert_painted(batch, number, f"away{number}")


def test_a_kill_around_the_post_neither_loses_a_job_nor_runs_it_twice(comfy, tmp_path):
    """The state as a client leaves it that dies right before, and right after, the server got the prompt."""
    table = "name,1.color\n" + "".join(f"post{number},{cell}\n" for number, cell in enumerate(painting(3)))
    batch = Batch(tmp_path, PAINT, table, f"--server={comfy.url}")
    batch.out.mkdir()
    state = StateFile(batch.out / "queue.sqlite")
    records = state.load(read_jobs(tmp_path / "jobs.csv", PAINT, []))
    for record in records[:2]:
        record.send_to(comfy.url)
        state.save(record)
    job = records[1].job
    prompt = with_values(PAINT, job.values, f"musetalk_queue/{state.batch[:8]}/{job.name}")
    state.close()
    assert comfy.ask("/prompt", {"prompt": prompt, "prompt_id": records[1].prompt_id})["node_errors"] == {}

    status, told = batch.run()
    assert status == 0, told
    assert [line.split()[0] for line in told.splitlines() if "queued again" in line] == ["post0"]
    for number in range(3):
        assert_painted(batch, number, f"post{number}")
    counts = runs(comfy.folder / "output")
    assert [counts[f"post{number}"] for number in range(3)] == [1, 1, 1]


def test_files_are_uploaded_once_by_content_and_nothing_on_the_server_is_replaced(comfy, tmp_path):
    pictures = {}
    for name, shade in (("a.png", 40), ("b.png", 40), ("c.png", 200)):
        pictures[name] = tmp_path / name
        Image.new("RGB", (8, 8), (shade, 0, 0)).save(pictures[name])
    (tmp_path / "broken.png").write_text("no picture")
    rows = [*pictures.values(), tmp_path / "broken.png", "example.png", "nowhere.png"]
    names = ["a", "b", "c", "broken", "example", "nowhere"]
    table = "name,LoadImage.image\n" + "".join(f"{name},{row}\n" for name, row in zip(names, rows, strict=True))
    batch = Batch(tmp_path, COPY, table, f"--server={comfy.url}")
    status, told = batch.run()
    assert status == 1
    assert batch.done() == ["a", "b", "c", "example"], told
    for name, shade in (("a", 40), ("b", 40), ("c", 200)):
        (copy,) = (batch.out / name).glob("*.png")
        assert Image.open(copy).getpixel((3, 3)) == (shade, 0, 0)
    summary = batch.summary()
    assert "LoadImage (node 1) failed: cannot identify image file" in summary["broken"][-1]
    assert "Invalid image file: nowhere.png" in summary["nowhere"][-1]
    uploaded = sorted((comfy.folder / "input" / "musetalk_queue").iterdir())
    assert len(uploaded) == 3  # a and b are one

    half = next(path for path in uploaded if path.read_bytes() == pictures["c.png"].read_bytes())
    half.write_bytes(half.read_bytes()[:20])
    again = Batch(tmp_path, COPY, f"LoadImage.image\n{pictures['c.png']}\n", f"--server={comfy.url}")
    again.command.append(f"--out={tmp_path / 'again'}")
    status, told = again.run()
    assert status == 0, told
    assert len(half.read_bytes()) == 20


def test_the_packs_own_workflow_is_run_with_uploaded_clips(comfy, comfy_inputs, tmp_path):
    workflow = json.loads((REPOSITORY / "workflows" / "api" / "musetalk_all_in_one.json").read_text())
    files = {path.name: path for path in comfy_inputs}
    table = f"name,Load Audio.audio,Lip Sync (MuseTalk).bbox_shift\ntalk,{files['voice.wav']},2\n"
    common = [f"--set=Load Video.file={files['portrait.mp4']}", "--set=LoadMuseTalkModels.version=demo"]
    batch = Batch(tmp_path, workflow, table, f"--server={comfy.url}", *common)
    status, told = batch.run()
    assert status == 0, told
    about = json.loads((batch.out / "talk" / "job.json").read_text())
    assert about["values"]["5.bbox_shift"] == 2
    (video,) = about["files"]
    assert len(clips.read_frames(batch.out / "talk" / video)) == 25  # one second of voice at the clip's 25 frames/s
    assert any("text" in shown for shown in about["outputs"].values())  # the report


def test_a_job_that_runs_too_long_is_stopped_and_told(comfy, comfy_inputs, tmp_path):
    workflow = json.loads((REPOSITORY / "workflows" / "api" / "musetalk_all_in_one.json").read_text())
    files = {path.name: path for path in comfy_inputs}
    table = f"Load Video.file,Load Audio.audio\n{files['portrait.mp4']},{files['minute.wav']}\n"
    batch = Batch(tmp_path, workflow, table, f"--server={comfy.url}", "--timeout=0.1", "--retries=1")
    status, told = batch.run()
    assert status == 1
    assert "0001 is queued again: it ran longer than 0.1 s." in told
    assert "it ran longer than 0.1 s; tried 2 times" in batch.summary()["0001"][-1]
    assert comfy.ask("/queue")["queue_running"] == []


def test_a_silent_server_is_given_up_after_the_patience_and_the_jobs_stay(tmp_path):
    table = "1.color\n1\n"
    batch = Batch(tmp_path, PAINT, table, "--server=http://127.0.0.1:9", "--patience=1")
    status, told = batch.run()
    assert status == 1
    assert "Giving up: http://127.0.0.1:9 did not answer for 1 s." in told
    assert "run the same command again" in told
