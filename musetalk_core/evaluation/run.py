"""Measures a list of clips. One that is broken is named and left out; it never ends the run."""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import MuseTalkError
from ..faces.detector import Detector
from ..media.audio import AudioFile
from ..media.source import FrameSource, open_source
from ..media.video_reader import VideoReader
from ..settings import LipSyncSettings
from ..timeline import MatchMode
from .clip import Clip, Figure
from .dataset import ClipFiles
from .faces import ClipFaces
from .fid import FeatureStatistics, fid
from .figures import GROUPS, KINDS, WORST_BY, Summary, summarize
from .quality import PICTURE, QualityTools, measure_quality
from .speech import SyncSettings, measure_speech
from .sync import SyncScorer
from .weights import MISSING

log = logging.getLogger(__name__)

Maker = Callable[[ClipFiles], None]


@dataclass(frozen=True)
class Ruler:
    """What clips are measured with. settings: those that they were made with; syncnet: None without its weights;
    metrics: the figures that are kept, names of KINDS."""

    detector: Detector
    settings: LipSyncSettings = LipSyncSettings()
    quality: QualityTools = field(default_factory=QualityTools)
    syncnet: SyncScorer | None = None
    sync: SyncSettings = SyncSettings()
    metrics: frozenset[str] = frozenset(KINDS)


@dataclass(frozen=True)
class Measured:
    """One clip's figures and its curves at 25/s: lip gap, loudness, the reference's lip gap or None."""

    files: ClipFiles
    figures: dict[str, Figure]
    curves: tuple[np.ndarray, np.ndarray, np.ndarray | None]
    frames: int


@dataclass
class Evaluation:
    """Everything about a run. skipped: name -> why. made, real: FID's statistics, empty without Inception."""

    measured: list[Measured] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    made: FeatureStatistics = field(default_factory=FeatureStatistics)
    real: FeatureStatistics = field(default_factory=FeatureStatistics)

    @property
    def names(self) -> list[str]:
        """The figures that at least one clip has, in the usual order."""
        return [name for name in KINDS if any(name in one.figures for one in self.measured)]

    def summaries(self) -> dict[str, Summary]:
        """name -> the figure over the clips."""
        return {
            name: summarize([one.figures[name] for one in self.measured if name in one.figures]) for name in self.names
        }

    def fid(self) -> tuple[Figure, str]:
        """FID of all pictures, and its warning."""
        value, warning = fid(self.made, self.real)
        return (MISSING, "") if not self.made.count else (value, warning)

    @property
    def sorted_by(self) -> str:
        """The figure that tells the worst clip: the first of WORST_BY that was measured, "" without any."""
        summaries = self.summaries()
        return next((name for name in WORST_BY if name in summaries and summaries[name].clips), "")

    def worst_first(self) -> list[Measured]:
        """The clips by `sorted_by`; those without it lead."""
        by = self.sorted_by
        if not by:
            return list(self.measured)
        sign = 1 if KINDS[by].better == "higher" else -1

        def rank(one: Measured) -> float:
            value = one.figures.get(by, "")
            return -np.inf if isinstance(value, str) else sign * value

        return sorted(self.measured, key=rank)


def evaluate(
    clips: Sequence[ClipFiles],
    ruler: Ruler,
    make: Maker | None = None,
    progress: Callable[[Evaluation, int], None] | None = None,
) -> Evaluation:
    """Measure clips one after the other; make: called first for those without an output. progress(so far, clips done).

    Raises nothing for a broken clip.
    """
    result = Evaluation(made=ruler.quality.made, real=ruler.quality.real)
    for done, files in enumerate(clips, 1):
        try:
            if make is not None and not files.output.exists():
                make(files)
            result.measured.append(_measure(files, ruler))
        except MuseTalkError as error:
            result.skipped[files.name] = str(error)
        except Exception as error:  # a run of hours must not end at one clip
            log.exception("%s cannot be measured", files.name)
            result.skipped[files.name] = f"{type(error).__name__}: {error}"
        if progress is not None:
            progress(result, done)
    return result


def _measure(files: ClipFiles, ruler: Ruler) -> Measured:
    with ExitStack() as opened:
        clip = _open(files, ruler.settings.mode, opened)
        if not len(clip):
            raise MuseTalkError(f"The clip {clip.name} shares no frame with its reference; give a longer reference.")
        faces = ClipFaces(clip, ruler.detector, ruler.settings)
        syncnet = ruler.syncnet if ruler.metrics.intersection(GROUPS["lse"]) else None
        speech = measure_speech(clip, faces, syncnet, ruler.sync)
        figures = speech.figures
        if ruler.metrics.intersection(PICTURE) or ruler.quality.inception is not None:
            figures |= measure_quality(clip, faces, ruler.quality)
        figures = {name: value for name, value in figures.items() if name in ruler.metrics}
        return Measured(files, figures, (speech.gap, speech.loudness, speech.reference_gap), len(clip))


def _open(files: ClipFiles, mode: MatchMode, opened: ExitStack) -> Clip:
    """The clip of these files; raises MuseTalkError, naming the file, for what cannot be read."""

    def frames_of(path: Path, fps: Fraction | None = None) -> FrameSource:
        frames = open_source(path, fps)
        if isinstance(frames, VideoReader):
            opened.enter_context(frames)
        return frames

    frames = frames_of(files.output)
    source = None if files.source is None else frames_of(files.source, frames.fps)
    reference = source
    if files.reference != files.source:
        reference = None if files.reference is None else frames_of(files.reference, frames.fps)
    return Clip(files.name, frames, AudioFile(files.audio or files.output), source, reference, mode)
