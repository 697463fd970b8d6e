"""`train prepare` and `train features`: from videos to data that the generator's training reads."""

import argparse
import os
import sys
from pathlib import Path

from ..errors import MissingWeightsError
from ..settings import DETECTORS


def add_parsers(stages: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both commands to those of `train`."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--models", type=Path, help="folder of the weights; default: as for infer")
    common.add_argument("--device", default="cpu", help="cpu, cuda, auto ...; default: %(default)s")
    common.add_argument(
        "--audio-encoder", choices=("whisper", "demo", "none"), default="whisper", help="default: %(default)s"
    )
    prepare = stages.add_parser("prepare", parents=[common], help="cut videos to clips and find the faces in them")
    prepare.set_defaults(run=run_prepare)
    prepare.add_argument("videos", type=Path, help="folder with videos, folders in it included")
    prepare.add_argument("--out", type=Path, required=True, metavar="DIR", help="data folder; other clips in it stay")
    prepare.add_argument("--clip-seconds", type=float, default=30, help="length of a clip; default: %(default)s")
    prepare.add_argument("--min-seconds", type=float, default=1, help="shorter clips are rejected; %(default)s")
    prepare.add_argument("--min-face", type=int, default=150, help="least width of a face in pixels; %(default)s")
    prepare.add_argument("--val-share", type=float, default=0.02, help="share of the videos held out; %(default)s")
    prepare.add_argument("--detector", choices=DETECTORS, default="auto", help="default: %(default)s")
    prepare.add_argument(
        "--detect-every", type=int, default=1, metavar="N", help="follow the face between; %(default)s"
    )
    prepare.add_argument("--workers", type=int, default=1, help="processes; default: %(default)s")
    features = stages.add_parser("features", parents=[common], help="what an audio encoder hears in a data folder")
    features.set_defaults(run=run_features)
    features.add_argument("--data", type=Path, required=True, metavar="DIR", help="data folder, upstream's too")


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare; 0 when there is a clip to train on, else 1."""
    from ..training.prepare.run import load_encoder, prepare
    from ..training.prepare.settings import PrepareSettings

    settings = PrepareSettings(
        clip_seconds=args.clip_seconds,
        min_seconds=args.min_seconds,
        min_face=args.min_face,
        val_share=args.val_share,
        detector=args.detector,
        detect_every=args.detect_every,
        audio_encoder=args.audio_encoder,
        models=args.models,
        device=args.device,
        threads=max(1, (os.cpu_count() or 1) // max(1, args.workers)),
    )
    try:
        load_encoder(args.audio_encoder, args.models, args.device)
    except MissingWeightsError as error:
        _say(f"no audio features now, `train features --data {args.out}` adds them later: {error}")
    records = prepare(args.videos, args.out, settings, args.workers, _say)
    print((args.out / "report.md").read_text(encoding="utf-8"))
    return 0 if any(record.kept() for record in records) else 1


def run_features(args: argparse.Namespace) -> int:
    """Compute what is missing; returns 0."""
    from ..training.prepare.run import add_features

    made = add_features(args.data, args.audio_encoder, args.models, args.device, _say)
    print(f"{made} clips had something missing")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
