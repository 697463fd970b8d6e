"""Which frames make a training sample, and which part of them: MuseTalk 1.5's "spatio-temporal sampling".

Source: MuseTalk's musetalk/data/sample_method.py and dataset.py. All chance comes from a generator that is given.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import MuseTalkError
from ..latents import CROP_SIZE

SampleMethod = Literal["random", "pose_similarity", "pose_similarity_and_mouth_dissimilarity"]
METHODS: tuple[SampleMethod, ...] = ("random", "pose_similarity", "pose_similarity_and_mouth_dissimilarity")
MarginMethod = Literal["normal", "uniform"]
CONTOUR, LIPS, INNER_LIPS = slice(0, 16), slice(48, 67), slice(60, 67)  # iBUG points, upstream's ends
NEAREST = 5  # frames between a target and its reference, at least
REACH = 5  # lengths of the window: how far away a reference is looked for where nothing else says
TOP_K_RATIO = 0.51
MOUTH_PADDING = 10  # pixels of the crop, left and right of the lips


def union_boxes(boxes: np.ndarray, landmarks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,4) int64: the smallest whole-pixel boxes around face boxes (N,4) and landmarks (N,68,2), inside the image.

    size: (height, width).
    """
    low = np.minimum(np.trunc(boxes[:, :2]), np.trunc(landmarks).min(1))
    high = np.maximum(np.trunc(boxes[:, 2:]), np.trunc(landmarks).max(1))
    limit = np.array([size[1], size[0]])
    return np.concatenate([low.clip(0, limit), high.clip(0, limit)], 1).astype(np.int64)


def crop_points(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Points (N,P,2) of the frames in the pixels (256) of the crops of boxes (N,4), float64. No box may be empty."""
    sides = (boxes[:, None, 2:] - boxes[:, None, :2]).astype(np.float64)
    return (points - boxes[:, None, :2]) / sides * CROP_SIZE


def shape_distances(points: np.ndarray, frame: int) -> np.ndarray:
    """(N,): how far the points (N,P,2) of each frame lie from those of one, in the mean over P, in their pixels."""
    return np.linalg.norm(points - points[frame], axis=2).mean(1)


def pose_set(points: np.ndarray, frame: int, k: int) -> np.ndarray:
    """The k other frames whose face contour is most like that of `frame`; points: (N,68,2) from crop_points."""
    order = np.argsort(shape_distances(points[:, CONTOUR], frame), kind="stable")
    return order[order != frame][:k]


def mouth_set(points: np.ndarray, frame: int, k: int) -> np.ndarray:
    """The k other frames whose inner lips are least like those of `frame`; points as for pose_set."""
    order = np.argsort(-shape_distances(points[:, INNER_LIPS], frame), kind="stable")
    return order[order != frame][:k]


@dataclass(frozen=True)
class ReferenceChoice:
    """How the reference of a target frame is chosen; it is always at least 5 frames away.

    random: within 5 windows to either side. pose_similarity: of the k = int(top_k_ratio * N) frames of the same pose.
    pose_similarity_and_mouth_dissimilarity: of those that are also among the k with the most different mouth; where
    there are none, as random. Upstream's draw may end closer than 5 frames, at a clip's ends even on the target itself;
    here what is too close is left out before the draw.
    """

    method: SampleMethod = "pose_similarity_and_mouth_dissimilarity"
    top_k_ratio: float = TOP_K_RATIO

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise MuseTalkError(f"The sampling method {self.method!r} is unknown; choose one of {', '.join(METHODS)}.")
        if not 0 < self.top_k_ratio <= 1:
            raise MuseTalkError(f"top_k_ratio is {self.top_k_ratio}; give more than 0 and at most 1.")

    def candidates(self, points: np.ndarray, frame: int, window: int) -> np.ndarray:
        """The frames that may be the reference of `frame`, rising.

        points: (N,68,2) from crop_points. window: the sample's length T. Costs O(N), so nothing need be stored for a
        clip. Raises MuseTalkError for a clip too short to have one.
        """
        frames = np.arange(len(points))
        chosen = frames[:0]
        k = int(self.top_k_ratio * len(points))
        if self.method != "random":
            chosen = pose_set(points, frame, k)
        if self.method == "pose_similarity_and_mouth_dissimilarity":
            chosen = np.intersect1d(chosen, mouth_set(points, frame, k))
        chosen = np.sort(chosen[np.abs(chosen - frame) >= NEAREST])
        if not len(chosen):
            away = np.abs(frames - frame)
            chosen = frames[(away >= NEAREST) & (away <= REACH * window)]
        if not len(chosen):
            raise MuseTalkError(f"The clip has {len(points)} frames; frame {frame} has none {NEAREST} frames away.")
        return chosen

    def draw(self, points: np.ndarray, frame: int, window: int, draw: np.random.Generator) -> int:
        """One of the candidates, each as likely."""
        return int(draw.choice(self.candidates(points, frame, window)))


@dataclass(frozen=True)
class Margin:
    """The dynamic margin below the chin, in pixels of the frame.

    normal: from N(mean, spread), cut to mean - spread .. mean + spread; uniform: even over that range. Below 0 is 0.
    """

    method: MarginMethod = "normal"
    mean: float = 10
    spread: float = 10

    def __post_init__(self) -> None:
        if self.method not in ("normal", "uniform"):
            raise MuseTalkError(f"The margin method {self.method!r} is unknown; choose normal or uniform.")
        if self.spread < 0:
            raise MuseTalkError(f"The margin's spread is {self.spread}; give 0 or more.")

    def draw(self, draw: np.random.Generator) -> int:
        """A margin in whole pixels, rounded down."""
        low, high = self.mean - self.spread, self.mean + self.spread
        value = draw.uniform(low, high) if self.method == "uniform" else draw.normal(self.mean, self.spread)
        return int(max(0.0, min(max(value, low), high)))


def with_margin(box: np.ndarray, margin: int, height: int) -> np.ndarray:
    """A box (4,) whose bottom alone is `margin` pixels lower, as far as the image of `height` rows goes."""
    return np.array([*box[:3], max(box[3], min(box[3] + margin, height))], box.dtype)


def mouth_box(landmarks: np.ndarray, box: np.ndarray, padding: float = MOUTH_PADDING) -> np.ndarray:
    """(4,) float32 x1 y1 x2 y2 around the lips, in pixels of the 256 x 256 crop of `box` (4,) and inside it.

    landmarks: (68,2) of the frame. As wide as the lips and `padding` on both sides, half as high, about their middle.
    Upstream scales the lips by the box without its margin and then shifts them by margin * face width / frame width,
    which leaves them too low; here they are scaled by the box that is cropped.
    """
    lips = crop_points(landmarks[None, LIPS], box[None])[0]
    low, high = lips.min(0), lips.max(0)
    left, right = low[0] - padding, high[0] + padding
    middle, quarter = (low[1] + high[1]) / 2, (right - left) / 4
    return np.array([left, middle - quarter, right, middle + quarter], np.float32).clip(0, CROP_SIZE)


def draw_start(frames: int, window: int, latest: int, draw: np.random.Generator) -> int:
    """The first frame of a window of `window` consecutive ones, each start up to `latest` as likely.

    Raises MuseTalkError for a clip of fewer frames.
    """
    last = min(frames - window, latest)
    if last < 0:
        raise MuseTalkError(f"The clip has {frames} frames or too little sound; a sample needs {window} with sound.")
    return int(draw.integers(0, last + 1))
