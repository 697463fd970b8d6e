"""`evaluate`: measure finished clips, or make them first; figures as JSON, CSV, Markdown and a page."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from .. import __version__
from ..engine import Engine, WeightChoice, choose_device, load_parser
from ..errors import MissingWeightsError, MuseTalkError
from ..evaluation.dataset import PROTOCOLS, ClipFiles, read_dataset, read_pairs
from ..evaluation.documents import FILES, markdown, write_all
from ..evaluation.figures import chosen
from ..evaluation.gate import gate_checks, read_gate
from ..evaluation.perceptual import FaceEmbedder, InceptionFeatures, Lpips
from ..evaluation.quality import QualityTools
from ..evaluation.report import failures, table
from ..evaluation.run import Evaluation, Maker, Ruler, evaluate
from ..evaluation.speech import CROPS, SyncSettings
from ..evaluation.sync import MAX_SHIFT, SyncScorer
from ..evaluation.weights import ALEXNET, FACE_EMBEDDER, INCEPTION
from ..face_parsing import FaceParser
from ..faces.backends import Backends
from ..settings import LipSyncSettings
from ..tasks import Task, run_task
from ..weights.folders import ModelFolders
from ..weights.models import load_syncnet
from .infer import add_settings, add_weights, load, option, settings_of

# In a config: names that are no option's here ("reference" is a face to the settings), and talkingface-toolkit's.
OTHER_NAMES = {"reference": "real", "vshift": "max_shift", "lse_checkpoint_path": "syncnet"}
WITHOUT_USE = (
    "evaluate_batch_size",
    "gpu_id",
    "lse_reference_dir",
    "metric_decimal_place",
    "seed",
    "show_progress",
    "temp_dir",
)
PATHS = (
    *("dataset", "pairs", "video", "audio", "source", "real", "outputs", "result", "gate", "syncnet"),
    *("models", "unet_model_path", "unet_config", "whisper_dir"),
)
UNKNOWN = ("run", "defaults", "command", "config")
Tool = TypeVar("Tool")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `evaluate` command; weights and settings are told as to `infer`."""
    parser = commands.add_parser("evaluate", help="measure lips and pictures of finished clips, or make them first")
    parser.set_defaults(run=run, defaults=parser.get_default)
    _add_clips(parser.add_argument_group("clips: one of --dataset, --pairs and --video"))
    _add_measures(parser.add_argument_group("measures and results"))
    add_weights(parser.add_argument_group("weights and device"))
    add_settings(parser.add_argument_group("face, audio and blending, of --make and of the masks"))


def _add_clips(group: Any) -> None:
    option(group, "dataset", type=Path, help="folder with val/face/*.mp4 and val/audio/*.wav")
    option(group, "protocol", choices=PROTOCOLS, default="paired", help="--dataset: own sound, or another's")
    option(group, "pairs", type=Path, help="CSV with columns name, output, audio, source, reference")
    option(group, "video", type=Path, help="one finished clip")
    option(group, "audio", type=Path, help="--video: what it should say; default: its own sound")
    option(group, "source", type=Path, help="--video: the face video that it was made from")
    option(group, "reference", dest="real", type=Path, help="--video: the real video that says the audio")
    option(group, "outputs", type=Path, help="folder of the finished clips, <face>_<audio>.mp4; default: RESULT/clips")
    option(group, "make", action="store_true", help="make clips that are not there, as infer with --version does")


def _add_measures(group: Any) -> None:
    option(group, "result", type=Path, default=Path("results/evaluation"), help="folder of the results; %(default)s")
    option(group, "metrics", nargs="+", default=[], help="only these: lse, ssim, lip_audio ...; default: all")
    option(group, "crop", choices=CROPS, default="face", help="SyncNet sees the followed face, or none: whole frames")
    option(group, "max-shift", type=int, default=MAX_SHIFT, help="frames that offsets reach; %(default)s")
    option(group, "syncnet", type=Path, help="own SyncNet v2 file; default: the one of weights download syncnet")
    option(group, "config", type=Path, help="YAML or JSON {option: value}; what is given here in another way wins")
    option(group, "gate", type=Path, help="YAML or JSON {figure: {least: x, most: y}}; exit 1 when one does not hold")


def run(args: argparse.Namespace) -> int:
    """Measure and write; 0, or 1 when a bound of --gate does not hold or nothing could be measured."""
    if args.config:
        _configure(args)
    clips = _clips(args)
    gate = read_gate(args.gate) if args.gate else {}
    engine = load(args) if args.make else None
    ruler, detector = _ruler(args, engine)
    facts = {**_facts(args, ruler.settings), "detector": detector}

    def progress(result: Evaluation, done: int) -> None:
        print(f"{done} of {len(clips)}: {clips[done - 1].name}", file=sys.stderr)
        write_all(args.result, result, facts)

    make = None if engine is None else _maker(engine, ruler.settings)
    result = evaluate(clips, ruler, make, progress)
    print(markdown(result))
    print("\n".join(str(args.result / name) for name in FILES))
    checks = gate_checks(gate, result.summaries())
    if checks:
        print(table(checks))
    return 1 if failures(checks) or not result.measured else 0


def _ruler(args: argparse.Namespace, engine: Engine | None) -> tuple[Ruler, str]:
    """What the arguments ask to measure with, sharing the face networks of an engine; and the detector's name."""
    settings, sync, metrics = settings_of(args), SyncSettings(args.crop, args.max_shift), chosen(args.metrics)
    device, folders = choose_device(args.device), ModelFolders.default(args.models)
    backends = Backends(folders, device) if engine is None else engine.backends
    found = backends.get(settings.detector)
    found.nets.to(device)
    parser = load_parser(WeightChoice(), folders, device) if engine is None else engine.parser
    quality = quality_tools(folders, device, parser)
    scorer = sync_scorer(args.syncnet, folders, device)
    return Ruler(found.detector, settings, quality, scorer, sync, metrics), found.name


def sync_scorer(path: Path | None, folders: ModelFolders, device: torch.device) -> SyncScorer | None:
    """SyncNet of a file or of the model folders, or None without its weights."""
    return _there("LSE-C, LSE-D and offset", lambda: _syncnet(path or folders.find("syncnet"), device))


def quality_tools(folders: ModelFolders, device: torch.device, parser: FaceParser | None) -> QualityTools:
    """The tools whose weights are there; what is missing is said on stderr."""
    return QualityTools(
        parser,
        _there("LPIPS", lambda: Lpips(folders.find_named("musetalk", ALEXNET), device)),
        _there("FID", lambda: InceptionFeatures(folders.find_named("musetalk", INCEPTION), device)),
        _there("CSIM", lambda: FaceEmbedder(folders.find_named("musetalk", FACE_EMBEDDER))),
    )


def _there(measure: str, load: Callable[[], Tool]) -> Tool | None:
    """The tool, or None where its weights are missing, which is said on stderr."""
    try:
        return load()
    except MissingWeightsError as error:
        print(f"no {measure}: {error}", file=sys.stderr)
        return None


def _syncnet(path: Path, device: torch.device) -> SyncScorer:
    return SyncScorer(load_syncnet(path).to(device), device)


def _clips(args: argparse.Namespace) -> list[ClipFiles]:
    given = [name for name in ("dataset", "pairs", "video") if getattr(args, name)]
    if len(given) != 1:
        raise MuseTalkError(f"Give exactly one of --dataset, --pairs and --video; there are {len(given)}.")
    outputs = args.outputs or args.result / "clips"
    if args.dataset:
        return read_dataset(args.dataset, args.protocol, outputs)
    if args.pairs:
        return read_pairs(args.pairs, outputs)
    return [ClipFiles(args.video.stem, args.video, args.audio, args.source, args.real)]


def _configure(args: argparse.Namespace) -> None:
    """Take the options of the config file where the command line left the default."""
    import yaml

    try:
        content = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MuseTalkError(f"The config {args.config} cannot be read: {error}.") from error
    for key, value in content.items() if isinstance(content, dict) else ():
        name = OTHER_NAMES.get(key, key.replace("-", "_"))
        if name in WITHOUT_USE:
            print(f"{args.config}: {key} has no use here", file=sys.stderr)
            continue
        if name in UNKNOWN or not hasattr(args, name):
            raise MuseTalkError(f"The config {args.config} has {key!r}, which is no option; see `evaluate --help`.")
        default = args.defaults(name)
        if getattr(args, name) == default:
            setattr(args, name, Path(value) if name in PATHS else value)


def _maker(engine: Engine, settings: LipSyncSettings) -> Maker:
    def make(files: ClipFiles) -> None:
        if files.source is None:
            raise MuseTalkError(f"The clip {files.name} has no source to make it from; name one in the list.")
        files.output.parent.mkdir(parents=True, exist_ok=True)
        run_task(Task(files.source, files.output, files.audio, settings=settings), engine)

    return make


def _facts(args: argparse.Namespace, settings: LipSyncSettings) -> dict[str, Any]:
    """How a run was made, for its JSON."""
    given = {key: value for key, value in vars(args).items() if key not in UNKNOWN}
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    made_by = f"musetalk-suite {__version__}"
    return {"made_by": made_by, "arguments": plain, "settings": settings.as_dict()}
