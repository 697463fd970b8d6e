"""The node classes against their own schemas, the demo VAE against ComfyUI's, read in a real ComfyUI's Python."""

import ast
import json
import os
import subprocess
import tempfile
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import IO, Any

import pytest
from comfy_client import HOST_ROOT, REPOSITORY, set_up_host

from musetalk_core.settings import FaceSettings, LipSyncSettings, MaskSettings

NODE_IDS = [
    "LoadMuseTalkModels",
    "MuseTalkMatchFrames",
    "MuseTalkFaceDetectAndCrop",
    "MuseTalkWhisperAudioFeatures",
    "MuseTalkVAEEncodeMasked",
    "MuseTalkUNetStep",
    "MuseTalkVAEDecode",
    "MuseTalkBlendFaceParsing",
    "MuseTalkLipSync",
    "MuseTalkLipSyncVideo",
    "MuseTalkPreviewFrame",
    "MuseTalkFaceOptions",
    "MuseTalkSaveFaceTrack",
    "MuseTalkLoadFaceTrack",
    "MuseTalkPreviewFaceTrack",
    "MuseTalkBlendOptions",
    "MuseTalkSilence",
    "MuseTalkRestoreFace",
    "MuseTalkFaceDebugSheet",
    "MuseTalkEvaluateSync",
    "MuseTalkEvaluateQuality",
    "MuseTalkComparePreview",
    "MuseTalkPrepareAvatar",
    "MuseTalkLoadAvatar",
    "MuseTalkAvatarLipSync",
    "MuseTalkRealtimeSession",
]


@cache
def prober() -> tuple[subprocess.Popen[str], IO[str]]:
    """The process that runs pack_probe.py, one for all tests, and the file of its messages."""
    set_up_host()
    comfyui = json.loads((HOST_ROOT / "host.json").read_text())["path"]
    call = [str(HOST_ROOT / "venv" / "bin" / "python"), "tests/pack_probe.py", comfyui, str(REPOSITORY)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    messages = tempfile.TemporaryFile("a+")  # noqa: SIM115 (open as long as the process)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": messages}
    return subprocess.Popen(call, text=True, bufsize=1, cwd=REPOSITORY, env=environment, **pipes), messages


def probe(what: str) -> Any:
    """A fact of pack_probe.py by its name."""
    process, messages = prober()
    process.stdin.write(f"{what}\n")
    line = process.stdout.readline().strip()
    messages.seek(0)
    assert line, messages.read()
    return json.loads(line)


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    return probe("schemas")


def test_all_nodes_are_there(schemas):
    assert list(schemas) == NODE_IDS


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_execute_takes_the_inputs_of_the_schema_and_the_rest_are_settings(schemas, node_id):
    inputs, parameters = schemas[node_id]["inputs"], schemas[node_id]["parameters"]
    assert [name for name in inputs if name in parameters] == parameters
    settings = {field.name for group in (LipSyncSettings, MaskSettings) for field in fields(group)}
    assert {name for name in inputs if name not in parameters} <= settings


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_socket_and_widget_is_explained(schemas, node_id):
    assert schemas[node_id]["untold"] == []


def test_demo_vae_is_a_comfyui_vae():
    facts = probe("demo_vae")
    # The attributes that encode, decode and their tiled forms of comfy/sd.py in ComfyUI 0.3.75 read.
    assert set(facts["attributes"]) >= {
        "crop_input",
        "device",
        "disable_offload",
        "downscale_index_formula",
        "downscale_ratio",
        "extra_1d_channel",
        "first_stage_model",
        "latent_channels",
        "latent_dim",
        "memory_used_decode",
        "memory_used_encode",
        "not_video",
        "output_channels",
        "output_device",
        "patcher",
        "process_input",
        "process_output",
        "size",
        "upscale_index_formula",
        "upscale_ratio",
        "vae_dtype",
    }
    assert facts["model"] == "DemoAutoencoder"
    assert facts["latents"] == [2, 4, 32, 32]
    assert facts["decoded"] == facts["tiled"] == [2, 256, 256, 3]
    assert 0 <= facts["range"][0] < facts["range"][1] <= 1
    differences = {name: value for name, value in facts.items() if name.endswith("_difference")}
    assert max(differences.values()) < 1e-5, differences


def test_comfyui_vae_as_a_codec_is_diffusers_mean():
    facts = probe("sd_vae")
    assert facts["spread"] > 0.01
    assert facts["encode"] < 1e-4 and facts["decode"] < 1e-4


def test_match_frames_takes_what_graphs_bring():
    facts = probe("match_frames")
    assert facts == {
        "shape": [6, 8, 10, 3],
        "dtype": "torch.float16",
        "fps": 60.0,
        "right": True,
        "input_kept": True,
    }


@pytest.fixture(scope="module")
def folders() -> dict[str, Any]:
    return probe("folders")


def test_import_takes_less_than_a_second_of_work(folders):
    assert folders["seconds"] < 1


def test_model_folder_keeps_those_of_the_user(folders):
    assert folders["paths"] == ["/elsewhere/musetalk", folders["own"]]
    assert ".safetensors" in folders["extensions"] and ".pth" in folders["extensions"]
    assert ".json" not in folders["extensions"] and "" not in folders["extensions"]


def test_evaluation_nodes_give_numbers_or_reasons():
    facts = probe("evaluate")
    assert facts["sheet"] == [40, 64, 192, 3] and facts["difference"] == 0.5
    assert facts["report"].startswith("40 frames: 30 equal, the others 48.2 dB; lowest: 30 (48.2 dB), 31")
    assert facts["sync"]["faces"] == 0 and facts["sync"]["lse_d"] == "weights missing"
    assert facts["sync"]["lip_audio"] == "a face in under half"
    # 30 frames at 100 dB, 10 with one pixel of 64 x 64 off by a quarter: 10 log10(16 * 4096).
    assert abs(facts["quality"]["psnr"] - (30 * 100 + 10 * 48.1648) / 40) < 1e-2
    assert facts["quality"]["lpips"] == "weights missing" and facts["quality"]["nose_jitter"] == "nothing to measure"
    assert "PSNR, dB: 87.04 (higher is better)" in facts["told"]


def test_face_tracks_get_new_names_and_stay_inside_comfyuis_folders():
    facts = probe("face_tracks")
    assert facts["files"] == ["face_tracks/talk_00001_.json [output]", "face_tracks/talk_00002_.json [output]"]
    assert facts["same"]
    assert facts["listed"] == ["mine.json", *facts["files"]]
    assert facts["taken"] == [True, True, True, False, False, False, False]
    settings = LipSyncSettings().changed("test", facts["options"]).faces
    assert settings == FaceSettings(face_index=1, detect_every=10, smoothing=2.0, subpixel=True, upright=True)


def node_files() -> list[Path]:
    return [REPOSITORY / "__init__.py", *sorted((REPOSITORY / "nodes").glob("*.py"))]


def test_node_ids_are_literal_for_the_registry():
    found = [
        keyword.value.value
        for path in node_files()
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
    ]
    assert sorted(found) == sorted(NODE_IDS)


def test_execute_stays_short_and_nothing_is_caught_broadly():
    for path in node_files():
        for item in ast.walk(ast.parse(path.read_text())):
            if isinstance(item, ast.FunctionDef) and item.name == "execute":
                lines = item.end_lineno - item.body[0].lineno + 1
                assert lines <= 40, f"{path.name}: execute has {lines} lines"
            if isinstance(item, ast.ExceptHandler):
                assert item.type is not None and ast.unparse(item.type) not in ("Exception", "BaseException"), path
