"""Small networks and samples for the UNet's trainer: the true forms with few channels, pictures of 64 pixels."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.data import Dataset

from musetalk_core.training.config import RunSettings
from musetalk_core.training.frozen_vae import FrozenVae
from musetalk_core.training.loop import seed_step, train
from musetalk_core.training.loss_nets import LossNets
from musetalk_core.training.processes import Processes
from musetalk_core.training.recipes import DiscriminatorSettings, LossSettings, Recipe, preset
from musetalk_core.training.unet import UnetData, UnetParts, UnetStage

CPU = torch.device("cpu")
WIDTH = 16  # of the audio tokens
SMALL_JUDGE = DiscriminatorSettings(width=2, learning_rate=1e-3)
L1 = LossSettings(pixels=1.0)


def small_unet(width: int = WIDTH) -> UNet2DConditionModel:
    """Two levels; heads and norm groups as load_unet takes them for granted."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=8,
    )


def small_vae() -> AutoencoderKL:
    """Four levels of 32 channels."""
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        norm_num_groups=32,
    )


class Drawn(Dataset):
    """Sample i is smooth noise drawn from i."""

    def __init__(self, frames: int = 1, size: int = 64) -> None:
        self._frames, self._size = frames, size

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(index)
        coarse = torch.rand(2 * self._frames, 3, 4, 4, generator=draw) * 2 - 1
        pictures = torch.nn.functional.interpolate(coarse, self._size, mode="bilinear")
        size = self._size
        return {
            "target": pictures[: self._frames],
            "reference": pictures[self._frames :],
            "tokens": torch.randn(self._frames, 50, WIDTH, generator=draw),
            "mel": torch.rand(1, 80, 52, generator=draw) * 8 - 4,
            "mouths": torch.tensor([[size / 4, size / 2, size * 3 / 4, size * 3 / 4]] * self._frames),
        }


class OneDrawn(Drawn):
    """The same sample again and again, whose target the frozen decoder can make."""

    def __init__(self) -> None:
        super().__init__()
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            self._target = small_vae().decode(latents / 0.18215).sample

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {**super().__getitem__(0), "target": self._target}


def small_recipe(losses: LossSettings = L1, batch: int = 1, frames: int = 1, **optimisation) -> Recipe:
    """Stage 1's, with a learning rate that shows in a few steps."""
    base = preset("v15-stage1")
    rates = {"learning_rate": 1e-3, "warm_up_steps": 0, "decay_steps": 10**6} | optimisation
    return replace(
        base,
        losses=losses,
        optimisation=replace(base.optimisation, **rates),
        sampling=replace(base.sampling, batch=batch, frames=frames),
        discriminator=SMALL_JUDGE,
    )


def make_stage(recipe: Recipe, data: Dataset, nets: LossNets | None = None) -> UnetStage:
    processes = Processes(recipe.optimisation.accumulate, "cpu")
    parts = UnetParts(small_unet(), FrozenVae(small_vae(), CPU), nets or LossNets())
    return UnetStage(parts, recipe, "test", UnetData(data, Drawn(), "drawn-1x16"), processes, "fp32", 0)


GAN = LossSettings(pixels=1.0, adversarial=0.1, mouth_adversarial=0.1, adversarial_from=0)


def train_with_gan(folder: Path, steps: int, resume: bool) -> Path:
    """A run whose whole state counts: two discriminators, an average, two batches a step. Returns the weights."""
    run = RunSettings(steps=steps, checkpoint_every=2, validate_every=100, log_every=1)
    return train(gan_stage(), run, folder, resume, lambda line: None)


def gan_stage() -> UnetStage:
    return make_stage(small_recipe(GAN, accumulate=2, ema_decay=0.9), Drawn())


def first_gradients(batch: int, accumulate: int) -> dict[str, torch.Tensor]:
    """The gradients of the first step of a run with discriminators, not clipped.

    Spectral norms are left out: each pass brings them nearer to the norm, so that the number of passes shows.
    """
    recipe = small_recipe(GAN, batch, accumulate=accumulate, clip=1e9)
    recipe = replace(recipe, discriminator=replace(SMALL_JUDGE, spectral=False))
    stage = make_stage(recipe, Drawn())
    found = {}

    def note(name: str) -> None:
        found.update({f"{name}.{key}": p.grad.clone() for key, p in stage.modules[name].named_parameters()})

    for name, optimizer in stage.optimizers.items():
        optimizer.step = partial(note, name)
    stage.step(seed_step(0, 0), 0.0, 0)
    return found


def gradients_in_process(rank: int, port: int, folder: Path) -> None:
    """One of two processes: writes what its gradients became."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    torch.set_num_threads(1)
    torch.save(first_gradients(1, 2), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
