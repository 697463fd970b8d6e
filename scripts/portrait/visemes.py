"""From timed phonemes to mouth shapes over time: the viseme table, the phoneme alphabets, coarticulation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CONTROLS = ("jaw", "wide", "up", "tuck", "press")
# jaw: opening; wide: spread (+) or rounded (-); up: raised upper lip; tuck: lower lip under the teeth; press: lips
# pressed together. The last column is dominance: how much a sound insists on its shape next to its neighbours.
TABLE = {
    "sil": (0.02, 0.0, 0.0, 0.0, 0.35, 0.5),
    "aa": (0.85, 0.0, 0.1, 0.0, 0.0, 1.0),
    "ae": (0.7, 0.35, 0.2, 0.0, 0.0, 1.0),
    "ah": (0.4, 0.0, 0.1, 0.0, 0.0, 0.6),
    "eh": (0.45, 0.35, 0.15, 0.0, 0.0, 0.9),
    "iy": (0.17, 0.8, 0.2, 0.0, 0.0, 1.0),
    "ih": (0.25, 0.4, 0.15, 0.0, 0.0, 0.7),
    "uw": (0.15, -0.95, 0.0, 0.0, 0.0, 1.1),
    "uh": (0.25, -0.6, 0.0, 0.0, 0.0, 0.8),
    "ow": (0.48, -0.75, 0.0, 0.0, 0.0, 1.0),
    "ao": (0.65, -0.4, 0.0, 0.0, 0.0, 1.0),
    "er": (0.28, -0.4, 0.1, 0.0, 0.0, 0.8),
    "m": (0.0, 0.0, 0.0, 0.0, 1.0, 2.2),
    "f": (0.06, 0.05, 0.15, 1.0, 0.0, 1.8),
    "w": (0.1, -1.0, 0.0, 0.0, 0.0, 1.2),
    "r": (0.2, -0.5, 0.1, 0.0, 0.0, 0.6),
    "sh": (0.12, -0.55, 0.45, 0.0, 0.0, 1.0),
    "s": (0.08, 0.3, 0.3, 0.0, 0.0, 0.8),
    "t": (0.2, 0.1, 0.2, 0.0, 0.0, 0.4),
    "th": (0.2, 0.1, 0.15, 0.0, 0.0, 0.6),
    "k": (0.26, 0.05, 0.1, 0.0, 0.0, 0.3),
    "y": (0.15, 0.5, 0.1, 0.0, 0.0, 0.5),
}
VISEMES = tuple(TABLE)  # a viseme's class is its place here; 0 is silence
JAW_SCALE = 0.85  # the table's widest "ah" looks exaggerated on a face
LIP_LEAD = 0.02  # seconds the lips are ahead of the sound

_ARPA = (
    "aa:AA ae:AE ah:AH,AX ao:AO er:ER,AXR eh:EH ih:IH,IX iy:IY uh:UH uw:UW,UX m:B,P,M,EM f:F,V w:W,WH r:R "
    "sh:SH,ZH,CH,JH s:S,Z t:T,D,N,L,DX,EN,EL,NX th:TH,DH k:K,G,NG,HH,HV y:Y sil:SIL,PAU,H#,SSIL"
)
ARPA: dict[str, tuple[str, ...]] = {
    phone: (viseme,) for viseme, phones in (p.split(":") for p in _ARPA.split()) for phone in phones.split(",")
}
ARPA |= {
    "AW": ("aa", "uw"),
    "AY": ("aa", "iy"),
    "EY": ("eh", "iy"),
    "OW": ("ao", "uw"),
    "OY": ("ao", "iy"),
}

_IPA_PAIRS: dict[str, tuple[str, ...]] = {
    "aɪ": ("aa", "iy"),
    "aʊ": ("aa", "uw"),
    "ɔɪ": ("ao", "iy"),
    "oʊ": ("ao", "uw"),
    "əʊ": ("ah", "uw"),
    "eɪ": ("eh", "iy"),
    "tʃ": ("sh",),
    "dʒ": ("sh",),
}
_IPA = {
    "aa": "ɑɒ",
    "ae": "æa",
    "ah": "ʌəɐᵊɘ",
    "eh": "ɛe",
    "iy": "i",
    "ih": "ɪɨᵻ",
    "uw": "uʉ",
    "uh": "ʊ",
    "ow": "ɵø",
    "ao": "oɔ",
    "er": "ɚɝɜ",
    "m": "mbp",
    "f": "fvʋ",
    "w": "wʍ",
    "r": "rɹɻʁ",
    "sh": "ʃʒɕʑ",
    "s": "sz",
    "t": "tdnlɾɫɬʔɭɖʈ",
    "th": "θð",
    "k": "kgɡŋhxçɣɦq",
    "y": "jʲ",
}
_IPA_SINGLE = {sound: (viseme,) for viseme, sounds in _IPA.items() for sound in sounds}
_IPA_MARKS = ":'ˈˌːˑʰʷ̩̯̪̃̊̍͡ ˠ‿.-ʼ;"


@dataclass(frozen=True)
class Segment:
    """One sound: from start to end (seconds), through one viseme or, a diphthong, several in equal parts."""

    start: float
    end: float
    visemes: tuple[str, ...]


def arpa_visemes(phone: str) -> tuple[str, ...]:
    """Visemes of an ARPAbet phone ("AH", "ah0", "pau", "+NSN+"); ValueError when it is none."""
    name = phone.upper().rstrip("012")
    if name.startswith("+") or not name:
        return ("sil",)
    if name not in ARPA:
        raise ValueError(f"{phone!r} is no ARPAbet phone of the viseme table")
    return ARPA[name]


def ipa_visemes(phoneme: str) -> tuple[str, ...]:
    """Visemes of an IPA phoneme as espeak-ng names it ("ˈaɪ", "ɑːɹ", "əl"); a pause ("", "_:") is silence.

    ValueError for a sound that the table lacks: a phoneme that silently becomes a closed mouth spoils a corpus.
    """
    rest = "".join(c for c in phoneme if c not in _IPA_MARKS)
    if not rest.strip("_:|"):
        return ("sil",)
    found: list[str] = []
    while rest:
        pair = _IPA_PAIRS.get(rest[:2])
        single = _IPA_SINGLE.get(rest[0])
        if pair is None and single is None:
            raise ValueError(f"{rest[0]!r} of the phoneme {phoneme!r} is not in the viseme table")
        found += pair or single or ()
        rest = rest[2 if pair else 1 :]
    return tuple(found)


def curves(
    segments: Sequence[Segment],
    rows: int,
    rate: float,
    samples: np.ndarray | None = None,
    sample_rate: int = 16000,
) -> np.ndarray:
    """Mouth controls (rows,5) float32, CONTROLS in order; row i is the mouth at (i + 0.5) / rate seconds.

    Cohen and Massaro's dominance functions (1993): every sound pulls towards its shape with a weight that falls off
    around its middle, so that neighbours blend and strong shapes (m, f, w) win. samples (M,) make loud sounds open
    wider and quiet ones less; their scale does not matter.
    """
    middles, spans, targets = _targets(segments)
    times = (np.arange(rows) + 0.5) / rate - LIP_LEAD
    reach = np.clip(spans * 0.45, 0.025, 0.12)
    weight = targets[:, 5] * np.exp(-((np.abs(times[:, None] - middles) / reach) ** 1.4)) + 1e-9
    shape = (weight / weight.sum(1, keepdims=True)) @ targets[:, :5]
    shape[:, 0] *= JAW_SCALE
    if samples is not None:
        shape[:, 0] *= np.clip(0.65 + 0.5 * _loudness(samples, rows, rate, sample_rate), 0.6, 1.2)
    return shape.astype(np.float32)


def classes(segments: Sequence[Segment], rows: int, rate: float) -> np.ndarray:
    """The viseme heard at each row's middle, (rows,) uint8, a place in VISEMES; 0 where no segment is."""
    found = np.zeros(rows, np.uint8)
    times = (np.arange(rows) + 0.5) / rate
    for start, end, viseme in _parts(segments):
        found[(times >= start) & (times < end)] = VISEMES.index(viseme)
    return found


def shifted(segments: Sequence[Segment], seconds: float, speed: float = 1.0) -> list[Segment]:
    """The same sounds played `speed` times as fast, then moved by `seconds`."""
    return [Segment(s.start / speed + seconds, s.end / speed + seconds, s.visemes) for s in segments]


def _parts(segments: Sequence[Segment]) -> list[tuple[float, float, str]]:
    parts = []
    for segment in segments:
        span = (segment.end - segment.start) / len(segment.visemes)
        for i, viseme in enumerate(segment.visemes):
            parts.append((segment.start + i * span, segment.start + (i + 1) * span, viseme))
    return parts


def _targets(segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Middles (n,) and spans (n,) in seconds, table rows (n,6); long silences are several short ones."""
    parts = []
    for start, end, viseme in _parts(segments):
        pieces = max(1, round((end - start) / 0.2)) if viseme == "sil" else 1
        parts += [(start + (i + 0.5) * (end - start) / pieces, (end - start) / pieces, viseme) for i in range(pieces)]
    parts = parts or [(0.0, 0.2, "sil")]
    return (
        np.array([middle for middle, _, _ in parts]),
        np.array([span for _, span, _ in parts]),
        np.array([TABLE[viseme] for _, _, viseme in parts]),
    )


def _loudness(samples: np.ndarray, rows: int, rate: float, sample_rate: int) -> np.ndarray:
    """Root mean square over 40 ms around each row, 1 at the 95th percentile of the rows."""
    power = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    middle = (np.arange(rows) + 0.5) * sample_rate / rate
    half = 0.02 * sample_rate
    first = np.clip(np.round(middle - half), 0, len(samples)).astype(int)
    last = np.clip(np.round(middle + half), 0, len(samples)).astype(int)
    loud = np.sqrt((power[last] - power[first]) / np.maximum(last - first, 1))
    return loud / max(float(np.percentile(loud, 95)), 1e-9)
