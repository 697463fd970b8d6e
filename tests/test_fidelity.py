"""The whole chain on random weights in the true file formats, against the published formulas written out here.

The reference below goes frame by frame, with diffusers, transformers, PIL and OpenCV alone. Sizes are tiny, layouts
and formats are the real ones (.pth UNet, diffusers VAE folder, Hugging Face Whisper folder, BiSeNet .pth).
"""

import math
from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from bisenet_reference import random_bisenet, reference_labels
from clips import moving_portrait, tone
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

from musetalk_core.audio_features import extract_features
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.settings import LipSyncSettings
from musetalk_core.tasks import locate_all
from musetalk_core.weights.folders import ModelFolders

FPS = Fraction(25)
WIDTH = 64


@pytest.fixture(scope="module")
def nets():
    torch.manual_seed(1)
    cross = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=8, out_channels=4, block_out_channels=(32, 32, 64, 64), layers_per_block=2,
        cross_attention_dim=WIDTH, attention_head_dim=8, down_block_types=cross,
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32), layers_per_block=2, latent_channels=4, scaling_factor=0.18215,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    whisper = WhisperModel(
        WhisperConfig(d_model=WIDTH, encoder_layers=4, encoder_attention_heads=1, encoder_ffn_dim=128,
                      decoder_layers=1, decoder_attention_heads=1, decoder_ffn_dim=64)
    )  # fmt: skip
    return [*(net.train(False) for net in (unet, vae, whisper)), random_bisenet()]


@pytest.fixture(scope="module")
def weights(nets, tmp_path_factory):
    unet, vae, whisper, bisenet = nets
    folder = tmp_path_factory.mktemp("models")
    torch.save(unet.state_dict(), folder / "unet.pth")
    vae.save_pretrained(folder / "sd-vae")
    whisper.save_pretrained(folder / "whisper")
    torch.save(bisenet.state_dict(), folder / "79999_iter.pth")
    return folder


def reference_tokens(whisper, samples, frames):
    """30 s segments, 5 states a row, rows 2i-4 .. 2i+5 at 25 frames/s, zeros outside."""
    extractor = WhisperFeatureExtractor()
    parts = []
    for start in range(0, len(samples), 480000):
        mel = extractor(samples[start : start + 480000], sampling_rate=16000, return_tensors="pt").input_features
        parts.append(torch.stack(whisper.encoder(mel, output_hidden_states=True).hidden_states, 2)[0])
    rows = torch.cat(parts)[: math.floor(len(samples) / 16000 * 50)]
    rows = torch.cat([torch.zeros(4, 5, WIDTH), rows, torch.zeros(12, 5, WIDTH)])
    return torch.stack([rows[2 * i : 2 * i + 10].reshape(50, WIDTH) for i in range(frames)])


def reference_face(unet, vae, crop, tokens):
    """One frame: two latents, one pass at timestep 0 with sinusoidal positions, decoded to uint8."""
    pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    masked = pixels.clone()
    masked[:, :, 128:] = 0
    latents = [vae.encode(p * 2 - 1).latent_dist.mode() * 0.18215 for p in (masked, pixels)]
    positions = torch.zeros(50, WIDTH)
    for k in range(0, WIDTH, 2):
        angle = torch.arange(50) / 10000 ** (k / WIDTH)
        positions[:, k], positions[:, k + 1] = angle.sin(), angle.cos()
    out = unet(torch.cat(latents, 1), torch.tensor([0]), encoder_hidden_states=tokens[None] + positions).sample
    picture = (vae.decode(out / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    return (picture[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


def reference_blend(bisenet, frame, face, box, version):
    """PIL crop of the square, parsing, mask in the box, lower half, blur, paste."""
    x1, y1, x2, y2 = box
    cx, cy = (x1 + x2) // 2, (y1 + y2) // 2
    s = int(max(x2 - x1, y2 - y1) // 2 * 1.5)
    square = (cx - s, cy - s, cx + s, cy + s)
    body = Image.fromarray(frame)
    region = body.crop(square)
    labels = reference_labels(bisenet.state_dict(), np.asarray(region))[1]
    if version == "v1.0":
        chosen = np.isin(labels, (1, 11, 12, 13))
    else:
        kernel = np.zeros((33, 33), np.uint8)
        for row in range(10, 33):
            half = min(row, 20) - 10
            kernel[row, 16 - half : 17 + half] = 1
        wide = cv2.dilate((labels == 1).astype(np.uint8), kernel)
        thin = cv2.erode(wide, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (35, 3)), iterations=2)
        wide[:, : 256 - 90 + 1] = thin[:, : 256 - 90 + 1]
        wide[:, 256 + 90 :] = thin[:, 256 + 90 :]
        chosen = ((wide > 0) & (labels != 10)) | np.isin(labels, (11, 12, 13))
    mask = np.asarray(Image.fromarray(chosen.astype(np.uint8) * 255).resize(region.size))
    kept = np.zeros_like(mask)
    top, left = max(y1 - square[1], s), x1 - square[0]
    kept[top : y2 - square[1], left : x2 - square[0]] = mask[top : y2 - square[1], left : x2 - square[0]]
    kernel_size = int(0.05 * 2 * s // 2 * 2) + 1
    soft = Image.fromarray(cv2.GaussianBlur(kept, (kernel_size, kernel_size), 0))
    region.paste(Image.fromarray(cv2.resize(face, (x2 - x1, y2 - y1))), (x1 - square[0], y1 - square[1]))
    body.paste(region, square[:2], soft)
    return np.asarray(body)


@pytest.mark.parametrize("version", ["v1.5", "v1.0"])
@torch.inference_mode()
def test_frames_equal_the_published_formulas(version, nets, weights, tmp_path):
    unet, vae, whisper, bisenet = nets
    choice = WeightChoice(
        version, weights / "unet.pth", None, weights / "sd-vae", weights / "whisper", weights / "79999_iter.pth"
    )
    engine = load_engine(choice, ModelFolders.default(tmp_path), torch.device("cpu"), torch.float32)
    samples = tone(0.2)
    frames = moving_portrait(3, 320)
    settings = LipSyncSettings.for_version(version, batch_size=3, segmentation="upstream")
    tokens = extract_features(engine.audio_encoder, samples, Fraction(1, 5), FPS, segmentation="upstream")
    expected_tokens = reference_tokens(whisper, samples, 5)
    error = (tokens.tokens(0, 5) - expected_tokens).norm() / expected_tokens.norm()
    assert error < 1e-4

    source = TensorFrames(torch.from_numpy(frames), FPS)
    models = engine.models(settings)
    track = locate_all(source, models.locator, 3)
    result = list(lip_sync(source, tokens, 5, models, settings, track=track))
    for i, k in enumerate([0, 1, 2, 2, 1]):
        x1, y1, x2, y2 = box = [int(v) for v in track.boxes[k]]
        crop = cv2.resize(frames[k][y1:y2, x1:x2], (256, 256), interpolation=cv2.INTER_LANCZOS4)
        face = reference_face(unet, vae, crop, expected_tokens[i])
        expected = reference_blend(bisenet, frames[k], face, box, version)
        assert np.abs(result[i].numpy().astype(int) - expected.astype(int)).max() <= 1
        assert (expected != frames[k]).any(), "the reference must change something"
