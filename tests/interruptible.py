"""Programs that a test will interrupt."""

import signal
import subprocess
from collections.abc import Sequence
from typing import Any


def interruptible(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Popen(command, stderr piped as text) that answers to Ctrl-C, also when the tests run in a shell's background.

    There SIGINT is ignored, which children inherit.
    """
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_listen, **options)


def _listen() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
