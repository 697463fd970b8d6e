"""Losses, each a mean, so that their weights do not depend on the size of a picture or a batch."""

import torch
from torch.nn import functional as F


def l1(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    """Mean of |output - target|, times `weight` (of mean 1, broadcast) when given."""
    error = (output - target).abs()
    return (error if weight is None else error * weight).mean()


def gradient_l1(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 between first differences along x plus the same along y, of pictures (B,C,H,W): keeps edges sharp."""
    error = output - target
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


def pyramid_l1(output: torch.Tensor, target: torch.Tensor, levels: int = 3) -> torch.Tensor:
    """Sum over `levels` of the L1 between Laplacian pyramids of (B,C,H,W); H and W divisible by 2**levels.

    A level is the picture minus its 2x2 mean; the next is made of those means. It weighs each octave of detail
    alike, where a plain L1 is ruled by the coarse ones. (After Bojanowski et al. 2018, with a box filter and
    without their 2**(2j) weights.)
    """
    error = output - target
    total = error.new_zeros(())
    for _ in range(levels):
        coarse = F.avg_pool2d(error, 2)
        total = total + (error - F.interpolate(coarse, scale_factor=2, mode="nearest")).abs().mean()
        error = coarse
    return total


def latent_range(latents: torch.Tensor, limit: float = 2.0) -> torch.Tensor:
    """Keeps latents (B,C,h,w) about centred and within +-limit: mean relu(|z|-limit)^2 + .1 sum mean_c(z)^2."""
    beyond = F.relu(latents.abs() - limit).square().mean()
    return beyond + 0.1 * latents.mean((0, 2, 3)).square().sum()


def discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Least-squares GAN, the discriminator's side: mean((1-real)^2) + mean(fake^2) (Mao et al. 2017)."""
    return (1 - real).square().mean() + fake.square().mean()


def adversarial_loss(fake: torch.Tensor) -> torch.Tensor:
    """Least-squares GAN, the generator's side: mean((1-fake)^2)."""
    return (1 - fake).square().mean()


def curve_loss(
    output: torch.Tensor, target: torch.Tensor, l1_weights: torch.Tensor, mse_weights: torch.Tensor
) -> torch.Tensor:
    """Mean over (B,R,C) of l1_weights (C,) * |error| + mse_weights (C,) * error^2."""
    error = output - target
    return (error.abs() * l1_weights + error.square() * mse_weights).mean()


def region_weights(
    size: int, rows: tuple[int, int], columns: tuple[int, int], weights: tuple[float, float, float]
) -> torch.Tensor:
    """Weights (size,size) of mean 1: (upper half, lower half, the mouth's rows and columns), stops not included."""
    field = torch.full((size, size), weights[0])
    field[size // 2 :] = weights[1]
    field[rows[0] : rows[1], columns[0] : columns[1]] = weights[2]
    return field / field.mean()
