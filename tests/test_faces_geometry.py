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
    fit_face,
    landmark_mask,
    why_no_box,
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
        (-140, 0, [-39, 80, 60, 230]),  # -39.1 -> -39, 60.2 -> 60
        (340, 0, [440, 80, 540, 230]),  # 440.9 -> 440, 540.2 -> 540
        (0, -100, [100, -20, 200, 130]),  # 2 * 50 - 120 = -20
        (0, 175, [100, 255, 200, 400]),  # 395 + 10, but the image ends at 400
        (0, 200, [100, 280, 200, 420]),  # the chin is outside: no margin
    ],
)
def test_a_box_that_leaves_the_image_keeps_its_shape(x, y, box):
    assert crop_box(face(x, y), FACE_BOX, SIZE, 0, 10).tolist() == box


def test_a_box_that_is_half_outside_is_none():
    assert crop_box(face(-160), FACE_BOX, SIZE) is None
    assert why_no_box(face(-160), FACE_BOX, SIZE) == "outside the image"


def test_landmarks_outside_the_image_fall_back():
    assert crop_box(face(-300), FACE_BOX, SIZE, 0, 0).tolist() == [90, 60, 210, 230]


def test_nothing_usable_is_none():
    outside = np.array([-80.0, -80.0, -10.0, -10.0])
    assert crop_box(face(-300), outside, SIZE) is None
    sliver = np.array([499.0, 10.0, 600.0, 100.0])
    assert crop_box(face(-300), sliver, SIZE) is None
    unknown = np.full((68, 2), np.nan, np.float32)
    assert why_no_box(unknown, np.full(4, np.nan), SIZE) == "not finite"
    assert why_no_box(unknown, np.array([20.0, 20.0, 21.0, 21.0]), SIZE) == "too small"
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


def test_what_lies_outside_the_frame_repeats_its_border():
    pixels = np.random.default_rng(1).integers(0, 255, (60, 50, 3), dtype=np.uint8)
    padded = cv2.copyMakeBorder(pixels, 20, 20, 20, 20, cv2.BORDER_REPLICATE)
    for box in ([-12, 10, 30, 60], [20, -5, 62, 64]):
        inside = [edge + 20 for edge in box]
        expected = crop_face(torch.from_numpy(padded), np.array(inside, np.float32))
        assert torch.equal(crop_face(torch.from_numpy(pixels), np.array(box, np.float32)), expected)


def ramp(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey levels that rise evenly: what any interpolation must keep."""
    return np.repeat((20 + 1.5 * x + 0.8 * y)[..., None], 3, -1)


def test_edges_between_two_pixels_are_met():
    """On an even ramp the crop's pixel (i,j) shows the place x1 + (j + 0.5) * width / 256 - 0.5, rounded to 8 bits."""
    y, x = np.mgrid[0:90, 0:100]
    box = np.array([10.3, 12.6, 60.9, 70.2])
    crop = crop_face(torch.from_numpy(ramp(x, y)) / 255, box).numpy()
    i, j = np.mgrid[8:248, 8:248] + 0.5
    place = ramp(box[0] + j * (box[2] - box[0]) / 256 - 0.5, box[1] + i * (box[3] - box[1]) / 256 - 0.5)
    assert np.abs(crop[8:248, 8:248] - place).max() <= 1.5  # OpenCV's warp tables have steps of 1/32 pixel


def test_a_face_is_put_back_where_it_was_cut():
    y, x = np.mgrid[0:90, 0:100]
    frame = torch.from_numpy(ramp(x, y).astype(np.float32)) / 255
    box = np.array([10.3, 12.6, 60.9, 70.2])
    fitted = fit_face(crop_face(frame, box).float() / 255, box)
    assert fitted.shape == (58, 50, 3)  # rows 12..69, columns 10..59
    assert (fitted - frame[12:70, 10:60])[2:-2, 2:-2].abs().max() * 255 <= 2
    whole = torch.rand(256, 256, 3)
    assert fit_face(whole, np.array([1.0, 2, 30, 40])) is whole


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
