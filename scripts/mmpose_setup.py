"""A second environment with the real mmpose, on top of the test host's own, for the tests marked `mmpose`.

It sees every package of the host's environment and writes none of them: mmpose's requirements stay out of ComfyUI.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from comfy_setup import REPOSITORY, HostError, check_host, lock, read_json, run, say, venv_python, write_json

REQUIREMENTS = REPOSITORY / "requirements-mmpose.txt"
SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


def mmpose_python(root: Path) -> Path:
    return root / "mmpose-venv" / "bin" / "python"


def setup_mmpose(root: Path) -> None:
    """Make root/mmpose-venv, or keep it when the host and the requirements are those it was made for.

    root: a host that is set up. Raises HostError.
    """
    host = check_host(root)
    python, state = mmpose_python(root), root / "mmpose.json"
    key = hashlib.sha256(str(host.get("key")).encode() + REQUIREMENTS.read_bytes()).hexdigest()
    with lock(root):
        if read_json(state).get("key") == key and python.exists():
            say("already set up: mmpose")
            return
        started = time.monotonic()
        state.unlink(missing_ok=True)
        shutil.rmtree(python.parent.parent, ignore_errors=True)
        say("setting up mmpose in an environment of its own")
        run([venv_python(root), "-m", "venv", python.parent.parent], "making mmpose's environment")
        hosts, own = (
            Path(run([p, "-c", SITE_PACKAGES], "finding site-packages").strip()) for p in (venv_python(root), python)
        )
        # Packages of a .pth line come after the environment's own, and pip removes nothing outside the environment.
        (own / "host.pth").write_text(f"{hosts}\n", encoding="utf-8")
        pip = [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
        run([*pip, "--no-deps", "-r", REQUIREMENTS], "installing mmpose")
        write_json(state, {"key": key, "seconds": round(time.monotonic() - started, 1)})
        say(f"mmpose set up in {read_json(state)['seconds']} s")


def check_mmpose(root: Path) -> None:
    """Raises HostError when setup_mmpose has not been here."""
    if not read_json(root / "mmpose.json") or not mmpose_python(root).exists():
        raise HostError(f"{root} has no mmpose; run scripts/test.py without --no-setup")
