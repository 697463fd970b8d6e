"""A lip-sync job from files to a file: what a task is, how a config file states several, how one is run."""

import json
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import torch

from . import __version__
from .audio_features import AudioEncoder, StreamingFeatures, TokenSource
from .batches import steady_frames
from .engine import Engine
from .errors import MuseTalkError
from .faces.locator import FaceLocator
from .faces.track import FaceTrack
from .faces.track_file import load_track, save_track
from .media.audio import AudioFile, AudioSource, mono16k_blocks
from .media.encoding import Encoding
from .media.source import FrameSource, open_source
from .media.video_writer import VideoWriter
from .pipeline import Models, lip_sync
from .report import Report, write_report
from .room import check_video_room
from .segments import SEGMENT_SECONDS, Parts, file_facts, segment_frames
from .settings import LipSyncSettings
from .silence import gate
from .timeline import output_count, rational_fps, source_index
from .writing import Progress, write_frames

log = logging.getLogger(__name__)

AUDIO_RATE = 16000


@dataclass(frozen=True)
class Task:
    """One video to make. audio None: the video's own sound. fps None: the video's own rate, 25 for pictures.

    overwrite: replace an existing output. save_track: write the faces to
    `track_file` beside the output; use_track: read them from there instead of detecting. report: where to write what
    happened to the frames as JSON. resume: work in segments of segment_seconds, see resume_task.
    """

    video: Path
    output: Path
    audio: Path | None = None
    fps: Fraction | None = None
    settings: LipSyncSettings = field(default_factory=LipSyncSettings)
    encoding: Encoding = Encoding()
    overwrite: bool = False
    save_track: bool = False
    use_track: bool = False
    report: Path | None = None
    resume: bool = False
    segment_seconds: int = SEGMENT_SECONDS

    @property
    def track_file(self) -> Path:
        return self.output.with_suffix(".track.json")


def run_task(task: Task, engine: Engine, progress: Progress | None = None) -> Report:
    """Make a task's video; progress(done, total) after every frame.

    The output appears only when it is whole. Raises MuseTalkError for input that cannot be used.
    """
    if task.output.exists() and not (task.overwrite or task.resume):
        raise MuseTalkError(f"The output {task.output} exists already; choose another name or give --overwrite.")
    audio = AudioFile(task.audio or task.video)
    source = open_source(task.video, task.fps)
    models = engine.models(task.settings)
    video = LipSyncVideo(source, audio, task.fps, engine.audio_encoder, models, task.settings, engine.version)
    if task.resume:
        report = resume_task(task, video, engine, progress)
    else:
        video = replace(video, track=_track(task, source, models.locator))
        report = video.write(task.output, task.encoding, task.overwrite, progress)
    if task.report is not None:
        write_report(task.report, report)
    return report


def resume_task(task: Task, video: "LipSyncVideo", engine: Engine, progress: Progress | None = None) -> Report:
    """Make a task's video in segments that stay in <output>.parts until it is whole, or go on where that was left.

    All faces are located before the first segment. Whatever the number of interruptions, the frames are the same.
    Raises MuseTalkError as run_task and when the folder is that of a task that differs in anything.
    """
    length = segment_frames(task.segment_seconds, video.rate, steady_frames(task.settings.batch_size))
    parts = Parts(task.output, _facts(task, video, engine), video.count, length)
    if not parts.finished():
        parts.begin(task.overwrite)
        if not parts.track.exists():
            track = _track(task, video.source, video.models.locator)
            if track is None:
                track = locate_all(video.source, video.models.locator, task.settings.batch_size, progress)
            save_track(parts.track, track)
        replace(video, track=load_track(parts.track)).write_parts(parts, task.encoding, task.overwrite, progress)
    report = parts.report()
    parts.remove()
    return report


def _facts(task: Task, video: "LipSyncVideo", engine: Engine) -> dict[str, Any]:
    """Everything that the frames of a task depend on."""
    return {
        "video": file_facts(task.video),
        "audio": file_facts(task.audio),
        "track": file_facts(task.track_file) if task.use_track and task.track_file.exists() else None,
        "fps": str(video.rate),
        "settings": task.settings.as_dict(),
        "encoding": asdict(task.encoding),
        "version": engine.version,
        "weights": [file_facts(path) for path in engine.files],
        "precision": engine.precision,
        "package": __version__,
        "libraries": {"torch": torch.__version__, "av": av.__version__},
    }


@dataclass(frozen=True)
class LipSyncVideo:
    """Frames and sound that become a lip-synced video.

    fps: frames/s of the result, None for the source's. models and audio_encoder: on their devices. version: whose
    weights they are, for the result's comment. track: the faces of all source frames, when known. own_mask: a user's
    mask, see lip_sync.
    """

    source: FrameSource
    audio: AudioSource
    fps: Fraction | None
    audio_encoder: AudioEncoder
    models: Models
    settings: LipSyncSettings
    version: str
    track: FaceTrack | None = None
    own_mask: torch.Tensor | None = None

    @property
    def rate(self) -> Fraction:
        """Frames/s of the result."""
        return rational_fps(self.source.fps if self.fps is None else self.fps)

    @property
    def count(self) -> int:
        """Frames of the result. Raises MuseTalkError for sound shorter than a frame."""
        return output_count(self.audio.seconds, self.rate, len(self.source), self.source.fps, self.settings.mode)

    def write(
        self,
        output: Path,
        encoding: Encoding = Encoding(),  # noqa: B008 (frozen)
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> Report:
        """Make the video file, frame by frame in memory that does not grow with its length; see VideoWriter.

        progress(done, total) is called after every frame, and before, when faces are smoothed, while all are located.
        The output appears only when it is whole. Raises MuseTalkError for sound shorter than a frame, for a source
        without a face, without room for the result, and for what VideoWriter refuses.
        """
        source, settings, count = self.source, self.settings, self.count
        check_video_room(output, source.size, count, encoding, steady_frames(settings.batch_size))
        report = Report()
        tokens = stream_tokens(self.audio_encoder, self.audio, self.rate, settings)
        track = self.track
        if track is None:
            track = whole_track(source, self.models.locator, settings, progress)
        frames = lip_sync(source, tokens, count, self.models, settings, report, track, self.own_mask)
        with VideoWriter(
            output, self.rate, source.size, self.audio, self._sound_end, encoding, self._tags, overwrite
        ) as writer:
            write_frames(writer, frames, count, progress, self.models.execution.overlap)
        return report

    def write_parts(
        self, parts: Parts, encoding: Encoding, overwrite: bool = False, progress: Progress | None = None
    ) -> None:
        """Make what is missing of the segments, and of them the video; the track is there. See `write`."""
        source, settings, count = self.source, self.settings, self.count
        assert self.track is not None
        check_video_room(parts.output, source.size, count, encoding, steady_frames(settings.batch_size), copies=2)
        self._check_faces(self.track)
        tokens = stream_tokens(self.audio_encoder, self.audio, self.rate, settings)
        # Whether there is a face at all was just asked of the whole; a segment may well have none.
        passing = replace(settings, allow_no_face=True)

        def frames(start: int, stop: int, report: Report) -> Generator[torch.Tensor, None, None]:
            return lip_sync(source, tokens, stop, self.models, passing, report, self.track, self.own_mask, first=start)

        parts.write(frames, self.rate, source.size, encoding, progress, self.models.execution.overlap)
        parts.join(self.rate, self.audio, self._sound_end, self._tags, overwrite)

    @property
    def _sound_end(self) -> Fraction | None:
        """Seconds after which the sound is cut."""
        return self.count / self.rate if self.settings.mode == "trim" else None

    @property
    def _tags(self) -> dict[str, str]:
        return made_by(self.source.tags, self.version, self.settings)

    def _check_faces(self, track: FaceTrack) -> None:
        """Raise MuseTalkError when no frame that is shown has a face, unless that is allowed."""
        source, mode = self.source, self.settings.mode
        track.check(len(source), source.size)
        shown = {source_index(i, len(source), source.fps, self.rate, mode) for i in range(self.count)}
        report = Report.of_track(track.select(sorted(shown)))
        if not report.found and not self.settings.allow_no_face:
            raise MuseTalkError(report.nothing_found())


def made_by(tags: Mapping[str, str], version: str, settings: LipSyncSettings) -> dict[str, str]:
    """A source's tags, with a comment that says how this video was made and what the source's comment was."""
    made = {"made_by": f"musetalk-suite {__version__}", "version": version, **settings.as_dict()}
    kept = dict(tags)
    for key in [key for key in kept if key.lower() == "comment"]:
        made["source_comment"] = kept.pop(key)
    return {**kept, "comment": json.dumps(made)}


def stream_tokens(encoder: AudioEncoder, audio: AudioSource, fps: Fraction, settings: LipSyncSettings) -> TokenSource:
    """The tokens of a sound, read and encoded as far as they are asked for, with silence as the settings say."""
    tokens = StreamingFeatures(
        encoder,
        lambda: mono16k_blocks(audio),
        -(-audio.samples * AUDIO_RATE // audio.sample_rate),
        audio.seconds,
        fps,
        settings.audio_padding_left,
        settings.audio_padding_right,
        settings.segmentation,
    )
    return gate(tokens, encoder, lambda: mono16k_blocks(audio), settings)


def _track(task: Task, source: FrameSource, locator: FaceLocator) -> FaceTrack | None:
    """The stored or newly stored track of the whole source, or None to locate while running."""
    if task.save_track:
        save_track(task.track_file, locate_all(source, locator, task.settings.batch_size))
    elif not (task.use_track and task.track_file.exists()):
        return None
    # Read back even when just written, so that a later run from the file gives the same frames.
    return load_track(task.track_file)


def whole_track(
    source: FrameSource, locator: FaceLocator, settings: LipSyncSettings, progress: Progress | None = None
) -> FaceTrack | None:
    """What settings need located before the first frame is made: all frames when faces are smoothed, else None."""
    return locate_all(source, locator, settings.batch_size, progress) if settings.faces.smoothing else None


def locate_all(
    source: FrameSource, locator: FaceLocator, batch_size: int, progress: Progress | None = None
) -> FaceTrack:
    """The track of every source frame, read once from first to last, smoothed as the locator's options say.

    batch_size: frames located at once, DEFAULT_BATCH for 0. progress(done, total) is called after every batch.
    """

    def batches() -> Iterator[FaceTrack]:
        frames, done = iter(source.read(range(len(source)))), 0
        while batch := list(islice(frames, steady_frames(batch_size))):
            yield locator.locate(torch.stack(batch), live=False)
            done += len(batch)
            if progress is not None:
                progress(done, len(source))

    return locator.smoothed(FaceTrack.join(list(batches())))


TASK_KEYS = ("video_path", "audio_path", "result_name", "fps")


def read_tasks(config: Path, base: Task, result_dir: Path, version: str) -> list[Task]:
    """The tasks of a YAML or JSON file: {name: {video_path, audio_path, result_name?, fps?, any setting?}}.

    Each starts from `base`, so no task influences another. Paths are relative to the working directory.
    Raises MuseTalkError for an unreadable file, an unknown key or a missing path.
    """
    content = read_sections(config, "tasks", "`task_0: {video_path: .., audio_path: ..}`")
    return [_read_task(name, values, base, result_dir, version) for name, values in content.items()]


def read_sections(config: Path, what: str, example: str) -> dict[str, dict[str, Any]]:
    """The mappings by name that a YAML or JSON file holds.

    what, example: of the file, for the MuseTalkError when it cannot be read or holds something else.
    """
    import yaml

    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MuseTalkError(f"The config file {config} cannot be read: {error}.") from error
    if not isinstance(content, dict) or not all(isinstance(values, dict) for values in content.values()):
        raise MuseTalkError(f"The config file {config} holds no {what}; give {example}.")
    return content


def _read_task(name: str, values: dict[str, Any], base: Task, result_dir: Path, version: str) -> Task:
    if not values.get("video_path"):
        raise MuseTalkError(f"The task {name!r} has no video_path; name the video, picture or folder.")
    video = Path(values["video_path"])
    audio = Path(values["audio_path"]) if values.get("audio_path") else None
    changes = {key: value for key, value in values.items() if key not in TASK_KEYS}
    return replace(
        base,
        video=video,
        audio=audio,
        output=output_path(result_dir, version, video, audio, values.get("result_name")),
        fps=rational_fps(values["fps"]) if values.get("fps") else base.fps,
        settings=base.settings.changed(f"task {name}", changes),
    )


def output_path(result_dir: Path, version: str, video: Path, audio: Path | None, name: str | None) -> Path:
    """<result_dir>/<version>/<video>_<audio>.mp4, or `name` there. Raises MuseTalkError for a name with a folder."""
    if name is None:
        name = f"{video.stem}_{(audio or video).stem}.mp4"
    if os.path.basename(name) != name:
        raise MuseTalkError(f"The result name {name!r} has a folder in it; give a bare file name.")
    return result_dir / version / (name if Path(name).suffix else f"{name}.mp4")
