#!/usr/bin/env python3
"""Everything a change must pass: sets up a real ComfyUI with this pack's requirements, then runs all checks.

    python3 scripts/test.py [--root DIR] [--no-setup] [--lint] [PYTEST ARGUMENT ...]

--lint runs ruff and mypy only. The tests run in two processes, a file in one of them; then those marked `alone`, whose
clock is the real one; then those marked `mmpose`, in an environment of their own. With PYTEST ARGUMENTs only what these
name, in one process. All checks run even when one fails; the exit status is 0 only if all passed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from comfy_setup import REPOSITORY, REQUIREMENTS, HostError, check_host, default_root, run, say, setup, venv_python
from mmpose_setup import check_mmpose, mmpose_python, setup_mmpose
from system_packages import ensure

# By file, so that what a file makes once for its tests is made once.
IN_TWO = ("pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-m", "not alone and not mmpose")
ALONE = ("pytest", "-m", "alone")
LINT = (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",))
WITH_MMPOSE = ("pytest", "-m", "mmpose", "tests/test_face_backends.py")


def prepare(root: Path, tests: bool, with_mmpose: bool) -> None:
    """System packages, the host, mmpose beside it and the demo's inputs, which the tests use too."""
    ensure(browser=tests, voices=tests)
    setup(root, REQUIREMENTS)
    if with_mmpose:
        setup_mmpose(root)
    inputs = [REPOSITORY / "scripts" / "demo_inputs.py", "--folder", root / "demo-inputs"]
    run([venv_python(root), *inputs], "making the demo's inputs")


def check(root: Path, python: Path, module: tuple[str, ...]) -> bool:
    """Run one checker, `python -m module ...`, in the repository's root."""
    name, started = " ".join(module), time.monotonic()
    say(f"running {name}")
    # One thread a process: two processes of two threads on two cores wait for one another.
    env = {"OMP_NUM_THREADS": "1", **os.environ, "MUSETALK_HOST_ROOT": str(root)}
    code = subprocess.call([str(python), "-m", *module], cwd=REPOSITORY, env=env)
    say(f"{name}: {'passed' if code == 0 else f'FAILED (exit {code})'}, {time.monotonic() - started:.0f} s")
    return code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--root", type=Path, default=default_root(), help="the host, default: %(default)s")
    parser.add_argument("--no-setup", action="store_true", help="take the host as it is")
    parser.add_argument("--lint", action="store_true", help="ruff and mypy only")
    args, pytest_arguments = parser.parse_known_args()
    root = args.root.expanduser().resolve()
    with_mmpose = not args.lint and not pytest_arguments
    try:
        if not args.no_setup:
            prepare(root, not args.lint, with_mmpose)
        check_host(root)
        if with_mmpose:
            check_mmpose(root)
    except HostError as error:
        print(f"test: error: {error}", file=sys.stderr)
        return 1
    tests = [("pytest", *pytest_arguments)] if pytest_arguments else [IN_TWO, ALONE]
    checks = list(LINT) if args.lint else [*LINT, *tests]
    passed = [check(root, venv_python(root), module) for module in checks]
    if with_mmpose:
        passed.append(check(root, mmpose_python(root), WITH_MMPOSE))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
