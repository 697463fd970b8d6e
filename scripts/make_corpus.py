#!/usr/bin/env python3
"""Make the demo model's training data: synthetic speech with exact mouth curves, and twin tracks of talking faces.

    HOST/venv/bin/python scripts/make_corpus.py DATA [--minutes 80] [--tracks 46] [--frames 170]

DATA/speech/NNNNN.npz   samples int16 16 kHz, curves float32 (R,5) at 50 rows/s, viseme uint8 (R,), voice, sha256
DATA/tracks/NNN/        a.mp4, b.mp4 (384x384, 25 frames/s, with sound), track.npz, still.png
DATA/index.json         everything above, the split, the seed, the hashes of what must never be in here

Runs in two processes, about a minute for ten minutes of speech or six tracks. What is there already is kept, so an
interrupted run is simply started again. Needs the packages of requirements-train.txt; flite and espeak-ng are
installed when root, else the line to run is named. The picture is NASA's public-domain portrait in scikit-image.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # two processes do the work
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from comfy_setup import HostError, say  # noqa: E402
from portrait.corpus import Utterance, monologue, utterance  # noqa: E402
from portrait.identity import HeadMotion, enlarged, other_identity  # noqa: E402
from portrait.librivox import EXCLUDED, samples_sha256  # noqa: E402
from portrait.portrait import Portrait, find_mesh  # noqa: E402
from portrait.tracks import FPS, write_twins  # noqa: E402
from system_packages import ensure  # noqa: E402

from musetalk_core.faces.detector import FaceDetector  # noqa: E402

VERSION = "1"  # raise when the data below changes
LEAST_FLITE = 0.75  # of the speech's time
PLAIN_EVERY = 3  # every third track is the portrait as it is, the others are made-up faces
VALIDATION = (4, 13, 22, 31, 40, 45)  # five made-up faces that no other track shows, and the plain one


@dataclass(frozen=True)
class Job:
    """What every worker knows."""

    folder: Path
    seed: int
    frames: int


def speech_file(index: int, job: Job) -> tuple[str, float]:
    """Write or keep one utterance; its voice and seconds."""
    path = job.folder / "speech" / f"{index:05d}.npz"
    if not path.is_file():
        _write_speech(path, utterance(np.random.default_rng([job.seed, 0, index])))
    with np.load(path) as data:
        return str(data["voice"]), len(data["samples"]) / 16000


def _write_speech(path: Path, spoken: Utterance) -> None:
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        digest = samples_sha256(spoken.samples)
        np.savez(
            file,
            samples=spoken.samples,
            curves=spoken.curves,
            viseme=spoken.visemes,
            voice=np.array(spoken.voice),
            sha256=np.array(digest),
        )
    part.replace(path)


def is_plain(index: int) -> bool:
    """Whether a track shows the portrait itself."""
    return index % PLAIN_EVERY == 0


def split_of(index: int) -> str:
    """Which tracks are kept for validation ("val"), by number."""
    return "val" if index in VALIDATION else "train"


def track_folder(index: int, job: Job) -> dict[str, object]:
    """Render or keep one track; its entry in the index."""
    folder = job.folder / "tracks" / f"{index:03d}"
    if not (folder / "track.npz").is_file():
        rng = np.random.default_rng([job.seed, 1, index])
        portrait = make_portrait(index, rng)
        speeches = [monologue(np.random.default_rng([job.seed, 2, index, take]), job.frames / FPS) for take in range(2)]
        write_twins(folder, portrait, HeadMotion.random(rng), *speeches)
    with np.load(folder / "track.npz") as data:
        frames = len(data["boxes"])
    identity = "portrait" if is_plain(index) else f"made-up-{index:03d}"
    return {"name": folder.name, "frames": frames, "identity": identity, "split": split_of(index)}


def make_portrait(index: int, rng: np.random.Generator) -> Portrait:
    """The face of a track. A deformation that the detector does not take for a face is drawn again."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    picture, mesh, detector = photograph()
    expand = float(rng.uniform(1.45, 1.65))
    if is_plain(index):
        return Portrait(picture, mesh, expand=expand)
    for _ in range(10):
        other = other_identity(picture, mesh, rng)
        found = find_mesh(other, detector)
        if found is not None:
            return Portrait(other, found, expand=expand)
    raise RuntimeError(f"no face was found in ten deformations of track {index}")


@functools.lru_cache
def photograph() -> tuple[np.ndarray, np.ndarray, FaceDetector]:
    """The enlarged photograph, its mesh, and the detector, once a process."""
    from skimage.data import astronaut

    detector = FaceDetector(FaceDetector.load_nets())
    picture = enlarged(astronaut())
    mesh = find_mesh(picture, detector)
    if mesh is None:
        raise RuntimeError("no face was found in the portrait")
    return picture, mesh, detector


def make_speech(pool: ProcessPoolExecutor, job: Job, minutes: float) -> list[dict[str, object]]:
    """Utterances until there are `minutes` of them; files beyond that are removed."""
    (job.folder / "speech").mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, object]] = []
    total = 0.0
    for index, (voice, seconds) in enumerate(_in_order(pool, job, minutes)):
        entries.append({"name": f"{index:05d}", "voice": voice, "seconds": round(seconds, 3)})
        total += seconds
        if total >= minutes * 60:
            break
    for path in (job.folder / "speech").glob("*.npz"):
        if int(path.stem) >= len(entries):
            path.unlink()
    return entries


def _in_order(pool: ProcessPoolExecutor, job: Job, minutes: float) -> Iterator[tuple[str, float]]:
    block, start = 64, 0
    while True:
        yield from pool.map(functools.partial(speech_file, job=job), range(start, start + block), chunksize=8)
        start += block
        say(f"speech: {start} utterances")


def make_corpus(folder: Path, minutes: float, tracks: int, frames: int, seed: int, processes: int) -> dict[str, object]:
    """Write the folder and return the index."""
    ensure(voices=True)
    previous = _settings_of(folder)
    wanted = {"tool_version": VERSION, "seed": seed, "frames": frames}
    if previous is not None and previous != wanted:
        raise HostError(f"{folder} was made with {previous}, not {wanted}; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(wanted))
    job = Job(folder, seed, frames)
    with ProcessPoolExecutor(processes) as pool:
        speech = make_speech(pool, job, minutes)
        entries = []
        for entry in pool.map(functools.partial(track_folder, job=job), range(tracks)):
            entries.append(entry)
            say(f"track {len(entries)} of {tracks}")
    check(folder, speech)
    index = {"speech": speech, "tracks": entries, **wanted, "excluded_sha256": list(EXCLUDED)}
    part = folder / "index.json.part"
    part.write_text(json.dumps(index, indent=1))
    part.replace(folder / "index.json")
    return index


def _settings_of(folder: Path) -> dict[str, object] | None:
    path = folder / "settings.json"
    return json.loads(path.read_text()) if path.is_file() else None


def check(folder: Path, speech: list[dict[str, object]]) -> None:
    """HostError unless flite speaks most of the time and no held-out recording is in the folder."""
    seconds = {str(entry["name"]): float(str(entry["seconds"])) for entry in speech}
    flite = sum(seconds[str(entry["name"])] for entry in speech if str(entry["voice"]).startswith("flite-"))
    share = flite / max(sum(seconds.values()), 1e-9)
    if share < LEAST_FLITE:
        raise HostError(f"flite speaks {share:.0%} of the time, at least {LEAST_FLITE:.0%} are wanted")
    for name in seconds:
        with np.load(folder / "speech" / f"{name}.npz") as data:
            if str(data["sha256"]) in EXCLUDED:
                raise HostError(f"speech {name} is a held-out recording")
    say(f"{sum(seconds.values()) / 60:.1f} min of speech, {share:.0%} flite")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="DATA")
    parser.add_argument("--minutes", type=float, default=80, help="of speech (default: %(default)s)")
    parser.add_argument("--tracks", type=int, default=46, help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=170, help="of a track (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = vars(parser.parse_args())
    try:
        index = make_corpus(**options)
    except HostError as error:
        print(f"make_corpus: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"folder": str(options["folder"]), "tracks": len(index["tracks"])}))  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main())
