"""Batches for tests: a folder with clips of a face, sounds and a file of jobs; how a run of them is started."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from clips import faceless, moving_portrait, write_audio, write_video

ROOT = Path(__file__).parents[1]
FRAMES = 25  # of a job of one second


def make_batch(folder: Path, seconds: Sequence[float], nobody: bool = False) -> Path:
    """A file of jobs 0.mp4, 1.mp4 ... in folder/out, each lasting `seconds`; nobody: the second has no face."""
    video = write_video(folder / "face.mp4", moving_portrait(8))
    lines = []
    for number, length in enumerate(seconds):
        sound = write_audio(folder / f"{number}.wav", length)
        lines.append({"video": str(video), "audio": str(sound), "output": str(folder / "out" / f"{number}.mp4")})
    if nobody:
        lines[1]["video"] = str(write_video(folder / "nobody.mp4", faceless(8)))
    jobs = folder / "jobs.jsonl"
    jobs.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return jobs


def arguments(jobs: Path, *more: object) -> list[str]:
    """The arguments that make a batch with the demo model."""
    return ["batch", str(jobs), "--version", "demo", "--device", "cpu", *map(str, more)]


def command(jobs: Path, *more: object) -> list[str]:
    """The command that makes a batch with the demo model."""
    return [sys.executable, "-m", "musetalk_core", *arguments(jobs, *more)]


def outputs(jobs: Path) -> list[str]:
    """What is in the folder of results, hidden files too."""
    folder = jobs.parent / "out"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def journal(jobs: Path) -> list[dict]:
    """The lines of the journal."""
    text = jobs.with_suffix(".results.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
