#!/usr/bin/env python3
"""Draw the pictures of the nodes' help pages: what each stage gets and makes, with the demo model on the demo's inputs.

    .host/venv/bin/python scripts/show_nodes.py .host/demo-inputs/demo_portrait.mp4 .host/demo-inputs/demo_speech.wav

Writes web/docs/<node id>/<picture>.jpg, each below 60 KB. Needs no ComfyUI. What the classes of a face parser look like
is in docs/images/blend_modes.jpg (show_masks.py): the demo has no BiSeNet weights.
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from musetalk_core.audio_features import AudioFeatures, extract_features
from musetalk_core.blending import Masker, composite
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.faces.geometry import crop_box, crop_face, crop_square
from musetalk_core.latents import decode_faces, encode_crops
from musetalk_core.media.audio import AudioFile, mono16k
from musetalk_core.media.source import open_source
from musetalk_core.settings import LipSyncSettings, MaskSettings
from musetalk_core.timeline import MATCH_MODES, source_index
from musetalk_core.weights.folders import ModelFolders

ROOT = Path(__file__).resolve().parents[1]
FPS = Fraction(25)
SHOWN = (12, 27, 42, 57, 72)  # output frames, which are source frames too: the clip is as fast
LOUD = 42  # the one of them that stands for all
TILE, GAP, BAR = 140, 6, 20
INK, PAPER, MARK = (30, 30, 30), (255, 255, 255), (238, 108, 92)
QUALITY = 78


class Stages:
    """Everything that the stages make of the shown frames."""

    def __init__(self, clip: Path, speech: Path) -> None:
        engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
        self.models = engine.models(LipSyncSettings())
        audio = AudioFile(speech)
        self.samples = mono16k(audio)
        self.features: AudioFeatures = extract_features(engine.audio_encoder, self.samples, audio.seconds, FPS)
        self.frames = torch.stack(list(open_source(clip).read(SHOWN)))
        self.track = self.models.locator.locate(self.frames)
        self.crops = torch.stack([crop_face(f, b) for f, b in zip(self.frames, self.track.boxes, strict=True)])
        self.masked, self.reference = encode_crops(self.models.codec, self.crops)
        tokens = torch.cat([self.features.tokens(k, k + 1) for k in SHOWN])
        self.samples_out = self.models.generator.generate(self.masked, self.reference, tokens)
        self.faces = self.decoded(self.samples_out)
        self.masks = self.models.masker.masks(self.frames, self.track)
        self.results = [
            composite(f, g, b, m).numpy()
            for f, g, b, m in zip(self.frames, self.faces, self.track.boxes, self.masks, strict=True)
        ]

    def decoded(self, latents: torch.Tensor) -> torch.Tensor:
        """Faces (B,256,256,3) uint8 of latents."""
        return (decode_faces(self.models.decode_codec, latents).cpu() * 255).round().to(torch.uint8)


def tile(picture: np.ndarray | torch.Tensor, caption: str = "", side: int = TILE) -> np.ndarray:
    """A picture of any size, gray or RGB, made square, with its caption above."""
    pixels = picture.numpy() if isinstance(picture, torch.Tensor) else picture
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, 2)
    small = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)
    return np.vstack([bar(caption, side), small]) if caption else small


def bar(text: str, width: int, height: int = BAR) -> np.ndarray:
    """Dark text on a white strip."""
    strip = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(strip).text((2, height / 2), text, INK, ImageFont.load_default(13), "lm")
    return np.asarray(strip)


def row(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of one height beside each other."""
    gap = np.full((pictures[0].shape[0], GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


def column(rows: list[np.ndarray]) -> np.ndarray:
    """Rows under each other, the narrower ones filled with white."""
    width = max(one.shape[1] for one in rows)
    padded = [np.pad(one, ((0, GAP), (0, width - one.shape[1]), (0, 0)), constant_values=255) for one in rows]
    return np.vstack(padded)


def models() -> np.ndarray:
    """The loader's four sockets and who takes them, as in the discrete workflow."""
    users = {
        "model": "UNet Step",
        "vae": "VAE Encode Masked,  VAE Decode",
        "audio_encoder": "Whisper Audio Features",
        "face_models": "Face Detect And Crop,  Blend Face Parsing",
    }
    sheet = Image.new("RGB", (724, 190), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    pen.rounded_rectangle((6, 10, 300, 180), 10, fill=(53, 53, 58))
    pen.text((20, 32), "Load MuseTalk Models", PAPER, font, "lm")
    pen.text((20, 92), "v1.5   v1.0   demo", PAPER, font, "lm")
    pen.text((20, 116), "or an own UNet file", PAPER, font, "lm")
    for k, (socket, takers) in enumerate(users.items()):
        y = 62 + 32 * k
        pen.text((284, y), socket, PAPER, font, "rm")
        pen.ellipse((295, y - 5, 305, y + 5), fill=MARK)
        pen.line((305, y, 370, y), MARK, 3)
        pen.text((380, y), takers, INK, font, "lm")
    return np.asarray(sheet)


def modes(stages: Stages) -> np.ndarray:
    """Four source frames under twelve output frames in every mode; the number is the source frame shown."""
    thumbs = [numbered(stages.frames[k].numpy(), k) for k in range(4)]
    rows = [row([bar("source", 80, 50), *thumbs])]
    for mode in MATCH_MODES:
        count = 4 if mode == "trim" else 12
        shown = [thumbs[source_index(i, 4, FPS, FPS, mode)] for i in range(count)]
        rows.append(row([bar(mode, 80, 50), *shown]))
    return column(rows)


def numbered(frame: np.ndarray, number: int) -> np.ndarray:
    small = Image.fromarray(cv2.resize(frame, (50, 50), interpolation=cv2.INTER_AREA))
    pen = ImageDraw.Draw(small)
    pen.rectangle((0, 0, 13, 15), fill=MARK)
    pen.text((7, 8), str(number), PAPER, ImageFont.load_default(13), "mm")
    return np.asarray(small)


def crops(stages: Stages) -> np.ndarray:
    """The boxes on the frame and what bbox_shift and extra_margin do to the crop."""
    k = SHOWN.index(LOUD)
    frame, points, face = stages.frames[k], stages.track.landmarks[k], stages.track.boxes[k]
    drawn = frame.numpy().copy()
    for x, y in points:
        cv2.circle(drawn, (round(float(x)), round(float(y))), 3, (90, 220, 255), -1)
    x1, y1, x2, y2 = (int(v) for v in face)
    cv2.rectangle(drawn, (x1, y1), (x2, y2), MARK, 4)
    size = (frame.shape[0], frame.shape[1])

    def crop(shift: int, margin: int) -> np.ndarray:
        return crop_face(frame, crop_box(points, face, size, shift, margin)).numpy()

    shifts = [tile(crop(s, 10), f"bbox_shift {s}") for s in (-20, 0, 20)]
    margins = [tile(crop(0, m), f"extra_margin {m}") for m in (0, 10, 40)]
    side = 2 * (TILE + BAR) + GAP
    return row([tile(drawn, "68 points and the box", side - BAR), column([row(shifts), row(margins)])[:side]])


def window(stages: Stages) -> np.ndarray:
    """Two seconds of the speech, its hidden states, and what one frame of them hears."""
    width, start = 724, LOUD - 25
    seconds = (start / 25, (start + 50) / 25)
    wave = stages.samples[int(seconds[0] * 16000) : int(seconds[1] * 16000)]
    columns = np.abs(wave[: len(wave) // width * width].reshape(width, -1)).max(1)
    sound = np.full((90, width, 3), 255, np.uint8)
    for x, loud in enumerate(columns / columns.max()):
        cv2.line(sound, (x, round(45 - 40 * loud)), (x, round(45 + 40 * loud)), (90, 110, 150), 1)
    states = stages.features.hidden[2 * start : 2 * start + 100, -1].T.numpy()
    states = (states - states.mean(1, keepdims=True)) / states.std(1, keepdims=True)
    heat = (np.clip(states / 4 + 0.5, 0, 1) * 255).astype(np.uint8)
    heat = cv2.applyColorMap(cv2.resize(heat, (width, 110), interpolation=cv2.INTER_NEAREST), cv2.COLORMAP_VIRIDIS)
    heard = [round((2 * 25 + rows) * width / 100) for rows in (-4, 6)]
    sheet = np.vstack(
        [
            bar("speech, 2 s", width),
            sound,
            bar("last of the five hidden states, 50 columns a second", width),
            heat[..., ::-1],
            bar("red: the ten columns that one frame hears, 80 ms before its time to 120 ms after it", width),
        ]
    )
    cv2.rectangle(sheet, (heard[0], BAR), (heard[1], sheet.shape[0] - BAR - 1), MARK, 2)
    return sheet


def latents(stages: Stages) -> np.ndarray:
    """A crop, both its latents channel by channel, and what a VAE decodes of them."""
    k = SHOWN.index(LOUD)
    masked = stages.crops[k].clone()
    masked[128:] = 0
    rows = []
    for name, crop, latent in (
        ("masked", masked, stages.masked[k]),
        ("reference", stages.crops[k], stages.reference[k]),
    ):
        back = stages.decoded(latent[None])[0]
        rows.append(
            row([tile(crop, name), tile(channels(latent), "its latent, 4 channels"), tile(back, "decoded again")])
        )
    return column(rows)


def channels(latent: torch.Tensor) -> np.ndarray:
    """The four channels of a latent (4,32,32) as one gray picture of two by two."""
    low, high = float(latent.min()), float(latent.max())
    gray = ((latent - low) / (high - low) * 255).round().to(torch.uint8).numpy()
    picture = np.vstack([np.hstack(gray[:2]), np.hstack(gray[2:])])
    return cv2.resize(picture, (2 * TILE, 2 * TILE), interpolation=cv2.INTER_NEAREST)


def step(stages: Stages) -> np.ndarray:
    """What goes in and what comes out, for three moments of the speech; all latents decoded."""
    picked = [SHOWN.index(k) for k in SHOWN[1:4]]
    parts = {
        "masked": stages.decoded(stages.masked),
        "reference": stages.decoded(stages.reference),
        "samples (out)": stages.faces,
    }
    return column([row([bar(name, 110, TILE), *(tile(faces[k]) for k in picked)]) for name, faces in parts.items()])


def decode(stages: Stages) -> np.ndarray:
    """Latents above the faces they are decoded to."""
    picked = [SHOWN.index(k) for k in SHOWN[:4]]
    first = row([bar("samples", 90, TILE), *(tile(channels(stages.samples_out[k])) for k in picked)])
    return column([first, row([bar("faces", 90, TILE), *(tile(stages.faces[k]) for k in picked)])])


def blend(stages: Stages) -> np.ndarray:
    """Frame, mask, face and result; then the mask with other settings."""
    k = SHOWN.index(LOUD)
    frame, box, one = stages.frames[k], stages.track.boxes[k], stages.track.select([k])
    square = crop_square(box)
    x1, y1, x2, y2 = (max(0, v) for v in square)
    before, after = tile(frame.numpy()[y1:y2, x1:x2], "images"), tile(stages.results[k][y1:y2, x1:x2], "images (out)")
    others = {
        "mask": MaskSettings(),
        "blur 0": MaskSettings(blur=0.0),
        "blur 0.2": MaskSettings(blur=0.2),
        "upper_boundary 0.35": MaskSettings(upper_boundary_ratio=0.35),
        "upper_boundary 0.65": MaskSettings(upper_boundary_ratio=0.65),
    }
    masks = {name: Masker(None, settings).masks([frame], one)[0] for name, settings in others.items()}
    drawn = [tile(mask, name) for name, mask in masks.items()]
    return column([row([before, tile(stages.faces[k], "faces"), drawn[0], after]), row(drawn[1:])])


def result(stages: Stages) -> np.ndarray:
    """Source frames, the frames made of them, and the speech with the moments marked."""
    width = len(SHOWN) * (TILE + GAP) - GAP
    x1, y1, x2, y2 = (max(0, v) for v in crop_square(stages.track.boxes[SHOWN.index(LOUD)], 2))
    near = slice(y1, y2), slice(x1, x2)
    above = row([tile(f.numpy()[near], f"source {k / 25:.2f} s") for k, f in zip(SHOWN, stages.frames, strict=True)])
    below = row([tile(picture[near], "result") for picture in stages.results])
    wave = np.abs(stages.samples[: int(4 * 16000)])
    loud = wave[: len(wave) // width * width].reshape(width, -1).max(1)
    sound = np.full((50, width, 3), 255, np.uint8)
    for x, value in enumerate(loud / loud.max()):
        cv2.line(sound, (x, round(25 - 23 * value)), (x, round(25 + 23 * value)), (90, 110, 150), 1)
    for k in SHOWN:
        x = round(k / 100 * width)
        cv2.line(sound, (x, 0), (x, 49), MARK, 2)
    return column([above, below, sound])


def stream(stages: Stages) -> np.ndarray:
    """A file, the few frames of it that are in memory, and the file being written."""
    count, batch, done = 12, 3, 6
    shown = [numbered(stages.frames[i % len(SHOWN)].numpy(), i) for i in range(count)]
    made = [numbered(stages.results[i % len(SHOWN)], i) for i in range(count)]
    faint = [(picture // 4 + 190).astype(np.uint8) for picture in shown]
    rows = {
        "video": shown,
        "in memory": [*faint[:done], *shown[done : done + batch], *faint[done + batch :]],
        "result": made[:done],
    }
    return column([row([bar(name, 80, 50), *pictures]) for name, pictures in rows.items()])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    args = parser.parse_args()
    with torch.inference_mode():
        stages = Stages(args.clip, args.speech)
        pictures = {
            "LoadMuseTalkModels/models": models(),
            "MuseTalkMatchFrames/modes": modes(stages),
            "MuseTalkFaceDetectAndCrop/crops": crops(stages),
            "MuseTalkWhisperAudioFeatures/window": window(stages),
            "MuseTalkVAEEncodeMasked/latents": latents(stages),
            "MuseTalkUNetStep/step": step(stages),
            "MuseTalkVAEDecode/decode": decode(stages),
            "MuseTalkBlendFaceParsing/blend": blend(stages),
            "MuseTalkLipSync/result": result(stages),
            "MuseTalkLipSyncVideo/stream": stream(stages),
        }
    for name, picture in pictures.items():
        path = ROOT / "web" / "docs" / f"{name}.jpg"
        Image.fromarray(picture).save(path, quality=QUALITY, optimize=True)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
