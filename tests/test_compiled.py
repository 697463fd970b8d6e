"""Compiled networks against the same ones uncompiled: really compiled, so this takes a while the first time."""

from copy import deepcopy

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch._dynamo.utils import counters

from musetalk_core.compiled import compile_nets
from musetalk_core.errors import MuseTalkError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forget_compiled():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def tiny_unet() -> torch.nn.Module:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(16,),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        mid_block_type=None,
    )


def tiny_vae() -> torch.nn.Module:
    blocks = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    return AutoencoderKL(block_out_channels=(16,), latent_channels=4, norm_num_groups=8, **blocks)


@torch.no_grad()
def run(unet, vae, latents, sound):
    made = unet(latents, torch.zeros(1, dtype=torch.long), encoder_hidden_states=sound).sample
    return made, vae.decode(latents[:, :4].contiguous()).sample


def test_compiled_networks_give_the_same_numbers():
    torch.manual_seed(0)
    unet, vae = tiny_unet().eval(), tiny_vae().eval()
    latents, sound = torch.randn(3, 8, 8, 8), torch.randn(3, 10, 16)
    expected = run(deepcopy(unet), deepcopy(vae), latents, sound)
    compile_nets([unet, vae.decoder], CPU)
    got = run(unet, vae, latents, sound)
    for mine, theirs in zip(got, expected, strict=True):
        assert theirs.std() > 0.05
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    graphs = counters["stats"]["unique_graphs"]
    assert graphs == 3, "the line that tries the compiler, the UNet and the decoder, each in one piece"
    run(unet, vae, latents + 1, sound)
    assert counters["stats"]["unique_graphs"] == graphs, "one shape is compiled once"


def test_without_a_compiler_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",)}), pytest.raises(MuseTalkError) as caught:
        compile_nets([tiny_unet()], CPU)
    message = str(caught.value)
    assert "No working C++ compiler" in message and "--compile" in message and "\n" not in message
