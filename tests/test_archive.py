"""What the registry would ship: no words its scan flags, no ComfyUI in the core, nothing done at import."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from comfy_client import HOST_ROOT, REPOSITORY, set_up_host
from pathspec import PathSpec  # mypy brings it
from PIL import Image

sys.path.insert(0, str(REPOSITORY / "scripts"))

from pack_archive import shipped_files

BINARY = {".safetensors", ".png", ".jpg", ".webp", ".ico", ".wav", ".mp4"}
# The registry's known triggers, comments and documentation included (Comfy-Org/registry-backend issues 192 to 241).
FLAGGED = {
    "network": r"urllib\.request|requests\.(get|post)|\bsocket\.|aiohttp\.ClientSession|\.connect\(|\.bind\(",
    "environment": r"os\.environ|os\.getenv",
    "processes": r"subprocess|os\.system|os\.popen",
    "tools": r"ffmpeg|ffprobe|\bcurl\b|\bwget\b",
    "dynamic code": r"\beval\s*\(|\bexec\s*\(|__import__|importlib\.import_module",
    "privileges": r"\bsudo\b",
    "address": r"raw\.githubusercontent\.com",
}
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server"}
LATE = ("diffusers", "transformers", "cv2", "librosa", "soxr", "huggingface_hub", "scipy", "mmpose", "mmcv", "ray")
NOT_ON_WINDOWS = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
UNLOVED = {"mmcv", "mmpose", "mmengine", "tensorflow", "mediapipe", "insightface", "onnxruntime"}
BY_CHOICE = "musetalk_core/faces/mmpose_estimator.py"  # for who asks for the detector mmpose and has installed it


@pytest.fixture(scope="module")
def shipped():
    return shipped_files()


def core_files():
    return sorted((REPOSITORY / "musetalk_core").rglob("*.py"))


def test_archive_holds_the_pack_and_leaves_the_workshop_out(shipped):
    assert {"__init__.py", "pyproject.toml", "LICENSE", "NOTICE", "requirements.txt", "install.py"} <= set(shipped)
    for part in ("musetalk_core/pipeline.py", "musetalk_core/demo/config.json", "nodes/__init__.py"):
        assert part in shipped
    workshop = ("tests/", "benchmarks/", "scripts/", "docs/", "assets/", ".ci/", "musetalk_core/remote/", "output/")
    files = ("Makefile", "requirements-dev.txt", "requirements-train.txt", ".gitignore", ".comfyignore")
    assert [name for name in shipped if name.startswith(workshop) or name in files] == []


def test_archive_holds_everything_the_page_asks_for(shipped):
    """A pattern of .comfyignore without a slash in front takes folders of that name at any depth, web/docs too."""
    for folder in ("web", "locales", "workflows", "nodes", "subgraphs"):
        here = [path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert here
        assert [path for path in here if path.relative_to(REPOSITORY).as_posix() not in shipped] == []
    patterns = [line for line in (REPOSITORY / ".comfyignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert [pattern for pattern in patterns if not pattern.startswith("/")] == []


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
def test_git_reads_comfyignore_as_the_registrys_tool_does(shipped):
    """comfy-cli takes pathspec's "gitwildmatch" and the plain output of git ls-files, which quotes other letters."""
    lines = (line.strip() for line in (REPOSITORY / ".comfyignore").read_text().splitlines())
    left_out = PathSpec.from_lines("gitwildmatch", [line for line in lines if line and not line.startswith("#")])
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    known = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    known = [name for name in known if (REPOSITORY / name.strip('"')).is_file()]
    assert shipped == sorted(name for name in known if not left_out.match_file(name))


@pytest.mark.parametrize("kind", FLAGGED)
def test_archive_has_no_word_the_registry_flags(shipped, kind):
    found = []
    for name in shipped:
        if Path(name).suffix not in BINARY:
            for number, line in enumerate((REPOSITORY / name).read_text(encoding="utf-8").splitlines(), 1):
                if re.search(FLAGGED[kind], line, re.I):
                    found.append(f"{name}:{number}: {line.strip()}")
    assert found == []


def test_archive_has_no_bundled_script(shipped):
    """What a bundler writes is flagged as of unknown origin: our scripts are written by hand, short lines."""
    scripts = [name for name in shipped if Path(name).suffix in (".js", ".mjs", ".css")]
    long = [n for n in scripts if max(map(len, (REPOSITORY / n).read_text(encoding="utf-8").splitlines())) > 200]
    assert long == [] and not any("/dist/" in name or ".min." in name for name in shipped)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("network", "import urllib.request"),
        ("network", "each input has a socket."),
        ("network", "page.connect(a)"),
        ("environment", "os.environ['X']"),
        ("processes", "import subprocess"),
        ("tools", "needs no ffmpeg"),
        ("tools", "av.FFmpegError"),
        ("privileges", "sudo apt-get install"),
        ("dynamic code", "importlib.import_module(name)"),
        ("dynamic code", "model.eval()"),
        ("dynamic code", "mx.eval (x)"),
        ("address", "https://raw.githubusercontent.com/a"),
    ],
)
def test_the_patterns_find_what_they_are_for(kind, text):
    assert re.search(FLAGGED[kind], text, re.I)


def test_archive_stays_small_enough_to_install(shipped):
    assert sum((REPOSITORY / name).stat().st_size for name in shipped) < 40e6


def test_archive_unpacks_on_windows(shipped):
    bad = re.compile(r'[<>:"|?*\\]|[ .](/|$)|(^|/)(con|prn|aux|nul|com\d|lpt\d)(\.|/|$)', re.I)
    assert [name for name in shipped if bad.search(name) or len(name) > 120] == []
    assert len({name.lower() for name in shipped}) == len(shipped)


def test_python_files_run_on_windows(shipped):
    """No module of Unix alone, and no text file read or written in whatever encoding the system has."""
    for name in shipped:
        if not name.endswith(".py"):
            continue
        assert not NOT_ON_WINDOWS & set(imported(REPOSITORY / name)), name
        for call in ast.walk(ast.parse((REPOSITORY / name).read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and _opens_text(call):
                told = [keyword.arg for keyword in call.keywords]
                assert "encoding" in told, f"{name}:{call.lineno}: {ast.unparse(call)}"


def _opens_text(call):
    name = ast.unparse(call.func)
    if name.endswith((".read_text", ".write_text")):
        return True
    binary = re.search(r"'[rwax]\+?b'", ast.unparse(call))
    return re.search(r"\bopen$", name) and not name.endswith(("av.open", "Image.open", "manager.open")) and not binary


@pytest.mark.parametrize(
    ("code", "text"),
    [("open(p)", True), ("p.open('w')", True), ("p.read_text()", True), ("p.open('rb')", False), ("av.open(p)", False)],
)
def test_text_files_are_told_from_others(code, text):
    assert bool(_opens_text(ast.parse(code, mode="eval").body)) == text


def test_nothing_is_required_that_users_cannot_install(shipped):
    named = {line.split(">=")[0].lower() for line in (REPOSITORY / "requirements.txt").read_text().split()}
    assert not named & UNLOVED
    for name in shipped:
        if name.endswith(".py") and name != BY_CHOICE:
            assert not UNLOVED & set(imported(REPOSITORY / name)), name
    assert UNLOVED & set(imported(REPOSITORY / BY_CHOICE)) == {"mmengine", "mmpose"}


def test_requirements_live_beside_comfyuis_own():
    """pip finds no conflict in the environment that has both installed."""
    set_up_host()
    command = [str(HOST_ROOT / "venv" / "bin" / "python"), "-m", "pip", "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


PARSER = """
import json, sys
sys.path[0] = sys.argv[1]
from comfy_config.config_parser import extract_node_configuration
print(extract_node_configuration(sys.argv[2]).model_dump_json())
"""


def test_comfyui_reads_the_registrys_part_of_pyproject():
    set_up_host()
    comfyui = json.loads((HOST_ROOT / "host.json").read_text())["path"]
    command = [str(HOST_ROOT / "venv" / "bin" / "python"), "-c", PARSER, comfyui, str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    project, comfy = config["project"], config["tool_comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", project["name"]) and "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"]) and project["requires_python"] == ">=3.10"
    assert project["license"]["file"] == "LICENSE" and project["supported_os"] == ["OS Independent"]
    assert project["supported_comfyui_version"] == ">=0.3.75"
    assert comfy["publisher_id"] and comfy["display_name"] == "MuseTalk Suite" and not comfy["includes"]
    assert all(project["urls"][name].startswith("https://") for name in ("repository", "documentation", "issues"))
    assert comfy["icon"]


@pytest.mark.parametrize(("name", "width", "height"), [("Icon", 400, 400), ("Banner", 1260, 540)])
def test_pictures_of_the_registry_are_where_their_addresses_say(name, width, height):
    project = (REPOSITORY / "pyproject.toml").read_text()
    address = re.search(rf'^{name} = "(.*)"$', project, re.M)[1]
    assert address.startswith(re.search(r'^Repository = "(.*)"$', project, re.M)[1])
    with Image.open(REPOSITORY / address.split("/raw/main/")[1]) as picture:
        assert picture.format == "PNG" and picture.size == (width, height)


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
