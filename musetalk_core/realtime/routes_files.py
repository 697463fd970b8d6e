"""Routes that make files: recordings, videos of a sound, prepared avatars."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from .places import checked_id, input_path
from .service import RealtimeService
from .speech_queue import remover
from .wire import BadRequest, Route, int_of, ok, read_form, read_json, session_of, text_of

SETTINGS = ("bbox_shift", "extra_margin")
PARSING_MODE = "parsing_mode"


def routes(service: RealtimeService) -> list[Route]:
    """The routes of files."""
    return [
        Route("POST", "/record", partial(record, service=service)),
        Route("GET", "/record/{sessionid}", partial(recorded, service=service), changes=False),
        Route("POST", "/digital_human/gen", partial(gen, service=service)),
        Route("POST", "/digital_human/preprocess", partial(preprocess, service=service)),
        Route("GET", "/api/avatars", partial(avatars, service=service), changes=False),
        Route("POST", "/api/avatar/task", partial(add_task, service=service)),
        Route("GET", "/api/avatar/tasks", partial(all_tasks, service=service), changes=False),
        Route("GET", "/api/avatar/task/{task_id}", partial(one_task, service=service), changes=False),
        Route("DELETE", "/api/avatar/task/{task_id}", partial(delete_task, service=service)),
    ]


async def record(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /record {sessionid, type: start_record|end_record}."""
    body = await read_json(request, service.config.message_limit)
    kind = text_of(body, "type")
    if kind not in ("start_record", "end_record"):
        raise BadRequest(f"type is {kind!r}; give start_record or end_record.")
    wanted = session_of(body)
    if kind == "start_record":
        service.recordings.start(service.manager.get(wanted))
    else:
        # The recording of a session that has ended is there all the same.
        name = wanted if isinstance(wanted, str) else service.manager.get(wanted).session.id
        await service.recordings.stop(name)
    return ok("ok")


async def recorded(request: web.Request, service: RealtimeService) -> web.StreamResponse:
    """GET /record/{sessionid}: the mp4, 404 when there is none."""
    wanted = session_of(dict(request.match_info))
    name = wanted if isinstance(wanted, str) else service.manager.get(wanted).session.id
    path = service.recordings.path(checked_id(name, "sessionid"))
    if not path.is_file():
        raise web.HTTPNotFound(text=f"There is no recording of the session {name}.")
    return web.FileResponse(path, headers={"Content-Disposition": f'attachment; filename="{path.name}"'})


async def gen(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /digital_human/gen: the avatar streamer_id says tts_path; answered when the mp4 is there.

    The file is request_id.mp4, or request_id-%08d.mp4 when chunk_id is given; an empty .txt beside it is made last.
    """
    body = await read_json(request, service.config.message_limit)
    name = checked_id(text_of(body, "request_id"), "request_id")
    if body.get("chunk_id") is not None:
        chunk = int_of(body, "chunk_id")
        if chunk < 0:
            raise BadRequest(f"chunk_id is {chunk}; give 0 or more.")
        name = f"{name}-{chunk:08d}"
    sound = input_path(service.config.input, text_of(body, "tts_path"))
    avatar = text_of(body, "streamer_id", "") or service.config.avatar or ""
    output = (service.config.output / "digital_human" / f"{name}.mp4").absolute()
    sentinel = output.with_suffix(".txt")
    sentinel.unlink(missing_ok=True)
    await service.workshop.speak(avatar, sound, output)
    sentinel.touch()
    return web.json_response({**_ids(body), "digital_human_mp4_path": str(output)})


async def preprocess(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /digital_human/preprocess: prepare the avatar streamer_id of video_path, anew when it is there."""
    body = await read_json(request, service.config.message_limit)
    name, video = text_of(body, "streamer_id"), input_path(service.config.input, text_of(body, "video_path"))
    await service.workshop.prepare(name, video, _settings(body))
    return web.json_response(_ids(body))


async def avatars(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /api/avatars: the prepared avatars, the one that a session gets without a wish, and each one's actions."""
    names = service.shelf.names()
    actions = {name: service.shelf.actions(name) for name in names}
    return ok({"avatars": names, "default": service.config.avatar, "actions": actions})


async def add_task(request: web.Request, service: RealtimeService) -> web.Response:
    """POST /api/avatar/task, JSON with video_path or multipart with video_file -> {task_id}."""
    if request.content_type.startswith("multipart/"):
        return await _add_upload(request, service)
    body = await read_json(request, service.config.message_limit)
    video = input_path(service.config.input, text_of(body, "video_path"))
    return _add(service, body, video)


async def all_tasks(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /api/avatar/tasks."""
    return ok([task.as_dict() for task in service.tasks.all()])


async def one_task(request: web.Request, service: RealtimeService) -> web.Response:
    """GET /api/avatar/task/{task_id}."""
    return ok(service.tasks.get(request.match_info["task_id"]).as_dict())


async def delete_task(request: web.Request, service: RealtimeService) -> web.Response:
    """DELETE /api/avatar/task/{task_id}: only while it waits."""
    service.tasks.delete(request.match_info["task_id"])
    return ok()


async def _add_upload(request: web.Request, service: RealtimeService) -> web.Response:
    file = service.new_file(".upload")
    try:
        form = await read_form(request, file, "video_file", service.config.upload_limit)
        if form.filename is None:
            raise BadRequest("video_file is missing; send the video as the multipart field video_file.")
        return _add(service, form.fields, file, uploaded=True)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _add(service: RealtimeService, body: Mapping[str, Any], video: Path, uploaded: bool = False) -> web.Response:
    content = dict(body)
    if content.get("notifyurl") not in (None, "", service.config.notify_url):
        raise BadRequest("notifyurl is told by the server's configuration (notify_url) alone; leave it out.")
    if content.get("model", "musetalk") != "musetalk":
        raise BadRequest(f"model is {content['model']!r}; this server has musetalk.")
    wish = text_of(content, "task_id", "")
    task_id = checked_id(wish, "task_id") if wish else None
    done = remover(video) if uploaded else (lambda: None)
    task = service.tasks.add(text_of(content, "avatar_id"), video, _settings(content), task_id, done)
    return ok({"task_id": task.task_id})


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a preparation that a request may choose."""
    content = dict(body)
    settings: dict[str, Any] = {name: int_of(content, name) for name in SETTINGS if name in content}
    if PARSING_MODE in content:
        settings[PARSING_MODE] = text_of(content, PARSING_MODE)
    return settings


def _ids(body: Mapping[str, Any]) -> dict[str, Any]:
    """What Real-Time-Lip-Sync's clients get back to know their request by."""
    return {name: body.get(name) for name in ("user_id", "request_id")}
