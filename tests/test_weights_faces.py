"""The checkpoints of DWPose and S3FD: mmengine's objects beside the tensors, hostile pickles, wrong files."""

import collections
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from musetalk_core.__main__ import main
from musetalk_core.errors import MuseTalkError
from musetalk_core.nets.dwpose import DWPose
from musetalk_core.nets.s3fd import S3FD
from musetalk_core.weights import tensor_pickle
from musetalk_core.weights.models import check_role, load_dwpose, load_s3fd
from musetalk_core.weights.state_dict import read_state_dict

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


class History:
    """What mmengine keeps in a checkpoint's message_hub; a class that the reading side need not know."""

    def __init__(self) -> None:
        self.values = np.arange(3)
        self.names = collections.deque(["loss"])


class Hostile:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        {"meta": {"sigmas": np.ones(17, np.float32)}},
        {"message_hub": History()},
        {"meta": {"set": {1, 2}, "list": [History()], "type": History}},
    ],
)
def test_tensors_come_out_of_what_other_libraries_saved(tmp_path: Path, beside: dict[str, Any], zipped: bool) -> None:
    path = tmp_path / "x.pth"
    state = collections.OrderedDict({**TENSORS, "p": torch.nn.Parameter(torch.ones(2))})
    torch.save({**beside, "state_dict": state}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    found = read_state_dict(path)
    assert list(found) == ["a.weight", "b", "p"]
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


def hostile_objects(folder: Path) -> list[Hostile]:
    touched = folder / "touched"
    return [
        Hostile(Path.touch, touched),
        Hostile(eval, f"open({str(touched)!r}, 'w')"),
        Hostile(__import__("os").system, f"touch {touched}"),
        Hostile(__import__("subprocess").Popen, ["touch", str(touched)]),
        Hostile(getattr, torch.Tensor, "numpy"),
        Hostile(torch.load, str(folder / "inner.pth")),
        Hostile(__import__("importlib").import_module, "antigravity"),
    ]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_a_hostile_file_calls_does_not_happen(tmp_path: Path, zipped: bool) -> None:
    torch.save({"x": Hostile(Path.touch, tmp_path / "touched")}, tmp_path / "inner.pth")
    for hostile in hostile_objects(tmp_path):
        path = tmp_path / "x.pth"
        torch.save({"meta": hostile, "state_dict": TENSORS}, path, _use_new_zipfile_serialization=zipped)
        assert set(read_state_dict(path)) == set(TENSORS)
        torch.save({"state_dict": {"w": hostile}}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(MuseTalkError, match="pickled Python objects"):
            read_state_dict(path)
        torch.save(hostile, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(MuseTalkError, match="pickled Python objects"):
            read_state_dict(path)
    assert not (tmp_path / "touched").exists()


def test_only_tensors_and_plain_containers_have_a_name(tmp_path: Path) -> None:
    unpickler = tensor_pickle.Unpickler(open(__file__, "rb"))  # noqa: SIM115
    for module, name in [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("os", "system"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"),
        ("collections", "OrderedDict.__init__"),
        ("torch", "classes"),
    ]:
        assert unpickler.find_class(module, name) is tensor_pickle.InertObject
    assert unpickler.find_class("collections", "OrderedDict") is collections.OrderedDict


def test_a_file_cut_short_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"meta": History(), "state_dict": {"w": torch.randn(4000)}}, path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(MuseTalkError, match="damaged or cut short"):
        read_state_dict(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02cos\nsystem\n")
    with pytest.raises(MuseTalkError) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_both_networks_load_strictly_from_their_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    dwpose, s3fd = DWPose(), S3FD()
    without_counters = {name: value for name, value in dwpose.state_dict().items() if "num_batches" not in name}
    torch.save({"meta": History(), "state_dict": without_counters}, tmp_path / "dwpose.pth")
    torch.save(s3fd.state_dict(), tmp_path / "s3fd.pth")
    for net, path, load in ((dwpose, "dwpose.pth", load_dwpose), (s3fd, "s3fd.pth", load_s3fd)):
        loaded = load(tmp_path / path)
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), loaded.parameters(), strict=True))
    check_role("s3fd", tmp_path / "s3fd.pth")
    with pytest.raises(MuseTalkError, match="holds an S3FD face detector, not a DWPose network"):
        check_role("dwpose", tmp_path / "s3fd.pth")
    with pytest.raises(MuseTalkError, match="holds a DWPose network, not an S3FD face detector"):
        check_role("s3fd", tmp_path / "dwpose.pth")


def test_the_command_knows_the_face_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "check", "faces", "--models", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "missing: dwpose" in told and "missing: s3fd" in told and "weights download s3fd" in told
    assert main(["weights", "list", "--models", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "DWPose whole-body points, 406.9 MB (in faces)" in told and "S3FD face detector, 89.8 MB (in faces)" in told
