"""A pickle reader that builds tensors and plain containers and nothing else, for torch.load(pickle_module=...).

Checkpoints of mmengine (DWPose's) carry objects of numpy and mmengine beside the tensors, which weights_only refuses.
Here every name but those of ALLOWED becomes an inert object: what the file asks to import, call or set does nothing.
"""

import collections
import pickle
from typing import Any, BinaryIO

import torch
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

STORAGES = (
    *("BFloat16Storage", "BoolStorage", "ByteStorage", "CharStorage", "DoubleStorage", "FloatStorage"),
    *("HalfStorage", "IntStorage", "LongStorage", "ShortStorage"),
)
ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): getattr(torch, name) for name in STORAGES},
}


class InertObject:
    """Stands for an object of a foreign type; takes whatever a pickle does to an object and keeps none of it."""

    def __new__(cls, *_: Any, **__: Any) -> "InertObject":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> "InertObject":
        return InertObject()

    def append(self, _: Any) -> None:
        """Pickled lists fill themselves by this."""

    def extend(self, _: Any) -> None:
        """Pickled lists fill themselves by this."""

    def add(self, _: Any) -> None:
        """Pickled sets fill themselves by this."""


class Unpickler(pickle.Unpickler):
    """Reads tensors and plain containers; see above."""

    def find_class(self, module: str, name: str) -> Any:
        return ALLOWED.get((module, name), InertObject)


def load(file: BinaryIO, **arguments: Any) -> Any:
    """One object of a file; torch's older format begins with three."""
    return Unpickler(file, **arguments).load()
