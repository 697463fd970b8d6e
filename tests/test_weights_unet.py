"""The UNet from its true key layout in every file format, and other files refused by name."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file

from musetalk_core.errors import MuseTalkError
from musetalk_core.weights.catalogue import UNET_V10, UNET_V15
from musetalk_core.weights.layouts import MUSETALK_LAYOUT, identify, unet_config
from musetalk_core.weights.models import load_unet

torch.set_num_threads(1)

# musetalk.json as published; the catalogue's SHA-256 of that file proves the copy.
PUBLISHED = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0.dev0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 384,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 8,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}


def tiny_unet(in_channels: int = 8, **changes: object) -> UNet2DConditionModel:
    torch.manual_seed(in_channels)
    config = PUBLISHED | {"block_out_channels": [32, 32, 64, 64], "in_channels": in_channels} | changes
    return UNet2DConditionModel.from_config(config).train(False)


def save(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_the_published_configuration_is_the_published_file() -> None:
    text = json.dumps(PUBLISHED, indent=2) + "\n"
    for entry in (UNET_V15, UNET_V10):
        file = entry.files[1]
        assert len(text) == file.size and hashlib.sha256(text.encode()).hexdigest() == file.sha256


def test_the_true_architecture_is_inferred() -> None:
    with torch.device("meta"):
        true = UNet2DConditionModel.from_config(PUBLISHED)
        state = true.state_dict()
        inferred = UNet2DConditionModel(**unet_config(state))
    assert len(state) == 686 and sum(tensor.numel() for tensor in state.values()) == 849_947_844
    assert {k: v.shape for k, v in inferred.state_dict().items()} == {k: v.shape for k, v in state.items()}
    for key, value in true.config.items():
        if not key.startswith("_"):
            assert plain(inferred.config[key]) == plain(value), key
    for key, value in PUBLISHED.items():
        if not key.startswith("_"):
            assert plain(inferred.config[key]) == value, key
    assert state["mid_block.attentions.0.proj_in.weight"].ndim == 4 and not inferred.config.use_linear_projection


@pytest.mark.parametrize("name", ["unet.pth", "pytorch_model.bin", "unet.safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_formats_load_bit_equal(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    source = tiny_unet().to(dtype)
    unet, layout = load_unet(save(source.state_dict(), tmp_path / name))
    assert layout == MUSETALK_LAYOUT and not unet.training
    loaded = unet.state_dict()
    assert loaded.keys() == source.state_dict().keys()
    for key, tensor in source.state_dict().items():
        assert loaded[key].dtype == torch.float32 and torch.equal(loaded[key], tensor.float()), key
    assert not any(parameter.is_meta or parameter.requires_grad for parameter in unet.parameters())
    x, tokens = torch.randn(2, 8, 16, 16), torch.randn(2, 50, 384)
    with torch.no_grad():
        expected = source.float()(x, 0, tokens).sample
        assert torch.equal(unet(x, 0, tokens).sample, expected)


def test_dtype_asked_and_dtype_kept(tmp_path: Path) -> None:
    path = save(tiny_unet().half().state_dict(), tmp_path / "unet.pth")
    assert load_unet(path, torch.bfloat16)[0].dtype == torch.bfloat16
    assert load_unet(path, None)[0].dtype == torch.float16


@pytest.mark.parametrize(("channels", "kind"), [(8, "musetalk"), (9, "mask"), (12, "landmark"), (13, "latentsync")])
def test_layout_from_conv_in(tmp_path: Path, channels: int, kind: str) -> None:
    unet, layout = load_unet(save(tiny_unet(channels).state_dict(), tmp_path / "unet.pth"))
    assert (layout.kind, layout.in_channels, unet.config.in_channels) == (kind, channels, channels)


def test_other_depths_and_linear_projection(tmp_path: Path) -> None:
    source = tiny_unet(
        block_out_channels=[32, 64],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=80,
        use_linear_projection=True,
    )
    unet, _ = load_unet(save(source.state_dict(), tmp_path / "unet.pth"))
    x, tokens = torch.randn(1, 8, 16, 16), torch.randn(1, 50, 80)
    with torch.no_grad():
        assert torch.equal(unet(x, 0, tokens).sample, source(x, 0, tokens).sample)


def test_state_dict_inside_a_training_file(tmp_path: Path) -> None:
    torch.save({"state_dict": tiny_unet().state_dict(), "epoch": 2}, tmp_path / "unet.pth")
    assert load_unet(tmp_path / "unet.pth")[1].kind == "musetalk"


def weights(*shapes: tuple[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes}


# Key names as published for each kind of file.
WRONG = {
    "an SD 1.5 UNet with 4 input channels": lambda: tiny_unet(4, cross_attention_dim=768).state_dict(),
    "an SD 1.5 UNet with 9 input channels": lambda: tiny_unet(9, cross_attention_dim=768).state_dict(),
    "a UNet of cross-attention width 384 with 5 input channels": lambda: tiny_unet(5).state_dict(),
    "a LoRA": lambda: weights(("lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight", (4, 4))),
    "a ControlNet": lambda: ControlNetModel(
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=64,
        conditioning_embedding_out_channels=(16, 32),
    ).state_dict(),
    "a LatentSync 3D UNet": lambda: weights(
        ("conv_in.weight", (32, 13, 3, 3)),
        ("time_embedding.linear_1.weight", (128, 32)),
        ("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight", (32,)),
    ),
    "a full Stable Diffusion checkpoint": lambda: weights(
        ("model.diffusion_model.input_blocks.0.0.weight", (320, 4, 3, 3)),
        ("first_stage_model.encoder.conv_in.weight", (128, 3, 3, 3)),
    ),
    "an SD VAE": lambda: weights(
        ("encoder.down.0.block.0.conv1.weight", (8, 8, 3, 3)), ("decoder.mid.block_1.conv1.weight", (8, 8, 3, 3))
    ),
    "a Whisper encoder in OpenAI layout": lambda: weights(
        ("encoder.blocks.0.attn.query.weight", (8, 8)), ("encoder.conv1.weight", (8, 80, 3))
    ),
    "a Whisper encoder": lambda: weights(
        ("model.encoder.layers.0.self_attn.q_proj.weight", (8, 8)), ("model.encoder.conv1.weight", (8, 80, 3))
    ),
    "a BiSeNet face parser": lambda: weights(
        ("cp.resnet.conv1.weight", (4, 3, 7, 7)), ("ffm.convblk.conv.weight", (4,))
    ),
    "an S3FD face detector": lambda: weights(("conv3_3_norm_mbox_conf.weight", (4, 4, 3, 3))),
    "a ResNet classifier": lambda: weights(("layer1.0.conv1.weight", (4, 4, 3, 3)), ("fc.weight", (1000, 4))),
    "an unknown network": lambda: weights(("layer.weight", (2, 2))),
}


@pytest.mark.parametrize("noun", WRONG)
def test_wrong_files_are_refused_by_name(tmp_path: Path, noun: str) -> None:
    path = tmp_path / "X.pth"
    torch.save(WRONG[noun](), path)
    with pytest.raises(MuseTalkError, match="not a MuseTalk UNet") as caught:
        load_unet(path)
    assert f"X.pth holds {noun}" in str(caught.value) and "\n" not in str(caught.value)


def test_missing_reshaped_and_surplus_tensors(tmp_path: Path) -> None:
    state = tiny_unet().state_dict()
    removed = {name: tensor for name, tensor in state.items() if name != "conv_norm_out.weight"}
    reshaped = state | {"conv_norm_out.weight": torch.zeros(7)}
    surplus = state | {"class_embedding.weight": torch.zeros(3)}
    no_output = {name: tensor for name, tensor in state.items() if not name.startswith("conv_out")}
    cases = [(removed, "absent"), (reshaped, "another shape"), (surplus, "unknown"), (no_output, "not complete")]
    for broken, words in cases:
        torch.save(broken, tmp_path / "unet.pth")
        with pytest.raises(MuseTalkError, match=words):
            load_unet(tmp_path / "unet.pth")


def test_musetalk_is_named_too() -> None:
    assert identify(tiny_unet().state_dict()) == "a UNet of cross-attention width 384 with 8 input channels"
