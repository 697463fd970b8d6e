"""The weight-free measures, against values worked out by hand and against numpy, scipy and scikit-image."""

import json
import math

import numpy as np
import pytest
import torch
from clips import faceless, moving_portrait, portrait
from scipy import ndimage, stats
from skimage.metrics import peak_signal_noise_ratio

from musetalk_core.errors import MuseTalkError
from musetalk_core.evaluation import image, lips
from musetalk_core.evaluation.report import Check, failures, table
from musetalk_core.faces.detector import FaceDetector


def hand_made_face(gap):
    """Eye corners 100 px apart, tilted 3-4-5; inner lips `gap` px apart."""
    points = np.zeros((68, 2), np.float32)
    points[36], points[45] = (10, 20), (70, 100)
    points[62], points[66] = (40, 120), (40, 120 + gap)
    return points


def speech(frames, seed=0):
    """A smooth curve between 0 and about 0.3."""
    noise = np.random.default_rng(seed).normal(size=frames + 8)
    smooth = np.convolve(noise, np.ones(4) / 4, "same")[4:-4]
    return 0.3 * (smooth - smooth.min()) / np.ptp(smooth)


def test_gap_is_the_lip_distance_over_the_eye_distance():
    assert lips.lip_gap(hand_made_face(25)) == pytest.approx(0.25)
    many = lips.lip_gap(np.stack([hand_made_face(0), hand_made_face(30), np.full((68, 2), np.nan)]))
    assert many[:2] == pytest.approx([0, 0.3]) and np.isnan(many[2])
    assert np.isnan(lips.lip_gap(np.zeros((68, 2))))


def test_gap_does_not_depend_on_place_turn_or_size():
    turn = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    moved = 3.7 * hand_made_face(18) @ turn.T + np.array([500, -20])
    assert lips.lip_gap(moved) == pytest.approx(0.18, abs=1e-6)


def test_correlation_is_numpys_and_leaves_missing_frames_out():
    x, y = speech(80, 1), speech(80, 2) + 0.5 * speech(80, 1)
    assert lips.correlation(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-12)
    holes = x.copy()
    holes[[3, 50]] = np.nan
    kept = np.isfinite(holes)
    assert lips.correlation(holes, y) == pytest.approx(np.corrcoef(x[kept], y[kept])[0, 1], abs=1e-12)
    assert lips.correlation(np.full(80, 0.2), y) == 0, "a mouth that never moves follows nothing"
    assert lips.correlation(np.full(80, np.nan), y) == 0
    with pytest.raises(MuseTalkError, match="80 and 79"):
        lips.correlation(x, y[:79])


@pytest.mark.parametrize("delay", [3, 1, 0, -2])
def test_a_delayed_clip_gives_its_delay_as_lag(delay):
    curve = speech(120)
    truth, measured = curve[10:110], curve[10 - delay : 110 - delay]
    lag, best = lips.best_lag(measured, truth, 5)
    assert lag == delay and best == pytest.approx(1)


def test_lag_refuses_curves_shorter_than_the_search():
    with pytest.raises(MuseTalkError, match="10 frames is too short"):
        lips.best_lag(speech(10), speech(10), 5)


def test_pooled_lag_does_not_mix_the_ends_of_clips():
    a, b = speech(60, 3), speech(60, 4) + 5
    clips = [(a[5:45], a[8:48]), (b[5:45], b[8:48])]  # measured shows what truth showed 3 frames before
    lag, best = lips.pooled_lag(clips)
    assert lag == 3 and best == pytest.approx(1), "one frame of a paired with one of b would cost correlation"


def test_slope_is_the_regression_of_measured_on_truth():
    truth = speech(90)
    measured = 0.6 * truth + 0.02 + 0.01 * np.random.default_rng(5).normal(size=90)
    assert lips.slope(measured, truth) == pytest.approx(stats.linregress(truth, measured).slope, abs=1e-12)
    assert lips.slope(0.6 * truth + 0.02, truth) == pytest.approx(0.6)
    assert lips.slope(measured, np.full(90, 0.1)) == 0


def test_crossed_pairs_are_every_other_clip_cut_to_the_shorter():
    a, b, c = speech(50, 1), speech(70, 2), speech(60, 3)
    crossed = lips.crossed_correlations([(a, a), (b, b), (c, c)])
    expected = [np.corrcoef(x[:n], y[:n])[0, 1] for x, y, n in _ordered_pairs(a, b, c)]
    assert crossed == pytest.approx(expected, abs=1e-12) and len(crossed) == 6


def _ordered_pairs(*curves):
    return [(x, y, min(len(x), len(y))) for i, x in enumerate(curves) for j, y in enumerate(curves) if i != j]


def test_report_of_hand_made_clips():
    truth = np.array([0.0, 0.01, 0.02, 0.2, 0.3, 0.16, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
    measured = truth.copy()
    measured[:3] = 0.05, 0.03, 0.01
    measured[11] = np.nan
    report = lips.compare([(measured, truth), (measured, truth)])
    assert report.frames == 24 and report.found == pytest.approx(11 / 12)
    assert (report.closed_frames, report.open_frames) == (6, 6)
    assert report.closed_median == pytest.approx(0.03) and report.closed_truth == pytest.approx(0.01)
    assert report.open_median == pytest.approx(0.2) == report.open_truth
    assert report.lag == 0
    assert report.correlation == pytest.approx(np.corrcoef(measured[:11], truth[:11])[0, 1], abs=1e-12)


def test_source_share_finds_both_parts_of_a_mixture():
    truth, source = speech(100, 6), speech(100, 7)
    mixture = 0.7 * truth + 0.2 * source + 0.01
    mixture[4] = np.nan
    assert lips.source_share(mixture, truth, source) == pytest.approx((0.7, 0.2))


def test_landmarks_of_frames_follow_a_moving_face_and_miss_where_none_is():
    frames = torch.from_numpy(np.concatenate([moving_portrait(5)[::2], faceless(1, 256)]))
    found = lips.find_landmarks(frames, FaceDetector(FaceDetector.load_nets()))
    assert found.shape == (4, 68, 2) and np.isnan(found[3]).all()
    moved = (found[1:3] - found[:2]).mean((0, 1))
    assert moved == pytest.approx([2, 1], abs=0.25)  # two frames of 1 px right and 0.5 px down
    assert lips.lip_gap(found)[:3] == pytest.approx(lips.lip_gap(found)[0], abs=0.02)
    assert lips.find_landmarks([], FaceDetector(FaceDetector.load_nets())).shape == (0, 68, 2)


def test_psnr_is_scikit_images():
    picture = portrait(128)
    noisy = np.clip(picture + np.random.default_rng(0).normal(0, 9, picture.shape), 0, 255).astype(np.uint8)
    expected = peak_signal_noise_ratio(picture, noisy)
    assert image.psnr(noisy, picture) == pytest.approx(expected)
    assert image.psnr(noisy / 255.0, picture / 255.0) == pytest.approx(expected)
    region = np.zeros((128, 128), bool)
    region[40:90, 30:100] = True
    part = peak_signal_noise_ratio(picture[40:90, 30:100], noisy[40:90, 30:100])
    assert image.psnr(noisy, picture, region) == pytest.approx(part)
    assert image.psnr(picture, picture) == math.inf
    with pytest.raises(MuseTalkError, match="empty"):
        image.psnr(noisy, picture, np.zeros((128, 128), bool))
    with pytest.raises(MuseTalkError, match="cannot be compared"):
        image.psnr(noisy, picture[:64])


def test_mouth_region_is_the_lips_and_a_quarter_of_their_width():
    points = np.full((68, 2), 50.0)
    points[48], points[54] = (40, 60), (80, 60)  # 40 wide, so 10 more on each side
    points[51], points[57] = (60, 55), (60, 70)
    points[49:51] = points[52:54] = points[55:57] = points[58:60] = (60, 60)
    rows, columns = np.nonzero(image.mouth_region(points, (100, 85)))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (45, 80, 30, 85)


def test_sharpness_is_the_variance_of_the_laplacian_and_falls_with_blur():
    picture = portrait(128)
    luma = picture @ np.array([0.299, 0.587, 0.114])
    expected = ndimage.laplace(luma, mode="mirror")
    assert image.sharpness(picture) == pytest.approx(expected.var())
    region = np.zeros((128, 128), bool)
    region[64:, 20:110] = True
    assert image.sharpness(picture, region) == pytest.approx(expected[region].var())
    blurred = [ndimage.gaussian_filter(picture.astype(float), (s, s, 0)) / 255 for s in (0.5, 1, 2, 4)]
    values = [image.sharpness(picture, region), *[image.sharpness(frame, region) for frame in blurred]]
    assert values == sorted(values, reverse=True) and values[-1] < values[0] / 100
    with pytest.raises(MuseTalkError, match="empty"):
        image.sharpness(picture, np.zeros((128, 128), bool))


def test_seam_energy_is_the_height_of_a_step_at_the_border():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 255
    frame = np.full((40, 40, 3), 100, np.uint8)
    assert image.seam_energy(frame, mask) == 0
    frame[10:30, 10:30] = 130
    assert image.seam_energy(frame, mask) == pytest.approx(30)
    frame[12:28, 12:28] = 255  # a step inside the mask is no seam
    assert image.seam_energy(frame, mask) == pytest.approx(30)
    ramp = np.repeat(np.arange(40, dtype=np.uint8)[None, :, None] * 4, 40, 0).repeat(3, 2)
    # The ramp crosses the 2 * 20 vertical border pairs with 4 each and the 2 * 20 horizontal ones with 0.
    assert image.seam_energy(ramp, mask) == pytest.approx(2)
    assert math.isnan(image.seam_energy(frame, np.zeros((40, 40), np.uint8)))


def test_border_band_lies_inside_the_mask_along_its_border():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 200
    band = image.border_band(mask, 3)
    assert band.sum() == 20**2 - 14**2
    assert band[10, 15] and band[12, 15] and not band[13, 15] and not band[9, 15]


def test_jitter_is_zero_for_steady_motion_and_the_second_difference_else():
    steady = np.arange(10.0)[:, None] * np.array([1.0, -2.5])
    assert image.temporal_jitter(steady) == pytest.approx(0)
    assert image.temporal_jitter(np.array([0, 1, 0, 1, 0])) == pytest.approx(2)
    assert image.temporal_jitter(np.arange(8.0) ** 2) == pytest.approx(2)
    assert math.isnan(image.temporal_jitter(np.zeros((2, 4))))


def test_checks_decide_at_their_bounds_and_never_pass_nothing():
    assert Check("a", 0.75, least=0.75).passed and not Check("a", 0.7499, least=0.75).passed
    assert Check("b", 0.19, below=0.2).passed and not Check("b", 0.2, below=0.2).passed
    assert Check("c", 1, most=1).passed and not Check("c", 2, most=1).passed
    assert Check("d", math.nan, least=0).passed is False and Check("e", 3.0).passed is None
    assert Check("f", math.inf, least=33).passed is False


def test_table_and_json_show_value_bound_and_verdict():
    checks = [Check("lips", 0.8, least=0.75, aim=0.85), Check("leak", math.nan, most=0.1), Check("note", 1.0)]
    lines = table(checks).splitlines()
    assert lines[0].split() == ["lips", "0.800", "at", "least", "0.75", "(aim", "0.85)", "pass"]
    assert lines[1].endswith("FAIL") and lines[2].split() == ["note", "1.000"]
    assert [check.name for check in failures(checks)] == ["leak"]
    first, second, third = json.loads(json.dumps([check.as_dict() for check in checks], allow_nan=False))
    assert first == {"name": "lips", "value": 0.8, "least": 0.75, "aim": 0.85, "passed": True}
    assert second["value"] is None and second["passed"] is False and third["passed"] is None
