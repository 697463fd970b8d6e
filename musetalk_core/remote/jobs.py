"""Jobs: the rows of a table, each a workflow with values of its own."""

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import MuseTalkError
from .workflow import Input, Value, Workflow, find_input, parse_value

NAME = "name"
FORBIDDEN = re.compile(r'[<>:"/\\|?*%\x00-\x1f]|^[ .]|[ .]$')
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """One run of the workflow. fingerprint: SHA-256 of the workflow and the values, not of the files they name."""

    name: str
    values: Mapping[Input, Value]
    fingerprint: str


def read_jobs(table: Path, workflow: Workflow, common: Sequence[str]) -> list[Job]:
    """The jobs of a CSV file: a header of `node.input` and perhaps `name`, then a job a row.

    common: `node.input=value` for all jobs; a row's own value wins, an empty cell keeps the common or the
    workflow's value. Without a name a job is called by its row, 0001 for the first. UTF-8; commas, semicolons or
    tabs. Raises MuseTalkError that names the row.
    """
    base = dict(_parse_common(workflow, item) for item in common)
    rows = _read_rows(table)
    header = [column.strip() for column in next(rows, [])]
    columns = [None if column == NAME else find_input(workflow, column) for column in header]
    for number, column in enumerate(columns):
        if column in columns[:number]:
            raise MuseTalkError(f"The column {header[number]!r} of {table} sets what another column sets; drop one.")
    jobs = []
    taken: set[str] = set()
    for number, row in enumerate(rows, 1):
        try:
            job = _read_job(number, row, columns, base, workflow)
            if job.name.lower() in taken:
                raise MuseTalkError(f"The name {job.name!r} is given twice; names differ in more than case.")
        except MuseTalkError as error:
            raise MuseTalkError(f"Row {number} of {table}: {error}") from error
        taken.add(job.name.lower())
        jobs.append(job)
    if not jobs:
        raise MuseTalkError(f"{table} holds no jobs; write a header such as `KSampler.seed` and a row for each job.")
    return jobs


def _parse_common(workflow: Workflow, item: str) -> tuple[Input, Value]:
    address, equals, text = item.partition("=")
    if not equals:
        raise MuseTalkError(f"--set {item} gives no value; write --set KSampler.seed=3.")
    target = find_input(workflow, address.strip())
    return target, parse_value(workflow, target, text)


def _read_rows(table: Path) -> Iterator[list[str]]:
    """The rows that are not blank."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MuseTalkError(f"{table} is not UTF-8; save it as `CSV UTF-8`.") from error
    except OSError as error:
        raise MuseTalkError(f"The jobs in {table} cannot be read: {error}.") from error
    header = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        yield from (row for row in reader if any(cell.strip() for cell in row))
    except csv.Error as error:
        raise MuseTalkError(f"Line {reader.line_num} of {table} is no CSV: {error}.") from error


def _read_job(
    number: int, row: list[str], columns: list[Input | None], base: Mapping[Input, Value], workflow: Workflow
) -> Job:
    if len(row) > len(columns):
        raise MuseTalkError(f"It has {len(row)} cells under {len(columns)} columns; quote cells that hold commas.")
    values = dict(base)
    name = f"{number:04d}"
    for target, text in zip(columns, row, strict=False):
        if not text.strip():
            continue
        if target is None:
            name = _checked_name(text.strip())
        else:
            values[target] = parse_value(workflow, target, text)
    content = [workflow, sorted((*target, value) for target, value in values.items())]
    return Job(name, values, hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest())


def _checked_name(name: str) -> str:
    """A name that is a folder's name on every system."""
    if FORBIDDEN.search(name) or DEVICES.fullmatch(name) or len(name) > 100:
        raise MuseTalkError(
            f"The name {name!r} cannot be a folder; use up to 100 letters, digits, blanks, dots, - and _."
        )
    return name
