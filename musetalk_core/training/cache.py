"""What the generator learns from, prepared once: latents and mouths of every frame, features of every speech."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..audio_features import AudioEncoder
from ..demo.audio import WINDOW_SAMPLES, DemoAudioNet
from ..latents import Codec, crops_to_pixels, mask_lower_half
from .checkpoint import read_tensors, write_tensors
from .data import TAKES, Corpus, Footage, Track, jittered
from .progress import Say
from .spectrum import altered, log_mel, normalised, room_tone

# The window of the 32x32 latents that holds the mouth and the chin, and what of it is compared after decoding: at
# its cut edges the decoder sees zeros instead of neighbours.
WINDOW = (slice(14, 32), slice(5, 27))
COMPARED = (slice(16, 32), slice(7, 25))
SCALE = 8  # pixels a latent
STILL_VARIANTS = 3
BATCH = 16
MEL_COLUMNS = 3000  # 30 s, what the encoder sees at inference
SILENT_ROWS, SILENT_VARIANTS = 64, 4


@dataclass(frozen=True)
class TrackLatents:
    """One track, ready to train on. T = 2 takes, V = box variants, N frames.

    whole, masked: (T,V,N,4,32,32) float16 unscaled latents; mouths: (T,V,N,3,128,144) uint8, the pixels of COMPARED;
    still: (S,4,32,32); hidden: (T,K,R,states,width) float16, features of the sound as it is (0) and altered;
    silent: (L,Q,states,width) float16, features of recordings in which nobody speaks; gaps: (T,N) float32.
    """

    whole: torch.Tensor
    masked: torch.Tensor
    mouths: torch.Tensor
    still: torch.Tensor
    hidden: torch.Tensor
    silent: torch.Tensor
    gaps: torch.Tensor


def prepare(
    corpus: Corpus,
    split: str,
    codec: Codec,
    encoder: AudioEncoder,
    audio_net: DemoAudioNet,
    variants: tuple[int, int],
    folder: Path,
    key: str,
    say: Say,
) -> list[TrackLatents]:
    """The tracks of a split, from `folder` where they are there already, else made and stored.

    variants: (box, sound). key: names what the content depends on (weights, settings); a file with another key is
    made anew.
    """
    tracks = corpus.tracks(split)
    prepared = []
    for number, track in enumerate(tracks, 1):
        path = folder / f"{track.name}.safetensors"
        full_key = hashlib.sha256(f"{key} {sorted(track.digests)} {variants}".encode()).hexdigest()
        if not _is_made(path, full_key):
            folder.mkdir(parents=True, exist_ok=True)
            made = _prepare_track(track, codec, encoder, audio_net, variants)
            write_tensors(path, vars(made), {"key": full_key})
            say(f"prepared {split} track {number} of {len(tracks)}")
        prepared.append(TrackLatents(**read_tensors(path)[0]))
    return prepared


def _is_made(path: Path, key: str) -> bool:
    return path.is_file() and read_tensors(path)[1].get("key") == key


def _prepare_track(
    track: Track, codec: Codec, encoder: AudioEncoder, audio_net: DemoAudioNet, variants: tuple[int, int]
) -> TrackLatents:
    draw = np.random.default_rng(int(hashlib.sha256(track.name.encode()).hexdigest()[:8], 16))
    boxes = np.stack([[jittered(box, draw) for box in track.boxes] for _ in range(variants[0])])
    takes = [_encode_take(track.footage(take, range(len(track))), boxes, codec) for take in TAKES]
    still = track.still()
    crops = [still.crop(0, jittered(track.boxes[0], draw)) for _ in range(STILL_VARIANTS)]
    hidden = [_features(track.samples[take], encoder, audio_net, variants[1], draw) for take in TAKES]
    rows = min(len(part[0]) for part in hidden)
    whole, masked, mouths = (torch.stack(parts) for parts in zip(*takes, strict=True))
    return TrackLatents(
        whole,
        masked,
        mouths,
        still=codec.encode(crops_to_pixels(torch.stack(crops))).half().cpu(),
        hidden=torch.stack([part[:, :rows] for part in hidden]),
        silent=_silence(audio_net, draw),
        gaps=torch.stack([torch.from_numpy(track.gaps[take]).float() for take in TAKES]),
    )


def _encode_take(footage: Footage, boxes: np.ndarray, codec: Codec) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole and masked latents and mouth pixels of boxes (V,N,4), each (V,N,...)."""
    parts = []
    for crops in _batches(footage, boxes):
        pixels = crops_to_pixels(crops)
        rows, columns = (slice(part.start * SCALE, part.stop * SCALE) for part in COMPARED)
        latents = codec.encode(torch.cat([pixels, mask_lower_half(pixels)])).half().cpu()
        parts.append((*latents.chunk(2), crops[:, rows, columns].permute(0, 3, 1, 2).contiguous()))
    whole, masked, mouths = (torch.cat(part) for part in zip(*parts, strict=True))
    shape = boxes.shape[:2]
    return whole.unflatten(0, shape), masked.unflatten(0, shape), mouths.unflatten(0, shape)


def _batches(footage: Footage, boxes: np.ndarray) -> Iterator[torch.Tensor]:
    """Crops (B,256,256,3), variant by variant, frame by frame."""
    crops = []
    for variant in boxes:
        for position, box in enumerate(variant):
            crops.append(footage.crop(position, box))
            if len(crops) == BATCH:
                yield torch.stack(crops)
                crops = []
    if crops:
        yield torch.stack(crops)


@torch.no_grad()
def _features(
    samples: np.ndarray, encoder: AudioEncoder, net: DemoAudioNet, variants: int, draw: np.random.Generator
) -> torch.Tensor:
    """(K,R,states,width) float16 of a speech of at most 30 s: heard as at inference, then K-1 times altered."""
    samples = samples[:WINDOW_SAMPLES]
    rows = len(samples) // 320
    found = [encoder.encode(samples.astype(np.float32) / 32768)[:rows].half().cpu()]
    parameter = next(net.parameters())
    for _ in range(variants - 1):
        mel = log_mel(samples)
        padded = torch.full((mel.shape[0], MEL_COLUMNS), -10.0)
        padded[:, : mel.shape[1]] = altered(mel, draw)
        found.append(net(normalised(padded)[None].to(parameter))[0, :rows].half().cpu())
    return torch.stack(found)


@torch.no_grad()
def _silence(net: DemoAudioNet, draw: np.random.Generator) -> torch.Tensor:
    """(L,Q,states,width) float16: the first rows of 30 s in which nobody speaks."""
    parameter = next(net.parameters())
    mels = torch.stack([room_tone(MEL_COLUMNS, draw) for _ in range(SILENT_VARIANTS)]).to(parameter)
    return net(mels)[:, :SILENT_ROWS].half().cpu()
