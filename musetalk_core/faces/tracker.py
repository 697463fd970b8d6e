"""Who is who: gives every face of every frame the number of the person it belongs to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .appearance import Appearance
from .cuts import CutFinder
from .detector import Detector, Face
from .geometry import box_overlap
from .picture import Picture

MOST_PEOPLE = 64  # remembered; beyond them whoever has been away longest is forgotten
PATIENCE = 50  # frames: for so long after a loss a face is expected where its motion would have brought it
REACH = 1.0  # face sizes between the expected and the found place that are still one motion
COASTING = 0.95  # what is left of the speed of an unseen face after each frame
SPEED_SHARE, LOOK_SHARE = 0.5, 0.2  # of the newest frame in the remembered speed and look
SAME_PLACE = 0.2  # least intersection over union of one face in two frames that follow one another
UNLIKE = 0.2  # whoever comes back into the expected place looking less alike is somebody else
RATHER_LIKE = 0.6  # enough for a face near the expected place: whoever comes back is often half hidden still
ALIKE = 0.8  # a face that looks so much alike is the same person, wherever it is
BESIDE = 2.5  # face sizes between two faces of which one may cover the other
WAIT = 10  # frames: while somebody is lost, a face beside another is named only when it can be seen whose it is
SHARED = 0.6  # followed faces with more intersection over union have become one
FAR = 1e6  # the cost of a pair that cannot be


@dataclass(frozen=True)
class TrackedFace:
    """A face of a frame. identity: the number of its person, counted from 0 in order of appearance, left to right;
    since: the number of the frame in which that person appeared first; look: what the person looks like."""

    identity: int
    face: Face
    since: int
    look: Appearance


@dataclass
class _Person:
    """What is remembered of a person. speed: (2,) pixels a frame; since, seen: first and last frame; scene: of seen."""

    identity: int
    face: Face
    look: Appearance
    speed: np.ndarray
    since: int
    seen: int
    scene: int

    def expected(self, frame: int) -> np.ndarray:
        """The box (4,) where motion has brought the face by `frame`; an unseen face slows down."""
        way = self.speed * (1 - COASTING ** (frame - self.seen)) / (1 - COASTING)
        return self.face.box + np.tile(way, 2)


class FaceTracker:
    """Follows all faces of a video, frame by frame, in any order that is continuous (ping-pong too).

    Faces of neighbouring frames are matched by overlap with the place that motion leads to and by their look, at the
    least total cost, first among the people seen in the last frame, then among those lost in this scene (Wojke et al.
    2017, the matching cascade of DeepSORT); who is still unmatched is known again by the look alone, also after a cut
    or a long absence. A stranger that shows up beside someone while another is lost waits for WAIT frames, because it
    may be the lost one, half covered.

    detect_every: the detector searches every n-th frame, when a scene begins, and while a face is lost, for n frames;
    between, the landmarks are followed, which takes a third of the time. A face that enters without a cut is then
    noticed up to n - 1 frames late. Memory: MOST_PEOPLE small records.
    """

    def __init__(self, detector: Detector, detect_every: int = 1) -> None:
        self.detector = detector
        self.detect_every = detect_every
        self.frame = -1
        self.scene = 0
        self._cuts = CutFinder()
        self._people: list[_Person] = []
        self._named = 0
        self._unnamed = 0
        self._searched = -detect_every

    def step(self, frame: torch.Tensor, given: Sequence[Face] | None = None) -> list[TrackedFace]:
        """The faces of the next frame, largest first; `frame` and `scene` then are its number and its scene's.

        frame: (H,W,3) RGB, uint8 0..255 or floating 0..1. given: its faces, when something else has found them.
        """
        self.frame += 1
        cut = self._cuts.is_cut(frame)
        self.scene += cut
        picture = Picture(frame)
        if given is not None:
            self._match(picture, given)
            return self.in_view
        if not cut and not self._search_is_due() and self._follow(frame, picture):
            return self.in_view
        self._searched = self.frame
        self._match(picture, self.detector.detect(frame))
        if not cut:
            self._follow_missed(frame, picture)
        return self.in_view

    @property
    def in_view(self) -> list[TrackedFace]:
        """The faces of the last frame given, largest first."""
        here = [person for person in self._people if person.seen == self.frame]
        here.sort(key=lambda person: -person.face.area)
        return [TrackedFace(person.identity, person.face, person.since, person.look) for person in here]

    def lost(self, identity: int) -> bool:
        """Whether a person was there earlier in this scene and is not in this frame."""
        return any(
            person.identity == identity and person.scene == self.scene and person.seen < self.frame
            for person in self._people
        )

    def _search_is_due(self) -> bool:
        if self.frame - self._searched >= self.detect_every:
            return True
        away = [self.frame - 1 - person.seen for person in self._people if person.scene == self.scene]
        return any(0 < frames <= self.detect_every for frames in away)

    def _follow(self, frame: torch.Tensor, picture: Picture) -> bool:
        """Find the faces of the last frame in this one; False when one is lost or two have become one."""
        here = [person for person in self._people if person.seen == self.frame - 1]
        faces = [face for face in self.detector.follow(frame, [person.face for person in here]) if face is not None]
        if len(faces) < len(here) or any(_shared(face, faces[:k]) for k, face in enumerate(faces)):
            return False
        for person, face in zip(here, faces, strict=True):
            self._seen(person, face, Appearance.of(picture, face))
        return True

    def _follow_missed(self, frame: torch.Tensor, picture: Picture) -> None:
        """Faces of the last frame that the detector missed in this one may still be there, turned or half hidden."""
        missed = [person for person in self._people if person.seen == self.frame - 1]
        taken = [tracked.face for tracked in self.in_view]
        followed = self.detector.follow(frame, [person.face for person in missed])
        for person, face in zip(missed, followed, strict=True):
            if face is None or _shared(face, taken):
                continue
            look = Appearance.of(picture, face)
            if self._motion_cost(person, face, look) < FAR:
                self._seen(person, face, look)
                taken.append(face)

    def _match(self, picture: Picture, faces: Sequence[Face]) -> None:
        """Give the frame's faces to the people they belong to; who belongs to nobody is new."""
        looks = [Appearance.of(picture, face) for face in faces]
        rows = list(range(len(faces)))
        just = [person for person in self._people if person.seen == self.frame - 1 and person.scene == self.scene]
        away = [
            person for person in self._people if person.scene == self.scene and 1 < self.frame - person.seen <= PATIENCE
        ]
        for people, cost in ((just, self._motion_cost), (away, self._motion_cost), (self._people, _look_cost)):
            waiting = [person for person in people if person.seen < self.frame]
            for person, row in _assign(waiting, [(k, faces[k], looks[k]) for k in rows], cost):
                self._seen(person, faces[row], looks[row])
                rows.remove(row)
        self._unnamed = self._unnamed + 1 if rows else 0
        for row in sorted(rows, key=lambda k: float(faces[k].box[0] + faces[k].box[2])):
            if self._unnamed > WAIT or not (away and self._beside_another(faces[row])):
                self._add(faces[row], looks[row])

    def _beside_another(self, face: Face) -> bool:
        """Whether somebody in view is so near that they may still cover part of the face."""
        reach = BESIDE * np.sqrt(max(face.area, 1.0))
        middle = face.box.reshape(2, 2).mean(0)
        others = [person.face.box.reshape(2, 2).mean(0) for person in self._people if person.seen == self.frame]
        return any(float(np.linalg.norm(middle - other)) < reach for other in others)

    def _motion_cost(self, person: _Person, face: Face, look: Appearance) -> float:
        """0 in the expected place with the same look; FAR for a face that cannot be this person by motion."""
        expected = person.expected(self.frame)
        overlap = float(box_overlap(expected, face.box[None])[0])
        likeness = person.look.likeness(look)
        if overlap >= SAME_PLACE and (likeness >= UNLIKE or person.seen == self.frame - 1):
            return (1 - overlap) + (1 - likeness)
        size = np.sqrt(max(face.area, 1.0))
        away = float(np.linalg.norm(expected.reshape(2, 2).mean(0) - face.box.reshape(2, 2).mean(0))) / size
        return 1 + away + (1 - likeness) if away <= REACH and likeness >= RATHER_LIKE else FAR

    def _seen(self, person: _Person, face: Face, look: Appearance) -> None:
        steps = self.frame - person.seen
        way = (face.box - person.face.box).reshape(2, 2).mean(0) / steps
        same_scene = person.scene == self.scene and steps <= PATIENCE
        person.speed = SPEED_SHARE * way + (1 - SPEED_SHARE) * person.speed if same_scene else np.zeros(2)
        if person.look.likeness(look) >= RATHER_LIKE:  # else something covers the face, which is no look of theirs
            person.look = person.look.blended(look, LOOK_SHARE)
        person.face, person.seen, person.scene = face, self.frame, self.scene

    def _add(self, face: Face, look: Appearance) -> None:
        self._people.append(_Person(self._named, face, look, np.zeros(2), self.frame, self.frame, self.scene))
        self._named += 1
        if len(self._people) > MOST_PEOPLE:
            self._people.remove(min(self._people, key=lambda person: person.seen))


def _shared(face: Face, others: Sequence[Face]) -> bool:
    """Whether a followed face is one of the others."""
    boxes = np.reshape([other.box for other in others], (-1, 4))
    return bool((box_overlap(face.box, boxes) > SHARED).any())


Candidate = tuple[int, Face, Appearance]


def _look_cost(person: _Person, face: Face, look: Appearance) -> float:
    likeness = person.look.likeness(look)
    return 1 - likeness if likeness >= ALIKE else FAR


def _assign(
    people: Sequence[_Person], candidates: Sequence[Candidate], cost: Callable[[_Person, Face, Appearance], float]
) -> list[tuple[_Person, int]]:
    """Pairs of a person and a candidate's row at the least total cost; pairs that cost FAR stay apart."""
    if not people or not candidates:
        return []
    from scipy.optimize import linear_sum_assignment

    costs = np.array([[cost(person, face, look) for _, face, look in candidates] for person in people])
    pairs = zip(*linear_sum_assignment(costs), strict=True)
    return [(people[i], candidates[j][0]) for i, j in pairs if costs[i, j] < FAR]
