"""How good is the picture? Measures of one clip, gathered frame by frame in memory that does not grow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..blending import Masker
from ..errors import MissingWeightsError
from ..face_parsing import FaceParser
from ..faces.track import FaceTrack
from . import image
from .clip import Clip, Figure
from .cpbd import cpbd
from .faces import ClipFaces
from .fid import FeatureStatistics
from .jitter import RegionJitter
from .perceptual import FaceEmbedder, InceptionFeatures, Lpips
from .weights import MISSING

MOST_PSNR = 100.0  # dB that equal pictures count
LIBRARY_MISSING = "library missing"
OF_CLIP = ("cpbd", "nose_jitter", "mouth_jitter")
OF_SOURCE = ("nose_jitter_source", "outside_psnr", "seam", "mouth_sharpness", "csim")
OF_REFERENCE = ("psnr", "mouth_psnr", "ssim", "mouth_ssim", "l1", "lpips")
PICTURE = (*OF_CLIP, *OF_SOURCE, *OF_REFERENCE)


@dataclass
class QualityTools:
    """What the measures use. parser: face parsing, for the masks; None draws them from landmarks. lpips, inception,
    embedder: None where their weights are missing. made, real: gather FID's features over all clips."""

    parser: FaceParser | None = None
    lpips: Lpips | None = None
    inception: InceptionFeatures | None = None
    embedder: FaceEmbedder | None = None
    made: FeatureStatistics = field(default_factory=FeatureStatistics)
    real: FeatureStatistics = field(default_factory=FeatureStatistics)


def measure_quality(
    clip: Clip, faces: ClipFaces, tools: QualityTools, progress: Callable[[], None] = lambda: None
) -> dict[str, Figure]:
    """name -> the mean over the clip's frames, or why there is none. faces: the clip's.

    progress(): after each frame. Measures of the source or the reference are there only when the clip has one.
    """
    meter = _Meter(clip, faces, tools)
    made, originals = FeatureStatistics(), FeatureStatistics()
    for k, (frame, shown, aside) in enumerate(_frames(clip)):
        meter.add(k, frame)
        if shown is not None:
            meter.add_source(k, frame, shown)
        if aside is not None:
            meter.add_reference(k, frame, aside)
        real = shown if aside is None else aside
        if tools.inception is not None and real is not None:
            made.add(tools.inception.features(frame))
            originals.add(tools.inception.features(real))
        progress()
    if made.count:  # a clip that breaks before its end adds nothing
        tools.made.include(made)
        tools.real.include(originals)
    return meter.figures()


Pictures = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def _frames(clip: Clip) -> Iterator[Pictures]:
    """The clip's frames as numpy arrays, each with the source's and the reference's."""
    same = clip.reference is clip.source  # then both show the same frame, and a reader cannot be in two places
    nothing = iter(lambda: None, 0)
    sources = nothing if clip.source is None else clip.source.read(clip.shown)
    asides = nothing if clip.reference is None or same else clip.reference.read(clip.aside)
    for frame, shown, aside in zip(clip.frames.read(range(len(clip))), sources, asides, strict=False):
        before = None if shown is None else shown.cpu().numpy()
        yield frame.cpu().numpy(), before, before if same else None if aside is None else aside.cpu().numpy()


class _Meter:
    """Means of one clip's measures."""

    def __init__(self, clip: Clip, faces: ClipFaces, tools: QualityTools) -> None:
        self.clip = clip
        self.own, self.track = faces.own, faces.source
        self.tools = tools
        self.masker = Masker(tools.parser, faces.settings.mask)
        self.sums: dict[str, tuple[float, int]] = {}
        self.missing: dict[str, str] = {}
        self.jitter = RegionJitter()
        self.source_jitter = RegionJitter()

    def note(self, name: str, value: float) -> None:
        if np.isfinite(value):
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1

    def landmarks(self, k: int) -> np.ndarray | None:
        """The clip's own in frame k, or None without a face."""
        return self.own.landmarks[k] if self.own.seen[k] else None

    def add(self, k: int, frame: np.ndarray) -> None:
        self.note("cpbd", cpbd(frame))
        self.jitter.add(frame, self.landmarks(k))

    def add_source(self, k: int, frame: np.ndarray, shown: np.ndarray) -> None:
        track, own = self.track, self.landmarks(k)
        assert track is not None and track.landmarks is not None
        landmarks = track.landmarks[k] if track.present[k] else None
        self.source_jitter.add(shown, landmarks)
        if landmarks is None:
            return
        mask = self._mask(shown, track.select([k]))
        self.note("outside_psnr", _capped(image.psnr(frame, shown, mask == 0)))
        self.note("seam_made", image.seam_energy(frame, mask))
        self.note("seam_source", image.seam_energy(shown, mask))
        mouth = image.mouth_region(landmarks, self.clip.frames.size)
        if mouth.any():
            self.note("sharp_made", image.sharpness(frame, mouth))
            self.note("sharp_source", image.sharpness(shown, mouth))
        if self.tools.embedder is not None and own is not None:
            embed = self.tools.embedder.embed
            self.note("csim", float(embed(frame, own) @ embed(shown, landmarks)))

    def add_reference(self, k: int, frame: np.ndarray, aside: np.ndarray) -> None:
        own = self.landmarks(k)
        mouth = None if own is None else image.mouth_region(own, self.clip.frames.size)
        self.note("psnr", _capped(image.psnr(frame, aside)))
        self.note("l1", image.l1(frame, aside))
        if mouth is not None and mouth.any():
            self.note("mouth_psnr", _capped(image.psnr(frame, aside, mouth)))
        try:
            whole, places = image.ssim_map(frame, aside)
        except MissingWeightsError:
            self.missing |= dict.fromkeys(("ssim", "mouth_ssim"), LIBRARY_MISSING)
        else:
            self.note("ssim", whole)
            if mouth is not None and mouth.any():
                self.note("mouth_ssim", float(places[mouth].mean()))
        if self.tools.lpips is not None:
            self.note("lpips", self.tools.lpips.distance(frame, aside))

    def figures(self) -> dict[str, Figure]:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        means |= self.jitter.figures()
        means["nose_jitter_source"] = self.source_jitter.figures()["nose_jitter"]
        means["seam"] = _ratio(means, "seam_made", "seam_source")
        means["mouth_sharpness"] = _ratio(means, "sharp_made", "sharp_source")
        missing = dict(self.missing)
        missing |= {} if self.tools.lpips is not None else {"lpips": MISSING}
        missing |= {} if self.tools.embedder is not None else {"csim": MISSING}
        names = [*OF_CLIP]
        names += OF_SOURCE if self.clip.source is not None else ()
        names += OF_REFERENCE if self.clip.reference is not None else ()
        return {name: missing.get(name) or _told(means.get(name, float("nan"))) for name in names}

    def _mask(self, frame: np.ndarray, track: FaceTrack) -> np.ndarray:
        """(H,W) uint8 of what the settings replace in a frame with its track of one."""
        (part,) = self.masker.masks([torch.from_numpy(frame)], track)
        x1, y1, x2, y2 = track.boxes[0].astype(int)
        full = np.zeros(self.clip.frames.size, np.uint8)
        if part is not None:
            inside = full[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)]
            rows, columns = max(-y1, 0), max(-x1, 0)
            inside[:] = part[rows : rows + inside.shape[0], columns : columns + inside.shape[1]]
        return full


def _ratio(means: dict[str, float], name: str, over: str) -> float:
    below = means.get(over, 0.0)
    return means.get(name, float("nan")) / below if below > 0 else float("nan")


def _capped(decibels: float) -> float:
    return min(decibels, MOST_PSNR)


def _told(value: float) -> Figure:
    return float(value) if np.isfinite(value) else "nothing to measure"
