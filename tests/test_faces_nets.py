"""The embedded networks against what mediapipe 0.10.21 answers for the same pictures.

tests/data/facekit_golden.json was made by `scripts/convert_facekit.py --golden`, which runs the original .tflite
files in mediapipe (its own TensorFlow Lite with the mesh's custom operations).
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from musetalk_core.faces.detector import WEIGHTS, FaceDetector
from musetalk_core.nets.blazeface import BlazeFaceFull, BlazeFaceShort
from musetalk_core.nets.facemesh import GRID, LEFT_EYE, LIPS, RIGHT_EYE, region_view, sample_view

GOLDEN = json.loads((Path(__file__).parent / "data/facekit_golden.json").read_text())


@pytest.fixture(scope="module")
def nets():
    torch.set_num_threads(1)
    return FaceDetector.load_nets()


def picture(golden: dict) -> torch.Tensor:
    pixels = astronaut()[slice(*golden["rows"]), slice(*golden["columns"])]
    pixels = pixels.repeat(golden["repeat"], 0).repeat(golden["repeat"], 1)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("name", ["short", "full"])
def test_detector_answers_as_mediapipe(nets, name):
    golden = GOLDEN[name]
    boxes, logits = getattr(nets, name)(picture(golden) * 2 - 1)
    anchors = golden["anchors"]
    assert logits.argsort(descending=True)[0, :8].tolist() == anchors
    np.testing.assert_allclose(logits[0, anchors], golden["scores"], atol=1e-4)
    np.testing.assert_allclose(boxes[0, anchors], golden["boxes"], atol=2e-4)
    sums = [boxes.double().abs().sum().item(), logits.double().abs().sum().item()]
    np.testing.assert_allclose(sums, golden["sums"], rtol=1e-6)


@pytest.mark.parametrize("name", ["mesh", "mesh_edge"])
def test_mesh_answers_as_mediapipe(nets, name):
    golden = GOLDEN[name]
    points, flag = nets.mesh(picture(golden))
    for region, indices in (("lips", LIPS), ("right_eye", RIGHT_EYE), ("left_eye", LEFT_EYE)):
        np.testing.assert_allclose(
            points[0, list(indices)], np.reshape(golden[region], (-1, 2)), atol=1e-3, err_msg=region
        )
    coarse = np.reshape(golden["mesh"], (-1, 3))[:, :2]
    unrefined = sorted(set(range(100)) - set(LIPS + RIGHT_EYE + LEFT_EYE))
    np.testing.assert_allclose(points[0, unrefined], coarse[unrefined], atol=1e-3)
    assert flag.item() == pytest.approx(golden["flag"][0], abs=1e-3)


def test_a_batch_is_its_items(nets):
    pair = torch.cat([picture(GOLDEN["mesh"]), picture(GOLDEN["mesh_edge"])])
    points, flags = nets.mesh(pair)
    for i in range(2):
        alone, flag = nets.mesh(pair[i : i + 1])
        torch.testing.assert_close(points[i], alone[0], atol=1e-3, rtol=0)
        torch.testing.assert_close(flags[i], flag[0], atol=1e-3, rtol=0)


def test_anchors_are_cell_centres():
    short, full = BlazeFaceShort.anchors(), BlazeFaceFull.anchors()
    assert short.shape == (2 * 16 * 16 + 6 * 8 * 8, 2) and full.shape == (48 * 48, 2)
    # Cell (row 0, column 1) of the 16 grid; the first of the 8 grid; row 2, column 3 of the 48 grid.
    assert short[2].tolist() == short[3].tolist() == [1.5 / 16, 0.5 / 16]
    assert short[512].tolist() == [0.5 / 8, 0.5 / 8]
    np.testing.assert_allclose(full[2 * 48 + 3], [3.5 / 48, 2.5 / 48], rtol=1e-6)


def test_view_of_a_turned_region():
    """Four points 4 x 2 around (10, 20), turned by 90 degrees: the view's right is the picture's down."""
    mesh = torch.tensor([[[10.0, 18.0], [10.0, 22.0], [9.0, 20.0], [11.0, 20.0]]])
    view = region_view(mesh, [0, 1, 2, 3], (0, 1))
    # 1.5 times the extent over 16 cells: 4 * 1.5 / 16 down a cell to the right, 2 * 1.5 / 16 left a cell down.
    expected = torch.tensor([[[0.0, -0.1875, 11.5], [0.375, 0.0, 17.0]]])
    torch.testing.assert_close(view, expected, atol=1e-5, rtol=0)


def test_view_is_black_outside_the_features():
    """On a plane f = x the sample at cell i is i + 0.5 + shift - 0.5; beyond the last centre it is 0."""
    features = torch.arange(20.0).expand(1, 1, 20, 20)
    view = torch.tensor([[[1.0, 0.0, 10.25], [0.0, 1.0, 0.0]]])
    row = sample_view(features, view)[0, 0, 3]
    expected = [i + 10.25 if i + 10.25 <= 19 else 0.0 for i in range(GRID)]
    np.testing.assert_allclose(row, expected, atol=1e-4)


def test_weights_file_is_small_and_licensed():
    assert WEIGHTS.stat().st_size < 4_000_000
    assert "Apache License" in WEIGHTS.with_name("LICENSE.facekit").read_text()
    notice = WEIGHTS.with_name("NOTICE.facekit").read_text()
    import hashlib

    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() in notice
    assert "Converted from mediapipe 0.10.21" in notice
