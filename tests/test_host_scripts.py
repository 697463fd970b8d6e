"""The scripts behind `make demo` and `make test`: what they refuse, and what they leave behind when they do."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPTS = REPOSITORY / "scripts"
sys.path.insert(0, str(SCRIPTS))

import comfy_setup  # noqa: E402
import demo_inputs  # noqa: E402
import system_packages  # noqa: E402

from musetalk_core.faces.detector import FaceDetector  # noqa: E402


def call(name, *arguments, **environment):
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def fake_host(root):
    """A root that looks set up: enough for every refusal before the server starts."""
    comfy = root / "ComfyUI"
    comfy.mkdir(parents=True)
    for name in ("main.py", "nodes.py", "requirements.txt", "comfyui_version.py"):
        (comfy / name).touch()
    (root / "venv" / "bin").mkdir(parents=True)
    (root / "venv" / "bin" / "python").symlink_to(sys.executable)
    (root / "host.json").write_text(json.dumps({"path": str(comfy)}))
    return root


def clip(path, frames, sound):
    """`frames` grey frames at 25/s, and as much sound when asked for."""
    with av.open(path, "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width = video.height = 64
        audio = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for i in range(frames):
            picture = np.full((64, 64, 3), 10 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            if audio:
                block = av.AudioFrame.from_ndarray(np.zeros((1, 640), np.float32), format="fltp", layout="mono")
                block.sample_rate, block.pts, block.time_base = 16000, 640 * i, Fraction(1, 16000)
                container.mux(audio.encode(block))
        for stream in container.streams:
            container.mux(stream.encode())


def test_root_comes_from_the_variable_or_is_dot_host(tmp_path):
    assert json.loads(call("comfy_host.py", "status", MUSETALK_HOST_ROOT=str(tmp_path)).stdout)["servers"] == []
    shown = call("comfy_host.py", "status", "--help", MUSETALK_HOST_ROOT="").stdout
    assert str(REPOSITORY / ".host") in "".join(shown.split())


def test_start_refuses_a_root_that_is_not_set_up(tmp_path):
    for name in ("comfy_host.py start", "demo.py --no-setup", "test.py --no-setup"):
        script, argument = name.split()
        done = call(script, argument, "--root", tmp_path / "none")
        assert done.returncode == 1 and "is not set up" in done.stderr and "Traceback" not in done.stderr


def test_start_refuses_bad_input_pack_and_port_and_leaves_nothing(tmp_path):
    root = fake_host(tmp_path / "root")
    (tmp_path / "no pack").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        cases = [
            (["--input", tmp_path / "none.mp4"], "no such input file"),
            (["--custom-node", tmp_path / "none"], "no such custom node"),
            (["--custom-node", tmp_path / "no pack"], "no __init__.py"),
            (["--port", port], f"port {port} is taken"),
        ]
        for arguments, message in cases:
            done = call("comfy_host.py", "start", "--root", root, *arguments)
            assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
    assert list(root.glob("run-*")) == []


def test_start_shows_the_log_of_a_server_that_dies_and_removes_its_folder(tmp_path):
    root = fake_host(tmp_path)
    (root / "ComfyUI" / "main.py").write_text("raise SystemExit('no luck today')")
    done = call("comfy_host.py", "start", "--root", root, "--port", "0")
    assert done.returncode == 1 and "no luck today" in done.stderr
    assert list(root.glob("run-*")) == []


def test_mmpose_is_asked_for_where_it_was_not_set_up(tmp_path):
    done = call("test.py", "--no-setup", "--root", fake_host(tmp_path))
    assert done.returncode == 1 and "has no mmpose" in done.stderr and "Traceback" not in done.stderr


def test_requirement_files_are_read_without_torch_and_comments(tmp_path):
    (tmp_path / "base.txt").write_text("torch>=2.1\nnumpy>=1.25  # arrays\n\n# nothing\ntorchsde\n")
    (tmp_path / "dev.txt").write_text("-r base.txt\npytest>=8\nTorchVision\n")
    assert comfy_setup._requirement_lines(tmp_path / "dev.txt") == ["numpy>=1.25", "torchsde", "pytest>=8"]
    with pytest.raises(comfy_setup.HostError, match=r"none\.txt"):
        comfy_setup._requirement_lines(tmp_path / "none.txt")


def test_comfyui_path_must_be_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(comfy_setup.HostError, match=r"lacks main\.py"):
        comfy_setup.setup(tmp_path / "root")


def test_missing_browser_is_an_error_with_the_line_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(system_packages, "BROWSERS", ("chromium",))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(comfy_setup.HostError, match=r"apt-get install -y .* chromium "):
        system_packages.find_browser()
    (tmp_path / "chromium").symlink_to(sys.executable)
    assert system_packages.find_browser() == str(tmp_path / "chromium")


def test_portrait_clip_moves_smoothly_is_labelled_and_is_made_once(tmp_path):
    path = tmp_path / "portrait.mp4"
    demo_inputs.make_portrait(path)
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(np.int16) for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 25
        assert container.metadata["comment"] == "synthetic demo"
    assert len(frames) == 100 and frames[0].shape == (512, 512, 3)
    steps = [np.abs(a - b)[:400].mean() for a, b in zip(frames, frames[1:] + frames[:1], strict=True)]
    assert min(steps) > 1 and max(steps) < 3 * min(steps)  # always moving, no jump, not at the loop's seam either
    label = frames[40][490:505, 10:160]
    assert label.max() > 200 and np.median(label) < 40
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stamp = path.stat().st_mtime_ns
    demo_inputs.make_portrait(path)
    assert path.stat().st_mtime_ns == stamp
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in tmp_path.iterdir()] == ["portrait.mp4"]


def test_the_second_clip_shows_two_people_side_by_side_and_a_label(tmp_path):
    path = tmp_path / "two.mp4"
    demo_inputs.make_two_speakers(path)
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.metadata["comment"] == "synthetic demo"
    assert len(frames) == 100 and frames[0].shape == (384, 768, 3)
    detector = FaceDetector(FaceDetector.load_nets())
    for frame in frames[::25]:
        left, right = sorted(face.box.tolist() for face in detector.detect(torch.from_numpy(frame)))
        assert left[2] < 384 < right[0]
    label = frames[40][362:377, 10:160]
    assert label.max() > 200 and np.median(label) < 40


def test_demo_result_is_tagged_counted_and_its_streams_are_untouched(tmp_path):
    clip(tmp_path / "made.mp4", 20, sound=True)
    (tmp_path / "out").mkdir()
    done = call("demo_result.py", tmp_path / "made.mp4", tmp_path / "out" / "result.mp4")
    facts = json.loads(done.stdout)
    assert (facts["frames"], facts["fps"], facts["size"], facts["sample_rate"]) == (20, "25", "64x64", 16000)
    assert facts["picture_seconds"] == 0.8 and abs(facts["sound_seconds"] - 0.8) < 0.1
    assert "synthetic" in facts["comment"]
    packets = []
    for path in (tmp_path / "made.mp4", tmp_path / "out" / "result.mp4"):
        with av.open(path) as container:
            packets.append([bytes(p) for p in container.demux(video=0) if p.size])
    assert packets[0] == packets[1]


def test_demo_result_refuses_silence_and_junk_and_leaves_no_file(tmp_path):
    clip(tmp_path / "silent.mp4", 5, sound=False)
    (tmp_path / "junk.mp4").write_bytes(b"junk" * 100)
    (tmp_path / "out").mkdir()
    for name in ("silent.mp4", "junk.mp4", "none.mp4"):
        done = call("demo_result.py", tmp_path / name, tmp_path / "out" / "result.mp4")
        assert done.returncode == 1 and "Traceback" not in done.stderr
    assert list((tmp_path / "out").iterdir()) == []
