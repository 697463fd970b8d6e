"""The loop over real networks (the demo model, the embedded face nets) on a real face."""

import threading
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from clips import faceless, moving_portrait, tone, write_video

from musetalk_core.audio_features import extract_features
from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.execution import Execution
from musetalk_core.media.source import TensorFrames, open_source
from musetalk_core.media.video_writer import VideoWriter
from musetalk_core.pipeline import PreparedFrame, PreparedFrames, lip_sync
from musetalk_core.report import Report
from musetalk_core.settings import LipSyncSettings
from musetalk_core.tasks import locate_all
from musetalk_core.weights.folders import ModelFolders
from musetalk_core.writing import write_frames

FPS = Fraction(25)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folders = ModelFolders.default(tmp_path_factory.mktemp("models"))
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def cutaway_clip():
    """Face for 4 frames, 3 without, face for 3."""
    face = moving_portrait(7)
    return torch.from_numpy(np.concatenate([face[:4], faceless(3, 256), face[4:]]))


def features(engine, seconds, fps=FPS):
    samples = tone(seconds)
    return extract_features(engine.audio_encoder, samples, Fraction(len(samples), 16000), fps, 2, 2, "overlap")


def run(engine, frames, settings, seconds=0.8, fps=FPS, source_fps=FPS, **kwargs):
    tokens = features(engine, seconds, fps)
    report = Report()
    models = kwargs.pop("models", engine.models(settings))
    source = TensorFrames(frames, source_fps)
    result = list(lip_sync(source, tokens, tokens.frames, models, settings, report, **kwargs))
    return result, report


@pytest.mark.parametrize("as_float", [False, True])
def test_cutaway_frames_come_through_bit_equal_and_none_is_lost(engine, cutaway_clip, as_float):
    clip = cutaway_clip.float() / 255 if as_float else cutaway_clip
    before = clip.clone()
    result, report = run(engine, clip, LipSyncSettings(batch_size=3))
    assert len(result) == 20  # 0.8 s at 25 frames/s
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    for frame, k in zip(result, order, strict=True):
        assert frame.dtype == clip.dtype and frame.shape == clip[k].shape
        assert torch.equal(frame, clip[k]) == (k in (4, 5, 6))
    assert (report.frames, report.found, report.passed_through, report.failed) == (20, 14, 6, 0)
    assert torch.equal(clip, before), "the source must not be changed"


def test_only_the_lower_face_changes(engine, cutaway_clip):
    clip = cutaway_clip[:1]
    result, _ = run(engine, clip, LipSyncSettings(), seconds=0.04)
    box = engine.models(LipSyncSettings()).locator.locate(clip).boxes[0].astype(int)
    changed = (result[0] != clip[0]).any(-1)
    rows, columns = torch.nonzero(changed, as_tuple=True)
    assert rows.min() >= (box[1] + box[3]) // 2 - 20 and rows.max() < box[3]
    assert columns.min() >= box[0] and columns.max() < box[2]


def test_each_source_frame_is_encoded_once(engine, cutaway_clip):
    encoded = []

    class CountingCodec:
        device, dtype = engine.codec.device, engine.codec.dtype

        def encode(self, pixels):
            encoded.append(len(pixels))
            return engine.codec.encode(pixels)

        def decode(self, latents):
            return engine.codec.decode(latents)

    settings = LipSyncSettings(batch_size=4)
    models = engine.models(settings)
    models = type(models)(CountingCodec(), models.decode_codec, models.generator, models.locator, models.masker)
    _, report = run(engine, cutaway_clip[:4], settings, seconds=1.2, models=models)
    assert report.found == 30
    assert sum(encoded) == 2 * 4, "masked and reference crop of 4 source frames"


def test_batch_size_does_not_change_the_result(engine, cutaway_clip):
    one, _ = run(engine, cutaway_clip, LipSyncSettings(batch_size=1))
    many, _ = run(engine, cutaway_clip, LipSyncSettings(batch_size=16))
    for a, b in zip(one, many, strict=True):
        assert (a.int() - b.int()).abs().max() <= 1


def test_a_slow_source_is_shown_in_output_time(engine):
    clip = torch.from_numpy(faceless(3, 64))
    result, _ = run(engine, clip, LipSyncSettings(mode="hold", allow_no_face=True), source_fps=Fraction(10))
    # 10 -> 25 frames/s: source frame floor(i * 10 / 25), then the last one stays.
    expected = [min(i * 10 // 25, 2) for i in range(20)]
    assert [int(torch.equal(f, clip[k])) for f, k in zip(result, expected, strict=True)] == [1] * 20


def test_a_known_track_is_used_and_must_fit(engine, cutaway_clip):
    settings = LipSyncSettings()
    track = locate_all(TensorFrames(cutaway_clip, FPS), engine.models(settings).locator, 4)
    assert track.present.tolist() == [True] * 4 + [False] * 3 + [True] * 3
    with_track, _ = run(engine, cutaway_clip, settings, track=track)
    without, _ = run(engine, cutaway_clip, settings)
    assert all(torch.equal(a, b) for a, b in zip(with_track, without, strict=True))
    with pytest.raises(MuseTalkError, match="10 frames and the source 4"):
        run(engine, cutaway_clip[:4], settings, track=track)


def test_no_face_anywhere_is_refused_unless_allowed(engine):
    clip = torch.from_numpy(faceless(3, 64))
    with pytest.raises(MuseTalkError, match="No face was found in any of the 20 frames"):
        run(engine, clip, LipSyncSettings())
    result, report = run(engine, clip, LipSyncSettings(allow_no_face=True))
    assert len(result) == 20 and report.passed_through == 20


def test_frames_with_unusable_results_keep_their_picture(engine, cutaway_clip):
    class PoisonedCodec:
        device, dtype = engine.codec.device, engine.codec.dtype

        def decode(self, latents):
            pixels = engine.codec.decode(latents)
            pixels[0] = float("nan")
            return pixels

    settings = LipSyncSettings(batch_size=4)
    models = engine.models(settings)
    models = type(models)(models.codec, PoisonedCodec(), models.generator, models.locator, models.masker)
    result, report = run(engine, cutaway_clip[:4], settings, seconds=0.16, models=models)
    assert (report.found, report.failed) == (3, 1)
    assert torch.equal(result[0], cutaway_clip[0])


PLAIN, OVERLAPPED = Execution(overlap=False, fixed=False), Execution(overlap=True, fixed=False)


def ahead_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "musetalk-ahead"]


def test_work_in_threads_gives_the_same_file(engine, cutaway_clip, tmp_path):
    source = write_video(tmp_path / "clip.mp4", cutaway_clip.numpy(), FPS)
    tokens, settings, told = features(engine, 0.8), LipSyncSettings(batch_size=3), []

    def make(name, execution):
        frames, report = open_source(source), Report()
        made = lip_sync(frames, tokens, 20, engine.models(settings), settings, report, execution=execution)
        with VideoWriter(tmp_path / name, FPS, frames.size) as writer:
            write_frames(writer, made, 20, lambda done, _: told.append(done), execution.overlap)
        return (tmp_path / name).read_bytes(), report

    with torch.inference_mode():
        assert make("plain.mp4", PLAIN) == make("overlapped.mp4", OVERLAPPED)
    assert told == 2 * list(range(1, 21)) and ahead_threads() == []


class StoppedByUser(Exception):
    """What ComfyUI's Cancel does: the progress bar raises."""


@pytest.mark.parametrize("execution", [PLAIN, OVERLAPPED])
def test_cancel_ends_all_threads_and_leaves_nothing(execution, engine, cutaway_clip, tmp_path):
    settings, held = LipSyncSettings(batch_size=2), []

    def progress(done, _):
        held.append(len(ahead_threads()))
        if done == 5:
            raise StoppedByUser

    made = lip_sync(
        TensorFrames(cutaway_clip, FPS), features(engine, 0.8), 20, engine.models(settings), settings, Report(),
        execution=execution,
    )  # fmt: skip
    with pytest.raises(StoppedByUser), VideoWriter(tmp_path / "o.mp4", FPS, (256, 256)) as writer:
        write_frames(writer, made, 20, progress, execution.overlap)
    assert ahead_threads() == [] and list(tmp_path.iterdir()) == []
    assert max(held) == (3 if execution.overlap else 0), "reading, networks, writing"


class LimitedGenerator:
    """The engine's generator on a device with memory for so many rows; notes the rows of every pass."""

    def __init__(self, generator, rows):
        self.generator, self.rows, self.passes = generator, rows, []
        self.tokens, self.width = generator.tokens, generator.width

    def generate(self, masked, reference, tokens):
        assert len(masked) == len(reference) == len(tokens)
        self.passes.append(len(masked))
        if len(masked) > self.rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return self.generator.generate(masked, reference, tokens)


def test_memory_runs_out_once_for_a_size_and_not_in_every_batch(engine, cutaway_clip):
    generator, settings = LimitedGenerator(engine.generator, 2), LipSyncSettings(batch_size=8)
    models = replace(engine.models(settings), generator=generator)
    _, report = run(engine, cutaway_clip[:4], settings, models=models)
    assert report.found == 20 and generator.passes == [8, 4, *[2] * 10]


def test_fixed_batches_have_one_shape_and_change_nothing(engine, cutaway_clip):
    generator, settings = LimitedGenerator(engine.generator, 6), LipSyncSettings(batch_size=6)
    models = replace(engine.models(settings), generator=generator)
    fixed, report = run(engine, cutaway_clip, settings, models=models, execution=Execution(overlap=False, fixed=True))
    plain, _ = run(engine, cutaway_clip, settings)
    # Faces in frames 0-3, 7-12 and 16-19 of 20: 4, 5, 3 and 2 of the four batches.
    assert generator.passes == [6] * 4 and report.found == 14
    for a, b in zip(fixed, plain, strict=True):
        assert (a.int() - b.int()).abs().max() <= 1


def test_automatic_batches_are_eight_on_a_cpu(engine, cutaway_clip):
    generator, settings = LimitedGenerator(engine.generator, 8), LipSyncSettings(batch_size=0)
    run(engine, cutaway_clip[:4], settings, models=replace(engine.models(settings), generator=generator))
    assert generator.passes == [8, 8, 4]


def test_the_cache_forgets_the_least_recently_used():
    frame = PreparedFrame(mask=np.zeros(1000 - 256, np.uint8))
    kept = PreparedFrames(limit=3000)
    for index in (1, 2, 3):
        kept.add(index, frame)
    assert kept.get(1) is frame
    kept.add(4, frame)
    assert [index for index in (1, 2, 3, 4) if kept.get(index) is not None] == [1, 3, 4]
