"""Folders that MuseTalk's real-time script has prepared: taken over whole, and nothing in them is ever run."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from avatar_clips import upstream_folder

from musetalk_core.avatars.files import check_avatar, load_avatar
from musetalk_core.avatars.upstream import import_avatar
from musetalk_core.errors import MuseTalkError


class Hostile:
    """A real malicious pickle: reading it would make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize(("version", "ours"), [("v15", "v1.5"), ("v1", "v1.0")])
def test_frames_boxes_masks_and_latents_are_taken_over(tmp_path, version, ours):
    wanted = upstream_folder(tmp_path / "avator_1", 4, version)
    avatar = import_avatar(tmp_path / "avator_1", "mine", tmp_path / "mine")
    assert len(avatar) == 4 and avatar.version == ours and avatar.settings.bbox_shift == 5
    assert avatar.settings.mask.blur == 0.1 and avatar.frames.fps == 25
    frames = np.stack([frame.numpy() for frame in avatar.frames.read(range(4))])
    assert (frames == wanted["pictures"]).all()
    assert (avatar.track.boxes == wanted["boxes"]).all() and avatar.track.present.all()
    latents = torch.from_numpy(wanted["latents"]) / 0.18215
    assert torch.allclose(avatar.masked, latents[:, :4]) and torch.allclose(avatar.reference, latents[:, 4:])
    assert (np.stack(avatar.masks) == wanted["masks"]).all()
    assert check_avatar(tmp_path / "mine", every_byte=True) == "" and len(load_avatar(tmp_path / "mine")) == 4


def test_a_folder_with_each_frame_once_is_taken_as_it_is(tmp_path):
    upstream_folder(tmp_path / "livetalking", 3, doubled=False)
    assert len(import_avatar(tmp_path / "livetalking", "mine", tmp_path / "mine")) == 3


def test_a_frame_without_a_face_has_no_latents(tmp_path):
    folder = tmp_path / "avator_1"
    upstream_folder(folder, 3, doubled=False)
    boxes = pickle.loads((folder / "coords.pkl").read_bytes())  # noqa: S301 (made above)
    boxes[1] = (0.0, 0.0, 0.0, 0.0)
    (folder / "coords.pkl").write_bytes(pickle.dumps(boxes))
    latents = torch.load(folder / "latents.pt", weights_only=True)
    torch.save([latents[0], latents[2]], folder / "latents.pt")
    avatar = import_avatar(folder, "mine", tmp_path / "mine")
    assert avatar.track.present.tolist() == [True, False, True] and avatar.masks[1] is None
    assert torch.allclose(avatar.masked[2], latents[2][0, :4].float() / 0.18215)


@pytest.mark.parametrize("name", ["coords.pkl", "mask_coords.pkl", "latents.pt"])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path, name):
    folder, mark = tmp_path / "avator_1", tmp_path / "mark"
    upstream_folder(folder, 2)
    hostile = pickle.dumps([Hostile(mark)])
    if name == "latents.pt":
        torch.save([Hostile(mark)], folder / name)
    else:
        (folder / name).write_bytes(hostile)
    with pytest.raises(MuseTalkError, match=f"{name} is refused.*do not trust it") as error:
        import_avatar(folder, "mine", tmp_path / "mine")
    assert "\n" not in str(error.value) and not mark.exists() and not (tmp_path / "mine").exists()
    pickle.loads(hostile)  # noqa: S301 (to show that it is one)
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("coords.pkl", [[1, 2, 3]] * 4),
        ("coords.pkl", "text"),
        ("coords.pkl", [[1, 2, 3, "4"]] * 4),
        ("coords.pkl", [[1, 2, 3, float("nan")]] * 4),
        ("coords.pkl", [[1, 2, 3, 10**9]] * 4),
        ("coords.pkl", [[50, 50, 20, 20]] * 4),
        ("coords.pkl", [[1, 2, 30, 40]] * 3),
        ("mask_coords.pkl", [[0, 0, 10, 10]] * 4),
        ("avator_info.json", {"version": "v9"}),
        ("avator_info.json", []),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(tmp_path, name, content):
    folder = tmp_path / "avator_1"
    upstream_folder(folder, 2)
    data = json.dumps(content).encode() if name.endswith("json") else pickle.dumps(content)
    (folder / name).write_bytes(data)
    with pytest.raises(MuseTalkError) as error:
        import_avatar(folder, "mine", tmp_path / "mine")
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
    assert [path.name for path in tmp_path.iterdir()] == ["avator_1"]


@pytest.mark.parametrize("shape", [(1, 4, 32, 32), (8, 32, 32)])
def test_latents_of_another_shape_are_refused(tmp_path, shape):
    folder = tmp_path / "avator_1"
    upstream_folder(folder, 2)
    torch.save([torch.zeros(shape)] * 4, folder / "latents.pt")
    with pytest.raises(MuseTalkError, match="does not hold a tensor"):
        import_avatar(folder, "mine", tmp_path / "mine")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path):
    folder = tmp_path / "avator_1"
    upstream_folder(folder, 2)
    with zipfile.ZipFile(folder / "latents.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(64 * 2**20))
    with pytest.raises(MuseTalkError, match="it is refused"):
        import_avatar(folder, "mine", tmp_path / "mine")


@pytest.mark.parametrize("data", [b"", b"\x80", b"garbage", b"\x80\x04]" + b"(" * 200, b"L" + b"9" * 10000 + b"\n."])
def test_damaged_pickles_are_one_sentence(tmp_path, data):
    folder = tmp_path / "avator_1"
    upstream_folder(folder, 2)
    (folder / "coords.pkl").write_bytes(data)
    with pytest.raises(MuseTalkError) as error:
        import_avatar(folder, "mine", tmp_path / "mine")
    assert "coords.pkl" in str(error.value) and "\n" not in str(error.value)
