"""Mistakes in the graph on a real ComfyUI server: each is one sentence that names what is wrong."""

import copy

import pytest
from comfy_graphs import all_in_one, discrete, node, one_sentence, sources


def test_batches_of_different_length_are_named(comfy, object_info):
    steps = discrete(object_info)
    other = {f"other_{name}": item for name, item in copy.deepcopy(steps).items() if name in ("match", "faces")}
    other["other_match"]["inputs"]["fps"] = 50.0
    other["other_faces"]["inputs"]["images"] = ["other_match", 0]
    steps["unet"]["inputs"]["track"] = ["other_faces", 1]
    end = {"end": node("PreviewImage", images=["blend", 0])}
    message = comfy.fail({**sources(), **steps, **other, **end})
    assert one_sentence(message)
    assert "25 masked latents" in message and "50 tracked frames" in message and "MuseTalkMatchFrames" in message


def test_audio_that_ends_early_is_named(comfy, object_info):
    steps = discrete(object_info)
    steps["audio"]["inputs"]["fps"] = 12.0
    message = comfy.fail({**sources(), **steps, "end": node("PreviewImage", images=["blend", 0])})
    assert one_sentence(message)
    assert " 12 " in message and " 25" in message and "MuseTalkMatchFrames" in message


@pytest.mark.parametrize("way", ["discrete", "all_in_one"])
def test_no_face_anywhere_is_an_error(comfy, object_info, way):
    chain, last = (discrete(object_info), "blend") if way == "discrete" else (all_in_one(object_info), "lipsync")
    message = comfy.fail({**sources("nobody.mp4"), **chain, "end": node("PreviewImage", images=[last, 0])})
    assert one_sentence(message) and "No face was found" in message


@pytest.mark.parametrize("way", ["discrete", "all_in_one"])
def test_video_without_sound_is_an_error(comfy, object_info, way):
    chain, last = (discrete(object_info), "blend") if way == "discrete" else (all_in_one(object_info), "lipsync")
    for item in chain.values():
        if "audio" in item["inputs"] and item["class_type"] != "MuseTalkUNetStep":
            item["inputs"]["audio"] = ["parts", 1]
    message = comfy.fail({**sources(), **chain, "end": node("PreviewImage", images=[last, 0])})
    assert one_sentence(message) and "no audio" in message


def test_missing_weights_are_named(comfy):
    prompt = {
        "models": node("LoadMuseTalkModels", version="v1.5", precision="auto"),
        "end": node("PreviewAny", source=["models", 1]),
    }
    message = comfy.fail(prompt)
    assert "unet.pth" in message and "weights download musetalk-v1.5-unet" in message


def test_half_precision_is_refused_on_a_cpu(comfy):
    prompt = {
        "models": node("LoadMuseTalkModels", version="demo", precision="fp16"),
        "end": node("PreviewAny", source=["models", 1]),
    }
    message = comfy.fail(prompt)
    assert one_sentence(message) and "fp16" in message


def test_a_vae_of_another_kind_is_refused(comfy, object_info):
    chain = all_in_one(object_info, decode_vae=["other", 0])
    end = {"other": node("VAELoader", vae_name="pixel_space"), "end": node("PreviewImage", images=["lipsync", 0])}
    message = comfy.fail({**sources(), **chain, **end})
    assert one_sentence(message) and "sd-vae-ft-mse" in message
