"""Picture and sound at a real WebRTC client: rate, skew, quality, load; and WHIP to a real receiver."""

import asyncio
import gc
import os
import threading
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from aiohttp import FormData, web
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.codecs.h264 import H264Encoder
from clips import portrait, tone, write_video
from realtime_parts import demo_speech
from realtime_server import AVATAR, demo_engine, prepared_folder, running, until
from realtime_viewer import Viewer, local_connection, onsets

from musetalk_core.avatars.actions import add_action
from musetalk_core.realtime.runner import LiveSession
from musetalk_core.realtime.webrtc import Peer, even, set_video_bitrate

pytestmark = pytest.mark.alone
RATE = 16000
FLASH = 10  # frames of the action before it becomes white and sounds


@pytest.fixture(scope="module")
def networks():
    return demo_engine()


@pytest.fixture(scope="module")
def avatars(networks, tmp_path_factory) -> Path:
    """The avatar with an action: 20 frames dark and silent but for five white ones with a tone."""
    folder = prepared_folder(networks, tmp_path_factory.mktemp("avatars"))
    clip = np.zeros((20, 256, 256, 3), np.uint8) + (portrait() // 8)
    clip[FLASH : FLASH + 5] = 255
    sound = np.zeros(20 * 640, np.float32)
    sound[FLASH * 640 : (FLASH + 5) * 640] = 0.7 * np.sin(np.arange(5 * 640) * 2 * np.pi * 440 / RATE)
    video = write_video(folder / "flash.mp4", clip, Fraction(25))
    soundfile.write(folder / "flash.wav", sound, RATE, "FLOAT")
    add_action(folder / AVATAR, 2, video, folder / "flash.wav")
    return folder


@pytest.fixture
def serve(networks, avatars, tmp_path):
    """Runs a coroutine function with a server made for it."""

    def serve(scenario, **changes):
        async def run():
            async with running(networks, avatars, tmp_path, **changes) as server:
                return await asyncio.wait_for(scenario(server), 200)

        return asyncio.run(run())

    return serve


def offer_to(server):
    return lambda body: server.json("POST", "/offer", body)


async def flash(server, viewer) -> None:
    body = {"sessionid": viewer.sessionid, "audiotype": 2}
    assert (await server.json("POST", "/set_audiotype", body))[1]["code"] == 0


def test_a_client_sees_25_frames_a_second_in_step_with_the_sound_for_a_minute(serve, tmp_path):
    """Speech keeps the engine at work; flashes with a tone at the beginning, in the middle and at the end tell the
    skew by content, after both codecs."""

    async def scenario(server):
        viewer = await Viewer(lambda picture: float(picture.mean())).connect(offer_to(server))
        speech = tmp_path / "speech.wav"
        soundfile.write(speech, demo_speech(), RATE)
        await viewer.received(5)
        started = time.monotonic()
        for second in (1, 5, 25, 45, 61):
            await asyncio.sleep(started + second - time.monotonic())
            if second in (5, 25, 45):
                await flash(server, viewer)
                await asyncio.sleep(2)
                form = FormData()
                form.add_field("sessionid", viewer.sessionid)
                form.add_field("file", speech.read_bytes(), filename="speech.wav")
                assert (await server.json("POST", "/humanaudio", data=form))[1]["code"] == 0
        numbers = server.service.manager.metrics()[viewer.sessionid]
        await viewer.close()
        return viewer, started, numbers

    viewer, started, numbers = serve(scenario)
    pictures = [seen for seen in viewer.pictures if started <= seen.came <= started + 60]
    sounds = [seen for seen in viewer.sounds if started <= seen.came <= started + 60]
    for span in ((0, 60), (0, 20), (20, 40), (40, 60)):
        count = sum(span[0] <= seen.came - started < span[1] for seen in pictures)
        assert abs(count / (span[1] - span[0]) - 25) <= 1, (span, count)
    assert abs(len(pictures) / (pictures[-1].time - pictures[0].time) - 25) <= 1
    assert abs(len(sounds) * 0.02 - 60) < 1
    white = onsets(pictures, lambda level: level > 200)
    # The tone is 440 Hz at 0.7; speech is never this loud over 20 ms and white at once, so take those near a flash.
    loud = [min((t for t in onsets(sounds, lambda level: level > 0.2, 0.3)), key=lambda t: abs(t - at)) for at in white]
    assert len(white) == 3
    assert max(abs(a - b) for a, b in zip(white, loud, strict=True)) <= 0.06, (white, loud)
    assert numbers["generated"] > 100


def test_pictures_at_the_client_are_those_of_the_compositor(serve):
    """Peak signal to noise ratio in dB of every frame, at the one offset of the stream's begin that fits best."""

    async def scenario(server):
        viewer = await Viewer(lambda picture: picture).connect(offer_to(server))
        live = server.service.manager.get(viewer.sessionid)
        blocks = {}

        async def tap():
            async for block in live.subscribe(50):
                blocks[block.index] = block

        tapping = asyncio.create_task(tap())
        await viewer.received(20)
        live.session.feed(demo_speech()[: 3 * RATE])
        live.session.finish()
        await viewer.received(110)
        tapping.cancel()
        await viewer.close()
        return viewer.pictures, blocks

    pictures, blocks = serve(scenario)
    places = {round(seen.time * 25): seen.what for seen in pictures}
    offsets = range(min(blocks), max(blocks) - max(places) + 2)
    offset = max(offsets, key=lambda offset: np.mean([0, *psnrs(places, blocks, offset, 4).values()]))
    values = psnrs(places, blocks, offset)
    spoken = [value for place, value in values.items() if blocks[place + offset].kind == "speech"]
    assert len(values) > 80 and len(spoken) > 20
    assert min(values.values()) >= 30, values


def psnrs(places, blocks, offset: int, step: int = 1) -> dict[int, float]:
    values = {}
    for place, picture in places.items():
        if place + offset in blocks:
            shown = blocks[place + offset].picture
            error = picture[::step, ::step].astype(np.float32) - shown[::step, ::step]
            values[place] = 10 * np.log10(255**2 / max(float(np.mean(error**2)), 1e-9))
    return values


def test_the_answer_sends_h264_and_opus_only_one_way(serve):
    async def scenario(server):
        viewer = await Viewer().connect(offer_to(server))
        await viewer.received(3)
        await viewer.close()
        await until(lambda: not server.service.manager.sessions())
        return viewer.answer

    sections = serve(scenario).split("m=")[1:]
    video = next(section for section in sections if section.startswith("video"))
    codecs = [line.split()[1].split("/")[0] for line in video.splitlines() if line.startswith("a=rtpmap:")]
    assert codecs[0] == "H264" and set(codecs) <= {"H264", "VP8", "rtx"}
    assert all("a=sendonly" in section for section in sections) and len(sections) == 2


def test_the_bitrate_of_the_configuration_is_the_encoders():
    before = H264Encoder().target_bitrate
    try:
        set_video_bitrate(6_000_000)
        assert H264Encoder().target_bitrate == 6_000_000
    finally:
        set_video_bitrate(before)


def test_odd_sides_get_a_copy_of_the_last_row_and_column():
    picture = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    made = even(picture)
    assert made.shape == (6, 4, 3) and (made[5, :3] == picture[4]).all() and (made[:5, 3] == picture[:, 2]).all()


def test_fifty_connects_and_disconnects_leave_nothing_behind(serve):
    def state() -> tuple[int, int, int]:
        return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd")), threading.active_count()

    async def webrtc(server) -> None:
        viewer = await Viewer().connect(offer_to(server))
        await viewer.received(2)
        await viewer.close()

    async def websocket(server, clean: bool) -> None:
        async with server.client.ws_connect(server.url + "/ws") as socket:
            await socket.send_json({"type": "session"})
            assert (await socket.receive_json())["type"] == "session_ack"
            await socket.send_json({"type": "audio", "data": "AAAA" * 100})
            if clean:
                await socket.send_json({"type": "end"})

    async def round_of(server, peers: int, sockets: int) -> None:
        await asyncio.gather(
            *(webrtc(server) for _ in range(peers)), *(websocket(server, k % 2 == 0) for k in range(sockets))
        )
        await until(lambda: not server.service.manager.sessions() and not server.service.peers)
        await asyncio.sleep(1.0)

    async def scenario(server):
        await round_of(server, 3, 3)
        before = state()
        for _ in range(5):
            await round_of(server, 3, 7)
        await until(lambda: state()[0] <= before[0] and state()[1] <= before[1] + 1)
        # asyncio's own threads for blocking calls come one after the other up to a fixed number, and stay.
        workers = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
        assert len(workers) <= before[2]
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("musetalk-session-")]
        gc.collect()
        assert [kept for kept in gc.get_objects() if type(kept) in (LiveSession, Peer)] == []

    serve(scenario, max_sessions=20)


def test_the_cap_holds_under_parallel_offers(serve):
    async def offered(server, connection: RTCPeerConnection) -> dict:
        for kind in ("video", "audio"):
            connection.addTransceiver(kind, direction="recvonly")
        await connection.setLocalDescription(await connection.createOffer())
        return (await offer_to(server)({"sdp": connection.localDescription.sdp, "type": "offer"}))[1]

    async def scenario(server):
        connections = [local_connection() for _ in range(6)]
        answers = await asyncio.gather(*(offered(server, connection) for connection in connections))
        refused = [answer for answer in answers if answer.get("code") == -1]
        assert [answer["msg"] for answer in refused] == ["Maximum session limit reached (2/2)"] * 4
        assert len({answer["sessionid"] for answer in answers if "sdp" in answer}) == 2
        assert len(server.service.manager.sessions()) == 2
        await asyncio.gather(*(connection.close() for connection in connections))

    serve(scenario, max_sessions=2)


def test_a_client_that_does_not_read_does_not_slow_others(serve):
    async def scenario(server):
        slow = await server.client.ws_connect(server.url + "/ws")
        await slow.send_json({"type": "session"})
        flood = '{"type": "audio", "data": "' + "A" * 6828 + '"}'

        async def pour():
            while True:
                await slow.send_str(flood)  # the answers, pictures, are never read

        pouring = asyncio.create_task(pour())
        live = await server.service.manager.open()
        deaf = live.subscribe()
        came = []
        async for block in live.subscribe():
            came.append((time.monotonic(), block.index))
            if len(came) == 76:
                break
        pouring.cancel()
        await slow.close()
        assert came[-1][1] - came[0][1] <= 78, "blocks were lost"
        assert 2.5 < came[-1][0] - came[0][0] < 4.0
        assert deaf.dropped > 0

    serve(scenario)


def test_a_session_is_pushed_to_a_whip_server_and_ended_there(networks, avatars, tmp_path):
    requests = []
    viewer = None

    async def scenario(server):
        await server.service.start_push()
        await until(lambda: viewer is not None)
        await viewer.received(30)
        live = server.service.manager.get(0)
        live.session.feed(tone(1.0))
        live.session.finish()
        await until(lambda: any(seen.what > 0.05 for seen in viewer.sounds))
        pictures = viewer.pictures
        assert len({seen.time for seen in pictures}) == len(pictures) >= 30

    async def with_receiver():
        nonlocal viewer

        async def publish(request):
            nonlocal viewer
            assert request.content_type == "application/sdp"
            requests.append(("POST", request.headers.get("Authorization")))
            receiver = Viewer()
            await receiver.connection.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
            await receiver.connection.setLocalDescription(await receiver.connection.createAnswer())
            viewer = receiver
            sdp = receiver.connection.localDescription.sdp
            return web.Response(status=201, text=sdp, content_type="application/sdp", headers={"Location": "/whip/1"})

        async def end(request):
            requests.append(("DELETE", request.headers.get("Authorization")))
            return web.Response()

        app = web.Application()
        app.add_routes([web.post("/whip", publish), web.delete("/whip/1", end)])
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner

    async def whole():
        runner = await with_receiver()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/whip"
        try:
            async with running(networks, avatars, tmp_path, push_url=url, push_token="secret") as server:
                await asyncio.wait_for(scenario(server), 60)
        finally:
            if viewer is not None:
                await viewer.close()
            await runner.cleanup()

    asyncio.run(whole())
    assert requests == [("POST", "Bearer secret"), ("DELETE", "Bearer secret")]
