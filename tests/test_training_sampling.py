"""Which frames and which part of them a training sample takes: by hand, by brute force, the same for the same seed."""

import numpy as np
import pytest

from musetalk_core.errors import MuseTalkError
from musetalk_core.training.clip_sound import ClipSound
from musetalk_core.training.sampling import (
    Margin,
    ReferenceChoice,
    crop_points,
    draw_start,
    mouth_box,
    mouth_set,
    pose_set,
    shape_distances,
    union_boxes,
    with_margin,
)
from musetalk_core.training.sync_mel import mel_start

BOTH = "pose_similarity_and_mouth_dissimilarity"


def faces(count: int, seed: int = 0) -> np.ndarray:
    """Landmarks (count,68,2) in crop pixels, all at random."""
    return np.random.default_rng(seed).uniform(0, 256, (count, 68, 2))


def test_boxes_join_face_and_landmarks_in_whole_pixels_inside_the_image():
    boxes = np.array([[10.9, 20.2, 50.7, 60.9], [-5.0, -2.0, 90.0, 95.0]])
    landmarks = np.full((2, 68, 2), 30.0)
    landmarks[0, 3], landmarks[0, 8] = (8.6, 40.0), (30.0, 70.8)
    assert union_boxes(boxes, landmarks, (80, 64)).tolist() == [[8, 20, 50, 70], [0, 0, 64, 80]]


def test_points_are_scaled_to_the_crop():
    points = np.zeros((1, 68, 2))
    points[0, 0] = (110, 220)
    scaled = crop_points(points, np.array([[100, 200, 150, 300]]))
    assert scaled[0, 0].tolist() == [10 / 50 * 256, 20 / 100 * 256]


def test_distances_are_mean_lengths_by_hand():
    points = np.zeros((3, 4, 2))
    points[1] = (3, 4)  # every point 5 away
    points[2, 0] = (0, 8)  # one of four 8 away
    assert shape_distances(points, 0).tolist() == [0, 5, 2]
    assert shape_distances(points, 2).tolist() == pytest.approx([2, (15 + 5) / 4, 0])  # |(3,4)-(0,8)| is 5 too


def test_sets_look_at_the_contour_and_at_the_inner_lips_only():
    """Upstream's ranges end before points 16 and 67."""
    points = np.zeros((4, 68, 2))
    points[1, 0], points[2, 15], points[3, 16] = (0, 1), (0, 2), (0, 900)
    assert pose_set(points, 0, 3).tolist() == [3, 1, 2]
    points[:] = 0
    points[1, 60], points[2, 66], points[3, 67] = (0, 1), (0, 2), (0, 900)
    assert mouth_set(points, 0, 3).tolist() == [2, 1, 3]


def brute_candidates(points: np.ndarray, frame: int) -> set[int]:
    """Both sets by plain loops, k = int(0.51 N)."""

    def distance(other: int, first: int, stop: int) -> float:
        gaps = [np.hypot(*(points[other, p] - points[frame, p])) for p in range(first, stop)]
        return sum(gaps) / len(gaps)

    others = [k for k in range(len(points)) if k != frame]
    k = int(0.51 * len(points))
    near = sorted(others, key=lambda other: distance(other, 0, 16))[:k]
    far = sorted(others, key=lambda other: -distance(other, 60, 67))[:k]
    return {other for other in near if other in far and abs(other - frame) >= 5}


def test_reference_is_in_both_sets_and_never_within_five_frames():
    points, choice, draw = faces(60), ReferenceChoice(BOTH), np.random.default_rng(1)
    for frame in range(60):
        allowed = brute_candidates(points, frame)
        assert allowed and set(choice.candidates(points, frame, 16).tolist()) == allowed
        assert {choice.draw(points, frame, 16, draw) for _ in range(8)} <= allowed


def test_reference_is_any_of_its_candidates():
    points, choice, draw = faces(60), ReferenceChoice(BOTH), np.random.default_rng(2)
    allowed = brute_candidates(points, 30)
    assert {choice.draw(points, 30, 16, draw) for _ in range(600)} == allowed


def test_pose_similarity_ignores_the_mouth():
    points = faces(40)
    chosen = ReferenceChoice("pose_similarity").candidates(points, 20, 1)
    moved = points.copy()
    moved[:, 60:67] = 0
    assert chosen.tolist() == ReferenceChoice("pose_similarity").candidates(moved, 20, 1).tolist()
    assert set(chosen) == {k for k in pose_set(points, 20, 20) if abs(k - 20) >= 5}


def test_without_common_frames_the_reference_is_five_windows_away_at_most():
    """The mouths that differ belong to the poses that differ: nothing is in both sets."""
    points = np.zeros((40, 68, 2))
    points[20:] = 50
    points[20:, :16] = 200
    choice = ReferenceChoice(BOTH, top_k_ratio=0.3)
    assert choice.candidates(points, 5, 2).tolist() == [0, *range(10, 16)]


@pytest.mark.parametrize(("frame", "expected"), [(0, [5]), (7, [2, 12]), (19, [14])])
def test_random_keeps_away_and_inside_the_clip(frame, expected):
    """Upstream clamps after the draw, so at frame 0 its reference is the target itself half of the time."""
    assert ReferenceChoice("random").candidates(faces(20), frame, 1).tolist() == expected


def test_reference_needs_a_long_enough_clip_and_a_known_method():
    with pytest.raises(MuseTalkError, match="6 frames; frame 3 has none 5 frames away"):
        ReferenceChoice(BOTH).candidates(faces(6), 3, 1)
    with pytest.raises(MuseTalkError, match="'closest' is unknown"):
        ReferenceChoice("closest")
    with pytest.raises(MuseTalkError, match="top_k_ratio is 0"):
        ReferenceChoice(top_k_ratio=0)


def test_margin_moves_the_bottom_only_and_not_out_of_the_image():
    box = np.array([10, 20, 90, 100])
    assert with_margin(box, 12, 200).tolist() == [10, 20, 90, 112]
    assert with_margin(box, 12, 105).tolist() == [10, 20, 90, 105]
    assert with_margin(box, 0, 200).tolist() == box.tolist()


def test_margins_are_spread_as_asked():
    draw = np.random.default_rng(0)
    normal = [Margin("normal").draw(draw) for _ in range(4000)]
    uniform = [Margin("uniform").draw(draw) for _ in range(4000)]
    assert min(normal) == 0 and max(normal) == 20 and min(uniform) == 0 and max(uniform) == 19
    # 16 % of a normal distribution lie below mean - deviation, and as many above mean + deviation.
    assert np.mean(np.array(normal) == 20) == pytest.approx(0.1587, abs=0.02)
    assert np.mean(np.array(uniform) == 7) == pytest.approx(1 / 20, abs=0.012)
    assert {Margin("normal", -30, 10).draw(draw) for _ in range(50)} == {0}
    with pytest.raises(MuseTalkError, match="margin method 'flat'"):
        Margin("flat")


def test_mouth_box_by_hand():
    landmarks = np.full((68, 2), 500.0)
    landmarks[48:67] = (150, 260)
    landmarks[50], landmarks[55] = (140, 255), (160, 265)
    # A crop of 128 x 128 is doubled: lips from (80,110) to (120,130), 10 pixels on both sides, half as high as wide.
    box = np.array([100, 200, 228, 328])
    assert mouth_box(landmarks, box).tolist() == [70, 105, 130, 135]
    # A margin of 128 below halves the scale of y: the middle of the lips goes from 120 to 60.
    assert mouth_box(landmarks, with_margin(box, 128, 1000)).tolist() == [70, 45, 130, 75]
    assert mouth_box(landmarks - (38, 0), box)[0] == 0


def test_windows_begin_anywhere_they_fit():
    draw = np.random.default_rng(0)
    assert {draw_start(20, 16, 99, draw) for _ in range(200)} == {0, 1, 2, 3, 4}
    assert {draw_start(20, 16, 2, draw) for _ in range(200)} == {0, 1, 2}
    with pytest.raises(MuseTalkError, match="has 12 frames"):
        draw_start(12, 16, 99, draw)
    with pytest.raises(MuseTalkError, match="too little sound"):
        draw_start(20, 16, -1, draw)


@pytest.mark.parametrize("rows", range(40, 140))
def test_last_start_with_a_whole_spectrum_by_trying(rows, tmp_path):
    fits = [frame for frame in range(60) if int(80 * frame / 25) + 52 <= rows]
    latest = ClipSound(tmp_path, tmp_path, rows).latest
    assert latest == fits[-1] if fits else latest < 0
    assert all(mel_start(frame) == int(80 * (frame / 25.0)) for frame in range(750))


def test_the_same_draw_gives_the_same_choice():
    points, choice = faces(80), ReferenceChoice(BOTH)

    def chosen(seed: int) -> list[int]:
        draw = np.random.default_rng([7, seed])
        return [choice.draw(points, frame, 16, draw) for frame in range(20, 36)] + [Margin().draw(draw)]

    assert chosen(3) == chosen(3) and chosen(3) != chosen(4)
