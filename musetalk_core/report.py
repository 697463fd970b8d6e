"""What happened to the frames of a run, for people and for programs."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import MuseTalkError
from .faces.track import NOBODY, FaceTrack
from .files import whole_file

UNUSABLE = "unusable result"
SILENT = "nobody speaks"
MOST_GAPS = 1000
MOST_TOLD = 20


@dataclass
class Gap:
    """Frames first..last (0-based, both included) that kept their picture for one reason."""

    first: int
    last: int
    reason: str


@dataclass
class Report:
    """Counts of output frames: found = generated, passed_through = no face to generate, failed = kept as they were,
    silent = kept because nobody speaks.

    gaps: which frames are not generated and why, the first MOST_GAPS stretches; `reasons` counts all of them.
    """

    frames: int = 0
    found: int = 0
    passed_through: int = 0
    failed: int = 0
    silent: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    gaps: list[Gap] = field(default_factory=list)

    @staticmethod
    def of_track(track: FaceTrack) -> "Report":
        """The report of a track's frames, as if each found face were generated."""
        report = Report()
        for present, reason in zip(track.present, track.reasons, strict=True):
            if present:
                report.made()
            else:
                report.passed(str(reason))
        return report

    def made(self) -> None:
        """Count a generated frame."""
        self.frames += 1
        self.found += 1

    def passed(self, reason: str) -> None:
        """Count a frame passed through, with the reason of its track."""
        self.passed_through += 1
        self._gap(reason or NOBODY)

    def kept(self) -> None:
        """Count a frame whose generated face was unusable."""
        self.failed += 1
        self._gap(UNUSABLE)

    def hushed(self) -> None:
        """Count a frame that keeps its picture because nobody speaks."""
        self.silent += 1
        self._gap(SILENT)

    def _gap(self, reason: str) -> None:
        last = self.gaps[-1] if self.gaps else None
        if last is not None and last.last == self.frames - 1 and last.reason == reason:
            last.last = self.frames
        elif len(self.gaps) < MOST_GAPS:
            self.gaps.append(Gap(self.frames, self.frames, reason))
        self.reasons[reason] += 1
        self.frames += 1

    def extend(self, later: "Report") -> None:
        """Append the report of the frames that follow these."""
        for gap in later.gaps:
            first, last = gap.first + self.frames, gap.last + self.frames
            before = self.gaps[-1] if self.gaps else None
            if before is not None and before.last == first - 1 and before.reason == gap.reason:
                before.last = last
            elif len(self.gaps) < MOST_GAPS:
                self.gaps.append(Gap(first, last, gap.reason))
        self.frames += later.frames
        self.found += later.found
        self.passed_through += later.passed_through
        self.failed += later.failed
        self.silent += later.silent
        self.reasons.update(later.reasons)

    def text(self) -> str:
        """Lines for people: the counts, and which frames kept their picture and why."""
        counts = (
            f"{self.frames} frames: {self.found} lip-synced, {self.passed_through} passed through without a face, "
            f"{self.failed} kept because their result was unusable"
        )
        if self.silent:
            counts += f", {self.silent} kept in silence"
        return "\n".join([counts, *self.gap_lines()])

    def gap_lines(self) -> list[str]:
        """A line for each reason: how often, and in which frames."""
        lines = []
        for reason, count in self.reasons.most_common():
            spans = [_span(gap) for gap in self.gaps if gap.reason == reason]
            more = f", and {len(spans) - MOST_TOLD} more" if len(spans) > MOST_TOLD else ""
            lines.append(f"{reason}: {count} ({', '.join(spans[:MOST_TOLD])}{more})")
        return lines

    def nothing_found(self) -> str:
        """The sentence for a run in which no frame had a face to generate."""
        reason = self.reasons.most_common(1)[0][0] if self.reasons else NOBODY
        if reason == NOBODY:
            return (
                f"No face was found in any of the {self.frames} frames; use a video whose face is at least 64 pixels "
                "wide and looks towards the camera."
            )
        return (
            f"No face was found in any of the {self.frames} frames that can be generated (mostly: {reason}); choose "
            "another face, or use a video that shows it wholly."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "frames": self.frames,
            "found": self.found,
            "passed_through": self.passed_through,
            "failed": self.failed,
            "silent": self.silent,
            "reasons": dict(self.reasons),
            "gaps": [{"first": gap.first, "last": gap.last, "reason": gap.reason} for gap in self.gaps],
        }

    def json(self) -> str:
        """`as_dict` as JSON text."""
        return json.dumps(self.as_dict())


def write_report(path: Path, report: Report) -> None:
    """Write a report's JSON, whole or not at all. Raises MuseTalkError when that is impossible."""
    with whole_file(path) as part:
        part.write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read what write_report wrote. Raises MuseTalkError for a missing or foreign file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        reasons, gaps = Counter(values.pop("reasons")), [Gap(**gap) for gap in values.pop("gaps")]
        return Report(**values, reasons=reasons, gaps=gaps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MuseTalkError(f"{path} is no report of a run: {error}.") from error


def _span(gap: Gap) -> str:
    return f"{gap.first}-{gap.last}" if gap.last > gap.first else f"{gap.first}"
