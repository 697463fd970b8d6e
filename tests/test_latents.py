"""Latents: the codec against a direct use of diffusers, the masked half, and crops as they come."""

import pytest
import torch
from diffusers import AutoencoderKL

from musetalk_core.errors import MuseTalkError
from musetalk_core.latents import DiffusersCodec, crops_to_pixels, decode_faces, encode_crops, mask_lower_half


def make_vae():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 16, 16],
        norm_num_groups=8,
        scaling_factor=0.18215,
    ).train(False)


@pytest.fixture(scope="module")
def vae():
    return make_vae()


@pytest.fixture(scope="module")
def exact_vae():
    """The same network in float64, whose result no kernel's rounding can blur."""
    return make_vae().double()


@pytest.fixture(scope="module")
def codec(vae):
    return DiffusersCodec(vae, "cpu", torch.float32)


@pytest.fixture
def crops():
    return torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def mean_by_formula(vae, centred):
    """The posterior's mean: the first half of the moments that encoder and 1x1 convolution give; unscaled."""
    with torch.no_grad():
        return vae.quant_conv(vae.encoder(centred))[:, :4]


def test_latents_of_crops_by_formula(exact_vae, codec, crops):
    """x/255, lower half black, to -1..1 by (x - 0.5)/0.5, posterior mean, no scaling."""
    unit = crops.permute(0, 3, 1, 2).double() / 255
    black = unit * (torch.arange(256) < 128)[:, None]
    masked, reference = encode_crops(codec, crops)
    assert masked.shape == reference.shape == (2, 4, 32, 32) and masked.dtype == torch.float32
    for result, pixels in [(masked, black), (reference, unit)]:
        expected = mean_by_formula(exact_vae, (pixels - 0.5) / 0.5)
        assert (result - expected).abs().max() < 1e-4 * expected.abs().max()


def test_encoding_is_the_same_every_time(codec, crops):
    assert torch.equal(encode_crops(codec, crops)[1], encode_crops(codec, crops)[1])


def test_faces_of_latents_by_formula(exact_vae, codec):
    latents = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(2)) * 6
    with torch.no_grad():
        decoded = exact_vae.decoder(exact_vae.post_quant_conv(latents.double()))
    expected = ((decoded + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)
    faces = decode_faces(codec, latents)
    assert faces.shape == (2, 256, 256, 3) and faces.dtype == torch.float32
    torch.testing.assert_close(faces.double(), expected, rtol=1e-4, atol=1e-4)
    assert 0 <= faces.min() < faces.max() <= 1


def test_latents_that_are_not_numbers_stay_visible(codec):
    assert decode_faces(codec, torch.full((1, 4, 32, 32), torch.nan)).isnan().all()


def test_half_precision_gives_float32(vae, crops):
    exact = encode_crops(DiffusersCodec(vae, "cpu", torch.float32), crops)[1]
    state = {name: tensor.bfloat16() for name, tensor in vae.state_dict().items()}
    half_vae = AutoencoderKL.from_config(vae.config).to(torch.bfloat16).train(False)
    half_vae.load_state_dict(state)
    codec = DiffusersCodec(half_vae, "cpu", torch.bfloat16)
    half = encode_crops(codec, crops)[1]
    assert half.dtype == decode_faces(codec, half).dtype == torch.float32
    assert (half - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("height", [256, 7])
def test_mask_lower_half_keeps_its_input(height):
    pixels = torch.full((2, 3, height, 5), 0.7)
    masked = mask_lower_half(pixels)
    rows = [0.7 if row < height // 2 else 0.0 for row in range(height)]
    torch.testing.assert_close(masked, torch.tensor(rows)[:, None].expand(2, 3, height, 5))
    assert (pixels == 0.7).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_crops_are_taken_as_they_are(crops, dtype):
    floating = (crops.double() / 255).to(dtype)
    pixels = crops_to_pixels(floating)
    assert pixels.dtype == torch.float32 and pixels.shape == (2, 3, 256, 256)
    torch.testing.assert_close(pixels, crops_to_pixels(crops), rtol=0, atol=1e-3 if dtype == torch.float16 else 1e-6)
    assert crops_to_pixels(crops)[1, 2, 30, 40] == crops[1, 30, 40, 2].item() / 255


def test_odd_values_in_crops_are_tamed():
    crops = torch.full((1, 256, 256, 3), 0.5)
    crops[0, 0, 0] = torch.tensor([torch.nan, -3.0, torch.inf])
    assert crops_to_pixels(crops)[0, :, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("shape", [(256, 256, 3), (1, 256, 256, 4), (1, 128, 256, 3), (1, 3, 256, 256)])
def test_crops_of_another_shape_are_refused(shape):
    with pytest.raises(MuseTalkError, match="256 x 256"):
        crops_to_pixels(torch.zeros(shape))
