"""One frame in advance: equal to the long run's, its sheets and report, the node in a real server, the command."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import clips
import cv2
import numpy as np
import pytest
import torch
from comfy_client import ComfyServer
from PIL import Image

from musetalk_core.__main__ import main
from musetalk_core.audio_features import extract_features
from musetalk_core.engine import Engine, WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.audio import AudioArray
from musetalk_core.media.source import TensorFrames
from musetalk_core.pipeline import lip_sync
from musetalk_core.preview import Moment, find_moment, make_take, output_frame, report, sweep_shifts
from musetalk_core.preview_sheet import YELLOW, preview_sheet, sweep_sheet
from musetalk_core.settings import LipSyncSettings, MaskSettings
from musetalk_core.tasks import stream_tokens
from musetalk_core.weights.folders import ModelFolders

FPS = Fraction(25)
ONE_SECOND = AudioArray(clips.tone(1.0)[None], 16000)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.from_numpy(clips.moving_portrait(8))


def moment_of(engine: Engine, frames: torch.Tensor, seconds: float, settings: LipSyncSettings) -> Moment:
    tokens = stream_tokens(engine.audio_encoder, ONE_SECOND, FPS, settings)
    return find_moment(TensorFrames(frames, FPS), tokens, seconds, engine.models(settings), settings)


def take_of(engine: Engine, moment: Moment, settings: LipSyncSettings):
    return make_take(moment, settings.bbox_shift, engine.models(settings), settings)


@pytest.mark.parametrize(
    ("seconds", "shown", "settings", "dtype"),
    [
        (0.2, 5, LipSyncSettings(batch_size=1), torch.uint8),
        (0.2, 5, LipSyncSettings(batch_size=1, bbox_shift=6, extra_margin=20), torch.float32),
        # Frame 12 of an 8 frame clip, there and back: 0..7, 7, 6, 5, 4, 3.
        (0.48, 3, LipSyncSettings(batch_size=1, mask=MaskSettings("raw", blur=0.2)), torch.uint8),
        (0.48, 4, LipSyncSettings(batch_size=1, mode="loop", bbox_shift=-500), torch.float16),
        # So far down that the landmarks leave no box, and the run takes the detector's.
        (0.0, 0, LipSyncSettings(batch_size=1, bbox_shift=500), torch.uint8),
    ],
)
def test_the_preview_is_the_frame_of_the_long_run_bit_by_bit(engine, clip, seconds, shown, settings, dtype):
    frames = clip if dtype == torch.uint8 else (clip / 255).to(dtype)
    features = extract_features(engine.audio_encoder, ONE_SECOND.waveform[0], Fraction(1), FPS)
    run = list(lip_sync(TensorFrames(frames, FPS), features, 25, engine.models(settings), settings))
    moment = moment_of(engine, frames, seconds, settings)
    take = take_of(engine, moment, settings)
    assert moment.index == shown and torch.equal(moment.picture, frames[shown])
    assert take.picture.dtype == dtype and torch.equal(take.picture, run[round(seconds * 25)])
    assert not torch.equal(take.picture, moment.picture)


def test_a_batch_of_the_long_run_differs_by_a_grey_level_at_most(engine, clip):
    settings = LipSyncSettings(batch_size=8)
    features = extract_features(engine.audio_encoder, ONE_SECOND.waveform[0], Fraction(1), FPS)
    run = list(lip_sync(TensorFrames(clip, FPS), features, 25, engine.models(settings), settings))
    take = take_of(engine, moment_of(engine, clip, 0.6, settings), settings)
    assert (take.picture.int() - run[15].int()).abs().max() <= 1


@pytest.mark.parametrize(("seconds", "windows"), [(2.0, 1), (40.0, 1), (26.99, 2), (69.9, 1)])
def test_only_the_sound_around_the_moment_is_encoded_and_its_tokens_are_those_of_the_whole(engine, seconds, windows):
    """Windows of 30 s every 24 s keep the rows 0-27, 27-51, 51-70 s; a frame hears 0.08 s before and 0.12 s after."""
    encoded = []

    class CountingEncoder:
        extractor, states, width = "counted", engine.audio_encoder.states, engine.audio_encoder.width

        def encode(self, samples):
            encoded.append(len(samples))
            return engine.audio_encoder.encode(samples)

    samples = clips.tone(70.0)
    sound = AudioArray(samples[None], 16000)
    tokens = stream_tokens(CountingEncoder(), sound, FPS, LipSyncSettings())
    frame = output_frame(seconds, FPS, tokens.frames)
    near = tokens.tokens(frame, frame + 1)
    assert len(encoded) == windows
    whole = extract_features(engine.audio_encoder, samples, sound.seconds, FPS)
    assert torch.equal(near, whole.tokens(frame, frame + 1))


@pytest.mark.parametrize(
    ("seconds", "fps", "frame"),
    [(0, 25, 0), (0.039, 25, 0), (0.04, 25, 1), (1.16, 25, 29), (0.57, 100, 57), (1.0, Fraction(30000, 1001), 29)],
)
def test_a_moment_shows_the_frame_that_began_last(seconds, fps, frame):
    assert output_frame(seconds, Fraction(fps), 1000) == frame


@pytest.mark.parametrize("seconds", [1.0, 2.5, -0.1, float("nan"), float("inf")])
def test_a_moment_outside_the_result_is_refused_with_the_numbers(seconds):
    with pytest.raises(MuseTalkError, match=rf"seconds is {seconds:g} and the result lasts 1.00 s"):
        output_frame(seconds, FPS, 25)


def test_a_trimmed_result_ends_with_its_source(engine, clip):
    settings = LipSyncSettings(mode="trim")
    assert moment_of(engine, clip, 0.28, settings).index == 7
    with pytest.raises(MuseTalkError, match="seconds is 0.32 and the result lasts 0.32 s"):
        moment_of(engine, clip, 0.32, settings)


@pytest.mark.parametrize(
    ("text", "shifts"),
    [
        ("-14, -7, 0, 7, 14", [-14, -7, 0, 3, 7, 14]),
        ("7;-7 3", [-7, 3, 7]),
        ("", [3]),
        (" , ", [3]),
        ("1000 -1000", [-1000, 3, 1000]),
    ],
)
def test_a_sweep_holds_its_values_and_the_current_one(text, shifts):
    assert sweep_shifts(text, 3) == shifts


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1, two", "'two'"),
        ("1.5", "'1.5'"),
        ("1001", "1001; give bbox_shifts from -1000 to 1000"),
        (" ".join(map(str, range(25))), "25 pictures.*at most 24"),
    ],
)
def test_a_sweep_that_cannot_be_made_is_one_sentence(text, problem):
    with pytest.raises(MuseTalkError, match=problem):
        sweep_shifts(text, 0)


def test_a_shift_moves_the_boxs_top_edge_by_twice_as_much(engine, clip):
    settings = LipSyncSettings()
    moment = moment_of(engine, clip, 0.0, settings)
    models = engine.models(settings)
    boxes = {shift: make_take(moment, shift, models, settings).box for shift in (-7, 0, 7)}
    low, high = moment.shift_range
    assert low < 0 < high
    for shift in (-7, 7):
        assert (boxes[shift] - boxes[0]).tolist() == [0, 2 * shift, 0, 0]


def test_the_report_tells_frame_face_box_range_and_advice(engine, clip):
    settings = LipSyncSettings(bbox_shift=2)
    moment = moment_of(engine, clip, 0.48, settings)
    models = engine.models(settings)
    takes = [make_take(moment, shift, models, settings) for shift in (-3, 2, 500)]
    lines = report(moment, takes[1], takes).splitlines()
    assert lines[0] == "output frame 12 at 0.48 s, source frame 3 of 8"
    x1, y1, x2, y2 = takes[1].box.astype(int)
    assert f"crop box: {x1},{y1} - {x2},{y2} ({x2 - x1} x {y2 - y1})" in lines
    low, high = moment.shift_range
    assert f"bbox_shift range: [{low}~{high}], used: 2" in lines
    assert f"A positive bbox_shift opens the mouth more, a negative one less; try values from {low} to {high}." in lines
    assert lines[-2].startswith(f"bbox_shift -3: {x1},{y1 - 10} - ")
    assert lines[-1].startswith("bbox_shift 500 leaves no crop box") and f"{low} to {high}" in lines[-1]


def test_a_shift_without_a_box_is_a_sentence_in_its_tile_and_no_lost_sheet(engine, clip):
    settings = LipSyncSettings()
    moment = moment_of(engine, clip, 0.0, settings)
    models = engine.models(settings)
    good, bad = (make_take(moment, shift, models, settings) for shift in (0, 500))
    whole, mixed = sweep_sheet(moment, [good, good], 0), sweep_sheet(moment, [good, bad], 0)
    assert whole.shape == mixed.shape
    left, right = np.abs(whole.astype(int) - mixed).max((0, 2)).reshape(2, -1).max(1)
    assert left == 0 and right > 100
    tile = mixed[-300:-100, mixed.shape[1] // 2 + 40 : -40].reshape(-1, 3)
    assert (np.ptp(tile, axis=0) < 8).all(), "an empty tile below the sentence"


def test_a_frame_without_a_face_is_shown_with_the_words(engine):
    settings = LipSyncSettings()
    frames = torch.from_numpy(clips.faceless(3, 512))
    moment = moment_of(engine, frames, 0.08, settings)
    take = take_of(engine, moment, settings)
    assert torch.equal(take.picture, frames[2])
    assert take.problem == "No face was found at 0.08 s, so the frame stays as it is; choose another moment."
    assert report(moment, take, [take]).splitlines() == [moment.title, take.problem]
    assert len(found_in(preview_sheet(moment, take), frames[2].numpy())) == 2, "as the original and as the result"
    assert sweep_sheet(moment, [take], 0).shape[0] < 200, "words only"


def test_unusable_pixels_keep_the_frame_and_say_so(engine, clip):
    class PoisonedCodec:
        device, dtype, encode = engine.codec.device, engine.codec.dtype, engine.codec.encode

        def decode(self, latents):
            return engine.codec.decode(latents) * float("nan")

    settings = LipSyncSettings()
    moment = moment_of(engine, clip, 0.0, settings)
    take = make_take(moment, 0, replace(engine.models(settings), decode_codec=PoisonedCodec()), settings)
    assert torch.equal(take.picture, clip[0]) and "unusable pixels" in take.problem
    assert preview_sheet(moment, take).shape[1] > 1000


def found_in(sheet: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Where (x, y) a sheet holds a picture pixel by pixel; OpenCV finds candidates, in rounded sums."""
    height, width = picture.shape[:2]
    distance = cv2.matchTemplate(sheet, np.ascontiguousarray(picture[:32, :32]), cv2.TM_SQDIFF)
    places = [(int(x), int(y)) for y, x in zip(*np.nonzero(distance < 5000), strict=True)]
    return [(x, y) for x, y in places if np.array_equal(sheet[y : y + height, x : x + width], picture)]


def test_the_sheet_shows_the_result_untouched_and_marks_the_original(engine):
    settings = LipSyncSettings()
    frames = torch.from_numpy(clips.moving_portrait(1, 512))
    moment = moment_of(engine, frames, 0.0, settings)
    take = take_of(engine, moment, settings)
    sheet = preview_sheet(moment, take)
    [(x, y)] = found_in(sheet, take.picture.numpy())
    original = sheet[y : y + 512, x - 16 - 512 : x - 16]
    marked = (original != frames[0].numpy()).any(-1)
    x1, y1, x2, y2 = take.box.astype(int)
    for row, column in ((y1, (x1 + x2) // 2), (y2 - 1, x1 + 9), ((y1 + y2) // 2 + 9, x1), ((y1 + y2) // 2, x2 - 1)):
        assert tuple(original[row, column]) == YELLOW
    for px, py in moment.face.landmarks.round().astype(int):
        assert marked[py, px], "every landmark is drawn"
    assert 0.01 < marked.mean() < 0.1
    crop = np.asarray(Image.fromarray(take.crop.numpy()).resize((64, 64), Image.Resampling.BOX)).astype(int)
    side = (512 - 28 - 16) // 2
    tile = sheet[-16 - side : -16, x + 512 + 16 : x + 512 + 16 + side]
    shown = np.asarray(Image.fromarray(tile).resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(shown - crop).mean() < 4, "the crop is the lower left close-up"


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (480, 640), (1080, 1920), (1920, 1080), (2160, 3840), (90, 3000), (3000, 90)]
)
def test_sheets_of_any_frame_size_are_readable_and_bounded(engine, height, width):
    settings = LipSyncSettings()
    frame = np.full((1, height, width, 3), 90, np.uint8)
    side = min(height, width)
    frame[0, :side, :side] = clips.portrait(side)
    moment = moment_of(engine, torch.from_numpy(frame), 0.0, settings)
    take = take_of(engine, moment, settings)
    for sheet in (preview_sheet(moment, take), sweep_sheet(moment, [take] * 7, 0)):
        assert sheet.dtype == np.uint8 and sheet.ndim == 3
        assert 600 <= sheet.shape[1] <= 2048 and 60 < sheet.shape[0] <= 1200


# In a real ComfyUI server.


def node(kind: str, **values: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": values}


def step(object_info: dict[str, Any], kind: str, **values: Any) -> dict[str, Any]:
    """A node with its defaults, on the demo models."""
    specs = object_info[kind]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}
    names = ("model", "vae", "audio_encoder", "face_models")
    return node(kind, **{**defaults, **{name: ["models", k] for k, name in enumerate(names)}, **values})


def graph(object_info: dict[str, Any], file: str = "portrait.mp4", **values: Any) -> dict[str, Any]:
    """Sources with the ids load, parts, big (512 pixels), sound; the node (id preview); its outputs shown."""
    return {
        "models": node("LoadMuseTalkModels", version="demo", precision="auto"),
        "load": node("LoadVideo", file=file),
        "parts": node("GetVideoComponents", video=["load", 0]),
        "big": node("ImageScale", image=["parts", 0], upscale_method="bicubic", width=512, height=512, crop="disabled"),
        "sound": node("LoadAudio", audio="voice.wav"),
        "preview": step(object_info, "MuseTalkPreviewFrame", **values),
        "sheet": node("PreviewImage", images=["preview", 0]),
        "sweep": node("PreviewImage", images=["preview", 1]),
        "report": node("PreviewAny", source=["preview", 2]),
    }


def picture(comfy: ComfyServer, output: dict[str, Any], index: int = 0) -> np.ndarray:
    return np.asarray(Image.open(comfy.file(output["images"][index])).convert("RGB"))


def test_the_nodes_inputs_and_outputs(object_info):
    info = object_info["MuseTalkPreviewFrame"]
    assert list(info["input"]["required"]) == [
        *("model", "vae", "audio_encoder", "face_models", "seconds", "source_fps"),
        *("bbox_shift", "extra_margin", "face", "parsing_mode", "left_cheek_width", "right_cheek_width"),
        *("expand", "blur", "upper_boundary_ratio", "audio_padding_left", "audio_padding_right", "sweep", "detector"),
    ]
    optional = ["images", "video", "audio", "decode_vae", "face_options", "blend_options", "silence", "mask"]
    assert list(info["input"]["optional"]) == optional
    assert info["output"] == ["IMAGE", "IMAGE", "STRING"]
    assert info["output_name"] == ["preview", "sweep", "report"]


def test_the_node_shows_the_frame_that_lip_sync_gives(comfy, object_info):
    settings = {"bbox_shift": 4, "extra_margin": 15, "blur": 0.1}
    prompt = graph(
        object_info, seconds=0.6, source_fps=["parts", 2], images=["big", 0], audio=["sound", 0], sweep="", **settings
    )
    prompt["run"] = step(
        object_info,
        "MuseTalkLipSync",
        **{"images": ["big", 0], "source_fps": ["parts", 2], "audio": ["sound", 0], "batch_size": 1, **settings},
    )
    prompt["frames"] = node("PreviewImage", images=["run", 0])
    outputs = comfy.run(prompt)
    frame = picture(comfy, outputs["frames"], 15)
    # PNGs cut the frame's 0..1 to 8 bits, the sheet rounds.
    sheet = picture(comfy, outputs["sheet"]).astype(int)
    height, width = frame.shape[:2]
    distance = cv2.matchTemplate(sheet.astype(np.uint8), frame, cv2.TM_SQDIFF)
    y, x = np.unravel_index(distance.argmin(), distance.shape)
    assert np.abs(sheet[y : y + height, x : x + width] - frame).max() <= 1
    assert "output frame 15 at 0.60 s, source frame 8 of 12" in outputs["report"]["text"][0]
    assert "used: 4" in outputs["report"]["text"][0]


def test_a_video_is_previewed_as_its_frames_are(comfy, object_info):
    values = {"seconds": 0.36, "audio": ["sound", 0]}
    by_video = comfy.run(graph(object_info, video=["load", 0], **values))
    by_frames = comfy.run(graph(object_info, images=["parts", 0], source_fps=["parts", 2], **values))
    assert by_video["report"]["text"] == by_frames["report"]["text"]
    for name in ("sheet", "sweep"):
        ours, theirs = (picture(comfy, outputs[name]).astype(int) for outputs in (by_video, by_frames))
        assert ours.shape == theirs.shape and np.abs(ours - theirs).mean() < 1


def test_a_video_has_its_own_sound_and_rate(comfy, object_info):
    outputs = comfy.run(graph(object_info, "with_sound.mp4", video=["load", 0], seconds=0.2, source_fps=50.0))
    assert "output frame 5 at 0.20 s, source frame 5 of 12" in outputs["report"]["text"][0]


def test_a_frame_without_a_face_is_no_error_in_the_graph(comfy, object_info):
    outputs = comfy.run(graph(object_info, "cutaway.mp4", video=["load", 0], audio=["sound", 0], seconds=0.2))
    assert "No face was found at 0.20 s" in outputs["report"]["text"][0]
    assert picture(comfy, outputs["sheet"]).shape[1] > 600 and picture(comfy, outputs["sweep"]).shape[1] > 600


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "exactly one of images and video; neither is connected"),
        ({"video": ["load", 0], "images": ["parts", 0]}, "exactly one of images and video; both are connected"),
        ({"video": ["load", 0]}, "no audio"),
        ({"images": ["parts", 0]}, "no audio"),
        ({"video": ["load", 0], "audio": ["sound", 0], "seconds": 1.0}, "seconds is 1 and the result lasts 1.00 s"),
        ({"video": ["load", 0], "audio": ["sound", 0], "sweep": "-7 bis 7"}, "sweep holds 'bis'"),
    ],
)
def test_a_mistake_is_one_sentence_that_mends_it(comfy, object_info, values, problem):
    message = comfy.fail(graph(object_info, **values))
    assert problem in message and message.endswith(".") and "\n" not in message


# On the command line.


def preview(*args: Any) -> int:
    return main(["preview", "--version", "demo", *map(str, args)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    video = clips.write_video(folder / "clip.mp4", clips.moving_portrait(8), audio=clips.tone(0.32))
    return video, clips.write_audio(folder / "speech.wav", 1.0)


def test_the_command_writes_preview_and_sweep(files, tmp_path, capsys):
    video, speech = files
    out = tmp_path / "p.png"
    assert preview("--video", video, "--audio", speech, "--seconds", 0.48, "--sweep", -5, 5, "--output", out) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "p_sweep.png"]
    text = capsys.readouterr().out
    assert "output frame 12 at 0.48 s, source frame 3 of 8" in text and "bbox_shift range" in text
    sheet, sweep = (np.asarray(Image.open(tmp_path / name)) for name in ("p.png", "p_sweep.png"))
    assert sheet.shape[1] > 1000 and sweep.shape[1] == 3 * 384 + 4 * 16


def test_the_command_needs_no_audio_file_and_no_sweep(files, tmp_path):
    assert preview("--video", files[0], "--sweep", "--output", tmp_path / "own.jpg") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["own.jpg"]


def test_the_command_keeps_existing_pictures(files, tmp_path, capsys):
    kept = tmp_path / "p_sweep.png"
    kept.write_bytes(b"precious")
    assert preview("--video", files[0], "--output", tmp_path / "p.png") == 1
    assert kept.read_bytes() == b"precious" and "--overwrite" in capsys.readouterr().err
    assert preview("--video", files[0], "--output", tmp_path / "p.png", "--overwrite") == 0
    assert kept.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (("--output", "p.mp4"), "no picture"),
        (("--output", "absent/p.png"), "does not exist"),
        (("--output", "p.png", "--seconds", "9"), "seconds is 9"),
        (("--output", "p.png", "--sweep", "seven"), "'seven'"),
    ],
)
def test_the_command_tells_mistakes_in_one_line(files, tmp_path, monkeypatch, capsys, args, problem):
    monkeypatch.chdir(tmp_path)
    assert preview("--video", files[0], *args) == 1
    assert problem in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
