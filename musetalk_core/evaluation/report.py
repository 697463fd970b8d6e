"""Measured values beside what they must reach."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """One measured value and its bounds.

    least: passes from this value on (at least); below: passes strictly under it; aim: the value hoped for, which does
    not decide. Without bounds the value is for information. A value that is not finite never passes a bound.
    """

    name: str
    value: float
    least: float | None = None
    below: float | None = None
    most: float | None = None
    aim: float | None = None

    @property
    def passed(self) -> bool | None:
        """Whether the bounds hold; None without bounds."""
        if self.least is None and self.below is None and self.most is None:
            return None
        if not math.isfinite(self.value):
            return False
        return (
            (self.least is None or self.value >= self.least)
            and (self.below is None or self.value < self.below)
            and (self.most is None or self.value <= self.most)
        )

    def bound(self) -> str:
        """The bounds for people."""
        parts = [] if self.least is None else [f"at least {self.least:g}"]
        parts += [] if self.below is None else [f"below {self.below:g}"]
        parts += [] if self.most is None else [f"at most {self.most:g}"]
        parts += [] if self.aim is None else [f"(aim {self.aim:g})"]
        return " ".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a value that is not finite becomes None."""
        value = self.value if math.isfinite(self.value) else None
        bounds = {"least": self.least, "below": self.below, "most": self.most, "aim": self.aim}
        given = {name: bound for name, bound in bounds.items() if bound is not None}
        return {"name": self.name, "value": value, **given, "passed": self.passed}


def table(checks: Sequence[Check]) -> str:
    """One line a check: name, value, bounds, pass or FAIL, in columns."""
    verdicts = {True: "pass", False: "FAIL", None: ""}
    width = max((len(check.name) for check in checks), default=0)
    lines = [
        f"{check.name:<{width}}  {check.value:>9.3f}  {check.bound():<26}  {verdicts[check.passed]}".rstrip()
        for check in checks
    ]
    return "\n".join(lines)


def failures(checks: Sequence[Check]) -> list[Check]:
    """The checks whose bounds do not hold."""
    return [check for check in checks if check.passed is False]
