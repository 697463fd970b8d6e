"""Upright crops of heads that lean: against formulas by hand, OpenCV's own turned rectangles, and turned portraits."""

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from clips import portrait
from test_nodes_schema import probe

from musetalk_core.audio_features import extract_features
from musetalk_core.blending import Masker, composite
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.detector import FaceDetector
from musetalk_core.faces.drawing import draw_track
from musetalk_core.faces.geometry import crop_face, crop_square, fit_face, placed_box
from musetalk_core.faces.locator import FaceLocator
from musetalk_core.faces.track import FaceTrack
from musetalk_core.faces.track_file import load_track, save_track
from musetalk_core.faces.upright import corners_in_frame, laid_back, roll, upright_points
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.preview import find_moment, make_take
from musetalk_core.preview_sheet import preview_sheet
from musetalk_core.restoration import SIZE, face_alignments, frame_alignments
from musetalk_core.settings import FaceSettings, LipSyncSettings, MaskSettings
from musetalk_core.weights.folders import ModelFolders

SIDE = 320
UPRIGHT = FaceSettings(upright=True)
FACE = (143 / 300, 122 / 300)  # about the middle of the portrait's face, as a share of its side


def leaning(degrees: float, size: tuple[int, int] = (SIDE, SIDE), middle: tuple[float, float] | None = None) -> Any:
    """The portrait of 300 pixels turned clockwise about its face, which is at `middle` of the frame, and its matrix."""
    x, y = middle or (size[1] / 2, size[0] / 2)
    matrix = cv2.getRotationMatrix2D((FACE[0] * 300, FACE[1] * 300), -degrees, 1)  # OpenCV's is counter-clockwise
    matrix[:, 2] += (x - FACE[0] * 300, y - FACE[1] * 300)
    flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
    return cv2.warpAffine(portrait(300), matrix, size[::-1], flags=flags, borderMode=border), matrix


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return FaceDetector(FaceDetector.load_nets())


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


def locate(detector, picture: np.ndarray, **options: Any) -> FaceTrack:
    locator = FaceLocator(detector, options=FaceSettings(upright=True, **options))
    track = locator.locate(torch.from_numpy(picture)[None])
    assert track.present.all()
    return track


def face_points() -> np.ndarray:
    """68 points of an upright face: eyes 60 apart at y 100, corners of the mouth at y 165, chin at y 200."""
    points = np.tile([100.0, 130.0], (68, 1))
    points[36:42] = np.array([70, 100]) + [[-9, 0], [-4, -4], [4, -4], [9, 0], [4, 4], [-4, 4]]
    points[42:48] = points[36:42] + [60, 0]
    points[[48, 54]] = [[78, 165], [122, 165]]
    points[29], points[8], points[0], points[16] = [100, 125], [100, 200], [40, 110], [160, 110]
    return points


def turn(points: np.ndarray, degrees: float, about: tuple[float, float]) -> np.ndarray:
    """Clockwise on screen, by complex numbers: x + iy with y downwards."""
    places = points[:, 0] + 1j * points[:, 1] - complex(*about)
    places = places * np.exp(1j * np.deg2rad(degrees)) + complex(*about)
    return np.stack([places.real, places.imag], 1)


@pytest.mark.parametrize("degrees", [-170, -90, -40, -1, 0, 25, 40, 120])
def test_the_roll_of_points_is_the_angle_they_were_turned_by(degrees):
    assert np.rad2deg(roll(turn(face_points(), degrees, (50, 300)))) == pytest.approx(degrees, abs=1e-6)


def test_the_roll_of_a_profile_does_not_flip_and_that_of_unknown_points_is_none():
    points = face_points()
    points[42:48] -= [62, 2]  # the far eye, hidden, is guessed beyond the near one
    assert abs(np.rad2deg(roll(points))) < 30  # the line between the eyes alone says 135
    assert roll(np.zeros((68, 2))) == 0 and roll(np.full((68, 2), np.nan)) == 0


def test_the_detectors_roll_is_the_angle_of_the_picture(detector):
    own = locate(detector, leaning(0)[0]).angles[0]
    for degrees in (-40, -25, -10, 10, 25, 40):
        angle = locate(detector, leaning(degrees)[0]).angles[0]
        assert np.rad2deg(angle - own) == pytest.approx(degrees, abs=1.5)


def test_the_box_of_a_turned_face_is_the_box_of_the_face_turned_about_its_centre():
    points, size = face_points().astype(np.float32), (400, 400)
    nothing = np.full(4, np.nan)
    box, angle = placed_box(points, nothing, size, 0, 10, upright=True)
    assert angle == 0 and box.tolist() == [40, 50, 160, 210]
    for degrees in (-30, 17):
        other, angle = placed_box(turn(points, degrees, (200, 150)), nothing, size, 0, 10, upright=True)
        assert np.rad2deg(angle) == pytest.approx(degrees, abs=1e-4)
        centre = turn(np.array([[100.0, 130.0]]), degrees, (200, 150))[0]
        np.testing.assert_allclose(other, [*(centre - [60, 80]), *(centre + [60, 80])], atol=1e-3)
        corners = cv2.boxPoints((tuple(centre), (120, 160), degrees))  # OpenCV: degrees clockwise on screen
        mine = corners_in_frame(other, other, angle)
        assert np.abs(mine[:, None] - corners).max(-1).min(1).max() < 1e-2
        seen = upright_points(turn(points, degrees, (200, 150)), other, angle)
        np.testing.assert_allclose(seen - other[:2], points - box[:2], atol=1e-3)


def test_every_pixel_of_a_crop_shows_the_place_that_the_formula_says():
    """A picture whose channels are its coordinates, seen through a box of half a pixel a crop pixel, turned."""
    y, x = np.mgrid[0:250, 0:250].astype(np.float32)
    frame = torch.from_numpy(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    box, degrees = np.float32([60.3, 70.6, 188.3, 198.6]), 20
    crop = crop_face(frame, box, np.deg2rad(degrees)).numpy().astype(float)
    rows, columns = np.mgrid[0:256, 0:256]
    places = np.stack([60.3 + (columns.ravel() + 0.5) / 2, 70.6 + (rows.ravel() + 0.5) / 2], 1)
    expected = turn(places, degrees, (124.3, 134.6)) - 0.5
    assert np.abs(crop[..., :2].reshape(-1, 2) - expected).max() < 0.6  # rounding to grey levels, 1/32 pixel steps


@pytest.mark.parametrize("degrees", [-35, 20])
def test_the_crop_of_a_turned_picture_is_the_crop_of_the_picture(detector, degrees):
    still, _ = leaning(0)
    upright = locate(detector, still)
    tilted, matrix = leaning(degrees)
    crops = [
        crop_face(torch.from_numpy(picture), track.boxes[0], float(track.angles[0])).numpy().astype(int)
        for picture, track in ((still, upright), (tilted, locate(detector, tilted)))
    ]
    plain = FaceLocator(detector).locate(torch.from_numpy(tilted)[None])
    without = crop_face(torch.from_numpy(tilted), plain.boxes[0]).numpy().astype(int)
    difference = np.abs(crops[0] - crops[1]).mean()
    assert difference < 15 and difference < np.abs(crops[0] - without).mean() / 3
    # Where the face truly is, without what the landmarks tremble.
    _, straight = leaning(0)
    middle = upright.boxes[0].reshape(2, 2).mean(0)
    moved = matrix @ [*(cv2.invertAffineTransform(straight) @ [*(middle - 0.5), 1]), 1] + 0.5 - middle
    box, angle = upright.boxes[0] + np.tile(moved, 2), float(upright.angles[0]) + np.deg2rad(degrees)
    exact = crop_face(torch.from_numpy(tilted), box.astype(np.float32), angle).numpy()
    assert np.abs(crops[0] - exact).mean() < 3


@pytest.mark.parametrize("as_float", [False, True])
def test_the_same_face_put_back_changes_next_to_nothing_and_nothing_outside_the_box(detector, as_float):
    picture, _ = leaning(28)
    track = locate(detector, picture)
    box, angle = track.boxes[0], float(track.angles[0])
    frame = torch.from_numpy(picture).float() / 255 if as_float else torch.from_numpy(picture)
    before = frame.clone()
    x1, y1, x2, y2 = box.astype(int)
    whole = np.full((y2 - y1, x2 - x1), 255, np.uint8)
    result = composite(frame, fit_face(crop_face(frame, box, angle), box), box, whole, 0.0, angle)
    assert torch.equal(frame, before) and result.dtype == frame.dtype
    difference = np.abs(result.numpy().astype(float) - frame.numpy()) * (255 if as_float else 1)
    inside = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, corners_in_frame(box, box, angle).round().astype(np.int32), 1)
    assert (difference[cv2.dilate(inside, np.ones((5, 5), np.uint8)) == 0] == 0).all()
    assert difference[inside == 1].mean() < 3 and (difference.max(-1)[inside == 1] > 0).mean() > 0.3


def test_pixels_where_the_mask_is_0_keep_their_bits(detector):
    picture, _ = leaning(-33)
    track = locate(detector, picture)
    frame = torch.from_numpy(picture).float() / 255
    frame[0, 0] = torch.nan
    (mask,) = Masker(None, MaskSettings(mask_shape="landmarks")).masks([frame], track)
    box, angle = track.boxes[0], float(track.angles[0])
    result = composite(frame, torch.zeros(256, 256, 3), box, mask, 0.0, angle)
    weights, (x1, y1, x2, y2) = laid_back(mask, box, angle)
    kept = np.ones((SIDE, SIDE), bool)
    kept[y1:y2, x1:x2] = weights == 0
    assert np.array_equal(result.numpy()[kept], frame.numpy()[kept], equal_nan=True)
    assert (result.numpy()[~kept] < frame.numpy()[~kept]).any(-1).mean() > 0.9
    # The mask lies over the turned landmarks of mouth and chin, and not over the eyes.
    lips, eyes = track.landmarks[0, 48:68].astype(int), track.landmarks[0, 36:48].astype(int)
    assert (result[lips[:, 1], lips[:, 0]].sum(-1) < 0.1).all()
    assert torch.equal(result[eyes[:, 1], eyes[:, 0]], frame[eyes[:, 1], eyes[:, 0]])


@pytest.mark.parametrize("shape", ["landmarks", "ellipse"])
def test_the_mask_of_a_turned_face_is_the_mask_of_the_face(shape):
    points, size = face_points().astype(np.float32), (400, 400)
    masks = []
    for degrees in (0, 30):
        turned = turn(points, degrees, (150, 150)).astype(np.float32)
        box, angle = placed_box(turned, np.full(4, np.nan), size, upright=True)
        one = np.array([True])
        track = FaceTrack(box[None], turned[None], one, size, angles=np.array([angle], np.float32))
        masks += Masker(None, MaskSettings(mask_shape=shape)).masks(torch.zeros(1, *size, 3), track)
    height, width = (min(mask.shape[k] for mask in masks) for k in (0, 1))
    difference = np.abs(masks[0][:height, :width].astype(int) - masks[1][:height, :width])
    assert masks[0].max() > 200 and difference.mean() < 4  # the whole-pixel grid may lie a pixel off


def test_what_is_parsed_is_the_upright_square():
    """A parser that keeps what it is shown: the square of the turned picture shows what the still one's does."""
    shown = []

    class Parser:
        def labels(self, regions):
            shown.extend(regions)
            return [np.ones((512, 512), np.uint8)]

    boxes, one = np.float32([[150.5, 135.5, 250.5, 265.5]]), np.array([True])  # the pixel 200, 200 is its middle
    for degrees in (0, 30):
        picture, _ = leaning(degrees, (400, 400))
        track = FaceTrack(boxes, None, one, (400, 400), angles=np.float32([np.deg2rad(degrees)]))
        Masker(Parser(), MaskSettings()).masks([torch.from_numpy(picture)], track)
    assert crop_square(boxes[0]) == (103, 103, 297, 297) and shown[0].shape == shown[1].shape == (194, 194, 3)
    assert np.abs(shown[0].astype(int) - shown[1]).mean() < 3 < np.abs(shown[0].astype(int) - shown[1][::-1]).mean()


def test_small_angles_are_continuous(detector):
    picture = torch.from_numpy(leaning(0)[0])
    box = locate(detector, leaning(0)[0]).boxes[0]
    mask = np.full([int(box[3]) - int(box[1]), int(box[2]) - int(box[0])], 255, np.uint8)
    face = torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(0))
    face = torch.nn.functional.avg_pool2d(face.movedim(-1, 0), 9, 1, 4).movedim(0, -1)

    def made(angle: float) -> np.ndarray:
        crop = crop_face(picture, box, angle).numpy().astype(int)
        return np.concatenate([crop.ravel(), composite(picture, face, box, mask, 0.0, angle).numpy().ravel()])

    steps = [np.abs(made(angle).astype(int) - made(0.0)).mean() for angle in (1e-5, 1e-3, 1e-2)]
    assert steps[0] < 0.1 and steps[0] < steps[1] < 0.5 and steps[2] < 4


@pytest.mark.parametrize("middle", [(25, 160), (292, 285), (160, 300)])
def test_a_leaning_face_at_the_border_is_made_up_outside_and_pasted_inside(engine, middle):
    picture, _ = leaning(25, middle=middle)
    settings = LipSyncSettings().changed("test", {"upright": True, "colour_match": 1.0, "mask_shape": "ellipse"})
    frame = torch.from_numpy(picture)
    track = engine.models(settings).locator.locate(frame[None])
    assert track.present[0]
    box, angle = track.boxes[0], float(track.angles[0])
    (mask,) = Masker(None, settings.mask).masks([frame], track, own=torch.ones(1, SIDE, SIDE))
    result = composite(frame, torch.zeros(256, 256, 3), box, mask, 1.0, angle)
    assert result.shape == frame.shape and not torch.equal(result, frame)
    assert crop_face(frame, box, angle).shape == (256, 256, 3)


def test_a_box_outside_the_frame_changes_nothing():
    frame, box = torch.zeros(50, 50, 3, dtype=torch.uint8), np.float32([200.5, 200.5, 240.5, 240.5])
    mask = np.full((40, 40), 255, np.uint8)
    for angle in (0.0, 0.4):
        for place in (box, box - 400):
            assert torch.equal(composite(frame, torch.ones(256, 256, 3), place, mask, 1.0, angle), frame)


def test_track_files_keep_the_angles_and_old_ones_have_none(tmp_path, detector):
    track = locate(detector, leaning(30)[0])
    path = tmp_path / "track.json"
    save_track(path, track)
    assert load_track(path).angles.tolist() == track.angles.tolist() and track.angles[0] > 0.4
    old = {key: value for key, value in json.loads(path.read_text()).items() if key != "angles"}
    path.write_text(json.dumps(old))
    assert load_track(path).angles.tolist() == [0.0] and load_track(path).angles.dtype == np.float32
    both = FaceTrack.join([track, load_track(path)])
    assert both.angles.tolist() == [track.angles[0], 0] and both.select([1, 0]).angles[1] == track.angles[0]
    with pytest.raises(MuseTalkError, match="2 angles"):
        replace(track, angles=np.zeros(2))


def test_faces_are_aligned_for_a_restorer_as_their_frames_are(detector):
    """The crop seen through its alignment is the frame seen through its own."""
    picture, _ = leaning(30)
    track = locate(detector, picture)
    crop = crop_face(torch.from_numpy(picture), track.boxes[0], float(track.angles[0])).numpy()
    views = [
        cv2.warpAffine(pixels, alignments[0], (SIZE, SIZE), flags=cv2.INTER_CUBIC)[200:420, 150:360].astype(int)
        for pixels, alignments in ((picture, frame_alignments(track)), (crop, face_alignments(track, 256)))
    ]
    assert np.abs(views[0] - views[1]).mean() < 2


def test_smoothing_calms_the_angle_too(detector):
    random = np.random.default_rng(0)
    frames = [leaning(10)[0] + random.normal(0, 6, (SIDE, SIDE, 1)) for _ in range(12)]
    clip = torch.from_numpy(np.stack(frames).clip(0, 255).astype(np.uint8))
    tracks = []
    for smoothing in (0.0, 2.0):
        locator = FaceLocator(detector, options=FaceSettings(upright=True, smoothing=smoothing))
        raw = locator.locate(clip, live=False)
        before = raw.angles.copy()
        tracks.append(locator.smoothed(raw))
        assert raw.angles.tolist() == before.tolist()
    assert np.diff(tracks[1].angles, 2).std() < 0.3 * np.diff(tracks[0].angles, 2).std()


def sound(frames: int) -> np.ndarray:
    """Noise that grows loud."""
    noise = np.random.default_rng(1).normal(0, 0.2, frames * 640)
    return (noise * np.linspace(0.2, 1, frames * 640)).astype(np.float32)


def heard(engine, frames: int):
    return extract_features(engine.audio_encoder, sound(frames), Fraction(frames, 25), Fraction(25), 2, 2, "overlap")


def spoken(engine, pictures: list[np.ndarray], **options: Any) -> np.ndarray:
    settings = LipSyncSettings().changed("test", {"mask_shape": "landmarks", **options})
    tokens = heard(engine, len(pictures))
    source = TensorFrames(torch.from_numpy(np.stack(pictures)), Fraction(25))
    made = lip_sync(source, tokens, tokens.frames, engine.models(settings), settings)
    return np.stack([frame.numpy() for frame in made])


def test_the_mouth_of_a_leaning_head_is_that_of_the_upright_one_only_with_upright(engine):
    """Peak signal to noise ratio around the mouth against the unturned portrait's, each turned back."""
    x, y = 143, 147  # the mouth's middle in the portrait of 300 pixels
    mouth = (slice(y - 25, y + 35), slice(x - 35, x + 35))

    def talking(degrees: float, **options: Any) -> np.ndarray:
        picture, matrix = leaning(degrees)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        frames = spoken(engine, [picture] * 4, **options)
        return np.stack([cv2.warpAffine(frame, matrix, (300, 300), flags=flags)[mouth] for frame in frames]).astype(int)

    for degrees in (-30, 20):
        ratios = []
        for upright in (False, True):
            error = talking(degrees, upright=upright) - talking(0, upright=upright)
            ratios.append(10 * np.log10(255**2 / (error**2).mean()))
        assert ratios[1] > 34 and ratios[1] > ratios[0] + 6


def test_heads_that_lean_differently_are_made_in_one_batch(engine):
    pictures = [leaning(degrees)[0] for degrees in (-30, 0, 30)]
    together = spoken(engine, pictures, upright=True)
    alone = [spoken(engine, [picture] * 3, upright=True)[k] for k, picture in enumerate(pictures)]
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert all((frame != picture).any() for frame, picture in zip(together, pictures, strict=True))


def test_the_previewed_frame_is_that_of_the_result(engine):
    settings = LipSyncSettings().changed("test", {"mask_shape": "landmarks", "upright": True, "batch_size": 1})
    picture, _ = leaning(30)
    source, tokens = TensorFrames(torch.from_numpy(picture)[None], Fraction(25)), heard(engine, 2)
    moment = find_moment(source, tokens, 0.04, engine.models(settings), settings)
    take = make_take(moment, 0, engine.models(settings), settings)
    result = list(lip_sync(source, tokens, 2, engine.models(settings), settings))[1]
    assert torch.equal(take.picture, result) and np.rad2deg(take.angle) == pytest.approx(32, abs=3)
    assert preview_sheet(moment, take).shape[2] == 3
    straight = find_moment(source, tokens, 0.04, engine.models(settings), replace(settings, faces=FaceSettings()))
    assert straight.shift_range[1] < moment.shift_range[1]  # a leaning nose is not as high as it is long


def test_the_drawn_box_leans_with_the_head(detector):
    picture, _ = leaning(30)
    track = locate(detector, picture)
    drawn = (draw_track(torch.from_numpy(picture), track, 0).numpy() * 255).round().astype(int)
    line = (np.abs(drawn - picture).sum(-1) > 60).astype(np.uint8)
    corners = corners_in_frame(track.boxes[0], track.boxes[0], float(track.angles[0]))
    near = cv2.dilate(line, np.ones((5, 5), np.uint8))
    assert near[corners[:, 1].astype(int), corners[:, 0].astype(int)].all()
    middles = (corners + np.roll(corners, 1, 0)) / 2
    assert near[middles[:, 1].astype(int), middles[:, 0].astype(int)].all()
    left, top = track.boxes[0, :2].astype(int)
    assert not near[top, left]


def test_the_discrete_nodes_give_what_lip_sync_gives():
    facts = probe("upright")
    own = facts["degrees"][1]
    assert facts["degrees"][0] - own == pytest.approx(-25, abs=1.5)
    assert facts["degrees"][2] - own == pytest.approx(35, abs=1.5)
    assert max(facts["crops_difference"]) < 8 / 255
    assert facts["steps_difference"] <= 1.01 / 255
    assert facts["changed"] == [True] * 3 and facts["left_kept"]
    assert "3 frames: a face in 3" in facts["report"]
    assert facts["drawn"] == [3, 256, 256, 3] and facts["sheet"][0] == 1


@pytest.mark.parametrize("name", ["upright", "subpixel"])
def test_other_values_than_true_and_false_are_refused(name):
    with pytest.raises(MuseTalkError, match=name):
        LipSyncSettings().changed("test", {name: 1})
