"""The evaluate command on files: what it measures, what it skips and names, what it writes."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from clips import faceless, tone, write_video
from skimage.data import astronaut

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "scripts"))

from portrait.portrait import NEUTRAL, Portrait, find_mesh  # noqa: E402

from musetalk_core.__main__ import main  # noqa: E402
from musetalk_core.errors import MuseTalkError  # noqa: E402
from musetalk_core.evaluation.dataset import read_dataset, read_pairs  # noqa: E402
from musetalk_core.evaluation.figures import summarize  # noqa: E402
from musetalk_core.evaluation.gate import gate_checks, read_gate  # noqa: E402
from musetalk_core.evaluation.speech import loudness  # noqa: E402
from musetalk_core.faces.detector import FaceDetector  # noqa: E402

FRAMES, LATE = 50, 3


def babble() -> np.ndarray:
    """2 s of a tone whose loudness comes and goes without a period, (32000,) float32."""
    level = np.repeat(np.random.default_rng(4).uniform(0, 1, 17), 2000)[:32000]
    level = np.convolve(level, np.ones(1500) / 1500, "same")
    return (0.5 * level**2 * np.sin(np.arange(32000) * 0.2)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A rendered face that says babble, and the same 3 frames late; a still; a broken file; a list of them."""
    folder = tmp_path_factory.mktemp("clips")
    picture = astronaut()[0:300, 80:380]
    portrait = Portrait(picture, find_mesh(picture, FaceDetector(FaceDetector.load_nets())), size=192)
    mouth = loudness(babble(), FRAMES)
    shown = np.stack([portrait.render(np.float32([level, *NEUTRAL[1:]])).frame for level in mouth])
    write_video(folder / "good.mov", shown, audio=babble())
    write_video(folder / "late.mov", shown[np.maximum(np.arange(FRAMES) - LATE, 0)], audio=babble())
    write_video(folder / "nobody.mov", faceless(30, 192), audio=tone(1.2))
    write_video(folder / "silent.mp4", shown[:5])
    (folder / "broken.mp4").write_bytes(b"\0" * 5000)
    rows = ["output,source,reference", "good.mov,,good.mov", "late.mov,good.mov,good.mov", "nobody.mov,,"]
    rows += ["broken.mp4,,", "absent.mp4,,", "silent.mp4,,"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """The results of one run over the list: exit status and folder."""
    result = tmp_path_factory.mktemp("result")
    weightless = tmp_path_factory.mktemp("models")
    gate = result / "gate.yaml"
    gate.write_text("lip_reference: {least: 0.99}\nfaces: {least: 0.5}\nlse_d: {most: 9}\n")
    call = ["evaluate", "--pairs", files / "pairs.csv", "--result", result, "--models", weightless, "--gate", gate]
    return main([str(part) for part in [*call, "--version", "demo", "--device", "cpu", "--max-shift", "6"]]), result


@pytest.fixture(scope="module")
def clips(run):
    document = json.loads((run[1] / "evaluation.json").read_text())
    return {clip["name"]: clip["figures"] for clip in document["clips"]} | {"": document}


def test_a_clip_three_frames_late_is_told_so(clips):
    assert clips["good"]["lip_audio_lag"] == 0 and clips["late"]["lip_audio_lag"] == LATE
    assert clips["good"]["lip_audio"] > 0.8 > clips["late"]["lip_audio"]
    assert clips["good"]["lip_reference"] == pytest.approx(1) and clips["late"]["lip_reference_lag"] == LATE


def test_equal_pictures_score_best_and_the_late_ones_differ_in_the_mouth(clips):
    assert (clips["good"]["psnr"], clips["good"]["ssim"], clips["good"]["l1"]) == (100, 1, 0)
    assert clips["late"]["mouth_psnr"] < clips["late"]["psnr"] < 100 and clips["late"]["mouth_ssim"] < 1
    assert clips["late"]["outside_psnr"] > clips["late"]["mouth_psnr"]


def test_weights_that_are_absent_never_become_a_number(clips):
    for name in ("lse_c", "lse_d", "av_offset", "lpips"):
        assert clips["good"][name] == "weights missing"
        assert clips[""]["summary"][name] == {"missing": "weights missing"}
    assert clips["late"]["csim"] == "weights missing" and clips[""]["fid"]["value"] == "weights missing"


def test_broken_clips_are_counted_and_named_and_stop_nothing(clips):
    skipped = clips[""]["clips_skipped"]
    assert list(skipped) == ["broken", "absent", "silent"] and clips[""]["clips_measured"] == 3
    assert "broken.mp4" in skipped["broken"] and "no audio track" in skipped["silent"]
    assert clips["nobody"]["faces"] == 0 and clips["nobody"]["lip_audio"] == "a face in under half"


def test_worst_clip_comes_first_in_every_file(run):
    lines = list(csv.DictReader((run[1] / "evaluation.csv").open()))
    assert [line["name"] for line in lines] == ["nobody", "late", "good", "broken", "absent", "silent"]
    assert lines[3]["skipped"] and not lines[0]["skipped"]
    for name in ("evaluation.md", "evaluation.html"):
        text = (run[1] / name).read_text()
        assert text.index("late") < text.index("good") and "weights missing" in text and "3 skipped" in text
    assert not list(run[1].glob("*.part"))


def test_page_is_one_file_with_the_curves(run):
    text = (run[1] / "evaluation.html").read_text()
    assert "worst first by lip gap and reference&#x27;s, correlation" in text
    assert text.count("class='gap' points") >= 2 and "<script" not in text and "http" not in text


def test_gate_fails_where_a_bound_or_the_weights_do_not_hold(run, tmp_path):
    assert run[0] == 1
    (tmp_path / "gate.json").write_text('{"faces": {"least": 0.5}, "lse_d": {"most": 9}}')
    summaries = {"faces": summarize([1.0, 0.8]), "lse_d": summarize(["weights missing"])}
    checks = gate_checks(read_gate(tmp_path / "gate.json"), summaries)
    assert [check.passed for check in checks] == [True, False]
    for text, problem in (("lips: {least: 1}", "'lips'"), ("faces: {atleast: 1}", "atleast"), ("", "no bounds")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(MuseTalkError, match=problem):
            read_gate(tmp_path / "bad.yaml")


def test_interval_is_the_means_and_covers_a_known_mean():
    """200 draws of 40 clips around 5: near the normal interval of 1.96 standard errors, and it covers 5 about 95 %."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        summary = summarize(list(generator.normal(5, 1, 40)))
        covered += summary.low < 5 < summary.high
        assert summary.low < summary.mean < summary.high
    assert 0.88 <= covered / 200 <= 0.99
    assert summary.high - summary.low == pytest.approx(2 * 1.96 / 40**0.5, rel=0.3)
    assert np.isnan(summarize([1.0]).low) and summarize([1.0, "x"]).clips == 1
    assert summarize(["b", "a", "a"]).missing == "a"


def test_dataset_is_paired_with_itself_or_with_another(tmp_path):
    for name in ("face/1.mp4", "face/2.mp4", "face/3.mp4", "audio/1.wav", "audio/2.wav", "audio/2.txt"):
        path = tmp_path / "val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    paired = read_dataset(tmp_path, "paired", Path("out"))
    assert [clip.output.as_posix() for clip in paired] == ["out/1_1.mp4", "out/2_2.mp4", "out/3_3.mp4"]
    assert paired[2].audio == paired[2].source == paired[2].reference == tmp_path / "val/face/3.mp4"
    unpaired = read_dataset(tmp_path, "unpaired", Path("out"))
    assert [clip.name for clip in unpaired] == ["1_2", "2_1", "3_2"]
    assert all(clip.reference is None and clip.source is not None for clip in unpaired)
    (tmp_path / "val/audio/2.wav").unlink()
    with pytest.raises(MuseTalkError, match="1.mp4 has no sound but its own"):
        read_dataset(tmp_path, "unpaired", Path("out"))
    with pytest.raises(MuseTalkError, match="no video in"):
        read_dataset(tmp_path / "val", "paired", Path("out"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("video,audio\na,b\n", "column 'video'"),
        ("output\n", "no line"),
        ("audio\nx.wav\n", "Line 2"),
        ("output\na.mp4\nb/a.mp4\n", "Line 3 .* 'a' again"),
    ],
)
def test_a_list_that_cannot_be_used_is_told_by_line(tmp_path, text, problem):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(MuseTalkError, match=problem):
        read_pairs(tmp_path / "list.csv")


def test_clips_that_are_not_there_are_made_first(files, tmp_path):
    """A dataset of one silent-lipped face and two sounds, made with the demo model."""
    (tmp_path / "d/val/face").mkdir(parents=True)
    (tmp_path / "d/val/face/1.mov").write_bytes((files / "good.mov").read_bytes())
    call = ["evaluate", "--dataset", tmp_path / "d", "--make", "--version", "demo", "--device", "cpu"]
    assert main([str(part) for part in [*call, "--result", tmp_path / "r", "--models", tmp_path]]) == 0
    document = json.loads((tmp_path / "r/evaluation.json").read_text())
    assert (tmp_path / "r/clips/1_1.mp4").is_file() and document["clips"][0]["frames"] == FRAMES
    assert document["settings"]["extra_margin"] and document["arguments"]["protocol"] == "paired"


def test_config_gives_options_that_the_command_line_leaves_open(files, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    names = f"pairs: {files / 'pairs.csv'}\nresult: {tmp_path / 'r'}\nvshift: 4\ncrop: none\nversion: demo\n"
    config.write_text(names + f"lse_checkpoint_path: {files / 'broken.mp4'}\n")
    assert main(["evaluate", "--config", str(config), "--device", "cpu"]) == 1
    assert "broken.mp4 is neither a torch nor a safetensors file" in capsys.readouterr().err
    config.write_text("vshift: 4\nseed: 2023\nlips: 3\n")
    assert main(["evaluate", "--config", str(config)]) == 1
    told = capsys.readouterr().err
    assert "seed has no use here" in told and "'lips'" in told
    config.write_text("video: nothing.mp4\nvshift: 400\n")
    assert main(["evaluate", "--config", str(config)]) == 1 and "400 frames" in capsys.readouterr().err


def test_only_the_metrics_asked_for_are_measured(files, tmp_path):
    """By talkingface-toolkit's names, from its kind of file."""
    (tmp_path / "c.yaml").write_text("metrics: ['LSE', 'SSIM']\nvshift: 15\nevaluate_batch_size: 50\n")
    late = files / "late.mov"
    call = ["evaluate", "--video", late, "--reference", files / "good.mov", "--config", tmp_path / "c.yaml"]
    assert main([str(part) for part in [*call, "--result", tmp_path, "--models", tmp_path, "--device", "cpu"]]) == 0
    (clip,) = json.loads((tmp_path / "evaluation.json").read_text())["clips"]
    assert sorted(clip["figures"]) == ["av_offset", "lse_c", "lse_d", "ssim"] and clip["figures"]["ssim"] < 1


def test_the_command_asks_for_one_kind_of_clips(capsys):
    assert main(["evaluate", "--video", "x.mp4", "--metrics", "beauty"]) == 1
    assert "'beauty' is unknown" in capsys.readouterr().err
    assert main(["evaluate"]) == 1 and "exactly one of" in capsys.readouterr().err
