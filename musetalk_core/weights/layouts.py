"""What a state dict is, told from its tensors, and the key conversions between the published layouts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import MuseTalkError
from .state_dict import StateDict


@dataclass(frozen=True)
class UNetLayout:
    """What a UNet's input channels are: see LAYOUTS for `kind`."""

    kind: str
    in_channels: int


MUSETALK_LAYOUT = UNetLayout("musetalk", 8)
LAYOUTS = {
    8: MUSETALK_LAYOUT,  # masked, reference
    9: UNetLayout("mask", 9),  # mask, masked, reference
    12: UNetLayout("landmark", 12),  # masked, landmarks, reference
    13: UNetLayout("latentsync", 13),  # noisy, mask, masked, reference
}

_CLIP_TEXT_WIDTH = 768  # SD 1.x text tokens: 8 and 9 input channels are then InstructPix2Pix and inpainting


def identify(state: Mapping[str, Tensor]) -> str:
    """A noun phrase for what the tensors are, from key names and shapes: "a Whisper encoder", "an SD VAE" ..."""
    if noun := _marked(state):
        return noun
    if _is_unet(state):
        return _name_unet(state)
    example = ", ".join(list(state)[:3])
    return f"an unknown network ({len(state)} tensors: {example} ...)"


_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a LoRA", (r"lora_(up|down|A|B)\b|^lora_|\.lora\.",)),
    ("a ControlNet", (r"^(control_model\.|controlnet_cond_embedding\.)",)),
    ("a LatentSync 3D UNet", (r"motion_modules\.", r"^conv_in\.weight")),
    ("an AnimateDiff motion module", (r"motion_modules\.",)),
    ("a full Stable Diffusion checkpoint in original layout", (r"^model\.diffusion_model\.", r"^first_stage_model\.")),
    ("a Stable Diffusion UNet in original layout", (r"^(model\.diffusion_model\.)?input_blocks\.0\.0\.weight",)),
    ("an SD VAE", (r"^(first_stage_model\.)?encoder\.down(_blocks)?\.0\.", r"decoder\.mid(_block)?\.")),
    ("a Whisper encoder in OpenAI layout", (r"^(encoder\.)?blocks\.0\.attn\.query\.weight", r"conv1\.weight")),
    ("a Whisper encoder", (r"layers\.0\.self_attn\.q_proj\.weight", r"(^|encoder\.)conv1\.weight")),
    ("a TAESD tiny autoencoder", (r"(^|(decoder|encoder)\.(layers\.)?)\d+\.conv\.0\.weight",)),
    ("a CLIP text encoder", (r"text_model\.encoder\.layers\.",)),
    ("a BiSeNet face parser", (r"^cp\.resnet\.", r"^ffm\.")),
    ("a DWPose network", (r"^backbone\.stem\.", r"^head\.")),
    ("an S3FD face detector", (r"^conv3_3_norm_mbox_conf\.",)),
    ("a SyncNet v2", (r"^netcnnaud\.0\.weight", r"^netcnnlip\.0\.weight")),
    ("a LatentSync SyncNet", (r"^audio_encoder\.down_blocks\.", r"^visual_encoder\.down_blocks\.")),
    ("a SyncNet", (r"^(module\.)?(audio_encoder|face_encoder|visual_encoder)\.",)),
    ("a VGG classifier", (r"^features\.0\.weight", r"^classifier\.6\.weight")),
    ("a ResNet classifier", (r"^layer1\.0\.conv1\.weight", r"^fc\.weight")),
)


def _marked(state: Mapping[str, Tensor]) -> str | None:
    for noun, marks in _MARKS:
        if all(any(re.search(mark, key) for key in state) for mark in marks):
            return noun
    return None


def _is_unet(state: Mapping[str, Tensor]) -> bool:
    return "conv_in.weight" in state and "time_embedding.linear_1.weight" in state


def _name_unet(state: Mapping[str, Tensor]) -> str:
    channels, width = _unet_shape(state)
    if width in (_CLIP_TEXT_WIDTH, 1024, 2048):
        family = {_CLIP_TEXT_WIDTH: "an SD 1.5 UNet", 1024: "an SD 2 UNet", 2048: "an SDXL UNet"}[width]
    else:
        family = f"a UNet of cross-attention width {width}" if width else "a UNet without cross-attention"
    return f"{family} with {channels} input channels"


def _unet_shape(state: Mapping[str, Tensor]) -> tuple[int, int]:
    widths = {tensor.shape[1] for name, tensor in state.items() if name.endswith("attn2.to_k.weight")}
    return state["conv_in.weight"].shape[1], max(widths, default=0)


def refuse(path: Path, state: Mapping[str, Tensor], wanted: str) -> MuseTalkError:
    """The error for a readable file of the wrong kind: names what it holds and what was wanted."""
    return MuseTalkError(
        f"{path.name} holds {identify(state)}, not {wanted}; choose another file ({path}) or see "
        "`python -m musetalk_core weights list`."
    )


def unet_layout(path: Path, state: Mapping[str, Tensor]) -> UNetLayout:
    """The layout of a MuseTalk-shaped UNet by `conv_in`; raises MuseTalkError naming what the file is instead."""
    if _marked(state) or not _is_unet(state):
        raise refuse(path, state, "a MuseTalk UNet")
    channels, width = _unet_shape(state)
    if channels not in LAYOUTS or width in (0, _CLIP_TEXT_WIDTH, 2048):
        raise refuse(path, state, "a MuseTalk UNet (8 input channels; 9, 12 or 13 for its variants)")
    return LAYOUTS[channels]


def unet_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel, from the tensors' names and shapes (meta tensors do).

    What tensors do not show is SD 1.4's: 8 attention heads, 32 norm groups, silu. Raises KeyError for a missing one.
    """
    levels = _count(state, "down_blocks.")
    block = [
        ("CrossAttn" if f"{kind}_blocks.{level}.attentions.0.norm.weight" in state else "") + f"{kind.title()}Block2D"
        for kind in ("down", "up")
        for level in range(levels)
    ]
    channels, width = _unet_shape(state)
    return {
        "sample_size": 64,
        "in_channels": channels,
        "out_channels": state["conv_out.weight"].shape[0],
        "down_block_types": tuple(block[:levels]),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": tuple(block[levels:]),
        "block_out_channels": tuple(
            state[f"down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)
        ),
        "layers_per_block": _count(state, "down_blocks.0.resnets."),
        "cross_attention_dim": width,
        "use_linear_projection": state["mid_block.attentions.0.proj_in.weight"].ndim == 2,
        "attention_head_dim": 8,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    }


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)})


_VAE_PARTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_VAE_ATTENTION = (
    (r"\.(norm|group_norm)\.", ".group_norm."),
    (r"\.(q|query)\.", ".to_q."),
    (r"\.(k|key)\.", ".to_k."),
    (r"\.(v|value)\.", ".to_v."),
    (r"\.(proj_out|proj_attn)\.", ".to_out.0."),
)
# Original latent-diffusion names -> diffusers names (diffusers' published conversion script); "up" levels count
# from the other end.
_VAE_RENAMES = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"coder\.norm_out\.", "coder.conv_norm_out."),
)


def vae_to_diffusers(path: Path, state: StateDict) -> StateDict:
    """An SD VAE's tensors under diffusers' current names, from diffusers (new or old attention names) or original.

    Other tensors of a full checkpoint or a training file are left out. Raises MuseTalkError naming what the file is
    instead.
    """
    prefix = "first_stage_model."
    inner = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)} or state
    parts = {name: tensor for name, tensor in inner.items() if name.startswith(_VAE_PARTS)}
    if "post_quant_conv.weight" not in parts or "decoder.conv_in.weight" not in parts:
        raise refuse(path, state, "a Stable Diffusion VAE")
    latents = parts["decoder.conv_in.weight"].shape[1]
    if latents != 4:
        raise MuseTalkError(f"{path.name} holds a VAE of {latents} latent channels; MuseTalk needs SD 1's 4.")
    levels = _count(parts, "decoder.up.")
    return {_vae_name(name, levels): _vae_tensor(name, tensor) for name, tensor in parts.items()}


def _vae_name(name: str, levels: int) -> str:
    if levels:
        name = re.sub(r"\.up\.(\d+)\.", lambda match: f".up.{levels - 1 - int(match[1])}.", name)
        for pattern, replacement in _VAE_RENAMES:
            name = re.sub(pattern, replacement, name)
    if ".attentions." in name:
        for pattern, replacement in _VAE_ATTENTION:
            name = re.sub(pattern, replacement, name)
    return name


def _vae_tensor(name: str, tensor: Tensor) -> Tensor:
    """1x1 convolutions of the original attention become matrices."""
    is_attention = ".attn_1." in name or ".attentions." in name
    return tensor[:, :, 0, 0] if is_attention and tensor.ndim == 4 else tensor


def vae_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKL from tensors under its current names; KeyError for a missing one."""
    levels = _count(state, "encoder.down_blocks.")
    return {
        "in_channels": state["encoder.conv_in.weight"].shape[1],
        "out_channels": state["decoder.conv_out.weight"].shape[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(
            state[f"encoder.down_blocks.{level}.resnets.0.conv1.weight"].shape[0] for level in range(levels)
        ),
        "layers_per_block": _count(state, "encoder.down_blocks.0.resnets."),
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": 32,
        "sample_size": 256,
        "scaling_factor": 0.18215,
    }


# OpenAI's Whisper module names -> transformers' (its convert_openai_to_hf table, encoder side).
_WHISPER_RENAMES = (
    (r"^blocks\.", "layers."),
    (r"\.attn\.query\.", ".self_attn.q_proj."),
    (r"\.attn\.key\.", ".self_attn.k_proj."),
    (r"\.attn\.value\.", ".self_attn.v_proj."),
    (r"\.attn\.out\.", ".self_attn.out_proj."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"^ln_post\.", "layer_norm."),
    (r"^positional_embedding$", "embed_positions.weight"),
)


def whisper_to_encoder(path: Path, state: StateDict) -> StateDict:
    """A Whisper's encoder tensors under transformers' WhisperEncoder names, from transformers or OpenAI layout.

    Decoder tensors are left out. Raises MuseTalkError naming what the file is instead.
    """
    noun = identify(state)
    if "Whisper" not in noun:
        raise refuse(path, state, "a Whisper encoder")
    found = (re.match(r"(?:model\.)?encoder\.(.*)", name) for name in state)
    inner = {match[1]: state[match[0]] for match in found if match} or state
    if "OpenAI" not in noun:
        return dict(inner)
    renamed = {}
    for name, tensor in inner.items():
        for pattern, replacement in _WHISPER_RENAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def whisper_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of transformers' WhisperConfig from encoder tensors: heads of 64 as in every published Whisper.

    Raises KeyError for a missing tensor.
    """
    width = state["conv1.weight"].shape[0]
    return {
        "num_mel_bins": state["conv1.weight"].shape[1],
        "d_model": width,
        "encoder_layers": _count(state, "layers."),
        "encoder_attention_heads": max(1, width // 64),
        "encoder_ffn_dim": state["layers.0.fc1.weight"].shape[0],
        "max_source_positions": state["embed_positions.weight"].shape[0],
    }


def syncnet_form(state: Mapping[str, Tensor], prefix: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Channels of the blocks of one half of LatentSync's SyncNet, and which have attention behind them."""
    count = _count(state, f"{prefix}down_blocks.")
    blocks = [f"{prefix}down_blocks.{number}." for number in range(count)]
    widths = {n: state[f"{b}conv1.weight"].shape[0] for n, b in enumerate(blocks) if f"{b}conv1.weight" in state}
    attended = (n + 1 < count and f"{blocks[n + 1]}attn.to_q.weight" in state for n in widths)
    return tuple(widths.values()), tuple(attended)
