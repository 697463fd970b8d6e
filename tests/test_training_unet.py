"""The trainer of MuseTalk's UNet: it learns, stops and goes on exactly, alone and in several processes."""

import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.optimization import get_scheduler
from latentsync_reference import encoders
from ports import free_port
from safetensors.torch import load_file
from training_unet import (
    CPU,
    WIDTH,
    Drawn,
    OneDrawn,
    first_gradients,
    gan_stage,
    gradients_in_process,
    make_stage,
    small_recipe,
    small_unet,
    small_vae,
    train_with_gan,
)

from musetalk_core.errors import MuseTalkError
from musetalk_core.generator import MuseTalkGenerator, positional_encoding
from musetalk_core.nets.latentsync_syncnet import LatentSyncNet
from musetalk_core.nets.vgg import Vgg19
from musetalk_core.training.checkpoint import load_checkpoint, newest_checkpoint
from musetalk_core.training.clip_batches import ClipBatches, Shares
from musetalk_core.training.config import RunSettings
from musetalk_core.training.frozen_vae import FrozenVae
from musetalk_core.training.loop import seed_step, train
from musetalk_core.training.loss_nets import LossNets
from musetalk_core.training.recipes import DiscriminatorSettings, Optimisation, preset
from musetalk_core.training.schedules import discriminator_schedule, unet_schedule
from musetalk_core.training.unet import masked
from musetalk_core.weights.layouts import MUSETALK_LAYOUT
from musetalk_core.weights.models import load_unet
from musetalk_core.weights.unet_facts import UnetFacts, read_unet_facts


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def take_step(stage, number=0):
    return stage.step(seed_step(0, number), 0.0, number)


# --- schedules


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_learning_rate_goes_as_diffusers_has_it(name):
    settings = Optimisation(2e-5, 50, 50, name, warm_up_steps=7)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    known = get_scheduler(name, optimizer, num_warmup_steps=7, num_training_steps=50)
    for step in range(51):
        assert unet_schedule(settings)(step, 0.0) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        known.step()
    assert unet_schedule(settings)(70, 0.0) == 0
    assert unet_schedule(replace(settings, schedule="constant"))(70, 0.0) == 1


def test_discriminators_rate_goes_as_torchs_cosine():
    settings = DiscriminatorSettings(learning_rate=5e-6, final_rate=1e-6, decay_steps=40)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=5e-6)
    known = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40, 1e-6)
    for step in range(41):
        rate = 5e-6 * discriminator_schedule(settings)(step, 0.0)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        known.step()


# --- samples


def test_every_sample_of_a_step_goes_to_one_process_once():
    dealt = [[Shares(2, 3, 2, rank).places(part) for part in range(3)] for rank in (0, 1)]
    assert sorted(place for parts in dealt for part in parts for place in part) == list(range(12))


class Numbers(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return {"number": torch.tensor(index)}

    def __len__(self):
        return 10**6


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_depend_on_the_step_alone(workers):
    batches = ClipBatches(Numbers(), Shares(2, 2, 2, 1), workers)
    before = torch.get_rng_state()
    shown = [[batch["number"].tolist() for batch in batches.take(step)] for step in (0, 1, 5)]
    assert shown == [[[2, 3], [6, 7]], [[10, 11], [14, 15]], [[42, 43], [46, 47]]]
    assert torch.equal(before, torch.get_rng_state())


# --- what is computed


def test_latents_are_the_mode_scaled_and_the_hidden_half_is_black():
    vae, pixels = small_vae(), Drawn()[3]["target"]
    with torch.no_grad():
        moments = vae.encoder(pixels)
        expected = vae.quant_conv(moments)[:, :4] * 0.18215
    torch.testing.assert_close(FrozenVae(vae, CPU).encode(pixels), expected, atol=1e-5, rtol=1e-4)
    hidden = masked(pixels)
    torch.testing.assert_close(hidden[..., :32, :], pixels[..., :32, :])
    assert (hidden[..., 32:, :] == -1).all()


def test_decoder_passes_gradients_to_latents_only():
    vae = small_vae()
    latents = torch.randn(2, 4, 8, 8, requires_grad=True)
    made = FrozenVae(vae, CPU).decode(latents)
    torch.testing.assert_close(made, vae.decode(latents / 0.18215).sample, atol=1e-5, rtol=1e-4)
    (found,) = torch.autograd.grad(made.square().sum(), latents)
    (known,) = torch.autograd.grad(vae.decode(latents / 0.18215).sample.square().sum(), latents)
    torch.testing.assert_close(found, known, atol=1e-3, rtol=1e-3)
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_training_makes_what_inference_makes():
    """The UNet's latents of a target that is its own reference are MuseTalkGenerator's, positions included."""
    stage, sample = make_stage(small_recipe(), Drawn()), Drawn()[0]
    unet, vae = stage.modules["model"], small_vae()
    seen = []
    unet.register_forward_hook(lambda module, inputs, output: seen.append(output.sample.detach()))
    batch = {"reference": sample["target"][None], "tokens": sample["tokens"][None]}
    with torch.no_grad():
        stage._make(unet, sample["target"][None], batch, slice(0, 1))
        encode = lambda pixels: vae.encode(pixels).latent_dist.mode()  # noqa: E731
        pair = encode(masked(sample["target"])), encode(sample["target"])
    generator = MuseTalkGenerator(unet, MUSETALK_LAYOUT, CPU, torch.float32)
    made = generator.generate(*pair, sample["tokens"])
    torch.testing.assert_close(seen[0], made * 0.18215, atol=1e-5, rtol=1e-4)
    without = MuseTalkGenerator(unet, MUSETALK_LAYOUT, CPU, torch.float32, positions=False)
    moved = sample["tokens"] + positional_encoding(50, WIDTH)
    torch.testing.assert_close(without.generate(*pair, moved), made)


def test_one_sample_is_learnt():
    stage = make_stage(small_recipe(learning_rate=3e-3), OneDrawn())
    found = [take_step(stage, number)["pixels"].item() for number in range(30)]
    assert min(found[-3:]) < 0.5 * found[0], found
    assert all(math.isfinite(value) for value in stage.validate().values())


def loss_nets():
    """VGG-19 and SyncNet in their true forms with few channels, random."""
    torch.manual_seed(2)
    nets = LossNets(vgg=Vgg19((2, 2, 2, 2, 2)), syncnet=LatentSyncNet(*encoders("plain")))
    for net in (nets.vgg, nets.syncnet):
        net.requires_grad_(False)
    return nets


def test_every_loss_of_stage_2_moves_the_unet_and_both_discriminators():
    losses = replace(preset("v15-stage2").losses, adversarial_from=0, backward_frames=2)
    stage = make_stage(small_recipe(losses, frames=16), Drawn(16, 256), loss_nets())
    before = {name: [p.clone() for p in module.parameters()] for name, module in stage.modules.items()}
    found = take_step(stage)
    assert set(found) == {"pixels", "perceptual", "sync"} | {
        f"{part}_{kind}" for part in ("face", "mouth") for kind in ("adversarial", "features", "discriminator")
    }
    assert all(math.isfinite(value) for value in found.values())
    for name, module in stage.modules.items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True)), name


def assert_same_gradients(first, second):
    """But for rounding, by network: single numbers that are sums of opposites have no digits in common."""
    assert first.keys() == second.keys()
    for network in ("model", "face", "mouth"):
        a, b = (
            torch.cat([g.flatten() for k, g in found.items() if k.startswith(network)]) for found in (first, second)
        )
        assert a.norm() > 1e-3 and (a - b).norm() < 2e-3 * a.norm(), network


def test_two_batches_of_one_are_a_batch_of_two():
    assert_same_gradients(first_gradients(2, 1), first_gradients(1, 2))


def test_two_processes_find_the_gradients_of_one(tmp_path):
    torch.multiprocessing.spawn(gradients_in_process, (free_port(), tmp_path), nprocs=2)
    alone = first_gradients(4, 1)
    for rank in (0, 1):
        assert_same_gradients(alone, torch.load(tmp_path / f"{rank}.pt"))


def test_only_attention_learns_when_told():
    stage = make_stage(small_recipe(part="attention"), Drawn())
    before = {name: p.clone() for name, p in stage.modules["model"].named_parameters()}
    take_step(stage)
    moved = {name for name, p in stage.modules["model"].named_parameters() if not torch.equal(before[name], p)}
    assert moved and all(".attn1." in name or ".attn2." in name for name in moved)


def test_references_are_dropped_as_often_as_asked():
    recipe = small_recipe(batch=16)
    stage = make_stage(replace(recipe, sampling=replace(recipe.sampling, reference_dropout=0.5)), Drawn(size=16))
    seen = []
    stage.modules["model"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 4:].detach()))
    for number in range(3):
        take_step(stage, number)
    dropped = [bool((one == 0).all()) for batch in seen for one in batch]
    assert 0.25 < sum(dropped) / len(dropped) < 0.75


# --- stop and go on


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    train_with_gan(tmp_path / "stopped", 2, False)
    (tmp_path / "stopped" / "weights.safetensors").unlink()
    torch.rand(5)  # whatever else was drawn in between
    resumed = load_file(train_with_gan(tmp_path / "stopped", 4, True))
    whole = load_file(train_with_gan(tmp_path / "whole", 4, False))
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[key], whole[key]) for key in whole)
    first, second = (load_file(newest_checkpoint(tmp_path / part / "checkpoints")) for part in ("whole", "stopped"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert {key.split("/")[1] for key in first} == {"model", "ema", "face", "mouth"}
    assert [int(path.stem) for path in sorted((tmp_path / "stopped" / "checkpoints").iterdir())] == [2, 4]


def test_another_recipe_does_not_go_on(tmp_path):
    run = RunSettings(steps=1, checkpoint_every=1)
    train(make_stage(small_recipe(), Drawn()), run, tmp_path, False, lambda line: None)
    with pytest.raises(MuseTalkError, match="recipe"):
        train(make_stage(small_recipe(batch=2), Drawn()), run, tmp_path, True, lambda line: None)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from training_unet import train_with_gan
train_with_gan(Path(sys.argv[1]), 10**6, False)
"""


def test_a_kill_in_mid_checkpoint_leaves_the_last_one_valid(tmp_path):
    here = Path(__file__).parent
    folder = tmp_path / "checkpoints"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), str(here), str(here.parent)])
    limit = time.monotonic() + 120
    try:
        while newest_checkpoint(folder) is None or not list(folder.glob("*.partial")):
            assert time.monotonic() < limit and child.poll() is None
            time.sleep(0.0003)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    newest = newest_checkpoint(folder)
    stage = gan_stage()
    modules = {**stage.modules, "ema": stage.ema.module}
    assert load_checkpoint(newest, modules, stage.optimizers, stage.facts).step == int(newest.stem)


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from musetalk_core.errors import MuseTalkError
from musetalk_core.training.checkpoint import Position, save_checkpoint
folder = Path(sys.argv[1])
save_checkpoint(folder, Position(1, 1.0), {"model": torch.nn.Linear(10, 10)}, {}, {}, keep=1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(folder, Position(2, 2.0), {"model": torch.nn.Linear(1000, 1000)}, {}, {}, keep=1)
except MuseTalkError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint(tmp_path):
    """The system refuses more than 100 kB in a file."""
    said = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=True)
    assert "00000002.safetensors cannot be written" in said.stdout and "--resume" in said.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["00000001.safetensors"]


# --- the result


def test_result_is_a_unet_file_that_says_how_it_was_trained(tmp_path):
    recipe = replace(small_recipe(), positions=False)
    path = train(make_stage(recipe, Drawn()), RunSettings(steps=2), tmp_path, False, lambda line: None)
    unet, layout = load_unet(path)
    assert layout.kind == "musetalk" and unet.config.cross_attention_dim == WIDTH
    assert read_unet_facts(path) == UnetFacts(False, -1.0, "musetalk", "drawn-1x16", "test", 2)
    stored = load_file(path)
    assert not torch.equal(stored["conv_in.weight"], small_unet().state_dict()["conv_in.weight"])


def test_a_file_without_facts_is_musetalks_own(tmp_path):
    torch.save(small_unet().state_dict(), tmp_path / "unet.pth")
    assert read_unet_facts(tmp_path / "unet.pth") == UnetFacts() and UnetFacts().positions
