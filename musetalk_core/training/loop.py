"""The one training loop: schedule, resume, checkpoints, validation. What learns, and how, is a Stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from .checkpoint import Position, load_checkpoint, newest_checkpoint, save_checkpoint, save_weights
from .config import RunSettings
from .ema import Ema
from .progress import Progress, Say, Stopwatch, clock
from .schedules import Schedule
from .strips import save_strip

WEIGHTS = "weights.safetensors"


class Stage(Protocol):
    """Something to train.

    modules and optimizers hold all state that a checkpoint keeps; every optimizer's learning rate is its peak, and
    schedules has one under the same name. ema averages modules["model"]; None: there is no average. facts must be
    equal for a checkpoint to be resumed.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    facts: dict[str, str]

    @property
    def schedules(self) -> Mapping[str, Schedule]: ...

    @property
    def ema(self) -> Ema | None: ...

    def step(self, draw: np.random.Generator, share: float, number: int) -> dict[str, torch.Tensor]:
        """Step `number` (from 0); `share` of the run (0..1) is done.

        All random choices come from `draw`, `number` and torch's default, which is seeded.
        """
        ...

    def validate(self) -> dict[str, float]:
        """Figures of the network that is the result, on held-out data."""
        ...

    def strip(self) -> list[torch.Tensor]:
        """Columns of a picture to look at, each (B,3,H,W) in [0,1]; empty when there is nothing to see."""
        ...

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        """The network that is given away, and facts that are saved beside its weights."""
        ...


def train(stage: Stage, settings: RunSettings, folder: Path, resume: bool, say: Say, writes: bool = True) -> Path:
    """Train a stage into `folder` and return the file with the resulting weights.

    Writes checkpoints/, progress.csv, strips/ and at the end weights.safetensors. resume: go on from the newest
    checkpoint when there is one; else existing checkpoints are deleted. The caller's random state is kept. writes:
    False in all but one of several processes that train together.
    """
    run = _Run(stage, settings, folder, writes)
    run.begin(resume, say)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        while run.share < 1:
            run.step()
    return run.finish()


class _Run:
    """A stage on its way: position, clock, and what is written when."""

    def __init__(self, stage: Stage, settings: RunSettings, folder: Path, writes: bool) -> None:
        self._stage, self._settings, self._folder, self._writes = stage, settings, folder, writes
        self._checkpoints = folder / "checkpoints"
        self._modules = dict(stage.modules)
        if stage.ema is not None:
            self._modules["ema"] = stage.ema.module
        self._peaks = {name: optimizer.param_groups[0]["lr"] for name, optimizer in stage.optimizers.items()}
        self._step = 0

    def begin(self, resume: bool, say: Say) -> None:
        """Take up the newest checkpoint, or delete what an earlier training left."""
        position = Position(0, 0.0)
        newest = newest_checkpoint(self._checkpoints)
        if newest is not None and resume:
            position = load_checkpoint(newest, self._modules, self._stage.optimizers, self._stage.facts)
            say(f"resumed at step {position.step}, after {clock(position.seconds)}")
        elif self._writes:
            for old in self._checkpoints.glob("*.safetensors"):
                old.unlink()
        self._step = position.step
        if self._writes:
            self._progress = Progress(self._folder / "progress.csv", say, position.step)
        self._watch = Stopwatch(position.seconds)

    @property
    def share(self) -> float:
        """How much of the run is done."""
        return run_share(self._settings, self._step, self._watch.seconds)

    def step(self) -> None:
        """One step, and what is due after it."""
        share = self.share
        for name, optimizer in self._stage.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self._peaks[name] * self._stage.schedules[name](self._step, share)
        found = self._stage.step(seed_step(self._settings.seed, self._step), share, self._step)
        if self._stage.ema is not None:
            self._stage.ema.update(self._stage.modules["model"], self._step)
        self._step += 1
        if self._writes:
            self._write(found)

    def _write(self, found: Mapping[str, torch.Tensor]) -> None:
        """What is due after a step."""
        self._progress.add(found)
        if self._step % self._settings.log_every == 0:
            rate = self._stage.optimizers["model"].param_groups[0]["lr"]
            self._progress.report(self._step, self._watch.seconds, self.share, rate)
        if self._step % self._settings.validate_every == 0 and self.share < 1:
            self._validate()
        if self._step % self._settings.checkpoint_every == 0:
            self._save()

    def finish(self) -> Path:
        """Write the last checkpoint, the last figures and the weights; returns the weights' file."""
        if not self._writes:
            return self._folder / WEIGHTS
        self._save()
        figures = self._validate()
        network, facts = self._stage.result()
        facts |= {"steps": self._step, "seconds": round(self._watch.seconds, 1), "held_out": figures}
        save_weights(self._folder / WEIGHTS, network, facts | self._stage.facts)
        return self._folder / WEIGHTS

    def _save(self) -> None:
        position = Position(self._step, self._watch.seconds)
        facts, keep = self._stage.facts, self._settings.keep
        save_checkpoint(self._checkpoints, position, self._modules, self._stage.optimizers, facts, keep)

    def _validate(self) -> dict[str, float]:
        figures = self._stage.validate()
        self._progress.validated(self._step, self._watch.seconds, figures)
        columns = self._stage.strip()
        if columns:
            save_strip(self._folder / "strips" / f"{self._step:08d}.png", columns)
        return figures


def run_share(settings: RunSettings, step: int, seconds: float) -> float:
    """How much of the run is done after `step` steps and `seconds`: 0..1."""
    if settings.steps is not None:
        return min(1.0, step / settings.steps)
    assert settings.minutes is not None  # RunSettings wants one of the two
    return min(1.0, seconds / (60 * settings.minutes))


def seed_step(seed: int, step: int) -> np.random.Generator:
    """Seed torch for a step and return numpy's generator; the same for the same (seed, step)."""
    sequence = np.random.SeedSequence([seed, step])
    own, shared = sequence.spawn(2)
    number = int(shared.generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(number)
    return np.random.default_rng(own)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch draws from `seed` (networks are initialised); afterwards it goes on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def descend(loss: torch.Tensor, optimizer: torch.optim.Optimizer, module: nn.Module, clip: float) -> None:
    """One optimizer step on the module's parameters down the loss, the gradient's norm clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), clip)
    optimizer.step()
