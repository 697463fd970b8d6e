"""`python -m musetalk_core infer` on real files: results, several tasks, and every kind of bad input."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import random_weights
import torch
from bisenet_reference import random_bisenet
from clips import faceless, moving_portrait, portrait, probe, read_frames, tone, write_audio, write_video
from diffusers import AutoencoderKL

from musetalk_core.__main__ import main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "my clip.v2.mp4", moving_portrait(8), audio=tone(0.32))


@pytest.fixture
def speech(tmp_path):
    return write_audio(tmp_path / "speech one.wav", 1.0, rate=44100, channels=2)


def infer(*args) -> int:
    return main(["infer", "--version", "demo", *map(str, args)])


def leftovers(folder: Path, *expected: str) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name not in expected)


def test_a_video_and_an_audio_file_make_a_video(clip, speech, tmp_path, capsys):
    out = tmp_path / "out" / "result.mp4"
    out.parent.mkdir()
    assert infer("--video", clip, "--audio", speech, "--output", out) == 0
    facts = probe(out)
    assert (facts["frames"], facts["fps"], facts["size"]) == (25, 25, (256, 256))
    assert abs(facts["audio_seconds"] - facts["video_seconds"]) < 0.04
    settings = json.loads(facts["comment"])
    assert settings["version"] == "demo" and settings["mask"]["parsing_mode"] == "jaw"
    assert "25 lip-synced" in capsys.readouterr().out
    assert leftovers(out.parent) == ["result.mp4"]


def test_results_go_to_a_folder_named_after_both_inputs(clip, speech, tmp_path):
    assert infer("--video", clip, "--audio", speech, "--result_dir", tmp_path / "results", "--batch_size", 4) == 0
    assert (tmp_path / "results" / "demo" / "my clip.v2_speech one.mp4").exists()


def test_the_videos_own_sound_is_the_default(tmp_path):
    clip = write_video(tmp_path / "clip.mov", moving_portrait(8), audio=tone(0.32))
    assert infer("--video", clip, "--output", tmp_path / "own.mp4") == 0
    assert probe(tmp_path / "own.mp4")["frames"] == 8


def test_a_picture_and_a_folder_of_pictures(speech, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for k, frame in enumerate(moving_portrait(3)):
        cv2.imwrite(str(folder / f"{k}.png"), frame[..., ::-1])
    for k, source in enumerate((folder, folder / "0.png")):
        out = tmp_path / f"{k}.mp4"
        assert infer("--video", source, "--audio", speech, "--output", out, "--fps", "30000/1001") == 0
        facts = probe(out)
        assert facts["fps"] == Fraction(30000, 1001) and facts["frames"] == 29  # floor(1 s * 29.97)


def test_odd_sizes_grow_by_one_pixel(speech, tmp_path):
    source = tmp_path / "odd.png"
    cv2.imwrite(str(source), cv2.resize(portrait(256), (251, 233))[..., ::-1])
    assert infer("--video", source, "--audio", speech, "--output", tmp_path / "odd.mp4") == 0
    assert probe(tmp_path / "odd.mp4")["size"] == (234, 252)


def test_tasks_of_a_config_do_not_influence_one_another(clip, speech, tmp_path, capsys):
    config = tmp_path / "tasks.yaml"
    config.write_text(
        f"task_0:\n  video_path: '{clip}'\n  audio_path: '{speech}'\n  bbox_shift: 5\n  result_name: first.mp4\n"
        f"task_1:\n  video_path: '{tmp_path}/absent.mp4'\n  audio_path: '{speech}'\n"
        f"task_2:\n  video_path: '{clip}'\n  audio_path: '{speech}'\n  parsing_mode: raw\n"
    )
    assert infer("--inference-config", config, "--result-dir", tmp_path / "r") == 1
    results = tmp_path / "r" / "demo"
    assert leftovers(results) == ["first.mp4", "my clip.v2_speech one.mp4"]
    first = json.loads(probe(results / "first.mp4")["comment"])
    last = json.loads(probe(results / "my clip.v2_speech one.mp4")["comment"])
    assert (first["bbox_shift"], first["mask"]["parsing_mode"]) == (5, "jaw")
    assert (last["bbox_shift"], last["mask"]["parsing_mode"]) == (0, "raw")
    assert "absent.mp4" in capsys.readouterr().err


def test_saved_faces_give_the_same_video(clip, speech, tmp_path):
    out = tmp_path / "o.mp4"
    assert infer("--video", clip, "--audio", speech, "--output", out, "--saved_coord") == 0
    first = read_frames(out)
    assert json.loads((tmp_path / "o.track.json").read_text())["present"] == [1] * 8
    assert infer("--video", clip, "--audio", speech, "--output", out, "--use_saved_coord", "--overwrite") == 0
    assert np.array_equal(first, read_frames(out))


def test_an_existing_output_is_kept(clip, speech, tmp_path, capsys):
    out = tmp_path / "mine.mp4"
    out.write_bytes(b"precious")
    assert infer("--video", clip, "--audio", speech, "--output", out) == 1
    assert out.read_bytes() == b"precious" and "--overwrite" in capsys.readouterr().err


def test_trim_ends_with_the_shorter_one(clip, speech, tmp_path):
    assert infer("--video", clip, "--audio", speech, "--output", tmp_path / "t.mp4", "--mode", "trim") == 0
    facts = probe(tmp_path / "t.mp4")
    assert facts["frames"] == 8 and abs(facts["audio_seconds"] - 0.32) < 0.04


def bad_inputs(tmp_path):
    good_video = write_video(tmp_path / "good.mp4", moving_portrait(4))
    good_audio = write_audio(tmp_path / "good.wav", 0.5)
    files = {"empty": b"", "text": b"this is no media file" * 20}
    for name, content in files.items():
        (tmp_path / f"{name}.mp4").write_bytes(content)
        (tmp_path / f"{name}.wav").write_bytes(content)
    (tmp_path / "cut.mp4").write_bytes(good_video.read_bytes()[:700])
    tiny = tmp_path / "1x1.png"
    cv2.imwrite(str(tiny), np.zeros((1, 1, 3), np.uint8))
    no_face = write_video(tmp_path / "noface.mp4", faceless(4, 64))
    return {
        "no face": (no_face, good_audio, "face"),
        "1x1": (tiny, good_audio, "face"),
        "empty video": (tmp_path / "empty.mp4", good_audio, "empty.mp4"),
        "text video": (tmp_path / "text.mp4", good_audio, "text.mp4"),
        "cut video": (tmp_path / "cut.mp4", good_audio, "cut.mp4"),
        "missing video": (tmp_path / "none.mp4", good_audio, "none.mp4"),
        "empty audio": (good_video, tmp_path / "empty.wav", "empty.wav"),
        "text audio": (good_video, tmp_path / "text.wav", "text.wav"),
        "missing audio": (good_video, tmp_path / "none.wav", "none.wav"),
        "zero-length audio": (good_video, write_audio(tmp_path / "zero.wav", 0), "zero.wav"),
        "audio below a frame": (good_video, write_audio(tmp_path / "short.wav", 0.03), "less than one frame"),
        "no sound": (good_video, good_video, "good.mp4"),
    }


CASES = ["no face", "1x1", "empty video", "text video", "cut video", "missing video", "empty audio", "text audio",
         "missing audio", "zero-length audio", "audio below a frame", "no sound"]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_leaves_nothing(case, tmp_path, capsys):
    video, audio, word = bad_inputs(tmp_path)[case]
    folder = tmp_path / "out"
    folder.mkdir()
    assert infer("--video", video, "--audio", audio, "--output", folder / "o.mp4") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and word in errors[0], errors
    assert leftovers(folder) == []


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--fps", "0", "frame rate"),
        ("--fps", "240", "frame rate"),
        ("--fps", "fast", "frame rate"),
        ("--batch-size", "-1", "batch_size"),
        ("--left-cheek-width", "900", "left_cheek_width"),
        ("--device", "cuda:77", "cuda:77"),
        ("--precision", "fp16", "fp16"),
        ("--output", "/proc/nowhere/o.mp4", "/proc/nowhere"),
    ],
)
def test_bad_options_are_told(option, value, word, clip, speech, tmp_path, capsys):
    args = ["--video", clip, "--audio", speech, "--output", tmp_path / "o.mp4", "--device", "cpu", option, value]
    assert infer(*args) == 1
    assert word in capsys.readouterr().err and not (tmp_path / "o.mp4").exists()


def test_missing_weights_name_file_folder_and_command(clip, speech, tmp_path, capsys):
    args = ["--video", clip, "--audio", speech, "--output", tmp_path / "o.mp4", "--models", tmp_path / "models"]
    assert main(["infer", "--version", "v1.5", *map(str, args)]) == 1
    message = capsys.readouterr().err
    assert "unet.pth" in message and "musetalkV15" in message and "weights download" in message


@pytest.fixture(scope="module")
def musetalk_files(tmp_path_factory):
    """Upstream's folder with random weights: .pth and .bin UNet, narrow VAE, Whisper-tiny, BiSeNet."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("musetalkV15", "musetalk", "sd-vae", "whisper", "face-parse-bisent"):
        (folder / name).mkdir()
    torch.manual_seed(0)
    torch.save(random_weights.small_unet(), folder / "musetalkV15" / "unet.pth")
    torch.save(random_weights.small_unet(), folder / "musetalk" / "pytorch_model.bin")
    torch.save(random_weights.whisper_tiny(), folder / "whisper" / "pytorch_model.bin")
    torch.save(random_bisenet().state_dict(), folder / "face-parse-bisent" / "79999_iter.pth")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(block_out_channels=(32,) * 4, latent_channels=4, **blocks).save_pretrained(folder / "sd-vae")
    config = {"in_channels": 8, "cross_attention_dim": 384, "block_out_channels": [32, 64, 64, 64]}
    (folder / "musetalkV15" / "musetalk.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("name", "version", "mode"), [("v15", "v1.5", "jaw"), ("v1", "v1.0", "raw")])
def test_musetalk_runs_from_its_own_files_under_upstreams_option_names(
    name, version, mode, musetalk_files, clip, speech, tmp_path
):
    args = ["--models", musetalk_files, "--vae_type", "sd-vae", "--whisper_dir", musetalk_files / "whisper"]
    args += ["--unet_config", musetalk_files / "musetalkV15" / "musetalk.json", "--result_dir", tmp_path]
    args += ["--video", clip, "--audio", speech, "--output_vid_name", "v.mp4", "--mode", "trim", "--device", "cpu"]
    assert main(["infer", "--version", name, *map(str, args)]) == 0
    settings = json.loads(probe(tmp_path / version / "v.mp4")["comment"])
    assert (settings["version"], settings["mask"]["parsing_mode"]) == (version, mode)
    assert settings["extra_margin"] == (10 if version == "v1.5" else 0)


def test_a_config_that_contradicts_the_file_is_told(musetalk_files, clip, tmp_path, capsys):
    wrong = tmp_path / "musetalk.json"
    wrong.write_text('{"in_channels": 9}')
    args = ["--models", musetalk_files, "--video", clip, "--unet-config", wrong, "--device", "cpu"]
    assert main(["infer", *map(str, args), "--output", str(tmp_path / "o.mp4")]) == 1
    assert "says in_channels 9, the file holds 8" in capsys.readouterr().err


def test_the_module_runs_as_a_program_and_reports_by_exit_status(clip, tmp_path):
    command = [sys.executable, "-m", "musetalk_core", "infer", "--version", "demo"]
    out = tmp_path / "o.mp4"
    done = subprocess.run([*command, "--video", clip, "--output", out], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[0] == str(out)
    done = subprocess.run([*command, "--video", "none.mp4"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error:") and "Traceback" not in done.stderr
