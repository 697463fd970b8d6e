"""The generator against a direct call of a diffusers UNet with inputs built here."""

import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from musetalk_core.errors import MuseTalkError
from musetalk_core.generator import MuseTalkGenerator, positional_encoding
from musetalk_core.weights.layouts import LAYOUTS

WIDTH = 384


def make_unet(in_channels):
    """SD 1's block types, narrow, with MuseTalk's width of audio tokens."""
    torch.manual_seed(in_channels)
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ).train(False)


@pytest.fixture(scope="module")
def inputs():
    rng = torch.Generator().manual_seed(4)
    masked, reference = (torch.randn(2, 4, 32, 32, generator=rng) * 5 for _ in range(2))
    return masked, reference, torch.randn(2, 50, WIDTH, generator=rng)


def encoding_by_formula(length, width):
    """PE(p, 2k) = sin(p / 10000^(2k/width)), PE(p, 2k+1) = cos of the same, in float64."""
    table = np.zeros((length, width))
    for p in range(length):
        for k in range(width // 2):
            angle = p / math.pow(10000, 2 * k / width)
            table[p, 2 * k], table[p, 2 * k + 1] = math.sin(angle), math.cos(angle)
    return torch.from_numpy(table)


def generate_by_hand(unet, masked, reference, tokens):
    """The call written out in float64; the mask, where there is one, comes first and keeps the upper 16 rows."""
    channels = [masked.double() * 0.18215, reference.double() * 0.18215]
    if unet.config.in_channels == 9:
        rows = torch.tensor([1.0] * 16 + [0.0] * 16).double()
        channels.insert(0, rows[None, None, :, None].expand(len(masked), 1, 32, 32))
    sound = tokens.double() + encoding_by_formula(tokens.shape[1], tokens.shape[2])
    with torch.no_grad():
        return unet.double()(torch.cat(channels, dim=1), torch.tensor([0]), sound).sample / 0.18215


@pytest.mark.parametrize(("length", "width"), [(50, 384), (1, 2), (500, 64)])
def test_positional_encoding_by_formula(length, width):
    result = positional_encoding(length, width)
    assert result.shape == (length, width) and result.dtype == torch.float32
    torch.testing.assert_close(result.double(), encoding_by_formula(length, width), rtol=0, atol=1e-4)


@pytest.mark.parametrize("in_channels", [8, 9])
@pytest.mark.parametrize("count", [50, 10])
def test_generate_equals_the_call_by_hand(inputs, in_channels, count):
    masked, reference, tokens = inputs
    tokens = tokens[:, :count]
    generator = MuseTalkGenerator(make_unet(in_channels), LAYOUTS[in_channels], "cpu", torch.float32)
    before = [tensor.clone() for tensor in (masked, reference, tokens)]
    result = generator.generate(masked, reference, tokens)
    expected = generate_by_hand(make_unet(in_channels), masked, reference, tokens)
    assert result.shape == (2, 4, 32, 32) and result.dtype == torch.float32 and not result.requires_grad
    assert (result - expected).abs().max() < 1e-4 * expected.abs().max()
    assert all(torch.equal(a, b) for a, b in zip(before, (masked, reference, tokens), strict=True))
    assert (generator.tokens, generator.width) == (None, WIDTH)


def test_every_input_matters(inputs):
    """Guards the comparison above: sound, masked and reference latents each change the output."""
    masked, reference, tokens = inputs
    generator = MuseTalkGenerator(make_unet(8), LAYOUTS[8], "cpu", torch.float32)
    result = generator.generate(masked, reference, tokens)
    for other in [(masked * 2, reference, tokens), (masked, reference * 2, tokens), (masked, reference, -tokens)]:
        assert (generator.generate(*other) - result).abs().max() > 1e-3


def test_a_batch_equals_its_items(inputs):
    generator = MuseTalkGenerator(make_unet(8), LAYOUTS[8], "cpu", torch.float32)
    items = [generator.generate(*(tensor[k : k + 1] for tensor in inputs)) for k in range(2)]
    torch.testing.assert_close(generator.generate(*inputs), torch.cat(items), rtol=1e-4, atol=1e-4)


def test_half_precision_gives_float32(inputs):
    exact = MuseTalkGenerator(make_unet(8), LAYOUTS[8], "cpu", torch.float32).generate(*inputs)
    unet = make_unet(8).to(torch.bfloat16)
    half = MuseTalkGenerator(unet, LAYOUTS[8], torch.device("cpu"), torch.bfloat16).generate(*inputs)
    assert half.dtype == torch.float32
    assert (half - exact).abs().max() < 0.1 * exact.abs().max()


def test_another_scaling_factor(inputs):
    """scaling 1 and latents scaled by hand give the same as scaling s, but for the factor on the way out."""
    masked, reference, tokens = inputs
    scaled = MuseTalkGenerator(make_unet(8), LAYOUTS[8], "cpu", torch.float32, scaling=0.5)
    plain = MuseTalkGenerator(make_unet(8), LAYOUTS[8], "cpu", torch.float32, scaling=1.0)
    expected = plain.generate(masked * 0.5, reference * 0.5, tokens) * 2
    torch.testing.assert_close(scaled.generate(masked, reference, tokens), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("in_channels", [12, 13])
def test_other_layouts_are_refused_by_name(in_channels):
    layout = LAYOUTS[in_channels]
    with pytest.raises(MuseTalkError, match=layout.kind):
        MuseTalkGenerator(make_unet(8), layout, "cpu", torch.float32)


def test_inputs_that_do_not_fit_are_refused(inputs):
    masked, reference, tokens = inputs
    generator = MuseTalkGenerator(make_unet(8), LAYOUTS[8], "cpu", torch.float32)
    with pytest.raises(MuseTalkError, match="same number"):
        generator.generate(masked[:1], reference, tokens)
    with pytest.raises(MuseTalkError, match="same number"):
        generator.generate(masked, reference, tokens[:1])
    with pytest.raises(MuseTalkError, match="80 channels .* 384"):
        generator.generate(masked, reference, tokens[..., :80])
