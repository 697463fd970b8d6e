"""`serve` as a program: it starts, tells its address, and ends cleanly with its recordings whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from clips import probe
from comfy_client import REPOSITORY
from realtime_server import AVATAR, demo_engine, prepared_folder

from musetalk_core.__main__ import main

TOKEN = "correct-horse"
CLIENT = """
import asyncio, base64, sys
import aiohttp

async def run(url):
    async with aiohttp.ClientSession() as client:
        socket = await client.ws_connect(url + "/ws", protocols=("musetalk", "bearer.TOKEN"))
        await socket.send_json({"type": "session"})
        print((await socket.receive_json())["sessionid"], flush=True)
        message = await socket.receive()
        print(message.type.name, flush=True)

asyncio.run(run(sys.argv[1]))
""".replace("TOKEN", TOKEN)


@pytest.fixture(scope="module")
def avatars(tmp_path_factory) -> Path:
    return prepared_folder(demo_engine(), tmp_path_factory.mktemp("avatars"), 4)


def ask(url: str, path: str, body: dict | None = None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return reply.read().decode()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_serve_starts_tells_its_address_and_finishes_recordings_when_it_is_told_to_end(avatars, tmp_path):
    config = tmp_path / "server.yaml"
    config.write_text(f"token: {TOKEN}\nport: 0\noutput: {tmp_path / 'output'}\n")
    command = [sys.executable, "-m", "musetalk_core", "serve", "--version", "demo", "--config", str(config)]
    options = ["--avatars", str(avatars), "--avatar_id", AVATAR, "--device", "cpu"]
    server = subprocess.Popen([*command, *options], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    client = None
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", line := server.stderr.readline())):
            assert line, "the server ended"
        url = found[0]
        assert ask(url, "/readyz") == "ready"
        client = subprocess.Popen([sys.executable, "-c", CLIENT, url], stdout=subprocess.PIPE, text=True)
        sessionid = client.stdout.readline().strip()
        assert json.loads(ask(url, "/record", {"sessionid": 0, "type": "start_record"}))["code"] == 0
        time.sleep(2)
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert client.stdout.readline().strip() in ("CLOSE", "CLOSING")
    finally:
        server.kill()
        server.stderr.close()
        if client is not None:
            client.kill()
            client.stdout.close()
    facts = probe(tmp_path / "output" / "recordings" / f"{sessionid}.mp4")
    assert facts["frames"] > 25 and abs(facts["video_seconds"] - facts["audio_seconds"]) <= 0.04


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--port", "70000"], "port"),
        (["--avatar", "nobody"], "nobody"),
        (["--tts", "http"], "tts_url"),
        (["--tts-voice", "tlh"], "tlh"),
        (["--push-url", "whip.example"], "push_url"),
    ],
)
def test_serve_tells_wrong_options_in_one_sentence(options, words, avatars, capsys):
    assert main(["serve", "--version", "demo", "--device", "cpu", "--avatars", str(avatars), *options]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and words in told
