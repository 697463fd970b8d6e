"""S3FD against the face-alignment package: names, and what that found on the same weights and picture."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_client import REPOSITORY

from musetalk_core.nets.s3fd import S3FD, decode, thin_out

sys.path.insert(0, str(REPOSITORY / "scripts"))

from seeded_weights import picture, seeded_s3fd

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "s3fd_golden.json").read_text())


@pytest.fixture(scope="module")
def net() -> S3FD:
    torch.set_num_threads(1)
    net = S3FD().train(False)
    net.load_state_dict(seeded_s3fd(net.state_dict(), GOLDEN["weights"]))
    return net


def frames(count: int) -> torch.Tensor:
    seeds = range(GOLDEN["picture"], GOLDEN["picture"] + count)
    return torch.from_numpy(np.stack([picture(*GOLDEN["size"], seed) for seed in seeds])).permute(0, 3, 1, 2)


def test_keys_and_shapes_are_the_checkpoints():
    """data/s3fd_keys.txt lists the state dict of face-alignment 1.5.0's s3fd, which loads s3fd-619a316812.pth."""
    listed = dict(line.split("\t") for line in (DATA / "s3fd_keys.txt").read_text().splitlines())
    ours = {name: "x".join(map(str, value.shape)) for name, value in S3FD().state_dict().items()}
    assert ours == listed


def test_parameter_count_is_the_published_one():
    assert sum(p.numel() for p in S3FD().parameters()) == 22_459_110


def test_boxes_are_those_of_the_face_alignment_package(net):
    """Made by scripts/compare_s3fd.py, which finds no difference at all on its own machine."""
    found = net.find(frames(1))[0]
    assert found.shape == np.shape(GOLDEN["boxes"])
    assert np.abs(found - GOLDEN["boxes"]).max() < 0.01


def test_a_batch_is_its_single_pictures(net):
    batch = frames(3)
    together = net.find(batch)
    assert len(together) == 3
    for k in range(3):
        alone = net.find(batch[k : k + 1])[0]
        assert alone.shape == together[k].shape and np.allclose(alone, together[k], atol=1e-2)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (31, 33)])
def test_small_pictures_are_no_error(net, size):
    (found,) = net.find(torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert found.shape[1:] == (5,)


def test_an_anchor_becomes_its_box():
    """Stride 16 (the third head), row 2, column 5: centre 88, 40, side 64. Offsets 0.5, -0.25 tenths of the side
    and 5 * ln 2 fifths of an octave: centre 91.2, 38.4, width 128, height 64."""
    heads = [(torch.tensor([5.0, -5.0]).view(1, 2, 1, 1).repeat(1, 1, 8, 8), torch.zeros(1, 4, 8, 8)) for _ in range(6)]
    heads[2][0][0, :, 2, 5] = torch.tensor([0.0, np.log(3)])
    heads[2][1][0, :, 2, 5] = torch.tensor([0.5, -0.25, 5 * np.log(2), 0.0])
    assert np.allclose(decode(heads), [[[27.2, 6.4, 155.2, 70.4, 0.75]]], atol=1e-4)


def test_of_overlapping_boxes_the_most_probable_stays():
    """10-pixel squares (11 x 11 counted whole): 6 pixels apart they share 55 of 187, 29 %; 5 apart 66 of 176, 38 %."""
    boxes = np.array([[0, 0, 10, 10, 0.6], [6, 0, 16, 10, 0.9], [11, 0, 21, 10, 0.8]])
    assert thin_out(boxes).tolist() == [boxes[1].tolist(), boxes[0].tolist()]
    assert thin_out(np.zeros((0, 5))).shape == (0, 5)
