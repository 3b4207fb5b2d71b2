"""What a real guest agent refuses and survives, and what its client makes of that: each with a next step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from actors.machine.guest.refusals import MISSING, REMEDIES, refusal
from actors.model.errors import ConsumerFailed, GuestRefused, InvalidArgument
from actors.model.guest import CommandSpec
from actors.workspace import file_messages, job_messages
from actors.workspace.file_messages import EditFile, ReadFile
from actors.workspace.job_messages import MAX_WORD_BYTES, Exec, SetEnv
from tests.unit.test_guest_agent import connected

LIMIT_S = 30
BEYOND = 2**63
"""The first number that no file has an offset of."""


@pytest.mark.parametrize(
    "body",
    [
        {"op": "file_read", "path": "{file}", "offset": BEYOND, "limit": 1},
        {"op": "file_read", "path": "{file}", "offset": 1e400},
        {"op": "job_start", "command": "true", "pty": {"rows": 10**6, "cols": 1}},
        {"op": "set_env", "vars": ["A"]},
        {"op": "job_start", "argv": ["echo", "\ud800"]},
    ],
    ids=lambda body: f"{body['op']} {len(str(body))}",
)
async def test_no_number_and_no_type_ends_the_agent(tmp_path: Path, body: dict[str, Any]) -> None:
    (tmp_path / "file").write_bytes(b"text")
    asked = {key: str(tmp_path / "file") if value == "{file}" else value for key, value in body.items()}
    with trio.fail_after(LIMIT_S):
        async with connected(tmp_path) as client:
            # What JSON has no word for is as little ours to send.
            with pytest.raises((GuestRefused, InvalidArgument)) as caught:
                await client.call(asked, lambda _stream, _data: None)
            assert caught.value.remedy
            await client.ping()


async def test_what_fails_to_take_data_fails_its_own_request_alone(tmp_path: Path) -> None:
    def fail(_stream: int, data: bytes) -> None:
        raise TypeError(f"cannot take {data!r}")

    with trio.fail_after(LIMIT_S):
        async with connected(tmp_path) as client, trio.open_nursery() as nursery:
            outcomes: list[bytes] = []

            async def other() -> None:
                outcomes.append((await client.jobs.exec(CommandSpec("read line; echo $line", stdin=True))).stdout)

            nursery.start_soon(other)
            with pytest.raises(ConsumerFailed, match="cannot take b'hello") as caught:
                await client.jobs.exec(CommandSpec("echo hello; exec sleep 600"), job_id="failing", on_output=fail)
            assert isinstance(caught.value.__cause__, TypeError)
            # Nobody waits for it any more.
            jobs = {job.command[:4]: job for job in (await client.jobs.list()).jobs}
            assert not jobs["echo"].running
            await client.jobs.feed(jobs["read"].job_id, b"on\n")
    assert outcomes == [b"on\n"]


async def test_what_does_not_fit_into_a_request_is_refused_with_a_way_out(tmp_path: Path) -> None:
    with trio.fail_after(LIMIT_S):
        async with connected(tmp_path) as client:
            with pytest.raises(InvalidArgument, match="exceeds 1048576") as caught:
                await client.jobs.set_env({"A": "x" * 2**20})
            assert "file_write" in caught.value.remedy
            await client.ping()


async def test_each_thing_that_is_missing_has_its_own_next_step(tmp_path: Path) -> None:
    remedies = set()
    with trio.fail_after(LIMIT_S):
        async with connected(tmp_path) as client:
            for work in (
                lambda: client.jobs.exec(CommandSpec(("no-such-program",))),
                lambda: client.jobs.kill("nojob"),
                lambda: client.files.read("/no/such/file"),
            ):
                with pytest.raises(GuestRefused) as caught:
                    await work()
                remedies.add(caught.value.remedy)
            shell = await client.jobs.exec(CommandSpec("no-such-program"))
    assert remedies == {REMEDIES[code] for code in ("no_such_program", "no_such_job", "not_found")}
    assert shell.exit_code == 127


async def test_an_edit_that_is_refused_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("a a")
    with trio.fail_after(LIMIT_S):
        async with connected(tmp_path) as client:
            for old, said in (("a", "occurs 2 times in {}; .* replace_all"), ("b", "does not occur in {}; read")):
                with pytest.raises(GuestRefused, match=said.format(path)):
                    await client.files.edit(str(path), old, "c", replace_all=False)


@pytest.mark.parametrize("said", [None, "no", {}, {"code": ["x"], "message": "y" * 10**6}, {"code": "made_up"}])
@pytest.mark.parametrize("op", [*MISSING, "file_read"])
def test_whatever_a_guest_refuses_with_is_bounded_and_has_a_next_step(op: str, said: Any) -> None:
    error = refusal(op, said)
    assert error.remedy
    assert len(str(error)) < 1500


@pytest.mark.parametrize(
    "message",
    [
        ReadFile("/f", offset=BEYOND),
        ReadFile("/f", limit=BEYOND),
        ReadFile("/f", offset=-1),
        EditFile("/f", "", "x"),
        Exec(CommandSpec("x" * (MAX_WORD_BYTES + 1))),
        Exec(CommandSpec(("echo", "é" * (MAX_WORD_BYTES // 2 + 1)))),
        Exec(CommandSpec("true", env={"A": "x" * MAX_WORD_BYTES})),
        SetEnv({"A": "x" * MAX_WORD_BYTES}),
        Exec(CommandSpec("true\0")),
        Exec(CommandSpec(())),
        Exec(CommandSpec("true", workdir="relative")),
        Exec(CommandSpec("true", terminal=(0, 80))),
    ],
    ids=lambda message: repr(message)[:60],
)
def test_what_no_guest_can_do_is_refused_on_the_host(message: ReadFile | EditFile | Exec | SetEnv) -> None:
    with pytest.raises(InvalidArgument) as caught:
        job_messages.check(message) if isinstance(message, Exec | SetEnv) else file_messages.check(message)
    assert caught.value.remedy
    assert len(str(caught.value)) < 500


def test_the_longest_command_is_one_that_a_kernel_takes() -> None:
    job_messages.check(Exec(CommandSpec("x" * MAX_WORD_BYTES)))
