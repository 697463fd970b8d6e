"""Training of the demo model's audio encoder: from the sound of speech to the curves of a mouth."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..demo.audio import DemoAudioNet
from ..errors import MuseTalkError
from . import losses
from .config import AudioSettings, as_json
from .data import CURVES, VISEMES, Corpus, Speech
from .ema import Ema
from .loop import descend, seeded
from .precision import autocast
from .schedules import Schedule, rate_scale
from .spectrum import altered, log_mel, normalised, room_tone, with_holes

PAUSE_ROWS = (5, 60)  # length of the pauses between joined utterances
DROPOUT = 0.1
HELD_OUT_MOST = 24


class MouthReader(nn.Module):
    """An audio encoder and the linear head that reads mouth curves and visemes off its last state."""

    def __init__(self, encoder: DemoAudioNet) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, len(CURVES) + VISEMES)

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised log-mel (B,80,2R) -> standardised curves (B,R,5) and viseme logits (B,R,22)."""
        hidden = F.dropout(self.encoder(mel)[:, :, -1], DROPOUT, self.training)
        both = self.head(hidden)
        return both[..., : len(CURVES)], both[..., len(CURVES) :]


class SpeechRows:
    """Utterances as spectra with their curves and visemes, aligned: two columns of 10 ms a row of 20 ms."""

    def __init__(self, speeches: list[Speech]) -> None:
        if not speeches:
            raise MuseTalkError("The data has too little speech; make more with scripts/make_corpus.py.")
        self.mels = [log_mel(speech.samples)[:, : 2 * len(speech.curves)].half() for speech in speeches]
        self.curves = [torch.from_numpy(speech.curves) for speech in speeches]
        self.visemes = [torch.from_numpy(speech.viseme).long() for speech in speeches]
        curves, visemes = torch.cat(self.curves), torch.cat(self.visemes)
        self.spread = curves.std(0).clamp(min=1e-3)
        silent = curves[visemes == 0]
        self.rest = (silent if len(silent) else curves).median(0).values

    def __len__(self) -> int:
        return len(self.mels)

    def silence(self, rows: int, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A window in which nobody speaks, and the resting mouth that belongs to it; shaped as `window`'s."""
        return room_tone(2 * rows, draw), self.rest.expand(rows, -1), torch.zeros(rows, dtype=torch.long)

    def window(self, rows: int, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A piece of joined utterances and pauses: altered, normalised mel (80,2*rows), curves (rows,5), visemes."""
        mels, curves, visemes, length = [], [], [], 0
        while length < rows + 50:
            index = int(draw.integers(len(self)))
            mel = self.mels[index].float()
            pieces = [(mel, self.curves[index], self.visemes[index])]
            if draw.random() < 0.5:
                pieces.append(self._pause(float(mel.min()), int(draw.integers(*PAUSE_ROWS)), draw))
            for piece in pieces:
                mels.append(piece[0])
                curves.append(piece[1])
                visemes.append(piece[2])
                length += len(piece[1])
        start = int(draw.integers(0, length - rows + 1))
        stop = start + rows
        mel = altered(torch.cat(mels, 1)[:, 2 * start : 2 * stop], draw)
        return with_holes(normalised(mel), draw), torch.cat(curves)[start:stop], torch.cat(visemes)[start:stop]

    def _pause(
        self, level: float, rows: int, draw: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        noise = torch.from_numpy(draw.normal(level, 0.2, (80, 2 * rows)).astype(np.float32))
        return noise, self.rest.expand(rows, -1), torch.zeros(rows, dtype=torch.long)


class AudioStage:
    """Trains a DemoAudioNet in place, float32 weights on `device`; see loop.Stage."""

    def __init__(
        self,
        encoder: DemoAudioNet,
        corpus: Corpus,
        settings: AudioSettings,
        device: torch.device,
        precision: str,
        seed: int = 0,
    ) -> None:
        self._settings = settings
        self._device = device
        self._precision = precision
        with seeded(seed):
            reader = MouthReader(encoder)
        self._model = reader.to(device).train(True).requires_grad_(True)
        self.modules: dict[str, nn.Module] = {"model": self._model}
        self.optimizers: dict[str, torch.optim.Optimizer] = {
            "model": torch.optim.AdamW(
                reader.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
            )
        }
        self.schedules: dict[str, Schedule] = dict.fromkeys(self.optimizers, rate_scale)
        self.ema = Ema(self._model, settings.ema_decay)
        self.facts = {"stage": "demo-audio", "settings": as_json(settings), "precision": precision}
        speeches = corpus.speeches()
        self._rows = SpeechRows([speech for speech in speeches if not speech.held_out])
        self._held_out = SpeechRows([speech for speech in speeches if speech.held_out][:HELD_OUT_MOST])
        self._spread = self._rows.spread.to(device)
        self._l1 = torch.tensor(settings.l1, device=device)
        self._mse = torch.tensor(settings.mse, device=device)

    def step(self, draw: np.random.Generator, share: float, number: int) -> dict[str, torch.Tensor]:
        """One batch of windows."""
        windows = [self._window(draw) for _ in range(self._settings.batch)]
        mel, curves, visemes = (torch.stack(part).to(self._device) for part in zip(*windows, strict=True))
        with autocast(self._precision, self._device):
            output, logits = self._model(mel)
        curve = losses.curve_loss(output.float(), curves / self._spread, self._l1, self._mse)
        viseme = F.cross_entropy(logits.float().flatten(0, 1), visemes.flatten())
        loss = curve + self._settings.viseme * viseme
        descend(loss, self.optimizers["model"], self._model, self._settings.clip)
        return {"curves": curve, "viseme": viseme}

    def _window(self, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        drawn = self._rows.silence if draw.random() < self._settings.silent_share else self._rows.window
        return drawn(self._settings.window_rows, draw)

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Correlation of each curve, and the share of visemes that are right, on whole held-out utterances."""
        outputs, right, count = [], 0, 0
        for mel, visemes in zip(self._held_out.mels, self._held_out.visemes, strict=True):
            with autocast(self._precision, self._device):
                output, logits = self.ema.module(normalised(mel.float())[None].to(self._device))
            outputs.append(output[0].float().cpu())
            right += int((logits[0].argmax(1).cpu() == visemes).sum())
            count += len(visemes)
        made, true = torch.cat(outputs).double(), torch.cat(self._held_out.curves).double()
        figures = {f"r_{name}": _correlation(made[:, i], true[:, i]) for i, name in enumerate(CURVES)}
        return {**figures, "viseme_right": right / count}

    def strip(self) -> list[torch.Tensor]:
        """Nothing to see."""
        return []

    def result(self) -> tuple[nn.Module, dict[str, Any]]:
        """The averaged encoder without its head."""
        return self.ema.module.get_submodule("encoder"), {}


def _correlation(x: torch.Tensor, y: torch.Tensor) -> float:
    """Pearson's r, 0 when one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-12))
