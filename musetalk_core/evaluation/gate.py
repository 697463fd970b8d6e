"""A gate: bounds that the figures of a run must keep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError
from .figures import KINDS, Summary
from .report import Check

BOUNDS = ("least", "most", "below")


def read_gate(path: Path) -> dict[str, dict[str, float]]:
    """The bounds {figure: {least|most|below: number}} of a YAML or JSON file.

    Raises MuseTalkError for an unreadable file, an unknown figure, a bound that is no number.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MuseTalkError(f"The gate {path} cannot be read: {error}.") from error
    if not isinstance(content, dict) or not content:
        raise MuseTalkError(f"The gate {path} holds no bounds; give `lip_audio: {{least: 0.4}}`.")
    return {name: _bounds(path, name, given) for name, given in content.items()}


def _bounds(path: Path, name: str, given: Any) -> dict[str, float]:
    if name not in KINDS:
        raise MuseTalkError(f"The gate {path} names the figure {name!r}; known are {', '.join(KINDS)}.")
    valid = isinstance(given, dict) and given and all(bound in BOUNDS for bound in given)
    if not valid or not all(isinstance(value, int | float) for value in given.values()):
        raise MuseTalkError(f"The gate {path} has {name}: {given!r}; give numbers for {', '.join(BOUNDS)}.")
    return {bound: float(value) for bound, value in given.items()}


def gate_checks(gate: Mapping[str, Mapping[str, float]], summaries: Mapping[str, Summary]) -> list[Check]:
    """A check for every bound; a figure that was not measured does not hold."""
    checks = []
    for name, bounds in gate.items():
        value = summaries[name].mean if name in summaries else float("nan")
        checks.append(Check(KINDS[name].title, value, **bounds))
    return checks
