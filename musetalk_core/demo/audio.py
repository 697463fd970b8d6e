"""The demo model's audio encoder: five hidden states of a small convolutional network over Whisper's mel spectrum."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..errors import MuseTalkError

WINDOW_SAMPLES = 480_000  # 30 s at 16 kHz, what one spectrum of 3000 columns covers
SAMPLE_RATE = 16_000
ROW_SAMPLES = 320  # 20 ms


class DilatedBlock(nn.Module):
    """x + conv1(gelu(conv5(norm(x)))): looks `dilation` rows apart, two to each side."""

    def __init__(self, width: int, hidden: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, hidden, 5, padding=2 * dilation, dilation=dilation)
        self.project = nn.Conv1d(hidden, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, width, rows)
        y = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return x + self.project(F.gelu(self.conv(y)))


class DemoAudioNet(nn.Module):
    """Log-mel spectrum (B,80,2R) -> hidden states (B,R,states,width): the stem's output and each block's.

    states = len(dilations) + 1. The last state is layer-normalised, as Whisper's is. reach: rows to each side that a
    row depends on.
    """

    def __init__(
        self,
        mel_bins: int = 80,
        width: int = 128,
        hidden: int = 256,
        dilations: Sequence[int] = (1, 2, 3, 4),
    ) -> None:
        super().__init__()
        self.width = width
        self.states = len(dilations) + 1
        # Two to each side of every block; the two first convolutions and the spectrum's windows see less than 2 rows.
        self.reach = 2 * sum(dilations) + 2
        self.conv1 = nn.Conv1d(mel_bins, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([DilatedBlock(width, hidden, dilation) for dilation in dilations])
        self.norm = nn.LayerNorm(width)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel))))
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1]))
        rows = torch.stack(states, dim=1).permute(0, 3, 1, 2)  # (B, rows, states, width)
        return torch.cat([rows[:, :, :-1], self.norm(rows[:, :, -1:])], dim=2)


class DemoAudioEncoder:
    """An AudioEncoder around a DemoAudioNet that already lies on `device` in `dtype`."""

    extractor = "demo"

    def __init__(self, module: DemoAudioNet, device: torch.device | str, dtype: torch.dtype) -> None:
        from transformers import WhisperFeatureExtractor

        self.module = module
        self.device = torch.device(device)
        self.dtype = dtype
        self.states = module.states
        self.width = module.width
        self.reach = module.reach
        self._mel = WhisperFeatureExtractor()

    @torch.no_grad()
    def encode(self, samples: np.ndarray) -> torch.Tensor:
        """Hidden states (1500, states, width) float32 on the encoder's device of (n,) float32 samples at 16 kHz.

        At most 30 s; shorter audio is padded with silence, rows are 50 per second. Raises MuseTalkError when longer.
        """
        if len(samples) > WINDOW_SAMPLES:
            raise MuseTalkError(
                f"The audio encoder was given {len(samples)} samples; give at most {WINDOW_SAMPLES} (30 s) at a time."
            )
        return self._hidden(self._mel(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features)

    @torch.no_grad()
    def encode_part(self, samples: np.ndarray) -> torch.Tensor:
        """Hidden states (n // 320, states, width) of (n,) float32 samples at 16 kHz alone: nothing is padded."""
        mel = self._mel(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="do_not_pad").input_features
        return self._hidden(mel)[: len(samples) // ROW_SAMPLES]

    def _hidden(self, mel: torch.Tensor) -> torch.Tensor:
        return self.module(mel.to(self.device, self.dtype))[0].float()
