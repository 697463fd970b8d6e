"""Sessions with the real demo model: what is shown and heard, on a clock that is turned by hand."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfy_client import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

from realtime_parts import FPS, RATE, Holder, Stage, demo_speech, portrait_avatar, shape_of, sound_of

from musetalk_core.blending import composite
from musetalk_core.engine import Engine, WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.media.source import TensorFrames
from musetalk_core.realtime.actions import ActionClip
from musetalk_core.realtime.block import SpeechEvent
from musetalk_core.realtime.session import AHEAD
from musetalk_core.weights.folders import ModelFolders


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folders = ModelFolders({"musetalk": [tmp_path_factory.mktemp("models")]})
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def avatar(engine):
    return portrait_avatar(engine)


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return demo_speech()[8000:]


@pytest.fixture
def stage(engine) -> Stage:
    return Stage(Holder(engine))


def source_of(avatar, block, first: int = 0) -> int | None:
    """Which source frame a block shows outside the masks, or None."""
    for k, frame in enumerate(avatar.frames.frames.numpy()):
        different = (block.picture != frame).any(2)
        if not different.any():
            return k
        x1, y1, x2, y2 = (int(edge) for edge in avatar.track.boxes[k])
        mask = np.zeros(different.shape, bool)
        height, width = different.shape
        kept = avatar.masks[k][max(-y1, 0) : height - y1, max(-x1, 0) : width - x1]
        mask[max(y1, 0) : y2, max(x1, 0) : x2] = kept > 0
        if not (different & ~mask).any():
            return k
    return None


def test_idle_shows_the_source_there_and_back_and_runs_no_network(stage, avatar):
    session = stage.engine.session(avatar)
    blocks = stage.run(session, 14)
    frames = avatar.frames.frames.numpy()
    for block, k in zip(blocks, [0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0, 0, 1], strict=True):
        assert np.array_equal(block.picture, frames[k]) and block.kind == "idle" and not block.sound.any()
    assert [block.index for block in blocks] == list(range(14)) and stage.holder.held == 0
    assert not blocks[0].picture.flags.writeable


def test_speech_changes_the_mask_only_and_all_sound_is_heard_once_and_in_order(stage, avatar, speech):
    session = stage.engine.session(avatar)
    stage.run(session, 3)
    sound = speech[: RATE + 300]
    session.feed(sound, SpeechEvent("start", "words"))
    session.feed(np.zeros(0, np.float32), SpeechEvent("end", "words"))
    session.finish()
    blocks = stage.until_idle(session)
    spoken = [block for block in blocks if block.kind == "speech"]
    heard = sound_of(spoken)
    assert np.array_equal(heard[: len(sound)], sound) and not heard[len(sound) :].any()
    assert [k for k, block in enumerate(spoken) for event in block.events] == [0, len(sound) // 640]
    assert [event.status for block in spoken for event in block.events] == ["start", "end"]
    shown = [source_of(avatar, block) for block in blocks]
    assert None not in shown
    steps = np.diff(shown)
    assert np.abs(steps).max() <= 2, "the head does not jump"
    frames = avatar.frames.frames.numpy()
    moved = [not np.array_equal(block.picture, frames[k]) for block, k in zip(blocks, shown, strict=True)]
    assert sum(moved) >= 20 and not any(m for m, block in zip(moved, blocks, strict=True) if block.kind == "idle")
    numbers = session.metrics.snapshot()
    assert numbers["underruns"] == numbers["duplicated_frames"] == numbers["failed_frames"] == 0


def test_the_mouth_comes_and_goes_over_a_few_frames(stage, avatar, speech):
    session = stage.engine.session(avatar)
    session.feed(speech[:RATE])
    session.finish()
    blocks = [block for block in stage.until_idle(session) if block.kind == "speech"]
    frames = avatar.frames.frames.numpy().astype(int)
    change = [np.abs(block.picture - frames[source_of(avatar, block)]).sum() for block in blocks]
    whole = np.median(change)
    assert 0 < change[0] < 0.5 * whole and 0 < change[-1] < 0.5 * whole or change[-1] == 0
    assert change[1] < change[3] * 1.2


def test_a_pause_in_speech_shows_the_source_and_costs_no_network(stage, avatar, speech):
    session = stage.engine.session(avatar)
    rows = []
    generate = stage.holder.models.generator.generate
    counted = type("Counted", (), {"generate": lambda self, *batch: rows.append(len(batch[0])) or generate(*batch)})()
    stage.holder.models = replace(stage.holder.models, generator=counted)
    session.feed(np.concatenate([speech[:12800], np.zeros(2 * RATE, np.float32), speech[:12800]]))
    session.finish()
    blocks = [block for block in stage.until_idle(session) if block.kind == "speech"]
    frames = avatar.frames.frames.numpy()
    still = [any(np.array_equal(block.picture, frame) for frame in frames) for block in blocks]
    assert sum(still) >= 30 and sum(rows) == len(blocks) - sum(still)
    assert all(still[34:66]) and not any(block.speaking for block in blocks[34:66])


def test_interruption_is_idle_with_the_second_block_and_nothing_of_the_old_is_heard(stage, avatar, speech):
    session = stage.engine.session(avatar)
    session.feed(speech[: 3 * RATE], SpeechEvent("start", "old"))
    session.feed(speech[:RATE], SpeechEvent("end", "old"))
    before = stage.run(session, 30)
    assert before[-1].kind == "speech" and session.speaking
    session.interrupt()
    fading, *after = stage.run(session, 12)
    assert fading.kind == "speech" and fading.events == () and abs(fading.sound[-1]) < 1e-6
    assert source_of(avatar, fading) is not None
    frames = avatar.frames.frames.numpy()
    for block in after:
        assert block.kind == "idle" and any(np.array_equal(block.picture, frame) for frame in frames)
        assert not block.sound.any() and not block.events
    assert not session.speaking and session.queued_seconds == 0
    session.feed(speech[:6400])
    session.finish()
    heard = sound_of([block for block in stage.until_idle(session) if block.kind == "speech"])
    assert np.array_equal(heard[:6400], speech[:6400])


def test_batches_climb_the_ladder_and_not_more_is_made_than_may_wait(stage, avatar, speech):
    sizes = []
    generate = stage.holder.models.generator.generate
    counted = type("Counted", (), {"generate": lambda self, *batch: sizes.append(len(batch[0])) or generate(*batch)})()
    stage.holder.models = replace(stage.holder.models, generator=counted)
    session = stage.engine.session(avatar)
    session.feed(speech[: 4 * RATE])
    stage.work()
    assert sizes[:2] == [2, 4] and sum(sizes) <= AHEAD
    stage.run(session, 30)
    assert max(sizes) == 8 and session.metrics.snapshot()["underruns"] == 0


def test_two_sessions_made_together_equal_each_alone(engine, avatar, speech):
    def spoken(*sounds):
        stage = Stage(Holder(engine))
        sessions = [stage.engine.session(avatar) for _ in sounds]
        for session, sound in zip(sessions, sounds, strict=True):
            session.feed(sound)
            session.finish()
        rows = [stage.step(*sessions) for _ in range(30)]
        assert not any(session.queued_seconds for session in sessions)
        return stage.holder.held, [
            [block for block in blocks if block.kind == "speech"] for blocks in zip(*rows, strict=True)
        ]

    one, two = speech[:12800], speech[20000:32800]
    together, both = spoken(one, two)
    apart, first = spoken(one)
    assert together < 2 * apart, "the batches are shared"
    for blocks, others in zip(both, (*first, *spoken(two)[1]), strict=True):
        assert len(blocks) == len(others) > 20
        for block, other in zip(blocks, others, strict=True):
            assert np.array_equal(block.sound, other.sound)
            assert np.abs(block.picture.astype(int) - other.picture).max() <= 1, "but for the last digit of a batch"


@pytest.mark.parametrize("piece", [1, 333, 640, 16000, 160000])
def test_the_same_blocks_come_of_sound_in_any_pieces(engine, avatar, speech, piece):
    def blocks(size):
        stage = Stage(Holder(engine))
        session = stage.engine.session(avatar)
        for start in range(0, len(sound), size):
            session.feed(sound[start : start + size])
        session.finish()
        return stage.until_idle(session)

    sound = speech[: RATE // 2 + 77]
    expected, found = blocks(len(sound)), blocks(piece)
    assert shape_of(found) == shape_of(expected)
    assert all(np.array_equal(a.picture, b.picture) for a, b in zip(found, expected, strict=True))


def test_a_microphone_is_heard_whole_with_a_delay_that_does_not_grow(stage, avatar, speech):
    session = stage.engine.session(avatar)
    sound = speech[: 2 * RATE]
    blocks = []
    for start in range(0, len(sound), 640):
        session.feed(sound[start : start + 640])
        blocks += stage.step(session)
    session.finish()
    blocks += stage.until_idle(session)
    spoken = [block for block in blocks if block.kind == "speech"]
    assert np.array_equal(sound_of(spoken)[: len(sound)], sound)
    assert [block.index for block in spoken] == list(range(spoken[0].index, spoken[0].index + len(spoken)))
    assert spoken[0].index <= 9, "10 rows and 4 of lookahead are 200 ms, the second frame 40, the rest 2 blocks"


def test_broken_sound_is_silence_and_an_empty_one_nothing(stage, avatar):
    session = stage.engine.session(avatar)
    for samples in (np.zeros(0), np.full(6400, np.nan), np.full(6400, np.inf), np.full(3200, -np.inf)):
        session.feed(samples)
    session.finish()
    blocks = [block for block in stage.until_idle(session) if block.kind == "speech"]
    assert len(blocks) == 25 and not sound_of(blocks).any() and stage.holder.held == 0
    session.feed(np.zeros(0), SpeechEvent("start", "nothing"))
    session.finish()
    assert [event.text for block in stage.until_idle(session) for event in block.events] == ["nothing"]
    with pytest.raises(MuseTalkError, match=r"shape \(2, 3\)"):
        session.feed(np.zeros((2, 3)))


def test_too_much_sound_is_refused_and_what_waits_stays(stage, avatar, speech):
    session = stage.engine.session(avatar, max_queued_seconds=2)
    session.feed(speech[:RATE])
    with pytest.raises(MuseTalkError, match=r"^3\.0 s of sound would wait and 2 s may;"):
        session.feed(speech[: 2 * RATE])
    assert session.queued_seconds == 1


def test_a_failed_batch_shows_source_frames_and_the_sound_goes_on(stage, avatar, speech):
    session, other = stage.engine.session(avatar), stage.engine.session(avatar)
    session.feed(speech[:RATE])
    session.finish()
    stage.holder.fails = True
    blocks = [block for block in stage.until_idle(session) if block.kind == "speech"]
    frames = avatar.frames.frames.numpy()
    assert np.array_equal(sound_of(blocks)[:RATE], speech[:RATE])
    assert all(any(np.array_equal(block.picture, frame) for frame in frames) for block in blocks)
    assert session.metrics.snapshot()["failed_frames"] > 20
    stage.holder.fails = False
    other.feed(speech[:RATE])
    other.finish()
    stage.until_idle(other)
    assert other.metrics.snapshot()["failed_frames"] == 0 and other.metrics.snapshot()["generated"] > 20


def test_one_broken_session_does_not_stop_its_neighbour(stage, avatar, speech):
    broken = replace(avatar, masked=torch.zeros(len(avatar), 4, 16, 16))
    sessions = [stage.engine.session(broken), stage.engine.session(avatar)]
    for session in sessions:
        session.feed(speech[:RATE])
        session.finish()
    for _ in range(40):
        stage.step(*sessions)
    assert sessions[0].metrics.snapshot()["failed_frames"] > 20
    assert sessions[1].metrics.snapshot()["generated"] > 20
    assert sessions[1].metrics.snapshot()["failed_frames"] == 0


def test_a_mouth_that_comes_too_late_is_dropped_and_the_last_one_shown_once_more(stage, avatar, speech):
    session = stage.engine.session(avatar)
    session.feed(speech[: 2 * RATE])
    session.finish()
    before = [block for block in stage.run(session, 12) if block.kind == "speech"]
    skews, blocks = [], []
    for _ in range(20):  # nothing is made any more
        stage.seconds += 0.04
        blocks.append(session.next_block())
        skews.append(session.metrics.snapshot()["av_skew_ms"])
    heard = sound_of([*before, *blocks])
    assert np.array_equal(heard, speech[: len(heard)]), "the sound goes on"
    assert max(skews) == 40 and skews.count(40) == 1
    after = stage.until_idle(session)
    numbers = session.metrics.snapshot()
    assert numbers["duplicated_frames"] >= 2
    assert np.array_equal(sound_of([*before, *blocks, *after])[: 2 * RATE], speech[: 2 * RATE])


def test_actions_play_once_with_their_sound_and_speech_ends_them(stage, avatar, speech):
    green = np.zeros((3, 256, 256, 3), np.uint8)
    green[..., 1] = 200
    clip = ActionClip(TensorFrames(torch.from_numpy(green), FPS), np.full(5 * 640 - 10, 0.5, np.float32))
    idle = ActionClip(TensorFrames(torch.from_numpy(green // 2), FPS))
    session = stage.engine.session(avatar, {1: idle, 2: clip})
    session.set_action(2)
    blocks = stage.run(session, 7)
    assert [block.kind for block in blocks] == ["action"] * 5 + ["idle"] * 2
    assert np.count_nonzero(sound_of(blocks)) == 5 * 640 - 10 and blocks[0].picture[0, 0, 1] == 200
    session.set_action(1)
    assert stage.run(session, 1)[0].picture[0, 0, 1] == 100
    session.set_action(2)
    session.feed(speech[:RATE])
    session.finish()
    kinds = [block.kind for block in stage.until_idle(session)]
    assert "action" not in kinds[kinds.index("speech") :] and kinds[-1] == "idle"
    session.set_action(2)
    assert stage.run(session, 1)[0].kind == "action"
    session.interrupt()
    assert source_of(avatar, stage.run(session, 1)[0]) is not None
    with pytest.raises(MuseTalkError, match="no action 7; choose one of 0, 1, 2"):
        session.set_action(7)
    with pytest.raises(MuseTalkError, match="The action 3 has 64x64 pixels and the avatar 256x256"):
        small = ActionClip(TensorFrames(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), FPS))
        stage.engine.session(avatar, {3: small})


def test_frames_without_a_face_stay_as_they_are(stage, avatar, speech):
    present = np.array([True, True, False, False, True, True])
    masks = tuple(mask if there else None for mask, there in zip(avatar.masks, present, strict=True))
    session = stage.engine.session(replace(avatar, track=replace(avatar.track, present=present), masks=masks))
    session.feed(speech[:RATE])
    session.finish()
    blocks = stage.until_idle(session)
    assert {2, 3} <= {source_of(avatar, block) for block in blocks}


def test_a_closed_session_says_so_and_is_forgotten(stage, avatar):
    session = stage.engine.session(avatar)
    session.close()
    session.close()
    assert stage.engine.sessions == 0
    for call in (session.next_block, lambda: session.feed(np.zeros(1))):
        with pytest.raises(MuseTalkError, match="The session is closed"):
            call()


def test_an_avatar_that_lies_in_a_file_is_refused(stage, avatar):
    bright = TensorFrames(avatar.frames.frames.float() / 255, FPS)
    with pytest.raises(MuseTalkError, match="avatar 'portrait' are not in memory as 8-bit"):
        stage.engine.session(replace(avatar, frames=bright))


def test_the_mouth_is_pasted_as_offline(avatar):
    """The same face in the same frame, by the one function both use."""
    from musetalk_core.realtime.compositor import speaking_picture

    face = torch.rand(256, 256, 3, generator=torch.Generator().manual_seed(1))
    expected = composite(avatar.frames.frames[2], face, avatar.track.boxes[2], avatar.masks[2])
    assert np.array_equal(speaking_picture(avatar, 2, face, 1.0), expected.numpy())
    assert speaking_picture(avatar, 2, face * float("nan"), 1.0) is None
