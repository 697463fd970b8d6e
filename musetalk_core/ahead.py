"""Work in a second thread: an iterator run ahead of who reads it, items handed to who writes them."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")


@contextmanager
def read_ahead(items: Iterator[Item], size: int) -> Iterator[Iterator[Item]]:
    """Run an iterator in a thread of its own and give its items in order; use it in a `with` block.

    size: items that may wait to be taken; one more may be in the making. 0: no thread, the iterator itself. What it
    raises is raised where the item would have come, the same exception. At the end of the block, however it is left,
    a generator is closed where it ran and the thread has ended; that waits for the item in the making. The thread has
    the caller's inference and grad mode.
    """
    if not size:
        try:
            yield items
        finally:
            _close(items)
        return
    belt: _Belt[Item] = _Belt(size)

    def work() -> None:
        try:
            for item in items:
                if not belt.put(item):
                    return
        finally:
            _close(items)

    thread = _start(work, belt, belt.end)
    try:
        yield iter(belt)
    finally:
        belt.drop()
        thread.join()


@contextmanager
def write_behind(write: Callable[[Item], None], size: int) -> Iterator[Callable[[Item], None]]:
    """Give a function that has `write` called with its items, in order, in one thread; use it in a `with` block.

    size: items that may wait; then the function waits. 0: no thread, `write` itself. What `write` raises is raised by
    the next call or at the end of the block, the same exception; nothing is written after it. When the block ends all
    is written; when an exception leaves it, what waits is dropped and that exception goes on. Either way the thread has
    ended. It has the caller's inference and grad mode.
    """
    if not size:
        yield write
        return
    belt: _Belt[Item] = _Belt(size)

    def work() -> None:
        for item in belt:
            write(item)

    def put(item: Item) -> None:
        if not belt.put(item) and belt.error is not None:
            raise belt.error

    thread = _start(work, belt, belt.drop)
    try:
        yield put
    except BaseException:
        belt.drop()
        raise
    finally:
        belt.end()
        thread.join()
    if belt.error is not None:
        raise belt.error


class _Belt(Generic[Item]):
    """At most `size` items on their way from one thread to another. error: what ended it, None for a good end."""

    def __init__(self, size: int) -> None:
        self.error: BaseException | None = None
        self._size = size
        self._items: deque[Item] = deque()
        self._ended = False
        self._changed = Condition()

    def put(self, item: Item) -> bool:
        """Wait for room and add an item; False when the belt has ended and nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or len(self._items) < self._size)
            if self._ended:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def __iter__(self) -> Iterator[Item]:
        """Take the items as they come, up to the end; then raise the error if there is one."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or len(self._items) > 0)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self.error is not None:
            raise self.error

    def end(self, error: BaseException | None = None) -> None:
        """No more items come; those on the belt may still be taken. The first error stays."""
        with self._changed:
            self._ended = True
            if self.error is None:
                self.error = error
            self._changed.notify_all()

    def drop(self, error: BaseException | None = None) -> None:
        """End, and nobody takes what is on the belt."""
        with self._changed:
            self._items.clear()
            self.end(error)


def _start(work: Callable[[], None], belt: _Belt[Item], ended: Callable[[BaseException | None], None]) -> Thread:
    """Run `work` in a thread with this thread's torch modes, which torch keeps per thread; then ended(its error)."""
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def run() -> None:
        try:
            with torch.inference_mode(inference), torch.set_grad_enabled(grad):
                work()
        except BaseException as error:  # not handled here: it goes on in the other thread
            ended(error)
        else:
            ended(None)

    # A daemon, because a generator that nobody closed must not keep the program from ending.
    thread = Thread(target=run, name="musetalk-ahead", daemon=True)
    thread.start()
    return thread


def _close(items: Iterator[Item]) -> None:
    if isinstance(items, Generator):
        items.close()
