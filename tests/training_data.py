"""A training data folder made on the spot: tones with curves, and twin clips of a drawn face whose mouth opens."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import clips
import cv2
import numpy as np

FRAMES, SIZE = 6, 96
BOX = (16.0, 8.0, 80.0, 88.0)


def write_corpus(folder: Path, speeches: int = 40, tracks: int = 2, excluded: list[str] | None = None) -> Path:
    """The folder with an index; tracks from number 1 on are held out. Speech hashes decide the speech split."""
    rng = np.random.default_rng(0)
    (folder / "speech").mkdir(parents=True)
    names = [write_speech(folder / "speech" / f"{k:05d}.npz", rng) for k in range(speeches)]
    entries = []
    for k in range(tracks):
        write_track(folder / "tracks" / f"{k:03d}", rng)
        entries.append({"name": f"{k:03d}", "frames": FRAMES, "identity": "drawn", "split": "val" if k else "train"})
    index = {"speech": [{"name": name} for name in names], "tracks": entries, "excluded_sha256": excluded or []}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def sound(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(samples int16 of rows * 20 ms, loudness (rows,) 0..1): a tone whose loudness drives the mouth."""
    loudness = np.abs(np.sin(np.arange(rows) / 9 + rng.uniform(0, 6)))
    wave = np.sin(2 * np.pi * 300 * np.arange(rows * 320) / 16000) * np.repeat(loudness, 320)
    return (wave * 12000 + rng.normal(0, 20, rows * 320)).astype(np.int16), loudness


def write_speech(path: Path, rng: np.random.Generator) -> str:
    """One utterance of 0.8 to 1.2 s; returns its name."""
    samples, loudness = sound(rng, int(rng.integers(40, 60)))
    curves = np.stack([loudness, 1 - loudness, loudness**2, loudness > 0.9, loudness < 0.1], 1).astype(np.float32)
    np.savez(
        path,
        samples=samples,
        curves=curves,
        viseme=(loudness * 21).astype(np.uint8),
        voice=np.array("tone"),
        sha256=np.array(sha256(samples)),
    )
    return path.stem


def write_track(folder: Path, rng: np.random.Generator) -> None:
    """Twin clips of FRAMES frames, their sounds and a still."""
    folder.mkdir(parents=True)
    arrays: dict[str, np.ndarray] = {"boxes": np.tile(np.float32(BOX), (FRAMES, 1))}
    colour = rng.integers(90, 200, 3)
    for take in ("a", "b"):
        samples, loudness = sound(rng, FRAMES * 2)
        gaps = loudness[::2].astype(np.float32) * 0.3
        clips.write_video(folder / f"{take}.mp4", np.stack([face(colour, gap) for gap in gaps]), Fraction(25))
        arrays |= {f"gap_{take}": gaps, f"samples_{take}": samples}
        arrays[f"landmarks_{take}"] = np.zeros((FRAMES, 68, 2), np.float32)
    np.savez(folder / "track.npz", voices=np.array(["tone", "tone"]), **arrays)
    cv2.imwrite(str(folder / "still.png"), face(colour, 0.1)[..., ::-1])


def face(colour: np.ndarray, gap: float) -> np.ndarray:
    """(SIZE,SIZE,3) uint8: an oval with eyes and a mouth `gap` open."""
    picture = np.full((SIZE, SIZE, 3), 40, np.uint8)
    cv2.ellipse(picture, (48, 48), (30, 40), 0, 0, 360, [int(c) for c in colour], cv2.FILLED)
    for x in (36, 60):
        cv2.circle(picture, (x, 38), 4, (20, 20, 20), cv2.FILLED)
    cv2.ellipse(picture, (48, 68), (12, 2 + int(gap * 30)), 0, 0, 360, (90, 20, 30), cv2.FILLED)
    return picture


def sha256(samples: np.ndarray) -> str:
    return hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
