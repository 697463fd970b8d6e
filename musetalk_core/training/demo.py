"""The three trainings of the demo model, one after the other or (the first two) side by side, and its one file."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..demo.audio import DemoAudioEncoder
from ..demo.codec import DemoCodec
from ..demo.loader import DemoNets, initial_nets, save_demo
from ..engine import choose_device
from .audio import AudioStage
from .autoencoder import AutoencoderStage
from .cache import TrackLatents, prepare
from .checkpoint import load_weights, newest_checkpoint, read_tensors
from .config import AudioSettings, AutoencoderSettings, GeneratorSettings, RunSettings
from .data import Corpus
from .generator import GeneratorStage
from .loop import WEIGHTS, train
from .precision import choose_precision
from .progress import Say

AUTOENCODER, AUDIO, GENERATOR, CACHE, MODEL = "autoencoder", "audio", "generator", "cache", "demo.safetensors"


@dataclass(frozen=True)
class DemoTraining:
    """A folder of data, a folder for everything that is made from it, and how to run.

    The networks start from demo/config.json at a fixed seed. out: autoencoder/, audio/, generator/ hold each
    training's checkpoints, progress.csv, strips and weights; cache/ the prepared tracks; demo.safetensors the model.
    """

    data: Path
    out: Path
    run: RunSettings
    resume: bool
    say: Say

    def autoencoder(self, settings: AutoencoderSettings) -> Path:
        """Train the autoencoder; returns its weights' file."""
        device, precision = self._place(AUTOENCODER)
        nets = initial_nets()
        stage = AutoencoderStage(nets.vae, Corpus(self.data), settings, device, precision, self.run.seed)
        return train(stage, self.run, self.out / AUTOENCODER, self.resume, self.say)

    def audio(self, settings: AudioSettings) -> Path:
        """Train the audio encoder; returns its weights' file."""
        device, precision = self._place(AUDIO)
        nets = initial_nets()
        stage = AudioStage(nets.audio, Corpus(self.data), settings, device, precision, self.run.seed)
        return train(stage, self.run, self.out / AUDIO, self.resume, self.say)

    def generator(self, settings: GeneratorSettings) -> Path:
        """Prepare the tracks and train the generator on them; returns the finished model's file.

        Raises MuseTalkError when the autoencoder or the audio encoder is not trained yet.
        """
        device, precision = self._place(GENERATOR)
        nets = self._trained_parts(device)
        tracks = {split: self._prepared(nets, split, settings, device) for split in ("train", "val")}
        stage = GeneratorStage(
            nets.unet, nets.vae, tracks["train"], tracks["val"], settings, device, precision, self.run.seed
        )
        weights = train(stage, self.run, self.out / GENERATOR, self.resume, self.say)
        facts = load_weights(weights, nets.modules()["unet"])
        finished = replace(nets, config={**nets.config, "scaling": facts["scaling"]})
        for module in finished.modules().values():
            torch.nn.Module.half(module)  # diffusers' own warns of modules that were kept in float32
        save_demo(self.out / MODEL, finished)
        return self.out / MODEL

    def _trained_parts(self, device: torch.device) -> DemoNets:
        nets = initial_nets()
        load_weights(self.out / AUTOENCODER / WEIGHTS, nets.vae)
        load_weights(self.out / AUDIO / WEIGHTS, nets.audio)
        nets.vae.to(device)
        nets.audio.to(device)
        return nets

    def _prepared(
        self, nets: DemoNets, split: str, settings: GeneratorSettings, device: torch.device
    ) -> list[TrackLatents]:
        parts = [(self.out / part / WEIGHTS).read_bytes() for part in (AUTOENCODER, AUDIO)]
        key = " ".join(hashlib.sha256(part).hexdigest() for part in parts)
        codec = DemoCodec(nets.vae, device, torch.float32)
        encoder = DemoAudioEncoder(nets.audio, device, torch.float32)
        variants = settings.box_variants, settings.sound_variants
        folder = self.out / CACHE
        return prepare(Corpus(self.data), split, codec, encoder, nets.audio, variants, folder, key, self.say)

    def _place(self, part: str) -> tuple[torch.device, str]:
        """Device and precision; a run that is resumed keeps the precision it began with."""
        device = choose_device(self.run.device)
        newest = newest_checkpoint(self.out / part / "checkpoints") if self.resume else None
        if newest is not None and self.run.precision == "auto":
            return device, read_tensors(newest)[1].get("precision", "fp32")
        return device, choose_precision(self.run.precision, device)
