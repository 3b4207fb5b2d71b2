"""From what is typed to the first answer: whatever is in the way is told in a line or two, and never as a traceback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from agentiso.client.dialling import _not_started
from agentiso.protocol.places import LOG
from tests.machines import ARGV

LIMIT_S = 120
ATTACHED = """
import agentiso, trio
async def main():
    async with agentiso.open_system(attach=True) as system:
        await system.list()
trio.run(main)
"""
SLOW = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "trio":
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
sys.argv = ["agentiso", "list"]
import runpy
runpy.run_module("agentiso.cli", run_name="__main__")
"""


async def run(state_dir: object, *words: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "AGENTISO_STATE_DIR": str(state_dir)}
    return await trio.run_process(
        [*ARGV, *words], env=environment, check=False, capture_stdout=True, capture_stderr=True
    )


@pytest.mark.parametrize(("place", "why"), [("file", "Not a directory"), ("/proc/x", "No such file or directory")])
async def test_a_state_directory_that_cannot_be_one_is_told_of_as_such(tmp_path: Path, place: str, why: str) -> None:
    (tmp_path / "file").write_text("")
    state_dir = tmp_path / place
    with trio.fail_after(LIMIT_S):
        for words in (["list"], ["daemon"], ["daemon", "restart"]):
            done = await run(state_dir, *words)
            said = done.stderr.decode()
            assert done.returncode == 1, words
            assert f"{state_dir} cannot be the state directory: " in said, words
            assert why in said or "File exists" in said, words
            assert "Traceback" not in said, words


@pytest.mark.parametrize(
    "words", [("stop", "--wait", "nan"), ("restart", "--wait=-1"), ("--http", "x"), ("--http=:1",)]
)
async def test_a_number_or_address_that_is_none_is_misuse(tmp_path: Path, words: tuple[str, ...]) -> None:
    with trio.fail_after(LIMIT_S):
        done = await run(tmp_path, "daemon", *words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr.decode()


async def test_where_http_cannot_be_served_who_started_the_supervisor_is_told_why_once(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / LOG).write_text("error: Something of old.\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        config.write_text(f'[http]\nbind = "{bind}"\n')
        with trio.fail_after(LIMIT_S):
            done = await run(tmp_path / "state", "--config", str(config), "list")
    said = done.stderr.decode()
    assert done.returncode == 1
    assert said.startswith(f"error: The supervisor did not start: HTTP cannot be served on {bind}: ")
    assert "Address already in use" in said
    assert said.count("\n") == 1
    assert "nursery" not in said


def test_of_a_supervisor_that_did_not_start_only_its_own_whole_lines_are_shown(tmp_path: Path) -> None:
    log = tmp_path / LOG
    log.write_text("of old\n")
    begin = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"line {number} {'x' * 90}\n" for number in range(100))
    shown = _not_started(log, begin).message.splitlines()
    assert shown[0] == "The supervisor did not start. It wrote last:"
    assert shown[1].startswith("line ")
    assert shown[-1].startswith("line 99 ")
    with log.open("a") as file:
        file.write("Traceback\nerror: It is so.\nDo this.\n")
    assert _not_started(log, begin).message == "The supervisor did not start: It is so.\nDo this."


def test_an_interruption_while_python_still_imports_ends_a_command_without_a_word() -> None:
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        assert process.stderr.read() == b""


async def test_a_program_that_started_a_supervisor_ends_without_a_warning(tmp_path: Path) -> None:
    environment = {**os.environ, "AGENTISO_STATE_DIR": str(tmp_path)}
    argv = [sys.executable, "-X", "dev", "-c", ATTACHED]
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process(argv, env=environment, check=False, capture_stderr=True)
        assert (await run(tmp_path, "daemon", "stop")).returncode == 0
    assert done.returncode == 0
    assert b"subprocess" not in done.stderr
