"""The results: a folder for each job, there when it is whole and not before."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from ..errors import MuseTalkError
from ..files import whole_file
from .comfy_api import ComfyApi
from .jobs import Job
from .state import Record

ABOUT = "job.json"
SUMMARY = "summary.csv"
STATE = "queue.sqlite"


class Results:
    """DIR/<job>/ with the files the server saved and job.json: the values, the server, all that the nodes showed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, job: Job) -> dict[str, Any] | None:
        """job.json of a job that is done, else None. Raises MuseTalkError when something else has its place."""
        if job.name.lower() in (SUMMARY, STATE):
            raise MuseTalkError(f"A job cannot have the name {job.name!r}: the queue has a file called so.")
        place = self.folder / job.name
        if not place.exists():
            return None
        try:
            about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            about = None
        if not isinstance(about, dict) or about.get("fingerprint") != job.fingerprint:
            raise MuseTalkError(
                f"{place} is there already and is not the result of these values; "
                "rename the job, move that folder away, or choose another --out."
            )
        return about

    async def collect(self, api: ComfyApi, record: Record) -> int:
        """Fetch what the job saved and show it under its name at once; the number of files.

        Raises ServerLost, FileGone, and MuseTalkError when the folder cannot be written.
        """
        part = self.folder / f".{record.job.name}.part"
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            names: list[str] = []
            for entry in saved_files(record.outputs):
                names.append(_free_name(entry["filename"], names))
                await api.download(entry, part / names[-1])
            (part / ABOUT).write_text(json.dumps(_about(record, names), indent=1), encoding="utf-8")
            if (self.folder / record.job.name).exists():
                raise MuseTalkError(f"{self.folder / record.job.name} was made meanwhile by something else; move it.")
            os.rename(part, self.folder / record.job.name)
        except OSError as error:
            raise MuseTalkError(f"The results cannot be written to {self.folder}: {error}.") from error
        return len(names)

    def write_summary(self, records: Sequence[Record]) -> None:
        """Write DIR/summary.csv: a row for each job."""
        path = self.folder / SUMMARY
        with whole_file(path) as part, open(part, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["name", "state", "server", "seconds", "files", "error"])
            for record in records:
                row = [record.job.name, record.state.value, record.server, record.seconds, record.files]
                writer.writerow([*row, record.error])


def saved_files(outputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of files in the output folder; previews are left out."""
    for kinds in outputs.values():
        for entries in kinds.values():
            for entry in entries if isinstance(entries, list) else []:
                if isinstance(entry, dict) and entry.get("type") == "output" and entry.get("filename"):
                    yield entry


def _free_name(filename: str, taken: Sequence[str]) -> str:
    """The bare name, numbered when another file of the job or job.json has it."""
    name = PureWindowsPath(filename).name or "output"
    used = {ABOUT, *(other.lower() for other in taken)}
    stem, suffix = os.path.splitext(name)
    number = 1
    while name.lower() in used:
        number += 1
        name = f"{stem}_{number}{suffix}"
    return name


def _about(record: Record, names: list[str]) -> dict[str, Any]:
    return {
        "name": record.job.name,
        "fingerprint": record.job.fingerprint,
        "values": {f"{target.node}.{target.name}": value for target, value in record.job.values.items()},
        "server": record.server,
        "prompt_id": record.prompt_id,
        "seconds": record.seconds,
        "files": names,
        "outputs": record.outputs,
    }
