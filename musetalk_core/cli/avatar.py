"""`avatar`: prepare faces once, list, check and import them, and let them say sound files."""

import argparse
import json
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from ..avatars.actions import add_action
from ..avatars.avatar import REALTIME_FPS, Avatar
from ..avatars.clips import AvatarClips, read_clips
from ..avatars.files import avatar_folder, check_avatar, list_avatars, load_avatar
from ..avatars.info import read_info, speaking_as
from ..avatars.prepare import Order, ready_avatar, renew_avatar
from ..avatars.speaking import AvatarVideo
from ..avatars.upstream import import_avatar
from ..engine import Engine
from ..errors import MuseTalkError
from ..media.audio import AudioFile
from ..media.source import open_source
from ..settings import LipSyncSettings
from ..timeline import rational_fps
from ..writing import Progress
from .infer import ProgressBar, add_settings, add_weights, load, option, settings_of

AVATARS = Path("avatars")


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `avatar` command with its own commands."""
    parser = commands.add_parser("avatar", help="prepare a face once and let it say any sound, offline or in real time")
    actions = parser.add_subparsers(dest="action", required=True)
    _add_prepare(_command(actions, "prepare", prepare, "locate, encode and parse a video once, and keep the result"))
    _command(actions, "list", show, "list the avatars")
    check_parser = _command(actions, "check", check, "say which avatars can be used, and why others cannot")
    check_parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    _add_import(_command(actions, "import", take_over, "take over a folder that MuseTalk's real-time script prepared"))
    _add_action(_command(actions, "action", action, "give an avatar another clip: idle (1) or an action (2 and more)"))
    _add_run(_command(actions, "run", run_config, "make a video of every audio clip in a config like realtime.yaml"))


def _command(actions: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text)
    parser.set_defaults(run=run)
    option(parser, "avatars", type=Path, default=AVATARS, help="folder of the avatars; default: ./%(default)s")
    return parser


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the avatar's name")
    option(parser, "video", type=Path, help="video, picture or folder of pictures; default: the avatar's own frames")
    option(parser, "fps", default="25", help="frames/s of the avatar; real time needs 25; source: the video's own")
    option(parser, "force", action="store_true", help="prepare it even when nothing has changed")
    add_weights(parser.add_argument_group("weights and device"))
    add_settings(parser.add_argument_group("face, audio and blending"))


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="for example results/v15/avatars/avator_1")
    option(parser, "name", help="the avatar's name; default: the folder's")
    option(parser, "overwrite", action="store_true", help="replace an avatar of that name")


def _add_action(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the avatar's name")
    option(parser, "audiotype", type=int, required=True, help="the clip's number: 1 idle, 2 and more actions")
    option(parser, "video", type=Path, required=True, help="the clip; it is copied")
    option(parser, "audio", type=Path, help="its sound; default: silent")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML or JSON: {name: {video_path, audio_clips}}")
    option(parser, "result-dir", type=Path, default=Path("results"), help="videos go to <here>/<version>/<avatar>/")
    option(parser, "fps", help="frames/s of the videos; default: the avatar's, 25")
    option(parser, "overwrite", action="store_true", help="replace existing videos")
    option(parser, "skip-save", action="store_true", help="write nothing, tell the speed (--skip-save-images too)")
    parser.add_argument("--skip-save-images", "--skip_save_images", dest="skip_save", action="store_true")
    add_weights(parser.add_argument_group("weights and device"))
    add_settings(parser.add_argument_group("face, audio and blending"))


def prepare(args: argparse.Namespace) -> int:
    """Prepare an avatar unless it is as wanted."""
    folder = avatar_folder(args.avatars, args.name)
    fps = None if args.fps == "source" else rational_fps(args.fps)
    settings = settings_of(args)
    engine = load(args)
    with closing(ProgressBar(args.name)) as progress:
        if args.video is None:
            avatar, reason = _from_itself(folder, engine, settings, progress, args.force)
        else:
            order = Order(open_source(args.video, fps), settings, engine.version, fps)
            models = partial(engine.models, settings)
            avatar, reason = ready_avatar(args.name, order, models, folder, progress, args.force)
    print(f"{folder} was prepared: {reason}\n{avatar.text()}" if reason else f"{folder} is prepared already")
    return 0


def _from_itself(
    folder: Path, engine: Engine, settings: LipSyncSettings, progress: Progress, again: bool = False
) -> tuple[Avatar, str]:
    """The avatar of a folder with these settings, and why it had to be prepared again from its own frames, or ""."""
    reason = check_avatar(folder, None, settings, engine.version)
    if not reason and not again:
        return load_avatar(folder), ""
    made = renew_avatar(folder, engine.models(settings), settings, engine.version, progress)
    return made, reason or "it was asked for"


def show(args: argparse.Namespace) -> int:
    """List the avatars with their facts."""
    for name in list_avatars(args.avatars):
        print(_described(args.avatars / name))
    return 0


def _described(folder: Path) -> str:
    reason = check_avatar(folder)
    if reason:
        return f"{folder.name}: {reason}"
    info = read_info(folder)
    frames, (height, width) = len(info.timing.shown()), info.size
    return f"{folder.name}: {frames} frames of {width}x{height}, {info.timing.fps} frames/s, {info.version}"


def check(args: argparse.Namespace) -> int:
    """Compare the avatars' files with their checksums; 1 when one cannot be used."""
    bad = 0
    for name in args.names or list_avatars(args.avatars):
        reason = check_avatar(avatar_folder(args.avatars, name), every_byte=True)
        bad += bool(reason)
        print(f"{name}: {reason or 'whole'}")
    return 1 if bad else 0


def take_over(args: argparse.Namespace) -> int:
    """Import an upstream avatar."""
    name = args.name or args.folder.name
    folder = avatar_folder(args.avatars, name)
    if folder.exists() and not args.overwrite:
        raise MuseTalkError(f"The avatar {folder} exists already; choose another --name or give --overwrite.")
    with closing(ProgressBar(name)) as progress:
        import_avatar(args.folder, name, folder, progress)
    print(_described(folder))
    return 0


def action(args: argparse.Namespace) -> int:
    """Add or replace an action clip."""
    folder = avatar_folder(args.avatars, args.name)
    reason = check_avatar(folder)
    if reason:
        raise MuseTalkError(f"The avatar {args.name!r} cannot be used: {reason}; prepare it first.")
    print(json.dumps(vars(add_action(folder, args.audiotype, args.video, args.audio))))
    return 0


def run_config(args: argparse.Namespace) -> int:
    """Prepare what must be, and make the clips of all avatars."""
    jobs = read_clips(args.config, settings_of(args))
    engine = load(args)
    for job in jobs:
        avatar = _ready(job, engine, avatar_folder(args.avatars, job.name))
        for clip, path in job.audio.items():
            settings = speaking_as(avatar.settings, job.settings)
            fps = rational_fps(args.fps) if args.fps else None
            parts = engine.audio_encoder, engine.generator, engine.codec
            video = AvatarVideo(avatar, AudioFile(path), fps, *parts, settings, engine.version)
            _make(video, args.result_dir / engine.version / job.name, clip, args)
    return 0


def _ready(job: AvatarClips, engine: Engine, folder: Path) -> Avatar:
    """The avatar of a job, prepared if it must be; says why."""
    with closing(ProgressBar(job.name)) as progress:
        if job.video is not None and (job.preparation or check_avatar(folder)):
            order = Order(open_source(job.video, REALTIME_FPS), job.settings, engine.version)
            avatar, reason = ready_avatar(job.name, order, partial(engine.models, job.settings), folder, progress)
        else:
            avatar, reason = _from_itself(folder, engine, job.settings, progress)
    if reason:
        print(f"{folder} was prepared: {reason}")
    return avatar


def _make(video: AvatarVideo, folder: Path, clip: str, args: argparse.Namespace) -> None:
    output = avatar_folder(folder, clip).with_name(f"{clip}.mp4")
    with closing(ProgressBar(output.name)) as progress:
        if args.skip_save:
            print(f"{output.stem}: {video.speed(time.perf_counter, progress):.1f} frames/s, nothing written")
            return
        folder.mkdir(parents=True, exist_ok=True)
        report = video.write(output, overwrite=args.overwrite, progress=progress)
    print(f"{output}\n{report.text()}")
