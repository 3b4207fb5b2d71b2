"""The real guest agent, run as a process of this host over a socket pair, and the host's client for it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio

from actors.machine.guest.client import GuestClient
from actors.machine.guest.identity import Identity
from actors.model.errors import GuestBroken, GuestRefused
from actors.model.guest import CommandSpec
from guest.handshake import token
from guest.wire import Data, encode
from tests.processes import until_ended

KEY = bytes(range(32))
LIMIT_S = 60


@asynccontextmanager
async def running_agent(tmp_path: Path) -> AsyncIterator[socket.socket]:
    """Run an agent and yield our end of its channel."""
    ours, theirs = socket.socketpair()
    key = tmp_path / "key"
    key.write_bytes(KEY)
    fd = theirs.fileno()
    argv = [sys.executable, "-m", "guest.agent", "--channel", "fd", "--fd", str(fd), "--key-file", str(key)]
    process = subprocess.Popen([*argv, "--dry-identity"], pass_fds=[fd], stdout=subprocess.DEVNULL)
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.kill()
        process.wait(10)


def stream_of(channel: socket.socket) -> trio.SocketStream:
    """A stream of its own over a duplicate, so that several connections can follow each other."""
    return trio.SocketStream(trio.socket.from_stdlib_socket(channel.dup()))


@asynccontextmanager
async def connected(tmp_path: Path) -> AsyncIterator[GuestClient]:
    async with running_agent(tmp_path) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            client = await GuestClient.open(nursery, stream_of(channel), KEY)
            yield client
            await client.aclose()


async def test_a_command_gives_its_output_and_exit_status(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        result = await client.jobs.exec(CommandSpec("echo out; echo err >&2; exit 3"))
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")


async def test_megabytes_on_both_streams_are_drained_and_only_the_reply_is_cut(tmp_path: Path) -> None:
    script = "head -c 3000000 /dev/zero | tr '\\0' a; head -c 3000000 /dev/zero | tr '\\0' b >&2"
    async with connected(tmp_path) as client:
        result = await client.jobs.exec(CommandSpec(script), max_output_bytes=1000)
    assert (result.stdout_bytes, result.stderr_bytes) == (3_000_000, 3_000_000)
    assert (result.stdout, result.stderr) == (b"a" * 1000, b"b" * 1000)


async def test_exec_returns_although_a_grandchild_holds_the_pipes(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        result = await client.jobs.exec(CommandSpec("sleep 300 & echo $!"))
        assert result.exit_code == 0
        os.kill(int(result.stdout), 9)


async def test_the_time_limit_ends_the_whole_process_group_and_says_so(tmp_path: Path) -> None:
    # Nobody can say how far the shell gets in that time, so what it started is known by a name of its own.
    link = tmp_path / "sleep-of-this-test"
    link.symlink_to(shutil.which("sleep") or "")
    async with connected(tmp_path) as client:
        result = await client.jobs.exec(CommandSpec(f"{link} 300 & wait", timeout_s=0.5))
        assert result.timed_out
        assert "killed" in result.note
        with trio.fail_after(LIMIT_S):
            while running(str(link)):
                await trio.sleep(0.01)


async def test_cancelling_a_call_kills_its_process_group(tmp_path: Path) -> None:
    pid = 0
    async with connected(tmp_path) as client:
        with trio.CancelScope() as scope:

            def seen(_stream: int, data: bytes) -> None:
                nonlocal pid
                pid = int(data)
                scope.cancel()

            await client.jobs.exec(CommandSpec("echo $$; sleep 300"), on_output=seen)
        assert scope.cancelled_caught
        await until_ended(pid)


def running(name: str) -> list[str]:
    """Return the processes whose program or first argument has this name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if name.encode() in path.read_bytes().split(b"\0")[:1]:
                found.append(path.parent.name)
    return found


async def test_twenty_commands_run_at_once(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        seen: dict[int, bytes] = {}

        async def one(number: int) -> None:
            seen[number] = (await client.jobs.exec(CommandSpec(f"echo {number}"))).stdout

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
    assert seen == {number: f"{number}\n".encode() for number in range(20)}


@pytest.mark.parametrize("size", [0, 5, 5_000_000])
async def test_a_file_comes_back_as_it_was_written(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "made" / "file"
    async with connected(tmp_path) as client:
        assert await client.files.write(str(path), content, 0o750, max_bytes=10**9) == size
        read = await client.files.read(str(path))
        listed = await client.files.list(str(path.parent))
    assert read.content == content
    assert path.stat().st_mode & 0o777 == 0o750
    assert [(entry.name, entry.kind, entry.size_bytes) for entry in listed] == [("file", "file", size)]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/no/such/file", "not_found"),
        ("/", "is_a_directory"),
        ("relative", "invalid_request"),
        ("/dev/zero", "invalid_request"),
    ],
)
async def test_an_unreadable_path_is_refused_with_its_reason(tmp_path: Path, path: str, code: str) -> None:
    async with connected(tmp_path) as client:
        with pytest.raises(GuestRefused) as caught:
            await client.files.read(path)
    assert caught.value.facts["guest_code"] == code


async def test_a_host_without_the_key_is_never_answered(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as channel, trio.open_nursery() as nursery:
        with trio.move_on_after(0.5) as scope:
            await GuestClient.open(nursery, stream_of(channel), bytes(32))
        assert scope.cancelled_caught


async def test_a_new_host_connection_takes_over_in_the_middle_of_a_frame(tmp_path: Path) -> None:
    """As after a fork: the guest's stream goes on where another connection stopped."""
    async with running_agent(tmp_path) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            first = await GuestClient.open(nursery, stream_of(channel), KEY)
            nursery.start_soon(outlive, first)
            await first.ping()
            await first.aclose()
            channel.sendall(encode(Data(9, 0, b"x" * 5000))[:700])
            second = await GuestClient.open(nursery, stream_of(channel), KEY)
            assert (await second.jobs.exec(CommandSpec("echo again"))).stdout == b"again\n"
            await second.aclose()


async def outlive(client: GuestClient) -> None:
    with pytest.raises(GuestBroken):
        await client.jobs.exec(CommandSpec("read what_nobody_says", stdin=True, timeout_s=LIMIT_S))


async def test_the_agent_reports_the_nonce_it_was_given_and_takes_the_new_key(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            client = await GuestClient.open(nursery, stream_of(channel), KEY)
            new_key = b"k" * 32
            first = await client.identify(identity(nonce=b"a" * 16, key=new_key))
            await client.aclose()
            client = await GuestClient.open(nursery, stream_of(channel), new_key)
            second = await client.identify(identity(nonce=b"b" * 16, key=new_key))
            await client.aclose()
    assert (first.previous_nonce, first.generation) == (None, 0)
    assert (second.previous_nonce, second.generation) == ((b"a" * 16).hex(), 1)


def identity(*, nonce: bytes, key: bytes) -> Identity:
    return Identity("epoch", 1, bytes(64), "name", nonce, key, "0" * 32, None)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x02{]",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x00",
        b"\x00\x00\x00\x02\x00\x00",
    ],
)
async def test_a_guest_that_speaks_nonsense_breaks_only_its_own_client(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with trio.open_nursery() as nursery:
            client = GuestClient(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), nursery)
            nursery.start_soon(client._read)
            theirs.sendall(garbage)
            with trio.fail_after(LIMIT_S), pytest.raises(GuestBroken, match="unknown"):
                await client.jobs.exec(CommandSpec("true", timeout_s=1))
            await client.aclose()


def test_the_token_is_as_unpredictable_as_the_key() -> None:
    assert token(KEY) != token(bytes(32))
    assert len(token(KEY)) == 32
