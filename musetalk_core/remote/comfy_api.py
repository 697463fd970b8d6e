"""One ComfyUI server over HTTP: files up, a prompt in, its progress, its end, files down."""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ..errors import MuseTalkError
from .workflow import Value, Workflow

UPLOADS = "musetalk_queue"
CHUNK = 1 << 20
# A proxy in front of a server that is gone answers with these.
GATEWAY = (502, 503, 504)


class ServerLost(Exception):
    """The server gave no answer, or a proxy or another program did; what it has done is not known."""


class Refused(MuseTalkError):
    """The server answered that it will not do what was asked."""


class FileGone(MuseTalkError):
    """The server no longer has a file that it named."""


@dataclass(frozen=True)
class Ending:
    """How a prompt ended. error: one sentence or empty; outputs: {node id: {kind: [entry]}}; seconds on the server."""

    error: str
    interrupted: bool
    outputs: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class InputSpec:
    """What a node says of an input: its type, its choices if it is a list of them, whether files are uploaded to it."""

    kind: str
    choices: tuple[Any, ...] = ()
    upload: bool = False

    def takes_file(self, value: Value) -> bool:
        """Whether `value` names a file here that the server needs.

        Some packs upload without saying so: there a file is one that the server does not offer.
        """
        wanted = self.upload or (self.kind == "COMBO" and value not in self.choices)
        return wanted and isinstance(value, str) and os.path.isfile(value)


def session() -> aiohttp.ClientSession:
    """Connections for any number of servers. No limit for long transfers, 60 s for a silent one."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60))


@dataclass
class ComfyApi:
    """The server at `url`. Every call raises ServerLost when there is no answer."""

    url: str
    session: aiohttp.ClientSession
    _specs: dict[str, dict[str, InputSpec]] = field(default_factory=dict)
    _names: dict[tuple[Path, int, int], str] = field(default_factory=dict)

    @asynccontextmanager
    async def _ask(self, method: str, path: str, **arguments: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self.session.request(method, self.url + path, **arguments) as reply:
                if reply.status in GATEWAY:
                    raise ServerLost(f"{self.url} answers {reply.status}")
                yield reply
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            raise ServerLost(f"{self.url}: {error or type(error).__name__}") from error

    async def _get(self, path: str) -> dict[str, Any]:
        async with self._ask("GET", path) as reply:
            text = await reply.text()
        content = _object(text)
        if reply.status != 200 or content is None:
            raise ServerLost(f"{self.url} answers, but not as a ComfyUI that is up ({path}: {reply.status})")
        return content

    async def queue(self, prompt: Workflow, prompt_id: str, client: str) -> None:
        """Queue a prompt under an id of our choice. Raises Refused with the server's reasons.

        A prompt of which the server would run a part is refused too: a result would be missing silently.
        """
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": client}
        async with self._ask("POST", "/prompt", json=body) as reply:
            text = await reply.text()
        answer = _object(text) or {"error": f"{reply.status} {text[:200]}"}
        if reply.status != 200 or "prompt_id" not in answer:
            raise Refused(_reasons(answer))
        if answer["prompt_id"] == prompt_id and not answer.get("node_errors"):
            return
        async with self._ask("POST", "/queue", json={"delete": [answer["prompt_id"]]}):
            pass
        if answer.get("node_errors"):
            raise Refused(_reasons(answer))
        raise Refused(f"{self.url} chooses prompt ids itself; the queue needs ComfyUI 0.3.75 or newer.")

    async def queued(self) -> dict[str, bool]:
        """Prompt ids that wait or run on the server; True for those that run."""
        content = await self._get("/queue")
        waiting = {item[1]: False for item in content.get("queue_pending", [])}
        return {**waiting, **{item[1]: True for item in content.get("queue_running", [])}}

    async def history(self, prompt_id: str) -> Ending | None:
        """How a prompt ended, or None when the server does not know of its end."""
        entry = (await self._get(f"/history/{prompt_id}")).get(prompt_id)
        return None if entry is None else _ending(entry)

    async def interrupt(self, prompt_id: str) -> None:
        """Ask the server to end a running prompt; it does so when a node next reports progress."""
        async with self._ask("POST", "/interrupt", json={"prompt_id": prompt_id}):
            pass

    async def input_spec(self, class_type: str, name: str) -> InputSpec:
        """What the server's node says of an input; an empty kind when the server has no such node or input."""
        if class_type not in self._specs:
            info = (await self._get(f"/object_info/{class_type}")).get(class_type, {})
            groups = info.get("input", {})
            inputs = {**groups.get("required", {}), **groups.get("optional", {})}
            self._specs[class_type] = {key: _spec(value) for key, value in inputs.items()}
        return self._specs[class_type].get(name, InputSpec(""))

    async def upload(self, path: Path) -> str:
        """Bring a file into the server's input folder unless its content is there; what an input calls it.

        Named by its content, so that nothing there is ever replaced. Raises Refused when the file is too large for
        the server or cannot be read.
        """
        try:
            return await self._upload(path)
        except OSError as error:
            raise Refused(f"The file {path} cannot be read: {error}.") from error

    async def _upload(self, path: Path) -> str:
        stat = path.stat()
        name = await self._content_name(path, stat)
        place = {"filename": name, "subfolder": UPLOADS, "type": "input"}
        async with self._ask("HEAD", "/view", params=place) as reply:
            if reply.status == 200 and reply.content_length == stat.st_size:
                return f"{UPLOADS}/{name}"
        with open(path, "rb") as file:
            form = aiohttp.FormData({"subfolder": UPLOADS, "type": "input"})
            form.add_field("image", file, filename=name, content_type="application/octet-stream")
            async with self._ask("POST", "/upload/image", data=form) as reply:
                text = await reply.text()
        if reply.status == 413:
            raise Refused(
                f"{path} ({stat.st_size / 1e6:.0f} MB) is more than {self.url} accepts; "
                f"start that ComfyUI with --max-upload-size {stat.st_size / (1 << 20) + 1:.0f}."
            )
        if reply.status != 200:
            raise Refused(f"{self.url} does not accept the file {path} ({reply.status} {text[:200]}).")
        # Another content of this name makes the server choose a name of its own.
        return f"{UPLOADS}/{json.loads(text)['name']}"

    async def _content_name(self, path: Path, stat: os.stat_result) -> str:
        """<SHA-256><suffix>, read once for as long as the file does not change."""
        key = (path, stat.st_size, stat.st_mtime_ns)
        if key not in self._names:
            self._names[key] = await asyncio.to_thread(_digest, path) + path.suffix.lower()
        return self._names[key]

    async def download(self, entry: dict[str, Any], path: Path) -> None:
        """Write the file that a history entry {filename, subfolder, type} names. Raises FileGone."""
        place = {key: str(entry[key]) for key in ("filename", "subfolder", "type") if entry.get(key)}
        async with self._ask("GET", "/view", params=place) as reply:
            if reply.status != 200:
                raise FileGone(f"{self.url} no longer has {entry['filename']} ({reply.status}).")
            with open(path, "wb") as file:
                async for chunk in reply.content.iter_chunked(CHUNK):
                    file.write(chunk)

    @asynccontextmanager
    async def events(self, client: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events {type, data} that the server sends to `client`, until the connection ends."""
        try:
            connection = await self.session.ws_connect(
                f"{self.url}/ws", params={"clientId": client}, heartbeat=30, max_msg_size=0
            )
        except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError) as error:
            raise ServerLost(f"{self.url}: {error or type(error).__name__}") from error
        try:
            yield _events(connection)
        finally:
            await connection.close()


async def _events(connection: "aiohttp.ClientWebSocketResponse[bool]") -> AsyncIterator[dict[str, Any]]:
    async for message in connection:
        if message.type is aiohttp.WSMsgType.TEXT:  # previews are binary
            event = json.loads(message.data)
            if isinstance(event, dict) and isinstance(event.get("data"), dict):
                yield event


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object, or None for anything else, such as a proxy's page."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _spec(value: list[Any]) -> InputSpec:
    """From [type or choices, options]; V3 nodes have ["COMBO", {"options": choices}]."""
    kind, options = value[0], value[1] if len(value) > 1 else {}
    upload = any(key.endswith("_upload") and flag for key, flag in options.items())
    if isinstance(kind, list):
        return InputSpec("COMBO", tuple(kind), upload)
    return InputSpec(str(kind), tuple(options.get("options") or ()), upload)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()[:32]


def _reasons(answer: dict[str, Any]) -> str:
    """The server's reasons in one line: those of the nodes, else the general one."""
    reasons = [
        f"{node.get('class_type')} (node {key}): {_words(error)}"
        for key, node in (answer.get("node_errors") or {}).items()
        for error in node.get("errors", [])
    ]
    error = answer.get("error")
    general = _words(error) if isinstance(error, dict) else str(error)
    return "the server refused it: " + ("; ".join(reasons) or general)


def _words(error: dict[str, Any]) -> str:
    parts = [str(error.get(key) or "").strip() for key in ("message", "details")]
    return ": ".join(part for part in parts if part)


def _ending(entry: dict[str, Any]) -> Ending:
    status = entry.get("status") or {}
    messages = {kind: detail for kind, detail in status.get("messages", [])}
    times = [detail["timestamp"] for detail in messages.values() if "timestamp" in detail]
    seconds = (max(times) - min(times)) / 1000 if times else 0.0
    error = ""
    if "execution_error" in messages:
        detail = messages["execution_error"]
        words = " ".join(str(detail.get("exception_message", "")).split())
        error = f"{detail.get('node_type')} (node {detail.get('node_id')}) failed: {words}"
    elif "execution_interrupted" in messages:
        error = "it was interrupted on the server"
    elif status.get("status_str") != "success":
        error = "the server reports an error without a reason; see its log"
    return Ending(error, "execution_interrupted" in messages, entry.get("outputs") or {}, seconds)
