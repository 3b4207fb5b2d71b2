"""The library's and the supervisor's ways to a job's output, over the real guest agent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from trio.testing import memory_stream_pair

from actors.machine.guest.client import GuestClient
from actors.model.guest import CommandSpec
from actors.model.settings import Audit
from actors.workspace import job_messages
from agentiso.access.audit import AuditLog, read_last
from agentiso.library.jobs import Jobs
from agentiso.library.system import System
from agentiso.protocol.framed import Framed
from agentiso.supervisor.live import serve_live
from guest.wire import Data, Message
from tests.processes import until_ended
from tests.unit.test_guest_agent import connected

LIMIT_S = 30


class Guest:
    """Stands in for the supervisor: hands the messages to the guest itself."""

    id, name = "0123", "any"

    def __init__(self, client: GuestClient) -> None:
        self._client = client
        self.jobs = Jobs(cast("Any", self))

    async def ask(self, message: job_messages.JobWork) -> Any:
        job_messages.check(message)
        return await job_messages.work(self._client, message)

    async def get(self, _workspace: str) -> Guest:
        await trio.lowlevel.checkpoint()
        return self


@asynccontextmanager
async def attached(tmp_path: Path) -> AsyncIterator[tuple[Guest, Framed]]:
    """Yield a guest, and a live connection that has yet to say what it wants."""
    async with connected(tmp_path) as client:
        guest, (ours, theirs) = Guest(client), memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_live, cast("System", guest), theirs, AuditLog(tmp_path, Audit()))
            with trio.fail_after(LIMIT_S):
                yield guest, Framed(ours)
                await ours.aclose()


async def everything(peer: Framed) -> tuple[bytes, dict[str, Any]]:
    """Return all output and the last message."""
    output = b""
    while (event := await peer.receive()) is not None:
        if isinstance(event, Data):
            output += event.payload
        elif "job" not in event.body:
            return output, event.body
    raise AssertionError("the connection ended before it said how the job did")


async def test_output_can_be_followed_piece_by_piece_by_a_slow_reader(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        jobs = Guest(client).jobs
        job = await jobs.start("head -c 3000000 /dev/zero; echo x >&2")
        sizes = {1: 0, 2: 0}
        async with jobs.follow(job.job_id) as output:
            async for event in output:
                sizes[event.stream] += len(event.data)
                await trio.lowlevel.checkpoint()
        assert sizes == {1: 3_000_000, 2: 2}
        assert output.job is not None
        assert output.job.exit_code == 0


async def test_a_live_connection_carries_input_output_and_the_end(tmp_path: Path) -> None:
    async with attached(tmp_path) as (_, peer):
        await peer.send(Message({"workspace": "any", "command": "wc -c; exit 3", "stdin": True}))
        for _ in range(4):
            await peer.send(Data(0, 0, b"x" * 50_000))
        await peer.send(Data(0, 0, b""))
        output, said = await everything(peer)
    assert (output, said["end"]["exit_code"], said["lost"]) == (b"200000\n", 3, 0)


async def test_a_client_that_goes_leaves_its_job_running(tmp_path: Path) -> None:
    async with attached(tmp_path) as (guest, peer):
        await peer.send(Message({"workspace": "any", "command": "echo $$; sleep 1; exit 3"}))
        named = await peer.receive()
        assert isinstance(named, Message)
        assert isinstance(await peer.receive(), Data)
        await peer._stream.aclose()
        assert (await guest.jobs.wait(named.body["job"], wait_s=LIMIT_S)).job.exit_code == 3


async def test_a_start_that_is_cancelled_before_its_answer_came_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, started = GuestClient.call, trio.Event()

    async def unanswered(calls: GuestClient, body: dict[str, Any], *rest: Any, **options: Any) -> Any:
        answer = await call(calls, body, *rest, **options)
        if body["op"] == "job_start":
            started.set()
            await trio.sleep_forever()
        return answer

    monkeypatch.setattr(GuestClient, "call", unanswered)
    async with connected(tmp_path) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.jobs.start, CommandSpec("exec sleep 300"))
            await started.wait()
            nursery.cancel_scope.cancel(reason="the asker gave up")
        assert [job.running for job in (await client.jobs.list()).jobs] == [False]


async def test_a_terminal_whose_person_goes_is_hung_up(tmp_path: Path) -> None:
    async with attached(tmp_path) as (_, peer):
        await peer.send(
            Message({"workspace": "any", "command": "echo $$; sleep 300; true", "terminal": [24, 80], "stdin": True})
        )
        await peer.receive()
        shown = await peer.receive()
        assert isinstance(shown, Data)
        await peer._stream.aclose()
        await until_ended(int(shown.payload))


async def test_what_a_job_has_written_so_far_is_read_without_waiting(tmp_path: Path) -> None:
    async with attached(tmp_path) as (guest, peer):
        job = await guest.jobs.start("head -c 200000 /dev/zero; echo done >&2; exec sleep 300")
        await guest.jobs.wait(job.job_id, text="done", wait_s=LIMIT_S)
        await peer.send(Message({"workspace": "any", "job": job.job_id}))
        output, said = await everything(peer)
        assert (len(output), said["end"]["running"]) == (200_005, True)
        await guest.jobs.kill(job.job_id)


async def test_all_that_is_kept_of_a_job_can_be_had_as_text(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        jobs = Guest(client).jobs
        job = await jobs.start("head -c 2000000 /dev/zero | tr '\\0' a; echo end; echo error >&2")
        await jobs.wait(job.job_id, wait_s=LIMIT_S)
        text = await jobs.text(job.job_id)
    assert "bytes of it are not kept" in text
    assert "aaaend\n" in text
    assert text.endswith("--- stderr\nerror\n")


async def test_an_unknown_job_is_an_error_of_the_live_connection(tmp_path: Path) -> None:
    async with attached(tmp_path) as (_, peer):
        await peer.send(Message({"workspace": "any", "job": "nobody", "follow": True}))
        _, said = await everything(peer)
    assert "no job 'nobody'" in said["error"]["message"]


async def test_a_call_that_fails_as_nobody_has_foreseen_is_not_called_cancelled(tmp_path: Path) -> None:
    class Broken:
        async def get(self, _workspace: str) -> Any:
            raise KeyError("bug")

    ours, theirs = memory_stream_pair()
    await Framed(ours).send(Message({"workspace": "any", "command": "true"}))
    with trio.fail_after(LIMIT_S), pytest.raises(KeyError):
        await serve_live(cast("System", Broken()), theirs, AuditLog(tmp_path, Audit()))
    assert read_last(tmp_path, 1).lines[0]["outcome"] == "internal_error"


async def test_the_audit_log_tells_of_every_live_connection_and_how_it_ended(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [
        {"workspace": "any", "command": "export TOKEN=s3cret", "env": {"KEY": "s3cret"}},
        {"workspace": "any", "job": "nobody"},
        {"workspace": "any", "command": "true", "terminal": [24, 80]},
    ]
    for body in asked:
        async with attached(tmp_path) as (_, peer):
            await peer.send(Message(body))
            await everything(peer)
    async with attached(tmp_path) as (guest, peer):
        await peer.send(Message({"workspace": "any", "command": "exec sleep 300"}))
        named = await peer.receive()
        assert isinstance(named, Message)
        await peer._stream.aclose()
        await guest.jobs.kill(named.body["job"])
    assert "s3cret" not in (tmp_path / "audit.log").read_text()
    lines = read_last(tmp_path, 9).lines
    assert [(line["tool"], line["outcome"]) for line in lines] == [
        ("exec", "ok"),
        ("output", "guest_refused"),
        ("shell", "ok"),
        ("exec", "cancelled"),
    ]
    for line in lines:
        assert (line["session"], line["transport"], line["workspace"]) == ("cli", "attach", "any")
    assert lines[0]["arguments"]["command"] == "export TOKEN=***"
