"""BiSeNet and the parser around it, against the checkpoint's key list and a second implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bisenet_reference import random_bisenet, reference_labels, reference_scores

from musetalk_core.face_parsing import FaceParser
from musetalk_core.nets.bisenet import BiSeNet

KEYS = Path(__file__).parent / "data" / "bisenet_keys.txt"


@pytest.fixture(scope="module")
def net():
    return random_bisenet()


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_keys_and_shapes_are_the_checkpoints():
    # data/bisenet_keys.txt lists the state dict of MuseTalk's own BiSeNet (0a89dec), the module of 79999_iter.pth.
    listed = dict(line.split() for line in KEYS.read_text().splitlines())
    ours = {
        name: "x".join(str(size) for size in value.shape) or "scalar" for name, value in BiSeNet().state_dict().items()
    }
    assert ours == listed


def test_parameter_count_is_the_published_one():
    # reference: 13 300 416 parameters (measured on upstream's module).
    assert sum(p.numel() for p in BiSeNet().parameters()) == 13_300_416


@pytest.mark.parametrize("size", [(512, 512), (64, 128)])
def test_scores_equal_the_second_implementation(net, size):
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(5))
    expected = reference_scores(net.state_dict(), pixels)
    got = net(pixels)
    assert got.shape == (1, 19, *size)
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("shape", [(90, 90), (801, 640), (1, 1)])
def test_labels_of_regions_of_any_size(net, shape):
    region = noise(*shape)
    scores, expected = reference_labels(net.state_dict(), region)
    labels = FaceParser(net).labels([region])
    assert labels.shape == (1, 512, 512) and labels.dtype == np.uint8
    # Exact but where two classes are equal to float rounding.
    top = np.sort(scores, axis=0)
    clear = top[-1] - top[-2] > 1e-4 * np.abs(scores).max()
    assert clear.mean() > 0.99
    assert np.array_equal(labels[0][clear], expected[clear])


def test_noise_labels_hold_the_classes_that_masks_use(net):
    labels = FaceParser(net).labels([noise(512, 512)])
    assert {1, 10, 11, 12, 13, 14} <= set(np.unique(labels))


def test_a_batch_parses_like_single_regions_and_takes_tensors(net):
    parser = FaceParser(net)
    regions = [noise(100, 100, 1), noise(333, 333, 2)]
    together = parser.labels(torch.from_numpy(region) for region in regions)
    for region, labels in zip(regions, together, strict=True):
        assert np.array_equal(parser.labels([region])[0], labels)


def test_no_regions_give_no_labels(net):
    assert FaceParser(net).labels([]).shape == (0, 512, 512)
