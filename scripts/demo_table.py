"""The demo model's figures as a table between two marks of a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from comfy_setup import HostError

BEGIN, END = "<!-- figures: scripts/evaluate_demo.py -->", "<!-- end of figures -->"
NAMES = {"least": "at least", "below": "below", "most": "at most"}


def table(document: dict[str, Any]) -> str:
    """Markdown of the checks of a result file: what is measured, its value, its bound, whether it holds."""
    lines = ["| figure | value | must be | holds |", "|---|---|---|---|"]
    for check in document["checks"]:
        bounds = " and ".join(f"{NAMES[key]} {check[key]:g}" for key in NAMES if key in check)
        value = "not measured" if check["value"] is None else f"{check['value']:.3f}"
        verdict = {True: "yes", False: "**no**", None: ""}[check["passed"]]
        lines.append(f"| {check['name']} | {value} | {bounds} | {verdict} |")
    made = document["made"]
    lines += ["", f"Model {document['model'].get('sha256', 'untrained')[:12]}, measured {made['utc'][:10]}."]
    return "\n".join(lines)


def write_table(page: Path, document: dict[str, Any]) -> None:
    """Put the table between the page's marks; raises HostError when they are not there."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise HostError(f"{page} has no place for the figures: {BEGIN} ... {END}")
    new = f"{BEGIN}\n{table(document)}\n{END}"
    part = page.with_name(page.name + ".partial")
    part.write_text(re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: new, text, flags=re.S), encoding="utf-8")
    part.replace(page)


def regressions(document: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The bounded figures that held in `before` and do not now, by name; one that is no longer measured counts."""
    now = {_plain(check): check["passed"] for check in document["checks"]}
    return [_plain(check) for check in before["checks"] if check["passed"] and not now.get(_plain(check))]


def _plain(check: dict[str, Any]) -> str:
    """The name without the machine's load, which is another in every run."""
    return check["name"].split(", load ")[0]
