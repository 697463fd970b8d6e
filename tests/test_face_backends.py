"""Every face detector that can run here, through one suite; which one a name gives; what is said when it cannot be had.

dwpose has checkpoints fitted to one picture (face_weights.py), since the released ones cannot be had here. The tests
marked mmpose run the real one on the same checkpoint: scripts/test.py runs them in an environment that has it.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from face_weights import FACE_BOX, SIZE, landmarks, others, portrait, write_face_weights

from musetalk_core.cli.infer import add_settings, add_weights, settings_of
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MissingWeightsError, MuseTalkError
from musetalk_core.faces.backends import Backends
from musetalk_core.faces.detector import Face
from musetalk_core.faces.dwpose_detector import DWPoseDetector, agrees, upper_bodies
from musetalk_core.faces.geometry import box_overlap, crop_box
from musetalk_core.faces.locator import FaceLocator
from musetalk_core.faces.mmpose_estimator import OPTIONAL, stand_ins
from musetalk_core.weights.folders import ModelFolders

NAMES = ["mediapipe", "dwpose", pytest.param("mmpose", marks=pytest.mark.mmpose)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("models")
    write_face_weights(folder)
    return folder


@pytest.fixture(scope="module")
def backends(folder) -> Backends:
    return Backends(ModelFolders({"musetalk": [folder]}), CPU)


@pytest.fixture(scope="module", params=NAMES)
def detector(request, backends):
    return backends.get(request.param).detector


def frame() -> torch.Tensor:
    return torch.from_numpy(portrait())


def same(a: Face, b: Face) -> bool:
    return np.array_equal(a.box, b.box) and np.array_equal(a.landmarks, b.landmarks) and a.score == b.score


def test_the_portraits_face_is_found(detector):
    (face,) = detector.detect(frame())
    assert face.box.shape == (4,) and face.landmarks.shape == (68, 2) and 0.5 <= face.score <= 1
    assert face.box.dtype == face.landmarks.dtype == np.float32
    assert box_overlap(FACE_BOX, face.box[None])[0] > 0.5
    middle = face.landmarks.mean(0)
    assert (FACE_BOX[:2] < middle).all() and (middle < FACE_BOX[2:]).all()


def test_it_is_the_same_every_time_and_in_every_kind_of_frame(detector):
    pixels = frame()
    first = detector.detect(pixels)[0]
    assert same(detector.detect(pixels)[0], first)
    alpha = torch.cat([pixels, torch.zeros_like(pixels[..., :1])], -1)
    assert same(detector.detect(alpha)[0], first)
    assert np.abs(detector.detect(pixels.double() / 255)[0].landmarks - first.landmarks).max() < 1
    assert torch.equal(pixels, frame())


def test_nothing_is_found_where_nobody_is(detector):
    for picture in others():
        assert detector.detect(torch.from_numpy(picture.copy())) == []
    assert detector.detect(torch.full((64, 64, 3), float("nan"))) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1)])
def test_tiny_frames_are_no_error(detector, size):
    assert isinstance(detector.detect(torch.zeros(*size, 3)), list)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (2, 8, 8, 3), (0, 8, 3)])
def test_what_is_no_frame_is_refused(detector, shape):
    with pytest.raises(MuseTalkError, match="shape"):
        detector.detect(torch.zeros(shape))


def test_a_face_is_followed_and_lost(detector):
    faces = detector.detect(frame())
    (followed,) = detector.follow(frame(), faces)
    assert np.abs(followed.landmarks - faces[0].landmarks).max() < 3
    assert box_overlap(faces[0].box, followed.box[None])[0] > 0.9
    assert detector.follow(torch.zeros(SIZE, SIZE, 3), faces) == [None]
    assert detector.follow(frame(), []) == []


def test_the_crop_comes_from_the_landmarks(detector):
    track = FaceLocator(detector).locate(frame()[None])
    (face,) = detector.detect(frame())
    assert track.boxes[0].tolist() == crop_box(face.landmarks, face.box, (SIZE, SIZE), 0, 10).tolist()


def test_dwpose_finds_what_it_was_fitted_to(backends):
    """Half a pixel of the network's view is 0.28 pixels of this frame."""
    (face,) = backends.get("dwpose").detector.detect(frame())
    assert np.abs(face.box - FACE_BOX).max() < 0.01
    assert np.abs(face.landmarks - landmarks()).max() < 0.3


@pytest.mark.mmpose
def test_mmpose_gives_what_dwpose_gives(backends):
    (ours,), (theirs,) = (backends.get(name).detector.detect(frame()) for name in ("dwpose", "mmpose"))
    assert np.array_equal(ours.landmarks, theirs.landmarks) and np.array_equal(ours.box, theirs.box)


def test_the_commands_flag_reaches_the_engine(folder):
    parser = argparse.ArgumentParser()
    add_weights(parser)
    add_settings(parser)
    settings = settings_of(parser.parse_args(["--version", "demo", "--detector", "dwpose"]))
    engine = load_engine(WeightChoice("demo"), ModelFolders({"musetalk": [folder]}), CPU, torch.float32)
    assert engine.backends.loaded == []
    assert isinstance(engine.models(settings).locator.detector, DWPoseDetector)
    assert [backend.name for backend in engine.backends.loaded] == ["dwpose"]


class Elsewhere:
    """A pose whose face lies off the box: two people in the frame, or a face S3FD saw wrongly."""

    net = torch.nn.Identity()
    score = 1.0

    def __init__(self) -> None:
        self.asked = []

    def estimate(self, pixels, boxes):
        self.asked.append(boxes)
        points = np.zeros((len(boxes), 133, 2), np.float32)
        points[:, 23:91] = landmarks() - [75, 0]
        return points, np.full((len(boxes), 133), self.score, np.float32)


def test_landmarks_off_the_box_are_dropped_and_the_face_keeps_its_box(backends):
    pose = Elsewhere()
    detector = DWPoseDetector(backends.get("dwpose").detector.s3fd, pose)
    (face,) = detector.detect(frame())
    assert not face.landmarks.any() and np.abs(face.box - FACE_BOX).max() < 0.01
    assert [len(boxes) for boxes in pose.asked] == [1, 1]  # the whole frame, then around the face
    assert pose.asked[0].tolist() == [[0, 0, SIZE, SIZE]]
    assert detector.follow(frame(), [face]) == [None]
    track = FaceLocator(detector, extra_margin=0).locate(frame()[None])
    assert track.present.all() and np.abs(track.boxes[0] - np.floor(FACE_BOX)).max() <= 1


def test_unsure_landmarks_are_dropped():
    points, box = landmarks(), FACE_BOX
    assert agrees(points, np.full(68, 0.5), box)
    assert not agrees(points, np.full(68, 0.1), box)
    assert not agrees(points + [90, 0], np.full(68, 0.5), box)


def test_upper_bodies_lie_around_their_faces_inside_the_frame():
    """A face of 100 x 100 at 450,450: 180 pixels to each side of 500,500, 130 above, 350 below."""
    boxes = upper_bodies(np.array([[450, 450, 550, 550], [0, 0, 100, 100]]), 1000, 800)
    assert boxes.tolist() == [[320, 370, 680, 800], [0, 0, 230, 400]]


def test_auto_is_dwpose_when_both_weights_are_there(backends, folder, tmp_path):
    assert backends.get("auto").name == "dwpose"
    (tmp_path / "dwpose").symlink_to(folder / "dwpose")
    assert Backends(ModelFolders({"musetalk": [tmp_path]}), CPU).get("auto").name == "mediapipe"


def test_each_detector_is_loaded_once(backends):
    assert backends.get("dwpose") is backends.get("dwpose") is backends.get("auto")


def test_what_is_missing_is_said_with_the_command(folder, tmp_path):
    empty = Backends(ModelFolders({"musetalk": [tmp_path]}), CPU)
    with pytest.raises(MissingWeightsError, match=r"S3FD .* is missing.*weights download s3fd"):
        empty.get("dwpose")
    with pytest.raises(MuseTalkError, match="'yolo' is unknown; choose one of auto, dwpose, mediapipe, mmpose"):
        empty.get("yolo")
    if find_spec("mmpose") is None:
        with pytest.raises(MuseTalkError, match=r"mmpose cannot start .*requirements-mmpose.txt"):
            Backends(ModelFolders({"musetalk": [folder]}), CPU).get("mmpose")


def test_stand_ins_are_there_only_while_needed_and_only_for_what_is_absent():
    names = [name for modules in OPTIONAL.values() for name in modules]
    before = {name: sys.modules.get(name) for name in names}
    absent = [shown_by for shown_by in OPTIONAL if find_spec(shown_by.split(".")[0]) is None]
    with stand_ins():
        assert all(name in sys.modules for shown_by in absent for name in OPTIONAL[shown_by])
    assert {name: sys.modules.get(name) for name in names} == before
    with pytest.raises(ImportError), stand_ins():
        raise ImportError
    assert {name: sys.modules.get(name) for name in names} == before
