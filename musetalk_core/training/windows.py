"""Samples to train MuseTalk's generator on: windows of consecutive frames with references, sound and mouths."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..errors import MuseTalkError
from ..latents import CROP_SIZE
from ..media.video_reader import VideoReader
from .clip_sound import open_sound
from .clips import FPS, FaceClip, clip_files, read_clip
from .sampling import (
    MOUTH_PADDING,
    Margin,
    ReferenceChoice,
    crop_points,
    draw_start,
    mouth_box,
    union_boxes,
    with_margin,
)

log = logging.getLogger(__name__)

WINDOWS_IN_CLIP = 10  # a clip of fewer windows is left out, as upstream does
ATTEMPTS = 200  # clips that are drawn before a sample is given up; upstream's number
SMALLEST_BOX = 2  # pixels
RATE_SLACK = 0.001  # of 25 frames/s; containers round


@dataclass(frozen=True)
class WindowSettings:
    """What a sample looks like.

    frames: T consecutive targets, each with its own reference. margin: None crops the face as it is (upstream's
    crop_resize), else the dynamic margin (dynamic_margin_crop_resize): one for all targets of a sample, a new one for
    each reference. min_face: least width of the face in a clip's first frame, pixels (upstream: 150 in stage 1, 200 in
    stage 2). padding_left, padding_right: sound before and after a frame, in frames.
    """

    frames: int = 1
    reference: ReferenceChoice = ReferenceChoice()
    margin: Margin | None = None
    min_face: int = 150
    mouth_padding: float = MOUTH_PADDING
    padding_left: int = 2
    padding_right: int = 2


@dataclass(frozen=True)
class _Crop:
    """One picture of a sample: a frame's number and the box (4,) int64 that is cut out of it."""

    frame: int
    box: np.ndarray


class ClipWindows(Dataset[dict[str, torch.Tensor]]):
    """Samples of a data folder that `train prepare` or upstream's scripts/preprocess.py made.

    folder: see clips.py; split: "train" or "val". extractor: id of the audio encoder whose features are taken.
    samples: the dataset's length. Sample i depends on (seed, i) alone, whoever asks for it and in whatever order: with
    i = step * batch + k a run that is stopped and resumed sees the same. A clip that cannot be used is logged, and
    another one is drawn.

    A sample of T frames, float32 on the CPU:
    target (T,3,256,256) in [-1,1], the faces to generate; reference (T,3,256,256) in [-1,1], other frames of the same
    clip; tokens (T,2*(left+right+1)*S,D) of the sound, (T,50,384) for Whisper tiny; mel (1,80,52) of the sync expert,
    which begins with the first target; mouths (T,4) x1 y1 x2 y2 around the targets' lips, in their 256 pixels.
    """

    def __init__(
        self, folder: Path, split: str, extractor: str, settings: WindowSettings, samples: int, seed: int = 0
    ) -> None:
        self._folder, self._extractor, self._settings = folder, extractor, settings
        self._samples, self._seed = samples, seed
        self._files = clip_files(folder, split)
        self._left_out: dict[Path, str] = {}
        if not self._files:
            raise MuseTalkError(f"The list {folder / split}.txt has no clip; prepare more data.")

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Sample `index`. Raises MuseTalkError when 200 clips in a row cannot be used, naming the last reason."""
        if not 0 <= index < self._samples:
            raise IndexError(f"sample {index} of {self._samples}")
        path, reason = self._files[0], ""
        for attempt in range(ATTEMPTS):
            # Anew for each, so that it does not matter which clips have been left out before.
            draw = np.random.default_rng([self._seed, index, attempt])
            path = self._files[int(draw.integers(len(self._files)))]
            reason = self._left_out.get(path, "")
            if reason:
                continue
            try:
                return self._sample(path, draw)
            except MuseTalkError as error:
                reason = self._left_out[path] = str(error)
                log.warning("%s is left out: %s", path.name, reason)
        raise MuseTalkError(f"{ATTEMPTS} clips in a row cannot be used; of {path.name}: {reason}")

    def _sample(self, path: Path, draw: np.random.Generator) -> dict[str, torch.Tensor]:
        clip, settings = read_clip(path, self._folder), self._settings
        sound = open_sound(self._folder, clip, self._extractor)
        boxes = union_boxes(clip.boxes, clip.landmarks, clip.size)
        _check(clip, boxes, settings)
        start = draw_start(len(clip), settings.frames, sound.latest, draw)
        targets = range(start, start + settings.frames)
        points = crop_points(clip.landmarks, boxes)
        references = [settings.reference.draw(points, frame, settings.frames, draw) for frame in targets]
        height = clip.size[0]
        margin = self._margin(draw)
        shown = [_Crop(frame, with_margin(boxes[frame], margin, height)) for frame in targets]
        others = [_Crop(frame, with_margin(boxes[frame], self._margin(draw), height)) for frame in references]
        pictures = _read_crops(clip, [*shown, *others])
        mouths = [mouth_box(clip.landmarks[crop.frame], crop.box, settings.mouth_padding) for crop in shown]
        return {
            "target": pictures[: settings.frames],
            "reference": pictures[settings.frames :],
            "tokens": sound.tokens(start, targets.stop, settings.padding_left, settings.padding_right),
            "mel": sound.sync_window(start),
            "mouths": torch.from_numpy(np.stack(mouths)),
        }

    def _margin(self, draw: np.random.Generator) -> int:
        return 0 if self._settings.margin is None else self._settings.margin.draw(draw)


def _check(clip: FaceClip, boxes: np.ndarray, settings: WindowSettings) -> None:
    """Raise MuseTalkError unless samples can be taken from a clip whose faces have these boxes."""
    if len(clip) < WINDOWS_IN_CLIP * settings.frames:
        raise MuseTalkError(
            f"it has {len(clip)} frames; samples of {settings.frames} need {WINDOWS_IN_CLIP * settings.frames}."
        )
    width = int(boxes[0, 2] - boxes[0, 0])
    if width < settings.min_face:
        raise MuseTalkError(f"its face is {width} pixels wide; {settings.min_face} are asked for.")
    if (boxes[:, 2:] - boxes[:, :2]).min() < SMALLEST_BOX:
        raise MuseTalkError("a face of it lies outside the picture.")


def _read_crops(clip: FaceClip, crops: Sequence[_Crop]) -> torch.Tensor:
    """The crops' pictures (K,3,256,256) float32 in [-1,1], read in the order of the film; one frame is held at a time.

    Resized by PIL's Lanczos, which also averages where it shrinks: what MuseTalk was trained on.
    """
    from PIL import Image

    pixels = np.empty((len(crops), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    order = sorted(range(len(crops)), key=lambda k: crops[k].frame)
    with VideoReader(clip.video) as film:
        off = abs(float(film.fps / FPS) - 1) > RATE_SLACK
        if off or len(film) != len(clip) or film.size != clip.size:
            raise MuseTalkError(
                f"{clip.video} has {len(film)} frames of {film.size} at {float(film.fps):g}/s, its description "
                f"{len(clip)} of {clip.size} at 25."
            )
        for k, frame in zip(order, film.read(crops[k].frame for k in order), strict=True):
            x1, y1, x2, y2 = crops[k].box
            face = Image.fromarray(np.ascontiguousarray(frame[y1:y2, x1:x2].numpy()))
            pixels[k] = np.asarray(face.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1
