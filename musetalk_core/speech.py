"""Voice activity: where in a sound somebody speaks, by energy with hysteresis over an adaptive noise floor.

Levels are in dB of full scale (a mean square of 1 is 0 dB), of the band where voices are and mains hum is not, every
10 ms. A sound is known as a file, or comes in live; a file may be looked into ahead, by a few seconds.
"""

from collections.abc import Iterator

import numpy as np

RATE = 16000
HOP = 160  # samples: 10 ms
HOPS_PER_SECOND = RATE // HOP
WINDOW, FFT = 400, 512  # 25 ms, the usual frame of speech analysis
BAND = (200.0, 4000.0)  # Hz: above the harmonics of mains hum that are strong, below most hiss
SILENCE = -80.0  # dB: nothing is taken as quieter
# The noise floor is the quietest level of FLOOR_HOPS before or after a moment, whichever is louder: what stays at its
# level for two seconds is noise, and speech always has a gap in that time (closures, breaks between words).
FLOOR_HOPS = 200
LEAST_FLOOR_HOPS = 100  # with less known on a side that side says nothing
UNKNOWN_FLOOR = -60.0  # dB: at most assumed when neither side says anything
FLOOR_MARGIN = 10.0  # dB over the floor that noise does not reach: 25 ms levels of steady noise spread by about 1 dB
# The loudness of the speech is its loudest level, forgotten by 0.5 dB a second so that a quieter speaker is found.
PEAK_DECAY = 0.5 / HOPS_PER_SECOND
START_PEAK, LEAST_PEAK = -35.0, -50.0  # dB: before anything was heard, and the quietest that counts as speech
HYSTERESIS = 6.0  # dB that speech may fall below what starts it
ATTACK_HOPS = 30  # soft consonants this long before the louder sound belong to it
SHORTEST_HOPS = 5  # clicks are shorter than this, syllables longer
PAUSE_HOPS = 30  # shorter gaps are within speech: closures last up to 0.15 s, breaks between phrases begin at 0.3 s
CONTEXT = ATTACK_HOPS + SHORTEST_HOPS + PAUSE_HOPS


def levels_of(samples: np.ndarray) -> np.ndarray:
    """The band's levels (n,) in dB of samples (240 + 160 n,) float32: hop k is heard in the 25 ms that end with it."""
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    shape = np.hanning(WINDOW)
    spectrum = np.abs(np.fft.rfft(windows * shape, FFT)) ** 2
    bins = np.fft.rfftfreq(FFT, 1 / RATE)
    power = spectrum[:, (bins >= BAND[0]) & (bins <= BAND[1])].sum(1) * 2 / (FFT * (shape**2).sum())
    return 10 * np.log10(np.maximum(power, 10 ** (SILENCE / 10)))


class SpeechDetector:
    """Says for every 10 ms whether somebody speaks, from samples (n,) float32 at 16 kHz fed in blocks of any size.

    level: dB below the speech's loudness from which a sound is silence. live: decide at once, from the past alone;
    else up to 2.7 s after the sound was fed, so that speech is known from its very beginning. The decisions do not
    depend on the blocks; memory is bounded.
    """

    def __init__(self, level: float, live: bool = False) -> None:
        self._level, self._live = level, live
        self._ahead = 0 if live else FLOOR_HOPS
        self._samples = np.zeros(WINDOW - HOP, np.float32)
        self._levels = np.zeros(0)
        self._first = 0  # hop of _levels[0]
        self._judged = 0  # hops that are strong, weak or neither
        self._peak = START_PEAK
        self._on = False
        self._since = PAUSE_HOPS  # hops since the last sound, live
        before = np.zeros(0 if live else CONTEXT, bool)
        self._strong, self._weak, self._held = before, before, before

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """The decisions (k,) bool that follow from these samples, from where the last call ended."""
        self._samples = np.concatenate([self._samples, np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)])
        hops = (len(self._samples) - WINDOW + HOP) // HOP
        if hops > 0:
            self._levels = np.concatenate([self._levels, levels_of(self._samples[: WINDOW - HOP + hops * HOP])])
            self._samples = self._samples[hops * HOP :]
        return self._judge(self._end - self._ahead, False)

    def finish(self) -> np.ndarray:
        """The decisions that were waiting for more sound; nothing may be fed afterwards."""
        rest = -(-(len(self._samples) - WINDOW + HOP) // HOP)
        if rest > 0:
            padded = np.pad(self._samples, (0, HOP))[:WINDOW]
            self._levels = np.concatenate([self._levels, levels_of(padded)])
        return self._judge(self._end, True)

    @property
    def _end(self) -> int:
        return self._first + len(self._levels)

    def _judge(self, stop: int, last: bool) -> np.ndarray:
        """Decide the hops up to `stop` as far as the context allows; with `last` all of them."""
        start, stop = self._judged, max(stop, self._judged)
        if start == stop and not last:
            return np.zeros(0, bool)
        threshold = self._thresholds(start, stop)
        here = self._levels[start - self._first : stop - self._first]
        strong, weak = here >= threshold, here >= threshold - HYSTERESIS
        held, self._on = _hysteresis(strong, weak, self._on)
        self._judged = stop
        self._forget()
        if self._live:
            return self._extended(held)
        after = np.zeros(CONTEXT if last else 0, bool)
        self._strong, self._weak, self._held = (
            np.concatenate([*old_and_new, after])
            for old_and_new in ((self._strong, strong), (self._weak, weak), (self._held, held))
        )
        return self._cleaned()

    def _thresholds(self, start: int, stop: int) -> np.ndarray:
        """dB from which the hops start..stop-1 are speech, (stop - start,)."""
        hops = np.arange(start, stop)
        known = self._levels
        past = _trailing_minimum(known, FLOOR_HOPS)[start - self._first : stop - self._first]
        future = _trailing_minimum(known[::-1], FLOOR_HOPS)[::-1][start - self._first : stop - self._first]
        floor = np.maximum(
            np.where(hops + 1 >= LEAST_FLOOR_HOPS, past, -np.inf),
            np.where((self._end - hops >= LEAST_FLOOR_HOPS) & (self._ahead > 0), future, -np.inf),
        )
        floor = np.where(np.isinf(floor), np.minimum(np.minimum(past, future), UNKNOWN_FLOOR), floor)
        return np.maximum(self._peaks(start, stop) - self._level, floor + FLOOR_MARGIN)

    def _peaks(self, start: int, stop: int) -> np.ndarray:
        """The loudness of the speech at the hops, as far as it is heard `ahead` of them; keeps the last one."""
        reach = np.minimum(np.arange(start, stop) + self._ahead, self._end - 1)
        if not len(reach):
            return np.zeros(0)
        # Of the levels up to reach[0] all were seen with the last hop, or at the start none.
        first = max(start + self._ahead, 0) if start else 0
        new = self._levels[first - self._first : int(reach[-1]) + 1 - self._first]
        rising = np.concatenate([[self._peak], new]) + PEAK_DECAY * np.arange(len(new) + 1)
        peaks = np.maximum.accumulate(rising) - PEAK_DECAY * np.arange(len(new) + 1)
        self._peak = float(peaks[-1])
        return np.maximum(peaks[np.maximum(reach - first + 1, 0).clip(max=len(peaks) - 1)], LEAST_PEAK)

    def _forget(self) -> None:
        keep = max(self._judged - FLOOR_HOPS, self._first)
        self._levels, self._first = self._levels[keep - self._first :], keep

    def _extended(self, held: np.ndarray) -> np.ndarray:
        """Live: speech goes on until a pause is long enough to be one."""
        spoken = np.zeros(len(held), bool)
        for k, sound in enumerate(held):
            self._since = 0 if sound else self._since + 1
            spoken[k] = self._since < PAUSE_HOPS
        return spoken

    def _cleaned(self) -> np.ndarray:
        """The decisions that have all their context: beginnings added, clicks taken out, short gaps filled."""
        count = len(self._held) - 2 * CONTEXT
        if count <= 0:
            return np.zeros(0, bool)
        spoken = self._held | _attacks(self._strong, self._weak)
        spoken = _grown(_shrunk(spoken, SHORTEST_HOPS), SHORTEST_HOPS)
        spoken = _shrunk(_grown(spoken, PAUSE_HOPS), PAUSE_HOPS)
        self._strong, self._weak, self._held = (part[count:] for part in (self._strong, self._weak, self._held))
        return spoken[CONTEXT : CONTEXT + count]


def detect_speech(blocks: Iterator[np.ndarray], level: float, live: bool = False) -> Iterator[np.ndarray]:
    """Decisions (k,) bool, one for every 10 ms begun, of a whole sound in blocks (n,) float32 at 16 kHz."""
    detector = SpeechDetector(level, live)
    for block in blocks:
        yield detector.feed(block)
    yield detector.finish()


def _hysteresis(strong: np.ndarray, weak: np.ndarray, on: bool) -> tuple[np.ndarray, bool]:
    """On from the first strong to the last weak of a run, and the state after it."""
    event = np.where(strong, 1, np.where(weak, -1, 0))
    last = np.maximum.accumulate(np.where(event >= 0, np.arange(len(event)), -1))
    held = np.where(last >= 0, event[np.maximum(last, 0)] == 1, on)
    return held, bool(held[-1]) if len(held) else on


def _attacks(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """Weak hops from which at most ATTACK_HOPS weak ones lead to a strong one."""
    count = len(strong)
    decided = np.where(strong | ~weak, np.arange(count), count)
    following = np.minimum.accumulate(decided[::-1])[::-1]
    found = np.append(strong, False)[following]
    return found & (following - np.arange(count) <= ATTACK_HOPS)


def _grown(values: np.ndarray, width: int) -> np.ndarray:
    """True for the `width` hops from each True one on."""
    padded = np.concatenate([np.zeros(width - 1, bool), values])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, width).any(1))


def _shrunk(values: np.ndarray, width: int) -> np.ndarray:
    """True where the `width` hops from here on are True: takes back what _grown added at the end."""
    padded = np.concatenate([values, np.zeros(width - 1, bool)])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, width).all(1))


def _trailing_minimum(values: np.ndarray, width: int) -> np.ndarray:
    """The least of the last `width` values, or of as many as there are."""
    if not len(values):
        return values
    padded = np.concatenate([np.full(width - 1, np.inf), values])
    return np.lib.stride_tricks.sliding_window_view(padded, width).min(1)
