"""`preview`: one frame of the result as a picture, to tune the settings on before the long run."""

import argparse
from pathlib import Path

import numpy as np

from ..errors import MuseTalkError
from ..files import whole_file
from ..media.audio import AudioFile
from ..media.source import open_source
from ..preview import find_moment, make_take, report, sweep_shifts
from ..preview_sheet import preview_sheet, sweep_sheet
from ..tasks import stream_tokens
from ..timeline import rational_fps
from .infer import add_settings, add_weights, load, option, settings_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `preview` command; weights and settings are told as to `infer`."""
    parser = commands.add_parser("preview", help="make one frame of the result as a picture, to tune the settings on")
    parser.set_defaults(run=run)
    group = parser.add_argument_group("input and output")
    option(group, "video", type=Path, required=True, help="video file, picture, or folder of pictures")
    option(group, "audio", type=Path, help="any audio or video file; default: the video's own sound")
    option(group, "seconds", type=float, default=0.0, help="the moment of the result; default: %(default)s")
    shifts = {"nargs": "*", "default": ["-14", "-7", "0", "7", "14"], "metavar": "SHIFT"}
    option(group, "sweep", **shifts, help="bbox shifts to compare, in <output>_sweep; default: %(default)s")
    option(group, "fps", help="output frames/s, as for infer")
    option(group, "output", type=Path, required=True, help=f"the picture to write ({', '.join(SUFFIXES)})")
    option(group, "overwrite", action="store_true", help="replace existing pictures")
    add_weights(parser.add_argument_group("weights and device"))
    add_settings(parser.add_argument_group("face, audio and blending"))


def run(args: argparse.Namespace) -> int:
    """Write the preview and, when there is more than one bbox_shift, the sweep; 0. Raises MuseTalkError."""
    files = [args.output, args.output.with_name(f"{args.output.stem}_sweep{args.output.suffix}")]
    for file in files:
        _check(file, args.overwrite)
    settings = settings_of(args)
    shifts = sweep_shifts(" ".join(args.sweep), settings.bbox_shift)
    source = open_source(args.video, rational_fps(args.fps) if args.fps else None)
    sound = AudioFile(args.audio or args.video)
    engine = load(args)
    models = engine.models(settings)
    tokens = stream_tokens(engine.audio_encoder, sound, rational_fps(args.fps or source.fps), settings)
    moment = find_moment(source, tokens, args.seconds, models, settings)
    takes = [make_take(moment, shift, models, settings) for shift in shifts]
    current = takes[shifts.index(settings.bbox_shift)]
    sheets = [preview_sheet(moment, current)]
    if len(takes) > 1:
        sheets.append(sweep_sheet(moment, takes, settings.bbox_shift))
    for file, sheet in zip(files, sheets, strict=False):
        _save(file, sheet)
        print(file)
    print(report(moment, current, takes))
    return 0


def _check(file: Path, overwrite: bool) -> None:
    if file.suffix.lower() not in SUFFIXES:
        raise MuseTalkError(f"The output {file} is no picture; end its name with {' or '.join(SUFFIXES)}.")
    if not file.parent.is_dir():
        raise MuseTalkError(f"The folder of the output {file} does not exist; make it or choose another.")
    if file.exists() and not overwrite:
        raise MuseTalkError(f"The output {file} exists already; choose another name or give --overwrite.")


def _save(file: Path, sheet: np.ndarray) -> None:
    """Write a picture under a temporary name, then rename it."""
    from PIL import Image

    with whole_file(file) as part:
        Image.fromarray(sheet).save(part)
