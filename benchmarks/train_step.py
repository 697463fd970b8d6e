#!/usr/bin/env python3
"""Time and memory of one training step of MuseTalk's UNet in its true form, weights random, on the CPU.

    HOST/venv/bin/python benchmarks/train_step.py [--threads 2] [--tiny] [--output FILE.json]

Stage 1: one picture, L1 and VGG. Stage 2: one clip of 16 frames with every loss (VGG-19, two discriminators, SyncNet as
of LatentSync). Pictures are noise of 256 pixels, float32 throughout; the activations of the UNet and of the decoder are
computed twice. Each stage runs in a process of its own. The optimizers' state is made before the step, so that memory
is that of a run under way; peak_gib is the largest resident size (VmHWM, Linux). --tiny: few channels, to try the
script. Exit status 1 when a peak is above 21 GiB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]

from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402

from musetalk_core.bench.machine import machine  # noqa: E402
from musetalk_core.nets.latentsync_syncnet import Encoder, LatentSyncNet  # noqa: E402
from musetalk_core.nets.vgg import Vgg19  # noqa: E402
from musetalk_core.training.frozen_vae import FrozenVae  # noqa: E402
from musetalk_core.training.loop import seed_step  # noqa: E402
from musetalk_core.training.loss_nets import LossNets  # noqa: E402
from musetalk_core.training.processes import Processes  # noqa: E402
from musetalk_core.training.recipes import Recipe, preset  # noqa: E402
from musetalk_core.training.unet import UnetData, UnetParts, UnetStage  # noqa: E402
from musetalk_core.training.unet_run import MUSETALK_UNET  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "train_step.json"
STAGES = ("v15-stage1", "v15-stage2")
MOST_GIB = 21.0
WIDTH = 384
VAE_WIDTHS = (128, 256, 512, 512)


class Noise(torch.utils.data.Dataset):
    """Samples of `frames` pictures of 256 pixels."""

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        draw = torch.Generator().manual_seed(index)
        pictures = torch.rand(2, self._frames, 3, 256, 256, generator=draw) * 2 - 1
        return {
            "target": pictures[0],
            "reference": pictures[1],
            "tokens": torch.randn(self._frames, 50, WIDTH, generator=draw),
            "mel": torch.rand(1, 80, 52, generator=draw) * 8 - 4,
            "mouths": torch.tensor([[80.0, 140.0, 180.0, 190.0]] * self._frames),
        }


def networks(recipe: Recipe, tiny: bool, device: torch.device) -> UnetParts:
    """Every network that the recipe needs, random."""
    form = MUSETALK_UNET | ({"block_out_channels": (32, 32, 64, 64)} if tiny else {})
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32,) * 4 if tiny else VAE_WIDTHS,
        layers_per_block=2,
    )
    narrow = [Encoder((*(32,) * (blocks - 1), 64), (False,) * blocks) for blocks in (7, 8)] if tiny else []
    nets = LossNets(vgg=Vgg19((2,) * 5) if tiny else Vgg19())
    if recipe.losses.sync:
        nets = replace(nets, syncnet=LatentSyncNet(*narrow))
    for net in (nets.vgg, nets.syncnet):
        if net is not None:
            net.train(False).requires_grad_(False)
    unet = UNet2DConditionModel(**form, cross_attention_dim=WIDTH)
    return UnetParts(unet, FrozenVae(vae.train(False), device), nets)


def measure(name: str, tiny: bool) -> dict[str, Any]:
    """One step of a stage with one clip."""
    recipe = preset(name)
    recipe = replace(
        recipe,
        losses=replace(recipe.losses, adversarial_from=0),
        optimisation=replace(recipe.optimisation, accumulate=1, warm_up_steps=0),
        sampling=replace(recipe.sampling, batch=1),
    )
    if tiny:
        recipe = replace(recipe, discriminator=replace(recipe.discriminator, width=2))
    torch.manual_seed(0)
    processes = Processes(1, "cpu")
    parts = networks(recipe, tiny, processes.device)
    data = UnetData(Noise(recipe.sampling.frames), Noise(1), "noise")
    stage = UnetStage(parts, recipe, name, data, processes, "fp32", 0)
    for optimizer in stage.optimizers.values():
        make_state(optimizer)
    before = peak_kib()
    started = time.perf_counter()
    found = stage.step(seed_step(0, 0), 0.0, 0)
    seconds = time.perf_counter() - started
    return {
        "stage": name,
        "frames": recipe.sampling.frames,
        "parameters": sum(parameter.numel() for parameter in parts.unet.parameters()),
        "losses": {key: round(float(value), 4) for key, value in found.items()},
        "seconds": round(seconds, 1),
        "gib_before": round(before / 2**20, 2),
        "peak_gib": round(peak_kib() / 2**20, 2),
    }


def make_state(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer make its state, without moving a weight."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def peak_kib() -> int:
    """The largest resident size of this process so far."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="few channels, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)  # a child's
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.stage:
        print(json.dumps(measure(args.stage, args.tiny)))
        return 0
    found = []
    for stage in STAGES:
        command = [sys.executable, __file__, "--stage", stage, "--threads", str(args.threads)]
        child = subprocess.run(command + ["--tiny"] * args.tiny, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(child.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    report = {"tiny": args.tiny, "threads": args.threads, "machine": machine(torch.device("cpu")), "stages": found}
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(max(stage["peak_gib"] for stage in found) > MOST_GIB)


if __name__ == "__main__":
    sys.exit(main())
