"""From measured times to ratios, checks, a table and a plot."""

import html
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from ..evaluation.report import Check
from .stages import frame_gflops, plain

ROWS = ("encode", "unet", "decode", "blend", "s3fd", "tracker")
COLOURS = {"encode": "#4878a8", "unet": "#e08a3c", "decode": "#5a9e6f", "blend": "#b05a7a", "s3fd": "#8a8a8a"}
COLOURS["tracker"] = "#c9b037"


def stage_figures(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over all repeats of all rounds; a round holds what both children gave, by way."""
    ways = {way: _medians([made[way]["stages"] for made in rounds]) for way in ("baseline", "fast")}
    peaks = {
        kind: {name: max(made["fast"]["peaks"][kind][name] for made in rounds) for name in values}
        for kind, values in rounds[0]["fast"]["peaks"].items()
    }
    kind = next(iter(peaks))
    speed = frame_gflops(ways["fast"])
    core = {way: times["unet"] + times["decode"] for way, times in ways.items()}
    ratios = {name: round(ways["baseline"][name] / ways["fast"][name], 2) for name in ways["baseline"]}
    return {
        "ms": {way: plain(times) for way, times in ways.items()},
        "ratio": ratios | {"unet_and_decode": round(core["baseline"] / core["fast"], 2)},
        "frames_per_second_unet_and_decode": {way: round(1000 / ms, 2) for way, ms in core.items()},
        "gflops": speed,
        "peak_gflops": peaks,
        "share_of_peak": {name: round(value / peaks[kind]["convolution"], 3) for name, value in speed.items()},
        "memory": {way: _largest([made[way]["memory"] for made in rounds]) for way in ways},
    }


def whole_figures(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians of the rounds end to end, and the ratios of each round's own pair, which load cannot shift."""
    ways = list(rounds[0])
    ms = {way: round(median(made[way]["ms"] for made in rounds), 1) for way in ways}
    ratios = {way: [round(made["baseline"]["ms"] / made[way]["ms"], 2) for made in rounds] for way in ways[1:]}
    memory = {way: _largest([made[way]["memory"] for made in rounds]) for way in ways}
    most = memory["baseline"].get("host_mib")
    shares = {way: round(memory[way]["host_mib"] / most, 3) for way in ways[1:]} if most else {}
    return {
        "ms": ms,
        "frames_per_second": {way: round(1000 / value, 2) for way, value in ms.items()},
        "ratio": {way: round(median(values), 2) for way, values in ratios.items()},
        "ratios_by_round": ratios,
        "memory": memory,
        "memory_share": shares,
    }


def checks(results: Mapping[str, Any], gpu: bool) -> list[Check]:
    """What issue and design ask of the measured parts."""
    found = []
    if "stages" in results:
        stages = results["stages"]
        found.append(Check("UNet + decode against baseline", stages["ratio"]["unet_and_decode"], least=2.0))
        if gpu:
            speed = stages["frames_per_second_unet_and_decode"]["fast"]
            found.append(Check("UNet + decode, frames/s", speed, aim=450))
    if "whole" in results:
        ratio, share = results["whole"]["ratio"], results["whole"]["memory_share"]
        found.append(Check("end to end against baseline", ratio["fast"], least=10.0 if gpu else 3.0))
        found.append(Check("end to end with S3FD in both", ratio["fast_s3fd"], least=2.0))
        if gpu:
            found.append(Check("end to end, frames/s", results["whole"]["frames_per_second"]["fast"], aim=150))
        elif share:
            found.append(Check("peak resident memory of baseline's", share["fast"], most=0.6))
    bounds = {"fp16": {"all": 50.0}, "bf16": {"decoder": 43.0, "all": 38.0}}
    for precision, values in results.get("accuracy", {}).items():
        for name, value in values.items():
            found.append(Check(f"{precision} {name}, dB", value, least=bounds[precision].get(name)))
    return found


def markdown(results: Mapping[str, Any]) -> str:
    """The stages and the whole as tables for a page."""
    lines = []
    if "stages" in results:
        stages = results["stages"]
        lines += ["| stage | baseline ms | ours ms | times | GFLOP/s | of the peak |", "|---|---|---|---|---|---|"]
        for name in ROWS:
            before, after = stages["ms"]["baseline"].get(name), stages["ms"]["fast"][name]
            speed, share = stages["gflops"].get(name), stages["share_of_peak"].get(name)
            cells = [before, after, stages["ratio"].get(name), speed, share]
            lines.append("| " + " | ".join([name, *("" if cell is None else f"{cell:g}" for cell in cells)]) + " |")
        lines.append("")
    if "whole" in results:
        whole = results["whole"]
        lines += ["| end to end | ms a frame | times | peak MiB |", "|---|---|---|---|"]
        for way, ms in whole["ms"].items():
            ratio = whole["ratio"].get(way, 1)
            lines.append(f"| {way} | {ms:g} | {ratio:g} | {whole['memory'][way].get('host_mib', 0):g} |")
        lines.append("")
    return "\n".join(lines)


def plot(results: Mapping[str, Any]) -> str:
    """An SVG of the stages' milliseconds a frame, a stacked bar a way; ours without s3fd, spared by the tracker."""
    times = results["stages"]["ms"]
    bars = {
        "upstream's way": {name: times["baseline"][name] for name in ROWS if name in times["baseline"]},
        "MuseTalk Suite": {name: times["fast"][name] for name in ROWS if name != "s3fd"},
    }
    longest = max(sum(values.values()) for values in bars.values())
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="190" font-family="sans-serif" font-size="13">'
    ]
    parts.append('<rect width="760" height="190" fill="white"/>')
    for row, (title, values) in enumerate(bars.items()):
        x, y = 130.0, 20 + 55 * row
        parts.append(f'<text x="10" y="{y + 22}">{html.escape(title)}</text>')
        for name, value in values.items():
            width = 540 * value / longest
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="34" fill="{COLOURS[name]}"/>')
            x += width
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 22}">{sum(values.values()):.0f} ms</text>')
    for k, name in enumerate(ROWS):
        x = 20 + 120 * k
        parts.append(f'<rect x="{x}" y="145" width="14" height="14" fill="{COLOURS[name]}"/>')
        parts.append(f'<text x="{x + 20}" y="157">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _medians(repeats: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    return {name: median(ms for times in repeats for ms in times[name]) for name in repeats[0]}


def _largest(memory: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(values[name] for values in memory) for name in memory[0]}
