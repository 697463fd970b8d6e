#!/usr/bin/env python3
"""What it would cost to decode only the rows that the mask keeps: error in grey levels and time, by rows of margin.

    HOST/venv/bin/python benchmarks/decode_rows.py [--output FILE.json]

The mask of MuseTalk's blending keeps the lower half of the face. Decoding the lower 16 of 32 rows of latents, and some
above as a margin for the convolutions, would save up to half of the decoder's work. The true architecture with random
weights whose answers spread like trained ones, float32; the error is that of the lower half against a whole decode.
Margins grow to the whole picture, where the error must be 0.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from skimage import data

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY)]

from musetalk_core.bench.machine import machine  # noqa: E402
from musetalk_core.bench.networks import give_spread, random_unet, random_vae  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results" / "decode_rows.json"
ROWS, KEPT = 32, 16
MARGINS = (0, 2, 4, 8, 12, 16)
LIMIT = 1.0  # grey levels


@torch.inference_mode()
def measure() -> list[dict[str, Any]]:
    """A row for each margin."""
    cpu = torch.device("cpu")
    vae, unet = random_vae(torch.float32, cpu), random_unet(torch.float32, cpu)
    face = torch.from_numpy(data.astronaut()[0:256, 90:346].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    give_spread(vae, unet, face, torch.randn(1, 50, 384))
    del unet
    latents = vae.encode(face).latent_dist.mean
    whole = vae.decode(latents).sample[:, :, KEPT * 8 :]
    found = []
    for margin in MARGINS:
        started = time.perf_counter()
        part = vae.decode(latents[:, :, ROWS - KEPT - margin :]).sample[:, :, margin * 8 :]
        seconds = time.perf_counter() - started
        error = (part.clamp(-1, 1) - whole.clamp(-1, 1)).abs() * 127.5
        found.append(
            {
                "margin_rows": margin,
                "seconds": round(seconds, 3),
                "mean_grey_levels": round(float(error.mean()), 3),
                "largest_grey_levels": round(float(error.max()), 3),
            }
        )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    rows = measure()
    usable = [row["margin_rows"] for row in rows if row["largest_grey_levels"] < LIMIT]
    result = {"machine": machine(torch.device("cpu")), "limit_grey_levels": LIMIT, "rows": rows, "usable": usable}
    args.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
