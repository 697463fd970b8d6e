"""Weight files to networks, ready to infer, without holding the weights twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import MissingWeightsError, MuseTalkError
from .layouts import (
    UNetLayout,
    refuse,
    syncnet_form,
    unet_config,
    unet_layout,
    vae_config,
    vae_to_diffusers,
    whisper_config,
    whisper_to_encoder,
)
from .state_dict import StateDict, read_state_dict

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from ..nets.bisenet import BiSeNet
    from ..nets.dwpose import DWPose
    from ..nets.latentsync_syncnet import LatentSyncNet
    from ..nets.s3fd import S3FD
    from ..nets.syncnet import SyncNet
    from ..nets.vgg import Vgg19

_VAE_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_WHISPER_FILES = ("model.safetensors", "pytorch_model.bin", "tiny.pt")


def load_unet(path: Path | str, dtype: torch.dtype | None = torch.float32) -> tuple[UNet2DConditionModel, UNetLayout]:
    """A MuseTalk UNet (.pth, .bin, .safetensors, any float dtype) on the CPU in `dtype`, and its input layout.

    dtype None keeps the file's. The architecture is read off the tensors. Raises MissingWeightsError, or
    MuseTalkError naming what the file is.
    """
    path = Path(path)
    state = read_state_dict(path)
    layout = unet_layout(path, state)
    from diffusers import UNet2DConditionModel

    config = _inferred(unet_config, state, path)
    return _assemble(lambda: UNet2DConditionModel(**config), state, dtype, path), layout


def load_vae(path: Path | str, dtype: torch.dtype | None = torch.float32) -> AutoencoderKL:
    """The SD VAE of a file or of a diffusers folder, on the CPU in `dtype`; all published key layouts.

    Raises MissingWeightsError, or MuseTalkError naming what the file is.
    """
    path = _in_folder(Path(path), _VAE_FILES)
    state = vae_to_diffusers(path, read_state_dict(path))
    from diffusers import AutoencoderKL

    config = _inferred(vae_config, state, path)
    return _assemble(lambda: AutoencoderKL(**config), state, dtype, path)


def comfy_vae_state_dict(path: Path | str) -> StateDict:
    """Tensors of an SD VAE file or folder, any published layout, as `comfy.sd.VAE(sd=...)` takes them.

    They carry diffusers' names, which ComfyUI converts itself. Errors as in load_vae.
    """
    path = _in_folder(Path(path), _VAE_FILES)
    return vae_to_diffusers(path, read_state_dict(path))


def load_whisper(path: Path | str, dtype: torch.dtype | None = torch.float32) -> WhisperEncoder:
    """Whisper's encoder from a transformers folder or file or from OpenAI's .pt, on the CPU in `dtype`.

    Attention heads: a folder's config.json, else 64 channels each. Raises MissingWeightsError, or MuseTalkError
    naming what the file is.
    """
    folder = Path(path)
    path = _in_folder(folder, _WHISPER_FILES)
    state = whisper_to_encoder(path, read_state_dict(path))
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = _inferred(whisper_config, state, path) | _stated_heads(folder / "config.json")
    return _assemble(lambda: WhisperEncoder(WhisperConfig(**config)), state, dtype, path)


def load_bisenet(path: Path | str) -> BiSeNet:
    """The face parser, float32 on the CPU; batch-norm counters may be absent. Errors as in load_unet."""
    path = Path(path)
    state = read_state_dict(path)
    if "cp.resnet.conv1.weight" not in state or "conv_out.conv_out.weight" not in state:
        raise refuse(path, state, "a BiSeNet face parser")
    from ..nets.bisenet import BiSeNet

    classes = state["conv_out.conv_out.weight"].shape[0]
    return _assemble(lambda: BiSeNet(classes), _with_counters(state), torch.float32, path)


def load_dwpose(path: Path | str) -> DWPose:
    """DWPose's network, float32 on the CPU. Errors as in load_unet."""
    state = dwpose_state_dict(path)
    from ..nets.dwpose import DWPose

    return _assemble(DWPose, state, torch.float32, Path(path))


def dwpose_state_dict(path: Path | str) -> StateDict:
    """The tensors of dw-ll_ucoco_384.pth under mmpose's names; batch-norm counters may be absent in the file.

    Raises MissingWeightsError, or MuseTalkError naming what the file is.
    """
    path = Path(path)
    state = read_state_dict(path)
    if "backbone.stem.0.conv.weight" not in state or "head.cls_x.weight" not in state:
        raise refuse(path, state, "a DWPose network")
    return _with_counters(state)


def load_s3fd(path: Path | str) -> S3FD:
    """The S3FD face detector, float32 on the CPU. Errors as in load_unet."""
    path = Path(path)
    state = read_state_dict(path)
    if "conv3_3_norm_mbox_conf.weight" not in state:
        raise refuse(path, state, "an S3FD face detector")
    from ..nets.s3fd import S3FD

    return _assemble(S3FD, state, torch.float32, path)


def load_syncnet(path: Path | str) -> SyncNet:
    """SyncNet v2, float32 on the CPU. Errors as in load_unet."""
    path = Path(path)
    state = read_state_dict(path)
    if "netcnnlip.0.weight" not in state or "netcnnaud.0.weight" not in state:
        raise refuse(path, state, "a SyncNet v2")
    from ..nets.syncnet import SyncNet

    return _assemble(SyncNet, state, torch.float32, path)


def load_latentsync_syncnet(path: Path | str) -> LatentSyncNet:
    """LatentSync's SyncNet, its attention as the file has it, float32 on the CPU. Errors as in load_unet."""
    path = Path(path)
    state = read_state_dict(path)
    if not all(f"{half}_encoder.down_blocks.0.conv1.weight" in state for half in ("audio", "visual")):
        raise refuse(path, state, "a LatentSync SyncNet")
    from ..nets.latentsync_syncnet import Encoder, LatentSyncNet

    audio, visual = (Encoder(*syncnet_form(state, f"{half}_encoder.")) for half in ("audio", "visual"))
    return _assemble(lambda: LatentSyncNet(audio, visual), state, torch.float32, path)


def load_vgg19(path: Path | str) -> Vgg19:
    """VGG-19 up to relu5_1 from torchvision's checkpoint, float32 on the CPU; the rest of the file is left out.

    Errors as in load_unet.
    """
    path = Path(path)
    state = read_state_dict(path)
    if "features.16.weight" not in state or "features.34.weight" not in state:
        raise refuse(path, state, "torchvision's VGG-19")
    from ..nets.vgg import FIRST, Vgg19

    needed = {name: tensor for name, tensor in state.items() if _layer(name) in range(FIRST[-1] + 1)}
    widths = _inferred(lambda found: {"widths": [len(found[f"features.{n}.weight"]) for n in FIRST]}, needed, path)
    return _assemble(lambda: Vgg19(**widths), needed, torch.float32, path)


def _layer(name: str) -> int:
    """N of features.N.weight, -1 of another tensor."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "features" and parts[1].isdigit() else -1


def check_role(role: str, path: Path) -> None:
    """Raise MuseTalkError unless the file holds a network of a catalogue role (unet, vae, whisper, syncnet ...)."""
    if role == "unet":
        load_unet(path, None)
    elif role == "vae":
        load_vae(path, None)
    elif role == "whisper":
        load_whisper(path, None)
    elif role == "bisenet":
        load_bisenet(path)
    elif role == "dwpose":
        load_dwpose(path)
    elif role == "s3fd":
        load_s3fd(path)
    elif role == "syncnet":
        load_syncnet(path)


def _with_counters(state: StateDict) -> StateDict:
    """The tensors with the counters of batch norms, which only training uses and some files leave out."""
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    return {f"{norm}num_batches_tracked": torch.zeros((), dtype=torch.long) for norm in norms} | state


def _in_folder(path: Path, names: tuple[str, ...]) -> Path:
    if not path.is_dir():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    raise MissingWeightsError(f"The folder {path} holds none of {', '.join(names)}; put one there or give a file.")


def _stated_heads(config: Path) -> dict[str, int]:
    if not config.is_file():
        return {}
    try:
        heads = json.loads(config.read_text(encoding="utf-8"))["encoder_attention_heads"]
    except (ValueError, KeyError, TypeError) as error:
        raise MuseTalkError(f"{config} is not a Whisper configuration; delete it or download it again.") from error
    return {"encoder_attention_heads": int(heads)}


def _inferred(
    infer: Callable[[Mapping[str, Tensor]], dict[str, Any]], state: Mapping[str, Tensor], path: Path
) -> dict[str, Any]:
    try:
        return infer(state)
    except KeyError as missing:
        raise MuseTalkError(f"{path} is not complete: the tensor {missing} is absent; download it again.") from missing


def _assemble(build: Callable[[], Any], state: StateDict, dtype: torch.dtype | None, path: Path) -> Any:
    """Build on the meta device and adopt the file's own tensors."""
    try:
        with torch.device("meta"):
            module = build()
    except (ValueError, RuntimeError, IndexError) as error:
        raise MuseTalkError(f"{path} has an architecture that cannot be built ({error}).") from error
    _compare(module.state_dict(), state, path)
    if dtype:
        state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    module.load_state_dict(state, assign=True)
    return module.train(False).requires_grad_(False)


def _compare(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    missing = [name for name in wanted if name not in state]
    surplus = [name for name in state if name not in wanted]
    reshaped = [name for name in wanted if name in state and wanted[name].shape != state[name].shape]
    for problem, names in (("absent", missing), ("unknown", surplus), ("of another shape", reshaped)):
        if names:
            raise MuseTalkError(
                f"{path} does not fit its network: {len(names)} of {len(wanted)} tensors are {problem}, first "
                f"{names[0]!r}; download it again or choose another file."
            )
