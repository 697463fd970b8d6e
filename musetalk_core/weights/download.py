"""Getting published weight files over https: resumed after a break, checked against SHA-256, renamed when whole."""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..errors import MuseTalkError
from .catalogue import WeightEntry, WeightFile

if TYPE_CHECKING:
    from requests import Response, Session

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]

_CHUNK = 1 << 20
_TIMEOUT = (15, 60)  # seconds to reach the server, and of silence while it sends
_TRIES = 5


def download(
    entry: WeightEntry, target_folder: Path, progress: Progress | None = None, accept_licence: bool = False
) -> list[Path]:
    """Bring every file of an entry into upstream's layout below `target_folder`; returns their paths.

    progress(file name, bytes there, bytes in all) is called as bytes arrive. Files that are there and whole are kept;
    a break leaves NAME.part, from which the next call goes on. The hub's HF_ENDPOINT mirror setting is honoured.
    Raises MuseTalkError when the licence is not accepted, the server cannot be reached, the disk is too small, the
    content is not the published one, or another file lies in the place.
    """
    if not accept_licence:
        raise MuseTalkError(
            f"{entry.title} is under this licence: {entry.licence} ({entry.licence_url}); accept it first (--yes)."
        )
    return [fetch_file(file, Path(target_folder) / file.path, progress) for file in entry.files]


def fetch_file(file: WeightFile, target: Path, progress: Progress | None = None, url: str | None = None) -> Path:
    """Bring one file to `target` as `download` says; url: another address of the same content."""
    if target.exists():
        return _keep(file, target)
    _make_folder(target.parent)
    part = target.with_name(target.name + ".part")
    _check_space(file, target, part)
    _transfer(file, url or _hub_url(file), part, progress)
    _verify(file, part)
    part.replace(target)
    return target


def sha256_of(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _hub_url(file: WeightFile) -> str:
    from huggingface_hub import constants, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        raise MuseTalkError(
            f"{file.name} is not downloaded because HF_HUB_OFFLINE is set; unset it or copy the file by hand."
        )
    return hf_hub_url(file.repo, file.name, revision=file.revision)


def _keep(file: WeightFile, target: Path) -> Path:
    if target.is_file() and target.stat().st_size == file.size and sha256_of(target) == file.sha256:
        log.info("%s is there already", target)
        return target
    raise MuseTalkError(f"{target} is there but is not the published {file.name}; move it away to download that.")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MuseTalkError(f"The folder {folder} cannot be made ({error.strerror}); give another --models.") from error


def _check_space(file: WeightFile, target: Path, part: Path) -> None:
    needed = file.size - _size(part)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise MuseTalkError(
            f"{target.parent} has {free / 1e9:.1f} GB free but {file.name} needs {needed / 1e9:.1f} GB more; "
            "free some space or give another --models."
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _transfer(file: WeightFile, url: str, part: Path, progress: Progress | None) -> None:
    """Append to `part` until it is whole; gives up after _TRIES breaks in a row that brought nothing."""
    import requests

    session = requests.Session()
    tries = 0
    while _size(part) < file.size:
        before = _size(part)
        try:
            _append(session, file, url, part, progress)
            problem: Exception | None = None
        except requests.RequestException as error:
            problem = error
        except OSError as error:
            raise MuseTalkError(f"{part} cannot be written: {error.strerror}.") from error
        tries = 0 if _size(part) > before else tries + 1
        if tries and (tries >= _TRIES or (problem and not before)):
            raise _unreachable(file, url, part, problem)
        if problem:
            log.warning("The transfer of %s broke (%s); going on.", file.name, type(problem).__name__)
        time.sleep(0.5 * tries)


def _append(session: "Session", file: WeightFile, url: str, part: Path, progress: Progress | None) -> None:
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        resumed = _check_answer(response, file, start)
        with part.open("ab" if resumed else "wb") as stream:
            done = start if resumed else 0
            for block in response.iter_content(_CHUNK):
                stream.write(block)
                done += len(block)
                if done > file.size:
                    break
                if progress:
                    progress(file.name, done, file.size)


def _check_answer(response: "Response", file: WeightFile, start: int) -> bool:
    """True when the answer goes on at byte `start`, False when it is the whole file from its beginning."""
    if response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return True
    if response.status_code == 200:
        return False
    raise MuseTalkError(
        f"{urlsplit(response.url).netloc} answered {response.status_code} {response.reason} for {file.name}; "
        "try again later, or get the file by hand from " + file.url + "."
    )


def _unreachable(file: WeightFile, url: str, part: Path, problem: Exception | None) -> MuseTalkError:
    host = urlsplit(url).netloc
    if not _size(part):
        return MuseTalkError(
            f"{host} cannot be reached to download {file.name}; check the network, or copy the file by hand "
            f"to {part.with_suffix('')}."
        )
    reason = type(problem).__name__ if problem else "the server stopped early"
    return MuseTalkError(
        f"The transfer of {file.name} from {host} stopped at {_size(part):,} of {file.size:,} bytes ({reason}); "
        "run the same command again to go on from there."
    )


def _verify(file: WeightFile, part: Path) -> None:
    found = sha256_of(part)
    if found == file.sha256:
        return
    size = _size(part)
    part.unlink()
    raise MuseTalkError(
        f"The {size:,} bytes received for {file.name} are not the published file (SHA-256 {found[:12]}..., expected "
        f"{file.sha256[:12]}...); they were deleted, run the command again or use another network."
    )
