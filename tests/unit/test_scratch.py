"""State directories of one run: what a killed one leaves is ended by the next one, and nothing else is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import imagebuild
from actors.machine.qemu.process import find_machines
from actors.model.settings import Settings
from agentiso.cli.common import ending_signals
from agentiso.library import scratch
from agentiso.library.opening import open_system
from agentiso.library.scratch import OWNER, PREFIX, open_scratch

LIMIT_S = 60
RUN = """
import sys, trio, imagebuild
from pathlib import Path
from actors.model.settings import Settings
from agentiso.library.opening import open_system
from agentiso.library.scratch import open_scratch

async def main():
    async with open_scratch(Settings(state_dir=Path(sys.argv[1]))) as own, open_system(own):
        imagebuild.note_user(own.images, own.state_dir)
        print(own.state_dir, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "state" / "images").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return Settings(state_dir=tmp_path / "state")


def runs() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))


@contextmanager
def run(settings: Settings) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Begin a run in a process of its own; yield its directory and what kills it."""
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(settings.state_dir)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None

    def kill() -> None:
        process.kill()
        process.wait()

    try:
        yield Path(process.stdout.readline().strip()), kill
    finally:
        kill()
        process.stdout.close()


@contextmanager
def machine(directory: Path) -> Iterator[None]:
    """A process that looks like a machine of a directory."""
    console = f"file,id=console,path={directory / 'machines' / 'one' / 'console'},append=on"
    process = subprocess.Popen(
        [sys.executable, "-c", "input()", "-uuid", "1", "-chardev", console], stdin=subprocess.PIPE
    )
    try:
        while not list(find_machines(directory)):
            os.sched_yield()
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


async def test_what_a_killed_run_left_is_ended_by_the_next_one(settings: Settings) -> None:
    with trio.fail_after(LIMIT_S), run(settings) as (left, kill), machine(left):
        assert imagebuild.other_users(settings.images, settings.state_dir) == [left]
        async with open_scratch(settings) as own:
            # Its owner lives.
            assert set(runs()) == {left, own.state_dir}
        assert len(list(find_machines(left))) == 1
        kill()
        async with open_scratch(settings) as own, open_system(own):
            assert runs() == [own.state_dir]
            assert list(find_machines(left)) == []
        assert runs() == []
        assert imagebuild.other_users(settings.images, settings.state_dir) == []


async def test_a_directory_in_which_a_machine_does_not_end_stays_and_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def does_nothing(*_directories: Path) -> None:
        await trio.lowlevel.checkpoint()

    with trio.fail_after(LIMIT_S):
        async with open_scratch(settings) as own:
            with monkeypatch.context() as patch:
                patch.setattr(scratch, "end_machines", does_nothing)
                async with open_scratch(settings) as other:
                    stuck = machine(other.state_dir)
                    stuck.__enter__()
        assert other.state_dir.is_dir()
        assert not own.state_dir.exists()
        assert f"{other.state_dir} stays until the next run" in caplog.text
        async with open_scratch(settings):
            assert not other.state_dir.exists()
        stuck.__exit__(None, None, None)


async def test_what_is_not_proven_to_be_of_a_run_that_has_ended_is_left_alone(settings: Settings) -> None:
    directory = Path(tempfile.gettempdir())
    for name in ("persons", "starting"):
        (directory / f"{PREFIX}{name}").mkdir()
    (directory / f"{PREFIX}starting" / f".{OWNER}").touch()
    (directory / f"{PREFIX}file").touch()
    (directory / f"{PREFIX}link").symlink_to(directory / f"{PREFIX}persons")
    before = set(runs())
    with trio.fail_after(LIMIT_S):
        async with open_scratch(settings):
            pass
    assert set(runs()) == before


@pytest.mark.parametrize("ignored", [True, False])
def test_a_hangup_ends_a_command_unless_it_was_started_to_ignore_that(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        assert (signal.SIGHUP in ending_signals()) is not ignored
    finally:
        signal.signal(signal.SIGHUP, before)
