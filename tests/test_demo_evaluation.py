"""The evaluation of the demo model: what it measures on frames, corpora and lips that are known, and its verdicts."""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import portrait, tone, write_video

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "scripts"), str(REPOSITORY / "benchmarks")]

import demo_data  # noqa: E402
import demo_driving  # noqa: E402
import demo_sheet  # noqa: E402
import demo_speed  # noqa: E402
import demo_table  # noqa: E402
import evaluate_demo  # noqa: E402
from comfy_setup import HostError  # noqa: E402

from musetalk_core.evaluation import lips  # noqa: E402
from musetalk_core.evaluation.report import failures  # noqa: E402

FRAMES = 60
SPEED = {
    "fp32": {"frames_per_second": 29.9, "threads": 2, "load": 0.1},
    "bf16": {"frames_per_second": 30.0, "threads": 2, "load": 0.1},
}


def curve(seed):
    """A mouth that is closed half of the time and else opens up to 0.3."""
    t = np.arange(FRAMES)
    phase = np.random.default_rng(seed).uniform(0, 6)
    return np.clip(0.3 * np.sin(t * (0.31 + 0.17 * seed) + phase), 0, None)


def face(gap):
    """(68,2) points with the eye corners 50 px apart and this lip gap."""
    points = np.full((68, 2), 30.0)
    points[36], points[45] = (5, 20), (55, 20)
    points[62], points[66] = (30, 40), (30, 40 + 50 * gap)
    return points


def driven(gaps, source_gaps, output=None):
    """What drive would give: a textured picture, its lower half replaced by `output` or by itself."""
    picture = np.repeat(portrait(64)[None], len(gaps), 0)
    mask = np.zeros(picture.shape[:3], np.uint8)
    mask[:, 32:60, 4:60] = 255
    points = np.stack([face(gap) for gap in gaps])
    made = picture if output is None else output
    return demo_driving.Driven(picture, made, mask, points, lips.lip_gap(points), np.asarray(source_gaps))


def result(mouth, source=None):
    """A SourceResult whose output mouths are mouth(k, truth of clip k); silence is the first frame's mouth."""
    truths = [curve(seed) for seed in range(5)]
    sources = [np.zeros(FRAMES) if source is None else source(k) for k in range(5)]
    parts = [driven(mouth(k, truth), own) for k, (truth, own) in enumerate(zip(truths, sources, strict=True))]
    pairs = [(part.gap, truth) for part, truth in zip(parts, truths, strict=True)]
    silence = driven(np.full(30, 0.004), np.zeros(30))
    return demo_driving.SourceResult(parts, silence, pairs, lips.compare(pairs))


def verdicts(still, moving=None):
    """The lines that do not hold, without the name of the source."""
    results = {"still": still, "moving": moving or still, "photo": still}
    return [check.name for check in failures(evaluate_demo.all_checks(results, [], SPEED, 12.5))]


def test_perfect_lips_hold_everywhere():
    assert verdicts(result(lambda _, truth: truth)) == []


def test_each_fault_fails_its_own_line():
    frozen = verdicts(result(lambda _, truth: np.full(FRAMES, 0.01)))
    assert "still: lip correlation, pooled" in frozen and "still: amplitude slope" in frozen
    late = verdicts(result(lambda _, truth: np.roll(truth, 3)))
    assert "still: best lag, frames off" in late
    small = verdicts(result(lambda _, truth: 0.7 * truth))
    assert small == ["still: amplitude slope", "moving: amplitude slope"]
    open_mouthed = verdicts(result(lambda _, truth: truth + 0.05))
    assert open_mouthed == ["still: closures, median gap", "moving: closures, median gap"]
    babble = verdicts(result(lambda _, truth: np.mean([curve(seed) for seed in range(5)], 0)))
    assert "still: crossed pairs, mean correlation" in babble


def test_a_mouth_that_leaks_from_the_moving_source_is_seen():
    leaking = result(lambda k, truth: truth + 0.2 * curve(k + 7), source=lambda k: curve(k + 7))
    assert leaking.leak == pytest.approx(0.2, abs=0.01)
    assert "moving: share of the source's own mouth" in verdicts(result(lambda _, truth: truth), leaking)


def test_an_open_mouth_in_silence_and_unmeasured_frames_fail():
    perfect = result(lambda _, truth: truth)
    gaping = replace(perfect, silence=driven(np.full(30, 0.08), np.zeros(30)))
    assert verdicts(gaping)[:2] == ["still: silence, median gap", "still: silence, 95th percentile of gap"]
    twitching = replace(perfect, silence=driven(np.repeat([0.005, 0.08], (24, 6)), np.zeros(30)))
    assert verdicts(twitching)[0] == "still: silence, 95th percentile of gap"
    lost = result(lambda _, truth: np.where(np.arange(FRAMES) % 20 == 3, np.nan, truth))
    assert "still: output frames with a measured face" in verdicts(lost)


def test_slow_large_or_missing_fails():
    results = dict.fromkeys(("still", "moving", "photo"), result(lambda _, truth: truth))
    held_out, facts = evaluate_demo.held_out_checks(None, None, [])
    slow = {**SPEED, "bf16": {**SPEED["bf16"], "frames_per_second": 29.8}}
    checks = evaluate_demo.all_checks(results, held_out, slow, 21.0)
    assert [check.name.split(",")[0] for check in failures(checks)] == [
        "autoencoder: mouth PSNR on held-out frames",
        "LibriVox recordings among the training's sounds",
        "frames/s",
        "model file",
    ]
    assert facts == {}


def test_picture_figures_are_ratios_to_the_source():
    own = demo_driving.picture_figures(driven(curve(1), curve(2)))
    assert (own["sharpness"], own["border_sharpness"], own["seam"]) == (1, 1, 1)
    flat = np.repeat(portrait(64)[None], FRAMES, 0)
    flat[:, 32:60, 4:60] = 120
    figures = demo_driving.picture_figures(driven(curve(1), curve(2), flat))
    assert figures["sharpness"] < 0.3 and figures["seam"] > 1


def test_lip_jitter_is_in_percent_of_the_eyes():
    points = np.stack([face(0.1)] * 6)
    assert demo_driving.lip_jitter(points) == 0
    points[1::2, 48:68] += (1.0, 0.0)  # 1 px to and fro: second difference 2 px in x, 0 in y, eyes 50 px apart
    assert demo_driving.lip_jitter(points) == pytest.approx(2.0)


def test_driving_a_still_changes_only_what_the_mask_covers():
    torch.set_num_threads(1)
    engine, models = demo_driving.load_engine(None)
    made = demo_driving.drive(engine, portrait(256)[None], tone(0.2))
    assert made.output.shape == (5, 256, 256, 3) and made.masks.shape == (5, 256, 256)
    outside = made.masks == 0
    assert np.array_equal(made.output[outside], made.source[outside])
    assert made.masks.max() == 255 and made.gap.shape == made.source_gap.shape == (5,)
    speed = demo_speed.measure(models, threads=1, batch=2, seconds=0.1)
    parts = speed["unet_ms"] + speed["decoder_ms"] + speed["audio_window_ms"] / 2
    assert speed["frames_per_second"] == pytest.approx(1000 / parts, rel=0.01)
    assert torch.get_num_threads() == 1


class BrighterCodec:
    """decode(encode(x)) is x with 10 more on the scale to 255."""

    device, dtype = torch.device("cpu"), torch.float32

    def encode(self, pixels):
        return pixels

    def decode(self, latents):
        return latents + 10 / 255


@pytest.fixture
def corpus(tmp_path):
    """Two utterances and a held-out track whose frames are a face of 200 px in 256; a training track without files."""
    sounds = [np.arange(k, k + 400, dtype=np.int16) for k in range(4)]
    (tmp_path / "speech").mkdir()
    for k in range(2):
        np.savez(tmp_path / "speech" / f"{k:05d}.npz", samples=sounds[k], sha256=np.array("wrong"))
    track = tmp_path / "tracks" / "004"
    track.mkdir(parents=True)
    frames = np.repeat((portrait(256) * 0.8).astype(np.uint8)[None], 6, 0)
    points = np.full((6, 68, 2), 128, np.float32)
    points[:, 48:60, 0] = np.linspace(100, 150, 12)
    boxes = np.tile(np.float32([20, 10, 220, 230]), (6, 1))
    for twin in ("a", "b"):
        write_video(track / f"{twin}.mp4", frames)
    arrays = {"boxes": boxes, "landmarks_a": points, "landmarks_b": points}
    np.savez(track / "track.npz", samples_a=sounds[2], samples_b=sounds[3], **arrays)
    entries = '[{"name": "004", "split": "val"}, {"name": "000", "split": "train"}]'
    (tmp_path / "index.json").write_text(f'{{"tracks": {entries}}}')
    return tmp_path, [hashlib.sha256(sound.tobytes()).hexdigest() for sound in sounds]


def test_held_out_sounds_are_found_in_a_corpus_by_their_samples(corpus):
    folder, hashes = corpus
    assert demo_data.sounds_among(folder, {"0" * 64}) == (0, 4)
    assert demo_data.sounds_among(folder, {hashes[1], hashes[2], "0" * 64}) == (2, 4)


def test_autoencoder_is_measured_on_held_out_tracks_only(corpus):
    figures = demo_data.autoencoder_figures(BrighterCodec(), corpus[0])
    assert figures["tracks"] == 1 and figures["frames"] == 12
    expected = 20 * np.log10(255 / 10)
    assert figures["mouth_db"] == pytest.approx(expected, abs=1e-3)
    assert figures["crop_db"] == pytest.approx(expected, abs=1e-3)
    with pytest.raises(HostError, match="no finished corpus"):
        demo_data.autoencoder_figures(BrighterCodec(), corpus[0] / "speech")


def test_sheet_shows_open_and_closed_frames_and_the_curves(tmp_path):
    import cv2

    truth = curve(1)
    columns = evaluate_demo.telling_frames(truth, 4)
    assert [truth[k] for k in columns] == [truth[:15].max(), truth[15:30].min(), truth[30:45].max(), truth[45:].min()]
    rows = [demo_sheet.Row("a", [portrait(64)] * 4), demo_sheet.Row("b", [portrait(64)] * 4, portrait(64))]
    demo_sheet.save_sheet(tmp_path / "x" / "sheet.png", rows, columns, [demo_sheet.Curve("truth", truth)], "0880")
    picture = cv2.imread(str(tmp_path / "x" / "sheet.png"))
    cell = cv2.resize(portrait(64), (demo_sheet.CELL, demo_sheet.CELL), interpolation=cv2.INTER_AREA)
    top = demo_sheet.BAR
    shown = picture[top : top + demo_sheet.CELL, demo_sheet.LABEL : demo_sheet.LABEL + demo_sheet.CELL, ::-1]
    assert np.array_equal(shown, cell)


def test_table_of_the_page_is_the_result_file():
    """Also what the gate compares with: a line that held and does not now is named."""
    document = json.loads(evaluate_demo.RESULT.read_text())
    text = evaluate_demo.PAGE.read_text()
    assert demo_table.table(document) in text and text.count(demo_table.BEGIN) == 1
    worse = json.loads(json.dumps(document))
    worse["checks"][0]["passed"] = False
    assert demo_table.regressions(document, document) == []
    assert demo_table.regressions(worse, document) == [document["checks"][0]["name"]]
    busier = [{**check, "name": check["name"].replace("load 1.1", "load 9.0")} for check in document["checks"]]
    assert demo_table.regressions({"checks": busier}, document) == []
    assert demo_table.regressions({"checks": []}, document)


def test_a_page_without_a_place_for_the_table_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing")
    document = json.loads(evaluate_demo.RESULT.read_text())
    with pytest.raises(HostError, match="no place"):
        demo_table.write_table(page, document)
    page.write_text(f"a\n{demo_table.BEGIN}\nformer\n{demo_table.END}\nb\n")
    demo_table.write_table(page, document)
    assert "former" not in page.read_text() and page.read_text().endswith(f"{demo_table.END}\nb\n")
