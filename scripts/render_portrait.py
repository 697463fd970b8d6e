#!/usr/bin/env python3
"""Make a portrait speak real speech: a picture, a recording and its words become a video and its lip-gap curve.

    HOST/venv/bin/python scripts/render_portrait.py --wav SPEECH.wav --text "the words in it" --out DIR/NAME.mp4
    HOST/venv/bin/python scripts/render_portrait.py --librivox --out DIR

Beside NAME.mp4 (384x384, 25 frames/s, with sound) comes NAME.npz: gap (N,) between the inner lips in outer eye
distances, curves (N,5) jaw wide up tuck press, landmarks (N,68,2), boxes (N,4) of the silent face, samples, fps. The
second form does this for the five held-out LibriVox recordings and adds still.png, the silent portrait: it is the
evaluation's input and must never be trained on. The recording is 16-bit mono at 16 kHz; the text is lower-case words.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from comfy_setup import HostError, say
from make_corpus import photograph
from PIL import Image
from portrait.identity import HeadMotion, enlarged
from portrait.librivox import CLIPS, fetch
from portrait.phonemes import real_speech_curves
from portrait.portrait import NEUTRAL, Portrait, find_mesh
from portrait.tracks import FPS, neutral_boxes, render_speech


def open_portrait(path: Path | None) -> Portrait:
    """The face of a picture file, or NASA's portrait when there is none."""
    picture, mesh, detector = photograph()
    if path is not None:
        picture = enlarged(np.asarray(Image.open(path).convert("RGB")))
        found = find_mesh(picture, detector)
        if found is None:
            raise HostError(f"no face was found in {path}")
        mesh = found
    return Portrait(picture, mesh)


def render(portrait: Portrait, wav: Path, transcript: str, out: Path, motion: HeadMotion, crf: int) -> int:
    """Write out and its .npz; the number of frames."""
    speech = real_speech_curves(wav, transcript, FPS)
    take = render_speech(portrait, motion, speech.curves, speech.samples, out, crf)
    boxes, _ = neutral_boxes(portrait, motion, len(speech.curves))
    np.savez_compressed(
        out.with_suffix(".npz"),
        gap=speech.gap,
        curves=speech.curves,
        landmarks=take.landmarks,
        boxes=boxes,
        samples=speech.samples,
        fps=np.array(FPS),
    )
    say(f"{out.name}: {len(speech.curves)} frames")
    return len(speech.curves)


def render_librivox(portrait: Portrait, folder: Path, seed: int, crf: int) -> list[str]:
    """The five held-out clips in a folder, each with a head motion of its own; their video files."""
    if (folder / "settings.json").exists() or (folder / "speech").exists():
        raise HostError(f"{folder} holds training data; the held-out recordings go elsewhere")
    paths = fetch(folder)
    Image.fromarray(portrait.render(NEUTRAL).frame).save(folder / "still.png")
    videos = []
    for i, (path, clip) in enumerate(zip(paths, CLIPS, strict=True)):
        out = folder / f"{clip.key}.mp4"
        render(portrait, path, clip.transcript, out, HeadMotion.random(np.random.default_rng([seed, i])), crf)
        videos.append(str(out))
    return videos


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--picture", type=Path, help="a face that looks into the camera (default: NASA's portrait)")
    parser.add_argument("--wav", type=Path)
    parser.add_argument("--text", help="the words of --wav")
    parser.add_argument("--librivox", action="store_true", help="render the five held-out recordings")
    parser.add_argument("--out", type=Path, required=True, help="a video, or a folder with --librivox")
    parser.add_argument("--seed", type=int, default=0, help="of the head's motion")
    parser.add_argument("--crf", type=int, default=12, help="x264's (default: %(default)s)")
    args = parser.parse_args()
    if args.librivox == bool(args.wav and args.text):
        parser.error("give either --librivox or both --wav and --text")
    try:
        portrait = open_portrait(args.picture)
        if args.librivox:
            videos = render_librivox(portrait, args.out, args.seed, args.crf)
        else:
            motion = HeadMotion.random(np.random.default_rng(args.seed))
            render(portrait, args.wav, args.text, args.out, motion, args.crf)
            videos = [str(args.out)]
    except HostError as error:
        print(f"render_portrait: error: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"videos": videos}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
