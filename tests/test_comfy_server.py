"""The pack in a real ComfyUI server: sockets, both ways and their equality, Cancel, detectors, weights."""

import re
import shutil
import time
from typing import Any

import face_weights
import numpy as np
import pytest
from comfy_graphs import all_in_one, defaults, discrete, node, one_sentence, pictures, saved, sources
from PIL import Image
from random_weights import write_musetalk

MODEL, ENCODER, FACES = "MUSETALK_MODEL", "MUSETALK_AUDIO_ENCODER", "MUSETALK_FACE_MODELS"
PARTS = {"model": MODEL, "vae": "VAE", "audio_encoder": ENCODER, "face_models": FACES}
OPTIONS = {
    "face_options": "MUSETALK_FACE_OPTIONS",
    "blend_options": "MUSETALK_BLEND_OPTIONS",
    "silence": "MUSETALK_SILENCE",
}
SOCKETS = {
    "LoadMuseTalkModels": ({}, [MODEL, "VAE", ENCODER, FACES]),
    "MuseTalkMatchFrames": ({"images": "IMAGE", "audio": "AUDIO"}, ["IMAGE", "FLOAT"]),
    "MuseTalkFaceDetectAndCrop": (
        {
            "images": "IMAGE",
            "face_models": FACES,
            "bounding_boxes": "BOUNDING_BOX",
            "face_landmarks": "FACE_LANDMARKS",
            "face_options": "MUSETALK_FACE_OPTIONS",
        },
        ["IMAGE", "FACE_TRACK", "STRING", "STRING"],
    ),
    "MuseTalkWhisperAudioFeatures": (
        {"audio": "AUDIO", "audio_encoder": ENCODER, "silence": "MUSETALK_SILENCE"},
        ["MUSETALK_AUDIO"],
    ),
    "MuseTalkVAEEncodeMasked": ({"crops": "IMAGE", "vae": "VAE"}, ["LATENT", "LATENT"]),
    "MuseTalkUNetStep": (
        {
            "model": MODEL,
            "masked": "LATENT",
            "reference": "LATENT",
            "audio": "MUSETALK_AUDIO",
            "track": "FACE_TRACK",
        },
        ["LATENT"],
    ),
    "MuseTalkVAEDecode": ({"samples": "LATENT", "vae": "VAE"}, ["IMAGE"]),
    "MuseTalkBlendFaceParsing": (
        {
            "images": "IMAGE",
            "faces": "IMAGE",
            "track": "FACE_TRACK",
            "face_models": FACES,
            "mask": "MASK",
            "blend_options": "MUSETALK_BLEND_OPTIONS",
            "audio": "MUSETALK_AUDIO",
        },
        ["IMAGE", "MASK"],
    ),
    "MuseTalkLipSync": (
        {
            "images": "IMAGE",
            "audio": "AUDIO",
            **PARTS,
            "decode_vae": "VAE",
            "track": "FACE_TRACK",
            "mask": "MASK",
            **OPTIONS,
        },
        ["IMAGE", "FLOAT", "STRING", "STRING"],
    ),
    "MuseTalkLipSyncVideo": (
        {"video": "VIDEO", **PARTS, "audio": "AUDIO", "decode_vae": "VAE", **OPTIONS, "mask": "MASK"},
        ["VIDEO", "STRING", "STRING"],
    ),
    "MuseTalkPreviewFrame": (
        {
            **PARTS,
            "images": "IMAGE",
            "video": "VIDEO",
            "audio": "AUDIO",
            "decode_vae": "VAE",
            **OPTIONS,
            "mask": "MASK",
        },
        ["IMAGE", "IMAGE", "STRING"],
    ),
    "MuseTalkFaceOptions": ({"reference": "IMAGE", "face_models": FACES}, ["MUSETALK_FACE_OPTIONS"]),
    "MuseTalkSaveFaceTrack": ({"track": "FACE_TRACK"}, ["STRING"]),
    "MuseTalkLoadFaceTrack": ({}, ["FACE_TRACK"]),
    "MuseTalkPreviewFaceTrack": ({"images": "IMAGE", "track": "FACE_TRACK", "face_models": FACES}, ["IMAGE"]),
    "MuseTalkBlendOptions": ({}, ["MUSETALK_BLEND_OPTIONS"]),
    "MuseTalkSilence": ({}, ["MUSETALK_SILENCE"]),
    "MuseTalkRestoreFace": (
        {"images": "IMAGE", "track": "FACE_TRACK", "upscale_model": "UPSCALE_MODEL"},
        ["IMAGE"],
    ),
    "MuseTalkFaceDebugSheet": (
        {"images": "IMAGE", "track": "FACE_TRACK", "faces": "IMAGE", "mask": "MASK", "results": "IMAGE"},
        ["IMAGE"],
    ),
    "MuseTalkEvaluateSync": (
        {
            "images": "IMAGE",
            "audio": "AUDIO",
            "face_models": FACES,
            "reference": "IMAGE",
            "face_options": "MUSETALK_FACE_OPTIONS",
        },
        ["STRING", "STRING"],
    ),
    "MuseTalkEvaluateQuality": (
        {
            "images": "IMAGE",
            "face_models": FACES,
            "source": "IMAGE",
            "reference": "IMAGE",
            "face_options": "MUSETALK_FACE_OPTIONS",
            "blend_options": "MUSETALK_BLEND_OPTIONS",
        },
        ["STRING", "STRING"],
    ),
    "MuseTalkComparePreview": ({"images": "IMAGE", "other": "IMAGE"}, ["IMAGE", "STRING"]),
    "MuseTalkPrepareAvatar": (
        {
            "model": MODEL,
            "vae": "VAE",
            "face_models": FACES,
            "video": "VIDEO",
            "images": "IMAGE",
            "face_options": "MUSETALK_FACE_OPTIONS",
            "blend_options": "MUSETALK_BLEND_OPTIONS",
        },
        ["MUSETALK_AVATAR", "STRING"],
    ),
    "MuseTalkLoadAvatar": ({}, ["MUSETALK_AVATAR", "STRING"]),
    "MuseTalkAvatarLipSync": (
        {
            "avatar": "MUSETALK_AVATAR",
            "audio": "AUDIO",
            "model": MODEL,
            "vae": "VAE",
            "audio_encoder": ENCODER,
            "silence": "MUSETALK_SILENCE",
        },
        ["VIDEO", "STRING", "STRING"],
    ),
    "MuseTalkRealtimeSession": (
        {"model": MODEL, "vae": "VAE", "audio_encoder": ENCODER, "avatar": "MUSETALK_AVATAR"},
        ["STRING"],
    ),
}


def test_sockets_are_those_of_the_design(object_info):
    for node_id, (inputs, outputs) in SOCKETS.items():
        info = object_info[node_id]
        specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        widgets = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        assert {name: spec[0] for name, spec in specs.items() if spec[0] not in widgets} == inputs, node_id
        assert info["output"] == outputs, node_id
        assert info["category"] == "MuseTalk"


def test_help_and_locales_are_served(comfy):
    assert "Lip Sync" in comfy.ask("/i18n")["en"]["nodeDefs"]["MuseTalkLipSync"]["display_name"]
    assert "MuseTalkLipSync" in comfy.ask("/i18n")["zh"]["nodeDefs"]
    page = comfy.read("/extensions/musetalk-suite/docs/MuseTalkLipSync/en.md")
    assert page.startswith(b"# Lip Sync")


def test_both_ways_give_the_same_frames(comfy, object_info):
    prompt = {
        **sources(),
        **discrete(object_info),
        **all_in_one(object_info),
        **saved("source", ["match", 0]),
        **saved("steps", ["blend", 0]),
        **saved("one", ["lipsync", 0]),
    }
    outputs = comfy.run(prompt)
    source, steps, one = (pictures(comfy, outputs[name]) for name in ("source", "steps", "one"))
    assert source.shape == steps.shape == one.shape == (25, 256, 256, 3)
    assert np.abs(steps - one).max() <= 1
    changed = np.abs(one - source).max(axis=(1, 2, 3))
    assert (changed > 8).all(), changed
    assert (one[:, :80] == source[:, :80]).all()  # hair and forehead


def test_core_vae_decode_agrees_and_mask_covers_the_lower_face(comfy, object_info):
    prompt = {
        **sources(),
        **discrete(object_info),
        "core": node("VAEDecode", samples=["unet", 0], vae=["models", 1]),
        "picture": node("MaskToImage", mask=["blend", 1]),
        **saved("ours", ["decode", 0]),
        **saved("theirs", ["core", 0]),
        **saved("mask", ["picture", 0]),
    }
    outputs = comfy.run(prompt)
    ours, theirs, mask = (pictures(comfy, outputs[name]) for name in ("ours", "theirs", "mask"))
    assert ours.shape == theirs.shape == mask.shape == (25, 256, 256, 3)
    # Core decodes all frames in one batch, ours in eights: sums in another order, seen where PNG cuts to 8 bits.
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.001
    assert (mask[:, :40] == 0).all() and (mask[:, 180, 128] > 200).all()


def test_core_vae_encode_and_decode_work_with_the_demo_vae(comfy):
    prompt = {
        **sources(),
        "latent": node("VAEEncode", pixels=["parts", 0], vae=["models", 1]),
        "back": node("VAEDecode", samples=["latent", 0], vae=["models", 1]),
        "tiled": node(
            "VAEDecodeTiled",
            samples=["latent", 0],
            vae=["models", 1],
            tile_size=128,
            overlap=32,
            temporal_size=64,
            temporal_overlap=8,
        ),
        **saved("before", ["parts", 0]),
        **saved("after", ["back", 0]),
        **saved("tiles", ["tiled", 0]),
    }
    outputs = comfy.run(prompt)
    before, after, tiles = (pictures(comfy, outputs[name]) for name in ("before", "after", "tiles"))
    assert np.abs(after - before).mean() < 16
    assert np.abs(tiles - before).mean() < 16


@pytest.mark.parametrize(
    ("fps", "mode", "frames"),
    [(0.0, "ping-pong", 25), (30.0, "loop", 30), (29.97002997, "hold", 29), (25.0, "trim", 12), (50.0, "trim", 24)],
)
def test_frame_count_and_rate(comfy, object_info, fps, mode, frames):
    prompt = {**sources(audio="stereo 44k.wav"), **discrete(object_info, fps=fps, mode=mode)}
    outputs = comfy.run(
        {
            **prompt,
            **all_in_one(object_info, fps=fps, mode=mode),
            "steps": node("PreviewImage", images=["blend", 0]),
            "one": node("PreviewImage", images=["lipsync", 0]),
            "rate": node("PreviewAny", source=["lipsync", 1]),
        }
    )
    assert len(outputs["steps"]["images"]) == len(outputs["one"]["images"]) == frames
    assert float(outputs["rate"]["text"][0]) == pytest.approx(fps or 25)


def test_frames_without_a_face_pass_through(comfy, object_info):
    prompt = {
        **sources("cutaway.mp4"),
        **discrete(object_info),
        **all_in_one(object_info),
        **saved("cut", ["match", 0]),
        **saved("cut_steps", ["blend", 0]),
        **saved("cut_one", ["lipsync", 0]),
        "face_report": node("PreviewAny", source=["faces", 2]),
        "report": node("PreviewAny", source=["lipsync", 2]),
    }
    outputs = comfy.run(prompt)
    source, steps, one = (pictures(comfy, outputs[name]) for name in ("cut", "cut_steps", "cut_one"))
    # 12 source frames there and back: 0-11, 11-0, 0; 4-7 have no face.
    absent = [4, 5, 6, 7, 16, 17, 18, 19]
    present = [i for i in range(25) if i not in absent]
    for result in (steps, one):
        assert (result[absent] == source[absent]).all()
        assert (np.abs(result[present] - source[present]).max(axis=(1, 2, 3)) > 8).all()
    assert "25 frames: a face in 17, none in 8" in outputs["face_report"]["text"][0]
    assert "4-7, 16-19" in outputs["face_report"]["text"][0]
    assert re.search(r"bbox_shift range: \[-\d+~\d+\], used: 0", outputs["face_report"]["text"][0])
    assert "17 lip-synced, 8 passed through" in outputs["report"]["text"][0]


def test_cancel_leaves_the_server_usable(comfy, object_info):
    comfy.run({**sources(), "warm": node("PreviewAny", source=["models", 1])})
    prompt = {
        **sources(audio="minute.wav"),
        **all_in_one(object_info),
        "end": node("PreviewImage", images=["lipsync", 0]),
    }
    prompt_id = comfy.queue(prompt)
    time.sleep(4)
    assert any(item[1] == prompt_id for item in comfy.ask("/queue")["queue_running"])
    comfy.ask("/interrupt", {})
    entry = comfy.wait(prompt_id, 60)
    kinds = {kind: detail for kind, detail in entry["status"]["messages"]}
    assert kinds["execution_interrupted"]["node_type"] == "MuseTalkLipSync"
    short = {**sources(), **all_in_one(object_info), "end": node("PreviewImage", images=["lipsync", 0])}
    assert len(comfy.run(short)["end"]["images"]) == 25


def test_own_sound_of_a_video_works(comfy, object_info):
    prompt = {**sources("with_sound.mp4"), **all_in_one(object_info, audio=["parts", 1])}
    outputs = comfy.run({**prompt, "end": node("PreviewImage", images=["lipsync", 0])})
    assert len(outputs["end"]["images"]) in (12, 13, 14)  # 0.48 s; AAC fills and adds frames of 64 ms


def test_dwpose_runs_on_its_weights_and_is_refused_without(comfy, object_info):
    """In one graph: auto takes dwpose when its files are there, and both find the fitted landmarks' box."""
    folder = comfy.folder / "models" / "musetalk"
    image = {"picture": node("LoadImage", image="face.png")}
    models = {"models": node("LoadMuseTalkModels", version="demo", precision="fp32")}

    def detect(detector: str) -> dict[str, Any]:
        values = {**defaults(object_info, "MuseTalkFaceDetectAndCrop"), "detector": detector}
        return node("MuseTalkFaceDetectAndCrop", images=["picture", 0], face_models=["models", 3], **values)

    def end(name: str) -> dict[str, Any]:
        return node("PreviewImage", images=[name, 0])

    Image.fromarray(face_weights.portrait()).save(comfy.folder / "input" / "face.png")
    message = comfy.fail({**image, **models, "faces": detect("dwpose"), "end": end("faces")})
    assert one_sentence(message) and "S3FD face detector is missing" in message and "weights download s3fd" in message
    face_weights.write_face_weights(folder)
    models["models"]["inputs"]["precision"] = "auto"  # another value, so that the node runs again
    try:
        prompt = {**image, **models}
        for name in ("auto", "dwpose", "mediapipe"):
            prompt |= {name: detect(name), **saved(f"crop_{name}", [name, 0])}
        outputs = comfy.run(prompt)
    finally:
        shutil.rmtree(folder)
    auto, dwpose, mediapipe = (pictures(comfy, outputs[f"crop_{name}"]) for name in ("auto", "dwpose", "mediapipe"))
    assert (auto == dwpose).all() and (dwpose != mediapipe).any()


def test_musetalk_files_in_the_graph(comfy, object_info):
    """v1.5's files (random weights): both ways agree, core decodes them, an own UNet file is offered."""
    folder = comfy.folder / "models" / "musetalk"
    write_musetalk(folder)
    try:
        versions = comfy.ask("/object_info/LoadMuseTalkModels")["LoadMuseTalkModels"]["input"]["required"]["version"]
        assert versions[1]["options"] == ["v1.5", "v1.0", "demo", "mine.safetensors"]
        prompt = {
            **sources(audio="short.wav"),
            **discrete(object_info),
            **all_in_one(object_info),
            "core": node("VAEDecode", samples=["unet", 0], vae=["models", 1]),
            **saved("full_ours", ["decode", 0]),
            **saved("full_theirs", ["core", 0]),
            **saved("full_steps", ["blend", 0]),
            **saved("full_one", ["lipsync", 0]),
        }
        prompt["models"]["inputs"]["version"] = "v1.5"
        outputs = comfy.run(prompt)
        own = {
            "models": node("LoadMuseTalkModels", version="mine.safetensors", precision="fp32"),
            "end": node("PreviewAny", source=["models", 0]),
        }
        assert "mine.safetensors" in comfy.run(own)["end"]["text"][0]
    finally:
        shutil.rmtree(folder)
    # A user who deletes models while ComfyUI runs keeps a working loader.
    versions = comfy.ask("/object_info/LoadMuseTalkModels")["LoadMuseTalkModels"]["input"]["required"]["version"]
    assert versions[1]["options"] == ["v1.5", "v1.0", "demo"]
    results = [pictures(comfy, outputs[f"full_{name}"]) for name in ("ours", "theirs", "steps", "one")]
    assert [len(result) for result in results] == [2, 2, 2, 2]
    assert (results[0] == results[1]).all()
    assert np.abs(results[2] - results[3]).max() <= 1
