"""Everything a lip-synced result depends on besides the models and the inputs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from .errors import MuseTalkError
from .timeline import MATCH_MODES, MatchMode

Version = Literal["v1.5", "v1.0", "demo"]
ParsingMode = Literal["jaw", "raw", "neck"]
PARSING_MODES: tuple[ParsingMode, ...] = ("jaw", "raw", "neck")
MaskShape = Literal["parsing", "landmarks", "ellipse"]
MASK_SHAPES: tuple[MaskShape, ...] = ("parsing", "landmarks", "ellipse")
Silence = Literal["off", "close", "original"]
SILENCES: tuple[Silence, ...] = ("off", "close", "original")
FaceChoice = Literal["largest", "left", "right"]
FACE_CHOICES: tuple[FaceChoice, ...] = ("largest", "left", "right")
DetectorChoice = Literal["auto", "dwpose", "mediapipe", "mmpose"]
DETECTORS: tuple[DetectorChoice, ...] = ("auto", "dwpose", "mediapipe", "mmpose")
Segmentation = Literal["overlap", "upstream"]
SEGMENTATIONS: tuple[Segmentation, ...] = ("overlap", "upstream")


def _within(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MuseTalkError(f"{name} is {value!r}; give a number from {low:g} to {high:g}.")
    if not low <= value <= high:
        raise MuseTalkError(f"{name} is {value}; give {low:g} to {high:g}.")


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int):
        raise MuseTalkError(f"{name} is {value!r}; give a whole number from {low} to {high}.")
    _within(name, value, low, high)


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise MuseTalkError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _true_or_false(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise MuseTalkError(f"{name} is {value!r}; give true or false.")


@dataclass(frozen=True)
class MaskSettings:
    """How the generated face is blended back.

    parsing_mode: face classes that are replaced. cheek widths: pixels of the 512-pixel parsing picture, from its
    centre, outside which mode "jaw" keeps the narrower mask. expand: side of the parsed square relative to the
    box's longer side. blur: Gaussian kernel as a share of that square. upper_boundary_ratio: share of the square,
    from its top, that is never replaced. mask_shape: parsing (parsing_mode, from landmarks without a parser),
    landmarks, or an ellipse in the box. feather: frame pixels over which the
    mask fades inwards from its edge. colour_match: share, 0..1, of the generated face's difference in colour to the
    ring around the mask that is taken away. occlusion: keep what the parser sees in front of the face.
    """

    parsing_mode: ParsingMode = "jaw"
    left_cheek_width: int = 90
    right_cheek_width: int = 90
    expand: float = 1.5
    blur: float = 0.05
    upper_boundary_ratio: float = 0.5
    mask_shape: MaskShape = "parsing"
    feather: int = 0
    colour_match: float = 0.0
    occlusion: bool = False

    def __post_init__(self) -> None:
        _one_of("parsing_mode", self.parsing_mode, PARSING_MODES)
        _whole("left_cheek_width", self.left_cheek_width, 0, 256)
        _whole("right_cheek_width", self.right_cheek_width, 0, 256)
        _within("expand", self.expand, 1.0, 4.0)
        _within("blur", self.blur, 0.0, 0.5)
        _within("upper_boundary_ratio", self.upper_boundary_ratio, 0.0, 1.0)
        _one_of("mask_shape", self.mask_shape, MASK_SHAPES)
        _whole("feather", self.feather, 0, 512)
        _within("colour_match", self.colour_match, 0.0, 1.0)
        _true_or_false("occlusion", self.occlusion)


@dataclass(frozen=True)
class SilenceSettings:
    """What happens where nobody speaks.

    silence: off (the mouth follows every sound), close (it closes), original (the source frame shows). silence_fade:
    video frames over which one goes over into the other. silence_level: dB below the speech's loudness from which a
    sound is silence.
    """

    silence: Silence = "off"
    silence_fade: int = 3
    silence_level: float = 24.0

    def __post_init__(self) -> None:
        _one_of("silence", self.silence, SILENCES)
        _whole("silence_fade", self.silence_fade, 0, 120)
        _within("silence_level", self.silence_level, 6.0, 60.0)


@dataclass(frozen=True)
class FaceSettings:
    """How the speaker is followed.

    face_index: the person that speaks, counted from 0 in order of appearance, left to right; -1 leaves it to `face`.
    reference: text of appearance.reference_text, the person most like it speaks; "" none, else it wins over
    face_index. detect_every: the detector searches every so many frames, landmarks are followed between. smoothing:
    frames over which boxes and landmarks are averaged (standard deviation of the weights); 0 none. subpixel: the box
    is not rounded to whole pixels. upright: the crop is turned with the head, so that the eyes are level in it; nothing
    is rounded then.
    """

    face_index: int = -1
    reference: str = ""
    detect_every: int = 1
    smoothing: float = 0.0
    subpixel: bool = False
    upright: bool = False

    def __post_init__(self) -> None:
        _whole("face_index", self.face_index, -1, 63)
        _whole("detect_every", self.detect_every, 1, 100)
        _within("smoothing", self.smoothing, 0.0, 25.0)
        _true_or_false("subpixel", self.subpixel)
        _true_or_false("upright", self.upright)


@dataclass(frozen=True)
class LipSyncSettings:
    """Hashable settings of a run; saved beside results.

    bbox_shift: pixels, moves the box's top edge by twice that (positive opens the mouth more). extra_margin:
    pixels added below the chin. audio paddings: video frames of 1/25 s of audio context on each side.
    batch_size: frames in one pass of the networks, 0 as many as fit (batches.batch_frames). allow_no_face: a source
    without any face is passed through with the new sound instead of being refused. detector: what finds faces, see
    faces.backends.
    """

    bbox_shift: int = 0
    extra_margin: int = 10
    face: FaceChoice = "largest"
    mode: MatchMode = "ping-pong"
    segmentation: Segmentation = "overlap"
    audio_padding_left: int = 2
    audio_padding_right: int = 2
    batch_size: int = 8
    allow_no_face: bool = False
    detector: DetectorChoice = "auto"
    mask: MaskSettings = MaskSettings()
    faces: FaceSettings = FaceSettings()
    silence: SilenceSettings = SilenceSettings()

    def __post_init__(self) -> None:
        _whole("bbox_shift", self.bbox_shift, -1000, 1000)
        _whole("extra_margin", self.extra_margin, 0, 1000)
        _one_of("face", self.face, FACE_CHOICES)
        _one_of("mode", self.mode, MATCH_MODES)
        _one_of("segmentation", self.segmentation, SEGMENTATIONS)
        _whole("audio_padding_left", self.audio_padding_left, 0, 25)
        _whole("audio_padding_right", self.audio_padding_right, 0, 25)
        _whole("batch_size", self.batch_size, 0, 1024)
        _one_of("detector", self.detector, DETECTORS)

    @classmethod
    def for_version(cls, version: str, **changes: Any) -> "LipSyncSettings":
        """Upstream's defaults of a MuseTalk version, then `changes` (see `changed`).

        v1.5 and demo: margin 10, jaw, cheeks 90. v1.0: no margin, raw, cheeks 80 (upstream scripts/inference.py
        and blending defaults).
        """
        settings = cls()
        if version == "v1.0":
            settings = cls(extra_margin=0, mask=MaskSettings("raw", 80, 80))
        return settings.changed("The settings", changes)

    def changed(self, owner: str, changes: Mapping[str, Any]) -> "LipSyncSettings":
        """These settings with some fields (of this class or of a group in it, as MaskSettings) replaced.

        Raises MuseTalkError for an unknown name, saying whose (`owner`) it is, and for a value out of range.
        """
        groups = {field.name for field in fields(self) if is_dataclass(getattr(self, field.name))}
        owners = {name: "" for name in (field.name for field in fields(self)) if name not in groups}
        owners |= {field.name: group for group in groups for field in fields(getattr(self, group))}
        unknown = sorted(set(changes) - set(owners))
        if unknown:
            raise MuseTalkError(f"{owner}: {unknown[0]!r} is no setting; known are {', '.join(sorted(owners))}.")
        mine: dict[str, Any] = {name: value for name, value in changes.items() if not owners[name]}
        for group in groups:
            inside = {name: value for name, value in changes.items() if owners[name] == group}
            mine[group] = replace(getattr(self, group), **inside)
        return replace(self, **mine)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, ready for JSON."""
        return asdict(self)
