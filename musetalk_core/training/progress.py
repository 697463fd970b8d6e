"""What a running training tells: a CSV of every figure, and a line now and then with the time left."""

import csv
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Say = Callable[[str], None]


class Progress:
    """Collects the losses of steps and reports their means.

    path: a CSV with the columns step, seconds, name, value (one figure a row, so that stages with other figures
    share the format). Rows at or beyond `first_step` are dropped, as a resumed run writes them again.
    """

    def __init__(self, path: Path, say: Say, first_step: int) -> None:
        self._path = path
        self._say = say
        self._sums: dict[str, torch.Tensor] = {}
        self._count = 0
        self._keep_rows(first_step)

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Note one step's losses (0-d tensors, left on their device until reported)."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._count += 1

    def report(self, step: int, seconds: float, share: float, rate: float) -> None:
        """Write the means since the last report. share: of the run that is done; rate: learning rate now."""
        means = {name: float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        self.figures(step, seconds, means | {"learning_rate": rate})
        left = clock(seconds * (1 - share) / share) if share > 0 else "?"
        shown = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
        self._say(f"step {step}  {100 * share:.1f} %  {seconds / max(step, 1):.3f} s/step  left {left}  {shown}")

    def validated(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        """Write and tell the figures of a validation."""
        self.figures(step, seconds, figures)
        self._say(f"step {step}  held out: " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items()))

    def figures(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        """Append figures to the CSV."""
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([step, f"{seconds:.2f}", name, f"{value:.6g}"] for name, value in figures.items())

    def _keep_rows(self, first_step: int) -> None:
        rows: list[list[str]] = []
        if self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= first_step]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["step", "seconds", "name", "value"], *(rows if first_step else [])])


def clock(seconds: float) -> str:
    """h:mm:ss of a duration."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Stopwatch:
    """Seconds spent since it was made, on top of those spent before; monotonic."""

    def __init__(self, before: float = 0.0) -> None:
        self._started = time.monotonic() - before

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started
