"""Iterators run ahead, writers run behind: order, bounds, errors and ends, with real threads."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from musetalk_core.ahead import read_ahead, write_behind
from musetalk_core.execution import Execution

LONG = 10  # s; nothing here waits that long unless it is broken


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    assert threads() == []


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "musetalk-ahead"]


class Source:
    """Gives 0, 1, 2 ... and notes what happens to it, and where. fail_at: the item that cannot be made."""

    def __init__(self, count: int, fail_at: int | None = None) -> None:
        self.count, self.fail_at = count, fail_at
        self.made = 0
        self.grew = threading.Condition()
        self.threads: set[int] = set()
        self.modes: set[tuple[bool, bool]] = set()
        self.closed_in: int | None = None
        self.error = OSError("the disk is gone")

    def __iter__(self) -> Iterator[int]:
        try:
            for k in range(self.count):
                if k == self.fail_at:
                    raise self.error
                with self.grew:
                    self.made += 1
                    self.grew.notify_all()
                self.threads.add(threading.get_ident())
                self.modes.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled()))
                yield k
        finally:
            self.closed_in = threading.get_ident()

    def wait_for(self, made: int) -> bool:
        with self.grew:
            return self.grew.wait_for(lambda: self.made >= made, LONG)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_items_come_in_order_from_another_thread(size):
    source = Source(50)
    with read_ahead(iter(source), size) as items:
        assert list(items) == list(range(50))
    assert source.closed_in is not None and threading.get_ident() not in source.threads


def test_without_a_size_there_is_no_thread():
    source = Source(5)
    with read_ahead(iter(source), 0) as items:
        assert next(items) == 0
        assert source.made == 1 and threads() == []
    assert source.closed_in == threading.get_ident()
    written: list[int] = []
    with write_behind(written.append, 0) as write:
        write(1)
        assert written == [1] and threads() == []


def test_only_so_many_items_wait():
    source = Source(100)
    with read_ahead(iter(source), 3) as items:
        for taken in range(4):
            assert source.wait_for(taken + 4), "three wait, and a fourth is made"
            time.sleep(0.02)
            assert source.made == taken + 4
            assert next(items) == taken


def test_an_error_comes_where_the_item_would_have_come():
    source = Source(5, fail_at=3)
    got = []
    with pytest.raises(OSError) as caught, read_ahead(iter(source), 4) as items:
        for item in items:
            got.append(item)
    assert caught.value is source.error and got == [0, 1, 2]


def test_an_error_that_nobody_reaches_is_not_raised():
    source = Source(5, fail_at=1)
    with read_ahead(iter(source), 4) as items:
        assert next(items) == 0


@pytest.mark.parametrize("leave", ["break", "error", "at once"])
def test_leaving_early_closes_the_generator_where_it_ran(leave):
    source = Source(10**9)

    def read() -> None:
        with read_ahead(iter(source), 2) as items:
            assert source.wait_for(3), "it waits for room now"
            if leave != "at once":
                assert next(items) == 0
            if leave == "error":
                raise ValueError("enough")

    if leave == "error":
        with pytest.raises(ValueError, match="enough"):
            read()
    else:
        read()
    assert source.closed_in in source.threads and threads() == []
    assert source.made <= 4


def test_closing_a_generator_ends_the_threads_of_all_its_stages():
    inner, outer = Source(10**9), []

    def doubled() -> Iterator[int]:
        with read_ahead(iter(inner), 2) as items:
            for item in items:
                outer.append(threading.get_ident())
                yield 2 * item

    def shown() -> Iterator[int]:
        with read_ahead(doubled(), 1) as items:
            yield from items

    frames = shown()
    assert [next(frames), next(frames)] == [0, 2]
    assert len(threads()) == 2
    frames.close()
    assert threads() == [] and inner.closed_in in inner.threads
    assert len({threading.get_ident(), *inner.threads, *outer}) == 3


MODES: list[tuple[Callable, tuple[bool, bool]]] = [
    (torch.inference_mode, (True, False)),
    (torch.no_grad, (False, False)),
    (torch.enable_grad, (False, True)),
]


@pytest.mark.parametrize(("mode", "expected"), MODES)
def test_the_thread_has_the_callers_torch_modes(mode, expected):
    source, seen = Source(3), set()
    with mode():
        with read_ahead(iter(source), 2) as items:
            list(items)
        with write_behind(lambda _: seen.add((torch.is_inference_mode_enabled(), torch.is_grad_enabled())), 2) as write:
            write(0)
    assert source.modes == seen == {expected}


def test_all_is_written_in_order_when_the_block_ends():
    written, places = [], set()

    def slow(item: int) -> None:
        time.sleep(0.002)
        written.append(item)
        places.add(threading.get_ident())

    with write_behind(slow, 4) as write:
        for item in range(30):
            write(item)
    assert written == list(range(30)) and threading.get_ident() not in places and len(places) == 1


def test_the_writer_is_waited_for_when_too_much_waits():
    gate, started = threading.Event(), []
    done = []

    def held(item: int) -> None:
        started.append(item)
        assert gate.wait(LONG)

    def feed() -> None:
        with write_behind(held, 2) as write:
            for item in range(6):
                write(item)
                done.append(item)

    feeder = threading.Thread(target=feed)
    feeder.start()
    deadline = time.monotonic() + LONG
    while len(done) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert (started, done) == ([0], [0, 1, 2]), "one is being written and two wait"
    gate.set()
    feeder.join(LONG)
    assert started == list(range(6))


@pytest.mark.parametrize("items", [1, 1000])
def test_a_writers_error_is_raised_as_itself_and_ends_the_writing(items):
    error, written = OSError("the disk is full"), []

    def full(item: int) -> None:
        written.append(item)
        raise error

    with pytest.raises(OSError) as caught, write_behind(full, 2) as write:
        for item in range(items):
            write(item)
        deadline = time.monotonic() + LONG
        while threads() and time.monotonic() < deadline:
            time.sleep(0.001)
    assert caught.value is error and written == [0]


@pytest.mark.parametrize("fails", [False, True])
def test_an_error_of_the_block_drops_what_waits_and_wins(fails):
    gate, written = threading.Event(), []

    def late(item: int) -> None:
        gate.set()
        time.sleep(0.05)
        written.append(item)
        if fails:
            raise OSError("the second error")

    with pytest.raises(ValueError, match="the first error"), write_behind(late, 8) as write:
        for item in range(5):
            write(item)
        assert gate.wait(LONG)
        raise ValueError("the first error")
    assert written == [0]


@pytest.mark.parametrize(
    ("device", "compiled", "overlap", "fixed"),
    [
        ("cpu", False, False, False),
        ("cpu", True, False, True),
        ("cuda", False, True, True),
        ("cuda:1", True, True, True),
        ("mps", False, True, False),
    ],
)
def test_what_suits_a_device(device, compiled, overlap, fixed):
    assert Execution.on(torch.device(device), compiled) == Execution(overlap, fixed)
