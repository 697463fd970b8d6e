"""`bench`: how fast this machine is, with random weights of the true architecture, against the plain upstream way."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import choose_device, choose_dtype
from ..errors import MuseTalkError
from ..files import whole_file

if TYPE_CHECKING:
    from ..bench.children import Way

PARTS = ("stages", "whole", "accuracy")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `bench` command."""
    parser = commands.add_parser("bench", help="measure speed, memory and accuracy on this machine; needs no weights")
    parser.set_defaults(run=run)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--video", type=Path, help="video with a face, for whole and accuracy")
    parser.add_argument("--audio", type=Path, help="any sound, for whole")
    parser.add_argument("--frames", type=int, default=8, help="made end to end, none shown twice; 8")
    parser.add_argument("--rounds", type=int, default=2, help="how often both ways take turns; 2")
    parser.add_argument("--repeats", type=int, default=2, help="timed calls of each stage in a round; 2")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"), help="of our way")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0: its own choice")
    parser.add_argument("--result", type=Path, metavar="FILE.json", help="write the figures; with .md and .svg beside")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 0 when all bounds hold, else 1."""
    from ..bench.machine import machine
    from ..bench.report import checks, markdown, plot
    from ..evaluation.report import table

    parts = _parts(args)
    device = choose_device(args.device)
    dtype = str(choose_dtype(args.precision, device)).removeprefix("torch.")
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    results: dict[str, Any] = {"machine": machine(device), "precision": dtype, "repeats": args.repeats}
    results |= _measured(args, parts, str(device))
    found = checks(results, device.type == "cuda")
    results["checks"] = [check.as_dict() for check in found]
    results["load_after"] = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    print(markdown(results) + table(found))
    if args.result is not None:
        _write(args.result, json.dumps(results, indent=2) + "\n")
        _write(args.result.with_suffix(".md"), markdown(results))
        if "stages" in results:
            _write(args.result.with_suffix(".svg"), plot(results))
    return 1 if any(check.passed is False for check in found) else 0


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _parts(args: argparse.Namespace) -> tuple[str, ...]:
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        raise MuseTalkError(f"There is no part {unknown[0]!r}; choose from {', '.join(PARTS)}.")
    for name in ("frames", "rounds", "repeats"):
        if getattr(args, name) < 1:
            raise MuseTalkError(f"--{name} is {getattr(args, name)}; give at least 1.")
    parts = tuple(args.parts) or PARTS
    if "whole" in parts and not (args.video and args.audio):
        raise MuseTalkError("The part `whole` makes a video; give --video FILE and --audio FILE.")
    if "accuracy" in parts and not args.video:
        raise MuseTalkError("The part `accuracy` needs a face; give --video FILE.")
    return parts


def _measured(args: argparse.Namespace, parts: tuple[str, ...], device: str) -> dict[str, Any]:
    from ..bench.children import Job, measure
    from ..bench.clip import Clip
    from ..bench.report import stage_figures, whole_figures

    common = (device, args.precision, args.threads, args.repeats)
    results: dict[str, Any] = {}
    if "whole" in parts:
        clip = Clip(args.video, args.audio, args.frames)
        clip.check()
    if "stages" in parts:
        two: tuple[Way, ...] = ("baseline", "fast")
        rounds = [_round(two, lambda way: measure(Job(way, *common))) for _ in range(args.rounds)]
        results["stages"] = stage_figures(rounds)
    if "whole" in parts:
        three: tuple[Way, ...] = ("baseline", "fast", "fast_s3fd")
        rounds = [_round(three, lambda way: measure(Job(way, *common, clip))) for _ in range(args.rounds)]
        results |= {"frames": args.frames, "whole": whole_figures(rounds)}
    if "accuracy" in parts:
        results["accuracy"] = _accuracy(args.video, device)
    return results


def _round(ways: "Sequence[Way]", call: "Callable[[Way], Any]") -> dict[str, Any]:
    """What each way gives, one after the other."""
    made: dict[str, Any] = {}
    for way in ways:
        print(f"measuring {way} ...", file=sys.stderr, flush=True)
        made[way] = call(way)
    return made


def _accuracy(video: Path, device: str) -> dict[str, dict[str, float]]:
    """Of the faces in the first and tenth frame of a video."""
    import torch

    from ..bench.accuracy import accuracy
    from ..faces.detector import FaceDetector
    from ..faces.geometry import crop_face
    from ..faces.locator import FaceLocator
    from ..media.video_reader import VideoReader

    print("measuring accuracy ...", file=sys.stderr, flush=True)
    reader = VideoReader(video)
    frames = torch.stack(list(reader.read([0, min(9, len(reader) - 1)])))
    track = FaceLocator(FaceDetector(FaceDetector.load_nets())).locate(frames)
    if not track.present.all():
        raise MuseTalkError(f"{video.name} shows no face in its first or tenth frame; give another video.")
    crops = torch.stack([crop_face(frame, box) for frame, box in zip(frames, track.boxes, strict=True)])
    return accuracy(crops, torch.device(device), ("bf16",) if device == "cpu" else ("bf16", "fp16"))
