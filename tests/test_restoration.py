"""Restored faces: alignment, exact paste-back, steadiness, and real restorer architectures through ComfyUI's loader."""

from typing import Any

import clips
import cv2
import numpy as np
import pytest
import torch
from skimage.transform import SimilarityTransform
from test_nodes_schema import probe

from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.detector import FaceDetector
from musetalk_core.faces.locator import FaceLocator
from musetalk_core.faces.track import FaceTrack
from musetalk_core.restoration import (
    TEMPLATE,
    RestoreSettings,
    face_alignments,
    five_points,
    frame_alignments,
    restore_faces,
    similarity,
)

WHOLE = RestoreSettings(strength=1.0, smoothing=0.0)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.from_numpy(clips.moving_portrait(6)).float() / 255


@pytest.fixture(scope="module")
def track(clip) -> FaceTrack:
    return FaceLocator(FaceDetector(FaceDetector.load_nets()), 0, 10, "largest").locate(clip)


def same(faces: np.ndarray) -> np.ndarray:
    return faces


def brighter(faces: np.ndarray) -> np.ndarray:
    return faces + np.float32(0.1)


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


def test_the_similarity_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    for _ in range(5):
        points = rng.uniform(0, 300, (5, 2))
        expected = SimilarityTransform.from_estimate(points, TEMPLATE).params[:2]
        assert np.allclose(similarity(points, TEMPLATE), expected, atol=1e-8)


def test_a_turned_and_scaled_template_comes_back_exactly():
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    seen = TEMPLATE @ turn.T * 0.37 + (40, 25)
    assert np.allclose(apply(similarity(seen, TEMPLATE), seen), TEMPLATE, atol=1e-9)


def test_the_portraits_eyes_and_mouth_come_near_the_templates(clip, track):
    for points, matrix in zip(track.landmarks, frame_alignments(track), strict=True):
        assert np.abs(apply(matrix, five_points(points)) - TEMPLATE).max() < 25  # of 512: a smiling mouth is wider


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_restorer_that_changes_nothing_changes_no_bit(clip, track, dtype):
    frames = clip.to(dtype)
    for settings in (WHOLE, RestoreSettings()):
        made = list(restore_faces(frames, frame_alignments(track), same, settings, 4))
        assert len(made) == 6
        assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(made, frames, strict=True))


def test_a_change_is_put_back_by_its_strength_in_the_face_and_nowhere_else(clip, track):
    made = torch.stack(list(restore_faces(clip, frame_alignments(track), brighter, RestoreSettings(0.4, 0), 4)))
    for k, matrix in enumerate(frame_alignments(track)):
        grid = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(-1, 2)
        place = apply(matrix, grid).reshape(256, 256, 2)
        inside = ((place > 80) & (place < 431)).all(-1)
        outside = ((place < -2) | (place > 513)).any(-1)
        change = (made[k] - clip[k]).numpy()
        room = clip[k].numpy() < 0.95
        assert np.abs(change[inside][room[inside]] - 0.04).max() < 1e-3
        assert outside.any() and torch.equal(made[k][torch.from_numpy(outside)], clip[k][torch.from_numpy(outside)])


def dotted(point: int):
    """A restorer that draws a dot at one of the template's points."""

    def restore(faces: np.ndarray) -> np.ndarray:
        result = faces.copy()
        for face in result:
            cv2.circle(face, np.round(TEMPLATE[point]).astype(int).tolist(), 7, (2.0, 2.0, 2.0), -1)
        return result

    return restore


@pytest.mark.parametrize("point", range(5))
def test_what_the_restorer_does_at_a_point_lands_at_that_point_of_the_face(clip, track, point):
    """In frames and in the boxes' content stretched to 256x256, which shows the same places at another scale."""
    grey = torch.full_like(clip[:1], 0.2)
    one = track.select([0])
    made = next(restore_faces(grey, frame_alignments(one), dotted(point), WHOLE, 1))
    x1, y1, x2, y2 = one.boxes[0].astype(int)
    face = torch.full((1, 256, 256, 3), 0.2)
    close = next(restore_faces(face, face_alignments(one, 256), dotted(point), WHOLE, 1))
    spot, near = centre(made), centre(close)
    wanted = apply(cv2.invertAffineTransform(frame_alignments(one)[0]), TEMPLATE[point : point + 1])[0]
    assert np.abs(spot - wanted).max() < 0.5
    scale = np.array([(x2 - x1) / 256, (y2 - y1) / 256])
    assert np.abs((near + 0.5) * scale - 0.5 + (x1, y1) - wanted).max() < 0.5


def centre(picture: torch.Tensor) -> np.ndarray:
    """Where the mean of what is brighter than the ground lies, (x,y)."""
    weight = (picture[..., 0] - 0.2).clamp(0, 1).numpy()
    rows, columns = np.mgrid[0 : weight.shape[0], 0 : weight.shape[1]]
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


class Flicker:
    """A restorer whose detail is another noise every time."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, faces: np.ndarray) -> np.ndarray:
        return faces + self.rng.normal(0, 0.02, faces.shape).astype(np.float32)


def flicker_of(smoothing: float, pictures: torch.Tensor, alignments) -> float:
    """Standard deviation over time in the middle of the face, the first frames left out."""
    made = torch.stack(list(restore_faces(pictures, alignments, Flicker(), RestoreSettings(1.0, smoothing), 4)))
    return float((made - pictures)[8:, 120:150, 110:140].std(0).mean())


def test_smoothing_takes_the_flicker_of_a_still_face(clip, track):
    """An exponential mean with share s of the past has sqrt((1-s)/(1+s)) of the deviation of independent values."""
    still = clip[:1].expand(40, -1, -1, -1) * 0.5 + 0.2
    alignments = frame_alignments(track.select([0] * 40))
    plain = flicker_of(0.0, still, alignments)
    assert flicker_of(0.6, still, alignments) / plain == pytest.approx(np.sqrt(0.4 / 1.6), rel=0.1)


def test_where_the_face_moves_old_detail_does_not_stay(clip, track):
    frames = clip[:1].repeat(2, 1, 1, 1) * 0.5
    alignments = frame_alignments(track.select([0, 0]))
    x, y = track.landmarks[0, 62].astype(int)
    frames[1, y - 12 : y + 12, x - 16 : x + 16] += 0.4  # the mouth opens
    painted = iter([0.3, 0.0])

    def once(faces: np.ndarray) -> np.ndarray:
        return faces + np.float32(next(painted))

    made = list(restore_faces(frames, alignments, once, RestoreSettings(1.0, 0.8), 1))
    left = (made[1] - frames[1])[..., 0]
    assert left[y - 4 : y + 4, x - 6 : x + 6].max() < 0.02
    nose = track.landmarks[0, 28].astype(int)
    assert left[nose[1], nose[0]] == pytest.approx(0.3 * 0.8, abs=0.03)


def test_smoothing_does_not_reach_over_a_frame_without_a_face(clip, track):
    frames = clip[:1].repeat(3, 1, 1, 1) * 0.5
    alignments = frame_alignments(track.select([0, 0, 0]))
    alignments[1] = None
    painted = iter([0.3, 0.0])

    def once(faces: np.ndarray) -> np.ndarray:
        return faces + np.float32(next(painted))

    made = list(restore_faces(frames, alignments, once, RestoreSettings(1.0, 0.9), 1))
    assert not torch.equal(made[0], frames[0])
    assert made[1] is not None and torch.equal(made[1], frames[1]) and torch.equal(made[2], frames[2])


def test_the_batch_size_does_not_change_the_result(clip, track):
    made = [list(restore_faces(clip, frame_alignments(track), brighter, RestoreSettings(), n)) for n in (1, 4)]
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_a_track_without_landmarks_and_wrong_numbers_are_refused(clip, track):
    boxes = FaceTrack(track.boxes, None, track.present, track.image_size)
    with pytest.raises(MuseTalkError, match="no landmarks"):
        frame_alignments(boxes)
    with pytest.raises(MuseTalkError, match="6 pictures and 5 faces"):
        list(restore_faces(clip, frame_alignments(track)[:5], same, WHOLE, 2))
    with pytest.raises(MuseTalkError, match="strength is 1.5"):
        RestoreSettings(strength=1.5)
    with pytest.raises(MuseTalkError, match="smoothing is 1"):
        RestoreSettings(smoothing=1.0)


@pytest.fixture(scope="module")
def restored() -> dict[str, Any]:
    return probe("restore_face")


def test_a_restoreformer_file_comes_through_comfyuis_loader_and_changes_the_face_only(restored):
    facts = restored["RestoreFormer"]
    assert facts["purpose"] == "FaceSR" and facts["shape"] == [2, 256, 256, 3]
    assert facts["changed"] > 0.05 and facts["outside"] == 0 and facts["input_kept"]
    assert facts["range"][0] >= 0 and facts["range"][1] <= 1
    assert facts["faces"] == [2, 512, 512, 3]
    assert facts["device"] == "cpu"


def test_gfpgan_gets_the_range_it_was_trained_on_and_the_noise_of_its_file(restored):
    """Against GFPGAN's own inference: normalised to -1..1, the result brought back; no noise drawn anew."""
    facts = restored["GFPGAN"]
    assert facts["purpose"] == "FaceSR" and facts["spread"] > 0.01
    assert facts["difference"] < 1e-5


def test_a_track_of_other_frames_is_one_sentence(restored):
    assert "256x256 pixels and the track was made on 300x200" in restored["wrong_size"]
