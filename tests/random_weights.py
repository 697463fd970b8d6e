"""MuseTalk's files in their true formats with random weights: a small UNet, the rest in true size."""

from pathlib import Path

import torch


def small_unet() -> dict[str, torch.Tensor]:
    """A MuseTalk UNet (8 channels in, audio of width 384, four levels) with few channels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=64,
        in_channels=8,
        out_channels=4,
        cross_attention_dim=384,
        attention_head_dim=8,
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
    ).state_dict()


def sd_vae() -> dict[str, torch.Tensor]:
    """An sd-vae-ft-mse in diffusers layout; the true widths, which ComfyUI's VAE takes for granted."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    ).state_dict()


def whisper_tiny() -> dict[str, torch.Tensor]:
    """Whisper-tiny's encoder under the names of a whole model."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encoder = WhisperEncoder(WhisperConfig())
    return {f"model.encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}


def write_musetalk(folder: Path, seed: int = 0) -> None:
    """The folder models/musetalk of version v1.5, and an own UNet file "mine.safetensors"."""
    from safetensors.torch import save_file

    from musetalk_core.nets.bisenet import BiSeNet

    torch.manual_seed(seed)
    for name in ("musetalkV15", "sd-vae", "whisper", "face-parse-bisent"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    unet = small_unet()
    torch.save(unet, folder / "musetalkV15" / "unet.pth")
    save_file({name: tensor.contiguous() for name, tensor in unet.items()}, folder / "mine.safetensors")
    vae = {name: tensor.half().contiguous() for name, tensor in sd_vae().items()}
    save_file(vae, folder / "sd-vae" / "diffusion_pytorch_model.safetensors")
    torch.save(whisper_tiny(), folder / "whisper" / "pytorch_model.bin")
    torch.save(BiSeNet(19).state_dict(), folder / "face-parse-bisent" / "79999_iter.pth")
