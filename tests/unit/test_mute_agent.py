"""The real guest agent, stopped like one that a guest's own processes starve: nobody waits for it without end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MemorySendStream, memory_stream_pair

from actors.machine.guest import calls, files, jobs, pulse
from actors.machine.guest.client import GuestClient
from actors.machine.guest.pulse import Patience
from actors.machine.guest.sender import FrameSender
from actors.model.errors import GuestBroken
from actors.model.guest import CommandSpec
from tests.unit.test_guest_agent import KEY, stream_of

LIMIT_S = 60
MOST = 10**15
SHORT_S = 2.0
"""Far longer than a guest that lives needs for an answer, on a busy host too."""


@attrs.frozen
class Agent:
    client: GuestClient
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    for name, seconds in (("QUIET_S", 0.1), ("PING_S", 0.1), ("NOTED_S", 0.1)):
        monkeypatch.setattr(pulse, name, seconds)
    monkeypatch.setattr(files, "Patience", lambda: Patience(SHORT_S))
    monkeypatch.setattr(jobs, "Patience", lambda mute_s=SHORT_S, at_least_s=0.0: Patience(SHORT_S, at_least_s))
    ours, theirs = socket.socketpair()
    key = tmp_path / "key"
    key.write_bytes(KEY)
    argv = [sys.executable, "-m", "guest.agent", "--channel", "fd", "--fd", str(theirs.fileno()), "--dry-identity"]
    process = subprocess.Popen([*argv, "--key-file", str(key)], pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL)
    theirs.close()
    try:
        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                client = await GuestClient.open(nursery, stream_of(ours), KEY)
                yield Agent(client, process)
                await client.aclose()
    finally:
        ours.close()
        process.kill()
        process.wait(10)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(100_000)


async def test_an_upload_to_a_hung_guest_is_cancelled_at_once_and_the_stream_is_not_spoiled(
    agent: Agent, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    agent.stop()
    with trio.move_on_after(0.2) as scope:
        await agent.client.files.write(str(target), endless(), max_bytes=MOST)
    assert scope.cancelled_caught
    # A cancelled upload tells the guest so, for which it waits a moment.
    assert trio.current_time() - scope.deadline < files.GIVE_UP_S + 2
    agent.go_on()
    await agent.client.ping()
    assert target.read_text() == "before"
    assert await agent.client.files.write(str(target), b"after", max_bytes=MOST) == 5
    assert target.read_text() == "after"


async def test_closing_the_channel_of_a_hung_guest_does_not_wait_for_an_upload(agent: Agent, tmp_path: Path) -> None:
    agent.stop()
    async with trio.open_nursery() as nursery:

        async def upload() -> None:
            with pytest.raises(GuestBroken):
                await agent.client.files.write(str(tmp_path / "target"), endless(), max_bytes=MOST)

        nursery.start_soon(upload)
        with trio.move_on_after(0.1):
            await trio.sleep_forever()
        with trio.fail_after(files.GIVE_UP_S + 2):
            await agent.client.aclose()


def works(tmp_path: Path) -> dict[str, Callable[[GuestClient], Awaitable[object]]]:
    async def take(_piece: bytes) -> None:
        await trio.lowlevel.checkpoint()

    path = str(tmp_path / "file")
    return {
        "read": lambda client: client.files.read(path),
        "list": lambda client: client.files.list(str(tmp_path)),
        "stream": lambda client: client.files.stream(path, take, max_bytes=MOST),
        "write": lambda client: client.files.write(path, endless(), max_bytes=MOST),
        "exec without limit": lambda client: client.jobs.exec(CommandSpec("true")),
        "exec": lambda client: client.jobs.exec(CommandSpec("true", timeout_s=0.2)),
        "start": lambda client: client.jobs.start(CommandSpec("true", timeout_s=0.2)),
        "follow": lambda client: client.jobs.follow("job", lambda _stream, _data: None),
        "kill": lambda client: client.jobs.kill("job", wait_s=0.1),
        "feed": lambda client: client.jobs.feed("job", b"x", wait_s=0.1),
        "poll": lambda client: client.jobs.read("job", wait_s=0.1),
    }


@pytest.mark.parametrize("work", works(Path("/")))
async def test_what_has_no_limit_of_its_own_ends_when_the_guest_goes_mute(
    agent: Agent, tmp_path: Path, work: str
) -> None:
    agent.stop()
    with trio.fail_after(LIMIT_S), pytest.raises(GuestBroken, match="no sign of life for"):
        await works(tmp_path)[work](agent.client)
    since = agent.client.mute_since
    assert since is not None
    assert 0 < time.time() - since < LIMIT_S
    agent.go_on()
    await agent.client.ping()
    assert agent.client.mute_since is None


async def test_a_followed_command_with_a_time_limit_is_given_up_with_a_guest_that_goes_mute_under_way(
    agent: Agent,
) -> None:
    job = await agent.client.jobs.start(CommandSpec("echo begun; exec sleep 600", timeout_s=1.0))
    began, came = trio.current_time(), trio.Event()
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            with pytest.raises(GuestBroken, match="no sign of life"):
                await agent.client.jobs.follow(job.job_id, lambda _stream, _data: came.set())

        nursery.start_soon(follow)
        await came.wait()
        agent.stop()
    assert 1.0 <= trio.current_time() - began < LIMIT_S
    agent.go_on()
    await agent.client.jobs.kill(job.job_id)


async def test_a_consumer_that_is_slow_here_is_not_held_against_the_guest(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    waited = False

    async def take(_piece: bytes) -> None:
        nonlocal waited
        if not waited:
            waited = True
            await trio.sleep(2 * SHORT_S)

    found = await agent.client.files.stream(str(tmp_path / "big"), take, max_bytes=MOST)
    assert found.size_bytes == 3_000_000


async def test_a_producer_that_is_slow_here_is_not_held_against_the_guest(agent: Agent, tmp_path: Path) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"one "
        await trio.sleep(2 * SHORT_S)
        yield b"two"

    assert await agent.client.files.write(str(tmp_path / "file"), slow(), max_bytes=MOST) == 7


async def test_a_long_silent_command_of_a_guest_that_lives_is_waited_for(agent: Agent) -> None:
    result = await agent.client.jobs.exec(CommandSpec(f"sleep {2 * SHORT_S}; echo done"))
    assert result.stdout == b"done\n"


# -- the sender


async def test_frames_that_were_begun_are_finished_without_their_senders_and_never_mixed() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    frames = [bytes([number]) * 300_000 for number in range(1, 4)]
    with theirs, trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            sender = FrameSender(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), lambda: None)
            with trio.move_on_after(0.05) as first:
                await sender.send(nursery, frames[0])
            with trio.move_on_after(0.05) as second:
                # It never began.
                await sender.send(nursery, frames[1])
            assert first.cancelled_caught
            assert second.cancelled_caught
            got = bytearray()
            reader = trio.socket.from_stdlib_socket(theirs.dup())

            async def read() -> None:
                while len(got) < 600_000:
                    got.extend(await reader.recv(65536))

            nursery.start_soon(read)
            await sender.send(nursery, frames[2])
        reader.close()
        ours.close()
    assert bytes(got) == frames[0] + frames[2]


async def test_a_sender_that_is_given_up_lets_all_go_who_wait_for_it() -> None:
    ours, theirs = socket.socketpair()
    failed = 0
    with ours, theirs, trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            sender = FrameSender(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), lambda: None)

            async def send(frame: bytes) -> None:
                nonlocal failed
                with pytest.raises(trio.BrokenResourceError):
                    await sender.send(nursery, frame)
                failed += 1

            for _ in range(3):
                nursery.start_soon(send, bytes(3_000_000))
            await trio.testing.wait_all_tasks_blocked()
            sender.give_up()
        assert failed == 3


async def test_a_stream_without_a_socket_is_sent_to_as_well() -> None:
    ours, theirs = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        sender = FrameSender(ours, lambda: None)
        await sender.send(nursery, b"frame")
        assert await theirs.receive_some() == b"frame"
        assert isinstance(ours.send_stream, MemorySendStream)
        await ours.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await sender.send(nursery, b"frame")


def test_small_requests_have_a_limit_of_their_own() -> None:
    assert calls.REPLY_LIMIT_S <= pulse.STALL_S
