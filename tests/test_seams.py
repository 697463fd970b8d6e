"""What hides the border of the mask: shapes, feather, colour match, a user's mask, things in front of the face."""

from fractions import Fraction

import cv2
import numpy as np
import pytest
import torch
from bisenet_reference import random_bisenet
from clips import moving_portrait, portrait, tone
from skimage.color import lab2rgb, rgb2lab

from musetalk_core.audio_features import extract_features
from musetalk_core.blending import Masker, composite, feathered
from musetalk_core.colour_match import border_ring, match_colours
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.evaluation.image import seam_energy
from musetalk_core.face_parsing import FaceParser, front_mask
from musetalk_core.faces.track import FaceTrack
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.settings import LipSyncSettings, MaskSettings
from musetalk_core.weights.folders import ModelFolders

FPS = Fraction(25)
BOX = np.float32([20, 20, 120, 140])
SIZE = (160, 140)


def track_of(landmarks=None, box=BOX, size=SIZE):
    return FaceTrack(box[None], landmarks, np.array([True]), size)


def jaw_landmarks():
    """A jaw along a half ellipse around (70, 60), the bridge of the nose above its centre."""
    angle = np.linspace(np.pi, 0, 17)
    points = np.full((68, 2), 70, np.float32)
    points[:17] = np.stack([70 + 45 * np.cos(angle), 60 + 70 * np.sin(angle)], 1)
    points[27:31] = [[70, 40], [70, 48], [70, 56], [70, 62]]
    return points


def shaped(shape, parser=None, **values):
    settings = MaskSettings(mask_shape=shape, blur=0.0, upper_boundary_ratio=0.0, **values)
    frame = torch.from_numpy(cv2.resize(portrait(160), SIZE[::-1]))
    return Masker(parser, settings).masks([frame], track_of(jaw_landmarks()[None]))[0]


def test_the_landmarks_draw_the_mask_even_where_a_parser_is():
    parser = FaceParser(random_bisenet())
    drawn = shaped("landmarks", parser)
    assert np.array_equal(drawn, shaped("landmarks"))
    assert not np.array_equal(drawn, shaped("parsing", parser))
    # The half ellipse and the triangle above it, shrunk by 4 % in both directions.
    area = (np.pi * 45 * 70 / 2 + 45 * 20) * 0.96**2
    assert (drawn > 0).sum() == pytest.approx(area, rel=0.03)


def test_the_ellipse_fills_the_box_whatever_else_is_known():
    mask = shaped("ellipse", FaceParser(random_bisenet()))
    assert (mask > 0).sum() == pytest.approx(np.pi / 4 * 100 * 120 * 0.92**2, rel=0.01)


def test_a_feather_fades_inwards_by_the_smooth_step():
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 20:60] = 200
    soft = feathered(mask, 10)
    assert (soft[mask == 0] == 0).all(), "never outwards"
    # On the middle row the distance to the nearest zero is 1, 2, 3 ... from the edge in.
    t = np.arange(1, 11) / 10
    assert soft[30, 20:30].tolist() == np.round(200 * (3 * t**2 - 2 * t**3)).astype(int).tolist()
    assert (soft[20:40, 30:50] == 200).all(), "10 pixels in it is the mask"


def test_a_feather_also_hides_where_the_box_cuts_the_mask():
    soft = feathered(np.full((40, 40), 255, np.uint8), 8)
    assert soft[:, [0, -1]].max() < 20 and soft[[0, -1]].max() < 20 and soft[20, 20] == 255


def test_no_feather_is_the_mask_itself():
    mask = np.random.default_rng(0).integers(0, 256, (9, 9), dtype=np.uint8)
    assert feathered(mask, 0) is mask
    assert not feathered(np.zeros((9, 9), np.uint8), 5).any()


def cheek(seed=0):
    """A smooth skin-like picture (120,100,3) uint8 that varies by a few grey levels."""
    rough = np.random.default_rng(seed).normal(0, 1, (120, 100, 1))
    smooth = cv2.GaussianBlur(rough, (0, 0), 6)[..., None]
    return np.round(np.array([190.0, 150.0, 130.0]) + smooth / smooth.std() * 8).clip(0, 255).astype(np.uint8)


def round_mask():
    y, x = np.mgrid[0:120, 0:100]
    return (((x - 50) ** 2 + (y - 60) ** 2) <= 35**2).astype(np.uint8) * 255


def lit(picture, lightness, contrast=1.0):
    """The picture with another lightness and contrast in L*a*b*, by scikit-image."""
    lab = rgb2lab(picture)
    lab[..., 0] = (lab[..., 0] - lab[..., 0].mean()) * contrast + lab[..., 0].mean() + lightness
    return np.round(lab2rgb(lab).clip(0, 1) * 255).astype(np.uint8)


def test_a_face_in_another_light_takes_the_light_of_the_ring():
    source = cheek()
    face = lit(source, -9, 0.9)
    matched = match_colours(face, source, round_mask(), 1.0)
    assert np.abs(face.astype(int) - source).mean() > 15
    assert np.abs(matched.astype(int) - source).mean() < 1
    half = rgb2lab(match_colours(face, source, round_mask(), 0.5)).mean((0, 1))
    assert np.allclose(half, (rgb2lab(face).mean((0, 1)) + rgb2lab(source).mean((0, 1))) / 2, atol=0.3)


def test_the_mouth_inside_does_not_change_what_the_ring_says():
    source, mask = cheek(), round_mask()
    face = lit(source, -9)
    speaking = face.copy()
    speaking[50:80, 35:65] = (60, 10, 20)  # an open mouth, away from the ring
    speaking[90:96, 45:60] = (90, 20, 30)  # and a lip that reaches into it
    assert border_ring(mask)[90:96, 45:60].any() and not border_ring(mask)[50:80, 35:65].any()
    plain, moved = (match_colours(one, source, mask, 1.0).astype(int) for one in (face, speaking))
    skin = (speaking == face).all(-1)
    assert np.abs(plain[skin] - moved[skin]).max() <= 1


def test_no_colour_match_and_no_border_leave_the_face_as_it_is():
    source = cheek()
    face = lit(source, -9)
    assert match_colours(face, source, round_mask(), 0.0) is face
    assert match_colours(face, source, np.zeros((120, 100), np.uint8), 1.0) is face


def test_the_seam_of_a_darker_face_by_hand_and_gone_with_colour_match():
    """Flat grey 150, a face of flat grey 110, a hard mask: the border differs by 40, matched by nothing."""
    frame = torch.full((*SIZE, 3), 150, dtype=torch.uint8)
    face = torch.full((256, 256, 3), 110, dtype=torch.uint8)
    mask = round_mask()
    full = np.zeros(SIZE, np.uint8)
    full[20:140, 20:120] = mask
    hard = composite(frame, face, BOX, mask).numpy()
    assert seam_energy(hard, full) == pytest.approx(40)
    matched = composite(frame, face, BOX, mask, 1.0).numpy()
    assert seam_energy(matched, full) == 0
    assert (matched[mask_rows()] == 150).all()


def mask_rows():
    return slice(20, 140), slice(20, 120)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pixels_without_mask_keep_their_bits_with_colour_match_too(dtype):
    noise = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8))
    frame = noise if dtype == torch.uint8 else noise.float() / 255
    before, mask = frame.clone(), round_mask()
    result = composite(frame, torch.rand(256, 256, 3), BOX, mask, 1.0)
    outside = torch.ones(SIZE, dtype=torch.bool)
    outside[mask_rows()] = torch.from_numpy(mask == 0)
    assert torch.equal(frame, before) and torch.equal(result[outside], before[outside])


def test_colour_match_of_a_box_that_leaves_the_frame():
    frame = torch.full((60, 60, 3), 150, dtype=torch.uint8)
    face = torch.full((256, 256, 3), 110, dtype=torch.uint8)
    result = composite(frame, face, np.float32([-10, 5, 90, 125]), round_mask(), 1.0)
    assert result.shape == frame.shape and (result == 150).all()


def face_labels():
    """Skin with a neck below, (512,512) classes."""
    labels = np.zeros((512, 512), np.uint8)
    cv2.rectangle(labels, (180, 330), (330, 511), 14, -1)
    cv2.ellipse(labels, (256, 240), (140, 190), 0, 0, 360, 1, -1)
    cv2.ellipse(labels, (256, 350), (60, 22), 0, 0, 360, 12, -1)
    return labels


WHOLE = np.full((512, 512), 255, np.uint8)
NOTHING = np.zeros((512, 512), np.uint8)


def test_nothing_is_in_front_of_a_bare_face():
    assert not front_mask(face_labels(), NOTHING).any()


@pytest.mark.parametrize("thing", [0, 16, 17], ids=["background", "cloth", "hair"])
def test_a_microphone_before_the_mouth_is_in_front(thing):
    labels = face_labels()
    cv2.circle(labels, (256, 360), 40, thing, -1)
    cv2.rectangle(labels, (246, 360), (266, 511), thing, -1)
    front = front_mask(labels, NOTHING)
    disc = cv2.circle(NOTHING.copy(), (256, 360), 38, 255, -1) > 0
    assert front[disc].all() and not front[:300].any()
    assert front[420, 256] and not front[360, 150]


def test_what_a_drawn_shape_would_cover_beside_the_face_stays():
    front = front_mask(face_labels(), WHOLE)
    assert front[480, 60] and not front[480, 256], "the background, and not the neck"


class PaintedClasses(torch.nn.Module):
    """A parsing network for painted pictures: the class of a pixel is its red value / 12."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(255 / 12))

    def forward(self, pixels):
        red = (pixels[:, :1] * 0.229 + 0.485) * self.scale  # the normalisation of ImageNet taken back
        return -(red - torch.arange(19).view(1, 19, 1, 1)).abs()


@pytest.mark.parametrize("shape", ["parsing", "landmarks", "ellipse"])
def test_a_microphone_keeps_its_pixels_and_far_from_it_the_mask_is_the_same(shape):
    """The parsed square is the frame, so that the painted classes are found to the pixel."""
    labels = face_labels()
    cv2.circle(labels, (200, 330), 30, 16, -1)
    frame = torch.from_numpy(np.repeat(labels[..., None] * 12, 3, 2))
    points = jaw_landmarks()[None] * 3 + np.float32([46, 60])
    track = track_of(points, np.float32([116, 128, 396, 384]), (512, 512))
    parser = FaceParser(PaintedClasses())
    plain, kept = (
        Masker(parser, MaskSettings(mask_shape=shape, occlusion=value, expand=256 / 140)).masks([frame], track)[0]
        for value in (False, True)
    )
    rows, columns = np.mgrid[128:384, 116:396]
    distance = np.hypot(columns - 200, rows - 330)
    assert plain[distance < 30].any() and not kept[distance < 29].any()
    assert (kept <= plain).all()
    inside = cv2.ellipse(np.zeros((512, 512), np.uint8), (256, 240), (115, 160), 0, 0, 360, 1, -1)[128:384, 116:396] > 0
    far = inside & (distance > 60)
    assert plain[far].any() and np.array_equal(kept[far], plain[far])


def own_mask(count=1):
    mask = torch.zeros(count, *SIZE)
    mask[:, :, :70] = 1.0
    mask[:, 60:80, :70] = 0.5
    return mask


def test_a_users_mask_is_multiplied_with_ours():
    frames, track = [torch.zeros(*SIZE, 3)], track_of(jaw_landmarks()[None])
    masker = Masker(None, MaskSettings())
    plain, mine = masker.masks(frames, track)[0], masker.masks(frames, track, own_mask())[0]
    assert (mine[:, 50:] == 0).all() and plain[:, 50:].any()
    assert np.array_equal(mine[60:, :50], plain[60:, :50])
    assert np.abs(mine[40:60, :50] - plain[40:60, :50] * (128 / 255)).max() <= 0.5


def test_a_users_mask_may_be_one_for_all_or_one_for_each_frame():
    track = FaceTrack(np.repeat(BOX[None], 2, 0), None, np.array([True, True]), SIZE)
    frames = torch.zeros(2, *SIZE, 3)
    masker = Masker(None, MaskSettings())
    same = masker.masks(frames, track, own_mask())
    assert np.array_equal(same[0], same[1])
    each = own_mask(2)
    each[1] = 1
    first, second = masker.masks(frames, track, each)
    assert np.array_equal(first, same[0]) and np.array_equal(second, masker.masks(frames, track)[1])


@pytest.mark.parametrize(
    ("shape", "words"), [((3, *SIZE), "shape .3, 160, 140. for 1 frames"), ((1, 64, 64), "64x64 .* 140x160")]
)
def test_a_users_mask_that_does_not_fit_is_one_sentence(shape, words):
    with pytest.raises(MuseTalkError, match=words):
        Masker(None, MaskSettings()).masks([torch.zeros(*SIZE, 3)], track_of(), torch.ones(shape))


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


def run(engine, frames, settings, **kwargs):
    samples = tone(0.4)
    tokens = extract_features(engine.audio_encoder, samples, Fraction(len(samples), 16000), FPS)
    return list(lip_sync(TensorFrames(frames, FPS), tokens, 10, engine.models(settings), settings, **kwargs))


def test_the_pipeline_hands_every_setting_and_the_users_mask_on(engine):
    frames = torch.from_numpy(moving_portrait(6))
    plain = run(engine, frames, LipSyncSettings(batch_size=4))
    left = torch.ones(6, 256, 256)
    left[2] = 0  # of source frame 2, which is shown as output frame 2 and, backwards, as 9
    masked = run(engine, frames, LipSyncSettings(batch_size=4), own_mask=left)
    for k, (a, b) in enumerate(zip(plain, masked, strict=True)):
        assert torch.equal(b, frames[2] if k in (2, 9) else a)
    for values in ({"colour_match": 1.0}, {"feather": 9}, {"mask_shape": "ellipse"}):
        other = run(engine, frames, LipSyncSettings(batch_size=4).changed("test", values))
        assert not torch.equal(other[0], plain[0]) and not torch.equal(other[0], frames[0])


def test_the_trained_model_leaves_no_seam(engine):
    """At most 2 grey levels more across the border of the landmark mask than the source has (issue 5)."""
    frames = torch.from_numpy(moving_portrait(5))
    dim = (frames.float() * torch.tensor([0.85, 0.62, 0.42])).round().to(torch.uint8)
    settings = LipSyncSettings().changed("test", {"mask_shape": "landmarks", "colour_match": 1.0})
    models = engine.models(settings)
    for source in (frames, dim):
        output = run(engine, source, settings)
        track = models.locator.locate(source)
        masks = models.masker.masks(source, track)
        for k in range(5):
            full = np.zeros((256, 256), np.uint8)
            x1, y1, x2, y2 = track.boxes[k].astype(int)
            full[y1:y2, x1:x2] = masks[k]
            assert seam_energy(output[k].numpy(), full) <= seam_energy(source[k].numpy(), full) + 2
