"""Sessions on an event loop and a worker thread: pace, listeners, limits, and that nothing is left behind."""

import asyncio
import gc
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from comfy_client import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "scripts"))

from realtime_parts import RATE, Holder, Stage, demo_speech, portrait_avatar

from musetalk_core.engine import WeightChoice, load_engine
from musetalk_core.errors import MuseTalkError
from musetalk_core.realtime.block import Block
from musetalk_core.realtime.clock import SessionClock
from musetalk_core.realtime.engine import RealtimeEngine
from musetalk_core.realtime.features import SampleRing
from musetalk_core.realtime.manager import SessionLimitError, SessionLimits, SessionManager
from musetalk_core.realtime.runner import LiveSession, Subscription
from musetalk_core.realtime.session import Frame, Session
from musetalk_core.realtime.utterance import Utterance
from musetalk_core.weights.folders import ModelFolders

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    folders = ModelFolders({"musetalk": [tmp_path_factory.mktemp("models")]})
    return load_engine(WeightChoice("demo"), folders, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def avatar(loaded):
    return portrait_avatar(loaded, 4)


class Time:
    """A clock and a sleep of its own time, which passes as fast as it is asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.late = 0.0  # s that every sleep takes longer

    async def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late
        await asyncio.sleep(0)


def on_loop(play: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function; afterwards no other task may be left."""

    async def whole() -> None:
        await asyncio.wait_for(play(), 300)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(whole())


def test_ten_minutes_with_late_wakings_do_not_drift():
    """15000 blocks of 640 samples in 600 s, whatever the sleeps take."""
    passed = Time()
    clock = SessionClock(lambda: passed.now)
    rng = np.random.default_rng(1)
    handed, worst = 0, 0.0
    while passed.now < 600:
        passed.now += clock.until_next() + float(rng.exponential(0.008))
        worst = max(worst, clock.lateness())
        handed += clock.take()
        assert handed * 640 == clock.samples
        assert abs(handed * 0.04 - passed.now) <= 0.04 + 1e-6
    assert abs(handed - 15000) <= 1 and worst < 0.2 and clock.stalls == 0


def test_a_machine_that_slept_goes_on_without_a_burst():
    passed = Time()
    clock = SessionClock(lambda: passed.now)
    assert [clock.take() for _ in range(3)] == [1, 0, 0]
    passed.now = 0.5
    assert clock.take() == 12, "half a second is made up for"
    passed.now += 100
    assert clock.take() == 1 and clock.stalls == 1
    assert clock.until_next() == pytest.approx(0.04)


def test_ten_minutes_of_a_session_keep_sound_and_picture_together(loaded, avatar):
    """A quiet microphone for 15000 blocks, every one marked: the delay at the end is that of the beginning."""
    stage = Stage(Holder(loaded))
    session = stage.engine.session(avatar)
    mark = np.zeros(640, np.float32)
    delays = []
    for k in range(15000):
        mark[0] = 1e-9 * (k + 1)  # far below what the voice detector hears
        session.feed(mark)
        block = stage.step(session)[0]
        if block.kind == "speech":
            delays.append(k - round(block.sound[0] * 1e9) + 1)
    assert delays and set(delays) == {delays[0]} and delays[0] <= 9
    assert session.metrics.snapshot()["underruns"] == 0
    assert session.queued_seconds <= 0.4


def test_listeners_get_every_block_in_order_and_a_slow_one_loses_its_oldest_only(loaded, avatar):
    engine, passed = RealtimeEngine(Holder(loaded)), Time()

    async def play() -> None:
        live = LiveSession(engine.session(avatar), lambda: passed.now, passed.sleep)
        fast, slow = live.subscribe(), live.subscribe(limit=4)
        seen = [(await anext(fast)).index for _ in range(100)]
        assert seen == list(range(seen[0], seen[0] + 100)) and fast.dropped == 0
        late = [(await anext(slow)).index for _ in range(4)]
        assert late == list(range(late[0], late[0] + 4)) and slow.dropped >= 90
        assert live.metrics.snapshot()["lost_by_listeners"] == slow.dropped
        await live.close()
        assert len([block async for block in fast]) <= 8 and live.subscribers == 0
        assert [block async for block in live.subscribe()] == []

    on_loop(play)
    assert engine.sessions == 0


def test_pace_is_25_blocks_a_second_of_the_clock(loaded, avatar):
    engine, passed = RealtimeEngine(Holder(loaded)), Time()
    passed.late = 0.011

    async def play() -> None:
        live = LiveSession(engine.session(avatar), lambda: passed.now, passed.sleep)
        while passed.now < 60:
            await asyncio.sleep(0)
        blocks = live.metrics.snapshot()["blocks"]
        assert abs(blocks - 25 * passed.now) <= 2
        assert live.metrics.snapshot()["fps_final"] == pytest.approx(25, abs=0.5)
        await live.close()

    on_loop(play)


def manager_of(loaded, avatar, **limits) -> SessionManager:
    names = {"portrait": avatar}

    def find(name: str):
        if name not in names:
            raise MuseTalkError(f"There is no avatar {name!r}.")
        return names[name]

    return SessionManager(RealtimeEngine(Holder(loaded)), find, "portrait", SessionLimits(**limits))


def test_the_cap_holds_when_many_open_at_once(loaded, avatar):
    manager = manager_of(loaded, avatar, sessions=3)

    async def play() -> None:
        found = await asyncio.gather(*(manager.open() for _ in range(20)), return_exceptions=True)
        assert sum(isinstance(one, LiveSession) for one in found) == 3
        refused = [one for one in found if not isinstance(one, LiveSession)]
        assert len(refused) == 17 and all(isinstance(one, SessionLimitError) for one in refused)
        assert str(refused[0]) == "Maximum session limit reached (3/3)"
        await manager.close(manager.sessions()[0].id)
        await manager.open("portrait")
        await manager.close_all()

    on_loop(play)


def test_a_session_that_cannot_be_opened_gives_its_place_back(loaded, avatar):
    manager = manager_of(loaded, avatar, sessions=1)

    async def play() -> None:
        for _ in range(3):
            with pytest.raises(MuseTalkError, match="There is no avatar 'nobody'"):
                await manager.open("nobody")
        live = await manager.open()
        assert manager.get(0) is live is manager.get(live.id)
        assert set(manager.metrics()) == {live.id}
        for wrong in ("", "x", 1, -1):
            with pytest.raises(MuseTalkError, match="^session not found$"):
                manager.get(wrong)
        await manager.close(0)
        with pytest.raises(MuseTalkError, match="^session not found$"):
            manager.get(0)
        await manager.close_all()
        with pytest.raises(MuseTalkError, match="shutting down"):
            await manager.open()

    on_loop(play)


def test_sessions_nobody_uses_are_closed_and_others_stay(loaded, avatar):
    manager = manager_of(loaded, avatar, idle_timeout=30.0)
    passed = Time()
    manager._now = lambda: passed.now

    async def play() -> None:
        lonely, heard = await manager.open(), await manager.open()
        heard.subscribe()
        passed.now = 29
        await manager.close_unused()
        assert len(manager.sessions()) == 2
        passed.now = 1000
        while heard.used < 1000:
            await asyncio.sleep(0.01)
        await manager.close_unused()
        assert manager.sessions() == [heard] and lonely.session.closed
        await manager.close_all()

    on_loop(play)


def test_fifty_sessions_and_ten_at_once_leave_no_thread_task_or_memory(loaded, avatar):
    """8 idle and 2 that speak, and 50 that come and go; the frames in memory afterwards are those of the avatar."""
    speech = demo_speech()[8000:24000]
    manager = manager_of(loaded, avatar, sessions=10)
    threads = {thread.name for thread in threading.enumerate()}

    async def play() -> None:
        manager._engine.start()
        for k in range(50):
            live = await manager.open()
            live.session.feed(speech[:3200])
            listener = live.subscribe()
            if k % 10 == 0:
                await anext(listener)
            await manager.close(live.id)
        lives = [await manager.open() for _ in range(10)]
        listeners = [live.subscribe() for live in lives]
        for live in lives[:2]:
            live.session.feed(speech)
            live.session.finish()
        kinds = [set() for _ in lives]
        while any(live.session.queued_seconds for live in lives) or not all(kinds):
            for seen, listener in zip(kinds, listeners, strict=True):
                seen.add((await anext(listener)).kind)
        assert all("speech" in seen for seen in kinds[:2]) and kinds[2:] == [{"idle"}] * 8
        await manager.close_all()
        manager._engine.stop()

    on_loop(play)
    assert manager._engine.sessions == 0
    assert {t.name for t in threading.enumerate() if not t.name.startswith("asyncio")} <= threads
    gc.collect()
    kinds = {Session, LiveSession, Subscription, Utterance, SampleRing, Frame, Block}
    assert [kept for kept in gc.get_objects() if type(kept) in kinds] == []


def test_an_engine_starts_and_stops_again_and_again(loaded, avatar):
    engine = RealtimeEngine(Holder(loaded))
    before = threading.active_count()
    for _ in range(5):
        engine.start()
        assert threading.active_count() == before + 1
        engine.stop()
        engine.stop()
        assert threading.active_count() == before


def test_sessions_fed_and_closed_by_many_threads_stay_whole(loaded, avatar):
    engine = RealtimeEngine(Holder(loaded))
    engine.start()
    session = engine.session(replace(avatar, name="crowded"))
    errors = []

    def disturb(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(200):
            try:
                (
                    lambda: session.feed(rng.normal(0, 0.1, int(rng.integers(0, 2000)))),
                    session.interrupt,
                    session.finish,
                    session.next_block,
                    lambda: session.queued_seconds,
                )[rng.integers(5)]()
            except MuseTalkError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=disturb, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    session.close()
    engine.stop()
    assert errors == [] and not any(thread.is_alive() for thread in threads)
    assert RATE == 16000
