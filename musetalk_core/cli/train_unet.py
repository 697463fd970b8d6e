"""`train unet`: MuseTalk's own networks, from prepared data."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MuseTalkError

if TYPE_CHECKING:
    from ..training.config import RunSettings
    from ..training.recipes import Recipe
    from ..training.upstream_config import UpstreamConfig

PRESETS = ("v1", "v15-stage1", "v15-stage2", "landmark")
LOG_EVERY = 10  # steps; one takes seconds


def add_parser(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to those of `train`."""
    parser = stages.add_parser("unet", help="train MuseTalk's UNet on a prepared data folder")
    parser.set_defaults(run=run)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="of `train prepare`, or upstream's")
    recipe = parser.add_mutually_exclusive_group(required=True)
    recipe.add_argument("--preset", choices=PRESETS, help="a known recipe")
    recipe.add_argument("--config", type=Path, metavar="FILE", help="MuseTalk's own stage1.yaml or stage2.yaml")
    parser.add_argument("--init", metavar="FILE", help='weights to begin with, or "random"')
    parser.add_argument("--out", type=Path, metavar="DIR", help="checkpoints and the result; default: the config's")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="updates of the weights; default: the recipe's")
    length.add_argument("--minutes", type=float, help="train so long, pauses between resumed runs not counted")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change the recipe; may be given several times"
    )
    parser.add_argument("--train", choices=("all", "attention"), help="what of the UNet learns; default: all")
    parser.add_argument("--models", type=Path, help="folder of the weights; default: as for infer")
    parser.add_argument("--features", metavar="ID", help="audio features, a folder of DIR/sound")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps; default: %(default)s")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="default: the faster")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    parser.add_argument("--workers", type=int, help="processes that prepare samples; default: the config's, or 0")
    parser.add_argument("--seed", type=int, help="default: the config's, or 0")
    parser.add_argument("--checkpoint-every", type=int, metavar="STEPS", help="default: the config's, or 200")
    parser.add_argument("--validate-every", type=int, metavar="STEPS", help="default: the config's, or 500")
    parser.add_argument("--keep", type=int, metavar="N", help="checkpoints that stay; default: the config's, or 2")


def run(args: argparse.Namespace) -> int:
    """Train; returns 0. Raises MuseTalkError for data, weights or settings that cannot be used."""
    import torch

    from ..training.recipes import preset
    from ..training.unet_run import UnetTraining
    from ..training.upstream_config import read_upstream_config
    from ..weights.folders import ModelFolders

    if args.threads:
        torch.set_num_threads(args.threads)
    config = read_upstream_config(args.config) if args.config else None
    for note in config.notes() if config else ():
        _say(note)
    recipe = _changed(config.recipe if config else preset(args.preset), args)
    out = args.out or (config.out if config else None)
    if out is None:
        raise MuseTalkError("There is no folder for the result; give --out DIR.")
    training = UnetTraining(
        data=args.data,
        out=out,
        recipe=recipe,
        name=args.preset or args.config.stem,
        start=_start(args, recipe, config),
        run=_run_settings(args, recipe, config),
        folders=ModelFolders.default(args.models or (config.models if config else None)),
        resume=args.resume or (config is not None and config.resume),
        say=_say,
        features=args.features,
        workers=_first(args.workers, config.workers if config else 0),
    )
    print(training.train())
    return 0


def _changed(recipe: "Recipe", args: argparse.Namespace) -> "Recipe":
    import yaml

    from ..training.unet_run import changed_recipe

    changes: dict[str, Any] = {"part": args.train} if args.train else {}
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise MuseTalkError(f"--set {item} names no value; write --set batch=8.")
        changes[name] = yaml.safe_load(value)
    return changed_recipe(recipe, changes, "--set")


def _start(args: argparse.Namespace, recipe: "Recipe", config: "UpstreamConfig | None") -> str:
    from ..training.unet_run import RANDOM

    if args.init or recipe.random_start:
        return args.init or RANDOM
    if config:
        return str(config.models / config.unet_folder / "pytorch_model.bin")  # where upstream's train.py looks
    raise MuseTalkError(
        f"The preset {args.preset} goes on from trained weights; give --init FILE, such as stage 1's "
        "weights.safetensors, or --init random."
    )


def _run_settings(args: argparse.Namespace, recipe: "Recipe", config: "UpstreamConfig | None") -> "RunSettings":
    from ..training.config import RunSettings

    stated = config or RunSettings(steps=1)
    return RunSettings(
        steps=args.steps or (None if args.minutes else recipe.optimisation.steps),
        minutes=args.minutes,
        seed=_first(args.seed, stated.seed),
        device=args.device,
        precision=args.precision,
        checkpoint_every=_first(args.checkpoint_every, stated.checkpoint_every),
        validate_every=_first(args.validate_every, stated.validate_every),
        log_every=LOG_EVERY,
        keep=_first(args.keep, stated.keep),
    )


def _first(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
