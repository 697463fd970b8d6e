"""Twin tracks: one identity, one head motion, one light, rendered with two different speeches."""

import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from musetalk_core.faces.geometry import crop_box
from musetalk_core.media.audio import AudioArray
from musetalk_core.media.encoding import Encoding, Preset
from musetalk_core.media.video_writer import VideoWriter

from .corpus import Utterance
from .identity import HeadMotion
from .phonemes import RATE
from .portrait import NEUTRAL, Portrait, landmarks68
from .visemes import curves

FPS = 25
CRF = 8
LABEL = {"comment": "synthetic: rendered portrait, synthetic speech"}
MARGIN = 10  # MuseTalk 1.5's extra_margin, pixels below the chin


@dataclass(frozen=True)
class Take:
    """A rendered speech: landmarks (N,68,2) float32, gap (N,) float32 in eye distances."""

    landmarks: np.ndarray
    gap: np.ndarray


def render_speech(
    portrait: Portrait,
    motion: HeadMotion,
    shape: np.ndarray,
    samples: np.ndarray,
    path: Path,
    crf: int = CRF,
    preset: Preset = "veryfast",
) -> Take:
    """Write the portrait speaking to `path` (mp4 with sound).

    shape: (N,5) curves at FPS; samples: (M,) int16 at 16 kHz, heard beside them.
    """
    sound = AudioArray(samples[None].astype(np.float32) / 32768, RATE)
    size = (portrait.size, portrait.size)
    landmarks, gaps = [], []
    with VideoWriter(path, Fraction(FPS), size, sound, None, Encoding(crf, preset), LABEL, overwrite=True) as writer:
        for i, controls in enumerate(shape):
            rendering = portrait.render(controls, motion.pose(i / FPS))
            writer.write(torch.from_numpy(rendering.frame))
            landmarks.append(landmarks68(rendering.mesh))
            gaps.append(rendering.gap)
    return Take(np.stack(landmarks), np.array(gaps, np.float32))


def neutral_boxes(portrait: Portrait, motion: HeadMotion, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """MuseTalk's crop boxes (N,4) of the silent face in motion, and its landmarks (N,68,2): no news of the mouth."""
    boxes, landmarks = [], []
    for i in range(frames):
        mesh = portrait.mesh(NEUTRAL, motion.pose(i / FPS))
        points = landmarks68(mesh)
        extent = np.concatenate([mesh.min(0), mesh.max(0)])
        box = crop_box(points, extent, (portrait.size, portrait.size), extra_margin=MARGIN)
        if box is None:
            raise ValueError("the rendered face has left the frame")
        boxes.append(box)
        landmarks.append(points)
    return np.stack(boxes), np.stack(landmarks)


def write_twins(
    folder: Path, portrait: Portrait, motion: HeadMotion, first: Utterance, second: Utterance
) -> dict[str, int]:
    """Make the folder of a track at once: a.mp4, b.mp4, track.npz and still.png; nothing is left after an error."""
    from PIL import Image

    frames = int(min(first.seconds, second.seconds) * FPS)
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    boxes, neutral = neutral_boxes(portrait, motion, frames)
    arrays: dict[str, np.ndarray] = {"boxes": boxes, "landmarks_neutral": neutral}
    for name, speech in (("a", first), ("b", second)):
        shape = curves(speech.segments, frames, FPS, speech.samples, RATE)
        take = render_speech(portrait, motion, shape, speech.samples, part / f"{name}.mp4")
        arrays |= {f"landmarks_{name}": take.landmarks, f"gap_{name}": take.gap, f"curves_{name}": shape}
        arrays[f"samples_{name}"] = speech.samples
    arrays["voices"] = np.array([first.voice, second.voice])
    np.savez_compressed(part / "track.npz", **arrays)  # type: ignore[arg-type]
    Image.fromarray(portrait.still(motion.pose(0))).save(part / "still.png")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return {"frames": frames, "box_width": int((boxes[:, 2] - boxes[:, 0]).min())}
