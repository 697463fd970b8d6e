"""A whole training of MuseTalk's UNet: from a data folder and weight files to the trained UNet's file."""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import MuseTalkError
from ..weights.folders import ModelFolders
from ..weights.models import load_unet, load_vae
from .checkpoint import newest_checkpoint, read_tensors
from .clips import SOUND, clip_files
from .config import RunSettings, changed
from .frozen_vae import FrozenVae
from .loop import seeded, train
from .loss_nets import load_loss_nets
from .precision import choose_precision
from .processes import Processes
from .progress import Say
from .recipes import Recipe, Sampling
from .sampling import Margin, ReferenceChoice
from .unet import HELD_OUT, UnetData, UnetParts, UnetStage
from .windows import ClipWindows, WindowSettings

log = logging.getLogger(__name__)

ENDLESS = 2**62  # samples; a sample is drawn when it is asked for
OTHER_SEED = 1  # added for held-out samples
RANDOM = "random"
# configs/unet/musetalk.json of MuseTalk 1.0 and 1.5, the same but for its width.
MUSETALK_UNET = {
    "sample_size": 64,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
}


@dataclass(frozen=True)
class UnetTraining:
    """data: a prepared folder. out: gets what loop.train writes. start: a UNet's file, or "random". name: of the
    recipe. features: the audio encoder whose features are used, None when the data has those of one. workers:
    processes that prepare samples."""

    data: Path
    out: Path
    recipe: Recipe
    name: str
    start: str
    run: RunSettings
    folders: ModelFolders
    resume: bool
    say: Say
    features: str | None = None
    workers: int = 0

    def train(self) -> Path:
        """Train and return the UNet's file.

        Raises MissingWeightsError for the VAE or a loss without its file, MuseTalkError for what cannot be trained so.
        """
        processes = Processes(self.recipe.optimisation.accumulate, self.run.device)
        if processes.count > 1 and self.run.steps is None:
            raise MuseTalkError("Several processes have no common clock; give --steps instead of --minutes.")
        data = self._data()
        width = data.held_out[0]["tokens"].shape[-1]
        vae: Any = load_vae(self.folders.find("sd-vae-ft-mse"))
        losses = load_loss_nets(self.recipe.losses, self.folders, processes.device)
        parts = UnetParts(initial_unet(self.start, width, self.run.seed), FrozenVae(vae, processes.device), losses)
        precision = self._precision(processes.device)
        stage = UnetStage(parts, self.recipe, self.name, data, processes, precision, self.run.seed)
        return train(stage, self.run, self.out, self.resume, self.say, writes=processes.rank == 0)

    def _data(self) -> UnetData:
        extractor = self.features or stored_features(self.data)
        settings = window_settings(self.recipe.sampling)
        samples = ClipWindows(self.data, "train", extractor, settings, ENDLESS, self.run.seed)
        split = "val" if clip_files(self.data, "val") else "train"
        if split == "train":
            log.warning("No clip is held out; the figures of validations are of clips that are trained on.")
        watched = replace(settings, frames=1)
        held_out = ClipWindows(self.data, split, extractor, watched, HELD_OUT, self.run.seed + OTHER_SEED)
        return UnetData(samples, held_out, extractor, self.workers)

    def _precision(self, device: torch.device) -> str:
        """A run that is resumed keeps the precision it began with."""
        newest = newest_checkpoint(self.out / "checkpoints") if self.resume else None
        if newest is not None and self.run.precision == "auto":
            return read_tensors(newest)[1].get("precision", "fp32")
        return choose_precision(self.run.precision, device)


def initial_unet(start: str, width: int, seed: int) -> Any:
    """The UNet that training begins with, float32 on the CPU: of a file, or MuseTalk's with random weights.

    width: channels of the audio tokens, for a random one.
    """
    if start != RANDOM:
        return load_unet(Path(start))[0]
    from diffusers import UNet2DConditionModel

    with seeded(seed):
        return UNet2DConditionModel(**MUSETALK_UNET, cross_attention_dim=width)


def window_settings(sampling: Sampling) -> WindowSettings:
    """A recipe's samples in ClipWindows' terms."""
    dynamic = sampling.crop == "dynamic_margin_crop_resize"
    return WindowSettings(
        frames=sampling.frames,
        reference=ReferenceChoice(sampling.reference, sampling.top_share),
        margin=Margin(sampling.margin, sampling.margin_mean, sampling.margin_deviation) if dynamic else None,
        min_face=sampling.min_face,
        mouth_padding=sampling.mouth_padding,
        padding_left=sampling.audio_left,
        padding_right=sampling.audio_right,
    )


def stored_features(data: Path) -> str:
    """The audio encoder whose features a data folder holds. Raises MuseTalkError when it is none or not one."""
    found = sorted(path.name for path in (data / SOUND).glob("*") if path.is_dir() and path.name != "mel")
    if not found:
        raise MuseTalkError(f"{data} has no audio features; make them with `train features --data {data}`.")
    if len(found) > 1:
        raise MuseTalkError(f"{data} has features of {', '.join(found)}; choose with --features.")
    return found[0]


def changed_recipe(recipe: Recipe, changes: dict[str, Any], owner: str) -> Recipe:
    """The recipe with other values of its losses, optimisation and sampling, of "positions", and of its discriminators
    as "discriminator.NAME".

    Raises MuseTalkError as config.changed does.
    """
    parts: dict[str, dict[str, Any]] = {"losses": {}, "optimisation": {}, "sampling": {}, "discriminator": {}}
    places = {name: part for part in parts for name in asdict(getattr(recipe, part)) if part != "discriminator"}
    rest = {}
    for name, value in changes.items():
        group, _, inner = name.rpartition(".")
        if group == "discriminator":
            parts[group][inner] = value
        elif name in places:
            parts[places[name]][name] = value
        elif name == "positions":
            rest[name] = value
        else:
            known = f"{', '.join(places)}, positions, discriminator.learning_rate ..."
            raise MuseTalkError(f"{owner}: {name!r} is no setting; known are {known}.")
    made = {part: changed(getattr(recipe, part), values, owner) for part, values in parts.items()}
    return changed(replace(recipe, **made), rest, owner)
