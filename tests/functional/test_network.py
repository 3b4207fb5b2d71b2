"""Forwarded ports and the network's policy, with real servers in real guests."""

from __future__ import annotations

import socket
from pathlib import Path

import attrs
import pytest
import trio

import agentiso
from actors.model import record as records
from actors.model.errors import InvalidArgument, NotFound, PortTaken
from agentiso import System, Workspace

pytestmark = pytest.mark.functional
LIMIT_S = 600
SERVER = """
import http.server, pathlib
class Here(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(pathlib.Path("/dev/shm/who").read_bytes())
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("", 80), Here).serve_forever()
"""


async def output(workspace: Workspace, command: str) -> str:
    result = await workspace.exec(command)
    assert result.exit_code == 0, result
    return result.stdout.decode().strip()


async def serve(workspace: Workspace, text: str) -> None:
    """Have a server in the guest answer with a text, once it listens."""
    await workspace.files.write("/root/server.py", SERVER)
    await output(workspace, f"printf %s {text} > /dev/shm/who; setsid python3 /root/server.py > /dev/null 2>&1 &")
    connect = "import socket; socket.create_connection(('127.0.0.1', 80))"
    await output(workspace, f'until python3 -c "{connect}"; do :; done')


async def get(port: int) -> str:
    """Ask the server behind a port of this host; empty if nothing answers."""
    try:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
    except OSError:
        return ""
    async with stream:
        try:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join([piece async for piece in stream]).rpartition(b"\r\n\r\n")[2].decode()
        except trio.BrokenResourceError:
            return ""


async def reaches_this_host(workspace: Workspace) -> bool:
    """Tell whether the guest can open a connection that leaves its own network."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"('10.0.2.2', {server.getsockname()[1]})"
        tried = await workspace.exec(f'python3 -c "import socket; socket.create_connection({target}, 5)"')
    return tried.exit_code == 0


async def test_a_server_in_the_guest_is_reached_through_everything_that_replaces_its_machine(system: System) -> None:
    with trio.fail_after(LIMIT_S):
        ws = await system.create("serving")
        await serve(ws, "me")
        forward = await ws.ports.forward(80)
        assert forward.host_port >= 1024
        assert await get(forward.host_port) == "me"
        await ws.snapshots.create("here")
        await ws.snapshots.restore("here")
        assert await get(forward.host_port) == "me"
        await ws.undo()
        assert await get(forward.host_port) == "me"
        await ws.suspend()
        (away,) = await ws.ports.list()
        assert "suspended" in away.fault
        assert await get(forward.host_port) == ""
        await ws.resume()
        assert await get(forward.host_port) == "me"

        assert not await reaches_this_host(ws)
        process = await output(ws, "pgrep -f [s]erver.py")
        changed = await ws.set_network_policy(allow_internet=True)
        assert changed.network.allow_internet
        assert "run on" in changed.note
        assert await output(ws, "pgrep -f [s]erver.py") == process
        assert await get(forward.host_port) == "me"
        assert await reaches_this_host(ws)
        # What is not named stays as it is.
        assert (await ws.set_network_policy()).network.allow_internet

        fork = await ws.fork(1)
        child = fork[0]
        assert (await child.ports.list(), fork.report.dropped_forwards) == ((), (80,))
        await output(child, "printf child > /dev/shm/who")
        own = await child.ports.forward(80)
        assert (await get(own.host_port), await get(forward.host_port)) == ("child", "me")

        await ws.ports.remove(80)
        assert (await get(forward.host_port), await ws.ports.list()) == ("", ())
        with pytest.raises(NotFound, match="80 is not forwarded"):
            await ws.ports.remove(80)


async def test_ports_that_cannot_be_had_are_refused_with_the_reason(system: System) -> None:
    with trio.fail_after(LIMIT_S), socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ws = await system.create("asking")
        with pytest.raises(PortTaken, match="in use"):
            await ws.ports.forward(80, taken)
        for guest_port, host_port in ((80, 1023), (80, 65536), (0, 2000), (-1, None), (65536, None)):
            with pytest.raises(InvalidArgument):
                await ws.ports.forward(guest_port, host_port)
        made = await ws.ports.forward(80)
        assert await ws.ports.forward(80) == made
        with pytest.raises(InvalidArgument, match="already"):
            await ws.ports.forward(80, made.host_port + 1)
        with pytest.raises(PortTaken, match="another guest port or workspace"):
            await ws.ports.forward(81, made.host_port)
        await ws.stop()
        # It stays this workspace's while that is stopped, but another program can take it.
        second = await system.create("late")
        with pytest.raises(PortTaken, match="another guest port or workspace"):
            await second.ports.forward(80, made.host_port)
        with socket.create_server(("127.0.0.1", made.host_port)):
            await ws.start()
            (forward,) = await ws.ports.list()
            assert "in use" in forward.fault
        mended = await ws.ports.forward(80)
        assert (mended.fault, mended.host_port) == ("", made.host_port)
        assert await ws.ports.list() == (mended,)
        for wanted in ({"allow_inter_vm": True}, {"allowed_ports": [80]}):
            with pytest.raises(InvalidArgument, match="tap network"):
                await ws.set_network_policy(**wanted)
        wireless = await system.create("wireless", network="none")
        with pytest.raises(InvalidArgument, match="no network"):
            await wireless.ports.forward(80)
        with pytest.raises(InvalidArgument, match="no network"):
            await wireless.set_network_policy(allow_internet=True)


async def test_a_new_supervisor_keeps_forwards_open_and_closes_what_no_record_has(
    images_dir: Path, template_state: Path
) -> None:
    settings = agentiso.Settings(state_dir=template_state, images_dir=images_dir)
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, keep=True) as system:
            ws = await system.create("lasting")
            await serve(ws, "me")
            forward = await ws.ports.forward(80)
            unknown = await ws.ports.forward(8080)
        assert await get(forward.host_port) == "me"
        directory = records.directory_of(template_state, ws.id)
        records.save(template_state, attrs.evolve(records.load(directory), forwards=(forward,)))
        async with agentiso.open_system(settings) as system:
            ws = await system.get("lasting")
            assert await ws.ports.list() == (forward,)
            assert await get(forward.host_port) == "me"
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", unknown.host_port)
            await ws.snapshots.create("one")
            await ws.snapshots.restore("one")
            assert await get(forward.host_port) == "me"
            await ws.destroy()
            assert await get(forward.host_port) == ""
