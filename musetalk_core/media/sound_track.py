"""The sound of a file being written, as AAC."""

from fractions import Fraction

import av
import numpy as np
from av.audio.layout import AudioLayout
from av.container import OutputContainer
from av.packet import Packet

from .audio import AudioSource

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
AAC_FRAME = 1024
AAC_BITS_PER_SAMPLE = 6
AAC_CHANNEL_BITS = 96000
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


class SoundTrack:
    """The sound of a file being written, encoded up to a given time.

    audio: resampled only where AAC lacks its rate, mixed to stereo above two channels. seconds: where it is cut.
    """

    def __init__(self, container: OutputContainer, audio: AudioSource, seconds: Fraction | None) -> None:
        rate = audio.sample_rate if audio.sample_rate in AAC_RATES else 48000
        layout = "mono" if audio.channels not in range(2, 9) else "stereo"
        self._stream = container.add_stream("aac", rate=rate, layout=layout)
        channel_bits = min(AAC_CHANNEL_BITS, AAC_BITS_PER_SAMPLE * rate)
        self._stream.bit_rate = channel_bits * AudioLayout(layout).nb_channels
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=rate, frame_size=AAC_FRAME)
        self._rate = audio.sample_rate
        self._left = audio.samples if seconds is None else min(audio.samples, round(seconds * audio.sample_rate))
        self._blocks = audio.blocks()
        self._fed = 0

    def encode(self, seconds: Fraction) -> list[Packet]:
        """Packets of the sound up to `seconds`, or to its end."""
        packets: list[Packet] = []
        while self._left and self._fed < seconds * self._rate:
            block = next(self._blocks, None)
            if block is None:
                self._left = 0
                break
            block = block[:, : self._left]
            packets += self._packets(_audio_frame(block, self._rate, self._fed))
            self._fed += block.shape[1]
            self._left -= block.shape[1]
        return packets

    def finish(self) -> list[Packet]:
        """Packets of the rest."""
        rest = Fraction(self._fed + self._left, self._rate)
        return [*self.encode(rest), *self._packets(None), *self._stream.encode(None)]

    def _packets(self, frame: av.AudioFrame | None) -> list[Packet]:
        return [packet for part in self._resampler.resample(frame) for packet in self._stream.encode(part)]


def _audio_frame(block: np.ndarray, rate: int, position: int) -> av.AudioFrame:
    """A planar float frame of a block (C,n), clipped to -1..1; sounds of more than 8 channels are averaged."""
    if block.shape[0] not in LAYOUTS:
        block = block.mean(axis=0, keepdims=True)
    samples = np.ascontiguousarray(np.clip(np.nan_to_num(block), -1, 1), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=LAYOUTS[samples.shape[0]])
    frame.sample_rate, frame.pts, frame.time_base = rate, position, Fraction(1, rate)
    return frame
