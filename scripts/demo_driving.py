"""Drives portraits with held-out speech through the real pipeline and measures what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_setup import HostError, say
from portrait.identity import HeadMotion, enlarged
from portrait.librivox import Clip
from portrait.phonemes import RealSpeech, real_speech_curves
from portrait.portrait import NEUTRAL, Portrait, find_mesh
from skimage.data import astronaut

from musetalk_core.audio_features import SAMPLE_RATE, extract_features
from musetalk_core.demo.loader import DemoModels, load_demo
from musetalk_core.engine import Engine
from musetalk_core.evaluation import image, lips
from musetalk_core.faces.backends import Backends
from musetalk_core.faces.detector import Detector
from musetalk_core.faces.track import FaceTrack
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.report import Report
from musetalk_core.settings import LipSyncSettings
from musetalk_core.tasks import locate_all
from musetalk_core.timeline import source_index
from musetalk_core.weights.folders import ModelFolders

FPS = Fraction(25)
SETTINGS = LipSyncSettings.for_version("demo", detector="mediapipe")
SILENCE_SECONDS = 3
MOTION_SEED = 5
BAND = 6  # pixels inside the mask's border in which a blurred face would show

Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Driven:
    """A source and what the model made of it: frames (N,H,W,3) uint8, masks (N,H,W) uint8 of what was replaced,
    landmarks (N,68,2) and gap (N,) measured in the output, source_gap (N,) in the source."""

    source: np.ndarray
    output: np.ndarray
    masks: np.ndarray
    landmarks: np.ndarray
    gap: np.ndarray
    source_gap: np.ndarray


def drive(engine: Engine, pictures: np.ndarray, samples: np.ndarray) -> Driven:
    """Lip-sync pictures (K,H,W,3) uint8 at 25 frames/s (ping-pong when too short) to (M,) float32 sound at 16 kHz."""
    features = extract_features(engine.audio_encoder, samples, Fraction(len(samples), SAMPLE_RATE), FPS)
    source = TensorFrames(torch.from_numpy(pictures), FPS)
    models = engine.models(SETTINGS)
    track = locate_all(source, models.locator, SETTINGS.batch_size)
    made = lip_sync(source, features, features.frames, models, SETTINGS, Report(), track)
    output = np.stack([frame.numpy() for frame in made])
    shown = [source_index(i, len(source), FPS, FPS, SETTINGS.mode) for i in range(len(output))]
    masks = models.masker.masks(source.frames, track)
    full = np.stack([_full_mask(mask, track, k) for k, mask in enumerate(masks)])
    found = lips.find_landmarks(torch.from_numpy(output), engine.backends.get("mediapipe").detector)
    own = lips.lip_gap(np.zeros((len(source), 68, 2)) if track.landmarks is None else track.landmarks)
    return Driven(pictures[shown], output, full[shown], found, lips.lip_gap(found), own[shown])


def _full_mask(mask: np.ndarray | None, track: FaceTrack, k: int) -> np.ndarray:
    full = np.zeros(track.image_size, np.uint8)
    if mask is not None:
        x1, y1, x2, y2 = track.boxes[k].astype(int)
        full[y1:y2, x1:x2] = mask
    return full


def picture_figures(driven: Driven) -> dict[str, float]:
    """Means over the frames: sharpness, border sharpness and seam energy of output over source, and lip jitter.

    sharpness: of the replaced region; border_sharpness: of its BAND pixels inside the border; seam: across the border.
    lip_jitter: second difference of the lips' points, in % of the eye distance.
    """
    rows = [k for k in range(len(driven.output)) if (driven.masks[k] >= image.INSIDE).any()]
    values: dict[str, list[tuple[float, float]]] = {"sharpness": [], "border_sharpness": [], "seam": []}
    for k in rows:
        pair, mask = (driven.output[k], driven.source[k]), driven.masks[k]
        band = image.border_band(mask, BAND)
        values["sharpness"].append(_both(image.sharpness, pair, mask >= image.INSIDE))
        values["border_sharpness"].append(_both(image.sharpness, pair, band))
        values["seam"].append(_both(image.seam_energy, pair, mask))
    ratios = {name: _ratio(pairs) for name, pairs in values.items()}
    return {**ratios, "lip_jitter": lip_jitter(driven.landmarks)}


def lip_jitter(landmarks: np.ndarray) -> float:
    """The mean second difference of the points 48-67 over time, in % of the mean outer-eye distance."""
    eyes = np.linalg.norm(landmarks[:, lips.EYE_CORNERS[0]] - landmarks[:, lips.EYE_CORNERS[1]], axis=-1)
    return 100 * image.temporal_jitter(landmarks[:, 48:68]) / float(np.nanmean(eyes))


def _both(measure: Measure, pair: tuple[np.ndarray, np.ndarray], where: np.ndarray) -> tuple[float, float]:
    return measure(pair[0], where), measure(pair[1], where)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    if not pairs:
        return float("nan")
    output, source = np.mean(pairs, 0)
    return float(output / source) if source > 0 else float("nan")


def load_engine(path: Path | None, dtype: torch.dtype = torch.float32) -> tuple[Engine, DemoModels]:
    """The demo model in the pipeline's engine, as `infer --version demo` has it, and the model itself."""
    models = load_demo("cpu", dtype, path)
    backends = Backends(ModelFolders.default(), torch.device("cpu"))
    return Engine(models.codec, models.generator, models.audio_encoder, backends, None, "demo"), models


@dataclass(frozen=True)
class Spoken:
    """A held-out recording with the mouth that belongs to it: truth (N,) and its rendering (N,H,W,3) uint8."""

    name: str
    speech: RealSpeech
    rendered: np.ndarray

    @property
    def samples(self) -> np.ndarray:
        """(M,) float32, -1..1, at 16 kHz."""
        return self.speech.samples.astype(np.float32) / 32768

    @property
    def truth(self) -> np.ndarray:
        return self.speech.gap.astype(np.float64)


@dataclass(frozen=True)
class SourceResult:
    """A kind of source driven by every recording and by silence."""

    driven: list[Driven]
    silence: Driven
    pairs: list[lips.Clip]
    report: lips.LipReport

    @property
    def crossed(self) -> float:
        """Mean correlation over the crossed pairs; NaN with one recording."""
        values = lips.crossed_correlations(self.pairs)
        return float(np.mean(values)) if values else float("nan")

    @property
    def leak(self) -> float:
        """The share of the source's own mouth in the output's."""
        measured, truth = (np.concatenate(part) for part in zip(*self.pairs, strict=True))
        return lips.source_share(measured, truth, np.concatenate([d.source_gap for d in self.driven]))[1]

    def figures(self) -> dict[str, float]:
        """What must hold for every source, by name."""
        return {
            "correlation": self.report.correlation,
            "crossed pairs": self.crossed,
            "slope": self.report.slope,
            "closures": self.report.closed_median,
            "silence": float(np.nanmedian(self.silence.gap)),
        }

    def as_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Everything measured, for the result file."""
        quiet = self.silence.gap
        return {
            "pooled": self.report.as_dict(),
            "clips": {name: lips.compare([pair]).as_dict() for name, pair in zip(names, self.pairs, strict=True)},
            "crossed": {"mean": self.crossed, "pairs": lips.crossed_correlations(self.pairs)},
            "leak_share": self.leak,
            "silence": {
                "median": float(np.nanmedian(quiet)),
                "p95": float(np.nanpercentile(quiet, 95)),
                "most": float(np.nanmax(quiet)),
            },
            "picture": mean_figures(self.driven),
        }


def mean_figures(driven: Sequence[Driven]) -> dict[str, float]:
    each = [picture_figures(one) for one in driven]
    return {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}


def make_portrait(detector: Detector) -> Portrait:
    """The portrait of the training's first identity."""
    picture = enlarged(astronaut())
    mesh = find_mesh(picture, detector)
    if mesh is None:
        raise HostError("no face was found in the portrait")
    return Portrait(picture, mesh)


def speak(portrait: Portrait, clip: Clip, path: Path) -> Spoken:
    """The truth for a recording that lies at `path`."""
    speech = real_speech_curves(path, clip.transcript, FPS)
    return Spoken(clip.key, speech, np.stack([portrait.render(shape).frame for shape in speech.curves]))


def moving_source(portrait: Portrait, spoken: Sequence[Spoken], k: int) -> np.ndarray:
    """A head that moves and speaks other recordings than k, as long as recording k (backwards when it is the only)."""
    others = [one.speech.curves for one in [*spoken[k + 1 :], *spoken[:k]]] or [spoken[k].speech.curves[::-1]]
    length = len(spoken[k].truth)
    motion = HeadMotion.random(np.random.default_rng(MOTION_SEED + k))
    shapes = np.resize(np.concatenate(others), (length, len(NEUTRAL)))
    return np.stack([portrait.render(shape, motion.pose(i / float(FPS))).frame for i, shape in enumerate(shapes)])


def evaluate_source(kind: str, engine: Engine, portrait: Portrait, spoken: Sequence[Spoken]) -> SourceResult:
    """Drive one kind of source with everything."""

    def pictures(k: int) -> np.ndarray:
        if kind == "moving":
            return moving_source(portrait, spoken, k)
        return (portrait.still() if kind == "photo" else portrait.render(NEUTRAL).frame)[None]

    driven = []
    for k, one in enumerate(spoken):
        say(f"{kind}: clip {one.name}, {len(one.truth)} frames")
        driven.append(drive(engine, pictures(k), one.samples))
    pairs = [_cut(d.gap, one.truth) for d, one in zip(driven, spoken, strict=True)]
    say(f"{kind}: silence")
    silence = drive(engine, pictures(0), np.zeros(SILENCE_SECONDS * SAMPLE_RATE, np.float32))
    return SourceResult(driven, silence, pairs, lips.compare(pairs))


def _cut(measured: np.ndarray, truth: np.ndarray) -> lips.Clip:
    if len(measured) != len(truth):
        raise HostError(f"the output has {len(measured)} frames, the truth {len(truth)}")
    return measured, truth


def ruler(engine: Engine, spoken: Sequence[Spoken]) -> tuple[lips.LipReport, list[np.ndarray], float]:
    """What the measurement says of perfect lips, the renderings: report, gaps by recording, mean lip jitter."""
    say("ruler: the renderings themselves")
    found = [
        lips.find_landmarks(torch.from_numpy(one.rendered), engine.backends.get("mediapipe").detector) for one in spoken
    ]
    gaps = [lips.lip_gap(points) for points in found]
    report = lips.compare([(gap, one.truth) for gap, one in zip(gaps, spoken, strict=True)])
    return report, gaps, float(np.mean([lip_jitter(points) for points in found]))


def precision_psnr(still: Driven, path: Path | None, one: Spoken, dtype: torch.dtype) -> float:
    """Lowest PSNR of a frame's replaced region, made in `dtype`, against `still`: the same recording in float32."""
    engine, _ = load_engine(path, dtype)
    made = drive(engine, still.source[:1], one.samples)
    pairs = zip(made.output, still.output, still.masks, strict=True)
    return min(image.psnr(a, b, mask >= image.INSIDE) for a, b, mask in pairs)


def generated_psnr(result: SourceResult, spoken: Sequence[Spoken], detector: Detector) -> float:
    """Mean PSNR of the mouth, generated on the still, against the rendering of the same words."""
    values = []
    for driven, one in zip(result.driven, spoken, strict=True):
        found = lips.find_landmarks(torch.from_numpy(one.rendered[:1]), detector)[0]
        region = image.mouth_region(found, one.rendered.shape[1:3])
        values += [image.psnr(a, b, region) for a, b in zip(driven.output, one.rendered, strict=True)]
    return float(np.mean(values))
