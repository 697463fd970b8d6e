"""Frame counts, source indices and feature rows by integer arithmetic that shares nothing with the code."""

from fractions import Fraction

import pytest

from musetalk_core.audio_features import FrameRows
from musetalk_core.errors import MuseTalkError
from musetalk_core.timeline import MATCH_MODES, frame_count, output_count, rational_fps, shows_again, source_index

# rate as (numerator, denominator); audio as samples at 16 kHz
RATES = [(24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1), (60, 1)]
NTSC = Fraction(30000, 1001)
AUDIO = {0.04: 640, 1: 16000, 15: 240000, 61: 976000, 600: 9600000, 3600: 57600000}


def picked(count):
    """Frames at both ends and in between."""
    return sorted({*range(min(count, 400)), *range(0, count, 997), *range(max(0, count - 400), count)})


@pytest.mark.parametrize(("p", "q"), RATES)
@pytest.mark.parametrize("samples", AUDIO.values())
def test_frame_count_by_formula(p, q, samples):
    expected = (samples * p) // (16000 * q)
    if expected == 0:
        with pytest.raises(MuseTalkError, match="less than one frame"):
            frame_count(Fraction(samples, 16000), Fraction(p, q))
    else:
        assert frame_count(Fraction(samples, 16000), Fraction(p, q)) == expected


def test_frame_counts_worked_by_hand():
    """61 s: 61*24000/1001 = 1462.5, 61*30000/1001 = 1828.1; 1 h: 86313.6 and 107892.1; 0.04 s at 25 is one frame."""
    counts = {
        (61, (24000, 1001)): 1462,
        (61, (25, 1)): 1525,
        (61, (30000, 1001)): 1828,
        (3600, (24000, 1001)): 86313,
        (3600, (30000, 1001)): 107892,
        (3600, (60, 1)): 216000,
    }
    for (seconds, (p, q)), expected in counts.items():
        assert frame_count(Fraction(seconds), Fraction(p, q)) == expected
    assert frame_count(Fraction(640, 16000), Fraction(25)) == 1


@pytest.mark.parametrize(("p", "q"), RATES)
@pytest.mark.parametrize("samples", [n for n in AUDIO.values() if n > 640])
def test_feature_row_by_formula(p, q, samples):
    """Frame i starts at i*q/p s; the row that covers this time is the last r with r*p <= i*50*q."""
    rows = FrameRows(Fraction(p, q), left=2, right=2)
    assert rows.count == 10
    for i in picked(samples * p // (16000 * q)):
        row = rows.first(i) + 4
        assert row * p <= i * 50 * q < (row + 1) * p


@pytest.mark.parametrize(("p", "q"), RATES)
@pytest.mark.parametrize("source_rate", [(6, 1), (12, 1), (24000, 1001), (25, 1), (60, 1)])
@pytest.mark.parametrize("samples", [n for n in AUDIO.values() if n > 640])
def test_source_index_by_formula(p, q, source_rate, samples):
    """Output frame i at time i*q/p shows source frame j = floor(i*q*sp / (p*sq)), carried on as each mode says."""
    sp, sq = source_rate
    n = 37
    there_and_back = [*range(n), *reversed(range(n))]
    rate, fps = Fraction(sp, sq), Fraction(p, q)
    for i in picked(samples * p // (16000 * q)):
        j = (i * q * sp) // (p * sq)
        assert source_index(i, n, rate, fps, "ping-pong") == there_and_back[j % len(there_and_back)]
        assert source_index(i, n, rate, fps, "loop") == j - n * (j // n)
        assert source_index(i, n, rate, fps, "hold") == (j if j < n else n - 1)


def test_ping_pong_doubles_both_ends():
    shown = [source_index(i, 3, Fraction(25), Fraction(25), "ping-pong") for i in range(13)]
    assert shown == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0, 0]


def test_slow_sources_at_25():
    """6 fps: frame j lasts from 25j/6, so 5 4 4 4 4 4 outputs each over one second; 12 fps: every 25/12 outputs."""
    six = [source_index(i, 100, Fraction(6), Fraction(25), "hold") for i in range(25)]
    assert [six.count(j) for j in range(6)] == [5, 4, 4, 4, 4, 4]
    twelve = [source_index(i, 100, Fraction(12), Fraction(25), "hold") for i in range(25)]
    assert [twelve.count(j) for j in range(12)] == [3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("mode", ["ping-pong", "loop", "hold", "trim"])
def test_one_picture_is_always_shown(mode):
    assert {source_index(i, 1, Fraction(25), NTSC, mode) for i in range(500)} == {0}


@pytest.mark.parametrize("mode", ["ping-pong", "loop", "hold"])
def test_the_audio_says_how_many_frames(mode):
    assert output_count(Fraction(15), NTSC, 10, Fraction(25), mode) == 449
    assert output_count(Fraction(15), NTSC, 10**6, Fraction(25), mode) == 449


def test_trim_takes_the_shorter():
    """100 frames at 24000/1001 last 4.1708 s: 104 frames at 25; audio of 3 s: 75; 50 frames at 25: 50 of them."""
    film = Fraction(24000, 1001)
    assert output_count(Fraction(15), Fraction(25), 100, film, "trim") == 104
    assert output_count(Fraction(3), Fraction(25), 100, film, "trim") == 75
    assert output_count(Fraction(15), Fraction(25), 50, Fraction(25), "trim") == 50
    assert max(source_index(i, 100, film, Fraction(25), "trim") for i in range(104)) == 98
    assert output_count(Fraction(15), Fraction(1), 1, Fraction(25), "trim") == 1


@pytest.mark.parametrize("mode", MATCH_MODES)
@pytest.mark.parametrize("rates", [(25, 25), (10, 25), (30, 25)])
def test_a_frame_shows_again_when_another_came_between(mode, rates):
    source_fps, fps = map(Fraction, rates)
    for source_frames in (1, 2, 5):
        for frames in range(1, 30):
            shown = [source_index(i, source_frames, source_fps, fps, mode) for i in range(frames)]
            runs = [index for i, index in enumerate(shown) if i == 0 or shown[i - 1] != index]
            expected = len(set(runs)) < len(runs)
            assert shows_again(frames, source_frames, source_fps, fps, mode) == expected, (source_frames, frames)


@pytest.mark.parametrize(
    ("given", "p", "q"),
    [
        (29.97002997, 30000, 1001),
        (30000 / 1001, 30000, 1001),
        (23.976023976, 24000, 1001),
        (59.94005994005994, 60000, 1001),
        (25, 25, 1),
        (25.0, 25, 1),
        ("24000/1001", 24000, 1001),
        (12.5, 25, 2),
        (1, 1, 1),
        (120, 120, 1),
    ],
)
def test_rates_become_fractions(given, p, q):
    fps = rational_fps(given)
    assert (fps.numerator, fps.denominator) == (p, q)


@pytest.mark.parametrize("given", [0, -25, 0.5, 121, float("nan"), float("inf"), "fast", "1/0", None, [25]])
def test_bad_rates_are_refused(given):
    with pytest.raises(MuseTalkError, match="frame rate"):
        rational_fps(given)


def test_bad_counts_and_modes_are_refused():
    with pytest.raises(MuseTalkError, match="0 frames"):
        output_count(Fraction(1), Fraction(25), 0, Fraction(25), "loop")
    with pytest.raises(MuseTalkError, match="less than one frame"):
        output_count(Fraction(0), Fraction(25), 10, Fraction(25), "loop")
    with pytest.raises(MuseTalkError, match="'backwards'"):
        source_index(0, 10, Fraction(25), Fraction(25), "backwards")
