"""What pip cannot install: libraries for opencv, Python's venv, a browser for tests, voices for training speech."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable

from comfy_setup import HostError, run, say

# opencv-python's wheel leaves these to the system; any desktop has them, a bare container has not.
LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0", "libxcb.so.1": "libxcb1"}
# espeak-ng (GPL-3) and flite (BSD-like) speak the training texts; no shipped file uses them.
VOICE_LIBRARY, VOICE_PROGRAM = "libespeak-ng.so.1", "flite"
VOICES = ("libespeak-ng1", "flite")
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# Without fonts of theirs Latin and Chinese texts are boxes in screenshots.
BROWSER_PACKAGES = ("chromium", "fonts-liberation", "fonts-wqy-microhei")


def ensure(browser: bool = False, voices: bool = False) -> None:
    """Install missing Debian packages when root, else raise HostError with the line to run; elsewhere no-op."""
    if not sys.platform.startswith("linux"):
        return
    missing = [package for library, package in LIBRARIES.items() if not _loads(library)]
    if importlib.util.find_spec("ensurepip") is None:
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    if browser and not _browser():
        missing += BROWSER_PACKAGES
    if voices and not (_loads(VOICE_LIBRARY) and shutil.which(VOICE_PROGRAM)):
        missing += VOICES
    if not missing:
        return
    line = _install_line(missing)
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise HostError(f"system packages are missing; install them and come back, on Debian: sudo {line}")
    say(f"installing system packages: {' '.join(missing)}")
    run(["apt-get", "update", "-q"], "apt-get update")
    command = ["env", "DEBIAN_FRONTEND=noninteractive", *line.split()]
    run(command, line)


def find_browser() -> str:
    """The path of Chromium or Chrome; raises HostError with the line to run when there is none."""
    if (path := _browser()) is None:
        raise HostError(
            f"no Chromium is here; install it and come back, on Debian: sudo {_install_line(BROWSER_PACKAGES)}"
        )
    return path


def _browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def _install_line(packages: Iterable[str]) -> str:
    return f"apt-get install -y --no-install-recommends {' '.join(packages)}"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
