"""Crop geometry against numbers worked by hand from upstream's arithmetic."""

import cv2
import numpy as np
import pytest
import torch

from musetalk_core.faces.geometry import (
    bbox_shift_range,
    box_overlap,
    crop_box,
    crop_face,
    crop_square,
    landmark_mask,
)

FACE_BOX = np.array([90.7, 60.2, 210.9, 230.8], np.float32)
SIZE = (400, 500)


def face(x: float = 0, y: float = 0) -> np.ndarray:
    """Leftmost 100.9, rightmost 200.2, chin 220.8, y28 140.6, y29 150.7, y30 165.9 (all + x, y)."""
    points = np.full((68, 2), (150.0, 180.0), np.float32)
    points[0], points[16], points[8] = (100.9, 150.0), (200.2, 150.0), (150.0, 220.8)
    points[28], points[29], points[30] = (150, 140.6), (150, 150.7), (150, 165.9)
    return points + np.array([x, y], np.float32)


def test_box_by_hand():
    # Whole pixels: 100, 200, 220, y29 = 150. Above the middle: 150 - (220 - 150) = 80.
    assert crop_box(face(), FACE_BOX, SIZE, 0, 0).tolist() == [100, 80, 200, 220]
    assert crop_box(face(), FACE_BOX, SIZE, 0, 10).tolist() == [100, 80, 200, 230]
    assert crop_box(face(), FACE_BOX, SIZE, 0, 10).dtype == np.float32


@pytest.mark.parametrize("shift", [-9, -3, 1, 7, 20])
def test_a_shift_moves_the_top_by_twice(shift):
    assert crop_box(face(), FACE_BOX, SIZE, shift, 10).tolist() == [100, 80 + 2 * shift, 200, 230]


def test_a_shift_to_the_chin_falls_back():
    # Middle 150 + 70 = 220 = chin: no height left. The detector's box, whole pixels, with the margin.
    assert crop_box(face(), FACE_BOX, SIZE, 70, 10).tolist() == [90, 60, 210, 240]


@pytest.mark.parametrize(
    ("x", "y", "box"),
    [
        (-150, 0, [0, 80, 50, 230]),  # -49.1 -> 0, 50.2 -> 50
        (350, 0, [450, 80, 500, 230]),  # 450.9 -> 450, 550.2 -> 500
        (0, -100, [100, 0, 200, 130]),  # 2 * 50 - 120 = -20 -> 0
        (0, 200, [100, 280, 200, 400]),  # 420 + 10 -> 400
        (350, 200, [450, 280, 500, 400]),
    ],
)
def test_cut_alike_at_every_border(x, y, box):
    assert crop_box(face(x, y), FACE_BOX, SIZE, 0, 10).tolist() == box


def test_landmarks_outside_the_image_fall_back():
    assert crop_box(face(-300), FACE_BOX, SIZE, 0, 0).tolist() == [90, 60, 210, 230]


def test_nothing_usable_is_none():
    outside = np.array([-80.0, -80.0, -10.0, -10.0])
    assert crop_box(face(-300), outside, SIZE) is None
    sliver = np.array([499.0, 10.0, 600.0, 100.0])
    assert crop_box(face(-300), sliver, SIZE) is None
    unknown = np.full((68, 2), np.nan, np.float32)
    assert crop_box(unknown, np.full(4, np.nan), SIZE) is None
    assert crop_box(unknown, FACE_BOX, SIZE, 0, 0).tolist() == [90, 60, 210, 230]


def test_shift_range_by_hand():
    # y30 - y29 = 165 - 150 = 15, y29 - y28 = 150 - 140 = 10; the second face 10 apart and 20 apart.
    other = face()
    other[28], other[30] = (150, 130.0), (150, 160.0)
    assert bbox_shift_range(face()[None]) == (-15, 10)
    assert bbox_shift_range(np.stack([face(), np.zeros((68, 2)), other])) == (-12, 15)
    assert bbox_shift_range(np.zeros((3, 68, 2))) == (0, 0)


def test_crop_is_lanczos_of_the_region():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    expected = cv2.resize(pixels[5:45, 10:40], (256, 256), interpolation=cv2.INTER_LANCZOS4)
    box = np.array([10, 5, 40, 45], np.float32)
    frame = torch.from_numpy(pixels)
    for same in (frame, frame.float() / 255, frame.double() / 255, torch.cat([frame, frame[..., :1]], -1)):
        crop = crop_face(same, box)
        assert crop.dtype == torch.uint8 and torch.equal(crop, torch.from_numpy(expected))
    assert torch.equal(frame, torch.from_numpy(pixels))


def test_crop_of_bad_pixels():
    frame = torch.full((8, 8, 3), float("nan"))
    frame[:, 4:] = 7.0
    black_and_white = torch.zeros(8, 8, 3, dtype=torch.uint8)
    black_and_white[:, 4:] = 255
    box = np.array([0, 0, 8, 8])
    assert torch.equal(crop_face(frame, box), crop_face(black_and_white, box))


def test_square_by_hand():
    # 100 x 150: 150 // 2 * 1.5 = 112 around (150, 155).
    assert crop_square(np.array([100, 80, 200, 230])) == (38, 43, 262, 267)
    # 31 x 20: 15 * 1.5 = 22 around (15, 10): it leaves the image.
    assert crop_square(np.array([0, 0, 31, 20])) == (-7, -12, 37, 32)


def test_mask_is_the_shrunk_hull():
    """A rectangle of jaw points 100..200 x 100..180 shrinks by 4 % to 102..198 x 101.6..178.4."""
    points = np.zeros((68, 2), np.float32)
    points[0:17] = (100, 100)
    points[4], points[8], points[12], points[27:31] = (100, 180), (200, 180), (200, 100), (150, 140)
    mask = landmark_mask(points, (50, 60, 250, 260))
    assert mask.shape == (200, 200) and mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
    rows, columns = np.nonzero(mask)
    assert (columns.min() + 50, columns.max() + 50) == (102, 198)
    assert (rows.min() + 60, rows.max() + 60) == (102, 178)
    assert mask.sum() / 255 == pytest.approx(96 * 76.8, rel=0.03)


def test_mask_of_a_square_outside_and_of_unknown_points():
    assert landmark_mask(face(), (-300, -300, -200, -200)).max() == 0
    assert landmark_mask(np.full((68, 2), np.nan), (0, 0, 10, 10)).max() == 0


def test_overlap_by_hand():
    # 10x10 and 10x10 shifted by 5: 50 of 150; disjoint: 0; itself: 1.
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10]])
    np.testing.assert_allclose(box_overlap(box, others), [1 / 3, 0, 1])
