"""Detection and following on real pictures: skimage's astronaut has one face, the others none."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.detector import Face, FaceDetector
from musetalk_core.faces.geometry import crop_box
from musetalk_core.faces.locator import FaceLocator

GOLDEN = json.loads((Path(__file__).parent / "data/facekit_golden.json").read_text())
# mediapipe's mesh number -> iBUG number of the same place on the face.
SAME_PLACE = {127: 0, 356: 16, 152: 8, 33: 36, 133: 39, 362: 42, 263: 45, 4: 30, 61: 48, 291: 54, 13: 62, 14: 66}
MOUTH = np.array([223.2, 146.7])  # the lips' middle by mediapipe's own chain, pixels
EYES_APART = 60.6  # outer corners


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return FaceDetector(FaceDetector.load_nets())


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return skimage.data.astronaut()


def mouth(face: Face) -> np.ndarray:
    return face.landmarks[[62, 66]].mean(0)


def only(faces: list[Face]) -> Face:
    (face,) = faces
    x1, y1, x2, y2 = face.box
    assert face.box.dtype == face.landmarks.dtype == np.float32 and face.landmarks.shape == (68, 2)
    assert (face.landmarks >= [x1 - 1, y1 - 1]).all() and (face.landmarks <= [x2 + 1, y2 + 1]).all()
    assert 0.5 <= face.score <= 1
    return face


def test_landmarks_agree_with_mediapipe(detector, portrait):
    """Within 2.5 % of the distance of the eyes' outer corners (the chains crop and interpolate differently)."""
    face = only(detector.detect(torch.from_numpy(portrait)))
    for mesh_index, ibug in SAME_PLACE.items():
        expected = GOLDEN["face_mesh"]["points"][str(mesh_index)]
        assert np.linalg.norm(face.landmarks[ibug] - expected) < 0.025 * EYES_APART, ibug


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.7, 4.0])
def test_any_scale(detector, portrait, scale):
    frame = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    face = only(detector.detect(torch.from_numpy(frame)))
    assert np.linalg.norm(mouth(face) / scale - MOUTH) < 3


def test_a_64_pixel_crop(detector, portrait):
    frame = cv2.resize(portrait[50:200, 150:300], (64, 64), interpolation=cv2.INTER_AREA)
    face = only(detector.detect(torch.from_numpy(frame)))
    assert np.linalg.norm(mouth(face) * 150 / 64 + [150, 50] - MOUTH) < 4


@pytest.mark.parametrize("degrees", [20, -20, 90])
def test_turned(detector, portrait, degrees):
    turn = cv2.getRotationMatrix2D((225, 125), degrees, 1)
    face = only(detector.detect(torch.from_numpy(cv2.warpAffine(portrait, turn, (512, 512)))))
    assert np.linalg.norm(mouth(face) - turn @ [*MOUTH, 1]) < 4


def test_dark_grey_alpha_and_float_kinds(detector, portrait):
    frame = torch.from_numpy(portrait)
    grey = frame.float().mean(-1, keepdim=True).expand(-1, -1, 3) / 255
    alpha = torch.cat([frame, torch.zeros_like(frame[..., :1])], -1)
    kinds = [frame * 0.15, grey, alpha, frame / 255, (frame / 255).half(), (frame / 255).double()]
    kinds[0] = kinds[0].to(torch.uint8)
    for kind in kinds:
        before = kind.clone()
        assert np.linalg.norm(mouth(only(detector.detect(kind))) - MOUTH) < 3
        assert torch.equal(kind, before)


def test_nan_pixels_are_black(detector, portrait):
    broken = torch.from_numpy(portrait) / 255
    broken[::9, ::7] = float("nan")
    face = only(detector.detect(broken))
    cleaned = only(detector.detect(broken.nan_to_num(0.0)))
    assert np.abs(face.landmarks - cleaned.landmarks).max() < 1e-3
    assert detector.detect(torch.full((64, 64, 3), float("nan"))) == []


@pytest.mark.parametrize("fill", [0, 200])
def test_a_small_face_in_a_4k_frame(detector, portrait, fill):
    frame = torch.full((2160, 3840, 3), fill, dtype=torch.uint8)
    frame[900:1412, 2000:2512] = torch.from_numpy(portrait)
    face = only(detector.detect(frame))
    assert np.linalg.norm(mouth(face) - MOUTH - [2000, 900]) < 3


FACELESS = ["coffee", "rocket", "page", "hubble_deep_field", "cat", "colorwheel", "stereo_motorcycle"]


@pytest.mark.parametrize("name", FACELESS)
def test_nothing_where_no_face_is(detector, name):
    """Of the motorcycle the left eye's picture; in the right one's the lamp looks like a face (docs/faces.md)."""
    picture = getattr(skimage.data, name)()
    picture = picture[0] if isinstance(picture, tuple) else picture
    picture = np.stack([picture] * 3, -1) if picture.ndim == 2 else picture
    assert detector.detect(torch.from_numpy(picture.copy())) == []


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3), (7, 5)])
def test_tiny_frames(detector, size):
    assert detector.detect(torch.rand(*size, 3)) == []


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (2, 8, 8, 3), (0, 8, 3)])
def test_what_is_no_frame_is_refused(detector, shape):
    with pytest.raises(MuseTalkError, match="shape"):
        detector.detect(torch.zeros(shape))


def test_two_faces_largest_first(detector, portrait):
    left = cv2.resize(portrait, (384, 384), interpolation=cv2.INTER_AREA)
    frame = np.zeros((512, 896, 3), np.uint8)
    frame[128:, :384], frame[:, 384:] = left, portrait
    faces = detector.detect(torch.from_numpy(frame))
    assert len(faces) == 2 and faces[0].area > faces[1].area
    expected = [MOUTH + [384, 0], MOUTH * 0.75 + [0, 128]]
    for face, place in zip(faces, expected, strict=True):
        assert np.linalg.norm(mouth(face) - place) < 3
    batch = torch.from_numpy(frame)[None]
    boxes = {side: FaceLocator(detector, face=side).locate(batch).boxes[0] for side in ("left", "right", "largest")}
    assert boxes["left"][2] < 384 < boxes["right"][0]
    assert boxes["largest"].tolist() == boxes["right"].tolist()


def test_the_box_follows_a_known_motion(detector, portrait):
    """Shift and scale are known; the first frame's box, moved alike, is where the others' must be: within 2 px."""
    motions = [(1 + 0.01 * i, 5.0 * i, -2.5 * i) for i in range(10)]
    frames = []
    for scale, x, y in motions:
        move = np.array([[scale, 0, x], [0, scale, y]])
        frames.append(cv2.warpAffine(portrait, move, (512, 512), borderMode=cv2.BORDER_REPLICATE))
    track = FaceLocator(detector, extra_margin=0).locate(torch.from_numpy(np.stack(frames)))
    assert track.present.all() and track.image_size == (512, 512)
    for (scale, x, y), box in zip(motions, track.boxes, strict=True):
        assert np.abs(box - (track.boxes[0] * scale + [x, y, x, y])).max() <= 2


def test_track_of_frames_with_and_without_a_face(detector, portrait):
    frame = torch.from_numpy(portrait)
    locator = FaceLocator(detector, bbox_shift=3, extra_margin=7)
    track = locator.locate(torch.stack([frame, torch.zeros_like(frame), frame]))
    assert track.present.tolist() == [True, False, True]
    assert not track.boxes[1].any() and not track.landmarks[1].any()
    face = only(detector.detect(frame))
    assert track.boxes[2].tolist() == crop_box(face.landmarks, face.box, (512, 512), 3, 7).tolist()
    assert len(locator.locate(torch.zeros(0, 8, 8, 3))) == 0
    assert locator.locate(frame).present.tolist() == [True]


def test_wrong_choices_are_refused(detector):
    with pytest.raises(MuseTalkError, match="middle"):
        FaceLocator(detector, face="middle")
    with pytest.raises(MuseTalkError, match="shape"):
        FaceLocator(detector).locate(torch.zeros(4, 4))


@pytest.mark.parametrize("size", [25, 50])
def test_faces_and_no_faces_of_the_wild(detector, size):
    """scikit-image's part of Labeled Faces in the Wild: 100 faces of 25 pixels, then 100 patches without one."""
    pictures = [(picture * 255).astype(np.uint8) for picture in skimage.data.lfw_subset()]
    pictures = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC) for picture in pictures]
    found = [bool(detector.detect(torch.from_numpy(np.stack([picture] * 3, -1)))) for picture in pictures]
    assert sum(found[:100]) >= 95
    assert sum(found[100:]) == 0


@pytest.mark.parametrize("scale", np.geomspace(0.15, 3.0, 10).round(3))
def test_ten_scales(detector, portrait, scale):
    frame = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    assert np.linalg.norm(mouth(only(detector.detect(torch.from_numpy(frame)))) / scale - MOUTH) < 4


@pytest.mark.parametrize("degrees", [-90, -60, -45, -30, -10, 10, 30, 45, 60, 90])
def test_ten_rotations(detector, portrait, degrees):
    turn = cv2.getRotationMatrix2D((225, 125), degrees, 1)
    face = only(detector.detect(torch.from_numpy(cv2.warpAffine(portrait, turn, (512, 512)))))
    assert np.linalg.norm(mouth(face) - turn @ [*MOUTH, 1]) < 4


@pytest.mark.parametrize("gain", np.geomspace(0.1, 2.5, 10).round(3))
def test_ten_brightnesses(detector, portrait, gain):
    frame = (portrait * gain).clip(0, 255).astype(np.uint8)
    assert np.linalg.norm(mouth(only(detector.detect(torch.from_numpy(frame)))) - MOUTH) < 4


def crowd_of_fifty(side: int) -> torch.Tensor:
    """The portrait's head ten times across and five times down, each `side` pixels wide."""
    head = cv2.resize(skimage.data.astronaut()[0:300, 80:380], (side, side), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.tile(head, (5, 10, 1)))


def test_most_of_fifty_faces_are_found_each_once_and_in_its_place(detector):
    """In a frame of 2400x1200 the faces are 73 pixels wide; the mouth's place in a head is known, within 4 px."""
    faces = detector.detect(crowd_of_fifty(240))
    mouths = np.array([mouth(face) for face in faces])
    cells = {tuple(cell) for cell in (mouths // 240).astype(int).tolist()}
    assert 45 <= len(faces) == len(cells) <= 50
    assert np.abs(mouths % 240 - (MOUTH - [80, 0]) * 240 / 300).max() < 4


def test_a_face_of_20_pixels_is_found_in_its_place(detector, portrait):
    frame = cv2.resize(portrait, (110, 110), interpolation=cv2.INTER_AREA)
    face = only(detector.detect(torch.from_numpy(frame)))
    assert 15 <= face.box[2] - face.box[0] <= 25
    assert np.linalg.norm(mouth(face) - MOUTH * 110 / 512) < 2


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_frames_have_no_face_and_say_so(detector, level):
    track = FaceLocator(detector).locate(torch.full((2, 720, 1280, 3), level, dtype=torch.uint8))
    assert not track.present.any() and track.reasons.tolist() == ["no face"] * 2 and not track.boxes.any()


def test_faces_are_followed_without_a_search(detector, portrait):
    """The mouth's place is known; within 3 px. A face that is gone is None."""
    faces = detector.detect(torch.from_numpy(portrait))
    for step in range(1, 8):
        move = np.array([[1, 0, 6.0 * step], [0, 1, -2.0 * step]])
        frame = torch.from_numpy(cv2.warpAffine(portrait, move, (512, 512), borderMode=cv2.BORDER_REPLICATE))
        (found,) = detector.follow(frame, faces)
        assert np.linalg.norm(mouth(found) - move @ [*MOUTH, 1]) < 3
        faces = [found]
    assert detector.follow(torch.zeros(512, 512, 3), faces) == [None]
    assert detector.follow(torch.from_numpy(portrait), []) == []
