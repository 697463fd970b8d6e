#!/usr/bin/env python3
"""Draw what upright crops do to a leaning head: python scripts/show_upright.py --speech demo_speech.wav OUT.jpg

A row for each angle of the portrait: the frame, its crop and the result without and with upright. Prints how near the
mouth of each result is to that of the unturned portrait (peak signal to noise ratio in dB, both turned back).
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.data import astronaut

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from musetalk_core.audio_features import AudioFeatures, extract_features
from musetalk_core.engine import Engine, WeightChoice, load_engine
from musetalk_core.media.audio import AudioFile, mono16k
from musetalk_core.media.source import TensorFrames
from musetalk_core.preview import Take, find_moment, make_take
from musetalk_core.settings import LipSyncSettings
from musetalk_core.sheet import CAPTION, GAP, GREY, LARGE, NORMAL, WHITE, Page, pixels_of, scaled, text_picture
from musetalk_core.weights.folders import ModelFolders

DEGREES = (-30, 0, 30)
SIDE, TILE = 400, 256
FACE = (143.0, 125.0)  # the middle of the face in the portrait of 300 pixels
MOUTH = (slice(120, 185), slice(105, 180))
FPS = Fraction(25)


def leaning(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The portrait turned clockwise about its face, (400,400,3) uint8, and the (2,3) that turned it."""
    matrix = cv2.getRotationMatrix2D(FACE, -degrees, 1)
    matrix[:, 2] += (SIDE / 2 - FACE[0], SIDE / 2 - FACE[1])
    head, flags = astronaut()[0:300, 80:380], cv2.INTER_CUBIC
    return cv2.warpAffine(head, matrix, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE), matrix


def take(engine: Engine, picture: np.ndarray, features: AudioFeatures, seconds: float, upright: bool) -> Take:
    """A moment of the speech on a picture."""
    settings = LipSyncSettings.for_version("demo", upright=upright, mask_shape="landmarks")
    models = engine.models(settings)
    source = TensorFrames(torch.from_numpy(picture)[None], FPS)
    return make_take(find_moment(source, features, seconds, models, settings), 0, models, settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--speech", type=Path, required=True, help="a recording, as scripts/demo_inputs.py makes it")
    parser.add_argument("--seconds", type=float, default=1.12, help="the moment shown, default: %(default)s")
    options = parser.parse_args()
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(None), torch.device("cpu"), torch.float32)
    sound = AudioFile(options.speech)
    features = extract_features(engine.audio_encoder, mono16k(sound), sound.seconds, FPS)
    true: dict[bool, np.ndarray] = {}
    rows = {}
    for degrees in sorted(DEGREES, key=abs):
        picture, matrix = leaning(degrees)
        takes = {upright: take(engine, picture, features, options.seconds, upright) for upright in (False, True)}
        for upright, made in takes.items():
            flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            mouth = cv2.warpAffine(pixels_of(made.picture), matrix, (300, 300), flags=flags)[MOUTH].astype(float)
            error = ((mouth - true.setdefault(upright, mouth)) ** 2).mean()
            print(f"{degrees} degrees, upright {upright}: {10 * np.log10(255**2 / max(error, 1e-9)):.1f} dB")
        rows[degrees] = (picture, takes[False], takes[True])
    page = Page(5 * (TILE + GAP) + GAP)
    for degrees in DEGREES:
        row(page, degrees, *rows[degrees])
    cv2.imwrite(str(options.out), page.pixels()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])


def row(page: Page, degrees: float, picture: np.ndarray, plain: Take, upright: Take) -> None:
    """Put one angle's pictures below what the page holds."""
    assert plain.crop is not None and upright.crop is not None
    near = slice(SIDE // 2 - 125, SIDE // 2 + 125)
    tiles = {
        "frame": picture[near, near],
        "crop": plain.crop.numpy(),
        "crop, upright": upright.crop.numpy(),
        "result": pixels_of(plain.picture)[near, near],
        "result, upright": pixels_of(upright.picture)[near, near],
    }
    top = page.end + GAP // 2
    page.put(text_picture(f"turned by {degrees} degrees", LARGE, WHITE, 2 * TILE), GAP, top)
    for k, (caption, tile) in enumerate(tiles.items()):
        x = GAP + k * (TILE + GAP)
        page.put(text_picture(caption, NORMAL, GREY, TILE), x, top + CAPTION + GAP // 2)
        page.put(scaled(tile, TILE, TILE), x, top + 2 * CAPTION + GAP // 2)


if __name__ == "__main__":
    main()
