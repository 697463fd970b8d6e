"""The sheet of crop, mask, generated face, blend and difference, read back from its pixels."""

import clips
import numpy as np
import pytest
import torch

from musetalk_core.debug_sheet import DIFFERENCE_GAIN, TILE, TINT, chosen_frames, debug_sheet
from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.geometry import crop_face
from musetalk_core.faces.track import FaceTrack
from musetalk_core.sheet import GAP

BOX = np.float32([40, 40, 200, 200])  # its close-up is a square of 192 pixels at 24,24


@pytest.fixture(scope="module")
def stages():
    frames = torch.from_numpy(clips.moving_portrait(3))
    present = np.array([True, False, True])
    track = FaceTrack(np.where(present[:, None], BOX, 0).astype(np.float32), None, present, (256, 256))
    faces = torch.full((3, 256, 256, 3), 0.5)
    masks = torch.zeros(3, 256, 256)
    masks[:, 128:] = 1
    results = frames.clone()
    results[:, 120:200, 40:200] -= torch.minimum(results[:, 120:200, 40:200], torch.tensor(20, dtype=torch.uint8))
    return frames, track, faces, masks, results


def tile(sheet: np.ndarray, column: int) -> np.ndarray:
    """The last row's picture in a column."""
    x = GAP + column * (TILE + GAP)
    return sheet[-GAP - TILE : -GAP, x : x + TILE]


def test_every_stage_of_a_frame_is_in_its_column(stages):
    frames, track, faces, masks, results = stages
    sheet = debug_sheet(frames, track, [0, 2], faces, masks, results)
    assert sheet.shape[1] == 5 * (TILE + GAP) + GAP
    crop = crop_face(frames[2], BOX).numpy()
    assert np.array_equal(tile(sheet, 0), crop)
    assert np.array_equal(tile(sheet, 1)[:128], crop[:128])
    assert np.abs(tile(sheet, 1)[128:] - (crop[128:] * 0.4 + np.array(TINT) * 0.6)).max() <= 1
    assert (np.abs(tile(sheet, 2).astype(int) - 128) <= 1).all()
    inside = tile(sheet, 4)[160:200, 60:200]  # 192 pixels shown as 256: rows 120-200 lie at 128-234
    assert np.median(inside) == 20 * DIFFERENCE_GAIN
    assert (tile(sheet, 4)[:120] == 0).all()


def test_only_what_is_given_has_a_column(stages):
    frames, track, *_ = stages
    assert debug_sheet(frames, track, [0]).shape[1] == TILE + 2 * GAP
    assert debug_sheet(frames, track, [0], results=frames).shape[1] == 3 * TILE + 4 * GAP


def test_a_frame_without_a_face_is_a_sentence(stages):
    frames, track, *_ = stages
    with_face, without = (debug_sheet(frames, track, [k], results=frames) for k in (0, 1))
    assert without.shape[0] < with_face.shape[0] - TILE // 2
    assert (without == (255, 142, 116)).all(-1).any()


@pytest.mark.parametrize(
    ("text", "count", "rows"),
    [
        ("", 101, [0, 20, 40, 60, 80, 100]),
        ("", 3, [0, 1, 2]),
        ("", 1, [0]),
        ("7, 3;3 0", 8, [0, 3, 7]),
    ],
)
def test_frames_are_named_or_spread(text, count, rows):
    assert chosen_frames(text, count) == rows


@pytest.mark.parametrize(("text", "words"), [("8", "'8'.*0 to 7"), ("-1", "'-1'"), ("two", "'two'"), ("1.5", "'1.5'")])
def test_what_is_no_frame_is_refused(text, words):
    with pytest.raises(MuseTalkError, match=words):
        chosen_frames(text, 8)


def test_too_many_frames_and_other_lengths_are_refused(stages):
    frames, track, faces, *_ = stages
    with pytest.raises(MuseTalkError, match="names 17 frames"):
        chosen_frames(" ".join(map(str, range(17))), 99)
    with pytest.raises(MuseTalkError, match="3 frames were given with 2 faces"):
        debug_sheet(frames, track, [0], faces[:2])
