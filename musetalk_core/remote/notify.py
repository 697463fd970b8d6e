"""Tells the address of the configuration what has ended."""

import asyncio
import logging
from typing import Any

import aiohttp

log = logging.getLogger(__name__)

SECONDS = 10.0


async def post_notice(url: str, content: dict[str, Any]) -> None:
    """POST `content` as JSON to `url`; nobody there is written to the log, and no more."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS)) as session,
            session.post(url, json=content, allow_redirects=False) as reply,
        ):
            if reply.status >= 300:
                log.warning("%s answers %d to a notice.", url, reply.status)
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        log.warning("%s cannot be told: %s", url, error or type(error).__name__)
