"""Training of the demo model's autoencoder on crops of rendered faces."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ..demo.autoencoder import DemoAutoencoder
from ..errors import MuseTalkError
from ..latents import crops_to_pixels, mask_lower_half
from . import losses
from .config import AutoencoderSettings, as_json
from .data import TAKES, Corpus, Footage, Track, jittered
from .discriminator import PatchDiscriminator
from .ema import Ema
from .figures import mean_psnr, mean_sharpness
from .loop import descend, seeded
from .precision import autocast, placed
from .schedules import Schedule, rate_scale

MOUTH = (slice(160, 232), slice(72, 184))  # rows and columns of the mouth in a crop of 256 pixels
TRAIN_STRIDE, HELD_OUT_STRIDE = 4, 40  # frames of a track; neighbours are nearly equal
MOUTH_REACH = 24  # pixels; crops around the mouth are off its centre by at most this
STRIP_ROWS = 6
GRID = 8  # crops begin on whole latents


class FaceCrops:
    """All footage of some tracks, to draw crops from: every `stride`-th frame of both takes."""

    def __init__(self, tracks: list[Track], stride: int) -> None:
        if not tracks:
            raise MuseTalkError("The data has no tracks of this kind; make it with scripts/make_corpus.py.")
        self._shots: list[tuple[Track, Footage, int]] = []
        for track in tracks:
            for take in TAKES:
                footage = track.footage(take, range(0, len(track), stride))
                self._shots += [(track, footage, position) for position in range(len(footage.frames))]

    def __len__(self) -> int:
        return len(self._shots)

    def crop(self, index: int, draw: np.random.Generator | None = None) -> torch.Tensor:
        """(256,256,3) uint8 of shot `index`, its box jittered when there is a `draw`."""
        track, footage, position = self._shots[index]
        box = track.boxes[footage.frames[position]]
        return footage.crop(position, box if draw is None else jittered(box, draw))


class AutoencoderStage:
    """Trains a DemoAutoencoder in place, float32 weights on `device`; see loop.Stage.

    First differences and a Laplacian pyramid keep edges; a patch discriminator, in the last part of the run, brings
    back the texture of the skin that L1 alone averages away.
    """

    def __init__(
        self,
        autoencoder: DemoAutoencoder,
        corpus: Corpus,
        settings: AutoencoderSettings,
        device: torch.device,
        precision: str,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        self._device = device
        self._precision = precision
        # Channels-last is the faster layout of these convolutions; there is no group norm that it would harm.
        model = placed(autoencoder, device, torch.channels_last).train(True).requires_grad_(True)
        with seeded(seed):
            discriminator = PatchDiscriminator(settings.discriminator_width)
        placed(discriminator, device, torch.channels_last)
        self._model, self._discriminator = model, discriminator
        self.modules: dict[str, nn.Module] = {"model": model, "discriminator": discriminator}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": torch.optim.AdamW(
                model.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
            ),
            "discriminator": torch.optim.AdamW(
                discriminator.parameters(), settings.discriminator_rate, betas=(0.5, 0.99), weight_decay=0.0
            ),
        }
        self.schedules: dict[str, Schedule] = dict.fromkeys(self.optimizers, rate_scale)
        self.ema = Ema(model, settings.ema_decay)
        self.facts = {"stage": "demo-autoencoder", "settings": as_json(settings), "precision": precision}
        self._shots = FaceCrops(corpus.tracks("train"), TRAIN_STRIDE)
        held_out = FaceCrops(corpus.tracks("val"), HELD_OUT_STRIDE)
        self._held_out = crops_to_pixels(torch.stack([held_out.crop(i) for i in range(len(held_out))]))

    def step(self, draw: np.random.Generator, share: float, number: int) -> dict[str, torch.Tensor]:
        """One batch; the discriminator learns after the autoencoder, from the same pictures."""
        settings = self._settings
        target = self._batch(draw)
        found: dict[str, torch.Tensor] = {}
        with autocast(self._precision, self._device):
            latents = shown = self._model.encode(target)
            if draw.random() < settings.shift_share:
                offsets = torch.from_numpy(draw.integers(0, GRID, (2, len(target))))
                shown, target = shifted(latents, target, offsets)
                found["smooth"] = losses.l1(shown, self._model.encode(target))
            output = self._model.decode(shown + settings.latent_noise * torch.randn_like(shown))
        output, latents = output.float(), latents.float()
        found |= {
            "l1": losses.l1(output, target),
            "gradient": losses.gradient_l1(output, target),
            "pyramid": losses.pyramid_l1(output, target),
        }
        loss = found["l1"] + settings.gradient * found["gradient"] + settings.pyramid * found["pyramid"]
        loss = loss + 0.01 * losses.latent_range(latents)
        if "smooth" in found:
            loss = loss + settings.smooth * found["smooth"].float()
        adversarial = settings.adversarial > 0 and share >= settings.adversarial_from
        if adversarial:
            self._discriminator.requires_grad_(False)
            with autocast(self._precision, self._device):
                verdict = self._discriminator(output)
            found["adversarial"] = losses.adversarial_loss(verdict.float())
            loss = loss + settings.adversarial * found["adversarial"]
        descend(loss, self.optimizers["model"], self._model, settings.clip)
        if adversarial:
            found["discriminator"] = self._judge(target, output.detach())
        return found

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR of the whole crop, its lower half and the mouth, and the lower half's sharpness against the source's."""
        output, target = self._reconstructed(self._held_out), self._held_out
        lower = slice(128, None)
        return {
            "psnr": mean_psnr(output, target),
            "psnr_lower": mean_psnr(output[:, :, lower], target[:, :, lower]),
            "psnr_mouth": mean_psnr(output[:, :, MOUTH[0], MOUTH[1]], target[:, :, MOUTH[0], MOUTH[1]]),
            "sharpness_lower": mean_sharpness(output[:, :, lower], target[:, :, lower]),
        }

    @torch.no_grad()
    def strip(self) -> list[torch.Tensor]:
        """Held-out crops and what the autoencoder makes of them."""
        chosen = self._held_out[:: max(1, len(self._held_out) // STRIP_ROWS)][:STRIP_ROWS]
        return [chosen, self._reconstructed(chosen)]

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        """The averaged autoencoder."""
        return self.ema.module, {}

    def _judge(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        self._discriminator.requires_grad_(True)
        with autocast(self._precision, self._device):
            verdicts = self._discriminator(torch.cat([real, fake])).float()
        loss = losses.discriminator_loss(*verdicts.chunk(2))
        descend(loss, self.optimizers["discriminator"], self._discriminator, self._settings.clip)
        return loss

    def _batch(self, draw: np.random.Generator) -> torch.Tensor:
        """(batch,3,crop,crop) in [-1,1] on the device."""
        crops = torch.stack(
            [self._shots.crop(int(i), draw) for i in draw.integers(0, len(self._shots), self._settings.batch)]
        )
        pixels = crops_to_pixels(crops)
        masked = torch.from_numpy(draw.random(len(pixels)) < self._settings.masked_share)
        pixels = torch.where(masked[:, None, None, None], mask_lower_half(pixels), pixels)
        size = min(self._settings.crop, pixels.shape[2])
        windows = []
        for picture, is_masked in zip(pixels, masked.tolist(), strict=True):
            near_mouth = not is_masked and draw.random() < self._settings.mouth_share
            y, x = _corner(draw, size, near_mouth)
            windows.append(picture[:, y : y + size, x : x + size])
        batch = torch.stack(windows).to(self._device) * 2 - 1
        return batch.contiguous(memory_format=torch.channels_last)

    def _reconstructed(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the averaged autoencoder makes of (B,3,H,W) in [0,1], on the CPU, clamped."""
        outputs = []
        for part in pixels.split(8):
            with autocast(self._precision, self._device):
                output = self.ema.module(part.to(self._device) * 2 - 1)
            outputs.append((output.float().cpu() / 2 + 0.5).clamp(0, 1))
        return torch.cat(outputs)


def shifted(latents: torch.Tensor, pixels: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B,4,h,w) and their pictures (B,3,8h,8w), each moved by offsets (2,B) of 0..7 pixels down and right.

    The latents by bilinear interpolation; both lose 1 latent, 8 pixels, of height and width. When moved latents must
    equal the moved picture's and decode to it, the code varies smoothly over the picture. Without that a face moved
    by half a latent has another code altogether, which a generator cannot foresee (after Kouzelis et al. 2025, EQ-VAE).
    """
    down, right = (part.to(latents)[:, None, None, None] / GRID for part in offsets)
    rows = latents[:, :, :-1] * (1 - down) + latents[:, :, 1:] * down
    moved = rows[..., :-1] * (1 - right) + rows[..., 1:] * right
    height, width = (size - GRID for size in pixels.shape[2:])
    windows = [
        picture[:, y : y + height, x : x + width]
        for picture, y, x in zip(pixels, offsets[0].tolist(), offsets[1].tolist(), strict=True)
    ]
    return moved, torch.stack(windows).contiguous(memory_format=torch.channels_last)


def _corner(draw: np.random.Generator, size: int, near_mouth: bool) -> tuple[int, int]:
    """Top and left of a crop of `size` pixels in 256, on whole latents; around the mouth or anywhere."""
    most = 256 - size
    if not near_mouth:
        y, x = draw.integers(0, most + 1, 2)
    else:
        middle = [(part.start + part.stop) // 2 - size // 2 for part in MOUTH]
        y, x = np.array(middle) + draw.integers(-MOUTH_REACH, MOUTH_REACH + 1, 2)
    y, x = (int(np.clip(round(value / GRID) * GRID, 0, most)) for value in (y, x))
    return y, x
