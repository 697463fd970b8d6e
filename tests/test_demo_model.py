"""The demo model: shapes, cost, the fixed untrained start and its one-file format."""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from musetalk_core.demo.audio import DemoAudioEncoder
from musetalk_core.demo.codec import DemoCodec
from musetalk_core.demo.loader import UNTRAINED, initial_nets, load_demo, read_demo, save_demo
from musetalk_core.errors import MuseTalkError


@pytest.fixture(scope="module")
def nets():
    torch.set_num_threads(1)
    return initial_nets()


def flops(call, *inputs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(*inputs)
    return counter.get_total_flops()


def grids(module, call, *inputs):
    """Height of every convolution's output."""
    heights = []
    hooks = [
        layer.register_forward_hook(lambda _layer, _args, output: heights.append(output.shape[-2]))
        for layer in module.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    with torch.no_grad():
        call(*inputs)
    for hook in hooks:
        hook.remove()
    return heights


def test_autoencoder_shapes_size_and_cost(nets):
    pixels, latents = torch.rand(2, 3, 256, 256) * 2 - 1, torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        assert nets.vae.encode(pixels).shape == (2, 4, 32, 32)
        assert nets.vae.decode(latents).shape == (2, 3, 256, 256)
        assert nets.vae.decode(torch.randn(1, 4, 8, 12)).shape == (1, 3, 64, 96)
    assert 3e5 <= sum(p.numel() for p in nets.vae.parameters()) <= 1e6
    assert flops(nets.vae.decode, latents[:1]) < 4e9
    assert flops(nets.vae.encode, pixels[:1]) < 4e9
    assert max(grids(nets.vae, nets.vae.decode, latents)) <= 64
    assert max(grids(nets.vae, nets.vae.encode, pixels)) <= 64


def test_unet_has_the_interface_of_musetalk_and_is_narrow(nets):
    latents, tokens = torch.randn(2, 8, 32, 32), torch.randn(2, 50, 128)
    with torch.no_grad():
        out = nets.unet(latents, torch.zeros(1, dtype=torch.long), encoder_hidden_states=tokens).sample
    assert out.shape == (2, 4, 32, 32)
    assert torch.isfinite(out).all()
    assert sum(p.numel() for p in nets.unet.parameters()) < 6e6


def test_untrained_codec_shows_an_8x8_thumbnail_of_the_picture(nets):
    """Away from the rim, decode(encode(x)) is the averaged picture enlarged twice then four times bilinearly."""
    codec = DemoCodec(nets.vae, "cpu", torch.float32)
    pixels = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(3))
    latents = codec.encode(pixels)
    means = pixels.double().reshape(1, 3, 32, 8, 32, 8).mean((3, 5)) * 2 - 1
    torch.testing.assert_close(latents[:, :3].double(), means, rtol=0, atol=1e-5)
    luma = 0.299 * means[:, 0] + 0.587 * means[:, 1] + 0.114 * means[:, 2]
    torch.testing.assert_close(latents[:, 3].double(), luma, rtol=0, atol=1e-5)
    large = means
    for factor in (2, 4):
        large = torch.nn.functional.interpolate(large, scale_factor=factor, mode="bilinear", align_corners=False)
    inner = (slice(None), slice(None), slice(16, 240), slice(16, 240))
    shown = codec.decode(latents)
    torch.testing.assert_close(shown[inner].double(), large[inner] / 2 + 0.5, rtol=0, atol=1e-5)
    assert shown.dtype == torch.float32 and shown.min() >= 0 and shown.max() <= 1


def test_codec_clamps_to_the_pixel_range(nets):
    shown = DemoCodec(nets.vae, "cpu", torch.float32).decode(torch.full((1, 4, 32, 32), 9.0))
    assert shown.dtype == torch.float32 and shown.max() == 1


def test_audio_encoder_gives_five_states_at_50_rows_a_second(nets):
    encoder = DemoAudioEncoder(nets.audio, "cpu", torch.float32)
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000 * 2).astype(np.float32)
    rows = encoder.encode(samples)
    assert rows.shape == (1500, 5, 128) and rows.dtype == torch.float32
    assert (encoder.states, encoder.width) == (5, 128)
    assert encoder.encode(np.zeros(480_000, np.float32)).shape == (1500, 5, 128)
    with pytest.raises(MuseTalkError, match="480001"):
        encoder.encode(np.zeros(480_001, np.float32))


def test_audio_rows_follow_time_not_the_whole_window(nets):
    """A click at 1.0 s changes rows near 50 only: the reach is 1 + 2 * (1+2+3+4) rows and the spectrum's window."""
    encoder = DemoAudioEncoder(nets.audio, "cpu", torch.float32)
    rng = np.random.default_rng(1)
    quiet = rng.normal(0, 0.1, 480_000).astype(np.float32)
    click = quiet.copy()
    click[16_000:16_080] += 0.05
    changed = (encoder.encode(quiet) - encoder.encode(click)).abs().amax((1, 2)) > 1e-4
    where = changed.nonzero().flatten()
    assert len(where) and where.min() >= 50 - 24 and where.max() <= 50 + 24


def test_last_audio_state_is_layer_normalised(nets):
    rows = DemoAudioEncoder(nets.audio, "cpu", torch.float32).encode(np.ones(16_000, np.float32) * 0.1)
    last = rows[:, -1].double()
    torch.testing.assert_close(last.mean(1), torch.zeros(1500).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(last.std(1, correction=0), torch.ones(1500).double(), atol=2e-3, rtol=0)


def test_untrained_start_is_fixed_and_leaves_the_random_state_alone(nets):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = initial_nets()
    assert torch.equal(torch.get_rng_state(), before)
    for name, module in nets.modules().items():
        other = again.modules()[name].state_dict()
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, other[key]), f"{name}.{key}"
    assert not torch.equal(initial_nets(seed=1).unet.conv_in.weight, nets.unet.conv_in.weight)


def test_file_round_trip_is_bit_equal_and_carries_its_configuration(nets, tmp_path):
    file = tmp_path / "demo model.safetensors"
    save_demo(file, nets)
    read, trained = read_demo(file)
    assert trained and read.config == nets.config
    for name, module in nets.modules().items():
        other = read.modules()[name].state_dict()
        assert list(other) == list(module.state_dict())
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor, other[key]) and tensor.dtype == other[key].dtype, f"{name}.{key}"
        assert not read.modules()[name].training
        assert not any(p.requires_grad for p in read.modules()[name].parameters())
    with safe_open(file, framework="pt") as opened:
        metadata, keys = opened.metadata(), list(opened.keys())
    assert metadata["trained"] == "true" and metadata["format"] == "musetalk-demo-1"
    assert set(json.loads(metadata["config"])) == {"vae", "unet", "audio", "scaling"}
    assert {key.split(".", 1)[0] for key in keys} == {"vae", "unet", "audio"}
    assert [p.name for p in tmp_path.iterdir()] == ["demo model.safetensors"]


def test_half_precision_file_keeps_its_tensors_and_loads_into_float32(nets, tmp_path):
    file = tmp_path / "half.safetensors"
    small = initial_nets({**nets.config, "scaling": 1.5})
    for module in small.modules().values():
        module.half()
    save_demo(file, small, trained=False)
    read, trained = read_demo(file)
    assert not trained and read.vae.decoder[0].weight.dtype == torch.float16
    assert torch.equal(read.vae.decoder[0].weight, small.vae.decoder[0].weight)
    models = load_demo(path=file)
    assert models.nets.vae.decoder[0].weight.dtype == torch.float32


def test_loading_says_untrained_once_and_gives_the_core_interfaces(caplog, tmp_path, nets):
    file = tmp_path / "untrained.safetensors"
    save_demo(file, nets, trained=False)
    with caplog.at_level(logging.WARNING):
        models = load_demo("cpu", path=file)
    assert [record.getMessage() for record in caplog.records] == [UNTRAINED]
    assert not models.trained
    masked, reference = torch.randn(2, 4, 32, 32), torch.randn(2, 4, 32, 32)
    rows = models.audio_encoder.encode(np.zeros(16_000, np.float32))
    tokens = torch.stack([rows[:10].flatten(0, 1), rows[10:20].flatten(0, 1)])
    assert tokens.shape == (2, 50, models.generator.width)
    latents = models.generator.generate(masked, reference, tokens)
    assert latents.shape == (2, 4, 32, 32) and latents.dtype == torch.float32
    assert models.codec.decode(latents).shape == (2, 3, 256, 256)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x10" * 5000])
def test_damaged_file_is_refused_by_name(tmp_path, content):
    file = tmp_path / "broken.safetensors"
    file.write_bytes(content)
    with pytest.raises(MuseTalkError, match=r"broken\.safetensors"):
        read_demo(file)


def test_truncated_foreign_or_missing_file_is_refused(tmp_path, nets):
    whole = tmp_path / "whole.safetensors"
    save_demo(whole, nets)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-1000])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(3)}, foreign)
    for file, word in ((cut, "damaged"), (foreign, "not a demo model"), (tmp_path / "none.safetensors", "no demo")):
        with pytest.raises(MuseTalkError, match=word):
            read_demo(file)


def test_import_of_the_loader_needs_no_heavy_library():
    code = (
        "import sys, musetalk_core.demo.loader\n"
        "print([n for n in ('diffusers', 'transformers', 'cv2', 'librosa', 'scipy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
