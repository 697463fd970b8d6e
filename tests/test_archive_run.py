"""A dry run of the registry's archive: in a ComfyUI without weights, its nodes, demo, help and commands work."""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import clips
import pytest
from comfy_client import HOST_ROOT, REPOSITORY, ComfyServer, start_server, stop_server

LEFT_OUT = {"queue": ["--server", "http://127.0.0.1:9", "--workflow", "w.json", "--jobs", "jobs.csv"]}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a user of the registry gets."""
    folder = tmp_path_factory.mktemp("registry")
    script = [sys.executable, str(REPOSITORY / "scripts" / "pack_archive.py"), str(folder / "archive.zip")]
    facts = json.loads(subprocess.run(script, capture_output=True, text=True, check=True).stdout)
    with zipfile.ZipFile(facts["archive"]) as archive:
        assert len(archive.namelist()) == facts["files"] > 100
        archive.extractall(folder / "musetalk-suite")
    return folder / "musetalk-suite"


@pytest.fixture(scope="module")
def plain(unpacked: Path, comfy_inputs: list[Path]) -> Iterator[ComfyServer]:
    """A real ComfyUI with the archive copied into its custom_nodes, and empty model folders."""
    server = start_server(comfy_inputs, f"--custom-node=musetalk-suite={unpacked}", "--copy")
    yield server
    stop_server(server)


def node_ids() -> list[str]:
    """As ComfyUI-Manager finds them: the literals in the sources."""
    sources = (path.read_text(encoding="utf-8") for path in (REPOSITORY / "nodes").glob("*.py"))
    return sorted(name for text in sources for name in re.findall(r'node_id="(\w+)"', text))


def test_all_nodes_are_there_without_any_weights(plain):
    infos = plain.ask("/object_info")
    ours = [name for name, info in infos.items() if info["python_module"] == "custom_nodes.musetalk-suite"]
    assert sorted(ours) == node_ids()
    assert "Traceback" not in plain.log.read_text()
    copy = plain.folder / "custom_nodes" / "musetalk-suite"
    assert not copy.is_symlink() and not (copy / "tests").exists()


def test_demo_runs_from_the_archive(plain, unpacked):
    prompt = json.loads((unpacked / "workflows" / "api" / "demo.json").read_text(encoding="utf-8"))
    outputs = plain.run(prompt)
    files = [item for output in outputs.values() for kind in output.values() for item in kind if isinstance(item, dict)]
    video = plain.file(next(item for item in files if item["filename"].endswith(".mp4")))
    facts = clips.probe(video)
    assert facts["frames"] == 25 and facts["audio_seconds"] == pytest.approx(1, abs=0.05)


def test_missing_weights_are_told_with_a_command_for_this_folder(plain):
    prompt = {
        "1": {"class_type": "LoadMuseTalkModels", "inputs": {"version": "v1.5", "precision": "auto"}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}},
    }
    assert "weights download musetalk-v1.5-unet" in plain.fail(prompt)


def test_help_locales_and_templates_are_served(plain, unpacked):
    for path in sorted((unpacked / "web").rglob("*")):
        if path.is_file():
            address = path.relative_to(unpacked / "web").as_posix()
            assert plain.read(f"/extensions/musetalk-suite/{address}") == path.read_bytes()
    assert sorted(plain.ask("/i18n")["zh"]["nodeDefs"]) == node_ids()
    shown = {path.stem for path in (unpacked / "workflows").glob("*.json")}
    assert set(plain.ask("/api/workflow_templates")["musetalk-suite"]) == shown


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command of the archive in the host's Python, from its own folder."""
    python = str(HOST_ROOT / "venv" / "bin" / "python")
    return subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize("command", ["infer", "weights", "preview", *LEFT_OUT])
def test_commands_of_the_archive_show_their_help(unpacked, command):
    done = run(unpacked, "-m", "musetalk_core", command, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage:"), done.stderr


@pytest.mark.parametrize("command", LEFT_OUT)
def test_a_command_whose_part_is_left_out_says_so_in_one_sentence(unpacked, command):
    done = run(unpacked, "-m", "musetalk_core", command, *LEFT_OUT[command])
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch(r"error: .*registry.*\.\n", done.stderr), done.stderr


def test_install_runs_in_the_servers_copy_and_names_its_models_folder(plain):
    copy = plain.folder / "custom_nodes" / "musetalk-suite"
    done = run(copy, "-I", "install.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(plain.folder / "models" / "musetalk") in done.stdout
    listed = run(copy, "-I", "install.py", "weights", "check")
    told = [line.split(":")[0] for line in listed.stdout.splitlines()]
    assert listed.returncode == 1 and told == ["missing"] * 4, listed.stdout + listed.stderr
