"""All videos of a folder, in one process or several; what is done already is not done again."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from ...audio_features import AudioEncoder, WhisperEncoder
from ...engine import choose_device
from ...errors import MissingWeightsError, MuseTalkError
from ...faces.backends import Backends
from ...files import whole_file
from ...weights.folders import ModelFolders
from ...weights.models import load_whisper
from ..clip_sound import cache_sound
from ..clips import FACES, SOUND, SPLITS, VIDEOS, clip_files, read_clip
from ..progress import Say, clock
from .record import (
    Outcome,
    Reason,
    Record,
    Source,
    find_sources,
    read_record,
    read_records,
    record_path,
)
from .report import write_report
from .settings import EncoderChoice, PrepareSettings
from .source import Tools, prepare_source


def prepare(videos: Path, folder: Path, settings: PrepareSettings, workers: int, say: Say) -> Sequence[Record]:
    """Turn the videos below a folder into a data folder, which may hold others' clips already; returns all records.

    workers: processes; 1 works in this one. Writes the lists and report.json and report.md at the end. A run that is
    stopped goes on where it was. Raises MuseTalkError for missing weights and for what stops every video; a video that
    cannot be used is in the report.
    """
    sources = find_sources(videos, folder)
    for name in (VIDEOS, FACES, SOUND):
        (folder / name).mkdir(parents=True, exist_ok=True)
    alone, duplicates = _without_duplicates(sources, folder, settings)
    todo = _todo(alone, folder, settings)
    say(f"{len(sources)} videos, {len(sources) - len(todo)} of them done already")
    begun = time.monotonic()
    with closing(_worked_off(todo, folder, settings, workers)) as finished:
        for done, record in enumerate(finished, 1):
            rejected = len(record.clips) - len(record.kept()) + (record.whole is not None)
            left = clock((time.monotonic() - begun) / done * (len(todo) - done))
            say(f"{done} of {len(todo)}  {record.source}: {len(record.kept())} clips, {rejected} rejected  left {left}")
    records = [*read_records(folder), *duplicates]
    write_lists(folder, records, settings.val_share)
    write_report(folder, records, settings.val_share)
    return records


def write_lists(folder: Path, records: Sequence[Record], val_share: float) -> None:
    """train.txt and val.txt: the names of the clips' .json files, one a line, no heading."""
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for record in records:
        lines[record.split(val_share)] += [f"{name}.json\n" for name in record.kept()]
    for split, names in lines.items():
        with whole_file(folder / f"{split}.txt") as part:
            part.write_text("".join(sorted(names)), encoding="utf-8")


def add_features(folder: Path, choice: EncoderChoice, models: Path | None, device: str, say: Say) -> int:
    """Compute what the listed clips of a data folder lack of features and spectra; returns how many clips lacked some.

    For folders that upstream's scripts made, and for another audio encoder. A clip that cannot be read is told and left
    out. Raises MissingWeightsError, or MuseTalkError when there is no list.
    """
    encoder = load_encoder(choice, models, device)
    lists = [split for split in SPLITS if (folder / f"{split}.txt").is_file()]
    files = sorted({path for split in lists or SPLITS[:1] for path in clip_files(folder, split)})
    made = 0
    for number, path in enumerate(files, 1):
        try:
            made += cache_sound(folder, read_clip(path, folder), encoder)
        except MuseTalkError as error:
            say(f"{path.name} is left out: {error}")
        say(f"{number} of {len(files)}  {path.stem}")
    return made


def load_encoder(choice: EncoderChoice, models: Path | None, device: str) -> AudioEncoder | None:
    """The audio encoder of a choice, None for "none". Raises MissingWeightsError without Whisper's weights."""
    place = choose_device(device)
    if choice == "none":
        return None
    if choice == "demo":
        from ...demo.loader import load_demo

        return load_demo(place).audio_encoder
    import torch

    module = load_whisper(ModelFolders.default(models).find("whisper-tiny"))
    return WhisperEncoder(torch.nn.Module.to(module, place), place, torch.float32)


def _without_duplicates(
    sources: Sequence[Source], folder: Path, settings: PrepareSettings
) -> tuple[list[Source], list[Record]]:
    """The sources of which each content comes once, and records that reject the others.

    The same video in two places would be seen twice as often, and could be compared with itself.
    """
    names = {record.digest: record.name for record in read_records(folder)}
    paths: dict[str, Path] = {}
    alone, duplicates = [], []
    for source in sources:
        if source.digest in paths or names.get(source.digest, source.name) != source.name:
            other = paths.get(source.digest, names.get(source.digest))
            whole = Outcome(0, Reason.DUPLICATE.value, f"{other} holds the same")
            name, digest = source.name, source.digest
            duplicates.append(Record(str(source.path), name, digest, settings.key, {}, whole, True))
        else:
            paths[source.digest] = source.path
            alone.append(source)
    return alone, duplicates


def _todo(sources: Sequence[Source], folder: Path, settings: PrepareSettings) -> list[tuple[Source, Record]]:
    """The sources that are not done, each with the record to go on from."""
    todo = []
    for source in sources:
        old = read_record(record_path(folder, source.name))
        if old is not None and (old.key != settings.key or old.digest != source.digest):
            _delete_clips(folder, old)
            old = None
        if old is None or not old.complete:
            new = Record(str(source.path), source.name, source.digest, settings.key)
            todo.append((source, old or new))
    return todo


def _delete_clips(folder: Path, record: Record) -> None:
    """Delete the clips that other settings made of a source."""
    for name in record.clips:
        for path in (folder / VIDEOS / f"{name}.mp4", folder / VIDEOS / f"{name}.wav", folder / FACES / f"{name}.json"):
            path.unlink(missing_ok=True)


def _worked_off(
    todo: Sequence[tuple[Source, Record]], folder: Path, settings: PrepareSettings, workers: int
) -> Generator[Record, None, None]:
    """The finished records, as they come."""
    if workers < 2 or len(todo) < 2:
        for source, record in todo:
            yield _work(source, folder, settings, record)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_child, (settings.threads,)) as pool:
        others = set(multiprocessing.active_children())
        futures: list[Future[Record]] = [
            pool.submit(_work, source, folder, settings, record) for source, record in todo
        ]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise MuseTalkError(
                "A process that prepared a video ended by itself, perhaps for lack of memory; run again with fewer "
                "--workers, what is done stays done."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            _end(others)
            raise


def _end(others: set[multiprocessing.process.BaseProcess]) -> None:
    """End the children that were started since; each removes its unfinished file."""
    for child in set(multiprocessing.active_children()) - others:
        while child.is_alive():
            child.terminate()
            child.join(1)


def _begin_child(threads: int) -> None:
    """In a child: Ctrl-C is the parent's business, and being ended runs what removes unfinished files."""
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def _work(source: Source, folder: Path, settings: PrepareSettings, record: Record) -> Record:
    return prepare_source(source, folder, settings, _tools(settings), record)


@lru_cache(maxsize=1)
def _tools(settings: PrepareSettings) -> Tools:
    """The networks, loaded once in a process."""
    device = choose_device(settings.device)
    backend = Backends(ModelFolders.default(settings.models), device).get(settings.detector)
    backend.nets.to(device)
    try:
        encoder = load_encoder(settings.audio_encoder, settings.models, settings.device)
    except MissingWeightsError:
        encoder = None  # `train features` adds them when the weights are there; the command says so
    return Tools(backend.detector, encoder)
