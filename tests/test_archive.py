"""What the registry would ship: no words its scan flags, no ComfyUI in the core, nothing done at import."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
BINARY = {".safetensors", ".png", ".jpg", ".webp", ".ico", ".wav", ".mp4"}
# The registry's known triggers, comments and documentation included (Comfy-Org/registry-backend issues 192 to 229).
FLAGGED = {
    "network": r"urllib\.request|requests\.get|\bsocket\.|aiohttp\.ClientSession|\.connect\(|\.bind\(",
    "environment": r"os\.environ|os\.getenv",
    "processes": r"subprocess|os\.system|os\.popen",
    "tools": r"ffmpeg|ffprobe|\bcurl\b|\bwget\b",
    "dynamic code": r"\beval\s*\(|\bexec\s*\(|__import__",
    "address": r"raw\.githubusercontent\.com",
}
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
LATE = ("diffusers", "transformers", "cv2", "librosa", "soxr", "huggingface_hub", "scipy", "mmpose", "mmcv")


def git_files(*arguments):
    command = ["git", "ls-files", "-z", "--cached", "--others", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.split("\0") if name and (REPOSITORY / name).is_file()}


@pytest.fixture(scope="module")
def shipped():
    left_out = git_files("--ignored", "--exclude-from=.comfyignore")
    return sorted(git_files("--exclude-standard") - left_out)


def core_files():
    return sorted((REPOSITORY / "musetalk_core").rglob("*.py"))


def test_archive_holds_the_pack_and_leaves_the_workshop_out(shipped):
    assert {"__init__.py", "pyproject.toml", "LICENSE", "NOTICE", "requirements.txt", "install.py"} <= set(shipped)
    for part in ("musetalk_core/pipeline.py", "musetalk_core/demo/config.json", "nodes/__init__.py"):
        assert part in shipped
    workshop = ("tests/", "benchmarks/", "scripts/", "docs/", ".ci/", "musetalk_core/remote/", "output/")
    assert [name for name in shipped if name.startswith(workshop) or name in ("Makefile", "requirements-dev.txt")] == []


@pytest.mark.parametrize("kind", FLAGGED)
def test_archive_has_no_word_the_registry_flags(shipped, kind):
    found = []
    for name in shipped:
        if Path(name).suffix not in BINARY:
            for number, line in enumerate((REPOSITORY / name).read_text(encoding="utf-8").splitlines(), 1):
                found += [f"{name}:{number}: {match}" for match in re.findall(FLAGGED[kind], line)]
    assert found == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("network", "import urllib.request"),
        ("network", "each input has a socket."),
        ("network", "page.connect(a)"),
        ("environment", "os.environ['X']"),
        ("processes", "import subprocess"),
        ("tools", "needs no ffmpeg"),
        ("dynamic code", "model.eval()"),
        ("dynamic code", "mx.eval (x)"),
        ("address", "https://raw.githubusercontent.com/a"),
    ],
)
def test_the_patterns_find_what_they_are_for(kind, text):
    assert re.search(FLAGGED[kind], text)


def test_archive_stays_small_enough_to_install(shipped):
    assert sum((REPOSITORY / name).stat().st_size for name in shipped) < 40e6


def imported(path):
    """Top-level names of the absolute imports anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_core_never_imports_comfyui_nor_itself_by_name():
    for path in core_files():
        forbidden = (HOST_MODULES | {"musetalk_core"}) & set(imported(path))
        assert not forbidden, f"{path.relative_to(REPOSITORY)} imports {sorted(forbidden)}"


def test_core_relative_imports_stay_inside_the_core():
    """A wheel holds musetalk_core alone."""
    core = REPOSITORY / "musetalk_core"
    for path in core_files():
        depth = len(path.relative_to(core).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= depth, f"{path.relative_to(REPOSITORY)}:{node.lineno} leaves musetalk_core"


GUARD = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen", "os.system"):
        raise RuntimeError(f"{event} at import: {arguments}")
    if event == "open" and str(arguments[0]).endswith((".safetensors", ".pth", ".bin", ".pt", ".ckpt")):
        raise RuntimeError(f"weights opened at import: {arguments[0]}")
"""


def run_guarded(code):
    """Standard output of `code` in a fresh Python where network, processes and weight files raise."""
    command = [sys.executable, "-c", GUARD + code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_guard_notices_network_and_weights():
    for act in ("import socket; socket.getaddrinfo('localhost', 80)", "open('x.safetensors')"):
        command = [sys.executable, "-c", GUARD + "sys.addaudithook(refuse)\n" + act]
        done = subprocess.run(command, capture_output=True, text=True)
        assert "at import" in done.stderr


def test_import_of_every_core_module_opens_nothing_and_loads_no_heavy_library():
    code = f"""
import numpy, torch, av  # what the core may import at once; torch itself starts processes on some systems
sys.addaudithook(refuse)
import importlib, pkgutil
import musetalk_core
for module in pkgutil.walk_packages(musetalk_core.__path__, "musetalk_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        early = [name for name in {LATE!r} if name in sys.modules]
        assert not early, (module.name, early)
print(len(sys.modules))
"""
    assert int(run_guarded(code)) > 0


def test_import_of_the_pack_itself_needs_neither_comfyui_nor_torch():
    code = """
import importlib.util, time
sys.addaudithook(refuse)
started = time.perf_counter()
spec = importlib.util.spec_from_file_location("pack", "__init__.py", submodule_search_locations=["."])
module = importlib.util.module_from_spec(spec)
sys.modules["pack"] = module
spec.loader.exec_module(module)
assert module.WEB_DIRECTORY == "./web" and callable(module.comfy_entrypoint)
assert not hasattr(module, "NODE_CLASS_MAPPINGS"), "ComfyUI would ignore comfy_entrypoint"
print("torch" in sys.modules, time.perf_counter() - started)
"""
    torch_loaded, seconds = run_guarded(code).split()
    assert torch_loaded == "False" and float(seconds) < 1
