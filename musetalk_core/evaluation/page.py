"""A run as one page for the browser: every figure as a row of dots, every clip as curves, the worst first.

It needs nothing from elsewhere: no script, no picture, no network.
"""

import math
from html import escape

import numpy as np

from .figures import KINDS, written
from .run import Evaluation, Measured
from .weights import MISSING

WIDTH, HEIGHT, DOTS = 640, 90, 26  # pixels
WIDEST_GAP = 0.35  # lip gap at the top of a plot
STYLE = """body{font:14px sans-serif;margin:24px;max-width:1000px;color:#222}table{border-collapse:collapse}
td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #ddd}
svg{background:#fafafa;border:1px solid #ddd;vertical-align:middle}
.gap{stroke:#c0392b}.loud{stroke:#2980b9}.reference{stroke:#27ae60}polyline{fill:none;stroke-width:1.3}"""


def page(result: Evaluation) -> str:
    """The HTML text."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Evaluation</title>",
        f"<style>{STYLE}</style><h1>Evaluation</h1>",
        f"<p>{len(result.measured)} clips measured, {len(result.skipped)} skipped.</p>",
        _figures(result),
        _skipped(result),
        f"<h2>Clips, worst first{_by(result)}</h2>",
        "<p><b class='gap' style='color:#c0392b'>lip gap</b>, "
        "<b style='color:#2980b9'>loudness</b>, <b style='color:#27ae60'>lip gap of the reference</b></p>",
        *[_clip(one) for one in result.worst_first()],
    ]
    return "\n".join(parts) + "\n"


def _figures(result: Evaluation) -> str:
    rows = []
    for name, summary in result.summaries().items():
        values = [one.figures.get(name, "") for one in result.measured]
        numbers = [value for value in values if not isinstance(value, str)]
        mean = escape(summary.missing) if summary.missing else written(name, summary.mean)
        interval = "" if math.isnan(summary.low) else f"{written(name, summary.low)} to {written(name, summary.high)}"
        title = f"{escape(KINDS[name].title)}</td><td>{KINDS[name].better}"
        rows.append(f"<tr><td>{title}</td><td>{mean}</td><td>{interval}</td><td>{_dots(numbers)}</td></tr>")
    value, warning = result.fid()
    shown = escape(value) if isinstance(value, str) else f"{value:.2f}"
    rows.append(f"<tr><td>FID</td><td>lower</td><td>{shown}</td><td></td><td>{escape(warning)}</td></tr>")
    head = "<tr><th>figure</th><th>better</th><th>mean</th><th>95 % interval</th><th>clips, low to high</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _dots(numbers: list[float]) -> str:
    """A row of dots from the least to the largest, which stand at its ends."""
    if not numbers:
        return ""
    low, high = min(numbers), max(numbers)
    places = [10 + 280 * ((value - low) / (high - low) if high > low else 0.5) for value in numbers]
    circles = "".join(f"<circle cx='{x:.1f}' cy='{DOTS / 2}' r='4' fill='#2980b9' fill-opacity='.5'/>" for x in places)
    return f"{low:.4g} <svg width='300' height='{DOTS}'>{circles}</svg> {high:.4g}"


def _skipped(result: Evaluation) -> str:
    if not result.skipped:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(why)}</td></tr>" for name, why in result.skipped.items())
    return f"<h2>Skipped</h2><table>{rows}</table>"


def _by(result: Evaluation) -> str:
    return f" by {escape(KINDS[result.sorted_by].title)}" if result.sorted_by else ""


def _clip(one: Measured) -> str:
    gap, loud, reference = one.curves
    lines = [_line(gap / WIDEST_GAP, "gap"), _line(loud, "loud")]
    if reference is not None:
        lines.append(_line(reference / WIDEST_GAP, "reference"))
    figures = {name: value for name, value in one.figures.items() if value != MISSING}  # said once, above
    told = ", ".join(f"{escape(KINDS[name].title)}: {written(name, value)}" for name, value in figures.items())
    return (
        f"<h3>{escape(one.files.name)}</h3><svg width='{WIDTH}' height='{HEIGHT}'>{''.join(lines)}</svg><p>{told}</p>"
    )


def _line(values: np.ndarray, kind: str) -> str:
    """Values 0..1 as lines; a gap where there is no number."""
    if len(values) < 2:
        return ""
    x = np.linspace(0, WIDTH, len(values))
    y = HEIGHT - 4 - (HEIGHT - 8) * np.clip(values, 0, 1)
    seen = np.flatnonzero(np.isfinite(values))
    runs = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
    lines = [" ".join(f"{x[k]:.1f},{y[k]:.1f}" for k in run) for run in runs if len(run) > 1]
    return "".join(f"<polyline class='{kind}' points='{points}'/>" for points in lines)
