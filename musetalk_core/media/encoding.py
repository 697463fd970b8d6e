"""How frames are compressed: H.264 by x264, or by the encoder of an NVIDIA card."""

from dataclasses import dataclass
from typing import Literal

from ..errors import MuseTalkError

MAX_CRF = 51
PixelFormat = Literal["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le"]
PIXEL_FORMATS: tuple[PixelFormat, ...] = (
    "yuv420p",
    "yuv422p",
    "yuv444p",
    "yuv420p10le",
    "yuv422p10le",
    "yuv444p10le",
)
Preset = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]
PRESETS: tuple[Preset, ...] = (
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
)
Encoder = Literal["libx264", "h264_nvenc"]
ENCODERS: tuple[Encoder, ...] = ("libx264", "h264_nvenc")
# NVENC has seven presets, p1 the fastest and p4 its default.
NVENC_PRESETS: dict[Preset, str] = {
    "ultrafast": "p1",
    "superfast": "p1",
    "veryfast": "p2",
    "faster": "p3",
    "fast": "p3",
    "medium": "p4",
    "slow": "p5",
    "slower": "p6",
    "veryslow": "p7",
}
NVENC_PIXEL_FORMATS: tuple[PixelFormat, ...] = ("yuv420p", "yuv444p")


@dataclass(frozen=True)
class Encoding:
    """Quality, speed, colours and encoder of an H.264 file.

    crf: 0 (lossless) to 51, x264's constant rate factor; NVENC's constant quality (cq) has the same range. preset:
    x264's names; NVENC takes the nearest of its own. pixel_format: colour samples and bits of the file; NVENC writes
    8-bit 4:2:0 and 4:4:4. Raises MuseTalkError for a value that does not exist or that the encoder does not write.
    """

    crf: int = 18
    preset: Preset = "medium"
    pixel_format: PixelFormat = "yuv420p"
    encoder: Encoder = "libx264"

    def __post_init__(self) -> None:
        if isinstance(self.crf, bool) or not isinstance(self.crf, int) or not 0 <= self.crf <= MAX_CRF:
            raise MuseTalkError(f"crf is {self.crf}; give a whole number from 0 (lossless) to {MAX_CRF}.")
        _known("preset", self.preset, PRESETS)
        _known("pixel format", self.pixel_format, PIXEL_FORMATS)
        _known("encoder", self.encoder, ENCODERS)
        if self.encoder == "h264_nvenc" and self.pixel_format not in NVENC_PIXEL_FORMATS:
            raise MuseTalkError(
                f"The encoder h264_nvenc does not write the pixel format {self.pixel_format}; choose "
                f"{' or '.join(NVENC_PIXEL_FORMATS)}, or the encoder libx264."
            )

    @property
    def options(self) -> dict[str, str]:
        """The encoder's own options, by the names that libavcodec gives them."""
        if self.encoder == "libx264":
            return {"crf": str(self.crf), "preset": self.preset}
        # cq 0 means "automatic" to NVENC; lossless is a tuning of its own.
        quality = {"rc": "vbr", "cq": str(self.crf)} if self.crf else {"tune": "lossless"}
        return {"preset": NVENC_PRESETS[self.preset], **quality}


def _known(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise MuseTalkError(f"The {what} {value!r} is unknown; choose {', '.join(choices)}.")
