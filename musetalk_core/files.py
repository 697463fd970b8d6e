"""Files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import MuseTalkError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to: renamed to `path` when the block ends well, removed when it does not.

    It lies beside `path` and has its suffix. A file at `path` is replaced: who must not do that looks first. Raises
    MuseTalkError for what the system refuses in the block.
    """
    part = path.with_name(f".{uuid.uuid4().hex[:12]}.part{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        raise MuseTalkError(f"{path} cannot be written: {error.strerror or error}; choose another folder.") from error
    finally:
        part.unlink(missing_ok=True)
