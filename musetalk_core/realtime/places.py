"""Names that come from outside, and the folders that they may lead to."""

import os
import re
from pathlib import Path

from ..errors import MuseTalkError

ID = re.compile(r"[\w-]{1,64}", re.ASCII)


def input_path(folder: Path, name: str) -> Path:
    """A file or folder below the input folder by its relative name. Raises MuseTalkError when it is not there."""
    root = os.path.realpath(folder)
    try:
        path = os.path.realpath(os.path.join(root, name))
    except ValueError as error:
        raise MuseTalkError(f"The name {name!r} is not a file's; give a name in the server's input folder.") from error
    inside = name and "\\" not in name and not os.path.isabs(name) and path.startswith(root + os.sep)
    if not inside or not os.path.exists(path):
        raise MuseTalkError(f"{name!r} is not in the server's input folder; put the file there and give its name.")
    return Path(path)


def checked_id(name: str, what: str) -> str:
    """An id that may stand in a file name. Raises MuseTalkError, saying `what` it is."""
    if not ID.fullmatch(name):
        raise MuseTalkError(f"{what} is {name[:80]!r}; give up to 64 letters, digits, - and _.")
    return name
