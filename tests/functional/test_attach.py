"""Programs that attach to one running supervisor share its workspaces, and are told when it ends."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import agentiso
from agentiso.client.dialling import is_running
from agentiso.client.stopping import stop

pytestmark = pytest.mark.functional
LIMIT_S = 600
PIECE = bytes(range(256)) * 256


@pytest.fixture
async def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> agentiso.Settings:
    for name in ("AGENTISO_STATE_DIR", "AGENTISO_CONFIG"):
        monkeypatch.setenv(name, environment.get(name, ""))
    return agentiso.Settings(state_dir=Path(environment["AGENTISO_STATE_DIR"]))


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(64):
        yield PIECE


async def test_two_programs_share_workspaces_and_each_takes_along_only_what_it_made(
    settings: agentiso.Settings,
) -> None:
    with trio.fail_after(LIMIT_S):
        async with agentiso.open_system(settings, attach=True, keep=True) as first:
            said: list[str] = []
            ws = await first.create("shared", on_progress=said.append)
            assert said
            assert [path.name for path in settings.state_dir.iterdir() if path.is_socket()] == ["supervisor.sock"]
            assert (settings.state_dir / "supervisor.sock").stat().st_mode & 0o777 == 0o600

            async with agentiso.open_system(settings, attach="auto") as second:
                same = await second.get("shared")
                assert await same.files.write("/root/big", pieces()) == 64 * len(PIECE)
                wanted = hashlib.sha256(PIECE * 64).hexdigest()
                assert (await ws.exec("sha256sum /root/big")).stdout.decode().split()[0] == wanted
                assert (await ws.files.read("/root/big")).content == PIECE * 64

                output: list[bytes] = []
                result = await same.exec("seq 20000", on_output=lambda _stream, data: output.append(data))
                assert b"".join(output) == result.stdout
                async with same.stream("seq 100000; echo wrong >&2") as stream:
                    events = [event async for event in stream]
                assert b"".join(e.data for e in events if e.stream == 1).endswith(b"\n99999\n100000\n")
                assert b"".join(e.data for e in events if e.stream == 2) == b"wrong\n"

                with pytest.raises(agentiso.errors.NotFound) as caught:
                    await second.get("nobody")
                assert caught.value.remedy == (await not_found(first)).remedy

                with trio.move_on_after(1):
                    await same.exec("echo $$ > /root/pid; exec sleep 1000")
                gone = await ws.exec("kill -0 $(cat /root/pid)")
                assert gone.exit_code != 0
                children = await same.fork(2)
                assert {info.name for info in await first.list()} == {"shared", *(child.name for child in children)}
            assert [info.name for info in await first.list()] == ["shared"]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(kill_once_it_runs, settings, ws)
                with pytest.raises(agentiso.errors.SupervisorGone, match="unknown"):
                    await ws.exec("touch /root/runs; sleep 1000")
        async with agentiso.open_system(settings, attach=True) as again:
            ws = await again.get("shared")
            assert (await ws.exec("ls /root/big")).stdout == b"/root/big\n"
            await ws.destroy()
        assert is_running(settings)
        assert await stop(settings, report=print)


async def not_found(system: agentiso.System) -> agentiso.AgentisoError:
    with pytest.raises(agentiso.errors.NotFound) as caught:
        await system.get("nobody")
    return caught.value


async def kill_once_it_runs(settings: agentiso.Settings, ws: agentiso.Workspace) -> None:
    await ws.exec("until [ -e /root/runs ]; do sleep 0.1; done")
    os.kill(int((settings.state_dir / "lock").read_text()), signal.SIGKILL)
