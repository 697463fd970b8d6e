"""`batch --ray` on a real Ray: two workers, one of them killed, the command killed, no room, no networks."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from batch_files import ROOT, arguments, command, journal, make_batch, outputs
from clips import probe
from interruptible import interruptible
from ports import free_port

from musetalk_core.__main__ import main

PATIENCE = 240
TWO = ("--workers", 2, "--threads", 1)


@dataclass(frozen=True)
class Cluster:
    process: subprocess.Popen
    address: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """A Ray of two processors, as `ray start --head` makes one; it is not in the repository's folder.

    Ray listens on the network whatever it is told: a token keeps others out.
    """
    port = free_port()
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
    start += [f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--log-color=false"]
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("w") as log:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex())
        process = subprocess.Popen(start, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        wait_for(lambda: "Ray runtime started" in (folder / "log").read_text(), process)
        yield Cluster(process, f"127.0.0.1:{port}")
        family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(PATIENCE)
    for left in family:
        if left.is_running():
            left.kill()


def wait_for(happened, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def at_work(process: subprocess.Popen) -> list[int]:
    """The processes of workers that are at a job."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[:1] == ["ray::Worker.run"]:
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


class Killer(threading.Thread):
    """Kills the first worker that is writing a video; `killed` is its process then."""

    def __init__(self, cluster: Cluster, jobs: Path) -> None:
        super().__init__(daemon=True)
        self._cluster, self._jobs, self.killed = cluster, jobs, 0
        self.start()

    def run(self) -> None:
        wait_for(lambda: list(self._jobs.parent.glob("out/.*.part/.*.mp4")), self._cluster.process)
        self.killed = at_work(self._cluster.process)[0]
        os.kill(self.killed, signal.SIGKILL)


def test_a_killed_workers_job_is_made_by_another_and_no_other_is_repeated(cluster, tmp_path, capsys):
    jobs = make_batch(tmp_path, [3, 0.2, 3, 0.4, 1], nobody=True)
    killer = Killer(cluster, jobs)
    assert main(arguments(jobs, "--ray", cluster.address, *TWO)) == 1
    assert outputs(jobs) == ["0.mp4", "2.mp4", "3.mp4", "4.mp4"]
    assert [probe(tmp_path / "out" / name)["frames"] for name in outputs(jobs)] == [75, 75, 10, 25]
    entries = sorted(journal(jobs), key=lambda entry: entry["line"])
    assert [(entry["line"], entry["frames"]) for entry in entries] == [(1, 75), (2, 0), (3, 75), (4, 10), (5, 25)]
    assert "No face" in entries[1]["error"] and [entry["error"] for entry in entries if entry["frames"]] == [""] * 4
    (again,) = [entry for entry in entries if entry["attempt"] == 2]
    assert [entry["attempt"] for entry in entries].count(1) == 4
    assert killer.killed and not again["worker"].endswith(f":{killer.killed}")
    assert len({entry["worker"] for entry in entries} - {f"{os.uname().nodename}:{killer.killed}"}) == 2
    assert "4 of 5 jobs done, 1 failed" in capsys.readouterr().out


def test_a_job_whose_workers_all_die_has_failed_and_the_others_are_made(cluster, tmp_path, capsys):
    jobs = make_batch(tmp_path, [3, 0.2])
    killer = Killer(cluster, jobs)
    assert main(arguments(jobs, "--ray", cluster.address, "--threads", 1, "--attempts", 1)) == 1
    killer.join(PATIENCE)
    assert outputs(jobs) == ["1.mp4"]
    assert "failed: line 1" in (told := capsys.readouterr().out) and "Its worker died, attempt 1" in told
    assert [(entry["line"], entry["frames"], entry["attempt"]) for entry in journal(jobs)] == [(1, 0, 1), (2, 5, 1)]


def test_when_the_command_is_killed_the_same_command_goes_on(cluster, tmp_path):
    jobs = make_batch(tmp_path, [0.2, 20])
    options = ("--ray", cluster.address, "--threads", 1)
    run = subprocess.Popen(command(jobs, *options), cwd=ROOT)
    wait_for(lambda: list(tmp_path.glob("out/.1.mp4.part/.*.mp4")), run)
    run.kill()
    run.wait(PATIENCE)
    whole = (tmp_path / "out" / "0.mp4").stat().st_mtime_ns
    wait_for(lambda: not at_work(cluster.process), cluster.process)
    jobs.write_text(jobs.read_text().replace("1.wav", "0.wav"))
    assert main(arguments(jobs, *options)) == 0
    assert outputs(jobs) == ["0.mp4", "1.mp4"] and (tmp_path / "out" / "0.mp4").stat().st_mtime_ns == whole
    assert [(entry["line"], entry["attempt"]) for entry in journal(jobs)] == [(1, 1), (2, 1)]


def test_interrupted_a_cluster_of_its_own_ends_with_the_command(tmp_path):
    jobs = make_batch(tmp_path, [20])
    run = interruptible(command(jobs, "--ray", "--threads", 1), cwd=ROOT)
    wait_for(lambda: list(tmp_path.glob("out/.0.mp4.part/.*.mp4")), run)
    family = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGINT)
    told = run.communicate(timeout=PATIENCE)[1]
    assert run.returncode == 130 and "goes on from here" in told and "Traceback" not in told
    assert psutil.wait_procs(family, timeout=30)[1] == []
    assert outputs(jobs) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--threads", 3], "room for 0 workers of 3 threads; 1 are asked for"),
        (["--version", "v1.5", "--models", "absent"], "weights download"),
    ],
)
def test_what_a_cluster_cannot_do_is_one_sentence(cluster, tmp_path, capsys, options, words):
    jobs = make_batch(tmp_path, [0.2])
    assert main(arguments(jobs, "--ray", cluster.address, *options)) == 1
    told = capsys.readouterr().err
    assert words in told and "Traceback" not in told and outputs(jobs) == []


def test_an_address_that_is_none_is_one_sentence(tmp_path, capsys):
    jobs = make_batch(tmp_path, [0.2])
    assert main(arguments(jobs, "--ray", "nowhere")) == 1
    told = capsys.readouterr().err
    assert "No Ray cluster can be used at nowhere" in told and "Traceback" not in told
