"""What came of preparing: how much there is to train on, and what was rejected, why."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import whole_file
from .record import Outcome, Record

FILES = ("report.json", "report.md")


def write_report(folder: Path, records: Sequence[Record], val_share: float) -> None:
    """Write report.json and report.md. Raises MuseTalkError when that is impossible."""
    content = summary(records, val_share)
    texts = json.dumps(content, indent=1) + "\n", markdown(content)
    for name, text in zip(FILES, texts, strict=True):
        with whole_file(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def summary(records: Sequence[Record], val_share: float) -> dict[str, Any]:
    """Counts, minutes by split, reasons by frequency, and every rejected source or clip; ready for JSON."""
    clips = {"train": 0, "val": 0}
    frames = {"train": 0, "val": 0}
    rejected: list[dict[str, str]] = []
    for record in records:
        split = record.split(val_share)
        if record.whole is not None:
            rejected.append(_rejection(record, "", record.whole))
        for name, outcome in record.clips.items():
            if outcome.reason:
                rejected.append(_rejection(record, name, outcome))
            else:
                clips[split] += 1
                frames[split] += outcome.frames
    reasons = Counter(entry["reason"] for entry in rejected)
    return {
        "sources": len(records),
        "clips": clips,
        "minutes": {split: round(count / 25 / 60, 2) for split, count in frames.items()},
        "reasons": dict(reasons.most_common()),
        "rejected": rejected,
    }


def markdown(content: dict[str, Any]) -> str:
    """A summary for people."""
    lines = [
        "# Prepared data",
        "",
        "| | train | val |",
        "|---|---|---|",
        f"| clips | {content['clips']['train']} | {content['clips']['val']} |",
        f"| minutes | {content['minutes']['train']} | {content['minutes']['val']} |",
        "",
        f"{content['sources']} videos; rejected: {len(content['rejected'])} videos and clips.",
        "",
    ]
    if content["rejected"]:
        lines += ["| reason | times |", "|---|---|"]
        lines += [f"| {reason} | {count} |" for reason, count in content["reasons"].items()]
        lines += ["", "| video | clip | reason | what was found |", "|---|---|---|---|"]
        lines += [_line(entry) for entry in content["rejected"]]
    return "\n".join(lines) + "\n"


def _rejection(record: Record, clip: str, outcome: Outcome) -> dict[str, str]:
    return {"source": record.source, "clip": clip, "reason": outcome.reason, "detail": outcome.detail}


def _line(entry: dict[str, str]) -> str:
    cells = [entry["source"], entry["clip"] or "(all)", entry["reason"], entry["detail"]]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
