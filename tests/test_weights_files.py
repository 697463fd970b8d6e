"""Weight files that are not what they should be, and the containers that are fine."""

import collections
import json
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.weights.state_dict import read_state_dict

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == TENSORS.keys() and all(torch.equal(found[k], TENSORS[k]) for k in TENSORS)


@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x.safetensors"])
def test_any_container_under_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save(TENSORS, path)
    assert same(read_state_dict(path))
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    assert same(read_state_dict(path))
    path.unlink()
    save_file(TENSORS, path)
    assert same(read_state_dict(str(path)))


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
def test_wrapped(tmp_path: Path, wrapper: str) -> None:
    path = tmp_path / "x.pth"
    torch.save({wrapper: collections.OrderedDict(TENSORS), "epoch": 3, "dims": {"n": 1}}, path)
    assert same(read_state_dict(path))


def test_entries_that_are_no_tensors_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({**TENSORS, "step": 7}, path)
    assert same(read_state_dict(path))


def test_name_with_space_and_accents(tmp_path: Path) -> None:
    path = tmp_path / "mon modèle 1.pth"
    torch.save(TENSORS, path)
    assert same(read_state_dict(path))


class Evil:
    """Pickles to a call that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def bad_files(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Name -> (content, words that the error must have)."""
    torch.save({"w": torch.randn(4000)}, folder / "good.pth")
    torch.save({"w": torch.randn(4000)}, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file({"w": torch.randn(4000)}, folder / "good.safetensors")
    torch.save({"x": Evil(folder / "touched")}, folder / "evil.pth")
    torch.save(torch.nn.Linear(2, 2), folder / "module.pth")
    torch.save([1, 2], folder / "list.pth")
    torch.save({"step": 3}, folder / "numbers.pth")
    content = {path.name: path.read_bytes() for path in folder.glob("*.*")}
    with zipfile.ZipFile(folder / "plain.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    header = struct.pack("<Q", 10_000) + b'{"w": '
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:7ebf6c98\nsize 3400074924\n"
    return {
        "empty.pth": (b"", "empty"),
        "cut.pth": (content["good.pth"][:9000], "damaged or cut short"),
        "cut_legacy.pth": (content["legacy.pth"][:9000], "damaged or cut short"),
        "cut_early.pth": (content["legacy.pth"][:40], "damaged or cut short"),
        "cut.safetensors": (content["good.safetensors"][:9000], "damaged or cut short"),
        "cut_header.safetensors": (header, "damaged or cut short"),
        "page.pth": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        "page.safetensors": (b"<html>404</html>", "web page"),
        "pointer.pth": (pointer, "git-LFS pointer"),
        "text.pth": (json.dumps({"error": "gated"}).encode(), "neither a torch nor a safetensors file"),
        "image.pth": (b"\x89PNG\r\n\x1a\n" + bytes(50), "neither a torch nor a safetensors file"),
        "plain.pth": ((folder / "plain.zip").read_bytes(), "damaged or cut short"),
        "pickle.pth": (pickle.dumps({"w": [1.0]}, protocol=2), "damaged or cut short"),
        "evil.pth": (content["evil.pth"], "pickled Python objects"),
        "module.pth": (content["module.pth"], "pickled Python objects"),
        "list.pth": (content["list.pth"], "not named tensors"),
        "numbers.pth": (content["numbers.pth"], "no named tensors"),
    }


def test_bad_files_are_told_apart_in_one_sentence(tmp_path: Path) -> None:
    for name, (content, words) in bad_files(tmp_path).items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MuseTalkError) as caught:
            read_state_dict(path)
        message = str(caught.value)
        assert words in message, (name, message)
        assert str(path) in message and "\n" not in message and len(message) < 400
    assert not (tmp_path / "touched").exists()


def test_absent_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(MissingWeightsError, match="weights list"):
        read_state_dict(tmp_path / "no.pth")
    with pytest.raises(MuseTalkError, match="is a folder"):
        read_state_dict(tmp_path)
