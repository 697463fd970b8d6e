"""Masks and compositing, against MuseTalk's published blend written with PIL pictures and scipy morphology."""

from functools import lru_cache

import cv2
import numpy as np
import pytest
import torch
from bisenet_reference import random_bisenet, reference_labels
from PIL import Image
from scipy import ndimage

from musetalk_core.blending import Masker, blend_mask, composite
from musetalk_core.errors import MuseTalkError
from musetalk_core.face_parsing import FaceParser, label_mask
from musetalk_core.faces.track import FaceTrack
from musetalk_core.settings import MaskSettings

# Frame (height, width) and box: inside, squares that leave at each border, odd sizes, tiny.
CASES = [
    ((360, 640), (250, 100, 400, 260)),
    ((360, 640), (0, 0, 100, 130)),
    ((360, 640), (541, 201, 640, 360)),
    ((101, 77), (10, 11, 43, 55)),
    ((64, 64), (0, 0, 64, 64)),
    ((90, 400), (1, 0, 399, 90)),
    ((50, 50), (20, 20, 23, 22)),
]


def drawn_labels():
    """A face in class numbers, (512,512): skin, nose, mouth, lips, neck, hair, eyes."""
    labels = np.zeros((512, 512), np.uint8)
    cv2.rectangle(labels, (180, 330), (330, 511), 14, -1)
    cv2.ellipse(labels, (256, 150), (170, 140), 0, 0, 360, 17, -1)
    cv2.ellipse(labels, (256, 240), (140, 190), 0, 0, 360, 1, -1)
    cv2.ellipse(labels, (256, 270), (30, 45), 0, 0, 360, 10, -1)
    cv2.ellipse(labels, (256, 350), (60, 30), 0, 0, 180, 13, -1)
    cv2.ellipse(labels, (256, 350), (60, 22), 0, 180, 360, 12, -1)
    cv2.ellipse(labels, (256, 350), (40, 8), 0, 0, 360, 11, -1)
    cv2.circle(labels, (200, 210), 15, 4, -1)
    return labels


def noise_labels(seed=0):
    coarse = np.random.default_rng(seed).integers(0, 19, (64, 64), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected_label_mask(labels, settings):
    """Section 6 of the reference page; morphology by scipy (cv2 dilates with the mirrored element)."""
    if settings.parsing_mode == "raw":
        return np.isin(labels, [1, 11, 12, 13]).astype(np.uint8) * 255
    if settings.parsing_mode == "neck":
        return np.isin(labels, [1, 11, 12, 13, 14]).astype(np.uint8) * 255
    kernel = np.zeros((33, 33), bool)
    for row in range(10, 33):
        width = 2 * (min(row, 20) - 10) + 1
        kernel[row, 16 - width // 2 : 16 + width // 2 + 1] = True
    flat = np.zeros((3, 35), bool)
    flat[1], flat[:, 17] = True, True
    grown = ndimage.binary_dilation(labels == 1, kernel[::-1, ::-1])
    thin = ndimage.binary_erosion(grown, flat, iterations=2, border_value=1)
    chosen = grown.copy()
    for x in range(512):
        if x <= 256 - settings.left_cheek_width or x >= 256 + settings.right_cheek_width:
            chosen[:, x] = thin[:, x]
    chosen &= labels != 10
    chosen |= np.isin(labels, [11, 12, 13])
    return chosen.astype(np.uint8) * 255


def expected_square(box, expand):
    x1, y1, x2, y2 = box
    half = int(max(x2 - x1, y2 - y1) // 2 * expand)
    return (x1 + x2) // 2 - half, (y1 + y2) // 2 - half, (x1 + x2) // 2 + half, (y1 + y2) // 2 + half


def expected_blend(frame, face, box, parsed, settings):
    """The whole-frame blend with PIL: `parsed` is the mask picture of the square, at any resolution."""
    x1, y1, x2, y2 = box
    square = expected_square(box, settings.expand)
    side = square[2] - square[0]
    inner = (x1 - square[0], y1 - square[1], x2 - square[0], y2 - square[1])
    boxed = Image.new("L", (side, side))
    boxed.paste(Image.fromarray(parsed).resize((side, side)).crop(inner), inner)
    weights = np.array(boxed)
    weights[: int(side * settings.upper_boundary_ratio)] = 0
    kernel = int(settings.blur * side // 2 * 2) + 1
    weights = cv2.GaussianBlur(weights, (kernel, kernel), 0)
    picture = Image.fromarray(frame)
    patch = picture.crop(square)
    patch.paste(Image.fromarray(cv2.resize(face, (x2 - x1, y2 - y1))), inner)
    picture.paste(patch, square[:2], Image.fromarray(weights))
    return np.array(picture)


def soft_noise(height, width, seed=0):
    """Noise with blobs of about 20 pixels, on which a random BiSeNet finds more than one class."""
    coarse = Image.fromarray(noise(height // 20 + 2, width // 20 + 2, seed))
    return np.array(coarse.resize((width, height), Image.BICUBIC))


def track_of(box, size, count=1, landmarks=None):
    boxes = np.repeat(np.float32([box]), count, 0)
    return FaceTrack(boxes, landmarks, np.ones(count, bool), size)


@pytest.fixture(scope="module")
def net():
    return random_bisenet()


@pytest.mark.parametrize("labels", [drawn_labels(), noise_labels()], ids=["face", "noise"])
@pytest.mark.parametrize(
    "mode, left, right",
    [("raw", 90, 90), ("neck", 90, 90), ("jaw", 90, 90), ("jaw", 80, 80), ("jaw", 0, 256), ("jaw", 256, 20)],
)
def test_label_masks_by_the_published_rules(labels, mode, left, right):
    settings = MaskSettings(mode, left, right)
    mask = label_mask(labels, settings)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, expected_label_mask(labels, settings))


@pytest.mark.parametrize("size, box", CASES)
@pytest.mark.parametrize(
    "settings",
    [
        MaskSettings(),
        MaskSettings("raw", blur=0.1),
        MaskSettings("neck", expand=1.0, upper_boundary_ratio=0.3),
        MaskSettings("jaw", expand=2.3, blur=0.0, upper_boundary_ratio=0.0),
    ],
    ids=["default", "raw", "neck", "jaw"],
)
def test_blend_of_a_label_map_matches_the_published_blend(size, box, settings):
    parsed = expected_label_mask(drawn_labels(), settings)
    frame, face = noise(*size, 1), noise(256, 256, 2)
    expected = expected_blend(frame, face, box, parsed, settings).astype(int)
    before = torch.from_numpy(frame.copy())
    mask = blend_mask(parsed, np.float32(box), expected_square(box, settings.expand), settings)
    result = composite(before, torch.from_numpy(face), np.float32(box), mask)
    assert result.dtype == torch.uint8 and np.array_equal(before.numpy(), frame)
    assert np.abs(result.numpy().astype(int) - expected).max() <= 1

    floating = composite(before.float() / 255, torch.from_numpy(face).float() / 255, np.float32(box), mask)
    assert np.abs(floating.numpy() * 255 - expected).max() <= 1


@lru_cache
def chain_labels(net, size, box):
    """A frame and the labels of its parsed square by the second BiSeNet implementation."""
    frame = soft_noise(*size, 3)
    region = np.array(Image.fromarray(frame).crop(expected_square(box, 1.5)))
    return frame, reference_labels(net.state_dict(), region)[1]


@pytest.mark.parametrize("floating", [False, True], ids=["uint8", "float"])
@pytest.mark.parametrize("mode", ["raw", "neck", "jaw"])
def test_whole_chain_with_random_bisenet_weights(net, mode, floating):
    settings = MaskSettings(mode)
    size, box = CASES[2] if floating else CASES[0]
    frame, labels = chain_labels(net, size, box)
    face = noise(256, 256, 4)
    expected = expected_blend(frame, face, box, expected_label_mask(labels, settings), settings).astype(int)
    replaced = (expected != frame).any(-1).sum()
    assert replaced > 500

    masker, track = Masker(FaceParser(net), settings), track_of(box, size)
    tensor = torch.from_numpy(frame).float() / 255 if floating else torch.from_numpy(frame)
    result = composite(tensor, torch.from_numpy(face), track.boxes[0], masker.masks([tensor], track)[0])
    difference = np.abs(result.numpy().astype(float) * (255 if floating else 1) - expected)
    # A label may flip where two classes tie to float rounding; there the masks differ.
    assert (difference > 1).any(-1).sum() <= 0.002 * replaced


def test_only_present_frames_are_parsed(net):
    seen = []
    hook = net.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    track = FaceTrack(np.float32([[0, 0, 0, 0], [5, 5, 40, 45]] * 2), None, np.array([False, True] * 2), (60, 60))
    frames = torch.from_numpy(np.stack([noise(60, 60, i) for i in range(4)]))
    masks = Masker(FaceParser(net), MaskSettings()).masks(frames, track)
    hook.remove()
    assert sum(seen) == 2 and max(seen) <= 8
    assert [None if mask is None else mask.shape for mask in masks] == [None, (40, 35), None, (40, 35)]


def test_square_outside_the_frame_is_parsed_as_black(net):
    # A box in the corner: the parsed square reaches over the left and the top edge.
    frame, box = noise(80, 80, 7), (0, 0, 40, 40)
    padded = np.zeros((60, 60, 3), np.uint8)
    padded[10:, 10:] = frame[:50, :50]
    _, labels = reference_labels(net.state_dict(), padded)
    settings = MaskSettings("raw", blur=0.0, upper_boundary_ratio=0.0)
    full = Image.fromarray(expected_label_mask(labels, settings)).resize((60, 60))
    mask = Masker(FaceParser(net), settings).masks([torch.from_numpy(frame)], track_of(box, (80, 80)))[0]
    assert (mask != np.array(full)[10:50, 10:50]).mean() < 1e-2


def test_landmarks_draw_the_mask_when_there_is_no_parser():
    # A square face: jaw along a half circle, bridge of the nose on its centre line.
    angle = np.linspace(np.pi, 0, 17)
    landmarks = np.zeros((68, 2), np.float32)
    landmarks[:17] = np.stack([100 + 60 * np.cos(angle), 90 + 70 * np.sin(angle)], 1)
    landmarks[27:31] = [[100, 60], [100, 70], [100, 80], [100, 90]]
    box = (40, 30, 160, 170)
    track = track_of(box, (220, 200), landmarks=landmarks[None])
    mask = Masker(None, MaskSettings()).masks([torch.zeros(220, 200, 3)], track)[0]
    assert mask.shape == (140, 120)
    assert mask[115, 60] == 255  # the mouth, well inside
    assert mask[:60].max() == 0  # the upper half of the square (its centre is row 70 of the box), less the blur
    assert mask[135, 5] == 0 and mask[135, 115] == 0  # beside the chin
    # Column c lies at x = 40 + c, its mirror image across x = 100 at column 120 - c.
    assert np.abs(mask[:, 1:].astype(int) - mask[:, :0:-1]).max() <= 2


@pytest.mark.parametrize("landmarks", [None, np.zeros((1, 68, 2), np.float32), np.full((1, 68, 2), np.nan)])
def test_ellipse_when_there_is_neither_parser_nor_landmarks(landmarks):
    box = (10, 20, 110, 140)
    settings = MaskSettings(upper_boundary_ratio=0.0, blur=0.0)
    mask = Masker(None, settings).masks([torch.zeros(160, 120, 3)], track_of(box, (160, 120), 1, landmarks))[0]
    assert mask.shape == (120, 100)
    assert mask[60, 50] == 255 and max(mask[0, 0], mask[0, -1], mask[-1, 0], mask[-1, -1]) == 0
    # area of an ellipse of 92 % of the box
    assert np.isclose(mask.mean() / 255, np.pi / 4 * 0.92**2, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pixels_without_mask_keep_their_bits(dtype):
    size, box = (80, 90), np.float32([20, 10, 60, 70])
    frame = torch.from_numpy(noise(*size)) if dtype == torch.uint8 else torch.randn(*size, 3).to(dtype)
    mask = np.zeros((60, 40), np.uint8)
    mask[30:, 10:30] = np.random.default_rng(0).integers(1, 256, (30, 20))
    before = frame.clone()
    result = composite(frame, torch.rand(256, 256, 3), box, mask)
    assert result.dtype == dtype and torch.equal(frame, before)
    changed = torch.zeros(size, dtype=torch.bool)
    changed[40:70, 30:50] = True
    assert torch.equal(result[~changed], before[~changed])
    assert not torch.equal(result[changed], before[changed])


def test_nan_pixels_do_not_spread(net):
    frame = torch.rand(100, 100, 3, generator=torch.Generator().manual_seed(0))
    frame[50:60, 50:60] = torch.nan
    frame[0, 0] = torch.inf
    track = track_of((20, 20, 80, 90), (100, 100))
    zeroed = torch.nan_to_num(frame, nan=0.0, posinf=1.0)
    masker = Masker(FaceParser(net), MaskSettings())
    assert np.array_equal(masker.masks([frame], track)[0], masker.masks([zeroed], track)[0])

    mask = np.zeros((70, 60), np.uint8)
    mask[35:] = 128
    result = composite(frame, torch.full((256, 256, 3), 0.5), track.boxes[0], mask)
    expected = composite(zeroed, torch.full((256, 256, 3), 0.5), track.boxes[0], mask)
    assert torch.equal(result[55:90, 20:80], expected[55:90, 20:80])  # NaN counts as black under the mask
    assert torch.isnan(result[50:55, 50:60]).all() and torch.isinf(result[0, 0]).all()  # elsewhere it stays
    assert torch.isnan(result).sum() == 5 * 10 * 3


def test_nan_in_the_generated_face_is_black():
    result = composite(torch.ones(8, 8, 3), torch.full((256, 256, 3), torch.nan), np.float32([0, 0, 8, 8]), SOLID)
    assert torch.equal(result, torch.zeros(8, 8, 3))


SOLID = np.full((8, 8), 255, np.uint8)


def test_full_weight_gives_the_face_and_half_weight_the_middle():
    frame, face = torch.full((8, 8, 3), 0.25), torch.full((256, 256, 3), 0.6)
    box = np.float32([0, 0, 8, 8])
    # 0.6 * 255 = 153 exactly
    assert torch.allclose(composite(frame, face, box, SOLID), torch.tensor(153 / 255), atol=1e-7)
    half = composite(frame, face, box, np.full((8, 8), 51, np.uint8))  # 51 / 255 = 0.2
    assert torch.allclose(half, torch.tensor(0.25 * 0.8 + 0.6 * 0.2), atol=1e-6)


def test_one_pixel_and_8k_frames():
    one = torch.full((1, 1, 3), 7, dtype=torch.uint8)
    mask = Masker(None, MaskSettings()).masks([one], track_of((0, 0, 1, 1), (1, 1)))[0]
    assert mask.shape == (1, 1) and mask[0, 0] == 0  # a square without pixels: nothing is replaced
    face = torch.full((256, 256, 3), 200, dtype=torch.uint8)
    assert torch.equal(composite(one, face, np.float32([0, 0, 1, 1]), mask), one)

    big = torch.zeros(4320, 7680, 3, dtype=torch.uint8)
    box = np.float32([7000, 3900, 7300, 4300])
    mask = Masker(None, MaskSettings()).masks([big], track_of(box, (4320, 7680)))[0]
    result = composite(big, face, box, mask)
    assert result[4150, 7150, 0] == 200
    result[3900:4300, 7000:7300] = 0
    assert torch.equal(result, big)


def test_a_box_that_leaves_the_frame_is_cut():
    frame, face = noise(40, 40, 1), noise(256, 256, 2)
    box = (20, 10, 60, 50)
    mask = np.full((40, 40), 255, np.uint8)
    result = composite(torch.from_numpy(frame), torch.from_numpy(face), np.float32(box), mask).numpy()
    expected = frame.copy()
    expected[10:, 20:] = cv2.resize(face, (40, 40))[:30, :20]
    assert np.array_equal(result, expected)
    outside = composite(torch.from_numpy(frame), torch.from_numpy(face), np.float32([50, 0, 90, 40]), mask)
    assert np.array_equal(outside.numpy(), frame)


def test_wrong_lengths_and_sizes_are_refused_in_one_sentence():
    with pytest.raises(MuseTalkError, match="2 frames .* track of 1"):
        Masker(None, MaskSettings()).masks([torch.zeros(4, 4, 3)] * 2, track_of((0, 0, 4, 4), (4, 4)))
    with pytest.raises(MuseTalkError, match=r"\(8, 8\)"):
        composite(torch.zeros(9, 9, 3), torch.zeros(256, 256, 3), np.float32([0, 0, 9, 9]), SOLID)
