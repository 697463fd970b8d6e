"""Run by the host's Python beside a real ComfyUI: tells facts about the pack's classes.

python pack_probe.py COMFYUI_FOLDER PACK_FOLDER

Reads names of FACTS, one a line, and answers each with a line: JSON, empty where it failed. ComfyUI is imported once;
each fact is found in a fork, which no other one has touched.
"""

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import tempfile
import time
from pathlib import Path

comfy_folder, pack_folder = sys.argv[1:]
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
    sync = found["MuseTalkEvaluateSync"].execute(images, audio, faces, 25.0, "face", 15, "mediapipe").args
    quality = found["MuseTalkEvaluateQuality"].execute(images, faces, None, other, detector="mediapipe").args
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
    """The folder "musetalk" after registration when extra_model_paths.yaml named one before; what the import cost."""
    import folder_paths

    folder_paths.add_model_folder_path("musetalk", "/elsewhere/musetalk")
    started = time.process_time()
    nodes()
    seconds = time.process_time() - started
    paths, extensions = folder_paths.folder_names_and_paths["musetalk"]
    own = str(Path(folder_paths.models_dir, "musetalk"))
    return {"paths": paths, "extensions": sorted(extensions), "own": own, "seconds": seconds}


def restore_face():
    """Face restorers of random weights, written as files in their true format, through core's loader and our node."""
    import numpy as np
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    classes = {item.__name__: item for item in nodes()}
    from pack_x_under_test.musetalk_core.errors import MuseTalkError
    from pack_x_under_test.musetalk_core.faces.track import FaceTrack
    from pack_x_under_test.musetalk_core.restoration import TEMPLATE

    torch.set_num_threads(1)
    points = np.full((2, 68, 2), 64, np.float32)
    five = TEMPLATE * 0.25 + 60  # a face 128 pixels wide at 60,60 of the frame
    points[:, 36:42], points[:, 42:48] = five[0], five[1]
    points[:, 30], points[:, 48], points[:, 54] = five[2], five[3], five[4]
    boxes = np.float32([[75, 75, 175, 185]] * 2)
    track = FaceTrack(boxes, points, np.array([True, True]), (256, 256))
    images = torch.rand(2, 256, 256, 3, generator=torch.Generator().manual_seed(1))
    node, facts = classes["MuseTalkRestoreFace"], {}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        models = {name: UpscaleModelLoader.execute(file).args[0] for name, file in restorer_files(Path(folder)).items()}
        model, before = models["RestoreFormer"], images.clone()
        made = node.execute(images, track, model, "frames", 1.0, 0.0).args[0]
        faces = node.execute(torch.rand(2, 256, 256, 3), track, model, "faces", 0.5, 0.5).args[0]
        facts["RestoreFormer"] = {
            "purpose": model.purpose,
            "shape": list(made.shape),
            "changed": float((made - images)[:, 90:160, 90:160].abs().mean()),
            "outside": float((made - images)[:, :56].abs().max()),
            "input_kept": bool((images == before).all()),
            "range": [float(made.min()), float(made.max())],
            "faces": list(faces.shape),
            "device": str(next(model.model.parameters()).device),
        }
        model, face = models["GFPGAN"], torch.rand(1, 512, 512, 3)
        planar = face.movedim(-1, 1).contiguous().sub(0.5).div(0.5)  # as GFPGAN's own inference normalises
        by_hand = model.model(planar, randomize_noise=False)[0].add(1).div(2).clamp(0, 1).movedim(1, -1)
        from pack_x_under_test.nodes.restore import _on_device

        facts["GFPGAN"] = {
            "purpose": model.purpose,
            "spread": float(by_hand.std()),
            "difference": float(np.abs(_on_device(model)(face.numpy()) - by_hand.numpy()).max()),
        }
        other = FaceTrack(boxes, points, np.array([True, True]), (200, 300))
        try:
            node.execute(images, other, model, "frames", 1.0, 0.0)
        except MuseTalkError as error:
            facts["wrong_size"] = str(error)
    return facts


def restorer_files(folder):
    """Names of RestoreFormer and GFPGAN files among ComfyUI's upscale models."""
    import folder_paths
    from spandrel.architectures.GFPGAN import GFPGAN
    from spandrel.architectures.RestoreFormer import RestoreFormer

    folder_paths.add_model_folder_path("upscale_models", str(folder))
    torch.manual_seed(0)
    small = RestoreFormer(n_embed=64, embed_dim=64, z_channels=64, ch=32, enable_mid=True, head_size=8)
    large = GFPGAN(out_size=512, num_mlp=8, input_is_latent=True, different_w=True, sft_half=True)
    for name, parameter in large.named_parameters():
        if name.endswith("modulated_conv.weight"):
            parameter.data.normal_(0, 0.05)
        if name.startswith("stylegan_decoder") and name.endswith(".weight") and parameter.numel() == 1:
            parameter.data.fill_(0.1)  # how much noise a layer adds; training moves it away from 0
    for name, net in (("restoreformer", small), ("gfpgan", large)):
        torch.save(net.state_dict(), folder / f"{name}.pth")
    return {"RestoreFormer": "restoreformer.pth", "GFPGAN": "gfpgan.pth"}


def options():
    """Silence, Blend Options and a user's mask through Lip Sync and through the discrete nodes, on the demo model."""
    import clips

    classes = {item.__name__: item for item in nodes()}
    torch.set_num_threads(1)
    face = torch.from_numpy(clips.moving_portrait(5)).float() / 255
    sound = torch.from_numpy(clips.tone(0.6)) * (torch.arange(9600) >= 6400)  # from 0.4 s on, frame 10 of 15
    audio = {"waveform": sound[None, None], "sample_rate": 16000}
    with torch.inference_mode():
        model, vae, encoder, faces = classes["LoadMuseTalkModels"].execute("demo", "fp32").args
        silence = classes["MuseTalkSilence"].execute("original", 2, 24.0).args[0]
        blend = classes["MuseTalkBlendOptions"].execute("landmarks", 6, 1.0, True).args[0]
        mask = torch.ones(5, 256, 256)
        mask[:, :, :128] = 0
        common = {"blend_options": blend, "silence": silence}
        whole, _, report, _ = (
            classes["MuseTalkLipSync"]
            .execute(face, 25.0, audio, 25.0, model, vae, encoder, faces, mask=mask, batch_size=4, **common)
            .args
        )
        frames = classes["MuseTalkMatchFrames"].execute(face, 25.0, audio, 25.0, "ping-pong").args[0]
        crops, track, *_ = classes["MuseTalkFaceDetectAndCrop"].execute(frames, faces).args
        heard = classes["MuseTalkWhisperAudioFeatures"].execute(audio, encoder, 25.0, silence=silence).args[0]
        masked, reference = classes["MuseTalkVAEEncodeMasked"].execute(crops, vae, 4).args
        latents = classes["MuseTalkUNetStep"].execute(model, masked, reference, heard, track, 4).args[0]
        made = classes["MuseTalkVAEDecode"].execute(latents, vae, 4).args[0]
        matched = (
            classes["MuseTalkMatchFrames"].execute(mask[..., None], 25.0, audio, 25.0, "ping-pong").args[0][..., 0]
        )
        steps = (
            classes["MuseTalkBlendFaceParsing"]
            .execute(frames, made, track, faces, mask=matched, blend_options=blend, audio=heard)
            .args[0]
        )
        sheet = classes["MuseTalkFaceDebugSheet"].execute(frames, track, "0, 14", made, None, steps).args[0]
    return {
        "same_as_source": (whole == frames).flatten(1).all(1).tolist(),
        "left_kept": bool((whole[:, :, :128] == frames[:, :, :128]).all()),
        "steps_difference": float((whole - steps).abs().max()),
        "steps_silent": (steps == frames).flatten(1).all(1).tolist(),
        "report": report,
        "sheet": list(sheet.shape),
    }


def upright():
    """Heads that lean differently, with upright crops, through Lip Sync and through the discrete nodes."""
    import clips
    import cv2

    classes = {item.__name__: item for item in nodes()}
    torch.set_num_threads(1)
    pictures = []
    for degrees in (-25, 0, 35):
        matrix = cv2.getRotationMatrix2D((122, 104), -degrees, 1)
        pictures.append(cv2.warpAffine(clips.portrait(256), matrix, (256, 256), borderMode=cv2.BORDER_REPLICATE))
    face = torch.stack([torch.from_numpy(picture) for picture in pictures]).float() / 255
    audio = {"waveform": torch.from_numpy(clips.tone(0.12))[None, None], "sample_rate": 16000}
    with torch.inference_mode():
        model, vae, encoder, faces = classes["LoadMuseTalkModels"].execute("demo", "fp32").args
        options = classes["MuseTalkFaceOptions"].execute(-1, 1, 0.0, False, True).args[0]
        blend = classes["MuseTalkBlendOptions"].execute("landmarks", 6, 1.0, True).args[0]
        mask = torch.ones(3, 256, 256)
        mask[:, :, :110] = 0
        common = {"mask": mask, "blend_options": blend}
        loaded = (model, vae, encoder, faces)
        whole = (
            classes["MuseTalkLipSync"]
            .execute(face, 25.0, audio, 25.0, *loaded, batch_size=4, face_options=options, **common)
            .args[0]
        )
        crops, track, report, _ = classes["MuseTalkFaceDetectAndCrop"].execute(face, faces, face_options=options).args
        heard = classes["MuseTalkWhisperAudioFeatures"].execute(audio, encoder, 25.0).args[0]
        masked, reference = classes["MuseTalkVAEEncodeMasked"].execute(crops, vae, 4).args
        latents = classes["MuseTalkUNetStep"].execute(model, masked, reference, heard, track, 4).args[0]
        made = classes["MuseTalkVAEDecode"].execute(latents, vae, 4).args[0]
        steps, weights = classes["MuseTalkBlendFaceParsing"].execute(face, made, track, faces, **common).args
        sheet = classes["MuseTalkFaceDebugSheet"].execute(face, track, "", made, weights, steps).args[0]
        drawn = classes["MuseTalkPreviewFaceTrack"].execute(face, track).args[0]
    return {
        "degrees": torch.rad2deg(torch.from_numpy(track.angles)).tolist(),
        "crops_difference": [float((crops[k] - crops[1]).abs().mean()) for k in (0, 2)],
        "steps_difference": float((whole - steps).abs().max()),
        "changed": [bool((whole[k] != face[k]).any()) for k in range(3)],
        "left_kept": torch.equal(whole[:, :, :108], face[:, :, :108]),
        "report": report,
        "sheet": list(sheet.shape),
        "drawn": list(drawn.shape),
    }


def face_tracks():
    """Face tracks saved twice and loaded; which names are taken; what Face Options gives."""
    import folder_paths
    import numpy as np

    known = {node.GET_SCHEMA().node_id: node for node in nodes()}
    from pack_x_under_test.musetalk_core.faces.track import FaceTrack

    save, load = known["MuseTalkSaveFaceTrack"], known["MuseTalkLoadFaceTrack"]
    track = FaceTrack(np.ones((2, 4), np.float32), None, np.array([True, False]), (8, 10), "left")
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("input", "output"):
            Path(folder, kind).mkdir()
        folder_paths.set_input_directory(str(Path(folder, "input")))
        folder_paths.set_output_directory(str(Path(folder, "output")))
        Path(folder, "secret.json").write_text("{}")
        Path(folder, "input", "mine.json").write_text("{}")
        files = [save.execute(track, "face_tracks/talk").args[0] for _ in range(2)]
        loaded = load.execute(files[1]).args[0]
        names = [
            *files,
            "mine.json",
            "../secret.json",
            "../secret.json [output]",
            "none.json",
            str(Path(folder, "secret.json")),
        ]
        options = known["MuseTalkFaceOptions"].execute(1, 10, 2.0, True, True).args[0]
        return {
            "files": files,
            "same": loaded.boxes.tolist() == track.boxes.tolist() and loaded.identity == "left",
            "listed": load.define_schema().inputs[0].options,
            "taken": [load.validate_inputs(name) is True for name in names],
            "options": options,
        }


FACTS = {
    item.__name__: item
    for item in (
        schemas,
        demo_vae,
        sd_vae,
        match_frames,
        folders,
        restore_face,
        options,
        upright,
        face_tracks,
        evaluate,
    )
}


def answer(what, answers):
    """Find one fact in a fork and write its line."""
    child = os.fork()
    if child == 0:
        answers.write(json.dumps(FACTS[what]()) + "\n")
        answers.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        answers.write("\n")
        answers.flush()


with os.fdopen(os.dup(1), "w") as lines:
    os.dup2(2, 1)  # what libraries print is no answer
    for name in sys.stdin:
        answer(name.strip(), lines)
