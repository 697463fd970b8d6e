"""Training MuseTalk's UNet: from faces, references and sound to a loss on decoded pictures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..errors import MuseTalkError
from ..generator import positional_encoding
from ..latents import fastest_layout, mask_lower_half
from .clip_batches import ClipBatches, Samples, Shares
from .ema import Ema
from .figures import mean_psnr, mean_sharpness
from .frozen_vae import FrozenVae
from .loop import seeded
from .loss_nets import LossNets
from .objective import Made, Objective, Target
from .precision import autocast, placed
from .processes import Processes
from .recipes import DiscriminatorSettings, Optimisation, Part, Recipe
from .schedules import Schedule, discriminator_schedule, unet_schedule
from .sync import lower_half

HELD_OUT = 8  # samples of a validation
ATTENTION = (".attn1.", ".attn2.")  # what diffusers calls the two in each transformer block
Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class UnetParts:
    """The networks: a diffusers UNet2DConditionModel that is trained in place, and the frozen ones."""

    unet: Any
    vae: FrozenVae
    losses: LossNets


@dataclass(frozen=True)
class UnetData:
    """Samples as ClipWindows makes them, to learn from and to watch. extractor: whose audio features they hold."""

    train: Samples
    held_out: Samples
    extractor: str
    workers: int = 0


class UnetStage:
    """Trains a UNet, float32 weights on the processes' device; see loop.Stage.

    One pass at timestep 0 turns [masked, reference] latents and the sound's tokens into latents, which the frozen
    decoder turns into the picture that the losses see. name: of the recipe, noted in the result. Raises MuseTalkError
    for a UNet that does not hear the features or has other inputs.
    """

    def __init__(
        self,
        parts: UnetParts,
        recipe: Recipe,
        name: str,
        data: UnetData,
        processes: Processes,
        precision: str,
        seed: int,
    ) -> None:
        self._recipe, self._name, self._data = recipe, name, data
        self._processes, self._device, self._precision = processes, processes.device, precision
        self._layout = fastest_layout(torch.bfloat16 if precision == "bf16" else torch.float32)
        self._vae = parts.vae
        optimisation, sampling = recipe.optimisation, recipe.sampling
        unet = placed(cast(nn.Module, parts.unet), self._device, self._layout).train(True)
        trained = trainable(unet, optimisation.part)
        if optimisation.checkpointing:
            parts.unet.enable_gradient_checkpointing()
        with seeded(seed):
            self._objective = Objective(recipe.losses, recipe.discriminator, parts.losses, self._device)
        self._unet, self._shared = unet, processes.shared(unet)
        judges = self._objective.discriminators
        self.modules: dict[str, nn.Module] = {"model": unet, **judges}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": _optimizer(trained, optimisation)}
        self.schedules: dict[str, Schedule] = {"model": unet_schedule(optimisation)}
        for judge in judges:
            self.optimizers[judge] = _optimizer(list(judges[judge].parameters()), recipe.discriminator)
            self.schedules[judge] = discriminator_schedule(recipe.discriminator)
        self.ema = Ema(unet, optimisation.ema_decay) if optimisation.ema_decay else None
        self._shares = Shares(sampling.batch, optimisation.accumulate, processes.count, processes.rank)
        self._batches = ClipBatches(data.train, self._shares, data.workers)
        self._watched = self._held_out()
        self._check(parts.unet)
        self.facts = {
            "stage": "unet",
            "recipe": recipe_json(recipe),
            "precision": precision,
            "extractor": data.extractor,
        }

    def step(self, draw: np.random.Generator, share: float, number: int) -> dict[str, torch.Tensor]:
        """One update of the UNet from `accumulate` batches, and of the discriminators from the same pictures."""
        sampling, found = self._recipe.sampling, _Means()
        window = self._objective.window(sampling.frames, draw)
        dropped = torch.from_numpy(draw.random(self._shares.whole) < sampling.reference_dropout)
        for part, batch in enumerate(self._batches.take(number)):
            target = self._target(batch)
            without = dropped[list(self._shares.places(part))].to(self._device)
            with self._processes.accumulate(self._shared):
                made = self._make(self._shared, target.pixels[:, window], batch, window, without)
                loss, terms = self._objective.generator_step(target, made, number)
                self._processes.backward(loss)
            found.add(terms)
            found.add(self._judge(target, made, number))
        self._descend(number)
        return found.means()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """L1 of the lower half with the right sound, with another sample's, and of the reference as it is; PSNR and
        sharpness of the lower half against the source's."""
        target, reference = self._watched["target"].to(self._device), self._watched["reference"].to(self._device)
        real, made = lower_half(target[:, 0]), lower_half(self._watched_output(target))
        confused = {**self._watched, "tokens": self._watched["tokens"].roll(1, 0)}
        wrong = lower_half(self._watched_output(target, confused))
        shown, truth = ((part / 2 + 0.5).clamp(0, 1) for part in (made, real))
        return {
            "l1_right": float((made - real).abs().mean()),
            "l1_wrong_sound": float((wrong - real).abs().mean()),
            "l1_copied": float((lower_half(reference[:, 0]) - real).abs().mean()),
            "psnr_lower": mean_psnr(shown, truth),
            "sharpness_lower": mean_sharpness(shown, truth),
        }

    @torch.no_grad()
    def strip(self) -> list[torch.Tensor]:
        """Held-out samples: masked, reference, made, target, and made as at inference, which has one picture for both
        the masked face and the reference."""
        target, reference = self._watched["target"].to(self._device), self._watched["reference"].to(self._device)
        itself = {**self._watched, "reference": self._watched["target"]}
        pictures = [
            masked(target[:, 0]),
            reference[:, 0],
            self._watched_output(target),
            target[:, 0],
            self._watched_output(target, itself),
        ]
        return [(picture / 2 + 0.5).clamp(0, 1).cpu() for picture in pictures]

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        """The UNet, averaged where there is an average, and what inference must know of it (see UnetFacts)."""
        facts = {
            "layout": self._recipe.layout,
            "positions": self._recipe.positions,
            "mask": -1.0,
            "preset": self._name,
        }
        return self._result(), facts

    def _result(self) -> nn.Module:
        return self._unet if self.ema is None else self.ema.module

    def _target(self, batch: Batch) -> Target:
        pixels = batch["target"].to(self._device)
        losses = self._recipe.losses
        latents = self._latents(pixels) if losses.latents else None
        mel = batch["mel"].to(self._device) if losses.sync else None
        return Target(pixels, batch["mouths"].to(self._device), latents, mel)

    def _make(
        self, unet: nn.Module, pixels: torch.Tensor, batch: Batch, window: slice, dropped: torch.Tensor | None = None
    ) -> Made:
        """What the UNet makes of targets (B,S,3,H,W), the frames `window` of the batch's clips.

        dropped: (B,) bool, clips whose references are zeros.
        """
        reference = self._latents(batch["reference"][:, window].to(self._device))
        if dropped is not None:
            reference = reference * ~dropped[:, None, None, None, None]
        inputs = torch.cat([self._latents(masked(pixels)), reference], 2).flatten(0, 1)
        tokens = batch["tokens"][:, window].to(self._device).flatten(0, 1)
        if self._recipe.positions:
            tokens = tokens + positional_encoding(*tokens.shape[1:]).to(self._device)
        timestep = torch.zeros(1, dtype=torch.long, device=self._device)
        with autocast(self._precision, self._device):
            output = unet(inputs.contiguous(memory_format=self._layout), timestep, encoder_hidden_states=tokens)
        latents = output.sample.float()
        shape = pixels.shape[:2]
        return Made(self._vae.decode(latents).unflatten(0, shape), latents.unflatten(0, shape), window.start)

    def _latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B,T,3,H,W) -> (B,T,4,H/8,W/8), scaled."""
        return self._vae.encode(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])

    def _judge(self, target: Target, made: Made, number: int) -> dict[str, torch.Tensor]:
        """Add to the discriminators' gradients."""
        loss, terms = self._objective.discriminator_step(target, made, number)
        if loss is not None:
            (loss / self._recipe.optimisation.accumulate).backward()
        return terms

    def _descend(self, number: int) -> None:
        """Move all weights down their gradients and forget these."""
        for name, optimizer in self.optimizers.items():
            parameters = list(self.modules[name].parameters())
            if name != "model" and number >= self._recipe.losses.adversarial_from:
                self._processes.average_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, self._recipe.optimisation.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _held_out(self) -> dict[str, torch.Tensor]:
        """The first frames of HELD_OUT samples, which every validation sees."""
        samples = [self._data.held_out[i] for i in range(HELD_OUT)]
        return {key: torch.stack([sample[key][:1] for sample in samples]) for key in ("target", "reference", "tokens")}

    def _watched_output(self, target: torch.Tensor, batch: Batch | None = None) -> torch.Tensor:
        """What the result makes of the held-out samples (HELD_OUT,3,H,W), or of the same with other inputs."""
        return self._make(self._result(), target, batch or self._watched, slice(0, 1)).pixels[:, 0]

    def _check(self, unet: Any) -> None:
        width, channels = self._watched["tokens"].shape[-1], unet.config.in_channels
        if unet.config.cross_attention_dim != width:
            raise MuseTalkError(
                f"The audio features {self._data.extractor} have {width} channels and this UNet hears "
                f"{unet.config.cross_attention_dim}; choose other features or another UNet."
            )
        if (self._recipe.layout, channels) != ("musetalk", 8):
            raise MuseTalkError(
                f"The recipe's layout is {self._recipe.layout!r} and the UNet has {channels} input channels; the "
                "trainer makes 8: masked face and reference."
            )


class _Means:
    """Means of losses over the batches in which they occur."""

    def __init__(self) -> None:
        self._values: dict[str, list[torch.Tensor]] = {}

    def add(self, terms: Mapping[str, torch.Tensor]) -> None:
        for name, value in terms.items():
            self._values.setdefault(name, []).append(value)

    def means(self) -> dict[str, torch.Tensor]:
        return {name: torch.stack(values).mean() for name, values in self._values.items()}


def masked(pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (..,H,W) in [-1,1] with the lower half at -1, as at inference."""
    return mask_lower_half(pixels + 1) - 1


def trainable(unet: nn.Module, part: Part) -> list[nn.Parameter]:
    """The parameters that learn, all others frozen from now on."""
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_(part == "all" or any(word in name for word in ATTENTION))
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


def recipe_json(recipe: Recipe) -> str:
    """The recipe as JSON for a checkpoint; without its length, which may be changed when a run goes on."""
    values = asdict(recipe)
    del values["optimisation"]["steps"]
    return json.dumps(values, sort_keys=True)


def _optimizer(parameters: list[nn.Parameter], settings: Optimisation | DiscriminatorSettings) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters,
        settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
