"""Downloads from a local server: whole, interrupted, resumed, refused, without ranges, wrong, unreachable."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from musetalk_core.errors import MuseTalkError
from musetalk_core.weights.catalogue import WEIGHTS, WeightEntry, WeightFile
from musetalk_core.weights.download import download, fetch_file

CONTENT = bytes(range(256)) * 20_000  # 5.12 MB: several blocks
FILE = WeightFile("net/x.bin", "owner/name", "0" * 40, "x.bin", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class Handler(BaseHTTPRequestHandler):
    """Serves `content`; `cuts` are the byte counts after which the next answers break off."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "") if self.server.ranges else None
        start = int(match[1]) if match else 0
        body = self.server.content[start:]
        self.send_response(206 if match else 200)
        if match:
            end, total = len(self.server.content) - 1, len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{end}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    content = CONTENT
    ranges = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cuts: list[int] = []
        self.asked: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}/x.bin"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def test_whole(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    target = tmp_path / "deep" / "x.bin"
    assert fetch_file(FILE, target, lambda *step: seen.append(step), server.url) == target
    assert target.read_bytes() == CONTENT and [path.name for path in target.parent.iterdir()] == ["x.bin"]
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert seen[-1] == ("x.bin", len(CONTENT), len(CONTENT))
    assert fetch_file(FILE, target, None, server.url) == target and len(server.asked) == 1


def test_interrupted_transfers_go_on(server: Server, tmp_path: Path) -> None:
    server.cuts = [3_000_000, 1_500_000]
    target = tmp_path / "x.bin"
    fetch_file(FILE, target, None, server.url)
    assert target.read_bytes() == CONTENT
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.asked]
    assert starts[0] == 0 and 0 < starts[1] <= 3_000_000 and starts[1] < starts[2] <= 4_500_000 and len(starts) == 3


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    part_of(target).write_bytes(CONTENT[:2_000_000])
    fetch_file(FILE, target, None, server.url)
    assert target.read_bytes() == CONTENT and server.asked == [("/x.bin", "bytes=2000000-")]
    assert not part_of(target).exists()


def test_a_whole_part_is_only_verified(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    part_of(target).write_bytes(CONTENT)
    fetch_file(FILE, target, None, server.url)
    assert target.read_bytes() == CONTENT and server.asked == []


def test_server_without_ranges(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [3_000_000]
    target = tmp_path / "x.bin"
    fetch_file(FILE, target, None, server.url)
    assert target.read_bytes() == CONTENT and len(server.asked) == 2


def test_a_server_that_always_breaks(server: Server, tmp_path: Path) -> None:
    server.cuts = [2_000_000] + [0] * 10
    target = tmp_path / "x.bin"
    with pytest.raises(MuseTalkError, match=r"stopped at [\d,]+ of 5,120,000 bytes .* run the same command again"):
        fetch_file(FILE, target, None, server.url)
    assert not target.exists() and CONTENT.startswith(part_of(target).read_bytes())
    server.cuts = []
    assert fetch_file(FILE, target, None, server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_wrong_content_is_never_kept(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    target = tmp_path / "x.bin"
    with pytest.raises(MuseTalkError, match="not the published file"):
        fetch_file(FILE, target, None, server.url)
    assert list(tmp_path.iterdir()) == []


def test_damaged_part_is_found_out(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    part_of(target).write_bytes(b"z" * 1000)
    with pytest.raises(MuseTalkError, match="not the published file"):
        fetch_file(FILE, target, None, server.url)
    assert fetch_file(FILE, target, None, server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [401, 404, 503])
def test_refusal_of_the_server(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(MuseTalkError, match=rf"127.0.0.1:\d+ answered {status} .*huggingface.co/owner/name/resolve/0+"):
        fetch_file(FILE, tmp_path / "x.bin", None, server.url)
    assert list(tmp_path.iterdir()) == []


def test_unreachable(tmp_path: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(MuseTalkError, match="cannot be reached") as caught:
        fetch_file(FILE, tmp_path / "x.bin", None, url)
    assert str(tmp_path / "x.bin") in str(caught.value) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_file_is_not_overwritten(server: Server, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"mine")
    with pytest.raises(MuseTalkError, match="move it away"):
        fetch_file(FILE, tmp_path / "x.bin", None, server.url)
    assert (tmp_path / "x.bin").read_bytes() == b"mine" and server.asked == []


def test_disk_too_small_and_folder_that_cannot_be_made(tmp_path: Path) -> None:
    huge = WeightFile("x.bin", "o/n", "0", "x.bin", 1 << 60, "0" * 64)
    with pytest.raises(MuseTalkError, match="GB free but x.bin needs"):
        fetch_file(huge, tmp_path / "x.bin", None, "http://127.0.0.1:9/x.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(MuseTalkError, match="cannot be made"):
        fetch_file(FILE, tmp_path / "file" / "x.bin", None, "http://127.0.0.1:9/x.bin")


def test_entry_needs_its_licence_and_uses_the_hub_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = WeightEntry("x", "unet", "X net", (FILE,), (), "Some licence", "https://example.org/licence")
    with pytest.raises(MuseTalkError, match=r"Some licence .*example.org/licence.*--yes"):
        download(entry, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    template = f"http://127.0.0.1:{server.server_port}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert download(entry, tmp_path, accept_licence=True) == [tmp_path / "net" / "x.bin"]
    assert server.asked == [(f"/owner/name/resolve/{'0' * 40}/x.bin", None)]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MuseTalkError, match="HF_HUB_OFFLINE"):
        download(entry, tmp_path / "other", accept_licence=True)


def test_catalogue_is_complete() -> None:
    for entry in WEIGHTS:
        assert entry.licence and entry.licence_url.startswith("https://")
        for file in entry.files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and re.fullmatch(r"[0-9a-f]{40}", file.revision)
            assert file.size > 0 and file.url == (
                f"https://huggingface.co/{file.repo}/resolve/{file.revision}/{file.name}"
            )
    # The s3fd file name carries the first ten digits of its own hash (torch.hub's convention).
    s3fd = next(entry for entry in WEIGHTS if entry.id == "s3fd").files[0]
    assert s3fd.sha256.startswith(s3fd.name.split("-")[1].removesuffix(".pth"))
