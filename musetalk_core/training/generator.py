"""The generator's first stage: single frames, losses on latents and on decoded mouths, everything else frozen."""

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from ..audio_features import FrameRows
from ..errors import MuseTalkError
from ..generator import positional_encoding
from . import losses
from .cache import COMPARED, SCALE, WINDOW, TrackLatents
from .config import GeneratorSettings, as_json
from .discriminator import PatchDiscriminator
from .ema import Ema
from .figures import mean_psnr, mean_sharpness
from .loop import descend, seeded
from .precision import autocast, placed
from .schedules import Schedule, rate_scale

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from ..demo.autoencoder import DemoAutoencoder

FPS = Fraction(25)
ROWS = FrameRows(FPS, 2, 2)
MOUTH = (slice(19, 31), slice(7, 25))  # of the 32x32 latents
LATENT_WEIGHTS = (0.25, 1.0, 4.0)  # upper half, lower half, mouth
OPEN_GAP, OPEN_RANGE = 0.05, 0.1  # of the eye distance; wider mouths are rarer and drawn up to 4 times as often
CLOSED_GAP, CLOSED_NEAR, CLOSED_BONUS = 0.03, 4, 1.0  # a closure within 4 frames of an open mouth: m, b, p
REST_NEAR = 8  # a mouth rests when it is closed for so many frames before and after
HELD_OUT_STRIDE, HELD_OUT_BATCH, STRIP_ROWS = 10, 16, 6
WRONG_SHIFT = 7  # held-out samples by which the sound is swapped


@dataclass(frozen=True)
class Sample:
    """Indices of one training sample: frame `frame` of take `take` of track `track`."""

    track: int
    take: int
    frame: int


@dataclass(frozen=True)
class Batch:
    """inputs (B,8,32,32) and target (B,4,32,32) scaled latents, tokens (B,50,D) with position, mouths (B,3,h,w)."""

    inputs: torch.Tensor
    target: torch.Tensor
    tokens: torch.Tensor
    mouths: torch.Tensor


class TwinSamples:
    """Draws samples from prepared tracks.

    The visible upper half is the target's own or the twin's. The reference is the twin at the same frame (as at
    inference, where it shows other words), the still portrait, or another frame; never the target, so the mouth
    cannot be copied and must come from the sound.
    """

    def __init__(self, tracks: list[TrackLatents], settings: GeneratorSettings) -> None:
        if not tracks:
            raise MuseTalkError("The data has no tracks of this kind; make it with scripts/make_corpus.py.")
        self._tracks = tracks
        self._settings = settings
        self.samples = [
            Sample(k, take, frame)
            for k, track in enumerate(tracks)
            for take in range(2)
            for frame in range(track.gaps.shape[1])
        ]
        weights = np.concatenate([sample_weights(gaps.numpy()) for track in tracks for gaps in track.gaps])
        self._chances = weights / weights.sum()
        self._rests = [np.stack([resting(gaps.numpy()) for gaps in track.gaps]) for track in tracks]

    def draw(self, count: int, draw: np.random.Generator) -> list[tuple[torch.Tensor, ...]]:
        """`count` training samples: masked, reference, target latents, tokens and mouth pixels."""
        chosen = draw.choice(len(self.samples), count, p=self._chances)
        return [self._sample(self.samples[int(i)], draw) for i in chosen]

    def held_out(self, sample: Sample) -> tuple[torch.Tensor, ...]:
        """A sample as at inference: both inputs are the twin at the same frame, the sound is not altered."""
        track, twin = self._tracks[sample.track], 1 - sample.take
        masked, reference = track.masked[twin, 0, sample.frame], track.whole[twin, 0, sample.frame]
        return masked, reference, *self._goal(sample, 0, 0)

    def _sample(self, sample: Sample, draw: np.random.Generator) -> tuple[torch.Tensor, ...]:
        track, twin = self._tracks[sample.track], 1 - sample.take
        variant = int(draw.integers(track.whole.shape[1]))
        seen = twin if draw.random() < self._settings.twin_masked else sample.take
        masked = track.masked[seen, variant, sample.frame]
        sound = int(draw.integers(track.hidden.shape[1]))
        target, tokens, mouth = self._goal(sample, variant, sound)
        if self._rests[sample.track][sample.take, sample.frame] and draw.random() < self._settings.silent_share:
            tokens = self._silence(track, draw)
        return masked, self._reference(sample, variant, draw), target, tokens, mouth

    def _silence(self, track: TrackLatents, draw: np.random.Generator) -> torch.Tensor:
        hidden = track.silent[int(draw.integers(len(track.silent)))]
        frame = int(draw.integers(len(hidden) // 2 - 2))  # 25 fps: two rows a frame, and four after it
        return ROWS.tokens(hidden, 0, frame, frame + 1)[0]

    def _reference(self, sample: Sample, variant: int, draw: np.random.Generator) -> torch.Tensor:
        settings, track = self._settings, self._tracks[sample.track]
        kind = draw.random()
        same = track.whole[1 - sample.take, variant, sample.frame]
        if kind < settings.reference_same:
            return same
        if kind < settings.reference_same + settings.reference_still:
            return track.still[int(draw.integers(len(track.still)))]
        take, frame = int(draw.integers(2)), int(draw.integers(track.whole.shape[2]))
        other = int(draw.integers(track.whole.shape[1]))
        return same if (take, frame) == (sample.take, sample.frame) else track.whole[take, other, frame]

    def _goal(self, sample: Sample, variant: int, sound: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        track = self._tracks[sample.track]
        tokens = ROWS.tokens(track.hidden[sample.take, sound], 0, sample.frame, sample.frame + 1)[0]
        where = sample.take, variant, sample.frame
        return track.whole[where], tokens, track.mouths[where]


class GeneratorStage:
    """Trains a UNet in place, float32 weights on `device`; see loop.Stage.

    decoder: the frozen autoencoder, on `device`. scaling: latents are multiplied by it at the UNet's input and
    divided at its output, as MuseTalkGenerator does.
    """

    def __init__(
        self,
        unet: "UNet2DConditionModel",
        autoencoder: "DemoAutoencoder",
        train: list[TrackLatents],
        held_out: list[TrackLatents],
        settings: GeneratorSettings,
        device: torch.device,
        precision: str,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        self._device = device
        self._precision = precision
        self.scaling = latent_scaling(train)
        # Group norm on the CPU is inexact on channels-last float32, so that layout is only used in bf16.
        self._layout = torch.channels_last if precision == "bf16" else torch.contiguous_format
        model = placed(cast(nn.Module, unet), device, self._layout).train(True).requires_grad_(True)
        with seeded(seed):
            discriminator = PatchDiscriminator(settings.discriminator_width)
        self._model = model
        self._discriminator = discriminator.to(device)
        self._autoencoder = placed(autoencoder, device, torch.channels_last).requires_grad_(False)
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
        self.facts = {"stage": "demo-generator", "settings": as_json(settings), "precision": precision}
        self._samples = TwinSamples(train, settings)
        watched = TwinSamples(held_out, settings)
        self._held_out = [watched.held_out(sample) for sample in watched.samples[::HELD_OUT_STRIDE]]
        self._weights = losses.region_weights(
            32, (MOUTH[0].start, MOUTH[0].stop), (MOUTH[1].start, MOUTH[1].stop), LATENT_WEIGHTS
        ).to(device)

    def step(self, draw: np.random.Generator, share: float, number: int) -> dict[str, torch.Tensor]:
        """One batch; the mouths of the first `pixel_batch` samples are decoded and compared as pixels."""
        settings = self._settings
        batch = self._batch(self._samples.draw(settings.batch, draw))
        output = self._run(self._model, batch.inputs, batch.tokens)
        found = {"latent": losses.l1(output, batch.target, self._weights)}
        loss = settings.latent * found["latent"]
        if share < settings.pixel_from or not settings.pixel_batch:
            descend(loss, self.optimizers["model"], self._model, settings.clip)
            return found
        mouths = self._decoded_mouths(output[: settings.pixel_batch])
        real = batch.mouths[: settings.pixel_batch]
        found["pixel"] = losses.l1(mouths, real)
        found["gradient"] = losses.gradient_l1(mouths, real)
        loss = loss + settings.pixel * (found["pixel"] + settings.gradient * found["gradient"])
        adversarial = settings.adversarial > 0 and share >= settings.adversarial_from
        if adversarial:
            self._discriminator.requires_grad_(False)
            found["adversarial"] = losses.adversarial_loss(self._discriminator(mouths))
            loss = loss + settings.adversarial * found["adversarial"]
        descend(loss, self.optimizers["model"], self._model, settings.clip)
        if adversarial:
            found["discriminator"] = self._judge(real, mouths.detach())
        return found

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mouth L1 of scaled latents with the right sound, with another's, and of the reference as it is; the mouth's
        PSNR and sharpness against the source's pixels."""
        right, wrong, copied, made, true = [], [], [], [], []
        for start in range(0, len(self._held_out), HELD_OUT_BATCH):
            batch = self._batch(self._held_out[start : start + HELD_OUT_BATCH])
            other = self._batch(
                [
                    self._held_out[(i + WRONG_SHIFT) % len(self._held_out)]
                    for i in range(start, start + len(batch.inputs))
                ]
            )
            output = self._run(self.ema.module, batch.inputs, batch.tokens)
            right.append(_mouth_error(output, batch.target))
            wrong.append(_mouth_error(self._run(self.ema.module, batch.inputs, other.tokens), batch.target))
            copied.append(_mouth_error(batch.inputs[:, 4:], batch.target))
            made.append(self._decoded_mouths(output).cpu())
            true.append(batch.mouths.cpu())
        output, target = (torch.cat(part) / 2 + 0.5 for part in (made, true))
        return {
            "mouth_right": float(torch.cat(right).mean()),
            "mouth_wrong_sound": float(torch.cat(wrong).mean()),
            "mouth_copied": float(torch.cat(copied).mean()),
            "psnr_mouth": mean_psnr(output, target),
            "sharpness_mouth": mean_sharpness(output, target),
        }

    @torch.no_grad()
    def strip(self) -> list[torch.Tensor]:
        """Held-out samples: masked, reference, output, what it should be; each through the decoder."""
        batch = self._batch(self._held_out[:: max(1, len(self._held_out) // STRIP_ROWS)][:STRIP_ROWS])
        output = self._run(self.ema.module, batch.inputs, batch.tokens)
        columns = [batch.inputs[:, :4], batch.inputs[:, 4:], output, batch.target]
        return [self._decoded(column).cpu() / 2 + 0.5 for column in columns]

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        """The averaged UNet and the scaling of the latents it was trained with."""
        return self.ema.module, {"scaling": self.scaling}

    def _batch(self, samples: list[tuple[torch.Tensor, ...]]) -> Batch:
        masked, reference, target, tokens, mouths = (
            torch.stack(part).to(self._device) for part in zip(*samples, strict=True)
        )
        inputs = torch.cat([masked, reference], 1).float() * self.scaling
        position = positional_encoding(tokens.shape[1], tokens.shape[2]).to(self._device)
        return Batch(
            inputs.contiguous(memory_format=self._layout),
            target.float() * self.scaling,
            tokens.float() + position,
            mouths.float() / 127.5 - 1,
        )

    def _run(self, unet: nn.Module, inputs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        timestep = torch.zeros(1, dtype=torch.long, device=self._device)
        with autocast(self._precision, self._device):
            return unet(inputs, timestep, encoder_hidden_states=tokens).sample.float()

    def _decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels in about [-1,1] of scaled latents."""
        with autocast(self._precision, self._device):
            unscaled = (latents / self.scaling).contiguous(memory_format=torch.channels_last)
            return self._autoencoder.decode(unscaled).float()

    def _decoded_mouths(self, latents: torch.Tensor) -> torch.Tensor:
        """The pixels of COMPARED (B,3,128,144), decoded from WINDOW."""
        pixels = self._decoded(latents[:, :, WINDOW[0], WINDOW[1]])
        rows, columns = (
            slice((inner.start - outer.start) * SCALE, (inner.stop - outer.start) * SCALE)
            for inner, outer in zip(COMPARED, WINDOW, strict=True)
        )
        return pixels[:, :, rows, columns]

    def _judge(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        self._discriminator.requires_grad_(True)
        loss = losses.discriminator_loss(*self._discriminator(torch.cat([real, fake])).chunk(2))
        descend(loss, self.optimizers["discriminator"], self._discriminator, self._settings.clip)
        return loss


def sample_weights(gaps: np.ndarray) -> np.ndarray:
    """How often each frame of a take with lip gaps (N,), in eye distances, is drawn: open mouths and the closures
    between them are rare and decide how speech looks."""
    opened = 1 + ((gaps - OPEN_GAP) / OPEN_RANGE).clip(0, 3)
    padded = np.pad(gaps, CLOSED_NEAR, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * CLOSED_NEAR + 1).max(1)
    return opened + CLOSED_BONUS * ((gaps < CLOSED_GAP) & (around > 2 * OPEN_GAP))


def resting(gaps: np.ndarray) -> np.ndarray:
    """(N,) bool: frames of a take with lip gaps (N,) around which the mouth stays closed for a while."""
    padded = np.pad(gaps, REST_NEAR, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, 2 * REST_NEAR + 1).max(1) < CLOSED_GAP


def latent_scaling(tracks: list[TrackLatents]) -> float:
    """1 / the standard deviation of the whole crops' latents, as a UNet likes its input."""
    values = torch.cat([track.whole[:, :, ::8].flatten() for track in tracks]).float()
    return 1 / max(float(values.std()), 1e-6)


def _mouth_error(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).abs()[:, :, MOUTH[0], MOUTH[1]].mean((1, 2, 3)).cpu()
