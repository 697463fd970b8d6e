"""From weight files to a running engine without ComfyUI: which files a version needs, device and precision."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .audio_features import AudioEncoder, WhisperEncoder
from .blending import Masker
from .compiled import compile_nets
from .errors import MissingWeightsError, MuseTalkError
from .face_parsing import FaceParser
from .faces.backends import Backends
from .faces.locator import FaceLocator
from .generator import Generator, MuseTalkGenerator
from .latents import Codec, DiffusersCodec
from .pipeline import Models
from .settings import LipSyncSettings
from .weights.folders import ModelFolders
from .weights.models import load_bisenet, load_unet, load_vae, load_whisper
from .weights.unet_facts import read_unet_facts

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "fp16", "bf16")
VERSIONS = ("v1.5", "v1.0", "demo")
UNET_OF_VERSION = {"v1.5": "musetalk-v1.5-unet", "v1.0": "musetalk-v1.0-unet"}


@dataclass(frozen=True)
class WeightChoice:
    """Which weights a run uses: a version, and paths that replace single files of it.

    unet_config: upstream's musetalk.json, only compared with what the UNet file holds.
    """

    version: str = "v1.5"
    unet: Path | None = None
    unet_config: Path | None = None
    vae: Path | None = None
    whisper: Path | None = None
    bisenet: Path | None = None


@dataclass(frozen=True)
class Engine:
    """Loaded networks that do not depend on a run's settings.

    backends: the face detectors, loaded when a run's settings first ask for them. parser is None when BiSeNet's
    weights are absent: masks are then drawn from landmarks. compiled: see load_engine. files: where UNet, VAE and
    Whisper came from, none for the demo model inside the package. precision: device and dtype, in words.
    """

    codec: Codec
    generator: Generator
    audio_encoder: AudioEncoder
    backends: Backends
    parser: FaceParser | None
    version: str
    compiled: bool = False
    files: tuple[Path, ...] = ()
    precision: str = ""

    def models(self, settings: LipSyncSettings) -> Models:
        """The networks joined with a run's settings; raises MuseTalkError when their detector cannot be had."""
        backend = self.backends.get(settings.detector)
        backend.nets.to(self.backends.device)
        choices = settings.bbox_shift, settings.extra_margin, settings.face, settings.faces
        locator = FaceLocator(backend.detector, *choices)
        masker = Masker(self.parser, settings.mask)
        return Models(self.codec, self.codec, self.generator, locator, masker, self.compiled)


def choose_device(name: str) -> torch.device:
    """The device named "auto" (GPU when there is one), "cpu", "cuda", "cuda:1", "mps" ...

    Raises MuseTalkError when torch does not know or have it.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MuseTalkError(f"The device {name!r} cannot be used here; use --device cpu or auto.") from error
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of a precision on a device: auto is fp16 on a GPU, bf16 on a CPU that calculates in it, else fp32.

    Raises MuseTalkError for fp16 on a CPU, which measured 63 times slower than fp32 there.
    """
    if precision == "auto":
        fast_bf16 = device.type == "cpu" and has_fast_bf16()
        precision = "fp16" if device.type == "cuda" else "bf16" if fast_bf16 else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise MuseTalkError("Precision fp16 on a CPU is about 60 times slower than fp32; use fp32 or bf16.")
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in dtypes:
        raise MuseTalkError(f"The precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
    return dtypes[precision]


def has_fast_bf16() -> bool:
    """Whether this CPU has instructions for bf16 (avx512_bf16 or amx), as far as this torch can tell."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, test, lambda: False)() for test in tests)


def load_engine(
    choice: WeightChoice, folders: ModelFolders, device: torch.device, dtype: torch.dtype, compiled: bool = False
) -> Engine:
    """Load the networks of a choice onto `device`; UNet and VAE in `dtype`, the small nets in float32.

    compiled: UNet and VAE decoder are compiled when they first run, see compile_nets.
    Raises MissingWeightsError with the command that gets the file, MuseTalkError for a wrong file.
    """
    backends = Backends(folders, device)
    parser = load_parser(choice, folders, device)
    if choice.version == "demo":
        from .demo.loader import load_demo

        demo = load_demo(device, torch.float32)
        if compiled:
            compile_nets([demo.nets.modules()["unet"], demo.nets.vae.decoder], device)
        parts = demo.codec, demo.generator, demo.audio_encoder
        return Engine(*parts, backends, parser, "demo", compiled, precision=f"{device} {torch.float32}")
    if choice.version not in UNET_OF_VERSION:
        raise MuseTalkError(f"The version {choice.version!r} is unknown; choose one of {', '.join(VERSIONS)}.")
    # diffusers' and transformers' classes carry no usable types for .to() and .config.
    unet: Any
    files = (
        choice.unet or folders.find(UNET_OF_VERSION[choice.version]),
        choice.vae or folders.find("sd-vae-ft-mse"),
        choice.whisper or folders.find("whisper-tiny"),
    )
    unet, layout = load_unet(files[0], dtype)
    if choice.unet_config:
        _check_config(choice.unet_config, unet.config)
    vae: Any = load_vae(files[1], dtype)
    whisper: Any = load_whisper(files[2], torch.float32)
    if compiled:
        compile_nets([unet, vae.decoder], device)
    return Engine(
        DiffusersCodec(vae, device, dtype),
        MuseTalkGenerator(unet.to(device), layout, device, dtype, positions=read_unet_facts(files[0]).positions),
        WhisperEncoder(whisper.to(device), device, torch.float32),
        backends,
        parser,
        choice.version,
        compiled,
        files,
        f"{device} {dtype}",
    )


def load_parser(choice: WeightChoice, folders: ModelFolders, device: torch.device) -> FaceParser | None:
    """Face parsing on `device`, or None without its weights, which is logged."""
    try:
        path = choice.bisenet or folders.find("bisenet")
    except MissingWeightsError as error:
        log.warning("Masks are drawn from landmarks, without face parsing: %s", error)
        return None
    return FaceParser(load_bisenet(path).to(device), device)


CHECKED_KEYS = ("in_channels", "out_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")


def _check_config(path: Path, found: Mapping[str, Any]) -> None:
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MuseTalkError(f"The UNet config {path} cannot be read: {error}.") from error
    for key in CHECKED_KEYS:
        value = found[key]
        if key in stated and stated[key] != (list(value) if isinstance(value, tuple) else value):
            raise MuseTalkError(
                f"The UNet config {path} says {key} {stated[key]}, the file holds {value}; leave --unet-config out."
            )
