"""One output frame made in advance: what the settings do at a moment, and what other bbox_shifts would do there."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from .audio_features import TokenSource
from .batches import BatchSize
from .blending import check_own_mask, composite, faded
from .errors import MuseTalkError
from .faces.detector import Face
from .faces.geometry import bbox_shift_range, crop_face, fit_face, placed_box
from .faces.track import FaceTrack
from .faces.upright import roll, upright_points
from .latents import decode_faces
from .media.source import FrameSource
from .pipeline import Models, prepare_frames
from .settings import LipSyncSettings
from .silence import GatedTokens
from .timeline import output_count, source_index

MOST_SHIFTS = 24
EXAMPLE = "-14, -7, 0, 7, 14"
ADVICE = "A positive bbox_shift opens the mouth more, a negative one less; try values from {} to {}."


@dataclass(frozen=True)
class Moment:
    """An output frame before it is generated.

    frame: its number (0-based) at `fps`; index: the source frame it shows, of `source_frames`; picture: that frame
    (H,W,3) in the source's dtype; face: the speaker's, None without one; tokens: (1,n,D) what the frame hears; shown:
    how much of the generated face shows there, 0..1; angle: how far the head leans in radians, 0 when its crop is not
    turned with it; own_mask: a user's mask of the frame (1,H,W), None without one.
    """

    frame: int
    fps: Fraction
    index: int
    source_frames: int
    picture: torch.Tensor
    face: Face | None
    tokens: torch.Tensor
    shown: float = 1.0
    angle: float = 0.0
    own_mask: torch.Tensor | None = None

    @property
    def seconds(self) -> float:
        """When the frame is shown."""
        return float(self.frame / self.fps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frame."""
        return int(self.picture.shape[0]), int(self.picture.shape[1])

    @property
    def shift_range(self) -> tuple[int, int]:
        """The bbox_shift that suits the face, lowest and highest in pixels; (0, 0) without a face."""
        if self.face is None:
            return 0, 0
        return bbox_shift_range(upright_points(self.face.landmarks, self.face.box, self.angle)[None])

    @property
    def title(self) -> str:
        """Which frame this is, in words."""
        return f"output frame {self.frame} at {self.seconds:.2f} s, source frame {self.index} of {self.source_frames}"


@dataclass(frozen=True)
class Take:
    """A moment made with one bbox_shift.

    picture: (H,W,3) the finished frame, the source's own where nothing was generated; problem: one sentence about
    what is wrong with this shift or this frame, "" when nothing is. None without a crop box: box (4,) x1 y1 x2 y2;
    mask (box height, box width) uint8; crop (256,256,3) uint8; made (256,256,3) float32 0..1, the generated face.
    angle: of the box, in radians.
    """

    shift: int
    picture: torch.Tensor
    problem: str = ""
    box: np.ndarray | None = None
    mask: np.ndarray | None = None
    crop: torch.Tensor | None = None
    made: torch.Tensor | None = None
    angle: float = 0.0


def output_frame(seconds: float, fps: Fraction, frames: int) -> int:
    """The output frame that is shown at a moment: floor(seconds * fps), seconds taken as the decimal they are written.

    Raises MuseTalkError outside the `frames` of the result.
    """
    # As a decimal, because 1.16 * 25 is 28.999999999999996 in floating point.
    frame = int(Fraction(str(seconds)) * fps) if math.isfinite(seconds) else -1
    if not 0 <= frame < frames:
        length = float(frames / fps)
        raise MuseTalkError(f"seconds is {seconds:g} and the result lasts {length:.2f} s; give an earlier moment.")
    return frame


def sweep_shifts(text: str, current: int) -> list[int]:
    """The bbox_shifts of a list such as "-14, -7, 0", which may be empty, and the current one; rising, each once.

    Raises MuseTalkError for anything but whole numbers from -1000 to 1000, and for more than 24 of them.
    """
    shifts = {current}
    for word in text.replace(",", " ").replace(";", " ").split():
        try:
            shift = int(word)
        except ValueError as error:
            raise MuseTalkError(f"sweep holds {word!r}; give whole numbers, such as {EXAMPLE}, or nothing.") from error
        if not -1000 <= shift <= 1000:
            raise MuseTalkError(f"sweep holds {shift}; give bbox_shifts from -1000 to 1000.")
        shifts.add(shift)
    if len(shifts) > MOST_SHIFTS:
        raise MuseTalkError(f"sweep makes {len(shifts)} pictures; give fewer, at most {MOST_SHIFTS} fit on the sheet.")
    return sorted(shifts)


def find_moment(
    source: FrameSource,
    tokens: TokenSource,
    seconds: float,
    models: Models,
    settings: LipSyncSettings,
    own_mask: torch.Tensor | None = None,
) -> Moment:
    """Read the frame that the result shows at `seconds` and find its face; decodes one picture of the source.

    People are counted in this picture alone, so settings.faces.face_index goes from left to right here. own_mask: a
    user's mask (1,H,W), or one for every source frame. Raises MuseTalkError for a moment outside the result and for
    a mask that does not fit.
    """
    if own_mask is not None:
        check_own_mask(own_mask, len(source), source.size)
    length = tokens.frames / tokens.fps
    count = output_count(length, tokens.fps, len(source), source.fps, settings.mode)
    frame = output_frame(seconds, tokens.fps, count)
    index = source_index(frame, len(source), source.fps, tokens.fps, settings.mode)
    picture = next(iter(source.read([index])))
    face = models.locator.find(picture)
    shown = float(tokens.shown(frame, frame + 1)[0]) if isinstance(tokens, GatedTokens) else 1.0
    angle = roll(face.landmarks) if face is not None and settings.faces.upright else 0.0
    heard = tokens.tokens(frame, frame + 1)
    own = own_mask if own_mask is None or len(own_mask) == 1 else own_mask[index : index + 1]
    return Moment(frame, tokens.fps, index, len(source), picture, face, heard, shown, angle, own)


def make_take(moment: Moment, shift: int, models: Models, settings: LipSyncSettings) -> Take:
    """The moment with bbox_shift `shift`, by the stages of pipeline.lip_sync and equal to what it gives for this frame.

    What stands in the way is told in the take's `problem`.
    """
    if moment.face is None:
        problem = f"No face was found at {moment.seconds:.2f} s, so the frame stays as it is; choose another moment."
        return Take(shift, moment.picture, problem)
    if moment.shown == 0:
        problem = f"Nobody speaks at {moment.seconds:.2f} s, so the frame stays as it is; choose another moment."
        return Take(shift, moment.picture, problem)
    box, angle = _placed(moment, moment.face.box, shift, settings)
    if box is None:
        return Take(shift, moment.picture, f"bbox_shift {shift} leaves no crop box; {_within_range(moment)}.")
    landmarks, angles = moment.face.landmarks[None], np.array([angle], np.float32)
    track = FaceTrack(box[None], landmarks, np.array([True]), moment.size, angles=angles)
    prepared = prepare_frames(moment.picture[None], track, models, BatchSize(1), moment.own_mask)[0]
    assert prepared.masked is not None and prepared.reference is not None and prepared.mask is not None
    latents = models.generator.generate(prepared.masked[None], prepared.reference[None], moment.tokens)
    made = decode_faces(models.decode_codec, latents)[0].cpu()
    angle = prepared.angle
    crop = crop_face(moment.picture, box, angle)
    if not torch.isfinite(made).all():
        problem = "The networks gave unusable pixels, so the frame stays as it is; load the models with precision fp32."
        return Take(shift, moment.picture, problem, box, prepared.mask, crop, made.nan_to_num(0.0), angle)
    mask = faded(prepared.mask, moment.shown)
    picture = composite(moment.picture, fit_face(made, box), box, mask, settings.mask.colour_match, angle)
    return Take(shift, picture, _fallback(moment, shift, settings), box, prepared.mask, crop, made, angle)


def _placed(
    moment: Moment, face_box: np.ndarray, shift: int, settings: LipSyncSettings
) -> tuple[np.ndarray | None, float]:
    """The crop box and its angle; face_box (4,) is used when the landmarks give none."""
    assert moment.face is not None
    subpixel, upright, margin = settings.faces.subpixel, settings.faces.upright, settings.extra_margin
    return placed_box(moment.face.landmarks, face_box, moment.size, shift, margin, subpixel, upright)


def _fallback(moment: Moment, shift: int, settings: LipSyncSettings) -> str:
    """A sentence when the landmarks give no box with this shift and the detector's box took its place."""
    if _placed(moment, np.full(4, np.nan), shift, settings)[0] is not None:
        return ""
    return f"bbox_shift {shift} leaves no crop box, so the whole face is generated; {_within_range(moment)}."


def _within_range(moment: Moment) -> str:
    low, high = moment.shift_range
    return f"stay within {low} to {high}"


def box_text(box: np.ndarray) -> str:
    """A box as "61,40 - 170,190 (109 x 150)": two corners and its size in pixels."""
    x1, y1, x2, y2 = (int(edge) for edge in box)
    return f"{x1},{y1} - {x2},{y2} ({x2 - x1} x {y2 - y1})"


def report(moment: Moment, take: Take, sweep: Sequence[Take]) -> str:
    """Lines for people: the frame, its face, the crop box, the bbox_shift range and advice; the boxes of the others."""
    lines = [moment.title]
    if moment.face is None or take.box is None:
        return "\n".join([*lines, take.problem])
    low, high = moment.shift_range
    lines += [
        f"face: {box_text(moment.face.box)}",
        f"crop box: {box_text(take.box)}",
        f"bbox_shift range: [{low}~{high}], used: {take.shift}",
        take.problem or ADVICE.format(low, high),
    ]
    for other in sweep:
        if other.shift != take.shift:
            box = "" if other.box is None else box_text(other.box)
            lines.append(other.problem or f"bbox_shift {other.shift}: {box}")
    return "\n".join(lines)
