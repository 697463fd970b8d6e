"""Batches: as many as fit, halved when memory runs out and remembered, filled up where shapes are fixed."""

import pytest
import torch

from musetalk_core.batches import BatchSize, batch_frames, fitting_frames, shrinking_batches


class Device:
    """Has memory for so many rows and notes what is tried on it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.tried: list[tuple[int, int]] = []

    def run(self, start: int, stop: int) -> list[int]:
        self.tried.append((start, stop))
        if stop - start > self.rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return list(range(start, stop))


def test_batches_halve_when_memory_runs_out():
    device, size = Device(rows=2), BatchSize(8)
    parts = list(shrinking_batches(device.run, 7, size))
    assert [x for _, _, part in parts for x in part] == list(range(7))
    assert device.tried == [(0, 7), (0, 3), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7)]


def test_the_smaller_size_is_remembered():
    device, size = Device(rows=3), BatchSize(8)
    list(shrinking_batches(device.run, 8, size))
    assert size.frames == 2
    device.tried.clear()
    list(shrinking_batches(device.run, 5, size))
    assert device.tried == [(0, 2), (2, 4), (4, 5)]


def test_running_out_of_memory_with_one_item_is_raised():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        list(shrinking_batches(Device(rows=0).run, 2, BatchSize(2)))


def test_fixed_passes_are_full_and_halve_as_what_they_are():
    size = BatchSize(8, fixed=True)
    rows, tried = torch.arange(10.0).reshape(5, 2), []

    def run(start: int, stop: int) -> torch.Tensor:
        full = size.filled(rows[start:stop])
        tried.append(full[:, 0].tolist())
        if len(full) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return full[: stop - start]

    parts = [part for _, _, part in shrinking_batches(run, 5, size)]
    assert torch.equal(torch.cat(parts), rows) and size.frames == 4
    assert tried == [[0, 2, 4, 6, 8, 8, 8, 8], [0, 2, 4, 6], [8, 8, 8, 8]]


def test_free_passes_are_not_filled():
    rows = torch.arange(3)
    assert BatchSize(8).filled(rows) is rows


@pytest.mark.parametrize(
    ("free", "dtype", "frames"),
    [
        # A frame takes (32 * 1048576 + 2178 * 65536) * 2 = 352 583 680 bytes in 2-byte types, twice that in float32.
        (8_000_000_000, torch.float16, 18),  # 6.4e9 / 352 583 680 = 18.15
        (8_000_000_000, torch.bfloat16, 18),
        (8_000_000_000, torch.float32, 9),  # 9.08
        (440_729_600, torch.float16, 1),  # 80 % of it is one frame to the byte
        (1_000_000, torch.float16, 1),
        (0, torch.float16, 1),
        (14_103_347_200, torch.float16, 32),  # 80 % of it is 32 frames to the byte
        (14_103_347_199, torch.float16, 31),
        (150_000_000_000, torch.float16, 32),
    ],
)
def test_as_many_frames_as_fit(free, dtype, frames):
    assert fitting_frames(free, dtype) == frames


@pytest.mark.parametrize("name", ["cpu", "mps"])
def test_without_cuda_automatic_is_eight(name):
    assert batch_frames(0, torch.device(name), torch.float32) == 8
    assert batch_frames(5, torch.device(name), torch.float32) == 5


def test_a_given_size_asks_no_device():
    assert batch_frames(1024, torch.device("cuda"), torch.float16) == 1024
