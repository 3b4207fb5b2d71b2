"""Jobs of the real guest agent, run as a process of this host over a socket pair."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from actors.machine.guest.client import GuestClient
from actors.machine.guest.jobs import GuestJobs, Window
from actors.model.errors import GuestRefused, RemoteProtocolError
from actors.model.guest import CommandSpec
from agentiso.mcp.tools.output import cut, whole
from guest.ring import RING_BYTES, SLACK_BYTES, Ring
from tests.processes import until_ended
from tests.unit.test_guest_agent import KEY, connected, identity, running_agent, stream_of

LIMIT_S = 60


@asynccontextmanager
async def jobs_of(tmp_path: Path) -> AsyncIterator[GuestJobs]:
    async with connected(tmp_path) as client:
        yield client.jobs


async def test_a_job_is_read_as_often_as_wanted_while_it_runs_and_after(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec("echo one; read line; echo $line >&2; exit 5", stdin=True))
        assert job.running
        first = await jobs.read(job.job_id, wait_s=LIMIT_S, eager=True)
        again = await jobs.read(job.job_id)
        assert first.stdout == again.stdout == b"one\n"
        assert first.job.running
        assert (await jobs.feed(job.job_id, b"two\n")).taken_bytes == 4
        ended = await jobs.read(job.job_id, cursors=first.cursors, wait_s=LIMIT_S)
        for _ in range(2):
            assert (ended.job.exit_code, ended.stdout, ended.stderr) == (5, b"", b"two\n")
            ended = await jobs.read(job.job_id, cursors=first.cursors)
        assert (ended.job.stdout_bytes, ended.job.stderr_bytes) == (4, 4)


async def test_a_wait_ends_when_the_text_appears_however_it_was_split(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec("printf rea; read a; printf dy; read b", stdin=True))
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                found = await jobs.read(job.job_id, wait_s=LIMIT_S, text="ready")
                assert found.matched
                assert (found.stdout, found.job.running) == (b"ready", True)

            nursery.start_soon(wait)
            await jobs.read(job.job_id, wait_s=LIMIT_S, eager=True)
            await jobs.feed(job.job_id, b"\n")
        late = await jobs.read(job.job_id, wait_s=0.1, text="never")
        assert (late.matched, late.job.running) == (False, True)
        await jobs.kill(job.job_id)


async def test_exec_yields_a_job_that_goes_on(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        result = await jobs.exec(CommandSpec("echo begun; read go; echo done", stdin=True), yield_s=0.2)
        assert result.running
        assert result.exit_code is None
        await jobs.feed(result.job_id, b"\n")
        rest = await jobs.read(result.job_id, cursors=(result.stdout_bytes, result.stderr_bytes), wait_s=LIMIT_S)
        assert (result.stdout + rest.stdout, rest.job.exit_code) == (b"begun\ndone\n", 0)


async def test_a_job_outlives_its_hosts_connection_and_no_byte_is_missing(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            first = await GuestClient.open(nursery, stream_of(channel), KEY)
            script = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); [ $i -eq 100 ] && read go; done"
            job = await first.jobs.start(CommandSpec(script, stdin=True))
            before = await first.jobs.read(job.job_id, text="line 50\n", wait_s=LIMIT_S)
            await first.jobs.feed(job.job_id, b"\n")
            await first.aclose()
            second = await GuestClient.open(nursery, stream_of(channel), KEY)
            output, cursors = before.stdout, before.cursors
            while True:
                piece = await second.jobs.read(job.job_id, cursors=cursors, wait_s=LIMIT_S, eager=True)
                output, cursors = output + piece.stdout, piece.cursors
                if not piece.job.running and cursors[0] == piece.job.stdout_bytes:
                    break
            await second.aclose()
    assert output == b"".join(b"line %d\n" % number for number in range(20000))


async def test_only_the_end_of_a_flood_is_kept_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec("head -c 5000000 /dev/zero | tr '\\0' a; printf end"))
        with trio.fail_after(LIMIT_S):
            ended = await jobs.read(job.job_id, wait_s=LIMIT_S, max_bytes=2 * RING_BYTES)
        assert ended.job.stdout_bytes == 5_000_003
        assert ended.lost[0] >= 5_000_003 - RING_BYTES - SLACK_BYTES
        last = await jobs.read(job.job_id, cursors=(5_000_000, 0))
        assert (last.stdout, last.lost) == (b"end", (0, 0))


async def test_a_follower_with_a_window_holds_the_command_up_and_misses_nothing(tmp_path: Path) -> None:
    size = 8_000_000
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec(f"head -c {size} /dev/zero"))
        window = Window(65536)
        received = unread = most = 0
        arrived = trio.Event()

        def take(_stream: int, data: bytes) -> None:
            nonlocal received, unread, most, arrived
            received, unread = received + len(data), unread + len(data)
            most = max(most, unread)
            arrived.set()

        async def consume() -> None:
            nonlocal unread, arrived
            while received < size:
                await arrived.wait()
                arrived = trio.Event()
                taken, unread = unread, 0
                await window.consumed(taken)

        with trio.fail_after(LIMIT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume)
                followed = await jobs.follow(job.job_id, take, window=window)
        assert (received, followed.lost) == (size, (0, 0))
        assert most <= 65536


def test_a_guest_that_sends_more_than_it_may_breaks_the_protocol() -> None:
    window = Window(1000)
    window.came(1000)
    with pytest.raises(RemoteProtocolError):
        window.came(1)


async def test_a_kill_is_confirmed_and_a_dead_or_unknown_job_is_said_to_be(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        started = await jobs.start(CommandSpec("sleep 300 & echo $!; wait"))
        named = await jobs.read(started.job_id, text="\n", wait_s=LIMIT_S)
        end = await jobs.kill(started.job_id)
        assert (end.signalled, end.gone, end.job.signal) == (True, True, signal.SIGKILL)
        assert "was sent" in end.job.note
        await until_ended(int(named.stdout))
        assert not (await jobs.kill(started.job_id)).signalled
        with pytest.raises(GuestRefused, match="no job 'nobody'"):
            await jobs.kill("nobody")


async def test_a_signal_that_is_handled_leaves_the_job_running(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec("trap 'echo caught' TERM; echo set; while :; do sleep 0.05; done"))
        await jobs.read(job.job_id, text="set", wait_s=LIMIT_S)
        end = await jobs.kill(job.job_id, signal.SIGTERM, wait_s=0.2)
        assert (end.signalled, end.gone, end.job.running) == (True, False, True)
        assert (await jobs.read(job.job_id, text="caught", wait_s=LIMIT_S)).matched
        await jobs.kill(job.job_id)


async def test_input_goes_to_its_end_and_a_command_that_does_not_read_says_how_much_it_took(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec("wc -c", stdin=True))
        assert (await jobs.feed(job.job_id, content, end=True)).taken_bytes == len(content)
        assert int((await jobs.read(job.job_id, wait_s=LIMIT_S)).stdout) == len(content)
        deaf = await jobs.start(CommandSpec("sleep 300", stdin=True))
        taken = await jobs.feed(deaf.job_id, content, wait_s=0.2)
        assert (0 < taken.taken_bytes < len(content), taken.closed) == (True, False)
        await jobs.kill(deaf.job_id)
        assert (await jobs.feed(deaf.job_id, b"more")).closed
        none = await jobs.start(CommandSpec("sleep 300"))
        with pytest.raises(GuestRefused, match="standard input is closed"):
            await jobs.feed(none.job_id, b"x")
        await jobs.kill(none.job_id)


async def test_a_terminal_has_its_size_its_interrupt_key_and_its_end_of_input(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        job = await jobs.start(CommandSpec("trap 'stty size; exit 7' INT; stty size; cat", terminal=(30, 90)))
        assert (await jobs.read(job.job_id, text="30 90", wait_s=LIMIT_S)).matched
        await jobs.resize(job.job_id, 40, 100)
        # Once the terminal's echo is followed by that of `cat`, it runs: a signal that finds the shell between fork and
        # exec would be lost with the copy that had the trap.
        await jobs.feed(job.job_id, b"here\n")
        assert (await jobs.read(job.job_id, text="here\r\nhere", wait_s=LIMIT_S)).matched
        await jobs.feed(job.job_id, b"\x03")
        ended = await jobs.read(job.job_id, wait_s=LIMIT_S)
        assert ended.job.exit_code == 7
        assert b"40 100" in ended.stdout
        reader = await jobs.start(CommandSpec("cat; tty", terminal=(24, 80)))
        await jobs.feed(reader.job_id, b"typed\n", end=True)
        ended = await jobs.read(reader.job_id, wait_s=LIMIT_S)
        assert ended.job.exit_code == 0
        assert b"/dev/pts/" in ended.stdout


async def test_finished_jobs_stay_until_released(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        done = await jobs.exec(CommandSpec("echo kept"))
        running = await jobs.start(CommandSpec("sleep 300"))
        assert [job.job_id for job in (await jobs.list()).jobs] == [done.job_id, running.job_id]
        with pytest.raises(GuestRefused, match="running"):
            await jobs.release(running.job_id)
        await jobs.release(done.job_id)
        with pytest.raises(GuestRefused, match="no job"):
            await jobs.read(done.job_id)
        await jobs.kill(running.job_id)


async def test_a_fork_renews_the_ids_of_jobs_and_a_restore_in_place_keeps_them(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(LIMIT_S):
            client = await GuestClient.open(nursery, stream_of(channel), KEY)
            mine = identity(nonce=b"a" * 16, key=KEY)
            await client.identify(mine)
            job = await client.jobs.start(CommandSpec("sleep 300"))
            done = await client.jobs.exec(CommandSpec("echo over"))
            same = await client.identify(mine)
            assert [(carried.job_id, carried.carried_from) for carried in same.jobs] == [(job.job_id, None)]
            forked = await client.identify(attrs.evolve(mine, machine_id="1" * 32))
            [carried] = forked.jobs
            assert (carried.carried_from, carried.command) == (job.job_id, "sleep 300")
            known = {known.carried_from: known.job_id for known in (await client.jobs.list()).jobs}
            assert set(known) == {job.job_id, done.job_id}
            assert not set(known) & set(known.values())
            assert (await client.jobs.read(known[done.job_id])).stdout == b"over\n"
            assert (await client.jobs.kill(carried.job_id)).gone
            await client.aclose()


async def test_variables_are_set_for_later_commands_and_a_calls_own_win(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        assert await jobs.set_env({"TOKEN": "secret", "OTHER": "1"}) == 2
        assert await jobs.set_env({"OTHER": None}) == 1
        show = "echo $TOKEN-$OTHER-$MINE"
        assert (await jobs.exec(CommandSpec(show))).stdout == b"secret--\n"
        assert (await jobs.exec(CommandSpec(show, env={"TOKEN": "own", "MINE": "m"}))).stdout == b"own--m\n"


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "LD_ANYTHING", "IFS", "ENV", "BASH_ENV", "a b", "", "A=B", "1A"]
)
async def test_a_variable_that_would_change_which_programs_run_is_refused_without_its_value(
    tmp_path: Path, name: str
) -> None:
    async with jobs_of(tmp_path) as jobs:
        for ask in (jobs.set_env({name: "a secret"}), jobs.exec(CommandSpec("true", env={name: "a secret"}))):
            with pytest.raises(GuestRefused) as refused:
                await ask
            assert "a secret" not in str(refused.value)


async def test_a_hundred_mebibytes_pass_through_agent_and_host_with_flat_memory(tmp_path: Path) -> None:
    async with jobs_of(tmp_path) as jobs:
        await jobs.exec(CommandSpec("true"))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result = await jobs.exec(CommandSpec("head -c 104857600 /dev/zero"), max_output_bytes=1000)
        assert result.stdout_bytes == 100 * 2**20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000, "KiB"


def test_a_ring_holds_the_end_of_its_stream_by_position() -> None:
    ring = Ring()
    for number in range(300_000):
        ring.add(b"%08d" % number)
    assert ring.end == 2_400_000
    assert RING_BYTES <= len(ring) <= RING_BYTES + SLACK_BYTES
    assert ring.read(ring.end - 8, 100) == b"00299999"
    assert ring.find(b"00299999", ring.end - 8)
    assert not ring.find(b"00299998", ring.end - 8)


def test_output_is_cut_between_characters_with_a_mark_that_says_how_to_read_on() -> None:
    text = "ä" * 100
    shown = cut(text.encode()[:25] + text.encode()[-25:], 200, job_id="ab12", stream="stdout")
    assert "\ufffd" not in shown
    assert "exec_poll job_id=ab12 stdout_cursor=24" in shown
    assert "152 of 200 bytes" in shown
    assert [whole(part) for part in (b"a\xc3", b"a\xc3\xa4", b"\xe2\x82", b"\xff\xff", b"")] == [1, 3, 0, 2, 0]
