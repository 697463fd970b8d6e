"""Videos to training data: what is kept, what is rejected and why, nothing done twice, upstream's folders read too."""

import json
import os
import shutil
import signal
import sys
import time
import wave
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import clips
import numpy as np
import psutil
import pytest
import torch
from comfy_client import REPOSITORY
from face_clips import MOUTH
from interruptible import interruptible
from PIL import Image

from musetalk_core.__main__ import main
from musetalk_core.audio_features import AudioFeatures, extract_features
from musetalk_core.demo.loader import load_demo
from musetalk_core.errors import MuseTalkError
from musetalk_core.training.clip_sound import open_sound
from musetalk_core.training.clips import FaceClip, clip_files, read_clip
from musetalk_core.training.frame_folders import FrameFolders
from musetalk_core.training.prepare.record import Record
from musetalk_core.training.sampling import Margin, ReferenceChoice, union_boxes
from musetalk_core.training.sync_mel import sync_mel
from musetalk_core.training.windows import ClipWindows, WindowSettings

KEYS = ["mp4_path", "wav_path", "video_size", "face_size", "frames", "face_list", "landmark_list", "isvalid"]
OPTIONS = ["--clip-seconds", "0.8", "--min-seconds", "0.4", "--min-face", "60", "--audio-encoder", "demo"]


def run(videos: Path, out: Path, *options: str) -> int:
    return main(["train", "prepare", str(videos), "--out", str(out), *OPTIONS, *options])


def content(folder: Path) -> dict[str, int]:
    """Every file of a folder with its time of change, reports and lists apart."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*/*") if path.is_file()
    }


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "more").mkdir()
    portrait = clips.moving_portrait(50)
    clips.write_video(folder / "good.mov", portrait[:40], audio=clips.tone(1.6))
    clips.write_video(folder / "more" / "ntsc rate.mp4", portrait[:30], Fraction(30000, 1001), clips.tone(1.1))
    clips.write_video(folder / "nobody.mp4", clips.faceless(20, 256), audio=clips.tone(0.8))
    clips.write_video(folder / "mute.mp4", portrait[:20])
    clips.write_video(folder / "silent.mp4", portrait[:20], audio=np.zeros(12800, np.float32))
    clips.write_video(folder / "one.mp4", portrait[:1], audio=clips.tone(0.8))
    clips.write_video(folder / "brief.mp4", portrait[:5], audio=clips.tone(0.8))
    clips.write_video(folder / "small.mp4", clips.moving_portrait(12, 96), audio=clips.tone(0.8))
    cut = np.concatenate([portrait[:8], clips.faceless(8, 256)])
    clips.write_video(folder / "cut.mp4", cut, audio=clips.tone(0.8))
    shutil.copy(folder / "good.mov", folder / "more" / "same.mov")
    whole = (folder / "good.mov").read_bytes()
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mp4").write_text("no film")
    return folder


@pytest.fixture(scope="module")
def data(videos, tmp_path_factory) -> Path:
    """The videos, prepared into a folder inside of theirs."""
    folder = videos / "prepared"
    assert run(videos, folder, "--val-share", "0") == 0
    return folder


def clip_of(data: Path, number: int, video: str) -> FaceClip:
    (path,) = (data / "meta").glob(f"clip{number:03d}_{video}_*.json")
    return read_clip(path, data)


def test_report_says_what_is_there_and_why_the_rest_is_not(data):
    report = json.loads((data / "report.json").read_text())
    found = {(Path(entry["source"]).name, entry["reason"]): entry["detail"] for entry in report["rejected"]}
    assert set(found) == {
        ("nobody.mp4", "no face"),
        ("mute.mp4", "no sound"),
        ("silent.mp4", "no sound"),
        ("one.mp4", "one frame"),
        ("brief.mp4", "too short"),
        ("ntsc rate.mp4", "too short"),  # the rest behind its first clip
        ("small.mp4", "face too small"),
        ("cut.mp4", "scene cut"),
        ("same.mov", "same as another file"),
        ("half.mp4", "cannot be read"),
        ("text.mp4", "cannot be read"),
    }
    assert "frame 8" in found["cut.mp4", "scene cut"] and "60 are asked" in found["small.mp4", "face too small"]
    assert report["clips"] == {"train": 3, "val": 0}  # two of good.mov, one of the 29.97
    assert report["minutes"]["train"] == pytest.approx(60 / 25 / 60, abs=0.005)
    assert report["reasons"]["no sound"] == 2
    text = (data / "report.md").read_text()
    assert "| clips | 3 | 0 |" in text and "| scene cut | 1 |" in text


def test_rejected_clips_leave_no_files(data):
    kept = {path.stem for path in (data / "meta").glob("*")}
    assert len(kept) == 3
    assert {path.stem for path in (data / "clips").iterdir()} == kept
    assert {path.stem for path in (data / "sound").rglob("*.safetensors")} == kept
    assert not list(data.rglob(".*"))


def test_lists_lose_no_line(data):
    assert [path.stem for path in clip_files(data, "train")] == sorted(path.stem for path in (data / "meta").iterdir())
    assert clip_files(data, "val") == []


def test_description_has_upstreams_keys(data):
    clip = clip_of(data, 0, "good")
    written = json.loads((data / "meta" / f"{clip.name}.json").read_text())
    assert list(written) == KEYS
    assert written["video_size"] == [256, 256] and written["frames"] == 20 and written["isvalid"] is True
    assert np.shape(written["face_list"]) == (20, 4) and np.shape(written["landmark_list"]) == (20, 68, 2)
    x1, y1, x2, y2 = written["face_list"][0]
    assert written["face_size"] == [y2 - y1, x2 - x1]
    assert all(type(value) is int for value in np.ravel(np.array(written["face_list"], object)))


@pytest.mark.parametrize("number", [0, 1])
def test_landmarks_are_where_the_mouth_is(data, number):
    """The portrait moves by (1, 0.5) pixels a frame."""
    clip = clip_of(data, number, "good")
    lips = clip.landmarks[:, 48:68].mean(1)
    truth = MOUTH * 256 + np.outer(np.arange(20) + 20 * number, [1, 0.5])
    assert np.abs(lips - truth).max() < 6
    assert np.abs((lips - truth) - (lips - truth).mean(0)).max() < 2.5


@pytest.mark.parametrize(
    ("number", "video", "rate"), [(0, "good", 25), (1, "good", 25), (0, "ntsc_rate", 30000 / 1001)]
)
def test_pictures_are_those_of_their_time_at_25_frames(data, number, video, rate):
    clip = clip_of(data, number, video)
    facts = clips.probe(clip.video)
    assert facts["fps"] == 25 and facts["frames"] == len(clip) == 20
    source = clips.moving_portrait(50).astype(int)
    for k, frame in enumerate(clips.read_frames(clip.video)):
        errors = np.abs(source - frame).mean((1, 2, 3))
        assert errors.argmin() == int((k + 20 * number) * rate / 25)


def test_sound_is_that_of_the_clip(data):
    with wave.open(str(clip_of(data, 1, "good").sound)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        assert file.getnframes() == 20 * 640
        samples = np.frombuffer(file.readframes(12800), "<i2") / 32767
    assert np.corrcoef(samples, clips.tone(1.6)[12800:])[0, 1] > 0.9999


def test_nothing_is_done_twice(videos, data, capsys):
    before = content(data)
    assert run(videos, data, "--val-share", "0") == 0
    assert content(data) == before
    assert "12 videos, 12 of them done already" in capsys.readouterr().err


def test_an_unfinished_video_goes_on_with_its_next_clip(videos, data, tmp_path):
    (tmp_path / "in").mkdir()
    shutil.copy(videos / "good.mov", tmp_path / "in" / "good.mov")
    folder = shutil.copytree(data, tmp_path / "data")
    (path,) = (folder / "sources").glob("good_*.json")
    record = json.loads(path.read_text())
    lost = sorted(record["clips"])[1]
    path.write_text(json.dumps({**record, "complete": False, "clips": {sorted(record["clips"])[0]: {"frames": 20}}}))
    for file in folder.rglob(f"{lost}.*"):
        file.unlink()
    before = content(folder)
    assert run(tmp_path / "in", folder, "--val-share", "0") == 0
    after = content(folder)
    made = {f"clips/{lost}.mp4", f"clips/{lost}.wav", f"meta/{lost}.json", f"sources/{path.name}"}
    sounds = {name for name in after if name.startswith("sound/")}
    assert {name for name in after if before.get(name) != after[name]} - sounds == made
    assert len(clip_files(folder, "train")) == 3


def test_other_settings_replace_the_clips(data, tmp_path):
    (tmp_path / "in").mkdir()
    portrait = clips.moving_portrait(12)
    clips.write_video(tmp_path / "in" / "a.mp4", portrait, audio=clips.tone(0.48))
    assert run(tmp_path / "in", tmp_path / "out", "--val-share", "1") == 0
    assert len(clip_files(tmp_path / "out", "val")) == 1
    assert run(tmp_path / "in", tmp_path / "out", "--val-share", "1", "--min-face", "250") == 1
    assert not list((tmp_path / "out" / "clips").iterdir()) and not clip_files(tmp_path / "out", "val")


def test_split_depends_on_the_content_only():
    """The first 32 bits of the hash as a share of 2^32."""
    assert Record("a", "a", "7fffffff00", "").split(0.5) == "val"
    assert Record("a", "a", "8000000000", "").split(0.5) == "train"
    assert Record("a", "a", "ffffffff00", "").split(1) == "val"
    assert Record("a", "a", "0000000000", "").split(0) == "train"


def test_two_processes_make_the_same_clips(videos, data, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("good.mov", "mute.mp4"):
        shutil.copy(videos / name, tmp_path / "in" / name)
    assert run(tmp_path / "in", tmp_path / "out", "--workers", "2", "--val-share", "0") == 0
    made = clip_files(tmp_path / "out", "train")
    assert [path.name for path in made] == [path.name for path in clip_files(data, "train") if "good" in path.name]
    for path in made:
        assert path.read_bytes() == (data / "meta" / path.name).read_bytes()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["reasons"] == {"no sound": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one group there")
def test_interrupt_ends_the_children_and_leaves_nothing_half(tmp_path):
    (tmp_path / "in").mkdir()
    for shade in (0, 9):
        frames = np.clip(clips.moving_portrait(100).astype(int) + shade, 0, 255).astype(np.uint8)
        clips.write_video(tmp_path / "in" / f"{shade}.mp4", np.concatenate([frames] * 3), audio=clips.tone(12))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "musetalk_core", "train", "prepare", str(tmp_path / "in"), "--out", str(out)]
    command += ["--workers", "2", "--min-face", "60", "--audio-encoder", "none"]
    process = interruptible(command, cwd=REPOSITORY, start_new_session=True)
    end = time.monotonic() + 120
    while len(list(out.glob("clips/.*"))) < 2 and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    assert len(list(out.glob("clips/.*"))) == 2  # both children are at work
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "interrupted" in told
    end = time.monotonic() + 20
    while running(process.pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert running(process.pid) == []
    assert not list(out.rglob("*.part*")) and not list((out / "meta").iterdir())


def running(group: int) -> list[psutil.Process]:
    """The processes of a group that have not ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def upstream_folder(folder: Path, clip: FaceClip) -> Path:
    """One clip twice in the places and with the paths of upstream's preprocessing, relative to where it ran."""
    for place in ("meta", "video_audio_clip_root"):
        (folder / place).mkdir(parents=True)
    for number in (0, 1):
        name = f"clip{number:03d}_person"
        shutil.copy(clip.video, folder / "video_audio_clip_root" / f"{name}.mp4")
        shutil.copy(clip.sound, folder / "video_audio_clip_root" / f"{name}.wav")
        description = {
            "mp4_path": f"./dataset/HDTF/video_audio_clip_root/{name}.mp4",
            "wav_path": f"./dataset/HDTF/video_audio_clip_root/{name}.wav",
            "video_size": list(clip.size),
            "face_size": [100, 90],
            "frames": len(clip),
            "face_list": clip.boxes.astype(int).tolist(),
            "landmark_list": clip.landmarks.astype(int).tolist(),
            "isvalid": True,
        }
        (folder / "meta" / f"{name}.json").write_text(json.dumps(description))
    (folder / "train.txt").write_text("clip000_person.json\nclip001_person.json\n")
    return folder


def test_upstreams_folder_is_read_with_its_first_line(data, tmp_path):
    folder = upstream_folder(tmp_path / "HDTF", clip_of(data, 0, "good"))
    assert main(["train", "features", "--data", str(folder), "--audio-encoder", "demo"]) == 0
    assert [path.stem for path in clip_files(folder, "train")] == ["clip000_person", "clip001_person"]
    settings = WindowSettings(frames=1, min_face=60)
    sample = ClipWindows(folder, "train", load_demo().audio_encoder.extractor, settings, 4)[3]
    assert sample["target"].shape == (1, 3, 256, 256)
    (folder / "train.txt").write_text("name\nclip001_person.json\n\n")
    assert [path.stem for path in clip_files(folder, "train")] == ["clip001_person"]
    (folder / "train.txt").write_text("clip009_person.json\n")
    with pytest.raises(MuseTalkError, match="Line 1 .*clip009_person.json"):
        clip_files(folder, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isvalid": False}, "not valid"),
        ({"frames": 21}, "20 boxes and 20 sets of landmarks for 21 frames"),
        ({"landmark_list": [[[0, 0]] * 106] * 20}, r"\(20, 106, 2\)"),
        ({"mp4_path": "gone.mp4"}, "no gone.mp4"),
        ({"video_size": None}, "no clip's description"),
    ],
)
def test_wrong_descriptions_are_told(data, tmp_path, change, message):
    folder = upstream_folder(tmp_path / "HDTF", clip_of(data, 0, "good"))
    path = folder / "meta" / "clip000_person.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(MuseTalkError, match=message):
        read_clip(path, folder)


def slaney_hz(mel: float) -> float:
    """Slaney's Auditory Toolbox: linear up to 1000 Hz (15 mel), then a factor of 6.4 in 27 steps."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


def test_sync_spectrum_by_its_formula():
    """Wav2Lip's arithmetic written out for single values, against the fast one."""
    samples = np.random.default_rng(0).normal(0, 0.1, 3200).astype(np.float32)
    spectrum = sync_mel(samples)
    assert spectrum.shape == (17, 80) and np.abs(spectrum).max() <= 4
    emphasised = np.append(samples[0], samples[1:] - 0.97 * samples[:-1])
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
    top = 15 + 27 * np.log(7600 / 1000) / np.log(6.4)
    corners = [slaney_hz(mel) for mel in np.linspace(55 * 3 / 200, top, 82)]
    for row, band in ((8, 0), (8, 40), (5, 79)):
        piece = emphasised[200 * row - 400 : 200 * row + 400] * window
        magnitude = [abs(sum(piece * np.exp(-2j * np.pi * k * np.arange(800) / 800))) for k in range(401)]
        left, middle, right = corners[band : band + 3]
        hertz = np.arange(401) * 20
        triangle = np.minimum((hertz - left) / (middle - left), (right - hertz) / (right - middle)).clip(0)
        level = 20 * np.log10(max(1e-5, float(triangle * 2 / (right - left) @ magnitude))) - 20
        assert spectrum[row, band] == pytest.approx(np.clip(8 * (level + 100) / 100 - 4, -4, 4), abs=2e-3)
    assert (sync_mel(np.zeros(3200, np.float32)) == -4).all()


@pytest.fixture(scope="module")
def extractor() -> str:
    return load_demo().audio_encoder.extractor


def cut_out(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The crop (256,256,3) in [-1,1] as PIL cuts and resizes it."""
    face = Image.fromarray(picture).crop(tuple(box)).resize((256, 256), Image.LANCZOS)
    return np.asarray(face) / 127.5 - 1


def test_a_sample_holds_what_it_says(data, tmp_path, extractor):
    clip = clip_of(data, 0, "good")
    folder = upstream_folder(tmp_path / "HDTF", clip)  # one clip, so its frames can be told
    main(["train", "features", "--data", str(folder), "--audio-encoder", "demo"])
    windows = ClipWindows(folder, "train", extractor, WindowSettings(frames=2, min_face=60), 6, seed=3)
    boxes = union_boxes(clip.boxes, clip.landmarks, clip.size)
    film = clips.read_frames(clip.video)
    crops = np.stack([cut_out(picture, box) for picture, box in zip(film, boxes, strict=True)])
    with wave.open(str(clip.sound)) as file:
        sound = np.frombuffer(file.readframes(12800), "<i2").astype(np.float32) / 32768
    hidden = extract_features(load_demo().audio_encoder, sound, Fraction(4, 5), Fraction(25))
    for k in range(len(windows)):
        sample = windows[k]
        assert sample["target"].shape == sample["reference"].shape == (2, 3, 256, 256)
        assert sample["target"].dtype == torch.float32 and sample["target"].abs().max() <= 1
        shown = [which(face, crops) for face in sample["target"]]
        references = [which(face, crops) for face in sample["reference"]]
        assert shown[1] == shown[0] + 1
        assert all(abs(own - other) >= 5 for own, other in zip(shown, references, strict=True))
        tokens = AudioFeatures(hidden.hidden, Fraction(4, 5), Fraction(25)).tokens(shown[0], shown[0] + 2)
        assert sample["tokens"].shape == tokens.shape and tokens.shape[:2] == (2, 50)
        assert torch.allclose(sample["tokens"], tokens, atol=2e-2, rtol=2e-3)
        row = int(80 * shown[0] / 25)
        assert sample["mel"].shape == (1, 80, 52)
        assert np.abs(sample["mel"][0].numpy() - sync_mel(sound)[row : row + 52].T).max() < 4e-3
        lips = (clip.landmarks[shown[0], 48:67] - boxes[shown[0], :2]) * 256
        middle = lips.mean(0) / (boxes[shown[0], 2:] - boxes[shown[0], :2])
        x1, y1, x2, y2 = sample["mouths"][0].tolist()
        assert x1 < middle[0] < x2 and y1 < middle[1] < y2 and y2 - y1 == pytest.approx((x2 - x1) / 2, abs=1e-3)


def which(face: torch.Tensor, crops: np.ndarray) -> int:
    """The frame that a picture of a sample shows."""
    errors = np.abs(crops - face.permute(1, 2, 0).numpy()).mean((1, 2, 3))
    assert errors.min() < 0.02
    return int(errors.argmin())


def test_samples_depend_on_seed_and_number_alone(data, extractor):
    settings = WindowSettings(frames=1, min_face=60, margin=Margin())

    def windows(seed: int) -> ClipWindows:
        return ClipWindows(data, "train", extractor, settings, 8, seed)

    one, other = windows(1), windows(1)
    late = [other[k] for k in reversed(range(8))][::-1]
    early = [one[k] for k in range(8)]
    for first, second in zip(early, late, strict=True):
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(early[k]["target"], windows(2)[k]["target"]) for k in range(8))
    with pytest.raises(IndexError):
        one[8]


def test_a_clip_that_breaks_changes_no_other_sample(data, tmp_path, extractor, caplog):
    folder = upstream_folder(tmp_path / "HDTF", clip_of(data, 0, "good"))
    main(["train", "features", "--data", str(folder), "--audio-encoder", "demo"])
    shutil.copy(clip_of(data, 1, "good").video, folder / "video_audio_clip_root" / "clip001_person.mp4")
    clips.write_video(folder / "video_audio_clip_root" / "clip000_person.mp4", clips.moving_portrait(3))
    settings = WindowSettings(frames=1, min_face=60)
    one, other = (ClipWindows(folder, "train", extractor, settings, 12, seed=4) for _ in range(2))
    early = [one[k] for k in range(12)]
    assert caplog.text.count("clip000_person.json is left out") == 1 and "has 3 frames" in caplog.text
    for k in (11, 0, 5):
        assert torch.equal(other[k]["target"], early[k]["target"])
        assert torch.equal(other[k]["reference"], early[k]["reference"])


def test_dynamic_margin_shows_more_below_the_chin(data, extractor):
    """With a margin of 20 the crop of one clip is that of its box with y2 lower by 20."""
    settings = WindowSettings(frames=2, min_face=60, margin=Margin("uniform", 20, 0))
    clip = clip_of(data, 0, "good")
    windows = ClipWindows(data, "train", extractor, settings, 12, seed=5)
    boxes = union_boxes(clip.boxes, clip.landmarks, clip.size) + [0, 0, 0, 20]
    film = clips.read_frames(clip.video)
    crops = np.stack([cut_out(picture, box) for picture, box in zip(film, boxes, strict=True)])
    errors = [np.abs(crops - windows[k]["target"][0].permute(1, 2, 0).numpy()).mean((1, 2, 3)).min() for k in range(12)]
    assert min(errors) < 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WindowSettings(frames=3, min_face=60), "has 20 frames; samples of 3 need 30"),
        (WindowSettings(min_face=500), "pixels wide; 500 are asked for"),
    ],
)
def test_clips_that_do_not_fit_are_told(data, extractor, settings, message):
    with pytest.raises(MuseTalkError, match=message):
        ClipWindows(data, "train", extractor, settings, 1)[0]


def test_missing_features_name_the_command(data):
    with pytest.raises(MuseTalkError, match="train features --data"):
        open_sound(data, clip_of(data, 0, "good"), "whisper-5x384")
    with pytest.raises(MuseTalkError, match="val.txt has no clip"):
        ClipWindows(data, "val", "whisper-5x384", WindowSettings(), 1)


def test_frame_folders_of_musetalk_1(tmp_path):
    """Picture k is grey of level 10 k; its features are k. Rows are those of frames k-2 to k+2, zeros outside."""
    for part in ("images", "audios"):
        (tmp_path / part / "set" / "a").mkdir(parents=True)
    for k in range(9):
        Image.new("RGB", (64, 48), (10 * k,) * 3).save(tmp_path / "images" / "set" / "a" / f"{k}.png")
        np.save(tmp_path / "audios" / "set" / "a" / f"{k:06d}.npy", np.full((2, 5, 384), k + 1, np.float32))
    (tmp_path / "filelists").mkdir()
    (tmp_path / "filelists" / "train.txt").write_text("set/a\t9\n")
    folders = FrameFolders(tmp_path, "train", 20)
    seen = set()
    for index in range(20):
        try:
            sample = folders[index]
        except MuseTalkError as error:  # frames 3 to 5 have none more than 5 away
            assert "none more than 5 from" in str(error)
            continue
        shown = round((float(sample["target"].mean()) + 1) * 12.75)
        other = round((float(sample["reference"].mean()) + 1) * 12.75)
        assert abs(shown - other) > 5 and sample["target"].shape == (1, 3, 256, 256)
        around = [k + 1 if 0 <= k < 9 else 0 for k in range(shown - 2, shown + 3)]
        assert sample["tokens"].shape == (1, 50, 384)
        assert sample["tokens"][0, :, 0].tolist() == [value for value in around for _ in range(10)]
        seen.add(shown)
    assert len(seen) > 3


def test_reference_choice_reaches_the_sample(data, extractor):
    """Upstream's random keeps within 5 windows of a frame: for T = 1 the reference is exactly 5 frames away."""
    clip = clip_of(data, 0, "good")
    settings = WindowSettings(frames=1, min_face=60, reference=ReferenceChoice("random"))
    windows = ClipWindows(data, "train", extractor, settings, 10, seed=2)
    boxes = union_boxes(clip.boxes, clip.landmarks, clip.size)
    film = clips.read_frames(clip.video)
    crops = np.stack([cut_out(picture, box) for picture, box in zip(film, boxes, strict=True)])
    told = 0
    for k in range(10):
        faces = [windows[k][name][0].permute(1, 2, 0).numpy() for name in ("target", "reference")]
        errors = [np.abs(crops - face).mean((1, 2, 3)) for face in faces]
        if max(error.min() for error in errors) < 0.01:  # of this clip
            assert abs(int(errors[0].argmin()) - int(errors[1].argmin())) == 5
            told += 1
    assert told
