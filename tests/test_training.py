"""The trainer: losses by hand, exact resume, checkpoints that survive a kill, what the data may and may not give."""

import argparse
import csv
import json
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_data import FRAMES, sha256, write_corpus, write_speech
from transformers import WhisperFeatureExtractor

from musetalk_core.audio_features import AudioFeatures
from musetalk_core.cli import train as command
from musetalk_core.demo.audio import DemoAudioNet
from musetalk_core.demo.autoencoder import DemoAutoencoder
from musetalk_core.demo.loader import load_demo
from musetalk_core.errors import MuseTalkError
from musetalk_core.training import losses
from musetalk_core.training.audio import AudioStage
from musetalk_core.training.autoencoder import AutoencoderStage, FaceCrops, shifted
from musetalk_core.training.cache import TrackLatents
from musetalk_core.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from musetalk_core.training.config import (
    AudioSettings,
    AutoencoderSettings,
    GeneratorSettings,
    RunSettings,
    changed,
    read_changes,
)
from musetalk_core.training.data import Corpus, jittered
from musetalk_core.training.discriminator import PatchDiscriminator
from musetalk_core.training.ema import Ema
from musetalk_core.training.generator import GeneratorStage, TwinSamples, latent_scaling, resting, sample_weights
from musetalk_core.training.loop import run_share, seed_step, train
from musetalk_core.training.precision import choose_precision
from musetalk_core.training.schedules import rate_scale
from musetalk_core.training.spectrum import log_mel, normalised, room_tone

CPU = torch.device("cpu")
SMALL_UNET = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return Corpus(write_corpus(tmp_path_factory.mktemp("data") / "corpus"))


# --- losses, by hand


def picture(*rows):
    return torch.tensor([[rows]], dtype=torch.float64)


def test_l1_is_a_mean_and_takes_weights():
    output, target = picture([1.0, 2.0], [3.0, 4.0]), picture([0.0, 0.0], [0.0, 8.0])
    assert losses.l1(output, target).item() == (1 + 2 + 3 + 4) / 4
    weights = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    assert losses.l1(output, target, weights).item() == 4 * 1 / 4


def test_gradient_l1_is_the_mean_of_differences_along_each_axis():
    output, target = picture([1.0, 4.0], [0.0, 2.0]), torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    across, down = (3 + 2) / 2, (1 + 2) / 2
    assert losses.gradient_l1(output, target).item() == across + down
    assert losses.gradient_l1(output + 5, output).item() == 0


def test_pyramid_l1_sums_the_detail_of_each_octave():
    """4x4, one pixel of 16. Level 1: its block has mean 4, details 12,4,4,4; level 2: means 4,0,0,0, of mean 1."""
    output = torch.zeros(1, 1, 4, 4)
    output[0, 0, 0, 0] = 16
    first, second = (12 + 4 + 4 + 4) / 16, (3 + 1 + 1 + 1) / 4
    assert losses.pyramid_l1(output, torch.zeros(1, 1, 4, 4), levels=2).item() == first + second
    assert losses.pyramid_l1(output + 3, output, levels=2).item() == 0


def test_latent_range_punishes_what_is_beyond_and_a_mean():
    latents = torch.tensor([[[[5.0, -1.0]], [[0.0, 0.0]]]])
    assert losses.latent_range(latents, limit=2.0).item() == pytest.approx(3**2 / 4 + 0.1 * 2**2)


def test_least_squares_gan():
    real, fake = torch.tensor([1.0, 0.5]), torch.tensor([0.0, 2.0])
    assert losses.discriminator_loss(real, fake).item() == 0.25 / 2 + 4 / 2
    assert losses.adversarial_loss(fake).item() == (1 + 1) / 2


def test_curve_loss_mixes_l1_and_squares_by_curve():
    output, target = torch.tensor([[[3.0, 3.0]]]), torch.tensor([[[1.0, 0.0]]])
    found = losses.curve_loss(output, target, torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))
    assert found.item() == (1 * 2 + 2 * 9) / 2


def test_region_weights_have_mean_one_and_the_given_ratios():
    field = losses.region_weights(4, (2, 3), (1, 3), (0.5, 1.0, 4.0))
    total = 8 * 0.5 + 6 * 1 + 2 * 4
    torch.testing.assert_close(field[0, 0].item(), 0.5 * 16 / total)
    torch.testing.assert_close(field[3, 0].item(), 1.0 * 16 / total)
    torch.testing.assert_close(field[2, 1].item(), 4.0 * 16 / total)
    torch.testing.assert_close(field.mean().item(), 1.0)


def test_moved_latents_and_pictures_stay_together():
    """A ramp of one per pixel: latent k lies in the middle of pixels 8k..8k+7, so it is 8k + 3.5, moved or not."""
    pixels = (torch.arange(32.0)[:, None] + 100 * torch.arange(24.0)).expand(2, 3, 32, 24)
    latents = torch.nn.functional.avg_pool2d(pixels, 8)
    offsets = torch.tensor([[0, 5], [7, 2]])  # down, right; of both items
    moved, windows = shifted(latents, pixels, offsets)
    assert moved.shape == (2, 3, 3, 2) and windows.shape == (2, 3, 24, 16)
    torch.testing.assert_close(moved, torch.nn.functional.avg_pool2d(windows, 8))
    assert windows[1, 0, 0, 0].item() == 5 + 100 * 2 and windows[0, 0, 0, 0].item() == 100 * 7


# --- schedule, average, discriminator, precision, settings


def test_learning_rate_warms_up_then_falls_along_a_cosine():
    assert rate_scale(0, 0.0) == pytest.approx(0.01)
    assert rate_scale(99, 0.0) == pytest.approx(1.0)
    assert rate_scale(5000, 0.5) == pytest.approx(0.02 + 0.98 / 2)
    assert rate_scale(5000, 1.0) == pytest.approx(0.02)


def test_share_counts_steps_or_the_clock():
    assert run_share(RunSettings(steps=8), 2, 1e9) == 0.25
    assert run_share(RunSettings(minutes=2), 10**9, 30.0) == 0.25
    assert run_share(RunSettings(minutes=2), 0, 500.0) == 1


def test_average_of_weights():
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 0.0)
    ema = Ema(module, 0.5)
    torch.nn.init.constant_(module.weight, 10.0)
    ema.update(module, 0)  # keeps (1+0)/(10+0) of the old
    assert ema.module.weight.item() == pytest.approx(9.0)
    torch.nn.init.constant_(module.weight, 0.0)
    ema.update(module, 1000)  # 1001/1010 is above the decay of 0.5
    assert ema.module.weight.item() == pytest.approx(4.5)


def test_discriminator_judges_the_detail_of_patches_of_48_pixels():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(8)
    pixels = torch.randn(1, 3, 128, 144, requires_grad=True)
    verdicts = discriminator(pixels)
    assert verdicts.shape == (1, 1, 15, 17)
    verdicts[0, 0, 7, 8].backward()
    seen = pixels.grad.abs().sum((0, 1)).nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [48, 48]
    with torch.no_grad():
        pixels = pixels.detach()
        torch.testing.assert_close(discriminator(pixels + 0.3), discriminator(pixels), atol=1e-4, rtol=0)


def test_precision_is_measured_or_told():
    assert choose_precision("auto", CPU) in ("fp32", "bf16")
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(MuseTalkError, match="fp16"):
        choose_precision("fp16", CPU)


def test_settings_refuse_what_they_do_not_know(tmp_path):
    settings = changed(AudioSettings(), {"l1": [1, 1, 1, 0, 0], "learning_rate": 1}, "here")
    assert settings.l1 == (1, 1, 1, 0, 0) and settings.learning_rate == 1
    with pytest.raises(MuseTalkError, match=r"here: 'bach'.*batch"):
        changed(AudioSettings(), {"bach": 3}, "here")
    with pytest.raises(MuseTalkError, match="batch is 'many'"):
        changed(AudioSettings(), {"batch": "many"}, "here")
    with pytest.raises(MuseTalkError, match="steps or minutes"):
        RunSettings()
    with pytest.raises(MuseTalkError, match="steps or minutes"):
        RunSettings(steps=1, minutes=1)
    with pytest.raises(MuseTalkError, match="checkpoint_every is 0"):
        RunSettings(steps=1, checkpoint_every=0)
    file = tmp_path / "settings.yaml"
    file.write_text("batch: 3\ncrop: 64\n")
    assert changed(AutoencoderSettings(), read_changes(file), "file").crop == 64
    file.write_text("- 1")
    with pytest.raises(MuseTalkError, match="holds no settings"):
        read_changes(file)


def test_random_choices_depend_on_seed_and_step_only():
    def drawn(seed, step):
        numbers = seed_step(seed, step).random(3).tolist()
        return numbers + torch.rand(3).tolist()

    assert drawn(1, 7) == drawn(1, 7)
    assert len({tuple(drawn(*pair)) for pair in ((1, 7), (1, 8), (2, 7), (7, 1))}) == 4


# --- data


def test_recordings_kept_for_the_evaluation_are_left_out(tmp_path):
    """By the hash of the sound, recomputed: a copy under any name, voice or stored hash does not get in."""
    folder = write_corpus(tmp_path / "data", speeches=4, tracks=3)
    speech = np.load(folder / "speech" / "00002.npz")["samples"]
    track = np.load(folder / "tracks" / "001" / "track.npz")["samples_b"]
    before = Corpus(folder)
    assert len(before.speeches()) == 4 and len(before.tracks("val")) == 2
    index = json.loads((folder / "index.json").read_text())
    index["excluded_sha256"] = [sha256(speech), sha256(track)]
    (folder / "index.json").write_text(json.dumps(index))
    after = Corpus(folder)
    assert [s.name for s in after.speeches()] == ["00000", "00001", "00003"]
    assert [t.name for t in after.tracks("val")] == ["002"]
    assert [t.name for t in after.tracks("train")] == ["000"]


def test_a_sound_under_a_false_hash_is_refused(tmp_path):
    folder = write_corpus(tmp_path / "data", speeches=2, tracks=0)
    path = folder / "speech" / "00001.npz"
    arrays = dict(np.load(path)) | {"sha256": np.array("0" * 64)}
    np.savez(path, **arrays)
    with pytest.raises(MuseTalkError, match=r"00001\.npz does not hold the sound"):
        Corpus(folder).speeches()


def test_missing_or_broken_data_is_named(tmp_path):
    with pytest.raises(MuseTalkError, match=r"index\.json.*make_corpus"):
        Corpus(tmp_path).speeches()
    folder = write_corpus(tmp_path / "data", speeches=1, tracks=1)
    (folder / "tracks" / "000" / "track.npz").write_bytes(b"PK")
    with pytest.raises(MuseTalkError, match=r"track\.npz cannot be read"):
        Corpus(folder).tracks("train")


def test_held_out_speech_is_one_in_32_by_its_hash(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "speech").mkdir()
    names = [write_speech(tmp_path / "speech" / f"{k:05d}.npz", rng) for k in range(60)]
    (tmp_path / "index.json").write_text(json.dumps({"speech": [{"name": n} for n in names], "tracks": []}))
    for speech in Corpus(tmp_path).speeches():
        assert speech.held_out == ((int(sha256(speech.samples), 16) >> 224) % 32 == 0)


def test_jitter_moves_top_and_bottom_apart_and_is_random():
    draw, box = np.random.default_rng(0), np.array([10.0, 20.0, 110.0, 140.0], np.float32)
    moved = np.stack([jittered(box, draw) for _ in range(400)]) - box
    chin = -moved[:, 1] / 120
    assert -0.02 <= chin.min() < 0.0 and 0.08 < chin.max() <= 0.09
    margin = moved[:, 3] / 120 - chin
    assert abs(margin).max() <= 0.0351 and abs(np.corrcoef(chin, margin)[0, 1]) < 0.15
    assert np.abs(moved[:, [0, 2]]).max() < 0.05 * 120


def test_crops_are_cut_as_at_inference(corpus):
    import cv2

    track = corpus.tracks("train")[0]
    shot = FaceCrops([track], 1).crop(2).numpy()
    capture = cv2.VideoCapture(str(track.folder / "a.mp4"))
    frame = [capture.read()[1] for _ in range(3)][2][..., ::-1]
    x1, y1, x2, y2 = (int(v) for v in track.boxes[2])
    expected = cv2.resize(np.ascontiguousarray(frame[y1:y2, x1:x2]), (256, 256), interpolation=cv2.INTER_LANCZOS4)
    assert np.abs(shot.astype(int) - expected.astype(int)).mean() < 2  # the two decoders' colour conversions


def test_spectrum_is_whispers():
    samples = (np.random.default_rng(0).normal(0, 0.1, 16000) * 32767).clip(-32768, 32767).astype(np.int16)
    padded = np.zeros(480000, np.int16)
    padded[:16000] = samples
    expected = WhisperFeatureExtractor()(samples / np.float32(32768), sampling_rate=16000).input_features[0]
    np.testing.assert_allclose(normalised(log_mel(padded)).numpy(), expected, atol=2e-4)


# --- twin samples


def latents_of(track, frames=5, variants=2, sounds=2):
    """Every latent is filled with a number that tells kind, take, variant and frame."""
    take, variant, frame = torch.meshgrid(torch.arange(2), torch.arange(variants), torch.arange(frames), indexing="ij")
    number = (1000 * track + 100 * take + 10 * variant + frame).float()[..., None, None, None]
    return TrackLatents(
        whole=number.expand(2, variants, frames, 4, 32, 32).half(),
        masked=-number.expand(2, variants, frames, 4, 32, 32).half(),
        mouths=torch.zeros(2, variants, frames, 3, 128, 144, dtype=torch.uint8),
        still=torch.full((3, 4, 32, 32), 7777.0).half(),
        hidden=torch.randn(2, sounds, 2 * frames, 5, 16).half(),
        silent=torch.full((2, 40, 5, 16), 5555.0).half(),
        gaps=torch.rand(2, frames) * 0.3,
    )


def test_the_reference_is_never_the_target_and_the_shares_are_kept():
    settings = GeneratorSettings(reference_same=0.4, reference_still=0.15, twin_masked=0.5)
    samples = TwinSamples([latents_of(0), latents_of(1)], settings).draw(4000, np.random.default_rng(0))
    masked, reference, target = (torch.stack([s[i][0, 0, 0] for s in samples]).int() for i in range(3))
    masked = -masked
    assert not (reference == target).any()
    # Neither another variant of the same frame of the same take: it shows the same mouth.
    frame_of = lambda number: number - number // 10 % 10 * 10  # noqa: E731
    assert not (frame_of(reference) == frame_of(target)).any()
    twin = torch.where(target // 100 % 10 == 0, target + 100, target - 100)
    assert ((masked == target) | (masked == twin)).all()
    assert (masked == twin).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (reference == 7776).float().mean().item() == pytest.approx(0.15, abs=0.03)  # 7777 in float16
    # the twin at the same frame and variant: asked for, or met by chance among the 2 * 2 * 5 others
    assert (reference == twin).float().mean().item() == pytest.approx(0.4 + 0.45 * (1 / 20 + 2 / 20), abs=0.04)


def test_tokens_are_those_of_inference():
    from fractions import Fraction

    track = latents_of(0, frames=5, sounds=1)
    samples = TwinSamples([track], GeneratorSettings())
    features = AudioFeatures(track.hidden[1, 0].float(), Fraction(10, 50), Fraction(25))
    for sample in samples.samples:
        if sample.take == 1:
            tokens = samples.held_out(sample)[3].float()
            assert torch.equal(tokens, features.tokens(sample.frame, sample.frame + 1)[0])


def test_open_mouths_and_closures_between_them_are_drawn_more_often():
    gaps = np.array([0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.05, 0.15], np.float32)
    weights = sample_weights(gaps)
    # 1 + (0.3 - 0.05) / 0.1; closures within 4 frames of a gap above 0.1 count once more
    np.testing.assert_allclose(weights, [3.5, 2, 2, 2, 2, 2, 2, 1, 1, 2], atol=1e-6)
    assert sample_weights(np.zeros(5, np.float32)).tolist() == [1] * 5


def test_only_a_resting_mouth_hears_silence():
    # Closed for 8 frames before and after: frame 19 is the first that is so far from the open frame 10.
    gaps = torch.zeros(2, 40)
    gaps[:, 10] = 0.2
    assert resting(gaps[0].numpy()).tolist() == [i < 2 or i > 18 for i in range(40)]
    track = replace(latents_of(0, frames=40, variants=1), gaps=gaps)
    drawn = TwinSamples([track], GeneratorSettings(silent_share=0.5)).draw(2000, np.random.default_rng(0))
    frames = [int(target[0, 0, 0]) % 100 for _, _, target, _, _ in drawn]
    silent = [bool((tokens[20:30] == 5556).all()) for _, _, _, tokens, _ in drawn]  # 5555 in float16
    assert all(frame < 2 or frame > 18 for frame, heard in zip(frames, silent, strict=True) if heard)
    resting_frames = sum(frame < 2 or frame > 18 for frame in frames)
    assert sum(silent) / resting_frames == pytest.approx(0.5, abs=0.05)


def test_room_tone_is_what_whisper_makes_of_silence():
    extractor = WhisperFeatureExtractor()
    expected = extractor(np.zeros(480000, np.float32), sampling_rate=16000).input_features[0]
    made = [room_tone(3000, np.random.default_rng(seed)).numpy() for seed in range(20)]
    assert any(np.allclose(mel, expected, atol=1e-6) for mel in made)
    assert all(mel.shape == (80, 3000) and mel.std(1).mean() < 0.1 for mel in made)


def test_scaling_makes_latents_of_unit_spread():
    track = latents_of(0)
    values = track.whole[:, :, ::8].double()
    assert latent_scaling([track]) == pytest.approx(1 / values.std().item(), rel=1e-3)


# --- the stages learn, stop and go on


def make_autoencoder_stage(corpus):
    torch.manual_seed(0)
    net = DemoAutoencoder((8, 8), (1, 1), (1, 1))
    settings = AutoencoderSettings(batch=2, crop=32, adversarial_from=0.5, discriminator_width=4, learning_rate=5e-3)
    return AutoencoderStage(net, corpus, settings, CPU, "fp32")


def make_audio_stage(corpus):
    torch.manual_seed(0)
    return AudioStage(DemoAudioNet(80, 16, 16, (1, 2)), corpus, AudioSettings(batch=2, window_rows=40), CPU, "fp32")


def make_generator_stage(corpus):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    decoder = DemoAutoencoder((8, 8), (1, 1), (1, 1)).train(False)
    settings = GeneratorSettings(batch=2, pixel_batch=1, pixel_from=0.2, adversarial_from=0.5, discriminator_width=4)
    unet = UNet2DConditionModel(**SMALL_UNET)
    return GeneratorStage(unet, decoder, [latents_of(0)], [latents_of(1)], settings, CPU, "fp32")


STAGES = {
    "autoencoder": (make_autoencoder_stage, "l1"),
    "audio": (make_audio_stage, "curves"),
    "generator": (make_generator_stage, "latent"),
}


@pytest.mark.parametrize("name", STAGES)
def test_loss_falls_on_a_batch_seen_again_and_again(corpus, name):
    make, figure = STAGES[name]
    stage = make(corpus)
    found = [stage.step(seed_step(0, 0), 0.0, 0)[figure].item() for _ in range(25)]
    assert np.mean(found[-3:]) < 0.7 * found[0], found
    assert all(math.isfinite(value) for value in found)


class Stopped(Exception):
    pass


def stop_after(stage, steps):
    """The stage, which breaks off in its step number `steps`."""
    true, done = stage.step, [0]

    def step(draw, share, number):
        if done[0] == steps:
            raise Stopped
        done[0] += 1
        return true(draw, share, number)

    stage.step = step
    return stage


@pytest.mark.parametrize("name", STAGES)
def test_a_stopped_and_resumed_run_equals_one_that_was_not(corpus, tmp_path, name):
    make = STAGES[name][0]
    settings = RunSettings(steps=6, checkpoint_every=2, validate_every=4, log_every=1)
    lines = []
    whole = train(make(corpus), settings, tmp_path / "whole", False, lines.append)
    with pytest.raises(Stopped):
        train(stop_after(make(corpus), 5), settings, tmp_path / "stopped", False, lines.append)
    assert newest_checkpoint(tmp_path / "stopped" / "checkpoints").name == "00000004.safetensors"
    torch.rand(5)  # whatever else was drawn in between
    resumed = train(make(corpus), settings, tmp_path / "stopped", True, lines.append)
    assert any(line.startswith("resumed at step 4") for line in lines)
    for first, second in (
        (whole, resumed),
        *[(newest_checkpoint(tmp_path / part / "checkpoints") for part in ("whole", "stopped"))],
    ):
        first, second = load_file(first), load_file(second)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    kept = sorted(p.name for p in (tmp_path / "stopped" / "checkpoints").iterdir())
    assert kept == ["00000004.safetensors", "00000006.safetensors"]

    def figures(folder):
        rows = list(csv.reader((tmp_path / folder / "progress.csv").open()))
        return [(row[0], row[2], row[3]) for row in rows]

    assert figures("stopped") == figures("whole")


def test_a_checkpoint_of_other_settings_is_refused(corpus, tmp_path):
    run = RunSettings(steps=2, checkpoint_every=1)
    train(make_audio_stage(corpus), run, tmp_path, False, lambda line: None)
    other = AudioStage(DemoAudioNet(80, 16, 16, (1, 2)), corpus, AudioSettings(batch=3), CPU, "fp32")
    with pytest.raises(MuseTalkError, match="settings"):
        train(other, run, tmp_path, True, lambda line: None)


WRITER = """
import sys, torch
from pathlib import Path
from musetalk_core.training.checkpoint import Position, save_checkpoint
module = torch.nn.Linear(3000, 3000)
for step in range(1, 10**6):
    torch.nn.init.constant_(module.weight, step)
    save_checkpoint(Path(sys.argv[1]), Position(step, float(step)), {"model": module}, {}, {}, keep=2)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_the_last_checkpoint_whole(tmp_path):
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)])
        limit = time.monotonic() + 60
        try:
            while newest_checkpoint(folder) is None or not list(folder.glob("*.partial")):
                assert time.monotonic() < limit and writer.poll() is None
                time.sleep(0.0005)
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        newest = newest_checkpoint(folder)
        module = torch.nn.Linear(3000, 3000)
        position = load_checkpoint(newest, {"model": module}, {}, {})
        assert position.step == int(newest.stem) == position.seconds
        assert (module.weight == position.step).all()
        save_checkpoint(folder, position, {"model": module}, {}, {}, keep=1)
        assert [path.name for path in folder.iterdir()] == [newest.name]


def test_a_cut_checkpoint_is_named(tmp_path):
    path = tmp_path / "00000001.safetensors"
    path.write_bytes(b"\x10\x00")
    with pytest.raises(MuseTalkError, match=r"00000001\.safetensors is damaged"):
        load_checkpoint(path, {}, {}, {})


# --- the command


def run_command(*arguments):
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["train", *map(str, arguments)])
    return args.run(args)


def test_command_trains_the_three_parts_into_one_file(corpus, tmp_path, capsys):
    common = ["--data", corpus.folder, "--out", tmp_path, "--steps", 1, "--device", "cpu", "--precision", "fp32"]
    with pytest.raises(MuseTalkError, match=r"autoencoder.*run the stage that writes it first"):
        run_command("demo-generator", *common)
    assert run_command("demo-autoencoder", *common, "--set", "batch=1", "--set", "crop=32") == 0
    assert run_command("demo-audio", *common, "--set", "batch=1", "--set", "window_rows=20") == 0
    assert run_command("demo-generator", *common, "--set", "batch=1", "--set", "pixel_batch=1") == 0
    path = Path(capsys.readouterr().out.splitlines()[-1])
    assert path == tmp_path / "demo.safetensors"
    models = load_demo("cpu", path=path)
    assert models.trained and models.nets.config["scaling"] != 1
    assert path.stat().st_size < 20e6
    audio = load_file(tmp_path / "audio" / "weights.safetensors")
    torch.testing.assert_close(models.nets.audio.conv1.weight, audio["conv1.weight"].half().float(), rtol=0, atol=0)
    strip = Image.open(next((tmp_path / "generator" / "strips").glob("*.png")))
    rows = 2 * math.ceil(FRAMES / 10) + 0
    assert strip.width == 4 * 256 and strip.height % 256 == 0 and strip.height <= 6 * 256 and rows
    with pytest.raises(MuseTalkError, match="names no value"):
        run_command("demo-audio", *common, "--set", "batch")
