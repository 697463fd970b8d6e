"""Loading everything a MuseTalk version consists of."""

import logging
import os
from pathlib import Path, PurePosixPath

import comfy.model_management as mm
import comfy.sd
import folder_paths
import torch
from comfy_api.latest import io, ui

from ..musetalk_core.audio_features import WhisperEncoder
from ..musetalk_core.demo.loader import UNTRAINED, read_demo, wrap_demo
from ..musetalk_core.engine import PRECISIONS, UNET_OF_VERSION, VERSIONS, choose_dtype
from ..musetalk_core.errors import MissingWeightsError
from ..musetalk_core.face_parsing import FaceParser
from ..musetalk_core.faces.backends import Backends
from ..musetalk_core.generator import MuseTalkGenerator
from ..musetalk_core.weights.catalogue import WEIGHTS
from ..musetalk_core.weights.folders import ModelFolders
from ..musetalk_core.weights.models import comfy_vae_state_dict, load_bisenet, load_unet, load_whisper
from ..musetalk_core.weights.unet_facts import read_unet_facts
from .comfy_models import (
    ComfyAudioEncoder,
    ComfyFaceModels,
    ComfyGenerator,
    DemoVAE,
    main_patcher,
    run_in_pack,
    small_patcher,
)
from .sockets import MuseTalkAudioEncoder, MuseTalkFaceModels, MuseTalkModel

log = logging.getLogger(__name__)

FOLDER = "musetalk"


def register_model_folder() -> None:
    """Make models/musetalk known to ComfyUI beside the folders that extra_model_paths.yaml already names."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    # A name that ComfyUI does not know has no extensions, which would list every file.
    paths, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (paths, folder_paths.supported_pt_extensions)


class LoadMuseTalkModels(io.ComfyNode):
    """A version in, its four parts out."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LoadMuseTalkModels",
            display_name="Load MuseTalk Models",
            category="MuseTalk",
            description="Loads all networks of a MuseTalk version. What is missing is named with the command that "
            "gets it; the node itself never downloads.",
            inputs=[
                io.Combo.Input(
                    "version",
                    options=[*VERSIONS, *own_unet_files()],
                    default=VERSIONS[0],
                    tooltip="v1.5: MuseTalk's current weights. v1.0: the first ones. demo: a tiny model inside the "
                    "pack, to try a graph with no download; no substitute for MuseTalk. Your own UNet files in "
                    "models/musetalk are listed too.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="Number type of the UNet. auto: fp16 or bf16 where ComfyUI finds the GPU fit for it, fp32 "
                    "on the CPU. fp32 is exact, takes twice the memory and holds for the VAE too.",
                ),
            ],
            outputs=[
                MuseTalkModel.Output(display_name="model", tooltip="The generator."),
                io.Vae.Output(display_name="vae", tooltip="A ComfyUI VAE; core VAE nodes take it too."),
                MuseTalkAudioEncoder.Output(display_name="audio_encoder", tooltip="Whisper's encoder."),
                MuseTalkFaceModels.Output(
                    display_name="face_models",
                    tooltip="Face detection, landmarks, and parsing if its weights are there.",
                ),
            ],
        )

    @classmethod
    def execute(cls, version, precision) -> io.NodeOutput:
        device = mm.get_torch_device()
        dtype = _dtype(precision, device)
        folders = model_folders()
        faces = _face_models(folders)
        if version == "demo":
            return _demo(device, dtype, _vae_dtype(precision), faces)
        path = _find(folders, UNET_OF_VERSION[version]) if version in UNET_OF_VERSION else _own_unet(version)
        vae_file, whisper_file = _find(folders, "sd-vae-ft-mse"), _find(folders, "whisper-tiny")
        unet, layout = load_unet(path, dtype)
        small_device = mm.text_encoder_device()
        whisper = load_whisper(whisper_file, torch.float32)
        return io.NodeOutput(
            ComfyGenerator(
                version,
                MuseTalkGenerator(unet, layout, device, dtype, positions=read_unet_facts(path).positions),
                main_patcher(unet),
                dtype,
            ),
            comfy.sd.VAE(sd=comfy_vae_state_dict(vae_file), dtype=_vae_dtype(precision)),
            ComfyAudioEncoder(WhisperEncoder(whisper, small_device, torch.float32), small_patcher(whisper)),
            faces,
        )


def own_unet_files() -> list[str]:
    """Files of the folders "musetalk" that are no part of the known versions, relative to their folder."""
    files, folders = set(), {"syncnet"}
    for entry in WEIGHTS:
        paths = [PurePosixPath(path) for key, path in entry.candidates if key == FOLDER]
        files.update(paths)
        if entry.role != "unet":
            folders.update(path.parts[0] for path in paths)
    paths = {name: PurePosixPath(Path(name).as_posix()) for name in _model_files()}
    return [name for name, path in paths.items() if path not in files and path.parts[0] not in folders]


def _model_files() -> list[str]:
    # get_filename_list() remembers the folders and raises at every graph once one of them has been deleted.
    extensions = folder_paths.folder_names_and_paths[FOLDER][1]
    found = [folder_paths.recursive_search(path)[0] for path in folder_paths.get_folder_paths(FOLDER)]
    return folder_paths.filter_files_extensions({name for names in found for name in names}, extensions)


def _find(folders: ModelFolders, entry_id: str) -> Path:
    try:
        return folders.find(entry_id)
    except MissingWeightsError as error:
        raise run_in_pack(error) from error


def _own_unet(name: str) -> Path:
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


def model_folders() -> ModelFolders:
    """Where ComfyUI looks for this pack's weights."""
    return ModelFolders({key: [Path(p) for p in folder_paths.get_folder_paths(key)] for key in (FOLDER, "vae")})


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision != "auto":
        return choose_dtype(precision, device)
    if mm.should_use_fp16(device):
        return torch.float16
    return torch.bfloat16 if mm.should_use_bf16(device) else torch.float32


def _vae_dtype(precision: str) -> torch.dtype | None:
    return torch.float32 if precision == "fp32" else None


def _demo(
    device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype | None, faces: ComfyFaceModels
) -> io.NodeOutput:
    nets, trained = read_demo()
    if not trained:
        log.warning(UNTRAINED)
    small_device = mm.text_encoder_device()
    # diffusers' own to() warns about modules that this network does not have.
    torch.nn.Module.to(nets.unet, dtype)
    nets.audio.float()  # the file holds 16 bits
    generator = wrap_demo(nets, trained, device, dtype).generator
    encoder = wrap_demo(nets, trained, small_device, torch.float32).audio_encoder
    return io.NodeOutput(
        ComfyGenerator("demo", generator, main_patcher(nets.unet), dtype),
        DemoVAE(nets.vae, vae_dtype),
        ComfyAudioEncoder(encoder, small_patcher(nets.audio)),
        faces,
        ui=None if trained else ui.PreviewText(UNTRAINED),
    )


def _face_models(folders: ModelFolders) -> ComfyFaceModels:
    device = mm.text_encoder_device()
    backends = Backends(folders, device)
    try:
        bisenet = load_bisenet(folders.find("bisenet"))
    except MissingWeightsError as error:
        log.info("Masks are drawn from landmarks, without face parsing: %s", error)
        return ComfyFaceModels(backends, None, ())
    return ComfyFaceModels(backends, FaceParser(bisenet, device), (small_patcher(bisenet),))
