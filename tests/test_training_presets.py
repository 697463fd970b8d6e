"""The known recipes against upstream's own configurations, which are written out here, and the page about them."""

import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from musetalk_core.errors import MuseTalkError
from musetalk_core.training.recipes import LOSSES, PRESETS, preset
from musetalk_core.training.upstream_config import DEAD, read_upstream_config

PAGE = Path(__file__).parents[1] / "docs" / "training_losses.md"

STAGE2 = """
exp_name: 'test'
output_dir: './exp_out/stage2/'
unet_sub_folder: musetalk
random_init_unet: False
whisper_path: "./models/whisper"
pretrained_model_name_or_path: "./models"
resume_from_checkpoint: True
padding_pixel_mouth: 10
vae_type: "sd-vae"
num_images_to_keep: 8
ref_dropout_rate: 0
syncnet_config_path: "./configs/training/syncnet.yaml"
use_adapted_weight: False
cropping_jaw2edge_margin_mean: 10
cropping_jaw2edge_margin_std: 10
crop_type: "dynamic_margin_crop_resize"
random_margin_method: "normal"
num_backward_frames: 16
data:
  dataset_key: "HDTF"
  train_bs: 2
  image_size: 256
  n_sample_frames: 16
  num_workers: 8
  audio_padding_length_left: 2
  audio_padding_length_right: 2
  sample_method: pose_similarity_and_mouth_dissimilarity
  top_k_ratio: 0.51
  contorl_face_min_size: True
  min_face_size: 200
loss_params:
  l1_loss: 1.0
  vgg_loss: 0.01
  vgg_layer_weight: [1, 1, 1, 1, 1]
  pyramid_scale: [1, 0.5, 0.25, 0.125]
  gan_loss: 0.01
  fm_loss: [1.0, 1.0, 1.0, 1.0]
  sync_loss: 0.05
  mouth_gan_loss: 0.01
model_params:
  discriminator_params:
    scales: [1]
    block_expansion: 32
    max_features: 512
    num_blocks: 4
    sn: True
    image_channel: 3
    estimate_jacobian: False
discriminator_train_params:
  lr: 0.000005
  eps: 0.00000001
  weight_decay: 0.01
  patch_size: 1
  betas: [0.5, 0.999]
  epochs: 10000
  start_gan: 1000
solver:
  gradient_accumulation_steps: 8
  uncond_steps: 10
  mixed_precision: 'fp32'
  enable_xformers_memory_efficient_attention: True
  gradient_checkpointing: True
  max_train_steps: 250000
  max_grad_norm: 1.0
  learning_rate: 5.0e-6
  scale_lr: False
  lr_warmup_steps: 1000
  lr_scheduler: "linear"
  use_8bit_adam: False
  adam_beta1: 0.5
  adam_beta2: 0.999
  adam_weight_decay: 1.0e-2
  adam_epsilon: 1.0e-8
total_limit: 10
save_model_epoch_interval: 250000
checkpointing_steps: 2000
val_freq: 2000
seed: 41
"""
STAGE1_CHANGES = {
    "output_dir: './exp_out/stage2/'": "output_dir: './exp_out/stage1/'",
    "random_init_unet: False": "random_init_unet: True",
    'crop_type: "dynamic_margin_crop_resize"': 'crop_type: "crop_resize"',
    "train_bs: 2": "train_bs: 32",
    "n_sample_frames: 16": "n_sample_frames: 1",
    "min_face_size: 200": "min_face_size: 150",
    "  gan_loss: 0.01": "  gan_loss: 0",
    "sync_loss: 0.05": "sync_loss: 0",
    "mouth_gan_loss: 0.01": "mouth_gan_loss: 0",
    "gradient_accumulation_steps: 8": "gradient_accumulation_steps: 1",
    "learning_rate: 5.0e-6": "learning_rate: 2.0e-5",
    "checkpointing_steps: 2000": "checkpointing_steps: 10000",
}


def changed(text, changes):
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def read(tmp_path, changes=(), text=STAGE2):
    path = tmp_path / "config.yaml"
    path.write_text(changed(text, dict(changes)), encoding="utf-8")
    return read_upstream_config(path)


def test_stage_2_is_read_unchanged_and_is_the_preset(tmp_path):
    config = read(tmp_path)
    assert config.recipe == preset("v15-stage2")
    assert config.unknown == () and set(config.dead) == set(DEAD)
    assert (config.out, config.models, config.whisper) == (
        Path("exp_out/stage2/test"),
        Path("models"),
        Path("models/whisper"),
    )
    assert (config.unet_folder, config.vae, config.dataset, config.workers) == ("musetalk", "sd-vae", "HDTF", 8)
    assert (config.resume, config.seed, config.keep, config.shown) == (True, 41, 10, 8)
    on = {name for name, weight in asdict(config.recipe.losses).items() if name in LOSSES and weight}
    assert on == {"pixels", "perceptual", "adversarial", "mouth_adversarial", "sync"}


def test_stage_1_is_read_unchanged_and_is_the_preset(tmp_path):
    config = read(tmp_path, STAGE1_CHANGES)
    assert config.recipe == preset("v15-stage1") and config.recipe.random_start
    assert (config.checkpoint_every, config.validate_every) == (10_000, 2000)
    assert len(config.notes()) == 1 and "mixed_precision" in config.notes()[0]


def test_steps_are_updates_of_the_weights(tmp_path):
    """250000 batches, 8 of them an update; the schedules' own steps are 8 times as many and count updates."""
    config = read(tmp_path)
    optimisation = config.recipe.optimisation
    assert optimisation.steps * 8 == 250_000 and config.recipe.losses.adversarial_from * 8 == 1000
    assert (optimisation.warm_up_steps, optimisation.decay_steps) == (8 * 1000, 8 * 250_000)
    assert config.recipe.discriminator.decay_steps == 8 * 250_000
    assert (config.checkpoint_every, config.validate_every) == (250, 250)
    assert any("31250 steps, of them 8000 of warm-up" in note for note in config.notes())
    few = read(tmp_path, {"start_gan: 1000": "start_gan: 9", "checkpointing_steps: 2000": "checkpointing_steps: 3"})
    assert few.recipe.losses.adversarial_from == 2 and few.checkpoint_every == 1


def test_every_value_gets_through(tmp_path):
    config = read(
        tmp_path,
        {
            "learning_rate: 5.0e-6": "learning_rate: 3e-6",  # a text to YAML, which wants a dot
            "fm_loss: [1.0, 1.0, 1.0, 1.0]": "fm_loss: [1, 2, 3, 4]",
            "num_backward_frames: 16": "num_backward_frames: 6",
            "contorl_face_min_size: True": "contorl_face_min_size: False",
            'random_margin_method: "normal"': "random_margin_method: uniform",
            'lr_scheduler: "linear"': "lr_scheduler: cosine",
            "block_expansion: 32": "block_expansion: 16",
            "adam_beta1: 0.5": "adam_beta1: 0.9",
        },
    )
    expected = preset("v15-stage2")
    assert config.recipe == replace(
        expected,
        losses=replace(expected.losses, feature_matching=(1.0, 2.0, 3.0, 4.0), backward_frames=6),
        optimisation=replace(expected.optimisation, learning_rate=3e-6, schedule="cosine", betas=(0.9, 0.999)),
        sampling=replace(expected.sampling, min_face=0, margin="uniform"),
        discriminator=replace(expected.discriminator, width=16),
    )


def test_unknown_keys_are_named(tmp_path):
    config = read(tmp_path, {"seed: 41": "seed: 41\nsead: 7", "  sync_loss": "  sink_loss: 1\n  sync_loss"})
    assert config.unknown == ("loss_params.sink_loss", "sead")
    assert "loss_params.sink_loss, sead" in config.notes()[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "sample_method: pose_similarity_and_mouth_dissimilarity",
            "sample_method: pose_similarity_and_closed_mouth",
            "106 face points and clips have 68",
        ),
        ("sample_method: pose_similarity_and_mouth_dissimilarity", "sample_method: nearest", "one of random, pose"),
        ("use_adapted_weight: False", "use_adapted_weight: True", "give False"),
        ("scale_lr: False", "scale_lr: True", "scale_lr is True"),
        ("image_size: 256", "image_size: 512", "image_size is 512"),
        ("scales: [1]", "scales: [1, 0.5]", r"give \[1\]"),
        ("  sync_loss: 0.05\n", "", "no key loss_params.sync_loss"),
        ("l1_loss: 1.0", "l1_loss: much", "l1_loss is 'much'; give a number"),
        ("l1_loss: 1.0", "l1_loss: True", "l1_loss is True; give a number"),
        ("l1_loss: 1.0", "l1_loss: -1", "loss pixels is -1"),
        ("train_bs: 2", "train_bs: 0", "train_bs is 0; give a whole number of 1 or more"),
        ("betas: [0.5, 0.999]", "betas: [0.5]", "two numbers"),
        ("n_sample_frames: 16", "n_sample_frames: 8", "set frames to 16, or sync to 0"),
        ("val_freq: 2000", "val_freq: often", "val_freq is 'often'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(tmp_path, old, new, words):
    with pytest.raises(MuseTalkError, match=words) as caught:
        read(tmp_path, {old: new})
    assert "\n" not in str(caught.value)


def test_presets_have_their_names():
    with pytest.raises(MuseTalkError, match="no preset 'v2'; known are v1, v15-stage1, v15-stage2, landmark"):
        preset("v2")
    assert preset("landmark").layout == "landmark" and preset("v1").layout == "musetalk"


def test_the_page_shows_the_presets_weights():
    rows = re.findall(r"^\| `(\w+)` ((?:\| [\d.]+ ){4})\|", PAGE.read_text(encoding="utf-8"), re.M)
    table = {name: [float(cell) for cell in cells.split("|")[1:]] for name, cells in rows}
    assert table == {name: [getattr(recipe.losses, name) for recipe in PRESETS.values()] for name in LOSSES}
