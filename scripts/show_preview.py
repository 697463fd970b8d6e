#!/usr/bin/env python3
"""Draw what MuseTalkPreviewFrame shows of the demo's inputs: docs/images/preview_*.jpg, and one for its help page.

    .host/venv/bin/python scripts/show_preview.py .host/demo-inputs/demo_portrait.mp4 .host/demo-inputs/demo_speech.wav

Writes docs/images/preview_frame.jpg and preview_sweep.jpg (each below 150 KB), and
web/docs/MuseTalkPreviewFrame/preview.jpg (below 60 KB). Needs no ComfyUI; scripts/demo_inputs.py makes the inputs.
"""

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.media.audio import AudioFile
from musetalk_core.media.source import open_source
from musetalk_core.preview import find_moment, make_take, report, sweep_shifts
from musetalk_core.preview_sheet import preview_sheet, sweep_sheet
from musetalk_core.settings import LipSyncSettings
from musetalk_core.tasks import stream_tokens
from musetalk_core.weights.folders import ModelFolders

ROOT = Path(__file__).resolve().parents[1]
PAGE_WIDTH = 1000
LABEL = "SYNTHETIC DEMO"


def save(path: Path, image: Image.Image, most_bytes: int) -> None:
    """Write a JPEG of at most `most_bytes`, as good as that allows."""
    for quality in range(92, 40, -3):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= most_bytes:
            break
    print(f"{path}: {path.stat().st_size} bytes, quality {quality}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args()
    engine = load_engine(WeightChoice("demo"), ModelFolders.default(), torch.device("cpu"), torch.float32)
    settings = LipSyncSettings()
    models = engine.models(settings)
    source = open_source(args.clip)
    tokens = stream_tokens(engine.audio_encoder, AudioFile(args.speech), source.fps, settings)
    moment = find_moment(source, tokens, args.seconds, models, settings)
    takes = [make_take(moment, shift, models, settings) for shift in sweep_shifts("-14, -7, 0, 7, 14", 0)]
    frame, sweep = Image.fromarray(preview_sheet(moment, takes[2])), Image.fromarray(sweep_sheet(moment, takes, 0))
    # The close-ups leave out the label that the demo's clip carries.
    ImageDraw.Draw(sweep).text((sweep.width - 16, 16), LABEL, "white", ImageFont.load_default(25), anchor="ra")
    small = frame.resize((PAGE_WIDTH, round(frame.height * PAGE_WIDTH / frame.width)), Image.Resampling.LANCZOS)
    save(ROOT / "docs" / "images" / "preview_frame.jpg", frame, 150_000)
    save(ROOT / "docs" / "images" / "preview_sweep.jpg", sweep, 150_000)
    save(ROOT / "web" / "docs" / "MuseTalkPreviewFrame" / "preview.jpg", small, 60_000)
    print(report(moment, takes[2], takes))


if __name__ == "__main__":
    main()
