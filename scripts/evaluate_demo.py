#!/usr/bin/env python3
"""Measure a demo model against everything that it must hold, on speech that no training has read.

    HOST/venv/bin/python scripts/evaluate_demo.py [--model demo.safetensors] [--data DATA] [--clip 0880 ...]

Drives a rendered still, a rendered moving head that speaks other words, and the untouched photograph with five real
recordings (LibriVox) and with silence, through the pipeline that users run; measures the lips with the embedded face
networks against the portrait tool's curves for the same sound. DATA (scripts/make_corpus.py) gives the held-out frames
of the autoencoder. Prints a table, writes benchmarks/results/demo_model.json and docs/images/demo_sheet.jpg, and with
the result file the table in docs/demo_model.md. A line that held in the last result and does not now is named. Needs
`pip install pocketsphinx`. Exit: 0 everything holds, 1 something does not, 2 it could not be measured.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_setup import REPOSITORY, HostError, default_root, say

sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "benchmarks")]

from demo_data import autoencoder_figures, sounds_among  # noqa: E402
from demo_driving import (  # noqa: E402
    SourceResult,
    Spoken,
    evaluate_source,
    generated_psnr,
    load_engine,
    make_portrait,
    mean_figures,
    precision_psnr,
    ruler,
    speak,
)
from demo_sheet import Curve, Row, save_sheet  # noqa: E402
from demo_speed import DTYPES, measure  # noqa: E402
from demo_table import regressions, write_table  # noqa: E402
from portrait.librivox import CLIPS, fetch, samples_sha256  # noqa: E402
from portrait.phonemes import read_wav  # noqa: E402

from musetalk_core import __version__  # noqa: E402
from musetalk_core.demo.loader import FILE  # noqa: E402
from musetalk_core.errors import MuseTalkError  # noqa: E402
from musetalk_core.evaluation import lips  # noqa: E402
from musetalk_core.evaluation.report import Check, failures, table  # noqa: E402
from musetalk_core.latents import Codec  # noqa: E402

RESULT = REPOSITORY / "benchmarks" / "results" / "demo_model.json"
SHEET = REPOSITORY / "docs" / "images" / "demo_sheet.jpg"
PAGE = REPOSITORY / "docs" / "demo_model.md"
KEYS = tuple(clip.key for clip in CLIPS)
SOURCES = ("still", "moving", "photo")
SHEET_CLIP, SHEET_COLUMNS = "0880", 6
LEAK = 0.1  # most that a figure may differ between the still and the moving source
CLOSED_MEDIAN, CLOSED_MOST = 0.02, lips.CLOSED


def lip_checks(kind: str, result: SourceResult, seen: bool) -> list[Check]:
    """The lines of one source; without `seen` they are for information."""
    report, quiet = result.report, result.silence.gap
    found = result.figures()

    def line(name: str, value: float, **bounds: float) -> Check:
        return Check(f"{kind}: {name}", value, **(bounds if seen else {}))

    return [
        line("lip correlation, pooled", found["correlation"], least=0.75, aim=0.85),
        line("best lag, frames off", abs(report.lag), most=1),
        line("crossed pairs, mean correlation", found["crossed pairs"], below=0.2),
        line("amplitude slope", found["slope"], least=0.75),
        line("closures, median gap", found["closures"], below=CLOSED_MEDIAN),
        line("silence, median gap", found["silence"], below=CLOSED_MEDIAN),
        line("silence, 95th percentile of gap", float(np.nanpercentile(quiet, 95)), below=CLOSED_MOST),
        line("output frames with a measured face", report.found, least=0.99),
    ]


def all_checks(
    results: dict[str, SourceResult], held_out: Sequence[Check], speeds: dict[str, dict[str, Any]], size: float
) -> list[Check]:
    """Every line, in the order of the issue."""
    still, moving = results["still"].figures(), results["moving"].figures()
    apart = {name: abs(moving[name] - still[name]) for name in still if np.isfinite(still[name])}
    checks = lip_checks("still", results["still"], True) + lip_checks("moving", results["moving"], True)
    checks += [Check(f"moving against still: {name}", value, most=LEAK) for name, value in apart.items()]
    checks.append(Check("moving: share of the source's own mouth", abs(results["moving"].leak), most=LEAK))
    checks += held_out
    for kind in ("still", "moving"):
        picture = mean_figures(results[kind].driven)
        checks.append(Check(f"{kind}: sharpness of output over source", picture["sharpness"], least=0.6))
        checks.append(Check(f"{kind}: the same at the mask's border", picture["border_sharpness"]))
        checks.append(Check(f"{kind}: seam energy of output over source", picture["seam"]))
        checks.append(Check(f"{kind}: lip jitter, % of eye distance", picture["lip_jitter"]))
    fastest = max(speeds, key=lambda name: speeds[name]["frames_per_second"])
    for name, speed in speeds.items():
        # A busy machine is slower, so its load is said.
        line = f"frames/s, all networks, {name}, {speed['threads']} threads, load {speed['load']:.1f}"
        checks.append(Check(line, speed["frames_per_second"], **({"least": 30} if name == fastest else {})))
    checks.append(Check("model file, MB", size, most=20))
    return checks + lip_checks("photo", results["photo"], False)


def draw(path: Path, results: dict[str, SourceResult], spoken: Sequence[Spoken], ruled: Sequence[np.ndarray]) -> None:
    """The sheet of one recording."""
    names = [one.name for one in spoken]
    k = names.index(SHEET_CLIP) if SHEET_CLIP in names else 0
    truth = spoken[k].truth
    columns = telling_frames(truth, SHEET_COLUMNS)

    def row(caption: str, frames: np.ndarray, source: np.ndarray | None = None) -> Row:
        faces = [_face(frames[i % len(frames)]) for i in columns]
        return Row(caption, faces, None if source is None else _face(source))

    still, moving, photo = (results[kind].driven[k] for kind in SOURCES)
    rows = [
        row("truth: the tool", spoken[k].rendered),
        row("still", still.output, still.source[0]),
        row("photograph", photo.output, photo.source[0]),
        row("moving source", moving.source),
        row("moving", moving.output),
        row("silence", results["still"].silence.output, still.source[0]),
    ]
    curves = [Curve("truth", truth), Curve("still", still.gap), Curve("moving", moving.gap), Curve("ruler", ruled[k])]
    save_sheet(path, rows, columns, curves, names[k])


def telling_frames(truth: np.ndarray, count: int) -> list[int]:
    """Frame numbers: of `count` equal parts of the clip in turn the widest and the most closed mouth."""
    parts = np.array_split(np.arange(len(truth)), count)
    return [int(part[np.argmin(truth[part]) if i % 2 else np.argmax(truth[part])]) for i, part in enumerate(parts)]


def _face(frame: np.ndarray) -> np.ndarray:
    """The square of a portrait's frame from the brows to below the chin."""
    side = len(frame)
    return frame[round(0.34 * side) : round(0.92 * side), round(0.21 * side) : round(0.79 * side)]


def model_facts(path: Path, trained: bool) -> dict[str, Any]:
    """Which file was measured; untrained networks have none."""
    if not path.is_file():
        return {"file": None, "trained": trained}
    data = path.read_bytes()
    return {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "trained": trained}


def held_out_checks(codec: Codec, data: Path | None, recordings: Sequence[Path]) -> tuple[list[Check], dict[str, Any]]:
    """The lines that need the corpus, and their facts. Without one they fail: nothing was measured."""
    names = ("autoencoder: mouth PSNR on held-out frames, dB", "LibriVox recordings among the training's sounds")
    if data is None:
        say("no --data: the autoencoder's figure is missing")
        return [Check(names[0], math.nan, least=33), Check(names[1], math.nan, most=0)], {}
    say("autoencoder on held-out frames")
    figures = autoencoder_figures(codec, data)
    inside, sounds = sounds_among(data, {samples_sha256(read_wav(path)[0]) for path in recordings})
    checks = [Check(names[0], figures["mouth_db"], least=33), Check(names[1], inside if sounds else math.nan, most=0)]
    return checks, {"autoencoder": figures, "corpus_sounds": sounds}


def evaluate(args: argparse.Namespace) -> list[Check]:
    """Everything; writes the result file and the sheet."""
    engine, models = load_engine(args.model)
    paths = fetch(args.inputs)
    detector = engine.backends.get("mediapipe").detector
    portrait = make_portrait(detector)
    spoken = [speak(portrait, clip, path) for clip, path in zip(CLIPS, paths, strict=True) if clip.key in args.clip]
    speeds = {name: measure(load_engine(args.model, dtype)[1]) for name, dtype in DTYPES.items()}
    ruled, ruled_gaps, ruled_jitter = ruler(engine, spoken)
    results = {kind: evaluate_source(kind, engine, portrait, spoken) for kind in SOURCES}
    held_out, held_facts = held_out_checks(engine.codec, args.data, paths)
    facts = model_facts(args.model or FILE, models.trained)
    checks = all_checks(results, held_out, speeds, facts.get("bytes", math.nan) / 1e6)
    low = precision_psnr(results["still"].driven[0], args.model, spoken[0], torch.bfloat16)
    checks += [
        Check("still: bf16 against fp32, lowest PSNR of a frame's replaced region, dB", low, least=35),
        Check(
            "still: mouth PSNR against the rendering, dB",
            generated_psnr(results["still"], spoken, detector),
        ),
        *[
            Check(f"ruler on perfect lips: {name}", value)
            for name, value in (
                ("correlation", ruled.correlation),
                ("slope", ruled.slope),
                ("closures, median gap", ruled.closed_median),
                ("lip jitter, % of eye distance", ruled_jitter),
            )
        ],
    ]
    names = [one.name for one in spoken]
    document = {
        "model": facts,
        "holds": not failures(checks) and len(names) == len(CLIPS),
        "clips": names,
        "checks": [check.as_dict() for check in checks],
        "sources": {kind: result.as_dict(names) for kind, result in results.items()},
        "ruler": ruled.as_dict(),
        "speed": speeds,
        **held_facts,
        "made": {
            "by": f"scripts/evaluate_demo.py of musetalk-suite {__version__}",
            "utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
    }
    write_json(args.json, document)
    if args.json == RESULT:
        write_table(PAGE, json.loads(args.json.read_text(encoding="utf-8")))
    draw(args.sheet, results, spoken, ruled_gaps)
    return checks


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Whole or not at all; numbers to five places, none where nothing was measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(_plain(document), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a demo.safetensors, default: the package's own")
    parser.add_argument("--data", type=Path, help="the corpus it was trained on; without it two lines fail")
    parser.add_argument("--clip", nargs="+", choices=KEYS, default=KEYS, help="only these")
    parser.add_argument("--json", type=Path, default=RESULT, help="default: %(default)s")
    parser.add_argument("--sheet", type=Path, default=SHEET, help="default: %(default)s")
    parser.add_argument("--inputs", type=Path, default=default_root() / "librivox", help="default: %(default)s")
    args = parser.parse_args()
    before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {"checks": []}
    try:
        checks = evaluate(args)
    except (HostError, MuseTalkError) as error:
        print(f"evaluate_demo: error: {error}", file=sys.stderr)
        return 2
    print(table(checks))
    bad = failures(checks)
    print(f"\n{len(bad)} of {sum(check.passed is not None for check in checks)} lines do not hold; {args.json}")
    lost = regressions({"checks": [check.as_dict() for check in checks]}, before)
    print("".join(f"no longer holds: {name}\n" for name in lost), end="")
    return 1 if bad or lost else 0


if __name__ == "__main__":
    sys.exit(main())
