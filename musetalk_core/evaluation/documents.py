"""A run's results as JSON, CSV and Markdown, written whole or not at all."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from ..files import whole_file
from .clip import Figure
from .figures import KINDS, Summary, written
from .page import page
from .run import Evaluation, Measured

FILES = ("evaluation.json", "evaluation.csv", "evaluation.md", "evaluation.html")


def write_all(folder: Path, result: Evaluation, facts: Mapping[str, Any]) -> list[Path]:
    """Write the four FILES into a folder, which is made; facts: how the run was made, into the JSON as it is.

    Files of these names are replaced: the folder is the run's. Raises MuseTalkError when they cannot be written.
    """
    texts = (
        json.dumps(document(result, facts), indent=1, allow_nan=False) + "\n",
        table(result),
        markdown(result),
        page(result),
    )
    paths = [folder / name for name in FILES]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MuseTalkError(f"The folder {folder} cannot be made: {error}; choose another folder.") from error
    for path, text in zip(paths, texts, strict=True):
        with whole_file(path) as part:
            part.write_text(text, encoding="utf-8")
    return paths


def document(result: Evaluation, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, ready for JSON: a figure is a number or the reason why there is none."""
    value, warning = result.fid()
    return {
        **facts,
        "clips_measured": len(result.measured),
        "clips_skipped": result.skipped,
        "summary": {name: _summary(summary) for name, summary in result.summaries().items()},
        "fid": {"value": _plain(value), "made": result.made.count, "real": result.real.count, "warning": warning},
        "clips": [_clip(one) for one in result.worst_first()],
    }


def table(result: Evaluation) -> str:
    """CSV: one line a clip, worst first, then the skipped with their reason."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["name", *result.names, "skipped"])
    for one in result.worst_first():
        writer.writerow([one.files.name, *(_plain(one.figures.get(name, "")) for name in result.names), ""])
    for name, reason in result.skipped.items():
        writer.writerow([name, *[""] * len(result.names), reason])
    return stream.getvalue()


def markdown(result: Evaluation) -> str:
    """The figures over all clips, the skipped clips, and the clips worst first."""
    lines = [f"{len(result.measured)} clips measured, {len(result.skipped)} skipped.", ""]
    lines += ["| figure | mean | 95 % interval | clips | better |", "|---|---|---|---|---|"]
    for name, summary in result.summaries().items():
        interval = "" if math.isnan(summary.low) else f"{written(name, summary.low)} to {written(name, summary.high)}"
        mean = summary.missing or written(name, summary.mean)
        lines.append(f"| {KINDS[name].title} | {mean} | {interval} | {summary.clips} | {KINDS[name].better} |")
    value, warning = result.fid()
    lines.append(
        f"| FID | {value if isinstance(value, str) else f'{value:.2f}'} |  | {result.made.count} frames | lower |"
    )
    lines += ["", f"**{warning}.**"] if warning else []
    if result.skipped:
        lines += ["", "| skipped | why |", "|---|---|"]
        lines += [f"| {name} | {_cell(reason)} |" for name, reason in result.skipped.items()]
    shown = [name for name, summary in result.summaries().items() if summary.clips]
    lines += ["", f"| clip | {' | '.join(KINDS[name].title for name in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for one in result.worst_first():
        cells = [written(name, one.figures.get(name, "")) for name in shown]
        lines.append(f"| {_cell(one.files.name)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def _summary(summary: Summary) -> dict[str, Any]:
    if summary.missing:
        return {"missing": summary.missing}
    interval = None if math.isnan(summary.low) else [round(summary.low, 5), round(summary.high, 5)]
    return {"mean": round(summary.mean, 5), "interval": interval, "clips": summary.clips}


def _clip(one: Measured) -> dict[str, Any]:
    files = one.files
    paths = {"output": files.output, "audio": files.audio, "source": files.source, "reference": files.reference}
    return {
        "name": files.name,
        "frames": one.frames,
        "files": {key: str(path) for key, path in paths.items() if path is not None},
        "figures": {name: _plain(value) for name, value in one.figures.items()},
    }


def _plain(value: Figure) -> Figure | None:
    if isinstance(value, str):
        return value
    return round(value, 5) if math.isfinite(value) else None
