"""LatentSync's SyncNet: one embedding for 16 mouths, one for their 0.64 s of sound, alike when they belong together.

Li et al. 2024, "LatentSync", configs/syncnet/syncnet_16_pixel{,_attn}.yaml. Module names are the keys of the published
checkpoints: `latentsync_syncnet.pt` (LatentSync 1.0) has no attention, `stable_syncnet.pt` (1.5 and later) has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 16  # at 25/s
FACE_SIZE = 256  # pixels; it sees the lower half
MEL_BANDS, MEL_STEPS = 80, 52
GROUPS, EPSILON = 32, 1e-6
HEADS = 8
Stride = tuple[int, int]

AUDIO_STRIDES: tuple[Stride, ...] = ((2, 1), (2, 2), (2, 2), (1, 1), (2, 2), (2, 2), (2, 3))
VISUAL_STRIDES: tuple[Stride, ...] = ((1, 2), *((2, 2),) * 7)


@dataclass(frozen=True)
class Encoder:
    """The form of one half: channels of every block, and which blocks have attention behind them."""

    widths: tuple[int, ...]
    attention: tuple[bool, ...]


def _where(blocks: int, *attended: int) -> tuple[bool, ...]:
    return tuple(number in attended for number in range(blocks))


AUDIO_WIDTHS = (32, 64, 128, 256, 512, 1024, 2048)
VISUAL_WIDTHS = (64, 128, 256, 256, 512, 1024, 2048, 2048)
PLAIN = (Encoder(AUDIO_WIDTHS, _where(7)), Encoder(VISUAL_WIDTHS, _where(8)))
ATTENTIVE = (Encoder(AUDIO_WIDTHS, _where(7, 3, 4)), Encoder(VISUAL_WIDTHS, _where(8, 4, 5)))


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, EPSILON)


class _Block(nn.Module):
    """Two convolutions beside a shortcut, then a convolution that strides."""

    def __init__(self, inputs: int, outputs: int, stride: Stride) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.downsample_conv = nn.Conv2d(outputs, outputs, 3, stride) if stride != (1, 1) else nn.Identity()
        self._pad = _padding(stride)

    def forward(self, maps: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(maps)))
        inner = self.conv2(F.silu(self.norm2(inner)))
        return self.downsample_conv(F.pad(self.conv_shortcut(maps) + inner, self._pad))


def _padding(stride: Stride) -> tuple[int, int, int, int]:
    """(left, right, top, bottom): both edges of an axis that keeps its length, the far edge of one that shrinks."""
    if stride == (1, 1):
        return 0, 0, 0, 0
    return int(stride[1] == 1), 1, int(stride[0] == 1), 1


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, rows: Tensor) -> Tensor:
        query, key, value = (
            layer(rows).unflatten(2, (HEADS, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.to_out[0](mixed.transpose(1, 2).flatten(2))


class _Gate(nn.Module):
    """GEGLU (Shazeer 2020)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * inner)

    def forward(self, rows: Tensor) -> Tensor:
        values, gate = self.proj(rows).chunk(2, -1)
        return values * F.gelu(gate)


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_Gate(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, rows: Tensor) -> Tensor:
        return self.net(rows)


class _AttentionBlock(nn.Module):
    """Every place of the maps looks at all others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = _norm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.conv_in, self.conv_out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.attn, self.ff = _Attention(width), _FeedForward(width)

    def forward(self, maps: Tensor) -> Tensor:
        rows = self.conv_in(self.norm1(maps)).flatten(2).transpose(1, 2)
        rows = rows + self.attn(self.norm2(rows))
        rows = rows + self.ff(self.norm3(rows))
        return maps + self.conv_out(rows.transpose(1, 2).unflatten(2, maps.shape[2:]))


class _Half(nn.Module):
    def __init__(self, channels: int, form: Encoder, strides: Sequence[Stride]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, form.widths[0], 3, padding=1)
        blocks: list[nn.Module] = []
        inputs = form.widths[0]
        for width, attended, stride in zip(form.widths, form.attention, strides, strict=True):
            blocks.append(_Block(inputs, width, stride))
            if attended:
                blocks.append(_AttentionBlock(width))
            inputs = width
        self.down_blocks = nn.Sequential(*blocks)
        self.norm_out = _norm(inputs)

    def forward(self, maps: Tensor) -> Tensor:
        """(B,W) of length 1, W the last block's channels."""
        embedding = F.relu(self.norm_out(self.down_blocks(self.conv_in(maps)))).flatten(1)
        return F.normalize(embedding, dim=1)


class LatentSyncNet(nn.Module):
    """Both halves; the cosine of their embeddings is 0 to 1, because none has a negative number."""

    def __init__(self, audio: Encoder = PLAIN[0], visual: Encoder = PLAIN[1]) -> None:
        super().__init__()
        self.audio_encoder = _Half(1, audio, AUDIO_STRIDES)
        self.visual_encoder = _Half(3 * FRAMES, visual, VISUAL_STRIDES)

    def hear(self, mel: Tensor) -> Tensor:
        """Log-mel windows (B,1,80,52), Wav2Lip's in -4..4 at 80 rows/s -> embeddings (B,2048) of length 1."""
        return self.audio_encoder(mel)

    def see(self, mouths: Tensor) -> Tensor:
        """Lower halves of 16 faces in a row at 25/s, (B,48,128,256): RGB in -1..1, frame after frame -> (B,2048)."""
        return self.visual_encoder(mouths)
