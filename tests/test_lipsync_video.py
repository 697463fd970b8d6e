"""Lip Sync Video in a real ComfyUI server: time, sound, frames, formats, storing, Cancel and error sentences."""

import json
import re
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import clips
import numpy as np
import pytest
from comfy_client import HOST_ROOT, REPOSITORY, ComfyServer
from PIL import Image

from musetalk_core.__main__ import main

NTSC = Fraction(30000, 1001)
OWN_HERTZ, GIVEN_HERTZ = 500, 220  # the tone of ntsc.mov, and that of clips.tone in voice.wav
OPTIONAL = ["audio", "decode_vae", "face_options", "blend_options", "silence", "mask", "preset", "encoder"]
INPUTS = [
    "video",
    "model",
    "vae",
    "audio_encoder",
    "face_models",
    "fps",
    "mode",
    "bbox_shift",
    "extra_margin",
    "face",
    "parsing_mode",
    "left_cheek_width",
    "right_cheek_width",
    "expand",
    "blur",
    "upper_boundary_ratio",
    "audio_padding_left",
    "audio_padding_right",
    "segmentation",
    "batch_size",
    "crf",
    "pixel_format",
    "detector",
    *OPTIONAL,
]
PARTS = {"model": ["models", 0], "vae": ["models", 1], "audio_encoder": ["models", 2], "face_models": ["models", 3]}


@pytest.fixture(scope="module")
def inputs(comfy: ComfyServer) -> Path:
    """The server's input folder, with this file's clips in it."""
    folder = comfy.folder / "input"
    portrait = clips.moving_portrait(24)
    own_tone = 0.3 * np.sin(2 * np.pi * OWN_HERTZ * np.arange(12800) / 16000)
    clips.write_video(folder / "ntsc.mov", portrait, NTSC, own_tone)
    Image.fromarray(clips.portrait(256)[:251, :233]).save(folder / "odd.png")
    (folder / "damaged.mp4").write_bytes((folder / "portrait.mp4").read_bytes()[:700])
    return folder


def node(kind: str, **values: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": values}


def lipsync(object_info: dict[str, Any], kind: str, **values: Any) -> dict[str, Any]:
    """One of the whole-chain nodes with its defaults, on the demo models."""
    specs = object_info[kind]["input"]["required"]
    defaults = {name: spec[1]["default"] for name, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}
    return node(kind, **{**defaults, **PARTS, **values})


def graph(object_info: dict[str, Any], file: str | None = None, sound: str | None = None, **values: Any) -> Any:
    """Load Video, the node (id lipsync), Save Video (id save); without `sound` the video's own."""
    prompt = {
        "models": node("LoadMuseTalkModels", version="demo", precision="auto"),
        "save": node("SaveVideo", video=["lipsync", 0], filename_prefix="test/video", format="auto", codec="auto"),
        "report": node("PreviewAny", source=["lipsync", 1]),
    }
    if file:
        prompt["load"] = node("LoadVideo", file=file)
        values = {"video": ["load", 0], **values}
    if sound:
        prompt["sound"] = node("LoadAudio", audio=sound)
        values = {"audio": ["sound", 0], **values}
    return {**prompt, "lipsync": lipsync(object_info, "MuseTalkLipSyncVideo", **values)}


def result(comfy: ComfyServer, prompt: dict[str, Any]) -> Path:
    """The file that Save Video stored."""
    return comfy.file(comfy.run(prompt)["save"]["images"][0])


def temp_files(comfy: ComfyServer) -> set[str]:
    return {path.name for path in (comfy.folder / "temp").glob("*") if "musetalk_" in path.name or ".part" in path.name}


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """First channel and rate, as decoded."""
    with av.open(str(path)) as file:
        rate = file.streams.audio[0].rate
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)]), rate


def one_sentence(text: str) -> bool:
    return len(text) < 400 and text.endswith(".") and "\n" not in text and "Traceback" not in text


def test_inputs_and_outputs_are_those_of_the_design(object_info):
    info = object_info["MuseTalkLipSyncVideo"]
    assert [*info["input"]["required"], *info["input"]["optional"]] == INPUTS
    assert list(info["input"]["optional"]) == OPTIONAL
    assert info["output"] == ["VIDEO", "STRING", "STRING"]
    assert info["output_name"] == ["video", "report", "report_json"]
    pixel_format = info["input"]["required"]["pixel_format"]
    assert pixel_format[1]["default"] == pixel_format[1]["options"][0] == "yuv420p"
    preset, encoder = (info["input"]["optional"][name][1] for name in ("preset", "encoder"))
    assert (preset["default"], encoder["default"]) == ("medium", "libx264")


# Frames by hand: floor(seconds * fps); own sound of ntsc.mov: 0.8 s.
@pytest.mark.parametrize(
    ("video", "audio", "values", "frames", "fps", "seconds"),
    [
        ("portrait.mp4", "voice.wav", {}, 25, 25, 1.0),
        ("portrait.mp4", "stereo 44k.wav", {"fps": 29.97002997}, 29, NTSC, 1.0),
        ("ntsc.mov", "voice.wav", {}, 29, NTSC, 1.0),
        ("ntsc.mov", None, {}, 23, NTSC, 0.8),
        ("portrait.mp4", "voice.wav", {"mode": "trim"}, 12, 25, 0.48),
    ],
)
def test_count_rate_and_length_are_exact(comfy, object_info, inputs, video, audio, values, frames, fps, seconds):
    path = result(comfy, graph(object_info, video, audio, **values))
    facts = clips.probe(path)
    assert (facts["frames"], facts["fps"], facts["size"]) == (frames, fps, (256, 256))
    assert facts["video_seconds"] == pytest.approx(frames / fps, abs=1e-3)  # Save Video writes milliseconds
    assert abs(facts["audio_seconds"] - seconds) < 0.03
    with av.open(str(path)) as file:
        stamps = [frame.pts * frame.time_base for frame in file.decode(video=0)]
    assert [stamp - stamps[0] for stamp in stamps] == [Fraction(i) / fps for i in range(frames)]


@pytest.mark.parametrize(("audio", "hertz"), [(None, OWN_HERTZ), ("voice.wav", GIVEN_HERTZ)])
def test_sound_is_the_videos_own_or_the_given_one(comfy, object_info, inputs, audio, hertz):
    path = result(comfy, graph(object_info, "ntsc.mov", audio))
    sound, rate = sound_of(path)
    spectrum = np.abs(np.fft.rfft(sound))
    assert np.argmax(spectrum) * rate / len(sound) == pytest.approx(hertz, abs=3)
    times = np.arange(len(sound)) / rate
    loudness = 0.3 if audio is None else 0.3 * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * times))
    wanted = loudness * np.sin(2 * np.pi * hertz * times)
    middle = slice(rate // 10, round(0.7 * rate))
    assert np.corrcoef(sound[middle], wanted[middle])[0, 1] > 0.99  # in its place to a fraction of a wave


def test_frames_are_those_of_the_image_chain(comfy, object_info):
    prompt = graph(object_info, "cutaway.mp4", "voice.wav", crf=1, pixel_format="yuv444p")
    prompt["parts"] = node("GetVideoComponents", video=["load", 0])
    images = {"images": ["parts", 0], "source_fps": ["parts", 2], "audio": ["sound", 0]}
    prompt["chain"] = lipsync(object_info, "MuseTalkLipSync", **images)
    prompt["images"] = node("SaveImage", images=["chain", 0], filename_prefix="test/chain")
    prompt["chain_report"] = node("PreviewAny", source=["chain", 2])
    outputs = comfy.run(prompt)
    chain = np.stack([np.asarray(Image.open(comfy.file(item)))[..., :3] for item in outputs["images"]["images"]])
    video = clips.read_frames(comfy.file(outputs["save"]["images"][0]))
    assert outputs["report"]["text"] == outputs["chain_report"]["text"]
    assert "17 lip-synced, 8 passed through" in outputs["report"]["text"][0]
    assert video.shape == chain.shape == (25, 256, 256, 3)
    lost = np.abs(video.astype(int) - chain)
    assert lost.mean(axis=(1, 2, 3)).max() < 1 and np.percentile(lost, 99.9) <= 6
    for i, frame in enumerate(video.astype(int)):
        others = np.abs(frame - chain).mean(axis=(1, 2, 3))
        assert lost[i].mean() <= others.min() + 1e-9, i  # each frame in its place


@pytest.mark.parametrize("pixel_format", ["yuv444p", "yuv420p10le"])
def test_pixel_format_and_crf_reach_the_stored_file(comfy, object_info, pixel_format):
    sizes = {}
    for crf in (4, 40):
        path = result(comfy, graph(object_info, "portrait.mp4", "short.wav", pixel_format=pixel_format, crf=crf))
        sizes[crf] = path.stat().st_size
        assert f"crf={crf}.0".encode() in path.read_bytes()
        with av.open(str(path)) as file:
            assert {frame.format.name for frame in file.decode(video=0)} == {pixel_format}
    assert sizes[4] > 2 * sizes[40]


def test_frames_in_memory_of_an_odd_size_become_a_video(comfy, object_info, inputs):
    prompt = graph(object_info, video=["made", 0])
    prompt["picture"] = node("LoadImage", image="odd.png")
    prompt["sound"] = node("LoadAudio", audio="voice.wav")
    prompt["made"] = node("CreateVideo", images=["picture", 0], fps=30.0, audio=["sound", 0])
    facts = clips.probe(result(comfy, prompt))
    assert (facts["frames"], facts["fps"], facts["size"]) == (30, 30, (252, 234))


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as file:
        return [bytes(packet) for packet in file.demux(video=0) if packet.size]


def test_save_video_copies_the_result_and_its_tags(comfy, object_info, inputs):
    with av.open(str(inputs / "portrait.mp4")) as source, av.open(str(inputs / "titled.mp4"), "w") as copy:
        copy.metadata.update({"title": "Bühne 7", "comment": "take 3"})
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                copy.mux(packet)
    before = temp_files(comfy)
    stored = result(comfy, graph(object_info, "titled.mp4", "short.wav", bbox_shift=3))
    (made,) = temp_files(comfy) - before
    assert packets(stored) == packets(comfy.folder / "temp" / made)
    with av.open(str(stored)) as file:
        tags = dict(file.metadata)
    comment = json.loads(tags["comment"])
    assert tags["title"] == "Bühne 7" and "MuseTalkLipSyncVideo" in tags["prompt"]
    assert (comment["bbox_shift"], comment["version"], comment["source_comment"]) == (3, "demo", "take 3")


def test_the_command_line_writes_the_same_formats(tmp_path):
    video = clips.write_video(tmp_path / "clip.mov", clips.moving_portrait(3), Fraction(25), clips.tone(0.12))
    files = ["--video", str(video), "--output", str(tmp_path / "out.mp4")]
    assert (
        main(
            ["infer", "--version", "demo", *files, "--pixel-format", "yuv422p10le", "--crf", "30", "--preset", "slower"]
        )
        == 0
    )
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert [frame.format.name for frame in file.decode(video=0)] == ["yuv422p10le"] * 3
    written = (tmp_path / "out.mp4").read_bytes()
    assert b"crf=30.0" in written and b"me=umh" in written and b"rc_lookahead=60" in written


def test_cancel_leaves_no_file(comfy, object_info):
    before = temp_files(comfy)
    prompt_id = comfy.queue(graph(object_info, "portrait.mp4", "minute.wav"))
    end = time.monotonic() + 60
    while not any(".part" in name for name in temp_files(comfy)) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    comfy.ask("/interrupt", {})
    entry = comfy.wait(prompt_id, 60)
    kinds = {kind: detail for kind, detail in entry["status"]["messages"]}
    assert kinds["execution_interrupted"]["node_type"] == "MuseTalkLipSyncVideo"
    assert temp_files(comfy) == before


@pytest.mark.parametrize(
    ("video", "audio", "values", "word"),
    [
        ("portrait.mp4", None, {}, "no sound track"),
        ("nobody.mp4", "voice.wav", {}, "No face was found"),
        ("damaged.mp4", "voice.wav", {}, "damaged.mp4"),
        ("portrait.mp4", "voice.wav", {"fps": 0.5}, "0.5"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_file(comfy, object_info, inputs, video, audio, values, word):
    before = temp_files(comfy)
    message = comfy.fail(graph(object_info, video, audio, **values))
    assert one_sentence(message) and word in message, message
    assert temp_files(comfy) == before


@pytest.mark.parametrize("kind", ["MuseTalkLipSync", "MuseTalkMatchFrames"])
def test_frames_that_cannot_fit_are_refused_before_any_network_runs(comfy, object_info, inputs, kind):
    """One minute at 120 frames/s of 4096x4096: 7200 frames of 4096 * 4096 * 3 * 4 bytes, 1449.6 GB."""
    prompt = {
        "models": node("LoadMuseTalkModels", version="demo", precision="fp32"),
        "picture": node("LoadImage", image="odd.png"),
        "large": node(
            "ImageScale", image=["picture", 0], upscale_method="bilinear", width=4096, height=4096, crop="disabled"
        ),
        "sound": node("LoadAudio", audio="minute.wav"),
        "end": node("PreviewImage", images=["chain", 0]),
    }
    chain = lipsync(object_info, kind, images=["large", 0], source_fps=25.0, audio=["sound", 0], fps=120.0)
    if kind == "MuseTalkMatchFrames":
        chain["inputs"] = {name: value for name, value in chain["inputs"].items() if name not in PARTS}
    loaded = comfy.log.read_text().count("Requested to load")
    message = comfy.fail({**prompt, "chain": chain})
    assert comfy.log.read_text().count("Requested to load") == loaded
    assert one_sentence(message), message
    assert "7200 frames of 4096x4096 needs 1449.6 GB" in message and "Lip Sync Video" in message
    assert re.search(r"and [\d.]+ GB of memory are free", message)


OPEN_VIDEO = """
import asyncio, importlib.util, io, json, sys
from pathlib import Path
comfy, pack, clip, temp = sys.argv[1:]
sys.argv, sys.path[0] = ["main.py", "--cpu"], comfy
import comfy.options
comfy.options.enable_args_parsing()
import folder_paths
folder_paths.set_temp_directory(temp)
from comfy_api.latest import InputImpl, Types
spec = importlib.util.spec_from_file_location("pack", Path(pack, "__init__.py"), submodule_search_locations=[pack])
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
asyncio.run(module.comfy_entrypoint())
from pack.nodes.video import open_video

class Trimmed(InputImpl.VideoFromFile):
    # As newer ComfyUIs trim: the file is whole, the VIDEO says and stores less.
    def get_duration(self):
        return 0.2
    def save_to(self, path, format=None, codec=None, metadata=None):
        parts = self.get_components()
        parts = Types.VideoComponents(images=parts.images[:5], audio=None, frame_rate=parts.frame_rate)
        InputImpl.VideoFromComponents(parts).save_to(temp + "/trimmed.mp4")
        path.write(Path(temp, "trimmed.mp4").read_bytes())

def facts(video):
    source, sound = open_video(video)
    frames = [int(frame.sum()) for frame in source.read(range(len(source)))]
    return [type(source).__name__, frames, None if sound is None else sound.samples]

buffer = io.BytesIO(Path(clip).read_bytes())
found = {
    "file": facts(InputImpl.VideoFromFile(clip)),
    "memory": facts(InputImpl.VideoFromFile(buffer)),
    "again": facts(InputImpl.VideoFromFile(buffer)),
    "trimmed": facts(Trimmed(clip)),
    "frames": facts(InputImpl.VideoFromComponents(InputImpl.VideoFromFile(clip).get_components())),
    "stored": len(list(Path(temp).glob("musetalk_*"))),
}
sys.stdout.write(json.dumps(found))
"""


def test_every_kind_of_video_is_opened(comfy, tmp_path):
    """A file, a file in memory (stored once, however often it is opened), a trimmed file, frames in memory."""
    clip = clips.write_video(tmp_path / "clip.mov", clips.moving_portrait(12, 64), Fraction(25), clips.tone(0.48))
    (tmp_path / "temp").mkdir()
    comfyui = json.loads((HOST_ROOT / "host.json").read_text())["path"]
    call = [
        str(HOST_ROOT / "venv" / "bin" / "python"),
        "-c",
        OPEN_VIDEO,
        comfyui,
        str(REPOSITORY),
        str(clip),
        str(tmp_path / "temp"),
    ]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    kind, frames, samples = found["file"]
    assert (kind, len(frames), samples) == ("VideoReader", 12, 7680)
    assert found["memory"] == found["again"] == found["file"]
    assert found["trimmed"][0] == "VideoReader" and len(found["trimmed"][1]) == 5 and found["trimmed"][2] is None
    assert found["frames"][0] == "TensorFrames" and len(found["frames"][1]) == 12 and found["frames"][2] == 7680
    assert found["stored"] == 2  # the file in memory and the trimmed one


MEMORY = """
import sys
from pathlib import Path
from musetalk_core.__main__ import main
arguments = ["infer", "--version", "demo", "--allow-no-face", "--device", "cpu"]
assert main([*arguments, "--video", sys.argv[1], "--audio", sys.argv[2], "--output", sys.argv[3]]) == 0
# Not getrusage, which counts the memory of the process that started this one.
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
"""


def test_memory_does_not_grow_with_length(tmp_path):
    """1 and 4 minutes: 1800 frames more of 197 kB each would be 355 MB."""
    video = clips.write_video(tmp_path / "clip.mp4", clips.faceless(8, 256), Fraction(10))
    peaks = []
    for seconds in (60, 240):
        audio = clips.write_audio(tmp_path / f"{seconds}.wav", seconds)
        call = [sys.executable, "-c", MEMORY, str(video), str(audio), str(tmp_path / f"{seconds}.mp4")]
        done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=REPOSITORY)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.05 * peaks[0], peaks
