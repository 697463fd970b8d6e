"""Run by the host's Python beside a real ComfyUI: prints facts about the pack's classes as one JSON line.

python pack_probe.py COMFYUI_FOLDER PACK_FOLDER WHAT
"""

import asyncio
import importlib.util
import inspect
import json
import sys
import tempfile
from pathlib import Path

comfy_folder, pack_folder, what = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path[0] = comfy_folder
sys.path.append(str(Path(__file__).parent))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402
import torch  # noqa: E402


def load_pack():
    """The pack as ComfyUI loads it: a package under a name that no import statement could say."""
    spec = importlib.util.spec_from_file_location(
        "pack_x_under_test", Path(pack_folder, "__init__.py"), submodule_search_locations=[pack_folder]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def nodes():
    extension = asyncio.run(load_pack().comfy_entrypoint())
    return asyncio.run(extension.get_node_list())


def schemas():
    """Input ids and execute's parameters of every node, in order."""
    facts = {}
    for node in nodes():
        schema = node.GET_SCHEMA()
        facts[schema.node_id] = {
            "inputs": [item.id for item in schema.inputs],
            "parameters": [
                p.name for p in inspect.signature(node.execute).parameters.values() if p.kind != p.VAR_KEYWORD
            ],
            "untold": [item.id for item in [*schema.inputs, *schema.outputs] if not item.tooltip],
        }
    return facts


def demo_vae():
    """What core's encode and decode, plain and tiled, need of a VAE, and what they give on the demo's."""
    nodes()
    from pack_x_under_test.musetalk_core.demo.loader import initial_nets, wrap_demo
    from pack_x_under_test.nodes.comfy_models import ComfyCodec, DemoVAE

    torch.set_num_threads(1)
    torch.manual_seed(0)
    nets = initial_nets()
    vae = DemoVAE(nets.vae, None)
    codec = ComfyCodec(vae)
    plain = wrap_demo(nets, True, "cpu", torch.float32).codec
    pixels = torch.rand(2, 256, 256, 3)
    with torch.inference_mode():
        latents = vae.encode(pixels)
        planar = pixels.movedim(-1, 1)
        decoded = vae.decode(latents)
        return {
            "attributes": sorted(vars(vae)),
            "latents": list(latents.shape),
            "decoded": list(decoded.shape),
            "range": [float(decoded.min()), float(decoded.max())],
            "encode_difference": float((latents - plain.encode(planar)).abs().max()),
            "decode_difference": float((decoded.movedim(-1, 1) - plain.decode(latents)).abs().max()),
            "codec_encode_difference": float((codec.encode(planar) - latents).abs().max()),
            "codec_decode_difference": float((codec.decode(latents).movedim(1, -1) - decoded).abs().max()),
            "tiled": list(vae.decode_tiled(vae.encode_tiled(pixels, tile_x=128, tile_y=128, overlap=32)).shape),
            "model": type(vae.patcher.model).__name__,
        }


def sd_vae():
    """ComfyUI's VAE as a Codec against diffusers' on the same random weights in the true format."""
    nodes()
    from pack_x_under_test.musetalk_core.latents import DiffusersCodec
    from pack_x_under_test.musetalk_core.weights.models import comfy_vae_state_dict, load_vae
    from pack_x_under_test.nodes.comfy_models import ComfyCodec
    from random_weights import sd_vae
    from safetensors.torch import save_file

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vae.safetensors")
        save_file({name: tensor.contiguous() for name, tensor in sd_vae().items()}, path)
        codec = ComfyCodec(comfy.sd.VAE(sd=comfy_vae_state_dict(path), dtype=torch.float32))
        reference = DiffusersCodec(load_vae(path), "cpu", torch.float32)
        pixels, latents = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8)
        with torch.inference_mode():
            return {
                "encode": float((codec.encode(pixels) - reference.encode(pixels)).abs().max()),
                "decode": float((codec.decode(latents) - reference.decode(latents)).abs().max()),
                "spread": float(reference.encode(pixels).std()),
            }


def evaluate():
    """The evaluation nodes on gray frames of which the later ones differ in one pixel."""
    found = {item.__name__: item for item in nodes()}
    from pack_x_under_test.nodes.loaders import _face_models, model_folders

    faces = _face_models(model_folders())
    images = torch.full((40, 64, 64, 3), 0.5)
    other = images.clone()
    other[30:, 5, 7] = 0.75
    audio = {"waveform": torch.rand(1, 1, 25600) - 0.5, "sample_rate": 16000}
    sheet, report = found["MuseTalkComparePreview"].execute(images, other, 2.0).args
    sync = found["MuseTalkEvaluateSync"].execute(images, audio, faces, 25.0, "face", 15).args
    quality = found["MuseTalkEvaluateQuality"].execute(images, faces, None, other).args
    return {
        "sheet": list(sheet.shape),
        "difference": float(sheet[35, 5, 135, 0]),
        "report": report,
        "sync": json.loads(sync[1]),
        "quality": json.loads(quality[1]),
        "told": quality[0],
    }


def match_frames():
    """What Match Frames makes of MuseV's five dimensions, alpha, half precision and batches of audio."""
    node = next(item for item in nodes() if item.__name__ == "MuseTalkMatchFrames")
    images = torch.rand(1, 3, 8, 10, 4).half()
    before = images.clone()
    audio = {"waveform": (torch.rand(2, 6, 4410) * 30000).to(torch.int16), "sample_rate": 44100}
    frames, fps = node.execute(images, 24000 / 1001, audio, 60.0, "ping-pong").args
    # Output frame i at i/60 s shows source frame floor(i/60 * 24000/1001): 0 0 0 1 1 1 for i = 0..5.
    expected = images[0, [0, 0, 0, 1, 1, 1], :, :, :3]
    return {
        "shape": list(frames.shape),
        "dtype": str(frames.dtype),
        "fps": fps,
        "right": bool((frames == expected).all()),
        "input_kept": bool((images == before).all()),
    }


def folders():
    """The folder "musetalk" after registration when extra_model_paths.yaml named one before."""
    import folder_paths

    folder_paths.add_model_folder_path("musetalk", "/elsewhere/musetalk")
    nodes()
    paths, extensions = folder_paths.folder_names_and_paths["musetalk"]
    return {"paths": paths, "extensions": sorted(extensions), "own": str(Path(folder_paths.models_dir, "musetalk"))}


FACTS = {item.__name__: item for item in (schemas, demo_vae, sd_vae, match_frames, folders, evaluate)}
sys.stdout.write(json.dumps(FACTS[what]()) + "\n")
