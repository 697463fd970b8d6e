"""What a UNet file of this project's trainer says about itself: what inference must do as the training did."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MuseTalkError


@dataclass(frozen=True)
class UnetFacts:
    """positions: the audio tokens had their place in time. mask: the value of the hidden half, in [-1,1]. layout: a
    kind of layouts.LAYOUTS. extractor: id of the audio encoder. preset: the recipe's name. steps: updates of the
    weights. The defaults are those of MuseTalk's own files, which say nothing."""

    positions: bool = True
    mask: float = -1.0
    layout: str = "musetalk"
    extractor: str = ""
    preset: str = ""
    steps: int = 0


def read_unet_facts(path: Path | str) -> UnetFacts:
    """The facts of a UNet file; the defaults for one of another origin.

    Raises MuseTalkError for facts that cannot be understood, and for a mask other than black, which inference lacks.
    """
    said = _said(Path(path))
    try:
        facts = UnetFacts(**{name: kind(said[name]) for name, kind in _KINDS.items() if name in said})
    except (TypeError, ValueError) as error:
        raise MuseTalkError(f"{path} says of itself what cannot be understood ({error}); train it again.") from error
    if facts.mask != UnetFacts.mask:
        raise MuseTalkError(f"{path} was trained with a mask of {facts.mask:g}; MuseTalk's is {UnetFacts.mask:g}.")
    return facts


_KINDS = {"positions": bool, "mask": float, "layout": str, "extractor": str, "preset": str, "steps": int}


def _said(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads((file.metadata() or {}).get("facts", "{}"))
    except (SafetensorError, OSError, ValueError):
        return {}  # a torch file, or another's; whether it can be loaded at all is told by who loads it
    return said if isinstance(said, dict) else {}
