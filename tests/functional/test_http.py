"""MCP over HTTP, served by the daemon beside its Unix socket."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from agentiso.protocol.sessions import SessionStore
from agentiso.supervisor.daemon import HTTP_URL
from tests.machines import ARGV

pytestmark = [
    pytest.mark.functional,
    # The SDK's client leaves the generators of its responses to the garbage collector.
    pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)2:ResourceWarning"),
]
LIMIT_S = 600
END_S = 30
"""The daemon's end is a matter of a second; the rest is for a host that others use too."""
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@asynccontextmanager
async def http_daemon(environment: dict[str, str]) -> AsyncIterator[tuple[str, trio.Process]]:
    """Run a daemon that serves HTTP, yield its URL and process, and see that it ends when told to."""
    path = Path(environment["AGENTISO_STATE_DIR"]) / HTTP_URL
    argv = [*ARGV, "daemon", "--http", "127.0.0.1:0"]
    process = await trio.lowlevel.open_process(argv, env=environment, stderr=subprocess.DEVNULL)
    try:
        while not path.exists() or not path.read_text():
            assert process.poll() is None
            await trio.sleep(0.02)
        yield path.read_text().strip(), process
    finally:
        process.terminate()
        with trio.CancelScope(shield=True), trio.fail_after(LIMIT_S):
            await process.wait()
    assert not path.exists()


@asynccontextmanager
async def http_client(url: str, token: str, **options: Any) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=LIMIT_S) as http,
        Client(streamable_http_client(url, http_client=http), **options) as client,
    ):
        yield client


async def test_a_daemon_serves_http_stdio_and_its_socket_at_once(environment: dict[str, str]) -> None:
    token = SessionStore(Path(environment["AGENTISO_STATE_DIR"])).open("remote")
    front = StdioServerParameters(command=ARGV[0], args=[*ARGV[1:], "serve", "--session", "remote"], env=environment)
    with trio.fail_after(LIMIT_S):
        async with (
            http_daemon(environment) as (url, _),
            http_client(url, token) as modern,
            http_client(url, token, mode="legacy") as legacy,
            Client(stdio_client(front)) as stdio,
        ):
            made = await modern.call_tool("workspace_create", {"name": "far"})
            assert not made.is_error, made.content
            for client in (modern, legacy, stdio):
                done = await client.call_tool("exec", {"workspace_id": "far", "command": "echo $((6*7))"})
                assert done.structured_content is not None
                assert done.structured_content["stdout"] == "42\n"
            listed = await trio.run_process([*ARGV, "list"], env=environment, capture_stdout=True)
            assert b"far" in listed.stdout
            await legacy.call_tool("workspace_destroy", {"workspace_id": "far"})


async def test_who_has_no_token_or_comes_from_elsewhere_is_turned_away(environment: dict[str, str]) -> None:
    sessions = SessionStore(Path(environment["AGENTISO_STATE_DIR"]))
    token, other = sessions.open("remote"), sessions.open("other")
    with trio.fail_after(LIMIT_S):
        async with http_daemon(environment) as (url, _), httpx2.AsyncClient(headers=ACCEPT) as http:

            async def status(token: str, **headers: str) -> int:
                authorization = {"Authorization": token} if token else {}
                answer = await http.post(url, json=INITIALIZE, headers={**authorization, **headers})
                assert answer.status_code == 200 or "serverInfo" not in answer.text
                return answer.status_code

            for wrong in ("", "Bearer", "Bearer remote.guess", f"Basic {token}", token, f"Bearer {token}x"):
                assert await status(wrong) == 401
            assert await status(f"Bearer {token}") == 200
            assert await status(f"Bearer {token}", Host="evil.example") == 421
            assert await status(f"Bearer {token}", Origin="http://evil.example") == 403
            opened = await http.post(url, json=INITIALIZE, headers={"Authorization": f"Bearer {token}"})
            stolen = {"Authorization": f"Bearer {other}", "Mcp-Session-Id": opened.headers["mcp-session-id"]}
            listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
            assert (await http.post(url, json=listing, headers=stolen)).status_code == 404
            sessions.revoke("other")
            assert await status(f"Bearer {other}") == 401


async def test_the_daemon_ends_at_once_with_clients_connected_and_a_call_under_way(environment: dict[str, str]) -> None:
    token = SessionStore(Path(environment["AGENTISO_STATE_DIR"])).open("remote")
    with trio.fail_after(LIMIT_S):
        async with http_daemon(environment) as (url, process), httpx2.AsyncClient(timeout=LIMIT_S) as http:
            headers = {**ACCEPT, "Authorization": f"Bearer {token}"}
            opened = await http.post(url, json=INITIALIZE, headers=headers)
            headers["Mcp-Session-Id"] = opened.headers["mcp-session-id"]
            async with http.stream("GET", url, headers=headers) as events:
                assert events.status_code == 200
                process.send_signal(signal.SIGTERM)
                with trio.fail_after(END_S):
                    assert await process.wait() == 0
