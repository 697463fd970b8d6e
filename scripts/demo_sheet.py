"""Draws what the demo model makes: faces beside the truth, and the curves of the lips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

CELL, LABEL, BAR = 180, 132, 26
THUMB = 112
INK, GRID = (30, 30, 30), (220, 220, 220)
COLOURS = ((40, 40, 40), (30, 110, 220), (220, 110, 20), (40, 150, 70))
PLOT_HEIGHT, PLOT_TOP = 240, 0.4  # pixels, and the gap at the upper edge
TITLE = "SYNTHETIC: a rendered portrait, lip-synced by the demo model to a recording it was not trained on"


@dataclass(frozen=True)
class Row:
    """A line of the sheet: caption, as many frames (H,W,3) uint8 as columns, and the one picture they come from."""

    caption: str
    frames: Sequence[np.ndarray]
    source: np.ndarray | None = None


@dataclass(frozen=True)
class Curve:
    """A line of the plot: its name and values (N,), NaN left out."""

    name: str
    values: np.ndarray


def save_sheet(path: Path, rows: Sequence[Row], columns: Sequence[int], curves: Sequence[Curve], clip: str) -> None:
    """Write the picture: rows of frames, the frame numbers `columns` below them, the gap curves of the clip."""
    width = LABEL + CELL * len(columns)
    parts = [_bar(width, TITLE)] + [_line(row) for row in rows]
    parts.append(_numbers(columns))
    parts.append(_bar(width, f"lip gap in eye distances, clip {clip}, 0 to {PLOT_TOP:g}; grey lines: the frames above"))
    parts.append(_plot(width, curves, columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.concatenate(parts)[..., ::-1]):
        raise OSError(f"{path} cannot be written")


def _line(row: Row) -> np.ndarray:
    label = np.full((CELL, LABEL, 3), 255, np.uint8)
    _write(label, row.caption, (6, 20))
    if row.source is not None:
        _write(label, "made from", (6, 44))
        label[52 : 52 + THUMB, 6 : 6 + THUMB] = cv2.resize(row.source, (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    cells = [cv2.resize(frame, (CELL, CELL), interpolation=cv2.INTER_AREA) for frame in row.frames]
    return np.concatenate([label, *cells], axis=1)


def _bar(width: int, text: str) -> np.ndarray:
    bar = np.full((BAR, width, 3), 255, np.uint8)
    _write(bar, text, (6, 18))
    return bar


def _numbers(columns: Sequence[int]) -> np.ndarray:
    bar = np.full((BAR, LABEL + CELL * len(columns), 3), 255, np.uint8)
    _write(bar, "frame", (6, 18))
    for i, column in enumerate(columns):
        _write(bar, str(column), (LABEL + CELL * i + CELL // 2 - 10, 18))
    return bar


def _plot(width: int, curves: Sequence[Curve], columns: Sequence[int]) -> np.ndarray:
    picture = np.full((PLOT_HEIGHT, width, 3), 255, np.uint8)
    count = len(curves[0].values)
    across = LABEL + (np.arange(count) + 0.5) * (width - LABEL) / count
    for column in columns:
        cv2.line(picture, (int(across[column]), 0), (int(across[column]), PLOT_HEIGHT), GRID, 1)
    for curve, colour in zip(curves, COLOURS, strict=False):
        down = (PLOT_HEIGHT - 4) * (1 - curve.values[:count] / PLOT_TOP)
        seen = np.isfinite(down)
        points = np.stack([across[seen], down[seen].clip(0, PLOT_HEIGHT)], 1)
        cv2.polylines(picture, [np.round(points * 16).astype(np.int32)], False, colour, 2, cv2.LINE_AA, 4)
    for i, (curve, colour) in enumerate(zip(curves, COLOURS, strict=False)):
        cv2.line(picture, (6, 20 + 22 * i), (26, 20 + 22 * i), colour, 2, cv2.LINE_AA)
        _write(picture, curve.name, (32, 24 + 22 * i))
    return picture


def _write(picture: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(picture, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
