"""The pack's graphs as prompts, for tests on a real server."""

from typing import Any

import numpy as np
from comfy_client import ComfyServer
from PIL import Image


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def sources(video: str = "portrait.mp4", audio: str = "voice.wav") -> dict[str, Any]:
    """Ids load, sound, models, parts: what every graph begins with."""
    return {
        "load": node("LoadVideo", file=video),
        "sound": node("LoadAudio", audio=audio),
        "models": node("LoadMuseTalkModels", version="demo", precision="auto"),
        "parts": node("GetVideoComponents", video=["load", 0]),
    }


def defaults(object_info: dict[str, Any], kind: str) -> dict[str, Any]:
    """The default of every widget of a node."""
    specs = object_info[kind]["input"]["required"]
    return {name: spec[1]["default"] for name, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}


def discrete(object_info: dict[str, Any], **match: Any) -> dict[str, Any]:
    """The discrete chain on `sources`, ids match, faces, audio, encode, unet, decode, blend."""

    def step(kind: str, **inputs: Any) -> dict[str, Any]:
        return node(kind, **{**defaults(object_info, kind), **inputs})

    return {
        "match": step(
            "MuseTalkMatchFrames",
            **{"images": ["parts", 0], "source_fps": ["parts", 2], "audio": ["sound", 0], **match},
        ),
        "faces": step("MuseTalkFaceDetectAndCrop", images=["match", 0], face_models=["models", 3]),
        "audio": step(
            "MuseTalkWhisperAudioFeatures", audio=["sound", 0], audio_encoder=["models", 2], fps=["match", 1]
        ),
        "encode": step("MuseTalkVAEEncodeMasked", crops=["faces", 0], vae=["models", 1]),
        "unet": step(
            "MuseTalkUNetStep",
            model=["models", 0],
            masked=["encode", 0],
            reference=["encode", 1],
            audio=["audio", 0],
            track=["faces", 1],
        ),
        "decode": step("MuseTalkVAEDecode", samples=["unet", 0], vae=["models", 1]),
        "blend": step(
            "MuseTalkBlendFaceParsing",
            images=["match", 0],
            faces=["decode", 0],
            track=["faces", 1],
            face_models=["models", 3],
        ),
    }


def all_in_one(object_info: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The one node on `sources`, id lipsync."""
    inputs = {
        **defaults(object_info, "MuseTalkLipSync"),
        "images": ["parts", 0],
        "source_fps": ["parts", 2],
        "audio": ["sound", 0],
        "model": ["models", 0],
        "vae": ["models", 1],
        "audio_encoder": ["models", 2],
        "face_models": ["models", 3],
        **settings,
    }
    return {"lipsync": node("MuseTalkLipSync", **inputs)}


def saved(name: str, images: list[Any]) -> dict[str, Any]:
    return {name: node("SaveImage", images=images, filename_prefix=f"test/{name}")}


def pictures(comfy: ComfyServer, output: dict[str, Any]) -> np.ndarray:
    """The PNGs of a SaveImage output, (N,H,W,3) int."""
    return np.stack([np.asarray(Image.open(comfy.file(item)).convert("RGB")).astype(int) for item in output["images"]])


def one_sentence(text: str) -> bool:
    """Whether an error is short, whole, and no traceback."""
    return len(text) < 400 and text.endswith(".") and "\n" not in text and "Traceback" not in text
