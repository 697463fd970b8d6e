"""The SD VAE from its three published key layouts, for diffusers and for ComfyUI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file

from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.weights.models import comfy_vae_state_dict, load_vae

torch.set_num_threads(1)
State = dict[str, torch.Tensor]
ROOT = Path(__file__).resolve().parents[1]
COMFY = Path(os.environ.get("MUSETALK_HOST_ROOT", ROOT / ".host")) / "ComfyUI"


def make_vae(widths: tuple[int, ...] = (32, 32, 64, 64), latents: int = 4) -> AutoencoderKL:
    torch.manual_seed(3)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=latents,
    )
    for name, parameter in vae.named_parameters():
        if "norm" in name:  # ones and zeros would hide swapped norms
            torch.nn.init.normal_(parameter, 0.8, 0.2)
    return vae.train(False)


def old_attention_names(state: State) -> State:
    """Diffusers before 0.18 called the attention's four matrices query, key, value and proj_attn."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    result = {}
    for key, tensor in state.items():
        for new, old in names.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        result[key] = tensor
    return result


def original_layout(state: State, levels: int) -> State:
    """The latent-diffusion autoencoder's names, by the modules of CompVis' model.py (Encoder, Decoder, AttnBlock)."""
    table: dict[str, str] = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
    for side, ours, theirs, sampler, sample, count in (
        ("encoder", "down_blocks", "down", "downsamplers.0", "downsample", 2),
        ("decoder", "up_blocks", "up", "upsamplers.0", "upsample", 3),
    ):
        for name, original in (("conv_in", "conv_in"), ("conv_norm_out", "norm_out"), ("conv_out", "conv_out")):
            table[f"{side}.{name}"] = f"{side}.{original}"
        for level in range(levels):
            number = level if side == "encoder" else levels - 1 - level
            here, there = f"{side}.{ours}.{level}", f"{side}.{theirs}.{number}"
            table[f"{here}.{sampler}.conv"] = f"{there}.{sample}.conv"
            for block in range(count):
                for part in ("norm1", "conv1", "norm2", "conv2"):
                    table[f"{here}.resnets.{block}.{part}"] = f"{there}.block.{block}.{part}"
                table[f"{here}.resnets.{block}.conv_shortcut"] = f"{there}.block.{block}.nin_shortcut"
        for block in range(2):
            for part in ("norm1", "conv1", "norm2", "conv2"):
                table[f"{side}.mid_block.resnets.{block}.{part}"] = f"{side}.mid.block_{block + 1}.{part}"
        attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
        for name, original in attention.items():
            table[f"{side}.mid_block.attentions.0.{name}"] = f"{side}.mid.attn_1.{original}"
    result = {}
    for key, tensor in state.items():
        module, leaf = key.rsplit(".", 1)
        is_matrix = "attentions" in key and tensor.ndim == 2
        result[f"{table[module]}.{leaf}"] = tensor[:, :, None, None] if is_matrix else tensor
    assert len(result) == len(state)
    return result


def layouts(vae: AutoencoderKL) -> dict[str, State]:
    state = {name: tensor.contiguous() for name, tensor in vae.state_dict().items()}
    original = original_layout(state, len(vae.config.block_out_channels))
    return {
        "diffusers": state,
        "diffusers before 0.18": old_attention_names(state),
        "original": original,
        "original with prefix": {f"first_stage_model.{name}": tensor for name, tensor in original.items()},
    }


def test_every_layout_gives_the_same_network(tmp_path: Path) -> None:
    source = make_vae()
    picture, latent = torch.rand(1, 3, 64, 64) * 2 - 1, torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        means, decoded = source.encode(picture).latent_dist.mode(), source.decode(latent).sample
    for name, state in layouts(source).items():
        save_file(state, path := tmp_path / f"{name}.safetensors")
        vae = load_vae(path)
        assert vae.config.scaling_factor == 0.18215 and not vae.training
        with torch.no_grad():
            assert torch.equal(vae.encode(picture).latent_dist.mode(), means), name
            assert torch.equal(vae.decode(latent).sample, decoded), name


def test_training_file_and_full_checkpoint(tmp_path: Path) -> None:
    """The .ckpt of ft-mse wraps its tensors and has more than the network; a checkpoint has a UNet beside it."""
    source = make_vae()
    state = layouts(source)
    wrapped = {"state_dict": state["original"] | {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.ones(())}}
    full = state["original with prefix"] | {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}
    for content in (wrapped, full):
        torch.save(content, tmp_path / "vae.ckpt")
        loaded = load_vae(tmp_path / "vae.ckpt").state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in source.state_dict().items())


def test_the_published_architecture_from_a_folder(tmp_path: Path) -> None:
    """A folder with the .bin name; the size and config of stabilityai/sd-vae-ft-mse, inferred on the meta device."""
    from musetalk_core.weights.layouts import vae_config

    with torch.device("meta"):
        true = make_vae((128, 256, 512, 512))
    assert sum(tensor.numel() for tensor in true.state_dict().values()) == 83_653_863
    config = vae_config(true.state_dict())
    assert config["block_out_channels"] == (128, 256, 512, 512) and config["layers_per_block"] == 2
    assert (config["latent_channels"], config["sample_size"], config["norm_num_groups"]) == (4, 256, 32)
    with pytest.raises(MissingWeightsError, match="diffusion_pytorch_model"):
        load_vae(tmp_path)
    torch.save(make_vae().half().state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    assert load_vae(tmp_path, torch.bfloat16).dtype == torch.bfloat16


def test_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "X.pth"
    torch.save(make_vae(latents=16).state_dict(), path)
    with pytest.raises(MuseTalkError, match="16 latent channels"):
        load_vae(path)
    torch.save({"lora_down.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(MuseTalkError, match=r"X.pth holds a LoRA, not a Stable Diffusion VAE"):
        load_vae(path)
    state = make_vae().state_dict()
    torch.save({name: tensor for name, tensor in state.items() if not name.startswith("encoder.mid")}, path)
    with pytest.raises(MuseTalkError, match="absent"):
        load_vae(path)


CHILD = """
import sys
root, weights, latent, picture = sys.argv[1:]
sys.path.insert(0, root)
sys.argv = ["comfy", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import comfy.sd
from safetensors.torch import load_file, save_file
vae = comfy.sd.VAE(sd=load_file(weights))
vae.throw_exception_if_invalid()
save_file({"picture": vae.decode(load_file(latent)["latent"]).contiguous()}, picture)
"""


def test_comfyui_takes_every_layout(tmp_path: Path) -> None:
    """All layouts give equal tensors for ComfyUI, whose own VAE, true size, decodes them as diffusers does."""
    source = make_vae((128, 256, 512, 512)).half()
    file = tmp_path / "vae.safetensors"
    given = []
    for state in layouts(source).values():
        save_file(state, file)
        given.append({name: tensor.clone() for name, tensor in comfy_vae_state_dict(file).items()})
        assert given[-1].keys() == given[0].keys()
        assert all(torch.equal(given[-1][name], tensor) for name, tensor in given[0].items())
    latent = torch.randn(1, 4, 8, 8)
    save_file(given[0], file)
    save_file({"latent": latent}, tmp_path / "latent.safetensors")
    arguments = [COMFY, file, tmp_path / "latent.safetensors", tmp_path / "picture.safetensors"]
    child = subprocess.run([sys.executable, "-c", CHILD, *map(str, arguments)], capture_output=True, text=True)
    file.unlink()
    assert child.returncode == 0, child.stderr[-2000:]
    with torch.no_grad():
        expected = (source.float().decode(latent).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    picture = load_file(tmp_path / "picture.safetensors")["picture"]
    assert expected.std() > 0.01 and torch.allclose(picture, expected, atol=2e-3)
