"""Workspaces that end with their program: what one leaves that is killed, and what is not proven to be left."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from actors.model.info import LIBRARY, WorkspaceInfo
from actors.model.record import RECORD
from actors.model.settings import Settings
from actors.registry import messages as r
from actors.registry.ephemeral import DIRECTORY, Ephemeral, Program
from agentiso.library.system import System
from tests.standins import open_stopped

LIMIT_S = 60


async def ended_pid() -> int:
    """Return the pid of a process that has ended and was reaped."""
    process = await trio.lowlevel.open_process(["true"])
    await process.wait()
    return process.pid


def a_note(state_dir: Path, program: Program | None, *workspaces: str) -> Path:
    """Note workspaces as made by a program; return the file."""
    path = state_dir / DIRECTORY / f"{len(list((state_dir / DIRECTORY).glob('*')))}.json"
    path.parent.mkdir(exist_ok=True)
    identity = None if program is None else attrs.asdict(program)
    path.write_text(json.dumps({"program": identity, "workspaces": dict.fromkeys(workspaces, LIBRARY)}))
    return path


async def made_of(system: System, info: WorkspaceInfo) -> r.Made:
    """Return what the creation of a workspace was answered with."""
    return r.Made(await system.registry.ask(r.FindWorkspace(info.workspace_id)), info)


async def test_a_program_is_dead_only_if_that_is_proven() -> None:
    me = Program.of(os.getpid())
    assert not me.is_dead
    # Its pid is somebody else's by now.
    assert attrs.evolve(me, start_time=me.start_time - 1).is_dead
    assert attrs.evolve(me, boot="an earlier one").is_dead
    # Within another namespace a pid says nothing.
    assert not attrs.evolve(me, namespace=1, pid=2**22 + 1).is_dead
    with trio.fail_after(LIMIT_S):
        gone = attrs.evolve(me, pid=await ended_pid())
    assert gone.is_dead


async def test_the_next_supervisor_destroys_what_dead_programs_left_and_nothing_else(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    names = ("by_supervisor", "by_dead", "by_living", "adopted", "damaged", "unnoted", "unread")
    owners = {name.replace("_", "-"): "ann" if name == "adopted" else LIBRARY for name in names}
    with trio.fail_after(LIMIT_S):
        async with open_stopped(settings, owners) as system:
            ids = {info.name: info.workspace_id for info in await system.list()}
        me = Program.of(os.getpid())
        dead = attrs.evolve(me, start_time=me.start_time - 1)
        notes = [
            a_note(tmp_path, None, ids["by-supervisor"], "00000000-0000-0000-0000-000000000000"),
            a_note(tmp_path, dead, ids["by-dead"], ids["adopted"]),
        ]
        kept_notes = [
            a_note(tmp_path, me, ids["by-living"]),
            a_note(tmp_path, dead, ids["damaged"]),
            a_note(tmp_path, dead, ids["unread"]),
        ]
        kept_notes[-1].write_text(kept_notes[-1].read_text()[:-5])
        record = tmp_path / "workspaces" / ids["damaged"][:8] / RECORD
        whole = record.read_bytes()
        record.write_bytes(whole[:100])
        async with open_stopped(settings, {}) as system:
            assert {info.name for info in await system.list()} == {"by-living", "adopted", "unnoted", "unread"}
        assert [note.exists() for note in notes] == [False, False]
        assert [note.exists() for note in kept_notes] == [True, True, True]
        assert record.exists()
        # It could not be read before; it was never forgotten.
        record.write_bytes(whole)
        async with open_stopped(settings, {}) as system:
            assert "damaged" not in {info.name for info in await system.list()}


async def test_what_is_made_is_noted_at_once_and_forgotten_when_it_is_destroyed(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_stopped(Settings(state_dir=tmp_path), {"one": LIBRARY, "two": LIBRARY}) as system:
            one, two = await system.list()
            made = Ephemeral.of_client(tmp_path, os.getpid())
            for info in (one, two):
                made.note(r.CreateWorkspace(), await made_of(system, info))
            (path,) = (tmp_path / DIRECTORY).iterdir()
            assert json.loads(path.read_text())["workspaces"] == {info.workspace_id: LIBRARY for info in (one, two)}
            assert json.loads(path.read_text())["program"]["pid"] == os.getpid()
            made.note(r.DestroyWorkspace(two.workspace_id), None)
            assert json.loads(path.read_text())["workspaces"] == {one.workspace_id: LIBRARY}
            await made.end_all(system.registry)
            assert [info.name for info in await system.list()] == ["two"]
            assert not path.exists()


async def test_what_cannot_be_looked_for_stays_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> os.stat_result:
        raise OSError(errno.EIO, "the disk is broken")

    path = a_note(tmp_path, None, "00000000-0000-0000-0000-000000000000")
    left = Ephemeral.left_in(tmp_path, path)
    assert left is not None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "lstat", refuse)
        left.close()
    assert path.exists()
    left.close()
    assert not path.exists()


async def test_a_client_that_nobody_could_know_again_is_noted_in_no_file(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with open_stopped(Settings(state_dir=tmp_path), {"one": LIBRARY}) as system:
            made = Ephemeral.of_client(tmp_path, 0)
            made.note(r.CreateWorkspace(), await made_of(system, (await system.list())[0]))
            assert not (tmp_path / DIRECTORY).exists()
            await made.end_all(system.registry)
            assert await system.list() == ()


PROGRAM = """
import signal, sys, trio, agentiso
from pathlib import Path
async def stay():
    async with agentiso.open_system(agentiso.Settings(state_dir=Path(sys.argv[1]))):
        try:
            print("open", flush=True)
            await trio.sleep_forever()
        finally:
            print("cleaned", flush=True)
async def stay_until_told():
    with trio.open_signal_receiver(signal.SIGTERM) as told:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stay)
            await told.__anext__()
            print("its own", flush=True)
            nursery.cancel_scope.cancel()
    sys.exit(9)
trio.run(stay_until_told if len(sys.argv) > 2 else stay)
"""


@pytest.mark.parametrize(("arguments", "said", "status"), [([], [], -signal.SIGTERM), (["x"], ["its own"], 9)])
async def test_sigterm_ends_a_program_in_order_unless_it_has_its_own_way(
    tmp_path: Path, arguments: list[str], said: list[str], status: int
) -> None:
    with trio.fail_after(LIMIT_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", PROGRAM, str(tmp_path), *arguments], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        async with process.stdout as stdout:
            told = bytes(await stdout.receive_some())
            process.send_signal(signal.SIGTERM)
            while data := await stdout.receive_some():
                told += data
        assert told.decode().split("\n")[:-1] == ["open", *said, "cleaned"]
        assert await process.wait() == status
        if not arguments:
            assert (tmp_path / "lock").read_text() == ""
