"""Tracking on clips with known truth: who is who through crossing, covering, leaving and cuts; who is chosen."""

import numpy as np
import pytest
import torch
from face_clips import Place, clip, elsewhere, mouth, person

from musetalk_core.errors import MuseTalkError
from musetalk_core.faces.appearance import Appearance, reference_text
from musetalk_core.faces.cuts import CutFinder
from musetalk_core.faces.detector import Face, FaceDetector
from musetalk_core.faces.geometry import visible_share
from musetalk_core.faces.locator import FaceLocator
from musetalk_core.faces.tracker import FaceTracker, TrackedFace
from musetalk_core.settings import FaceSettings

NEAR = 6  # pixels between a found mouth and the true one


@pytest.fixture(scope="module")
def detector():
    torch.set_num_threads(1)
    return FaceDetector(FaceDetector.load_nets())


def who(detector, people, every=1, frames=None):
    """For each frame {kind: identity} of the people whose mouth is where it truly is, and the number of faces."""
    tracker = FaceTracker(detector, every)
    rows = []
    for frame, places in zip(clip(people) if frames is None else frames, people, strict=True):
        faces = tracker.step(frame)
        found = {}
        for kind, place in places.items():
            for face in faces:
                middle = face.face.landmarks[[62, 66]].mean(0)
                if np.linalg.norm(middle - mouth(kind, place)) < NEAR * place.scale:
                    found.setdefault(kind, face.identity)
        rows.append((found, len(faces)))
    return rows


def covered(places: dict[str, Place], kind: str) -> bool:
    """Whether somebody in front is so near that part of the face may be hidden."""
    order = list(places)
    return any(abs(places[other].x - places[kind].x) < 85 for other in order[order.index(kind) + 1 :])


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("front", ["her", "him"])
def test_crossing_people_keep_their_numbers(detector, every, front):
    """Numbers are given left to right: 0 is her. Whoever is wholly visible is found in every frame."""
    frames = []
    for k in range(34):
        places = {"her": Place(90 + 9 * k, 120), "him": Place(390 - 9 * k, 118)}
        frames.append({kind: places[kind] for kind in sorted(places, key=lambda kind: kind == front)})
    for k, (places, (found, _)) in enumerate(zip(frames, who(detector, frames, every), strict=True)):
        visible = {kind for kind in places if not covered(places, kind)}
        assert visible <= set(found), k
        assert all(found[kind] == number for kind, number in (("her", 0), ("him", 1)) if kind in visible), k


@pytest.mark.parametrize("every", [1, 5])
def test_a_covered_face_is_the_same_afterwards(detector, every):
    """With every 5 a face that comes back is found at most 4 frames late."""
    frames = [{"her": Place(100, 120), "him": Place(350, 120), "hand": Place(-60 + 30 * k, 120)} for k in range(22)]
    clear = {"her": 0, "him": 0}
    for k, (places, (found, _)) in enumerate(zip(frames, who(detector, frames, every), strict=True)):
        for kind, number in (("her", 0), ("him", 1)):
            away = abs(places["hand"].x - places[kind].x)
            clear[kind] = clear[kind] + 1 if away > 130 else 0
            if clear[kind] >= every:
                assert found.get(kind) == number, (k, kind)
            if away < 40:
                assert kind not in found, (k, kind)


def test_who_leaves_and_comes_back_is_known_again(detector):
    way = [*range(0, 330, 22), *range(330, 0, -22)]
    frames = [{"her": Place(240 - x, 120), "him": Place(380, 120)} for x in way]
    rows = who(detector, frames)
    for k, (places, (found, _)) in enumerate(zip(frames, rows, strict=True)):
        assert found["him"] == 1, k
        if places["her"].x > 60:
            assert found["her"] == 0, k
    assert any("her" not in found for found, _ in rows)


def test_size_tilt_and_light_do_not_change_a_number(detector):
    frames = [{"her": Place(240, 120, 0.6 + 0.03 * k, 4 * k - 40)} for k in range(20)]
    pictures = clip(frames)
    light = torch.linspace(1.0, 0.4, 20)[:, None, None, None]
    rows = who(detector, frames, 1, (pictures * light).to(torch.uint8))
    assert [found for found, _ in rows] == [{"her": 0}] * 20


def test_a_cut_ends_a_scene_and_known_people_keep_their_numbers(detector):
    her, both = {"her": Place(120, 120)}, {"him": Place(130, 120), "her": Place(350, 120)}
    frames = [her] * 3 + [{}] * 3 + [both] * 3
    pictures = torch.cat([clip([her] * 3), elsewhere(3), clip([both] * 3)])
    rows = who(detector, frames, 4, pictures)
    assert [count for _, count in rows] == [1, 1, 1, 0, 0, 0, 2, 2, 2]
    assert all(found == {"her": 0} for found, _ in rows[:3])
    assert all(found == {"her": 0, "him": 1} for found, _ in rows[6:])


def test_cuts_are_seen_and_motion_is_none():
    finder = CutFinder()
    moving = clip([{"her": Place(60 + 12 * k, 120)} for k in range(20)])
    assert [finder.is_cut(frame) for frame in moving] == [False] * 20
    assert [finder.is_cut(frame) for frame in elsewhere(3)] == [True, False, False]
    assert [finder.is_cut(frame) for frame in moving.flip(0) / 255] == [True] + [False] * 19


def test_frames_between_searches_cost_no_search(detector):
    searched = []

    class Counting:
        def detect(self, frame):
            searched.append(True)
            return detector.detect(frame)

        def follow(self, frame, faces):
            return detector.follow(frame, faces)

    tracker = FaceTracker(Counting(), 10)
    frames = clip([{"her": Place(100 + 4 * k, 120)} for k in range(20)])
    assert all(len(tracker.step(frame)) == 1 for frame in frames)
    assert len(searched) == 2  # frames 0 and 10


def test_memory_of_people_is_bounded(detector):
    tracker = FaceTracker(detector)
    look = np.random.default_rng(0)
    for _ in range(30):  # 90 strangers
        frame = torch.from_numpy(look.integers(0, 255, (90, 300, 3), dtype=np.uint8))
        boxes = [np.array([x, 10, x + 70, 80], np.float32) for x in (0, 100, 200)]
        tracker.step(frame, [Face(box, np.full((68, 2), np.nan, np.float32), 1.0) for box in boxes])
    assert len(tracker._people) <= 64


def stand_in(identity: int, x: float, side: float, since: int = 0) -> TrackedFace:
    face = Face(np.array([x, 0, x + side, side], np.float32), np.zeros((68, 2), np.float32), 1.0)
    return TrackedFace(identity, face, since, Appearance(np.zeros(1024, np.float32)))


def test_the_followed_face_is_kept_until_another_is_twice_as_large(detector):
    locator = FaceLocator(detector)
    first, rival = stand_in(0, 0, 100), stand_in(1, 300, 90)
    assert locator.choose([first, rival]) is first.face
    grown = stand_in(1, 310, 120)
    assert locator.choose([grown, first]) is first.face  # 120^2 < 2 * 100^2
    huge = stand_in(1, 310, 150)
    assert locator.choose([huge, first]) is huge.face  # 150^2 > 2 * 100^2
    assert locator.choose([]) is None
    other = stand_in(2, 900, 80)
    assert locator.choose([other]) is other.face  # after a cut: whoever is there


def test_background_faces_do_not_count_for_a_side(detector):
    speaker, other, background = stand_in(0, 300, 100), stand_in(1, 600, 60), stand_in(2, 0, 20)
    faces = [speaker, other, background]
    assert FaceLocator(detector, face="left").choose(faces) is speaker.face
    assert FaceLocator(detector, face="right").choose(faces) is other.face


def test_a_bystander_does_not_speak_while_the_speaker_is_covered(detector):
    """She is larger and followed; the board passes over her for some frames."""
    frames = [
        {"her": Place(120, 120, 1.2), "him": Place(380, 120), "hand": Place(-80 + 25 * k, 120, 1.2)} for k in range(18)
    ]
    track = FaceLocator(detector).locate(clip(frames))
    assert "lost" in track.reasons
    for k, places in enumerate(frames):
        if track.present[k]:
            x1, _, x2, _ = track.boxes[k]
            assert x1 < places["her"].x + 20 and x2 < 250, k
    assert track.present[[0, 1, -1]].all()


@pytest.mark.parametrize("index", [0, 1])
def test_people_are_chosen_by_number(detector, index):
    frames = [{"her": Place(110, 120), "him": Place(360, 120, 1.3)}] * 3
    track = FaceLocator(detector, options=FaceSettings(face_index=index)).locate(clip(frames))
    assert track.present.all()
    assert ((track.boxes[:, 0] + track.boxes[:, 2]) / 2 < 240).tolist() == [index == 0] * 3


def test_a_number_that_nobody_has_is_a_reason(detector):
    options = FaceSettings(face_index=2)
    track = FaceLocator(detector, options=options).locate(
        torch.cat([clip([{"her": Place(110, 120), "him": Place(360, 120)}]), elsewhere(1)])
    )
    assert not track.present.any()
    assert track.reasons.tolist() == ["not the chosen face", "no face"]


@pytest.mark.parametrize("kind", ["her", "him"])
def test_people_are_chosen_by_a_reference_picture(detector, kind):
    picture = torch.from_numpy(person(kind))
    options = FaceSettings(reference=reference_text(picture, detector))
    frames = [{"her": Place(110, 120), "him": Place(360, 120, 1.2)}, {"him": Place(110, 120), "her": Place(360, 120)}]
    pictures = clip(frames)
    track = FaceLocator(detector, options=options).locate(torch.cat([pictures[:1], elsewhere(1), pictures[1:]]))
    assert track.present.tolist() == [True, False, True]
    for places, box in zip(frames, track.boxes[[0, 2]], strict=True):
        assert abs((box[0] + box[2]) / 2 - mouth(kind, places[kind])[0]) < 20


def test_bad_references_are_refused(detector):
    with pytest.raises(MuseTalkError, match="no face in the reference"):
        reference_text(torch.zeros(64, 64, 3), detector)
    for text in ("no digits", "00ff", "00" * 1024):
        with pytest.raises(MuseTalkError, match="reference face is unreadable"):
            FaceLocator(detector, options=FaceSettings(reference=text))


@pytest.mark.parametrize("way", ["left", "right", "up", "down"])
def test_a_box_that_leaves_the_image_is_not_stretched(detector, way):
    """She walks out: while three quarters of her true box are visible it keeps its size; then the reason is told."""
    step = {"left": (-9, 0), "right": (9, 0), "up": (0, -9), "down": (0, 9)}[way]
    frames = [{"her": Place(240 + step[0] * k * 2.4, 120 + step[1] * k)} for k in range(16)]
    track = FaceLocator(detector, extra_margin=0).locate(clip(frames))
    limit = 0.25 if way == "down" else 0.15  # a chin outside is guessed too high by the mesh
    sides = track.boxes[:, 2:] - track.boxes[:, :2]
    for k in range(16):
        true = track.boxes[0] + np.tile([step[0] * k * 2.4, step[1] * k], 2)
        if visible_share(true, (240, 480)) > 0.75:
            assert track.present[k] and np.abs(sides[k] / sides[0] - 1).max() < limit, (k, sides[k])
    assert (track.boxes[track.present] < 0).any() or (track.boxes[track.present] > [480, 240, 480, 240]).any()
    assert set(track.reasons[~track.present]) <= {"outside the image", "lost", "no face"}


@pytest.mark.parametrize("order", ["ping-pong", "loop"])
def test_presence_is_exact_in_any_order_of_frames(detector, order):
    people = [{"her": Place(200 + 3 * k, 120)} for k in range(6)]
    there = torch.cat([clip(people[:3]), elsewhere(2), clip(people[3:])])
    rows = [*range(8), *range(7, -1, -1)] if order == "ping-pong" else [*range(8), *range(8)]
    track = FaceLocator(detector).locate(there[rows])
    assert track.present.tolist() == [k not in (3, 4) for k in rows]
    assert (track.reasons[~track.present] == "no face").all()


def test_black_frames_and_noise_have_nobody(detector):
    frames = torch.zeros(3, 120, 160, 3, dtype=torch.uint8)
    frames[1] = torch.randint(0, 255, (120, 160, 3))
    track = FaceLocator(detector, options=FaceSettings(detect_every=2)).locate(frames)
    assert not track.present.any() and set(track.reasons) == {"no face"}
