"""`infer`: make lip-synced videos from files."""

import argparse
import sys
import time
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ..engine import PRECISIONS, VERSIONS, Engine, WeightChoice, choose_device, choose_dtype, load_engine
from ..errors import MuseTalkError
from ..faces.appearance import reference_text
from ..media.encoding import ENCODERS, PIXEL_FORMATS, PRESETS, Encoding
from ..media.images import read_image
from ..segments import SEGMENT_SECONDS
from ..settings import (
    DETECTORS,
    FACE_CHOICES,
    MASK_SHAPES,
    PARSING_MODES,
    SEGMENTATIONS,
    SILENCES,
    FaceSettings,
    LipSyncSettings,
    MaskSettings,
    SilenceSettings,
)
from ..tasks import Task, output_path, read_tasks, run_task
from ..timeline import MATCH_MODES, rational_fps
from ..weights.folders import ModelFolders

UPSTREAM_VERSIONS = {"v1": "v1.0", "v15": "v1.5"}


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `infer` command; names with dashes or with upstream's underscores are the same."""
    parser = commands.add_parser("infer", help="lip-sync a video, a picture or a folder of pictures to an audio file")
    parser.set_defaults(run=run)
    _add_files(parser.add_argument_group("input and output"))
    weights = parser.add_argument_group("weights and device")
    add_weights(weights)
    option(weights, "compile", action="store_true", help="compile UNet and decoder: minutes at first, then faster")
    add_settings(parser.add_argument_group("face, audio and blending"))


def option(group: Any, name: str, **kwargs: Any) -> None:
    """Add --name; with underscores for dashes, as upstream writes it, it is the same."""
    names = [f"--{name}"] + ([f"--{name.replace('-', '_')}"] if "-" in name else [])
    group.add_argument(*names, **kwargs)


def _add_files(group: Any) -> None:
    option(group, "video", type=Path, help="video file, picture, or folder of pictures")
    option(group, "audio", type=Path, help="any audio or video file; default: the video's own sound")
    option(group, "output", type=Path, help="the mp4 to write; default: <result-dir>/<version>/<video>_<audio>.mp4")
    option(group, "inference-config", type=Path, help="YAML or JSON file with several tasks, instead of --video")
    option(group, "result-dir", type=Path, default=Path("results"), help="folder of results without --output")
    option(group, "output-vid-name", help="file name in the result folder, instead of the default one")
    option(group, "fps", help="output frames/s, 1 to 120, also 30000/1001; default: the video's own, 25 for pictures")
    add_encoding(group)
    option(group, "overwrite", action="store_true", help="replace an existing output")
    option(group, "resume", action="store_true", help="work in segments; the same command goes on after a breakdown")
    option(group, "segment-seconds", type=int, default=SEGMENT_SECONDS, help="length of these segments; 60")
    option(group, "report", type=Path, help="write what happened to the frames as JSON; with several tasks a folder")
    option(group, "face-reference", type=Path, help="picture of the person that speaks; the most alike is chosen")
    option(group, "saved-coord", action="store_true", help="save the faces found as <output>.track.json")
    option(group, "use-saved-coord", action="store_true", help="read the faces from <output>.track.json when it exists")


def add_encoding(group: Any) -> None:
    """Add what `encoding_of` reads."""
    option(group, "crf", type=int, default=18, help="quality: 0 lossless, 18 visually lossless, 51 worst")
    option(group, "preset", default="medium", choices=PRESETS, help="speed of the encoder against the file's size")
    option(group, "pixel-format", default="yuv420p", choices=PIXEL_FORMATS, help="yuv420p plays everywhere")
    option(group, "encoder", default="libx264", choices=ENCODERS, help="h264_nvenc: by an NVIDIA card that encodes")


def add_weights(group: Any) -> None:
    """Add what `load` reads."""
    option(group, "version", default="v1.5", choices=[*VERSIONS, *UPSTREAM_VERSIONS], help="default: v1.5")
    option(group, "models", type=Path, help="folder of the weights; default: ./models or ComfyUI's")
    option(group, "unet-model-path", type=Path, help="own UNet file (.pth, .bin, .safetensors)")
    option(group, "unet-config", type=Path, help="upstream's musetalk.json: checked against what the file holds")
    option(group, "vae-type", help="own VAE file or folder, or its name in the models folder (sd-vae)")
    option(group, "whisper-dir", type=Path, help="own Whisper folder or file (also OpenAI's tiny.pt)")
    option(group, "device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    precision = group.add_mutually_exclusive_group()
    option(
        precision,
        "precision",
        default="auto",
        choices=PRECISIONS,
        help="auto: fp16 on a GPU, bf16 on a CPU that has it, else fp32",
    )
    option(precision, "use-float16", dest="precision", action="store_const", const="fp16", help="same as fp16")


def add_settings(group: Any) -> None:
    """Add what `settings_of` reads."""
    option(group, "bbox-shift", type=int, help="pixels; positive opens the mouth more; ignored by v1.5 upstream (0)")
    option(group, "extra-margin", type=int, help="pixels added below the chin; v1.5: 10, v1.0: 0")
    option(group, "face", choices=FACE_CHOICES, help="which face when there are several")
    option(group, "detector", choices=DETECTORS, help="what finds faces; auto: dwpose if its weights are there")
    option(group, "face-index", type=int, help="the person that speaks, from 0 in order of appearance; -1: --face")
    option(group, "detect-every", type=int, help="search for faces every so many frames, follow between; 1")
    option(group, "smoothing", type=float, help="average boxes and landmarks over so many frames; 0 none")
    option(group, "subpixel", action="store_const", const=True, help="do not round the crop to whole pixels")
    option(group, "upright", action="store_const", const=True, help="turn the crop with a head that leans to a side")
    option(group, "mode", choices=MATCH_MODES, help="what to show when the audio is longer than the video")
    option(group, "segmentation", choices=SEGMENTATIONS, help="audio over 30 s: overlapping windows or hard cuts")
    option(group, "audio-padding-length-left", dest="audio_padding_left", type=int, help="past context, 1/25 s each")
    option(group, "audio-padding-length-right", dest="audio_padding_right", type=int, help="future context, 1/25 s")
    option(group, "batch-size", type=int, help="frames in one pass; 0: as many as fit, at most 32, 8 on a CPU; 8")
    option(group, "parsing-mode", choices=PARSING_MODES, help="region replaced; v1.5: jaw, v1.0: raw")
    option(group, "left-cheek-width", type=int, help="pixels of the 512-pixel face picture, 20 to 160 are useful")
    option(group, "right-cheek-width", type=int, help="as left-cheek-width")
    option(group, "expand", type=float, help="side of the parsed square relative to the face box; 1.5")
    option(group, "blur", type=float, help="mask blur as a share of that square; 0.05, avatars 0.1, 0 none")
    option(group, "upper-boundary-ratio", type=float, help="share of the square kept from the top; 0.5")
    option(group, "mask-shape", choices=MASK_SHAPES, help="parsing: by parsing-mode; landmarks; ellipse in the box")
    option(group, "feather", type=int, help="pixels over which the mask fades inwards; 0 none")
    option(group, "colour-match", type=float, help="0 to 1: the face takes colours from the frame around the mask")
    option(group, "occlusion", action="store_const", const=True, help="keep what parsing sees in front of the face")
    option(group, "silence", choices=SILENCES, help="in pauses: off, close the mouth, or show the original")
    option(group, "silence-fade", type=int, help="frames over which the mouth goes over into it; 3")
    option(group, "silence-level", type=float, help="dB below the speech from which a sound is silence; 24")
    option(group, "allow-no-face", action="store_const", const=True, help="pass a clip without faces through")


def run(args: argparse.Namespace) -> int:
    """Run the tasks of the arguments one after the other; 0 when all succeeded, else 1."""
    tasks = _tasks(args)
    for task in tasks:
        if task.use_track and task.save_track:
            raise MuseTalkError("Give --saved-coord to save faces or --use-saved-coord to read them, not both.")
    engine = load(args, args.compile)
    tasks = _with_reference(tasks, args.face_reference, engine)
    failed = 0
    for task in tasks:
        if not args.output:
            task.output.parent.mkdir(parents=True, exist_ok=True)
        with closing(ProgressBar(task.output.name)) as progress:
            try:
                report = run_task(task, engine, progress)
            except MuseTalkError as error:
                failed += 1
                progress.close()
                print(f"error: {error}", file=sys.stderr)
            else:
                print(f"{task.output}\n{report.text()}")
    return 1 if failed else 0


def load(args: argparse.Namespace, compiled: bool = False) -> Engine:
    """The networks that the arguments of add_weights ask for; compiled: see load_engine."""
    device = choose_device(args.device)
    folders = ModelFolders.default(args.models)
    vae = _vae(args.vae_type, folders)
    choice = WeightChoice(version_of(args), args.unet_model_path, args.unet_config, vae, args.whisper_dir)
    return load_engine(choice, folders, device, choose_dtype(args.precision, device), compiled)


def settings_of(args: argparse.Namespace) -> LipSyncSettings:
    """The version's settings with those of the arguments."""
    groups = (LipSyncSettings, MaskSettings, FaceSettings, SilenceSettings)
    names = {field.name for group in groups for field in fields(group)} - {"mask", "faces"}
    changes = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    return LipSyncSettings.for_version(version_of(args), **changes)


def encoding_of(args: argparse.Namespace) -> Encoding:
    """How the arguments of add_encoding compress a video."""
    return Encoding(args.crf, args.preset, args.pixel_format, args.encoder)


def version_of(args: argparse.Namespace) -> str:
    """The version in our words, also where upstream's were given."""
    return UPSTREAM_VERSIONS.get(args.version, args.version)


def _tasks(args: argparse.Namespace) -> list[Task]:
    base = Task(
        video=args.video or Path(),
        output=args.output or Path(),
        audio=args.audio,
        fps=rational_fps(args.fps) if args.fps else None,
        settings=settings_of(args),
        encoding=encoding_of(args),
        overwrite=args.overwrite,
        save_track=args.saved_coord,
        use_track=args.use_saved_coord,
        report=args.report,
        resume=args.resume,
        segment_seconds=args.segment_seconds,
    )
    if args.inference_config:
        if args.video or args.output:
            raise MuseTalkError("Give either --inference-config or --video and --output, not both.")
        tasks = read_tasks(args.inference_config, base, args.result_dir, version_of(args))
        return [_with_own_report(task) for task in tasks]
    if not args.video:
        raise MuseTalkError("There is no input; give --video FILE or --inference-config FILE.")
    if args.output:
        return [base]
    output = output_path(args.result_dir, version_of(args), args.video, args.audio, args.output_vid_name)
    return [replace(base, output=output)]


def _with_own_report(task: Task) -> Task:
    """A task of several, whose report goes by its result's name into the folder that --report names."""
    return task if task.report is None else replace(task, report=task.report / f"{task.output.stem}.report.json")


def _with_reference(tasks: list[Task], picture: Path | None, engine: Engine) -> list[Task]:
    """The tasks with the face of a picture as the one that speaks."""
    if picture is None:
        return tasks
    image = read_image(picture)

    def settings(task: Task) -> LipSyncSettings:
        detector = engine.models(task.settings).locator.detector
        return task.settings.changed("--face-reference", {"reference": reference_text(image, detector)})

    return [replace(task, settings=settings(task)) for task in tasks]


def _vae(name: str | None, folders: ModelFolders) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    return path if path.exists() else folders.find_named("vae", name)


class ProgressBar:
    """A bar on stderr that appears with the first finished frame."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._started = time.time()
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._name, unit="frame", total=total, file=sys.stderr)
            self._bar.start_t = self._started
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
