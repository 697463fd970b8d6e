"""`train unet` on a data folder of its own: upstream's configuration, presets, settings, and what is refused."""

import csv
from dataclasses import replace

import clips
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_training_losses import write_narrow_vgg
from test_training_presets import STAGE1_CHANGES, STAGE2, changed
from training_unet import small_unet, small_vae

from musetalk_core.__main__ import main
from musetalk_core.errors import MuseTalkError
from musetalk_core.training.clips import FaceClip, save_clip
from musetalk_core.training.prepare.run import add_features
from musetalk_core.training.recipes import preset
from musetalk_core.training.sampling import Margin, ReferenceChoice
from musetalk_core.training.unet_run import changed_recipe, stored_features, window_settings
from musetalk_core.training.windows import WindowSettings
from musetalk_core.weights.models import load_unet
from musetalk_core.weights.unet_facts import read_unet_facts

FRAMES = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One clip of 256 pixels, faces given, sound as the demo model hears it; nothing is held out."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("clips", "meta", "sound"):
        (folder / name).mkdir()
    video = clips.write_video(folder / "clips" / "one.mp4", clips.moving_portrait(FRAMES))
    soundfile.write(folder / "clips" / "one.wav", clips.tone(FRAMES / 25 + 1), 16000)
    points = np.random.default_rng(0).uniform(60, 230, (FRAMES, 68, 2)).astype(np.float32)
    boxes = np.tile(np.float32([50, 40, 240, 240]), (FRAMES, 1))
    path = save_clip(folder, FaceClip("one", video, folder / "clips" / "one.wav", (256, 256), boxes, points))
    (folder / "train.txt").write_text(f"{path.name}\n")
    (folder / "val.txt").write_text("")
    assert add_features(folder, "demo", None, "cpu", lambda line: None) == 1
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, data):
    """A small VAE and VGG in their places, and a small UNet that hears the data's features."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("sd-vae", "training"):
        (folder / name).mkdir()
    save_file(small_vae().state_dict(), folder / "sd-vae" / "diffusion_pytorch_model.safetensors")
    torch.manual_seed(0)
    write_narrow_vgg(folder / "training" / "vgg19-dcbb9e9d.pth")
    width = load_file(data / "sound" / "demo" / "one.safetensors")["hidden"].shape[2]
    save_file(small_unet(width).state_dict(), folder / "small.safetensors")
    return folder


def train(data, models, *options):
    common = ["--data", data, "--models", models, "--device", "cpu", "--precision", "fp32"]
    return main(["train", "unet", *map(str, [*common, *options])])


def test_upstreams_stage_1_trains_as_it_is(data, models, tmp_path, capsys):
    config = tmp_path / "stage1.yaml"
    config.write_text(changed(STAGE2, STAGE1_CHANGES | {"num_workers: 8": "num_workers: 0"}))
    options = ["--config", config, "--out", tmp_path / "out", "--init", models / "small.safetensors"]
    assert train(data, models, *options, "--steps", 1, "--set", "batch=1") == 0
    said = capsys.readouterr()
    path = tmp_path / "out" / "weights.safetensors"
    assert said.out.splitlines()[-1] == str(path) and "mixed_precision" in said.err
    unet, layout = load_unet(path)
    facts = read_unet_facts(path)
    assert (layout.kind, facts.preset, facts.steps, facts.positions) == ("musetalk", "stage1", 1, True)
    assert facts.extractor == "demo"
    rows = {(row["name"]): float(row["value"]) for row in csv.DictReader((tmp_path / "out" / "progress.csv").open())}
    assert {"l1_right", "l1_wrong_sound", "l1_copied"} <= rows.keys()
    strip = Image.open(tmp_path / "out" / "strips" / "00000001.png")
    assert strip.size == (5 * 256, 8 * 256)
    assert train(data, models, *options, "--steps", 2, "--set", "batch=1") == 0  # its resume_from_checkpoint is True
    assert "resumed at step 1" in capsys.readouterr().err and read_unet_facts(path).steps == 2


def test_what_is_missing_is_said_before_anything_is_made(data, models, tmp_path, capsys):
    def refusal(*options):
        assert train(data, models, "--steps", 1, *options) != 0
        return capsys.readouterr().err

    out, small = ["--out", tmp_path / "out"], ["--init", models / "small.safetensors"]
    assert "v15-stage2 goes on from trained weights; give --init FILE" in refusal("--preset", "v15-stage2", *out)
    assert "give --out DIR" in refusal("--preset", "v15-stage1", *small)
    without = refusal("--preset", "v15-stage2", "--set", "min_face=0", *small, *out)
    assert "'sync' needs syncnet/latentsync_syncnet.pt" in without and "set sync to 0" in without
    save_file(small_unet(8).state_dict(), tmp_path / "other.safetensors")
    assert "this UNet hears 8;" in refusal("--preset", "v1", "--init", tmp_path / "other.safetensors", *out)
    assert "the trainer makes 8" in refusal("--preset", "landmark", "--set", "lpips=0", *small, *out)
    assert not (tmp_path / "out").exists()


def test_settings_change_the_recipe():
    stage2 = preset("v15-stage2")
    found = changed_recipe(
        stage2, {"sync": 0, "batch": 1, "discriminator.learning_rate": 1e-4, "positions": False}, "x"
    )
    assert found == replace(
        stage2,
        losses=replace(stage2.losses, sync=0),
        sampling=replace(stage2.sampling, batch=1),
        discriminator=replace(stage2.discriminator, learning_rate=1e-4),
        positions=False,
    )
    with pytest.raises(MuseTalkError, match="x: 'bach' is no setting; known are pixels"):
        changed_recipe(stage2, {"bach": 1}, "x")
    for wrong in ({"batch": 0}, {"accumulate": 0}, {"part": "some"}, {"eight_bit": True}, {"positions": "yes"}):
        with pytest.raises(MuseTalkError):
            changed_recipe(stage2, wrong, "x")


def test_samples_are_the_recipes():
    stage1, stage2 = preset("v15-stage1").sampling, preset("v15-stage2").sampling
    choice = ReferenceChoice("pose_similarity_and_mouth_dissimilarity", 0.51)
    assert window_settings(stage1) == WindowSettings(1, choice, None, 150)
    assert window_settings(stage2) == WindowSettings(16, choice, Margin("normal", 10, 10), 200)


def test_features_must_be_there_and_one(tmp_path):
    with pytest.raises(MuseTalkError, match="no audio features"):
        stored_features(tmp_path)
    for name in ("mel", "whisper-5x384"):
        (tmp_path / "sound" / name).mkdir(parents=True)
    assert stored_features(tmp_path) == "whisper-5x384"
    (tmp_path / "sound" / "other").mkdir()
    with pytest.raises(MuseTalkError, match="other, whisper-5x384; choose with --features"):
        stored_features(tmp_path)
