"""How good is the picture? Measures of one clip, gathered frame by frame in memory that does not grow."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from ..blending import Masker
from ..errors import MissingWeightsError
from ..faces.detector import FaceDetector
from ..faces.geometry import crop_box
from ..faces.locator import FaceLocator
from ..faces.track import FaceTrack
from ..settings import LipSyncSettings
from . import image
from .clip import Clip, Faces, Figure, find_faces
from .cpbd import cpbd
from .fid import FeatureStatistics
from .jitter import RegionJitter
from .perceptual import FaceEmbedder, InceptionFeatures, Lpips
from .weights import MISSING

MOST_PSNR = 100.0  # dB that equal pictures count
LIBRARY_MISSING = "library missing"
OF_SOURCE = ("outside_psnr", "seam", "mouth_sharpness", "csim")
OF_REFERENCE = ("psnr", "mouth_psnr", "ssim", "mouth_ssim", "l1", "lpips")


@dataclass
class QualityTools:
    """What the measures use. settings: those that the clips were made with, for the masks. lpips, inception, embedder:
    None where their weights are missing. made, real: gather FID's features over all clips."""

    detector: FaceDetector
    settings: LipSyncSettings = field(default_factory=LipSyncSettings)
    lpips: Lpips | None = None
    inception: InceptionFeatures | None = None
    embedder: FaceEmbedder | None = None
    made: FeatureStatistics = field(default_factory=FeatureStatistics)
    real: FeatureStatistics = field(default_factory=FeatureStatistics)


def measure_quality(
    clip: Clip, faces: Faces, tools: QualityTools, progress: Callable[[], None] = lambda: None
) -> dict[str, Figure]:
    """name -> the mean over the clip's frames, or why there is none; `faces`: the clip's own, one a frame.

    progress(): after each frame. Measures of the source or the reference are there only when the clip has one.
    """
    meter = _Meter(clip, tools)
    source = None
    if clip.source is not None:
        source = find_faces(clip.source, clip.shown, FaceLocator(tools.detector, face=tools.settings.face))
    for k, (frame, shown, aside) in enumerate(_frames(clip)):
        own = faces.landmarks[k] if faces.seen[k] else None
        meter.add(frame, own)
        if shown is not None and source is not None and source.seen[k]:
            meter.add_source(frame, own, shown, source.landmarks[k], source.boxes[k])
        if aside is not None:
            meter.add_reference(frame, own, aside)
        real = shown if aside is None else aside
        if tools.inception is not None and real is not None:
            tools.made.add(tools.inception.features(frame))
            tools.real.add(tools.inception.features(real))
        progress()
    return meter.figures()


Pictures = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]


def _frames(clip: Clip) -> Iterator[Pictures]:
    """The clip's frames as numpy arrays, each with the source's and the reference's."""
    nothing = iter(lambda: None, 0)
    sources = nothing if clip.source is None else clip.source.read(clip.shown)
    asides = nothing if clip.reference is None else clip.reference.read(clip.aside)
    for frame, shown, aside in zip(clip.frames.read(range(len(clip))), sources, asides, strict=False):
        yield (
            frame.cpu().numpy(),
            None if shown is None else shown.cpu().numpy(),
            None if aside is None else aside.cpu().numpy(),
        )


class _Meter:
    """Means of one clip's measures."""

    def __init__(self, clip: Clip, tools: QualityTools) -> None:
        self.clip = clip
        self.tools = tools
        self.masker = Masker(None, tools.settings.mask)
        self.sums: dict[str, list[float]] = {}
        self.missing: dict[str, str] = {}
        self.jitter = RegionJitter()
        self.source_jitter = RegionJitter()

    def note(self, name: str, value: float) -> None:
        if np.isfinite(value):
            total = self.sums.setdefault(name, [0.0, 0])
            total[0] += value
            total[1] += 1

    def add(self, frame: np.ndarray, landmarks: np.ndarray | None) -> None:
        self.note("cpbd", cpbd(frame))
        self.jitter.add(frame, landmarks)

    def add_source(
        self, frame: np.ndarray, own: np.ndarray | None, shown: np.ndarray, landmarks: np.ndarray, box: np.ndarray
    ) -> None:
        self.source_jitter.add(shown, landmarks)
        mask = self._mask(shown, landmarks, box)
        if mask is not None:
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

    def add_reference(self, frame: np.ndarray, own: np.ndarray | None, aside: np.ndarray) -> None:
        mouth = None if own is None else image.mouth_region(own, self.clip.frames.size)
        self.note("psnr", _capped(image.psnr(frame, aside)))
        self.note("l1", image.l1(frame, aside))
        try:
            self.note("ssim", image.ssim(frame, aside))
        except MissingWeightsError:
            self.missing |= dict.fromkeys(("ssim", "mouth_ssim"), LIBRARY_MISSING)
        if mouth is not None and mouth.any():
            self.note("mouth_psnr", _capped(image.psnr(frame, aside, mouth)))
            if "ssim" not in self.missing:
                self.note("mouth_ssim", image.ssim(frame, aside, mouth))
        if self.tools.lpips is not None:
            self.note("lpips", self.tools.lpips.distance(frame, aside))

    def figures(self) -> dict[str, Figure]:
        means = {name: total / count for name, (total, count) in self.sums.items()}
        means |= self.jitter.figures()
        for name, parts in (
            ("seam", ("seam_made", "seam_source")),
            ("mouth_sharpness", ("sharp_made", "sharp_source")),
        ):
            made, source = (means.pop(part, float("nan")) for part in parts)
            means[name] = made / source if source > 0 else float("nan")
        before = self.source_jitter.figures()["nose_jitter"]
        means["nose_jitter_source"] = before
        missing = dict(self.missing)
        missing |= {} if self.tools.lpips is not None else {"lpips": MISSING}
        missing |= {} if self.tools.embedder is not None else {"csim": MISSING}
        names = ["cpbd", "nose_jitter", "mouth_jitter"]
        names += ["nose_jitter_source", *OF_SOURCE] if self.clip.source is not None else []
        names += OF_REFERENCE if self.clip.reference is not None else []
        return {name: missing.get(name) or _told(means.get(name, float("nan"))) for name in names}

    def _mask(self, frame: np.ndarray, landmarks: np.ndarray, box: np.ndarray) -> np.ndarray | None:
        """(H,W) uint8 of what the settings replace in this frame; None without a crop box."""
        size, settings = self.clip.frames.size, self.tools.settings
        crop = crop_box(landmarks, box, size, settings.bbox_shift, settings.extra_margin)
        if crop is None:
            return None
        track = FaceTrack(np.asarray(crop, np.float32)[None], landmarks[None], np.ones(1, bool), size)
        part = self.masker.masks([torch.from_numpy(frame)], track)[0]
        full = np.zeros(size, np.uint8)
        if part is not None:
            x1, y1, x2, y2 = track.boxes[0].astype(int)
            full[y1:y2, x1:x2] = part
        return full


def _capped(decibels: float) -> float:
    return min(decibels, MOST_PSNR)


def _told(value: float) -> Figure:
    return float(value) if np.isfinite(value) else "nothing to measure"
