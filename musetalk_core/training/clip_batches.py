"""The samples of a training step, as batches: who of several processes gets which, in any number of loaders."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

Samples = Dataset[dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Shares:
    """How a step's samples are dealt out: `batch` at a time, `accumulate` times, in `processes` processes.

    rank: the number of this process, from 0.
    """

    batch: int
    accumulate: int = 1
    processes: int = 1
    rank: int = 0

    @property
    def whole(self) -> int:
        """Samples of a step, all processes together."""
        return self.batch * self.accumulate * self.processes

    def places(self, number: int) -> range:
        """Which of the step's samples this process has in its batch `number`, 0..accumulate-1."""
        first = (number * self.processes + self.rank) * self.batch
        return range(first, first + self.batch)


class ClipBatches:
    """Sample i of step s is data[s * whole + i], so nothing of an order has to be stored for a run to go on.

    workers: processes that prepare samples ahead; 0 prepares them when they are asked for.
    """

    def __init__(self, data: Samples, shares: Shares, workers: int = 0) -> None:
        self._data, self._shares, self._workers = data, shares, workers
        self._next = -1
        self._batches: Iterator[dict[str, torch.Tensor]] = iter(())

    def take(self, step: int) -> Iterator[dict[str, torch.Tensor]]:
        """This process's batches of a step: the samples' tensors, stacked along a new first dimension."""
        if step != self._next:
            # A generator of its own: making an iterator draws from torch's default one.
            loader: Any = DataLoader(
                self._data,
                batch_sampler=_Order(self._shares, step),
                num_workers=self._workers,
                generator=torch.Generator(),
            )
            self._batches = iter(loader)
        self._next = step + 1
        for _ in range(self._shares.accumulate):
            yield next(self._batches)


class _Order:
    """The numbers of the samples of each batch from a step on, without end."""

    def __init__(self, shares: Shares, step: int) -> None:
        self._shares, self._step = shares, step

    def __iter__(self) -> Iterator[list[int]]:
        step = self._step
        while True:
            for number in range(self._shares.accumulate):
                yield [step * self._shares.whole + place for place in self._shares.places(number)]
            step += 1
