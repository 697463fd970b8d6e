"""What the user sees of a queue while it works: one bar on a terminal, a line for each job elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

from .state import Record, State

LINE_EVERY = 10.0  # seconds between lines about running jobs where there is no bar


class Display:
    """Progress on stderr; `total` jobs, of which `done` were done before."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._ended = total, done
        self._told = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, desc="queue", unit="job", file=sys.stderr)

    def say(self, line: str) -> None:
        """Show a line above the bar."""
        self._told = time.monotonic()
        tqdm.write(line, file=sys.stderr)

    def ended(self, record: Record) -> None:
        """Count a job; what failed is told at once."""
        self._ended += 1
        if self._bar is not None:
            self._bar.update()
        if record.state is State.FAILED:
            self.say(f"[{self._ended}/{self._total}] {record.job.name} failed: {record.error}")
        elif self._bar is None:
            self.say(f"[{self._ended}/{self._total}] {record.job.name}: {record.seconds:.1f} s on {record.server}")

    def working(self, job: str, node: str, value: float, maximum: float) -> None:
        """Show how far a node of a running job is, beside the bar or now and then in a line."""
        text = f"{job}: {node} {value:g}/{maximum:g}"
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        elif time.monotonic() - self._told > LINE_EVERY:
            self.say(text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
