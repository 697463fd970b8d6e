"""A pickle reader that takes lists, tuples and numbers, numpy's among them, and refuses everything else.

MuseTalk pickles its crop boxes: lists of tuples of four numbers, some of them numpy's integers.
"""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MuseTalkError

KINDS = {f"{kind}{size}" for kind, sizes in (("i", "1248"), ("u", "1248"), ("f", "248")) for size in sizes}


class _Type:
    """Takes the place of numpy.dtype: the code of a plain number, and its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in KINDS:
            raise pickle.UnpicklingError(f"the number type {code!r}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        self.order = ">" if order == ">" else "<"


def _number(kind: Any, data: Any) -> int | float:
    """Takes the place of numpy's scalar: the number of some bytes."""
    if not isinstance(kind, _Type) or not isinstance(data, bytes):
        raise pickle.UnpicklingError("a number without its bytes")
    return np.frombuffer(data, kind.order + kind.code, 1)[0].item()


ALLOWED = {
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy._core.multiarray", "scalar"): _number,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def load_boxes(path: Path, most_bytes: int) -> list[tuple[float, ...]]:
    """The boxes (x1, y1, x2, y2) of a pickled list. Nothing that the file asks to import or call is.

    Raises MuseTalkError for a file that is missing, longer than most_bytes, or holds anything but such boxes.
    """
    try:
        length = path.stat().st_size
        if length > most_bytes:
            raise MuseTalkError(f"{path} has {length} bytes, more than {most_bytes}; it holds more than boxes.")
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    except OSError as error:
        raise MuseTalkError(f"{path} cannot be read: {error.strerror}.") from error
    except MuseTalkError:
        raise
    # A damaged or hostile pickle fails in any of these ways.
    except (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError) as error:
        raise _refusal(path, error) from error
    except (MemoryError, RecursionError, TypeError, ValueError) as error:
        raise _refusal(path, error) from error
    if not isinstance(content, list) or not all(_is_box(box) for box in content):
        raise MuseTalkError(f"{path} does not hold a list of boxes of four numbers; it is no avatar of MuseTalk.")
    return [tuple(box) for box in content]


def _refusal(path: Path, error: BaseException) -> MuseTalkError:
    return MuseTalkError(f"{path} is refused: it asks for more than lists of numbers ({error}); do not trust it.")


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list | tuple) and len(box) == 4
    return numbers and all(type(value) in (int, float) and abs(value) < 2**24 for value in box)
