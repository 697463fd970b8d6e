"""A face restorer's place in the graph: between decoding and blending, giving larger faces (feature 002-24)."""

import json

import numpy as np
from comfy_client import REPOSITORY
from PIL import Image


def test_larger_faces_are_blended_where_the_small_ones_go(comfy):
    prompt = json.loads((REPOSITORY / "workflows" / "api" / "musetalk_discrete.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        if node["class_type"] == "LoadMuseTalkModels":
            node["inputs"]["version"] = "demo"
    blend = next(node for node in prompt.values() if node["class_type"] == "MuseTalkBlendFaceParsing")
    size = {"upscale_method": "lanczos", "width": 512, "height": 512, "crop": "disabled"}
    restored = {"class_type": "ImageScale", "inputs": {"image": blend["inputs"]["faces"], **size}}
    prompt = {key: node for key, node in prompt.items() if node["class_type"] not in ("CreateVideo", "SaveVideo")}
    large = {**blend, "inputs": {**blend["inputs"], "faces": ["restored", 0]}}
    prompt |= {"restored": restored, "small": blend, "large": large}
    for name in ("small", "large"):
        prompt[f"{name} saved"] = {
            "class_type": "SaveImage",
            "inputs": {"images": [name, 0], "filename_prefix": f"test/restored_{name}"},
        }
    outputs = comfy.run(prompt)
    small, large = (
        np.stack([np.asarray(Image.open(comfy.file(item))).astype(int) for item in outputs[f"{name} saved"]["images"]])
        for name in ("small", "large")
    )
    difference = np.abs(large - small)
    assert small.shape == large.shape and difference.max() > 0
    assert difference.mean() < 0.5 and (difference.max(axis=(1, 2, 3)) < 40).all()
