"""A way in for the conformance runner, which has no tokens: requests are handed on with the one that is missing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

HOP_BY_HOP: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length"})


@asynccontextmanager
async def open_door(url: str, token: str) -> AsyncIterator[str]:
    """Yield a URL behind which everybody is the session with ``token`` of the server at ``url``."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.accesslog = config.errorlog = None
    async with httpx2.AsyncClient(timeout=None) as client, trio.open_nursery() as nursery:

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await _hand_on(client, url, token, scope, receive, send)
            elif scope["type"] == "lifespan":
                for step in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{step}.complete"})

        (address,) = await nursery.start(serve, app, config)
        yield address + urlsplit(url).path
        nursery.cancel_scope.cancel()


async def _hand_on(
    client: httpx2.AsyncClient, url: str, token: str, scope: dict[str, Any], receive: Any, send: Any
) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(key, value) for key, value in scope["headers"] if key not in HOP_BY_HOP]
    headers.append((b"authorization", f"Bearer {token}".encode()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_give_up_with_the_caller, receive, nursery.cancel_scope)
        async with client.stream(scope["method"], url, headers=headers, content=body) as answer:
            kept = [(key, value) for key, value in answer.headers.raw if key.lower() not in HOP_BY_HOP]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
            async for piece in answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        nursery.cancel_scope.cancel()


async def _give_up_with_the_caller(receive: Any, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
