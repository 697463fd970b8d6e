"""The server's guard: tokens, origins, limits, names; bad input is answered and the server stays up."""

import asyncio
import json
import re
import tempfile
from pathlib import Path

import aiohttp
import pytest
from aiohttp import FormData, WSServerHandshakeError, web
from clips import write_audio
from realtime_server import AVATAR, demo_engine, prepared_folder, running, until

from musetalk_core.__main__ import main
from musetalk_core.errors import MuseTalkError
from musetalk_core.realtime.config import ServerConfig, read_config
from musetalk_core.realtime.places import input_path
from musetalk_core.realtime.routes_page import page_definitions
from musetalk_core.realtime.server import add_routes, route_definitions

TOKEN = "correct-horse"
SOCKETS = ("/ws", "/humanecho")
# What the issue owes, written down apart from the code.
OWED = {
    ("GET", "/digital_human/check"),
    ("POST", "/digital_human/gen"),
    ("POST", "/digital_human/preprocess"),
    ("GET", "/humanecho"),
    ("GET", "/ws"),
    ("POST", "/offer"),
    ("POST", "/human"),
    ("POST", "/humanaudio"),
    ("POST", "/set_audiotype"),
    ("POST", "/record"),
    ("GET", "/record/{sessionid}"),
    ("POST", "/is_speaking"),
    ("POST", "/interrupt_talk"),
    ("GET", "/sse"),
    ("POST", "/api/avatar/task"),
    ("GET", "/api/avatar/task/{task_id}"),
    ("DELETE", "/api/avatar/task/{task_id}"),
    ("GET", "/api/avatar/tasks"),
    ("GET", "/api/admin/sessions"),
    ("GET", "/api/admin/config"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
}


@pytest.fixture(scope="module")
def networks():
    return demo_engine()


@pytest.fixture(scope="module")
def avatars(networks, tmp_path_factory) -> Path:
    return prepared_folder(networks, tmp_path_factory.mktemp("avatars"), 4)


@pytest.fixture
def serve(networks, avatars, tmp_path, monkeypatch):
    """Runs a coroutine function with a server made for it; afterwards the server must still answer."""
    # Not the system's folder, where servers of other tests have their uploads.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def serve(scenario, **changes):
        async def run():
            async with running(networks, avatars, tmp_path, **changes) as server:
                result = await asyncio.wait_for(scenario(server), 120)
                assert (await server.json("GET", "/healthz")) == (200, "ok")
                return result

        return asyncio.run(run())

    return serve


def served(server) -> list[tuple[str, str]]:
    """Every route of the server's router but the page's files, with a value for what is variable."""
    page = {route.path for route in page_definitions()}
    definitions = [
        route for route in route_definitions(server.service, server.service.config) if route.path not in page
    ]
    return [(route.method, route.path.replace("{sessionid}", "0").replace("{task_id}", "x")) for route in definitions]


def test_every_owed_route_is_there_and_nothing_beside_the_definitions(serve):
    async def scenario(server):
        definitions = route_definitions(server.service, server.service.config)
        assert {(route.method, route.path) for route in definitions} >= OWED
        app = web.Application()
        add_routes(app, server.service, server.service.config)
        routed = {(route.method, route.resource.canonical) for route in app.router.routes() if route.method != "HEAD"}
        assert routed == {(route.method, re.sub(r":[^{}]+}", "}", route.path)) for route in definitions}
        table = web.RouteTableDef()
        add_routes(table, server.service, server.service.config, "/musetalk")
        assert {(route.method, route.path) for route in table} == {
            (route.method, "/musetalk" + route.path) for route in definitions
        }

    serve(scenario)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", f"Basic {TOKEN}", f"bearer {TOKEN}x"])
def test_no_route_answers_without_the_right_token(serve, given):
    async def scenario(server):
        async with aiohttp.ClientSession(headers={"Authorization": given} if given else {}) as stranger:
            for method, path in served(server):
                async with stranger.request(method, server.url + path) as reply:
                    assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer"), path
            for path in SOCKETS:
                for protocols in ((), ("musetalk",), ("musetalk", "bearer.wrong")):
                    with pytest.raises(WSServerHandshakeError) as refused:
                        await stranger.ws_connect(server.url + path, protocols=protocols)
                    assert refused.value.status == 401
        assert server.service.manager.sessions() == []

    serve(scenario, token=TOKEN)


def test_the_right_token_opens_every_route_and_sockets_by_subprotocol(serve):
    async def scenario(server):
        for method, path in served(server):
            if path not in SOCKETS:
                assert (await server.json(method, path))[0] != 401, path
        async with aiohttp.ClientSession() as browser:
            for path in SOCKETS:
                protocols = ("musetalk", f"bearer.{TOKEN}")
                async with browser.ws_connect(server.url + path, protocols=protocols) as socket:
                    assert socket.protocol == "musetalk", "the token must not come back"

    serve(scenario, token=TOKEN)


def test_beyond_loopback_without_a_token_nothing_can_be_changed(serve):
    """As under ComfyUI with --listen; `serve` itself does not even start."""

    async def scenario(server):
        await server.service.manager.open()
        changing = [(method, path) for method, path in served(server) if method != "GET" or path in SOCKETS]
        for method, path in changing:
            if path != "/is_speaking":
                status, text = await server.json(method, path)
                assert status == 403 and "token" in text, path
        assert (await server.json("GET", "/metrics"))[0] == 200

    serve(scenario, host="0.0.0.0")


def test_serve_does_not_listen_beyond_loopback_without_a_token(capsys):
    assert main(["serve", "--host", "0.0.0.0", "--version", "demo"]) == 1
    assert "token" in capsys.readouterr().err


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null"])
def test_pages_of_other_sites_may_not_call(serve, origin):
    async def scenario(server):
        for method, path in served(server):
            async with server.client.request(method, server.url + path, headers={"Origin": origin}) as reply:
                assert reply.status == 403 and "Access-Control-Allow-Origin" not in reply.headers, path
        own = {"Origin": server.url}
        assert (await server.json("GET", "/healthz", headers=own))[0] == 200
        rebound = {"Host": "evil.example", "Origin": "http://evil.example"}
        assert (await server.json("GET", "/healthz", headers=rebound))[0] == 403

    serve(scenario)


def test_the_one_configured_origin_may_call(serve):
    async def scenario(server):
        origin = {"Origin": "https://page.example"}
        async with server.client.get(server.url + "/healthz", headers=origin) as reply:
            assert reply.status == 200 and reply.headers["Access-Control-Allow-Origin"] == "https://page.example"
        async with aiohttp.ClientSession() as browser, browser.options(server.url + "/human", headers=origin) as reply:
            assert reply.status == 204 and "Authorization" in reply.headers["Access-Control-Allow-Headers"]
        async with server.client.post(server.url + "/human", data=b"{", headers=origin) as reply:
            assert reply.status == 400 and reply.headers["Access-Control-Allow-Origin"] == "https://page.example"

    serve(scenario, cors_origin="https://page.example", token=TOKEN)


JSON_ROUTES = [
    "/offer",
    "/human",
    "/interrupt_talk",
    "/is_speaking",
    "/set_audiotype",
    "/record",
    "/digital_human/gen",
    "/digital_human/preprocess",
    "/api/avatar/task",
]


def test_malformed_json_is_answered_with_400_and_plain_text(serve):
    async def scenario(server):
        await server.service.manager.open()
        for path in JSON_ROUTES:
            for body in (b"", b"{", b"[1]", b"nul", b"\xff\xfe", b"[" * 100_000):
                async with server.client.post(server.url + path, data=body) as reply:
                    assert reply.status == 400 and reply.content_type == "text/plain", (path, body[:10])
                    assert 0 < len(await reply.text()) < 200
        bad = [
            ("/human", {"text": 5}),
            ("/human", {"text": "a", "type": "shout"}),
            ("/human", {"text": "a", "sessionid": [1]}),
            ("/human", {"text": "a", "tts": "x"}),
            ("/set_audiotype", {"audiotype": "loud"}),
            ("/record", {"type": "pause"}),
            ("/offer", {"type": "offer"}),
            ("/digital_human/gen", {"request_id": "a"}),
        ]
        for path, content in bad:
            assert (await server.json("POST", path, content))[0] == 400, (path, content)
        for options in ({"voice": "../../etc"}, {"speed": "fast"}, {"pitch": 99}):
            content = {"text": "a", "tts": options}
            assert (await server.json("POST", "/human", content))[0] == 200, "answered, and the voice refuses"
        assert (await server.json("POST", "/human", {"text": "   "}))[1]["code"] == -1
        assert (await server.json("POST", "/human", {"text": "a" * 6000}))[1]["code"] == -1
        status, answer = await server.json("POST", "/offer", {"type": "offer", "sdp": "v=0 garbage"})
        assert status == 200 and answer["code"] == -1
        assert len(server.service.manager.sessions()) == 1, "a refused offer keeps no session"

    serve(scenario)


def test_large_bodies_are_refused_by_their_header_and_by_their_length(serve, tmp_path):
    async def scenario(server):
        await server.service.manager.open()
        host, port = server.url.removeprefix("http://").split(":")
        for path, kind in (("/human", "application/json"), ("/humanaudio", "multipart/form-data; boundary=x")):
            reader, writer = await asyncio.open_connection(host, int(port))
            head = (
                f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: 10737418240\r\n\r\n"
            )
            writer.write(head.encode())
            assert b" 413 " in await asyncio.wait_for(reader.readline(), 5)
            writer.close()

        async def endless():
            while True:
                yield b" " * 65536

        for path in ("/human", "/digital_human/gen"):
            try:
                async with server.client.post(server.url + path, data=endless()) as reply:
                    assert reply.status == 413
            except aiohttp.ClientConnectionError:
                pass  # the server closed while we were still sending
        form = FormData()
        form.add_field("file", b"x" * 300_000, filename="a.wav")
        assert (await server.json("POST", "/humanaudio", data=form))[0] == 413
        await until(lambda: not list(tmp_path.glob("musetalk-*.upload")))

    serve(scenario, upload_limit=200_000, message_limit=100_000)


def test_garbage_audio_and_forms_are_answered(serve, tmp_path):
    async def scenario(server):
        live = await server.service.manager.open()
        for data in (b"", b"RIFF", b"garbage" * 1000, b"RIFF\xff\xff\xff\x7fWAVEfmt " + bytes(100)):
            form = FormData()
            form.add_field("sessionid", live.id)
            form.add_field("file", data, filename="../../evil.wav")
            status, answer = await server.json("POST", "/humanaudio", data=form)
            assert status == 200 and answer["code"] == -1 and "evil.wav" in answer["msg"] and "/" not in answer["msg"]
        assert (await server.json("POST", "/humanaudio", {"a": 1}))[0] == 400
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        for body in (b"", b"--x", b"--x\r\n\r\n", b"nothing at all"):
            async with server.client.post(server.url + "/humanaudio", data=body, headers=headers) as reply:
                assert reply.status == 400, body
        async with server.client.ws_connect(server.url + "/ws") as socket:
            for text in ("{", "[]", '{"type": 5}', '{"type": "session", "sessionid": "no"}'):
                await socket.send_str(text)
                assert (await socket.receive_json())["type"] == "error"
            await socket.send_bytes(b"\0" * 10)
            assert (await socket.receive_json())["type"] == "error"
            await socket.send_json({"type": "session", "sessionid": live.id})
            assert (await socket.receive_json())["type"] == "session_ack"
            for message in ({"data": "*"}, {"data": "AAAA"}, {"data": 5}, {"data": "AAAA", "format": "mp3"}):
                await socket.send_json({"type": "audio", **message})
                while (answer := await socket.receive_json())["type"] == "video":
                    pass
                assert answer["type"] == "error", message
        assert server.service.manager.sessions() == [live], "a session that was there stays"
        await until(lambda: not list(tmp_path.glob("musetalk-*.upload")))

    serve(scenario)


def test_a_socket_that_is_dropped_in_mid_frame_or_says_too_much_is_cleaned_up(serve):
    async def scenario(server):
        host, port = server.url.removeprefix("http://").split(":")
        for rest in (b"\x81\xfe\x10", b"\x81\xff" + b"\x7f" * 8, b"\xff\xff\xff"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert b" 101 " in await reader.readline()
            message = json.dumps({"type": "session"}).encode()
            writer.write(b"\x81" + bytes([0x80 | len(message)]) + b"\0\0\0\0" + message)
            while b"session_ack" not in await reader.read(1000):
                pass
            assert len(server.service.manager.sessions()) == 1
            writer.write(rest)
            await writer.drain()
            writer.transport.abort()
            await until(lambda: not server.service.manager.sessions())
        async with server.client.ws_connect(server.url + "/ws") as socket:
            await socket.send_str("x" * 3000)
            message = await socket.receive()
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSED)

    serve(scenario, message_limit=2000)


def test_the_session_cap_holds_when_many_open_at_once(serve):
    async def scenario(server):
        async with server.client.ws_connect(server.url + "/ws") as socket:
            await socket.send_json({"type": "session"})
            await socket.receive_json()
            opened = await asyncio.gather(*(server.service.manager.open() for _ in range(12)), return_exceptions=True)
            told = [str(result) for result in opened if isinstance(result, MuseTalkError)]
            assert len(server.service.manager.sessions()) == 3 and told == ["Maximum session limit reached (3/3)"] * 10
            assert (await server.json("GET", "/readyz"))[0] == 503
            sdp = {"type": "offer", "sdp": "v=0"}
            answer = (await server.json("POST", "/offer", sdp))[1]
            assert answer == {"code": -1, "msg": "Maximum session limit reached (3/3)"}

    serve(scenario, max_sessions=3)


def test_forgotten_sessions_are_closed(serve):
    async def scenario(server):
        live = await server.service.manager.open()
        assert server.service.manager.get(0) is live
        await until(lambda: not server.service.manager.sessions(), 30)

    serve(scenario, idle_timeout=1.0)


@pytest.mark.parametrize(
    "name", ["../a.wav", "/etc/passwd", "", ".", "link.wav", "a\0b", "sub/../../a.wav", "..\\a.wav", "missing.wav"]
)
def test_names_stay_inside_the_input_folder(tmp_path, name):
    folder = tmp_path / "input"
    folder.mkdir()
    write_audio(tmp_path / "a.wav", 0.1)
    (folder / "link.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(MuseTalkError, match="input folder"):
        input_path(folder, name)
    write_audio(folder / "inside.wav", 0.1)
    assert input_path(folder, "inside.wav") == folder / "inside.wav"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("port: 99999", "port"),
        ("port: abc", "port"),
        ("colour: red", "colour"),
        ("tts: robot", "tts"),
        ("tts: http", "tts_url"),
        ("push_url: file:///etc/passwd", "push_url"),
        ("token: ''", "token"),
        ("ice_servers: stun", "ice_servers"),
        ("[1, 2]", "settings"),
        ("a: [", "read"),
        ("max_sessions: true", "max_sessions"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(tmp_path, content, word):
    file = tmp_path / "server.yaml"
    file.write_text(content)
    with pytest.raises(MuseTalkError, match=word):
        read_config(file, {})


def test_options_go_before_the_file_and_the_file_before_the_defaults(tmp_path):
    file = tmp_path / "server.json"
    file.write_text(json.dumps({"port": 9000, "token": "t", "idle_timeout": 5, "avatars": "faces"}))
    config = read_config(file, {"port": 9001, "host": None})
    assert (config.port, config.token, config.idle_timeout) == (9001, "t", 5.0)
    assert config.host == ServerConfig().host == "127.0.0.1" and config.avatars == Path("faces")
    assert ServerConfig().cors_origin is None and ServerConfig().ice_servers == () and AVATAR
