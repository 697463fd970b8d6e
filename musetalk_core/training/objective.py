"""The weighted sum of losses that MuseTalk's UNet is trained on, and the discriminators that are part of it."""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import MuseTalkError
from . import losses
from .face_discriminator import FaceDiscriminator, feature_matching, mouth_crops, resized
from .loss_nets import LossNets
from .perceptual import VggPyramidLoss
from .recipes import LOSSES, DiscriminatorSettings, LossSettings
from .sync import lower_half, sync_loss

SHOWN_SIZE = 224  # pixels in which VGG, and the discriminators in the generator's step, see a picture
Terms = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Target:
    """What B clips of T frames really look and sound like, on the training's device.

    pixels: (B,T,3,256,256) RGB in [-1,1]. latents: (B,T,4,32,32), scaled; None when no loss compares latents. mouths:
    (B,T,4) x1 y1 x2 y2 in pixels of the 256, far edges not included, zeros where no mouth is seen. mel: (B,1,80,52),
    Wav2Lip's, from the first frame on; None without the sync loss.
    """

    pixels: torch.Tensor
    mouths: torch.Tensor
    latents: torch.Tensor | None = None
    mel: torch.Tensor | None = None


@dataclass(frozen=True)
class Made:
    """What the generator made of frames start..start+S: pixels (B,S,3,256,256), scaled latents (B,S,4,32,32)."""

    pixels: torch.Tensor
    latents: torch.Tensor
    start: int = 0


class Objective:
    """Losses of the generator and of the discriminators, which are made here with torch's random state.

    discriminators: "face" and "mouth", as far as their losses are on; the caller owns their optimizers, saves them
    with the checkpoint and, on several devices, averages their gradients. Raises MuseTalkError when nothing is to be
    learnt, or feature_matching does not fit the discriminators.
    """

    def __init__(
        self, settings: LossSettings, form: DiscriminatorSettings, nets: LossNets, device: torch.device
    ) -> None:
        if not any(getattr(settings, name) for name in LOSSES):
            raise MuseTalkError(f"No loss is switched on; give one of {', '.join(LOSSES)} a weight above 0.")
        if len(settings.feature_matching) != form.blocks:
            raise MuseTalkError(
                f"feature_matching has {len(settings.feature_matching)} weights for a discriminator of {form.blocks} "
                "blocks; give one a block."
            )
        self._settings, self._nets = settings, nets
        self._perceptual = nets.vgg and VggPyramidLoss(nets.vgg, settings.scales, settings.vgg_layers)
        wanted = {"face": settings.adversarial, "mouth": settings.mouth_adversarial}
        self.discriminators = {
            name: FaceDiscriminator(form.width, form.blocks, form.widest, form.spectral).to(device)
            for name, weight in wanted.items()
            if weight
        }

    def window(self, frames: int, draw: np.random.Generator) -> slice:
        """Frames of a clip of `frames` that are to be generated: all, or with sync backward_frames in a row."""
        count = min(frames, self._settings.backward_frames) if self._settings.sync else frames
        start = int(draw.integers(frames - count + 1))
        return slice(start, start + count)

    def generator_step(self, target: Target, made: Made, step: int) -> tuple[torch.Tensor, Terms]:
        """The loss to go down, and its terms before their weights, detached.

        Gradients reach `made` and nothing else. Raises MuseTalkError when the sync loss gets other than 16 frames.
        """
        weighted = self._picture_terms(target, made) | self._adversarial_terms(target, made, step)
        if self._settings.sync:
            assert self._nets.syncnet is not None and target.mel is not None
            value = sync_loss(self._nets.syncnet, made.pixels, target.pixels, made.start, target.mel)
            weighted["sync"] = (self._settings.sync, value)
        nothing = made.pixels.flatten()[:0].sum()  # when no mouth is seen and nothing else counts: moves no weight
        total = torch.stack([nothing, *(weight * value for weight, value in weighted.values())]).sum()
        return total, {name: value.detach() for name, (_, value) in weighted.items()}

    def discriminator_step(self, target: Target, made: Made, step: int) -> tuple[torch.Tensor | None, Terms]:
        """The discriminators' loss on 256 pixels, and its terms; None before step adversarial_from.

        Gradients reach the discriminators only.
        """
        terms: Terms = {}
        if step < self._settings.adversarial_from:
            return None, terms
        for name, (fake, real) in self._pairs(target, made).items():
            judge = self.discriminators[name]
            terms[f"{name}_discriminator"] = losses.discriminator_loss(judge(real)[0], judge(fake.detach())[0])
        loss = torch.stack(list(terms.values())).sum() if terms else None
        return loss, {name: value.detach() for name, value in terms.items()}

    def _picture_terms(self, target: Target, made: Made) -> dict[str, tuple[float, torch.Tensor]]:
        settings, terms = self._settings, {}
        fake, real = _pictures(target, made)
        if settings.pixels:
            terms["pixels"] = settings.pixels, losses.l1(fake, real)
        if settings.lower_pixels:
            terms["lower_pixels"] = settings.lower_pixels, losses.l1(lower_half(fake), lower_half(real))
        if settings.latents:
            assert target.latents is not None
            terms["latents"] = settings.latents, losses.l1(made.latents, _same_frames(target.latents, made))
        if settings.perceptual:
            assert self._perceptual is not None
            shown = resized(fake, SHOWN_SIZE), resized(real, SHOWN_SIZE)
            terms["perceptual"] = settings.perceptual, self._perceptual(*shown)
        if settings.lpips:
            assert self._nets.lpips is not None
            terms["lpips"] = settings.lpips, self._nets.lpips(lower_half(fake), lower_half(real)).mean()
        return terms

    def _adversarial_terms(self, target: Target, made: Made, step: int) -> dict[str, tuple[float, torch.Tensor]]:
        settings, terms = self._settings, {}
        weights = {"face": settings.adversarial, "mouth": settings.mouth_adversarial}
        for name, (fake, real) in self._pairs(target, made).items():
            judge = self.discriminators[name].requires_grad_(False)
            with torch.no_grad():
                wanted = judge(resized(real, SHOWN_SIZE))[1]
            verdict, found = judge(resized(fake, SHOWN_SIZE))
            judge.requires_grad_(True)
            if any(settings.feature_matching):
                terms[f"{name}_features"] = 1.0, feature_matching(found, wanted, settings.feature_matching)
            if step >= settings.adversarial_from:
                terms[f"{name}_adversarial"] = weights[name], losses.adversarial_loss(verdict)
        return terms

    def _pairs(self, target: Target, made: Made) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """For every discriminator the made and the real pictures (N,3,256,256) it sees, unless no mouth is seen."""
        fake, real = _pictures(target, made)
        pairs = {"face": (fake, real)} if "face" in self.discriminators else {}
        if "mouth" in self.discriminators:
            boxes = _same_frames(target.mouths, made).flatten(0, 1)
            mouths = mouth_crops(fake, boxes), mouth_crops(real, boxes)
            if len(mouths[1]):
                pairs["mouth"] = mouths
        return pairs


def _pictures(target: Target, made: Made) -> tuple[torch.Tensor, torch.Tensor]:
    """The made pictures and the real ones of the same frames, (B*S,3,H,W)."""
    return made.pixels.flatten(0, 1), _same_frames(target.pixels, made).flatten(0, 1)


def _same_frames(values: torch.Tensor, made: Made) -> torch.Tensor:
    return values[:, made.start : made.start + made.pixels.shape[1]]
