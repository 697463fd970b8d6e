"""The server's routes over HTTP and WebSocket: a real server, the demo model, an avatar on disk."""

import asyncio
import base64
import io
import json
import tempfile
from pathlib import Path

import aiohttp
import numpy as np
import pytest
import soundfile
from aiohttp import FormData, web
from clips import probe, tone, write_audio, write_video
from PIL import Image
from realtime_server import AVATAR, demo_engine, prepared_folder, running, until

from musetalk_core.media.audio import AudioFile, mono16k

RATE = 16000


@pytest.fixture(scope="module")
def networks():
    return demo_engine()


@pytest.fixture(scope="module")
def avatars(networks, tmp_path_factory) -> Path:
    return prepared_folder(networks, tmp_path_factory.mktemp("avatars"))


@pytest.fixture
def serve(networks, avatars, tmp_path, monkeypatch):
    """Runs a coroutine function with a server made for it."""
    # Not the system's folder, where servers of other tests have their uploads.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def serve(scenario, **changes):
        async def run():
            async with running(networks, avatars, tmp_path, **changes) as server:
                return await asyncio.wait_for(scenario(server), 120)

        return asyncio.run(run())

    return serve


async def heard(subscription, seconds: float) -> np.ndarray:
    """The sound of a session from now on."""
    sounds = []
    async for block in subscription:
        sounds.append(block.sound)
        if len(sounds) * 0.04 >= seconds:
            return np.concatenate(sounds)


async def said(live, most: float = 20.0, pauses: bool = True) -> np.ndarray:
    """The sound of a session from the first that is none of silence until it is silent for 0.6 s.

    pauses: with the silent blocks between.
    """
    sounds, silent = [], 0
    subscription = live.subscribe(1000)
    async for block in subscription:
        loud = bool(block.sound.any())
        silent = 0 if loud else silent + 1
        if loud or (sounds and pauses):
            sounds.append(block.sound)
        if (sounds and silent >= 15 and not live.session.queued_seconds) or len(sounds) * 0.04 > most:
            subscription.close()
            return np.concatenate(sounds)


def wav(samples: np.ndarray, rate: int = RATE, kind: str = "WAV", **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, **options)
    return file.getvalue()


def upload(data: bytes, sessionid, name: str = "speech.wav") -> FormData:
    form = FormData()
    form.add_field("sessionid", str(sessionid))
    form.add_field("file", data, filename=name)
    return form


def test_check_answers_with_the_key_of_the_readme_and_that_of_the_code(serve):
    async def scenario(server):
        assert await server.json("GET", "/digital_human/check") == (
            200,
            {"message": "server enabled", "status": "Server is running"},
        )
        assert await server.json("GET", "/healthz") == (200, "ok")
        assert await server.json("GET", "/readyz") == (200, "ready")
        assert (await server.json("GET", "/api/avatars"))[1]["data"] == {
            "avatars": [AVATAR],
            "default": AVATAR,
            "actions": {AVATAR: []},
        }
        status, answer = await server.json("GET", "/api/admin/config")
        assert answer["data"]["config"]["max_sessions"] == 5
        assert not any(word in json.dumps(answer) for word in ("token", "url", str(server.service.config.output)))

    serve(scenario)


def test_a_text_is_spoken_by_the_embedded_voice_and_sse_tells_begin_and_end_with_it(serve):
    """13 syllables at 2 to 8 a second (any measured speaking rate lies between) last 1.6 to 6.5 s."""

    async def scenario(server):
        live = await server.service.manager.open()
        events = asyncio.create_task(read_events(server, live.id, 2))
        await asyncio.sleep(0.2)
        listening = asyncio.create_task(said(live))
        text = "Good morning, my name is Anna and I live here."
        assert await server.json("POST", "/human", {"sessionid": live.id, "text": text, "type": "echo"}) == (
            200,
            {"code": 0, "msg": "ok"},
        )
        sound = await listening
        assert 1.6 < len(sound) / RATE < 6.5
        assert 0.02 < np.sqrt(np.mean(sound**2)) < 0.5 and np.abs(sound).max() <= 1
        assert await events == [{"status": "start", "text": text}, {"status": "end", "text": text}]
        assert (await server.json("POST", "/is_speaking", {"sessionid": live.id}))[1]["data"] is False

    serve(scenario)


async def read_events(server, sessionid: str, count: int) -> list[dict]:
    events = []
    async with server.client.get(f"{server.url}/sse?sessionid={sessionid}") as reply:
        assert reply.content_type == "text/event-stream"
        async for line in reply.content:
            if line.startswith(b"data: "):
                events.append(json.loads(line[6:]))
            if len(events) == count:
                return events


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_an_uploaded_sound_is_said_with_all_channels_and_its_last_samples(serve, tmp_path, kind):
    """Two different channels at 44.1 kHz and a length that is no multiple of 20 ms."""
    left, right = tone(0.513, 44100), np.roll(tone(0.513, 44100), 4000) * 0.5
    data = wav(np.stack([left, right], 1), 44100, kind)
    file = tmp_path / f"upload.{kind.lower()}"
    file.write_bytes(data)
    wanted = mono16k(AudioFile(file))

    async def scenario(server):
        live = await server.service.manager.open()
        listening = asyncio.create_task(said(live))
        reply = await server.json("POST", "/humanaudio", data=upload(data, 0, file.name))
        assert reply == (200, {"code": 0, "msg": "ok"})
        sound = await listening
        start = np.argmax(np.abs(sound[:640]) > 0) - np.argmax(np.abs(wanted) > 0)
        start = max(start, 0)
        together = sound[start : start + len(wanted)]
        assert len(together) == len(wanted)
        assert np.abs(together - wanted).max() < 1e-3
        assert not sound[start + len(wanted) :].any()

    serve(scenario)
    assert list(tmp_path.glob("musetalk-*.upload")) == []


def test_speech_is_interrupted_at_once_and_what_waits_is_dropped(serve):
    async def scenario(server):
        live = await server.service.manager.open()
        for _ in range(3):
            await server.json("POST", "/humanaudio", data=upload(wav(tone(8.0)), live.id))
        assert (await server.json("POST", "/is_speaking", {"sessionid": live.id}))[1]["data"] is True
        await asyncio.sleep(1.0)
        assert await server.json("POST", "/interrupt_talk", {"sessionid": live.id}) == (200, {"code": 0, "msg": "ok"})
        subscription = live.subscribe(100)
        sound = await heard(subscription, 0.5)
        assert not sound[1600:].any(), "sound later than 100 ms"
        assert (await server.json("POST", "/is_speaking", {"sessionid": live.id}))[1]["data"] is False
        listening = asyncio.create_task(said(live))
        text = {"sessionid": live.id, "text": "Stop that.", "type": "echo", "interrupt": True}
        assert (await server.json("POST", "/human", text))[1]["code"] == 0
        assert len(await listening) > RATE / 4

    serve(scenario)


def test_chat_is_not_available_and_audiotypes_are_those_of_the_avatar(serve):
    async def scenario(server):
        live = await server.service.manager.open()
        status, answer = await server.json("POST", "/human", {"sessionid": live.id, "text": "Hello", "type": "chat"})
        assert status == 200 and answer["code"] == -1 and "not available" in answer["msg"]
        for kind in (0, "0"):
            reply = await server.json("POST", "/set_audiotype", {"sessionid": live.id, "audiotype": kind})
            assert reply == (200, {"code": 0, "msg": "ok", "data": "ok"})
        status, answer = await server.json("POST", "/set_audiotype", {"sessionid": live.id, "audiotype": 7})
        assert answer["code"] == -1 and "7" in answer["msg"]

    serve(scenario)


def test_the_lockstep_socket_gives_a_picture_for_sound_in_both_formats(serve):
    """Blocks of 40 ms at their own pace; each picture is the avatar's size."""

    async def scenario(server):
        async with server.client.ws_connect(server.url + "/ws") as socket:
            await socket.send_json({"type": "audio", "data": ""})
            assert (await socket.receive_json())["type"] == "error"
            await socket.send_json({"type": "session"})
            acknowledged = await socket.receive_json()
            assert acknowledged["type"] == "session_ack"
            live = server.service.manager.get(acknowledged["sessionid"])
            speech = tone(2.0)
            received: list[dict] = []
            listening = asyncio.create_task(collect(socket, received))
            for k in range(50):
                block = speech[k * 640 : (k + 1) * 640]
                floats = k % 2 == 1
                data = block.astype("<f4") if floats else (block * 32767).astype("<i2")
                message = {"type": "audio", "data": base64.b64encode(data.tobytes()).decode()}
                await socket.send_json({**message, "format": "float32"} if floats else message)
                await asyncio.sleep(0.04)
            await asyncio.sleep(0.5)
            assert {message["type"] for message in received} == {"video"} and 20 <= len(received) <= 50
            picture = Image.open(io.BytesIO(base64.b64decode(received[-1]["data"])))
            assert picture.size == (256, 256) and picture.format == "JPEG"
            times = [message["time"] for message in received]
            assert times == sorted(set(times))
            await socket.send_json({"type": "end"})
            await listening
        await until(lambda: live not in server.service.manager.sessions())

    serve(scenario)


async def collect(socket, received: list) -> None:
    async for message in socket:
        received.append(message.json())


def test_humanecho_says_texts_and_hears_pcm(serve):
    async def scenario(server):
        async with server.client.ws_connect(server.url + "/humanecho") as socket:
            await socket.send_str("nobody is here")
            assert await socket.receive_json() == {"code": -1, "msg": "session not found"}
            live = await server.service.manager.open()
            listening = asyncio.create_task(said(live))
            await socket.send_str("Good morning.")
            assert await socket.receive_json() == {"code": 0, "msg": "ok"}
            assert len(await listening) > RATE / 3
            sound = (tone(0.4) * 32767).astype("<i2")
            listening = asyncio.create_task(said(live, pauses=False))
            await socket.send_bytes(sound.tobytes())
            got = await listening
            start = np.argmax(got != 0) - np.argmax(sound != 0)
            assert np.abs(got[start : start + len(sound)] - sound / 32768).max() < 1e-4
            await socket.send_bytes(b"odd")
            assert (await socket.receive_json())["code"] == -1

    serve(scenario)


def test_a_recording_has_one_length_of_sound_and_picture_and_appears_when_it_is_whole(serve):
    async def scenario(server):
        live = await server.service.manager.open()
        folder = server.service.recordings.folder
        assert (await server.json("POST", "/record", {"sessionid": 0, "type": "start_record"}))[1]["data"] == "ok"
        again = (await server.json("POST", "/record", {"sessionid": 0, "type": "start_record"}))[1]
        assert again["code"] == -1 and "already" in again["msg"]
        live.session.feed(tone(1.0))
        await asyncio.sleep(2.5)
        assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []
        assert (await server.json("GET", f"/record/{live.id}"))[0] == 404
        sessions = (await server.json("GET", "/api/admin/sessions"))[1]["data"]
        assert [entry["recording"] for entry in sessions] == [True]
        reply = await server.json("POST", "/record", {"sessionid": live.id, "type": "end_record"})
        assert reply == (200, {"code": 0, "msg": "ok", "data": "ok"})
        assert [path.name for path in folder.iterdir()] == [f"{live.id}.mp4"]
        await server.service.close_session(live)
        async with server.client.get(f"{server.url}/record/{live.id}") as answer:
            assert answer.status == 200 and answer.content_type == "video/mp4"
            copy = folder / "copy.mp4"
            copy.write_bytes(await answer.read())
        facts = probe(copy)
        assert facts["size"] == (256, 256) and facts["fps"] == 25 and facts["audio_rate"] == RATE
        assert 2.0 < facts["video_seconds"] < 6 and facts["frames"] == round(facts["video_seconds"] * 25)
        assert abs(facts["video_seconds"] - facts["audio_seconds"]) <= 0.04

    serve(scenario)


def test_a_recording_is_closed_with_the_server(serve, tmp_path):
    async def scenario(server):
        live = await server.service.manager.open()
        await server.json("POST", "/record", {"sessionid": live.id, "type": "start_record"})
        await asyncio.sleep(0.5)
        return server.service.recordings.path(live.id)

    facts = probe(serve(scenario))
    assert facts["frames"] >= 5 and abs(facts["video_seconds"] - facts["audio_seconds"]) <= 0.04


def test_gen_makes_a_video_with_a_sentinel_and_preprocess_an_avatar(serve, tmp_path):
    async def scenario(server):
        folder = server.service.config.input
        write_audio(folder / "voice.wav", 1.0)
        body = {"user_id": "u", "request_id": "r-1", "streamer_id": AVATAR, "tts_path": "voice.wav"}
        for chunk, name in ((None, "r-1.mp4"), (0, "r-1-00000000.mp4"), (12, "r-1-00000012.mp4")):
            asked = body | ({} if chunk is None else {"chunk_id": chunk})
            status, answer = await server.json("POST", "/digital_human/gen", asked)
            video = Path(answer["digital_human_mp4_path"])
            assert status == 200 and answer["user_id"] == "u" and answer["request_id"] == "r-1" and video.name == name
            assert probe(video)["frames"] == 25 and video.with_suffix(".txt").read_bytes() == b""
        bad = await server.json("POST", "/digital_human/gen", body | {"tts_path": "../voice.wav"})
        assert bad[1]["code"] == -1 and "input folder" in bad[1]["msg"]
        from clips import moving_portrait

        write_video(folder / "other.mp4", moving_portrait(6))
        body = {"user_id": "u", "request_id": "r-2", "streamer_id": "other", "video_path": "other.mp4"}
        assert await server.json("POST", "/digital_human/preprocess", body) == (
            200,
            {"user_id": "u", "request_id": "r-2"},
        )
        assert len(server.service.shelf.get("other")) == 6

    serve(scenario)


def test_avatar_tasks_wait_run_tell_their_progress_and_notify_only_the_configured_address(serve, unused_tcp_port):
    async def scenario(server):
        from clips import faceless, moving_portrait

        notices: list[dict] = []

        async def take(request):
            notices.append(await request.json())
            return web.Response()

        app = web.Application()
        app.add_routes([web.post("/notice", take)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        folder = server.service.config.input
        write_video(folder / "six.mp4", moving_portrait(6))
        write_video(folder / "nobody.mp4", faceless(6))
        task = "/api/avatar/task"
        first = (await server.json("POST", task, {"avatar_id": "six", "video_path": "six.mp4"}))[1]["data"]["task_id"]
        second = {"avatar_id": "nobody", "video_path": "nobody.mp4", "task_id": "second"}
        assert (await server.json("POST", task, second))[1]["data"] == {"task_id": "second"}
        third = {"avatar_id": "third", "video_path": "six.mp4", "task_id": "third"}
        assert (await server.json("POST", task, third))[1]["code"] == 0
        assert (await server.json("DELETE", f"{task}/third"))[1]["code"] == 0
        form = FormData()
        form.add_field("avatar_id", "uploaded")
        form.add_field("video_file", (folder / "six.mp4").read_bytes(), filename="anything.mp4")
        fourth = (await server.json("POST", task, data=form))[1]["data"]["task_id"]
        evil = {"avatar_id": "x", "video_path": "six.mp4", "notifyurl": "http://127.0.0.1:1/"}
        assert (await server.json("POST", task, evil))[0] == 400
        tasks = server.service.tasks
        await until(lambda: all(entry.state in ("completed", "failed") for entry in tasks.all()), 60)
        told = {entry["task_id"]: entry for entry in (await server.json("GET", "/api/avatar/tasks"))[1]["data"]}
        assert told[first]["status"] == told[fourth]["status"] == "completed" and told[first]["progress"] == 100
        assert told["second"]["status"] == "failed" and "face" in told["second"]["error"].lower()
        assert "third" not in told and set(server.service.shelf.names()) >= {"six", "uploaded"}
        assert (await server.json("GET", f"{task}/{first}"))[1]["data"] == told[first]
        assert (await server.json("DELETE", f"{task}/{first}"))[1]["code"] == -1
        assert (await server.json("GET", f"{task}/none"))[1] == {"code": -1, "msg": "task not found"}
        await until(lambda: len(notices) == 3)
        assert [notice["task_id"] for notice in notices] == [first, "second", fourth]
        await runner.cleanup()

    serve(scenario, notify_url=f"http://127.0.0.1:{unused_tcp_port}/notice")


@pytest.fixture
def unused_tcp_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_metrics_are_prometheus_text(serve):
    async def scenario(server):
        live = await server.service.manager.open()
        live.session.feed(tone(0.5))
        await asyncio.sleep(1.0)
        status, text = await server.json("GET", "/metrics")
        assert status == 200
        types, values = {}, {}
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name, kind = line.split()[2:]
                assert name not in types
                types[name] = kind
            else:
                name, value = line.rsplit(" ", 1)
                assert name.split("{")[0] in types
                values[name] = float(value)
        assert values["musetalk_sessions"] == 1
        assert values[f'musetalk_session_blocks{{session="{live.id}"}}'] >= 10
        for name in ("first_frame_ms", "fps_infer", "fps_final", "underruns", "av_skew_ms", "generation_ms"):
            assert f"musetalk_session_{name}" in types

    serve(scenario)


def test_an_aiohttp_client_without_a_session_is_told_so(serve):
    async def scenario(server):
        for path, body in (
            ("/human", {"text": "a"}),
            ("/is_speaking", {}),
            ("/interrupt_talk", {"sessionid": "0b7d0c9e-0000-0000-0000-000000000000"}),
            ("/set_audiotype", {"audiotype": 0}),
            ("/record", {"type": "start_record"}),
        ):
            assert await server.json("POST", path, body) == (200, {"code": -1, "msg": "session not found"}), path
        assert (await server.json("GET", "/sse?sessionid=0"))[1]["msg"] == "session not found"
        assert isinstance(server.client, aiohttp.ClientSession)

    serve(scenario)
