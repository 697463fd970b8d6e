"""The node classes against their own schemas, the demo VAE against ComfyUI's, read in a real ComfyUI's Python."""

import ast
import json
import os
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

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
    "MuseTalkPrepareAvatar",
    "MuseTalkLoadAvatar",
    "MuseTalkAvatarLipSync",
]


def probe(what: str) -> Any:
    set_up_host()
    comfyui = json.loads((HOST_ROOT / "host.json").read_text())["path"]
    call = [str(HOST_ROOT / "venv" / "bin" / "python"), "tests/pack_probe.py", comfyui, str(REPOSITORY), what]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    done = subprocess.run(call, capture_output=True, text=True, cwd=REPOSITORY, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


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


def test_model_folder_keeps_those_of_the_user():
    facts = probe("folders")
    assert facts["paths"] == ["/elsewhere/musetalk", facts["own"]]
    assert ".safetensors" in facts["extensions"] and ".pth" in facts["extensions"]
    assert ".json" not in facts["extensions"] and "" not in facts["extensions"]


def test_face_tracks_get_new_names_and_stay_inside_comfyuis_folders():
    facts = probe("face_tracks")
    assert facts["files"] == ["face_tracks/talk_00001_.json [output]", "face_tracks/talk_00002_.json [output]"]
    assert facts["same"]
    assert facts["listed"] == ["mine.json", *facts["files"]]
    assert facts["taken"] == [True, True, True, False, False, False, False]
    settings = LipSyncSettings().changed("test", facts["options"]).faces
    assert settings == FaceSettings(face_index=1, detect_every=10, smoothing=2.0, subpixel=True)


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
