"""Smoothing, sub-pixel boxes, external detections, track files, reports, drawings: against formulas and known truth."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from face_clips import Place, clip, elsewhere, mouth
from scipy.signal import butter, freqz

from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.detector import Face, FaceDetector
from musetalk_core.faces.drawing import draw_track
from musetalk_core.faces.external import faces_in_boxes, given_boxes, given_faces
from musetalk_core.faces.locator import FaceLocator
from musetalk_core.faces.smoothing import HALF_POWER, OneEuro, runs, smooth_run, smooth_track
from musetalk_core.faces.track import FaceTrack
from musetalk_core.faces.track_file import load_track, save_track
from musetalk_core.report import Report, write_report
from musetalk_core.settings import FaceSettings, LipSyncSettings

SIZE = (240, 480)


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return FaceDetector(FaceDetector.load_nets())


def track_at(boxes: np.ndarray) -> FaceTrack:
    """A present face with these boxes (N,4) and landmarks in their middle."""
    middles = boxes.reshape(-1, 2, 2).mean(1)
    landmarks = np.repeat(middles[:, None], 68, 1).astype(np.float32)
    return FaceTrack(boxes.astype(np.float32), landmarks, np.ones(len(boxes), bool), SIZE)


def test_smoothing_is_the_gaussian_average_and_keeps_lines():
    from scipy.ndimage import gaussian_filter1d

    noise = np.random.default_rng(0).normal(0, 1, (60, 3))
    expected = gaussian_filter1d(noise, 2.0, axis=0, truncate=3.0)
    np.testing.assert_allclose(smooth_run(noise, 2.0)[6:-6], expected[6:-6], atol=1e-5)
    line = np.arange(20)[:, None] * [2.0, -1.0] + 5
    np.testing.assert_allclose(smooth_run(line, 3.0), line, atol=1e-4)
    assert smooth_run(noise[:1], 2.0).tolist() == noise[:1].astype(np.float32).tolist()


def test_runs_end_at_cuts_absences_and_jumps():
    boxes = np.tile([100.0, 60, 200, 200], (12, 1))
    boxes[9:] += 150
    track = track_at(boxes)
    present, scenes = track.present.copy(), track.scenes.copy()
    present[3], scenes[6:] = False, 1
    broken = replace(track, present=present, scenes=scenes)
    assert list(runs(broken)) == [slice(0, 3), slice(4, 6), slice(6, 9), slice(9, 12)]
    assert list(runs(track_at(boxes[:0]))) == []


def test_nothing_is_smoothed_across_a_cut():
    boxes = np.tile([100.0, 60, 200, 200], (10, 1))
    boxes[5:] += 20
    scenes = np.repeat([0, 1], 5).astype(np.int32)
    track = replace(track_at(boxes), scenes=scenes)
    np.testing.assert_allclose(smooth_track(track, 2.0).boxes, boxes, atol=1e-3)
    assert np.abs(smooth_track(track_at(boxes), 2.0).boxes - boxes).max() > 1


def still(count: int, noise: float, step: float = 0.0) -> list[Face]:
    random = np.random.default_rng(1)
    faces = []
    for k in range(count):
        points = np.random.default_rng(2).uniform(100, 200, (68, 2)) + [k * step, 0]
        points = points + random.normal(0, noise, (68, 2))
        box = np.array([100 + k * step, 100, 200 + k * step, 200])
        faces.append(Face(box.astype(np.float32), points.astype(np.float32), 1.0))
    return faces


def test_live_smoothing_calms_a_still_face_and_hardly_lags_behind_a_moving_one():
    smoother = OneEuro(2.0)
    raw = still(200, 0.5)
    smooth = [smoother.face(face, 0) for face in raw]
    spread = [np.std([face.landmarks for face in faces[50:]], axis=0).mean() for faces in (raw, smooth)]
    assert spread[1] < 0.5 * spread[0]
    smoother = OneEuro(2.0)
    moving = still(60, 0.0, 4.0)
    lag = [face.landmarks[0, 0] - smoother.face(face, 0).landmarks[0, 0] for face in moving]
    assert max(lag) < 12 and lag[-1] < 8  # less than 2 frames of motion


def test_live_smoothing_begins_anew_after_a_cut_and_a_jump():
    faces = still(4, 0.0, 3.0)
    smoother = OneEuro(5.0)
    assert smoother.face(faces[0], 0) is faces[0]
    assert smoother.face(faces[1], 0).landmarks[0, 0] != faces[1].landmarks[0, 0]
    assert smoother.face(faces[2], 1) is faces[2]
    (far,) = still(1, 0.0)
    far = Face(far.box + 300, far.landmarks + 300, 1.0)
    assert smoother.face(far, 1) is far
    smoother.forget()
    assert smoother.face(faces[3], 1) is faces[3]


def test_both_filters_have_the_same_half_power():
    """scipy's own low-pass at the Gaussian's half-power frequency: exp(-(2 pi f s)^2 / 2)^2 = 1/2."""
    frequency = HALF_POWER / 2.0  # of smoothing 2
    assert np.exp(-((2 * np.pi * frequency * 2.0) ** 2)) == pytest.approx(0.5, abs=1e-9)
    b, a = butter(1, frequency, fs=1)
    _, response = freqz(b, a, [frequency], fs=1)
    assert abs(response[0]) ** 2 == pytest.approx(0.5, abs=1e-9)


def test_smoothing_and_subpixel_boxes_tremble_less(detector):
    """A slow drift of 0.3 px a frame: the second difference of the box is only trembling."""
    frames = clip([{"her": Place(200 + 0.3 * k, 120 + 0.15 * k, 1.2)} for k in range(14)])

    def trembling(**options) -> float:
        locator = FaceLocator(detector, extra_margin=0, options=FaceSettings(detect_every=50, **options))
        track = locator.smoothed(locator.locate(frames, live=False))
        assert track.present.all()
        return float(np.abs(np.diff(track.boxes, 2, axis=0)).mean())

    plain = trembling()
    assert trembling(subpixel=True) < 0.6 * plain
    assert trembling(subpixel=True, smoothing=2.0) < 0.25 * plain


def test_boxes_of_another_detector_are_read():
    box = {"x": 10, "y": 20, "width": 30, "height": 40, "label": "face", "score": 0.9}
    other = {"x": 200, "y": 20, "width": 30, "height": 40}
    one = [10, 20, 40, 60]
    for value in (box, [box], [[box]]):
        assert [[b.tolist() for b in row] for row in given_boxes(value, 3, SIZE)] == [[one]] * 3
    assert [[b.tolist() for b in row] for row in given_boxes([[box, other], []], 2, SIZE)] == [
        [one, [200, 20, 230, 60]],
        [],
    ]
    assert [len(row) for row in given_boxes([box, other], 2, SIZE)] == [1, 1]


def test_boxes_outside_the_image_are_cut_or_left_out():
    over = {"x": 460, "y": -10, "width": 60, "height": 50}
    outside = {"x": 500, "y": 20, "width": 30, "height": 40}
    broken = {"x": float("nan"), "y": 20, "width": 30, "height": 40}
    (row,) = given_boxes([[over, outside, broken]], 1, SIZE)
    assert [box.tolist() for box in row] == [[460, 0, 480, 40]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([{"x": 0, "y": 0, "width": 9, "height": 9}] * 3, "bounding boxes for 3 frames and 5 frames"),
        ([], "bounding boxes for 0 frames"),
        ([{"x": 0, "y": 0}], "needs x, y, width and height"),
        ("faces", "connect a BOUNDING_BOX"),
        (None, "connect a BOUNDING_BOX"),
    ],
)
def test_wrong_boxes_are_refused(value, words):
    with pytest.raises(MuseTalkError, match=words):
        given_boxes(value, 5, SIZE)


def test_landmarks_are_found_in_given_boxes(detector):
    place = Place(150, 120)
    frame = clip([{"her": place, "him": Place(350, 120)}])[0]
    x, y = mouth("her", place)
    box = np.array([x - 30, y - 55, x + 30, y + 20], np.float32)
    nothing = np.array([5, 5, 45, 45], np.float32)
    faces = faces_in_boxes(frame, [nothing, box], detector)
    assert len(faces) == 2
    assert np.linalg.norm(faces[0].landmarks[[62, 66]].mean(0) - [x, y]) < 4
    assert np.isnan(faces[1].landmarks).all() and faces[1].box.tolist() == nothing.tolist()
    track = FaceLocator(detector).locate(frame[None], [[faces[1]]])
    assert track.boxes[0].tolist() == [5, 5, 45, 55] and not track.landmarks[0].any()


def test_landmarks_of_comfyui_are_read():
    mesh = np.random.default_rng(0).uniform(50, 150, (478, 2))
    value = {"frames": [[{"landmarks_xy": mesh, "score": 0.8}], []], "image_size": SIZE}
    (face,), nobody = given_faces(value, 2, SIZE)
    assert nobody == [] and face.score == 0.8
    # mediapipe's numbers of the outer corners of eyes and mouth, and of the chin.
    for ibug, point in ((36, 33), (45, 263), (48, 61), (54, 291), (8, 152)):
        np.testing.assert_allclose(face.landmarks[ibug], mesh[point], atol=1e-4)
    for wrong, words in (
        ({**value, "image_size": (100, 100)}, "found on 100x100 pixels"),
        ({**value, "frames": [[]] * 3}, "face landmarks for 3 frames and 2"),
        ({**value, "frames": [[{"landmarks_xy": mesh[:68]}]]}, "468 or 478"),
        ([], "connect a FACE_LANDMARKS"),
    ):
        with pytest.raises(MuseTalkError, match=words):
            given_faces(wrong, 2, SIZE)


def test_track_files_keep_everything(tmp_path, detector):
    track = FaceLocator(detector).locate(torch.cat([clip([{"her": Place(200, 120)}]), elsewhere(1)]))
    path = tmp_path / "track.json"
    save_track(path, track)
    loaded = load_track(path)
    assert loaded.present.tolist() == [True, False] and loaded.reasons.tolist() == ["", "no face"]
    assert loaded.scenes.tolist() == track.scenes.tolist() and loaded.image_size == SIZE
    assert loaded.boxes.tolist() == track.boxes.tolist()
    assert np.abs(loaded.landmarks - track.landmarks).max() <= 0.005001
    old = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("reasons", "scenes")}
    path.write_text(json.dumps(old))
    assert load_track(path).reasons.tolist() == ["", "no face"]


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 3}', '{"format": "musetalk-face-track-1", "present": [1]}'])
def test_other_files_are_no_tracks(tmp_path, content):
    path = tmp_path / "track.json"
    path.write_text(content)
    with pytest.raises(MuseTalkError, match="track.json"):
        load_track(path)


def test_a_track_must_fit_its_frames():
    track = track_at(np.tile([10.0, 10, 90, 90], (4, 1)))
    track.check(4, SIZE)
    with pytest.raises(MuseTalkError, match="4 frames and the source 5"):
        track.check(5, SIZE)
    with pytest.raises(MuseTalkError, match="made on 480x240 pixels and the frames have 640x480"):
        track.check(4, (480, 640))


def test_report_counts_and_tells_which_frames(tmp_path):
    report = Report()
    for reason in ["", "", "no face", "no face", "lost", "", "lost"]:
        report.passed(reason) if reason else report.made()
    report.kept()
    expected = {
        "frames": 8,
        "found": 3,
        "passed_through": 4,
        "failed": 1,
        "silent": 0,
        "reasons": {"no face": 2, "lost": 2, "unusable result": 1},
        "gaps": [
            {"first": 2, "last": 3, "reason": "no face"},
            {"first": 4, "last": 4, "reason": "lost"},
            {"first": 6, "last": 6, "reason": "lost"},
            {"first": 7, "last": 7, "reason": "unusable result"},
        ],
    }
    assert report.as_dict() == json.loads(report.json()) == expected
    assert "no face: 2 (2-3)" in report.text() and "lost: 2 (4, 6)" in report.text()
    write_report(tmp_path / "r.json", report)
    assert json.loads((tmp_path / "r.json").read_text()) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    with pytest.raises(MuseTalkError, match="cannot be written"):
        write_report(tmp_path / "nowhere" / "r.json", report)


def test_a_report_of_hours_stays_small():
    report = Report()
    for _ in range(5000):
        report.made()
        report.passed("lost")
    assert len(report.gaps) == 1000 and report.reasons["lost"] == 5000 and len(report.text()) < 1000


def test_drawing_marks_presence_and_leaves_the_frame_alone(detector):
    frames = torch.cat([clip([{"her": Place(200, 120)}]), elsewhere(1)])
    before = frames.clone()
    track = FaceLocator(detector).locate(frames)
    there, gone = (draw_track(frames[i], track, i) for i in range(2))
    assert torch.equal(frames, before) and there.shape == frames[0].shape and there.dtype == torch.float32
    assert there[0, 0, 1] > there[0, 0, 0] and gone[0, 0, 0] > gone[0, 0, 1]  # green, red
    x1, y1 = track.boxes[0, :2].astype(int)
    assert (there[y1, x1] * 255).round().tolist() == [255, 208, 64]


@pytest.mark.parametrize(
    ("name", "value"),
    [("face_index", -2), ("face_index", 1.0), ("detect_every", 0), ("smoothing", -1.0), ("smoothing", 26)],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(MuseTalkError, match=name):
        LipSyncSettings().changed("test", {name: value})
