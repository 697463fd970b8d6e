#!/usr/bin/env python3
"""Draw the pictures of the help pages of the options nodes, with the demo model on the demo's inputs.

    .host/venv/bin/python scripts/show_options.py .host/demo-inputs/demo_portrait.mp4 .host/demo-inputs/demo_speech.wav

Writes web/docs/<node id>/<picture>.jpg, each below 60 KB. Needs no ComfyUI.
"""

import argparse
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from show_nodes import FPS, LOUD, MARK, QUALITY, bar, column, row, tile  # noqa: E402

from musetalk_core.audio_features import extract_features  # noqa: E402
from musetalk_core.batches import BatchSize  # noqa: E402
from musetalk_core.blending import composite  # noqa: E402
from musetalk_core.debug_sheet import debug_sheet  # noqa: E402
from musetalk_core.engine import Engine, WeightChoice, load_engine  # noqa: E402
from musetalk_core.latents import decode_faces  # noqa: E402
from musetalk_core.media.audio import AudioFile, mono16k  # noqa: E402
from musetalk_core.media.source import TensorFrames, open_source  # noqa: E402
from musetalk_core.pipeline import lip_sync, prepare_frames  # noqa: E402
from musetalk_core.restoration import RestoreSettings, frame_alignments, restore_faces  # noqa: E402
from musetalk_core.settings import LipSyncSettings, SilenceSettings  # noqa: E402
from musetalk_core.silence import SpeechWeights  # noqa: E402
from musetalk_core.weights.folders import ModelFolders  # noqa: E402

WARM = torch.tensor([0.85, 0.62, 0.42])
SIDE = 180


def blend_options(engine: Engine, clip: torch.Tensor, samples: np.ndarray) -> np.ndarray:
    """A frame in its own and in warm light: source, result, with colour match, and with a feather too."""
    start = LOUD * 16000 // int(FPS)
    features = extract_features(engine.audio_encoder, samples[start:], Fraction(len(samples) - start, 16000), FPS)
    frame = clip[LOUD : LOUD + 1]
    rows = []
    for light, name in ((torch.ones(3), "own light"), (WARM, "warm light")):
        source = (frame.float() * light).round().to(torch.uint8)

        def made(source: torch.Tensor = source, **values: object) -> torch.Tensor:
            settings = LipSyncSettings.for_version("demo", mask_shape="landmarks", **values)
            frames = lip_sync(TensorFrames(source, FPS), features, 1, engine.models(settings), settings)
            return next(iter(frames))[60:420, 90:450]

        pictures = [
            tile(source[0, 60:420, 90:450], name, SIDE),
            tile(made(), "no options", SIDE),
            tile(made(colour_match=1.0), "colour_match 1", SIDE),
            tile(made(colour_match=1.0, feather=16), "and feather 16", SIDE),
        ]
        rows.append(row(pictures))
    return column(rows)


def silence(samples: np.ndarray) -> np.ndarray:
    """Speech with breath before and after it: the wave, and below it how much each frame speaks."""
    import cv2

    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.004, 24000) * np.hanning(24000)
    sound = np.concatenate([noise, samples[8000:40000], noise]).astype(np.float32)
    frames = len(sound) * int(FPS) // 16000
    weights = SpeechWeights(lambda: iter([sound]), frames, FPS, SilenceSettings("close")).weights(0, frames)
    width, height = 740, 150
    wave = np.full((height, width, 3), 255, np.uint8)
    for x, part in enumerate(np.array_split(sound, width)):
        reach = int(np.clip(np.abs(part).max() ** 0.5 * height / 2, 1, height / 2 - 1))
        wave[height // 2 - reach : height // 2 + reach, x] = (150, 150, 160)
    curve = np.full((70, width, 3), 255, np.uint8)
    points = [(round((k + 0.5) * width / frames), round(64 - 56 * weight)) for k, weight in enumerate(weights)]
    cv2.polylines(curve, [np.array(points, np.int32)], False, MARK, 2, cv2.LINE_AA)
    texts = bar("the sound (square root of its amplitude): breath, speech, breath", width), bar("speaks: 0 to 1", width)
    return column([texts[0], wave, texts[1], curve])


def restore(clip: torch.Tensor, engine: Engine) -> np.ndarray:
    """The way of a face through Restore Face, with an unsharp mask in the restorer's place."""
    import cv2

    def sharpened(faces: np.ndarray) -> np.ndarray:
        soft = np.stack([cv2.GaussianBlur(face, (0, 0), 4) for face in faces])
        return (faces + 1.5 * (faces - soft)).clip(0, 1)

    frame = clip[LOUD : LOUD + 1].float() / 255
    small = torch.nn.functional.interpolate(frame.movedim(-1, 1), scale_factor=0.3, mode="area")
    blurred = torch.nn.functional.interpolate(small, size=frame.shape[1:3], mode="bicubic").movedim(1, -1).clamp(0, 1)
    track = engine.models(LipSyncSettings()).locator.locate(frame)
    matrices = frame_alignments(track)
    settings = RestoreSettings(strength=1.0)
    made = next(restore_faces(blurred, matrices, sharpened, settings, 1))
    grey = next(restore_faces(blurred * 0, matrices, lambda faces: faces + np.float32(1), settings, 1))
    aligned = cv2.warpAffine(blurred[0].numpy(), matrices[0], (512, 512))
    named = ((blurred[0], "soft face"), (aligned, "aligned"), (grey, "where it is put back"), (made, "result"))
    return row([tile((np.asarray(one) * 255).astype(np.uint8), name, SIDE) for one, name in named])


def sheet(engine: Engine, clip: torch.Tensor, samples: np.ndarray) -> np.ndarray:
    """Two frames of the demo through all stages."""
    import cv2

    start = LOUD * 16000 // int(FPS)
    features = extract_features(engine.audio_encoder, samples[start:], Fraction(len(samples) - start, 16000), FPS)
    settings = LipSyncSettings.for_version("demo")
    frames, models = clip[LOUD : LOUD + 5], engine.models(settings)
    track = models.locator.locate(frames)
    prepared = prepare_frames(frames, track, models, BatchSize(8))
    latents = models.generator.generate(
        torch.stack([one.masked for one in prepared if one.masked is not None]),
        torch.stack([one.reference for one in prepared if one.reference is not None]),
        features.tokens(0, 5),
    )
    faces = decode_faces(models.decode_codec, latents)
    own = [one.mask for one in prepared if one.mask is not None]
    masks = torch.from_numpy(np.stack([cv2.resize(mask, (256, 256)) for mask in own])).float() / 255
    parts = zip(frames, faces, track.boxes, own, strict=True)
    results = torch.stack([composite(frame, face, box, mask) for frame, face, box, mask in parts])
    made = debug_sheet(frames, track, [0, 3], faces, masks, results)
    return cv2.resize(made, None, fx=0.55, fy=0.55, interpolation=cv2.INTER_AREA)


def save(node: str, name: str, picture: np.ndarray) -> None:
    import cv2

    path = ROOT / "web" / "docs" / node / f"{name}.jpg"
    cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(path.relative_to(ROOT), path.stat().st_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    options = parser.parse_args()
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    clip = torch.stack(list(open_source(options.clip).read(range(100))))
    samples = mono16k(AudioFile(options.speech))
    save("MuseTalkBlendOptions", "options", blend_options(engine, clip, samples))
    save("MuseTalkSilence", "silence", silence(samples))
    save("MuseTalkRestoreFace", "restore", restore(clip, engine))
    save("MuseTalkFaceDebugSheet", "sheet", sheet(engine, clip, samples))


if __name__ == "__main__":
    main()
