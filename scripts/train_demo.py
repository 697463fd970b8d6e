#!/usr/bin/env python3
"""Make the demo model from nothing: data, three trainings, one file, its evaluation; within a budget of minutes.

    python3 scripts/train_demo.py [--minutes 90] [--data DATA] [--out DIR] [--install]

corpus (scripts/make_corpus.py) -> autoencoder on one core beside the audio encoder on the other -> latents and
features prepared -> generator on all cores -> DIR/demo.safetensors -> scripts/evaluate_demo.py. An interrupted run is
simply started again: what is finished is kept, a training goes on from its newest checkpoint and gets the time that
it had left. DIR/logs has what each part says, DIR/train_demo.json what it took. Needs requirements-train.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_setup import (
    REPOSITORY,
    REQUIREMENTS,
    HostError,
    default_root,
    read_json,
    say,
    setup,
    venv_python,
    write_json,
)
from comfy_setup import run as run_command
from system_packages import ensure

MODEL = REPOSITORY / "musetalk_core" / "demo" / "demo.safetensors"
EVALUATION_MINUTES, PREPARATION_MINUTES = 8.0, 4.0  # kept for them, as measured on two cores
FIRST_SHARE = 0.42  # of the rest goes to autoencoder and audio encoder, side by side; the generator gets what is left
LEAST_MINUTES = 1.0
POLL_SECONDS, TELL_SECONDS = 1.0, 60.0


@dataclass(frozen=True)
class Plan:
    """Minutes of training."""

    first: float
    generator: float


@dataclass(frozen=True)
class Part:
    """A child process: its name (of the log too), command line, threads, and the exit statuses that are fine."""

    name: str
    command: list[str]
    threads: int
    fine: tuple[int, ...] = (0,)


class Run:
    """One making of the model in a folder; remembers there what is done and how long it took."""

    def __init__(self, python: Path, out: Path, data: Path, minutes: float, device: str) -> None:
        self.python, self.out, self.data, self.minutes, self.device = str(python), out, data, minutes, device
        self._file = out / "train_demo.json"
        (out / "logs").mkdir(parents=True, exist_ok=True)
        self.state: dict[str, Any] = read_json(self._file) if self._file.is_file() else {}
        self.state.setdefault("seconds", {})
        self.state.setdefault("done", [])

    def once(self, name: str, work: Callable[[], None]) -> None:
        """Do a part unless an earlier run finished it; its time is added up over all runs."""
        if name in self.state["done"]:
            say(f"{name}: done already, {self.state['seconds'][name]:.0f} s")
            return
        say(name)
        started = time.monotonic()
        try:
            work()
            self.state["done"].append(name)
        finally:
            spent = time.monotonic() - started
            self.state["seconds"][name] = round(self.state["seconds"].get(name, 0.0) + spent, 1)
            write_json(self._file, self.state)
        say(f"{name}: {self.state['seconds'][name]:.0f} s")

    def plan(self) -> Plan:
        """The minutes of each training, fixed when the data is there; again when the budget is another."""
        stored = self.state.get("plan")
        if stored is None or stored["budget"] != self.minutes:
            corpus = self.state["seconds"].get("corpus", 0.0) / 60
            stored = {"budget": self.minutes, **vars(make_plan(self.minutes, corpus))}
            self.state["plan"] = stored
            write_json(self._file, self.state)
        return Plan(stored["first"], stored["generator"])

    def train(self, stage: str, minutes: float, threads: int) -> Part:
        """The part that trains a stage."""
        command = [self.python, "-m", "musetalk_core", "train", stage, "--data", self.data, "--out", self.out]
        command += ["--minutes", f"{minutes:.2f}", "--threads", threads, "--device", self.device, "--resume"]
        return Part(stage, [str(word) for word in command], threads)

    def together(self, *parts: Part) -> None:
        """Run parts side by side; HostError with the end of the log when one fails, the others are then ended."""
        running = [(part, self._start(part)) for part in parts]
        told = time.monotonic()
        try:
            while any(process.poll() is None for _, process in running):
                failed = [part for part, process in running if process.poll() not in (None, *part.fine)]
                if failed:
                    break
                if time.monotonic() - told > TELL_SECONDS:
                    told = time.monotonic()
                    for part, _ in running:
                        say(f"{part.name}: {self._last_lines(part, 1)}")
                time.sleep(POLL_SECONDS)
        finally:
            for _, process in running:
                if process.poll() is None:
                    process.terminate()
                process.wait()
        for part, process in running:
            if process.returncode not in part.fine:
                raise HostError(f"{part.name} failed ({process.returncode}):\n{self._last_lines(part, 20)}")

    def _start(self, part: Part) -> subprocess.Popen[bytes]:
        # Passive waiting: on shared cores, threads that spin for one another cost several times the work.
        env = dict(os.environ, OMP_NUM_THREADS=str(part.threads), OMP_WAIT_POLICY="PASSIVE")
        with self._log(part).open("ab") as log:
            return subprocess.Popen(part.command, cwd=REPOSITORY, env=env, stdout=log, stderr=subprocess.STDOUT)

    def _log(self, part: Part) -> Path:
        return self.out / "logs" / f"{part.name}.log"

    def _last_lines(self, part: Part, count: int) -> str:
        lines = self._log(part).read_text(errors="replace").splitlines()
        return "\n".join(lines[-count:])


def prepare_host(root: Path) -> Path:
    """The host's Python with everything that training needs, installed where missing."""
    ensure(voices=True)
    setup(root, REQUIREMENTS)
    python = venv_python(root)
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run_command([*pip, "-r", REPOSITORY / "requirements-train.txt"], "installing requirements-train.txt")
    return python


def make_plan(budget: float, corpus: float) -> Plan:
    """Split a budget of minutes of which the data took `corpus`. HostError when nothing is left to train in."""
    left = budget - corpus - EVALUATION_MINUTES - PREPARATION_MINUTES
    if left < 2 * LEAST_MINUTES:
        raise HostError(
            f"{budget:g} minutes are too few: the data, preparation and evaluation take {budget - left:.0f}"
        )
    return Plan(round(left * FIRST_SHARE, 2), round(left * (1 - FIRST_SHARE), 2))


def make_model(run: Run, evaluate: bool) -> None:
    """Every part in its order."""
    scripts = REPOSITORY / "scripts"
    cores = os.cpu_count() or 1
    corpus = Part("corpus", [run.python, str(scripts / "make_corpus.py"), str(run.data)], 1)
    run.once("corpus", lambda: run.together(corpus))
    plan = run.plan()
    say(f"autoencoder and audio encoder {plan.first:g} min, generator {plan.generator:g} min")
    half = max(1, cores // 2)
    first = [run.train(stage, plan.first, half) for stage in ("demo-autoencoder", "demo-audio")]
    run.once("autoencoder and audio encoder", lambda: run.together(*first))
    run.once("generator", lambda: run.together(run.train("demo-generator", plan.generator, cores)))
    if evaluate:
        model = str(run.out / "demo.safetensors")
        command = [run.python, str(scripts / "evaluate_demo.py"), "--model", model, "--data", str(run.data)]
        # Status 1: measured, but a bound does not hold; the figures say which.
        run.once("evaluation", lambda: run.together(Part("evaluation", command, cores, fine=(0, 1))))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, default=90, help="for everything (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=default_root() / "demo-model", help="default: %(default)s")
    parser.add_argument("--data", type=Path, help="default: OUT/data")
    parser.add_argument("--device", default="auto", help="of the trainings (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="begin anew; the data is kept")
    parser.add_argument("--no-setup", action="store_true", help="use the Python that runs this, as it is")
    parser.add_argument("--no-evaluation", action="store_true", help="stop when the model is there")
    parser.add_argument("--install", action="store_true", help=f"copy the model to {MODEL.relative_to(REPOSITORY)}")
    args = parser.parse_args()
    out = args.out.expanduser().resolve()
    if args.fresh:
        for name in ("train_demo.json", "autoencoder", "audio", "generator", "cache", "logs"):
            with contextlib.suppress(FileNotFoundError):
                path = out / name
                path.unlink() if path.is_file() else shutil.rmtree(path)
    data = (args.data or out / "data").expanduser().resolve()
    try:
        python = sys.executable if args.no_setup else prepare_host(default_root())
        run = Run(Path(python), out, data, args.minutes, args.device)
        make_model(run, evaluate=not args.no_evaluation)
    except HostError as error:
        print(f"train_demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_demo: interrupted; start it again to go on", file=sys.stderr)
        return 130
    if args.install:
        shutil.copyfile(out / "demo.safetensors", MODEL)
    print(json.dumps({"model": str(MODEL if args.install else out / "demo.safetensors"), **run.state["seconds"]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
