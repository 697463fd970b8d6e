"""DWPose against mmpose 1.3.2: names, what mmpose answered on the same weights and views, and the way of a point."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_client import REPOSITORY

from musetalk_core.faces.top_down import MIRRORED, DWPoseEstimator, look, normalised, strongest, to_frame, views
from musetalk_core.nets.dwpose import HEIGHT, WIDTH, DWPose

sys.path.insert(0, str(REPOSITORY / "scripts"))

from seeded_weights import picture, seeded

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "dwpose_golden.json").read_text())


@pytest.fixture(scope="module")
def net() -> DWPose:
    torch.set_num_threads(1)
    net = DWPose().train(False).requires_grad_(False)
    net.load_state_dict(seeded(net.state_dict(), GOLDEN["weights"]))
    return net


def test_keys_and_shapes_are_the_checkpoints():
    """data/dwpose_keys.txt lists the state dict of mmpose's own model of MuseTalk's configuration."""
    listed = dict(line.split("\t") for line in (DATA / "dwpose_keys.txt").read_text().splitlines())
    state = DWPose().state_dict()
    assert {name: "x".join(map(str, value.shape)) or "scalar" for name, value in state.items()} == listed
    assert len(listed) == 470 and sum(p.numel() for p in DWPose().parameters()) == 33_610_919


def test_points_are_mmposes(net):
    """Made by scripts/compare_dwpose.py: views (what warping gives) in, flip test on, points in the frame out."""
    pixels = normalised(np.stack([picture(HEIGHT, WIDTH, seed) for seed in GOLDEN["view pictures"]]))
    centres, sizes = views(np.array(GOLDEN["boxes"]))
    assert np.allclose(centres, GOLDEN["centres"], atol=0) and np.allclose(sizes, GOLDEN["sizes"], atol=0)
    with torch.inference_mode():
        places, scores = strongest(*DWPoseEstimator(net, torch.device("cpu"))._answers(pixels))
    points = to_frame(places, centres, sizes)
    assert np.abs(scores - GOLDEN["scores"]).max() < 0.01 * np.max(GOLDEN["scores"])
    # Where two places are equally likely, rounding decides between them.
    same = np.abs(points - GOLDEN["points"]).max(-1) < 1e-2
    assert same.mean() > 0.98 and len(np.unique(points)) > 150


def test_left_and_right_change_places_as_in_mmpose():
    assert list(MIRRORED) == GOLDEN["flip_indices"]


def test_a_mirrored_frame_gives_mirrored_points(net):
    """With the flip test a picture and its mirror image are looked at alike; a mirror adds one pixel of width."""
    frame = picture(HEIGHT, WIDTH, 3)
    estimator = DWPoseEstimator(net, torch.device("cpu"))
    with torch.inference_mode():
        plain = estimator._answers(normalised(frame[None]))
        mirrored = estimator._answers(normalised(frame[None, :, ::-1].copy()))
    swap = list(MIRRORED)
    assert torch.allclose(plain[0], mirrored[0][:, swap].flip(-1), atol=1e-3)
    assert torch.allclose(plain[1], mirrored[1][:, swap], atol=1e-3)


@pytest.mark.parametrize("box", [[0, 0, 200, 300], [40.5, 60.25, 150, 220], [100, 20, 260, 120]])
def test_a_dot_is_seen_where_it_is(box):
    """The view of a white square is found by its centre of mass and led back into the frame."""
    frame = np.zeros((300, 280, 3), np.uint8)
    frame[96:105, 116:125] = 255
    centres, sizes = views(np.array([box]))
    seen = look(frame, centres[0], sizes[0])[..., 0].astype(float)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    place = np.array([[[(columns * seen).sum(), (rows * seen).sum()]]]) / seen.sum()
    assert np.abs(to_frame(place, centres, sizes)[0, 0] - [120, 100]).max() < 0.5


def test_the_view_has_the_networks_shape():
    """1.25 times the box, lengthened to 3:4: 200x100 -> 250x125 -> 250x333.3; 100x200 -> 125x250 -> 187.5x250."""
    centres, sizes = views(np.array([[0, 0, 200, 100], [50, 0, 150, 200]]))
    assert centres.tolist() == [[100, 50], [100, 100]]
    assert np.allclose(sizes, [[250, 1000 / 3], [187.5, 250]])


def test_a_point_that_is_nowhere_stands_at_minus_one_bin():
    across, down = torch.full((1, 133, 576), -1.0), torch.full((1, 133, 768), -1.0)
    across[0, 1, 100], down[0, 1, 300] = 0.9, 0.4
    places, scores = strongest(across, down)
    assert places[0, 1].tolist() == [50, 150] and scores[0, 1] == np.float32(0.4)
    assert places[0, 0].tolist() == [-0.5, -0.5] and scores[0, 0] == -1


def test_no_boxes_no_points(net):
    points, scores = DWPoseEstimator(net, torch.device("cpu")).estimate(picture(64, 64, 0), np.zeros((0, 4)))
    assert points.shape == (0, 133, 2) and scores.shape == (0, 133)
