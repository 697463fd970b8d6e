"""Reading tensors out of weight files of any origin, without running what a pickle may carry."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingWeightsError, MuseTalkError
from . import tensor_pickle

StateDict = dict[str, Tensor]

_HEAD_BYTES = 512
_WRAPPERS = ("state_dict", "model_state_dict")
_BAD_CONTENT = (  # what torch.load was seen to raise for damaged files, an OSError for a zip cut short
    RuntimeError,
    OSError,
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
)
_FOREIGN = "GLOBAL"  # torch's word for a name that weights_only does not know
_AGAIN = "delete it and download it again"


def read_state_dict(path: Path | str) -> StateDict:
    """Named tensors of a .safetensors file or a torch file (zip or legacy), on the CPU, in the file's dtypes.

    The kind is told from the content, not the name. Zip and safetensors files are mapped, not copied. Torch files
    are opened with weights_only, and when they hold foreign objects beside the tensors, without making those: pickled
    code never runs. {"state_dict": ...} and {"model_state_dict": ...} are unwrapped; entries that are no tensors are
    left out.
    Raises MissingWeightsError for no file, MuseTalkError that says what the file is instead (empty, cut short, a web
    page, a git-LFS pointer, Python objects, no tensors).
    """
    path = Path(path)
    head = _head(path)
    _refuse_text(path, head)
    if _is_safetensors(head):
        return _read_safetensors(path)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise MuseTalkError(f"{path} is neither a torch nor a safetensors file; {_AGAIN}.")
    zipped = head.startswith(b"PK")
    try:
        return _tensors(path, _read_torch(path, zipped))
    except _ForeignObjects:
        return _tensors_only(path, zipped)


class _ForeignObjects(Exception):
    """A torch file holds pickled objects that weights_only does not make."""


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise MuseTalkError(f"{path} is a folder; give the weight file in it.")
    if not path.is_file():
        raise MissingWeightsError(
            f"There is no weight file {path}; `python -m musetalk_core weights list` shows the known ones."
        )
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError as error:
        raise MuseTalkError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    if not head:
        raise MuseTalkError(f"{path} is empty (0 bytes); {_AGAIN}.")
    return head


def _refuse_text(path: Path, head: bytes) -> None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"version https://git-lfs"):
        raise MuseTalkError(f"{path} is a git-LFS pointer, not the weights; run `git lfs pull` or download the file.")
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise MuseTalkError(
            f"{path} is a web page saved as a weight file; {_AGAIN} from its direct link "
            "(`python -m musetalk_core weights download` does that)."
        )


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _read_torch(path: Path, zipped: bool, **how: Any) -> Any:
    how = how or {"weights_only": True}
    try:
        if path.suffix == ".safetensors":  # torch would trust that name, not the content
            with path.open("rb") as stream:
                return torch.load(stream, map_location="cpu", **how)
        return torch.load(path, map_location="cpu", mmap=zipped, **how)
    except _BAD_CONTENT as error:
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in how and _FOREIGN in str(error).upper():
            raise _ForeignObjects from error
        raise _damaged(path, error) from error


def _tensors_only(path: Path, zipped: bool) -> StateDict:
    """The named tensors of a torch file that holds foreign objects too; those are never made."""
    try:
        return _tensors(path, _read_torch(path, zipped, weights_only=False, pickle_module=tensor_pickle))
    except MuseTalkError as error:
        raise MuseTalkError(
            f"{path} holds pickled Python objects, not only tensors, and is not opened because it could run code; "
            "get the published file or one in safetensors format."
        ) from error


def _damaged(path: Path, error: Exception) -> MuseTalkError:
    reason = str(error).strip().split("\n", 1)[0].split(". ", 1)[0][:120]
    return MuseTalkError(
        f"{path} is damaged or cut short ({path.stat().st_size:,} bytes: {reason or type(error).__name__}); {_AGAIN}."
    )


def _tensors(path: Path, loaded: Any) -> StateDict:
    for wrapper in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping):
        raise MuseTalkError(f"{path} holds a {type(loaded).__name__}, not named tensors; give a weight file.")
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        names = ", ".join(str(name) for name in list(loaded)[:5]) or "nothing"
        raise MuseTalkError(f"{path} holds no named tensors (it holds: {names}); give a weight file.")
    return tensors
