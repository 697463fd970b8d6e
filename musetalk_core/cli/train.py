"""`train`: prepare data, train MuseTalk's UNet, and make the demo model's networks from a data folder."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from . import train_data, train_unet

STAGES = {
    "demo-autoencoder": "the picture's way to latents and back",
    "demo-audio": "what the generator hears; independent of the autoencoder, so both can train at once",
    "demo-generator": "the mouth, after the other two; writes DIR/demo.safetensors",
}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `train` command with its stages."""
    parser = commands.add_parser("train", help="prepare data, train MuseTalk's UNet or the demo model's networks")
    parser.set_defaults(run=run)
    stages = parser.add_subparsers(dest="stage", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="folder that scripts/make_corpus.py wrote")
    common.add_argument("--out", type=Path, required=True, metavar="DIR", help="one folder for all stages")
    length = common.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train so long, pauses between resumed runs not counted")
    length.add_argument("--steps", type=int, help="train so many steps; the result is then reproducible")
    common.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    common.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps; default: %(default)s")
    common.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16"), help="default: the faster")
    common.add_argument("--threads", type=int, help="CPU threads; default: torch's")
    common.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    common.add_argument("--config", type=Path, help="YAML or JSON with settings of the stage, such as `batch: 8`")
    common.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be given several times"
    )
    common.add_argument("--checkpoint-every", type=int, default=200, metavar="STEPS", help="default: %(default)s")
    common.add_argument("--validate-every", type=int, default=500, metavar="STEPS", help="default: %(default)s")
    for name, text in STAGES.items():
        stages.add_parser(name, parents=[common], help=text)
    train_data.add_parsers(stages)
    train_unet.add_parser(stages)


def run(args: argparse.Namespace) -> int:
    """Train one stage; returns 0. Raises MuseTalkError for data or settings that cannot be used."""
    import torch

    from ..training.config import AudioSettings, AutoencoderSettings, GeneratorSettings, RunSettings, changed
    from ..training.demo import DemoTraining

    if args.threads:
        torch.set_num_threads(args.threads)
    settings = RunSettings(
        steps=args.steps,
        minutes=args.minutes,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        checkpoint_every=args.checkpoint_every,
        validate_every=args.validate_every,
    )
    training = DemoTraining(args.data, args.out, settings, args.resume, _say)
    if args.stage == "demo-autoencoder":
        made = training.autoencoder(changed(AutoencoderSettings(), _changes(args), args.stage))
    elif args.stage == "demo-audio":
        made = training.audio(changed(AudioSettings(), _changes(args), args.stage))
    else:
        made = training.generator(changed(GeneratorSettings(), _changes(args), args.stage))
    print(made)
    return 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of the config file, then those of --set."""
    import yaml

    from ..training.config import read_changes

    changes = read_changes(args.config) if args.config else {}
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise MuseTalkError(f"--set {item} names no value; write --set batch=8.")
        changes[name] = yaml.safe_load(value)
    return changes


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
