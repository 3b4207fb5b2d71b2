"""Rows about work in a running guest: commands, output, files, and what MCP adds to a call."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from actors.runtime import open_plain_nursery
from agentiso.bench.bench import Bench, Plan, ms_since
from agentiso.bench.result import Aim, Found
from agentiso.client.tools import META

FILE_MIB: Final = 64
PATH: Final = "/dev/shm/file"  # noqa: S108 - in the guest
"""Memory of the guest: the channel is measured, not the disk."""
OUTPUT: Final = f"head -c {2**20} /dev/zero"


async def _exec_true(bench: Bench, _number: int) -> Found:
    workspace, machine = await bench.pair()
    began = time.perf_counter()
    await workspace.exec("true")
    ours = ms_since(began)
    began = time.perf_counter()
    machine.exec_true()
    return Found.pair(ours, ms_since(began))


async def _exec_output(bench: Bench, _number: int) -> Found:
    workspace, machine = await bench.pair()
    began = time.perf_counter()
    await workspace.exec(OUTPUT)
    ours = ms_since(began)
    began = time.perf_counter()
    machine.exec(OUTPUT)
    return Found.pair(ours, ms_since(began))


async def _file_upload(bench: Bench, _number: int) -> Found:
    workspace, machine = await bench.pair()
    content = os.urandom(FILE_MIB * 2**20)
    began = time.perf_counter()
    await workspace.files.write(PATH, content)
    ours = _mib_per_s(began)
    began = time.perf_counter()
    machine.write_file(PATH, content)
    return await _tidied(bench, Found.pair(ours, _mib_per_s(began)))


async def _file_download(bench: Bench, _number: int) -> Found:
    workspace, machine = await bench.pair()
    make = f"head -c {FILE_MIB * 2**20} /dev/zero > {PATH}"
    await workspace.exec(make)
    machine.exec(make)
    began = time.perf_counter()
    await workspace.files.read(PATH)
    ours = _mib_per_s(began)
    began = time.perf_counter()
    machine.read_file(PATH)
    return await _tidied(bench, Found.pair(ours, _mib_per_s(began)))


async def _tidied(bench: Bench, found: Found) -> Found:
    workspace, machine = await bench.pair()
    await workspace.exec(f"rm {PATH}")
    machine.exec(f"rm {PATH}")
    return found


def _mib_per_s(began: float) -> float:
    return FILE_MIB / (time.perf_counter() - began)


class _Client:
    """A client of the server's socket that does nothing but send a request and read its answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._id = 0

    async def call(self, tool: str, arguments: dict[str, Any]) -> float:
        """Call a tool and return the milliseconds until its result was there, parsed."""
        self._id += 1
        params = {"name": tool, "arguments": arguments, "_meta": META}
        request = {"jsonrpc": "2.0", "id": self._id, "method": "tools/call", "params": params}
        began = time.perf_counter()
        await self._stream.send_all(json.dumps(request).encode() + b"\n")
        lines = b""
        while not lines.endswith(b"\n"):
            lines += await self._stream.receive_some(65536)
        result = json.loads(lines)["result"]
        taken = ms_since(began)
        assert not result.get("isError"), result
        return taken


@asynccontextmanager
async def _client(bench: Bench) -> AsyncIterator[_Client]:
    """Yield a client of an MCP server over the system under test, as the daemon serves it."""
    # Importing the SDK takes a second.
    from agentiso.mcp.server import make_server, serve_connection

    theirs, ours = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    async with open_plain_nursery() as nursery, ours:
        nursery.start_soon(serve_connection, make_server(bench.system), theirs)
        yield _Client(ours)


async def _mcp_call_overhead(bench: Bench, _number: int) -> Found:
    """Tell what a tool call takes longer than the same call of the library: the floor is taken away already."""
    workspace, _ = await bench.pair()
    overheads = []
    async with _client(bench) as client:
        for _ in range(20):
            through_mcp = await client.call("workspace_info", {"workspace_id": workspace.name})
            began = time.perf_counter()
            await (await bench.system.get(workspace.name)).info()
            overheads.append(through_mcp - ms_since(began))
    return Found(overheads)


async def _mcp_exec_true(bench: Bench, _number: int) -> Found:
    workspace, machine = await bench.pair()
    ours, floors = [], []
    async with _client(bench) as client:
        for _ in range(10):
            ours.append(await client.call("exec", {"workspace_id": workspace.name, "command": "true"}))
            began = time.perf_counter()
            machine.exec_true()
            floors.append(ms_since(began))
    return Found(ours, floors)


PLANS: Final = (
    Plan("exec_true", "ms", 50, 10, Aim(max_ratio=1.5), _exec_true),
    Plan("exec_true_mcp", "ms", 5, 1, Aim(), _mcp_exec_true),
    Plan("mcp_call_overhead", "ms", 5, 1, Aim(max_p50=2), _mcp_call_overhead),
    Plan("exec_1MiB_output", "ms", 10, 2, Aim(), _exec_output),
    Plan("file_upload", "MiB/s", 3, 1, Aim(min_ratio=0.9), _file_upload),
    Plan("file_download", "MiB/s", 3, 1, Aim(min_ratio=0.9), _file_download),
)
