"""The library's wire: everything that can be asked and answered is carried, whatever pieces it comes in."""

from __future__ import annotations

import collections.abc
import io
import json
import os
import tempfile
import types
import typing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Union

import attrs
import pytest
import trio
import trio.testing
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actors.machine.guest.jobs import Followed, Window
from actors.model import errors
from actors.model.errors import (
    AgentisoError,
    DeadlineExceeded,
    InvalidArgument,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    SupervisorGone,
)
from actors.model.guest import CommandSpec, Edited, FileContent, JobInfo
from actors.model.info import ForkedChild, ForkReport, ImportReport, NetworkInfo, Shape, WorkspaceInfo
from actors.model.settings import Audit, Settings
from actors.registry import messages as r
from actors.registry.ephemeral import DIRECTORY, Ephemeral
from actors.runtime import Actor, ActorRef, Mailbox, Message, Supervisor, open_plain_nursery
from actors.workspace import messages as w
from actors.workspace.file_messages import EditFile
from actors.workspace.job_messages import FollowJob, StartJob
from agentiso.access.audit import AuditLog, read_last
from agentiso.client.remote import Connection, open_remote
from agentiso.library.system import System
from agentiso.protocol import carry
from agentiso.protocol.carry import (
    LIVE,
    MESSAGES,
    answer_of,
    assemble,
    dismantle,
    hints_of,
    plain_error,
    plain_result,
    plain_settings,
    typed_error,
    typed_result,
    typed_settings,
    vocabulary,
)
from agentiso.protocol.frames import Ask, Bye, Called, Done, Piece, from_body, to_body
from agentiso.protocol.greeting import Greeting, OtherVersion
from agentiso.protocol.link import ROOM_BYTES
from agentiso.protocol.wire import MAX_JSON_BYTES, Codec, encode
from agentiso.supervisor import programs
from agentiso.supervisor.programs import serve_library

LIMIT_S = 20
REF = ActorRef[Any]("somebody", Mailbox())
WINDOW = Window(8)
ReadFile: Any = MESSAGES["ReadFile"]
WriteFile: Any = MESSAGES["WriteFile"]
FLOATS = st.floats(allow_nan=False)
INFO = WorkspaceInfo(
    workspace_id="1", name="one", state="running", image="base", image_digest="0", shape=Shape(),
    network=NetworkInfo("user", allow_internet=False), accelerator="tcg", channel="serial", created_at=0.0,
    started_by="restore", start_seconds=0.0,
)  # fmt: skip


def strategy_for(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a type, as annotations write it; live values are left out."""
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if origin in (Union, types.UnionType):
        data = [
            each for each in arguments if (typing.get_origin(each) or each) not in (*LIVE.values(), typing.BinaryIO)
        ]
        return st.one_of([strategy_for(each) for each in data])
    if origin is ActorRef:
        return st.just(REF)
    if attrs.has(origin):
        hints = typing.get_type_hints(origin)
        return st.builds(origin, **{f.alias: strategy_for(hints[f.name]) for f in attrs.fields(origin) if f.init})
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(strategy_for(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*map(strategy_for, arguments))
    if origin in (dict, collections.abc.Mapping):
        return st.dictionaries(*map(strategy_for, arguments), max_size=3)
    if origin in LIVE.values():
        return st.just(print if origin is collections.abc.Callable else WINDOW)
    simple = {float: FLOATS, str: st.text(max_size=9), bytes: st.binary(max_size=9), Path: st.just(Path("/a/b"))}
    return simple[origin] if origin in simple else st.from_type(origin)


def over_the_wire(body: Any) -> Any:
    codec = Codec(lambda _key: REF)
    codec.receive_data(encode({"body": body}, lambda _value: 1))
    received = codec.next_body()
    assert received is not None
    return received["body"]


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_every_message_arrives_as_it_was_sent(kind: type[Message[Any]]) -> None:
    @settings(max_examples=15, deadline=None, phases=[Phase.generate])
    @given(strategy_for(kind))
    def check(message: Message[Any]) -> None:
        fields, live = dismantle(message)
        assert assemble(kind.__name__, over_the_wire(fields), live) == message

    check()


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_every_answer_arrives_as_it_was_given(kind: type[Message[Any]]) -> None:
    @settings(max_examples=15, deadline=None, phases=[Phase.generate])
    @given(strategy_for(answer_of(kind)))
    def check(answer: Any) -> None:
        assert typed_result(kind, over_the_wire(plain_result(kind, answer))) == answer

    check()


@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_every_message_with_live_values_says_so_in_a_field_of_its_own(kind: type[Message[Any]]) -> None:
    def holds_live(hint: Any) -> bool:
        return any((typing.get_origin(each) or each) in LIVE.values() for each in (hint, *typing.get_args(hint)))

    def inner(hint: Any) -> list[Any]:
        if isinstance(hint, type) and attrs.has(hint):
            found = typing.get_type_hints(hint)
            return [found[f.name] for f in attrs.fields(hint)]
        return [] if isinstance(hint, list) else [each for arg in typing.get_args(hint) for each in inner(arg)]

    assert not any(holds_live(each) for hint in (*hints_of(kind).values(), answer_of(kind)) for each in inner(hint))


def test_settings_arrive_as_they_were() -> None:
    chosen = Settings(images_dir=Path("/images"))
    assert typed_settings(over_the_wire(plain_settings(chosen))) == chosen


@pytest.mark.parametrize("kind", [getattr(errors, name) for name in errors.__all__])
def test_every_error_is_raised_as_the_same_class(kind: type[AgentisoError]) -> None:
    sent = kind("It failed.", remedy="Do better.", path=Path("/x"), status=3, tail=b"\xff", many=(1, [None]))
    received = typed_error(over_the_wire(plain_error(sent)))
    assert type(received) is kind
    assert (str(received), received.code) == (str(sent), sent.code)
    assert received.facts == {"path": "/x", "status": 3, "tail": b"\xff", "many": [1, [None]]}


BODIES = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(max_size=50), lambda inner: st.lists(inner, max_size=3)
    ),
    max_size=4,
)


@given(st.lists(BODIES, max_size=5), st.integers(1, 50))
def test_bodies_survive_the_wire_in_pieces_of_any_size(bodies: list[dict[str, Any]], size: int) -> None:
    codec, wire, seen = Codec(lambda key: key), b"".join(encode(body, lambda _value: 1) for body in bodies), []
    for start in range(0, len(wire), size):
        codec.receive_data(wire[start : start + size])
        while (body := codec.next_body()) is not None:
            seen.append(body)
    assert seen == bodies


@given(
    st.binary(max_size=100) | st.binary(max_size=60).map(lambda text: len(text).to_bytes(4, "big") + bytes(4) + text)
)
def test_garbage_gives_frames_or_a_protocol_error_and_nothing_else(data: bytes) -> None:
    codec = Codec(lambda key: key)
    codec.receive_data(data)
    try:
        while (body := codec.next_body()) is not None:
            from_body(body)
    except RemoteProtocolError:
        pass


@given(
    st.fixed_dictionaries(
        {"frame": st.sampled_from(["Ask", "Done", "Consumed", "Piece", "No"])},
        optional={name: st.none() | st.integers() | st.text() | st.lists(st.none()) for name in ("ask", "to", "keep")},
    )
)
def test_a_frame_of_the_wrong_form_is_a_protocol_error(body: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError):
        from_body(body)


def test_a_frame_too_large_is_refused_before_it_is_there() -> None:
    codec = Codec(lambda key: key)
    codec.receive_data((MAX_JSON_BYTES + 1).to_bytes(4, "big") + bytes(4))
    with pytest.raises(RemoteProtocolError, match="announced"):
        codec.next_body()


def test_bytes_that_are_not_there_are_a_protocol_error() -> None:
    codec = Codec(lambda key: key)
    codec.receive_data(encode({"a": {"$bytes": [0, 5]}}, lambda _value: 1))
    with pytest.raises(RemoteProtocolError, match="not there"):
        codec.next_body()


def test_what_is_not_data_is_refused_by_its_sender() -> None:
    def refuse(value: Any) -> int:
        raise TypeError(f"a {type(value).__name__} is not data")

    with pytest.raises(LocalProtocolError, match="a set is not data"):
        encode({"a": set()}, refuse)


@pytest.mark.parametrize(
    "frame", [Bye(), Piece(1, "f", b"x"), Ask(1, 2, "Stop", {}, {}, 1.0), Called(1, "f", [b"x"]), Done(1, 2)]
)
def test_frames_arrive_as_they_were_sent(frame: Any) -> None:
    assert from_body(over_the_wire(to_body(frame))) == frame


# -- both sides, with an actor between them that does what a test says ----------------------------------------------

Script = Callable[[Any], Awaitable[Any]]
CONTENT = FileContent(b"\0\xff", 2, 0)


class Scripted(Actor):
    def __init__(self, script: Script) -> None:
        super().__init__("scripted")
        self._script = script

    async def handle(self, message: Message[Any]) -> Any:
        return await self._script(message)


@attrs.frozen
class Attached:
    remote: ActorRef[Any]
    actor: ActorRef[Any]
    supervisor_end: trio.abc.AsyncResource


@asynccontextmanager
async def attached(script: Script, *, keep: bool = True, log: Path | None = None) -> AsyncIterator[Attached]:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(LIMIT_S), tempfile.TemporaryDirectory() as scratch:
        audit = AuditLog(log or Path(scratch), Audit())
        async with open_plain_nursery() as nursery:
            actor = await Supervisor(nursery).start("scripted", lambda: Scripted(script))
            made = None if keep else Ephemeral.of_client(Path(scratch), os.getpid())
            nursery.start_soon(serve_library, theirs, actor, audit, made)
            async with open_remote(ours) as remote:
                yield Attached(remote, actor, theirs)
            nursery.cancel_scope.cancel()


async def test_an_ask_is_answered_after_its_callbacks_were_called_in_order() -> None:
    async def script(message: r.CreateWorkspace) -> str:
        assert message.on_progress
        for number in range(100):
            message.on_progress(str(number))
        raise NotFound("There is no such image.", remedy="Build it.", image="base")

    said: list[str] = []
    async with attached(script) as both:
        with pytest.raises(NotFound, match="no such image") as caught:
            await both.remote.ask(r.CreateWorkspace(on_progress=said.append))
    assert caught.value.facts == {"image": "base"}
    assert said == [str(number) for number in range(100)]


async def test_a_consumer_gets_the_next_piece_when_it_has_taken_the_one_before() -> None:
    given: list[bytes] = []
    taken: list[bytes] = []

    async def script(message: Any) -> FileContent:
        for number in range(20):
            await message.sink(b"%d" % number)
            given.append(b"%d" % number)
            assert given == taken
        return CONTENT

    async def take(piece: bytes) -> None:
        await trio.lowlevel.checkpoint()
        taken.append(piece)

    async def refuse(_piece: bytes) -> None:
        raise OSError("the disk is full")

    async with attached(script) as both:
        await both.remote.ask(ReadFile("/f", sink=take))
        assert len(taken) == 20
        with pytest.raises(OSError, match="the disk is full"):
            await both.remote.ask(ReadFile("/f", sink=refuse))


async def test_an_open_file_stays_with_its_process() -> None:
    async def script(_message: Any) -> None:
        raise AssertionError("it was carried")

    async with attached(script) as both:
        with pytest.raises(InvalidArgument, match="open file"):
            await both.remote.ask(r.ExportWorkspace("x", io.BytesIO()))


async def test_a_reference_in_an_answer_can_be_asked_and_is_the_same_each_time() -> None:
    async def script(message: Any) -> Any:
        return "console" if isinstance(message, w.ReadLog) else found[0]

    found: list[r.Found] = []
    async with attached(script) as both:
        fields: dict[str, Any] = {field.name: "x" for field in attrs.fields(r.Found)}
        found.append(r.Found(**{**fields, "ref": both.actor}))
        first, second = [await both.remote.ask(r.FindWorkspace("x")) for _ in range(2)]
        assert first.ref is second.ref is both.remote
        assert await first.ref.ask(w.ReadLog()) == "console"


async def test_the_workspaces_that_an_answer_hands_over_can_be_asked_and_are_named_in_the_audit_log(
    tmp_path: Path,
) -> None:
    async def script(message: Any) -> Any:
        match message:
            case r.CreateWorkspace():
                return r.Made(r.Found("1", "one", ends[0], "ann"), INFO)
            case r.ForkWorkspace():
                found = tuple(r.Found(str(number), f"child-{number}", ends[number], "ann") for number in (1, 2))
                return r.Forked(found, ForkReport("1", "x", None, None, 0, 0.0, ()))
            case r.ImportWorkspace():
                return r.Imported(r.Found("3", "three", ends[3], "ann"), ImportReport(INFO, True, "", 0.0))
        return "console"

    async with attached(script, log=tmp_path) as both, open_plain_nursery() as nursery:
        supervisor = Supervisor(nursery)
        ends = [await supervisor.start(f"end {number}", lambda: Scripted(script)) for number in range(4)]
        system = System(both.remote, Settings())
        one = await system.create()
        children = await one.fork(2)
        three = (await system.import_workspace("bundle")).workspace
        assert [(ws.id, ws.name) for ws in (one, *children, three)] == [
            ("1", "one"), ("1", "child-1"), ("2", "child-2"), ("3", "three"),
        ]  # fmt: skip
        assert [await ws.console() for ws in (one, *children, three)] == ["console"] * 4
        nursery.cancel_scope.cancel()
    lines = [(line["tool"], line["workspace"]) for line in read_last(tmp_path, 9).lines]
    assert lines == [
        ("CreateWorkspace", "one"),
        ("ForkWorkspace", None),
        ("ImportWorkspace", "three"),
        *(("ReadLog", name) for name in ("one", "child-1", "child-2", "three")),
    ]


async def test_asks_run_side_by_side_on_one_connection() -> None:
    arrived, go = [], trio.Event()

    async def script(message: Any) -> FileContent:
        arrived.append(message.path)
        if len(arrived) == 50:
            go.set()
        await go.wait()
        return attrs.evolve(CONTENT, offset=int(message.path))

    async with attached(script) as both:
        answers: list[int] = []

        async def ask(number: int) -> None:
            answers.append((await both.remote.ask(ReadFile(str(number)))).offset)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, number)
        assert sorted(answers) == list(range(50))


async def test_contents_come_piece_by_piece_as_they_are_wanted() -> None:
    made: list[int] = []

    async def contents() -> AsyncIterator[bytes]:
        for number in range(5):
            made.append(number)
            yield bytes([number])

    async def script(message: Any) -> int:
        assert not isinstance(message.content, bytes)
        async for piece in message.content:
            # Nobody made more than was wanted.
            assert made == list(range(piece[0] + 1))
        return len(made)

    async with attached(script) as both:
        assert await both.remote.ask(WriteFile("/x", contents())) == 5


async def test_output_waits_until_what_came_is_consumed() -> None:
    job = JobInfo("j", "x", False, 0, None, False, 0.0, 0.0, 0, 0)
    granted: list[int] = []
    more = trio.Event()

    async def grant(size: int) -> None:
        granted.append(size)
        more.set()

    async def script(message: FollowJob) -> Followed:
        assert message.window
        message.window.bind(grant)
        message.on_output(1, b"12345678")
        await more.wait()
        message.on_output(2, b"9")
        return Followed(job, (8, 1), (0, 0))

    seen: list[tuple[int, bytes]] = []
    window = Window(8)
    async with attached(script) as both, trio.open_nursery() as nursery:

        async def follow() -> None:
            message = FollowJob("j", lambda stream, data: seen.append((stream, data)), window=window)
            assert (await both.remote.ask(message)).job == job

        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [(1, b"12345678")]
        await window.consumed(8)
    assert (granted, seen[1:]) == ([8], [(2, b"9")])


async def test_contents_that_fail_end_the_work_and_raise_their_own_error() -> None:
    failed: list[AgentisoError] = []

    async def contents() -> AsyncIterator[bytes]:
        yield b"some"
        raise FileNotFoundError("it went away")

    async def script(message: Any) -> int:
        assert not isinstance(message.content, bytes)
        try:
            async for _ in message.content:
                pass
        except AgentisoError as error:
            failed.append(error)
            raise
        return 0

    async with attached(script) as both:
        with pytest.raises(FileNotFoundError, match="it went away"):
            await both.remote.ask(WriteFile("/x", contents()))
    assert "it went away" in str(failed[0])


async def test_a_callback_that_fails_cancels_the_work_and_raises_its_own_error() -> None:
    ended = trio.Event()

    async def script(message: r.CreateWorkspace) -> None:
        assert message.on_progress
        message.on_progress("now")
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def report(_text: str) -> None:
        raise ZeroDivisionError

    async with attached(script) as both:
        with pytest.raises(ZeroDivisionError):
            await both.remote.ask(r.CreateWorkspace(on_progress=report))
        assert ended.is_set()


async def test_an_asker_that_gives_up_goes_on_only_once_the_work_was_rolled_back() -> None:
    began, rolled_back = trio.Event(), trio.Event()

    async def script(_message: Any) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                rolled_back.set()

    async with attached(script) as both, trio.open_nursery() as nursery:
        nursery.start_soon(both.remote.ask, ReadFile("/x"))
        await began.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.lowlevel.checkpoint()
    assert rolled_back.is_set()


async def test_a_deadline_is_kept_on_the_other_side() -> None:
    async def script(_message: Any) -> None:
        await trio.sleep_forever()

    async with attached(script) as both:
        with pytest.raises(DeadlineExceeded):
            await both.remote.ask(ReadFile("/x"), deadline_s=0.01)


async def test_who_waits_when_the_supervisor_ends_learns_that_the_outcome_is_unknown() -> None:
    began = trio.Event()

    async def script(_message: Any) -> None:
        began.set()
        await trio.sleep_forever()

    async with attached(script) as both:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(SupervisorGone, match=r"outcome .* is unknown"):
                    await both.remote.ask(ReadFile("/x"))

            nursery.start_soon(wait)
            await began.wait()
            await both.supervisor_end.aclose()
        with pytest.raises(SupervisorGone):
            await both.remote.ask(ReadFile("/y"))
        assert not both.remote.alive


async def test_an_ask_that_waits_behind_others_when_the_supervisor_ends_is_not_forgotten() -> None:
    ours, theirs = (trio.SocketStream(end) for end in trio.socket.socketpair())
    connection = Connection(ours)
    with trio.fail_after(LIMIT_S):
        async with ours, connection.link.sending() as nursery:
            nursery.start_soon(connection.run, trio.CancelScope())
            connection.link.send_nowait(Piece(0, "x", bytes(2 * ROOM_BYTES)))
            async with trio.open_nursery() as asking:

                async def ask() -> None:
                    with pytest.raises(SupervisorGone):
                        await connection.registry.ask(ReadFile("/x"))

                asking.start_soon(ask)
                await trio.testing.wait_all_tasks_blocked()
                await theirs.aclose()


@pytest.mark.parametrize("ending", ["supervisor", "nonsense"])
async def test_what_a_program_made_is_kept_while_it_lives_if_its_supervisor_ends_or_cuts_it_off(
    tmp_path: Path, ending: str
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    destroyed: list[str] = []

    async def script(message: Any) -> Any:
        if isinstance(message, r.DestroyWorkspace):
            destroyed.append(message.workspace)
        return r.Found("00000000", "x", actor, message_owner) if isinstance(message, r.FindWorkspace) else None

    message_owner = r.CreateWorkspace().owner
    with trio.fail_after(LIMIT_S):
        async with open_plain_nursery() as actors_run:
            actor = await Supervisor(actors_run).start("scripted", lambda: Scripted(script))
            made = Ephemeral.of_client(tmp_path, os.getpid())
            made._made["00000000"] = message_owner
            made._save()
            async with open_plain_nursery() as serving:
                serving.start_soon(serve_library, theirs, actor, AuditLog(tmp_path, Audit()), made)
                await trio.testing.wait_all_tasks_blocked()
                if ending == "supervisor":
                    serving.cancel_scope.cancel()
                else:
                    await ours.send_all(b"nonsense")
            assert await ours.receive_some() == b""
            actors_run.cancel_scope.cancel()
    assert destroyed == []
    assert len(list((tmp_path / DIRECTORY).iterdir())) == 1


def test_a_supervisor_with_other_settings_speaks_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    @attrs.frozen
    class Newer(Settings):
        setting_of_tomorrow: int = 1

    ours = vocabulary()
    with monkeypatch.context() as patch:
        patch.setattr(carry, "Settings", Newer)
        assert vocabulary.__wrapped__() != ours
    with pytest.raises(RemoteProtocolError, match="setting_of_tomorrow"):
        typed_settings({**plain_settings(Settings()), "setting_of_tomorrow": 1})


@pytest.mark.parametrize("keep", [True, False])
async def test_what_a_program_made_is_destroyed_when_it_leaves_unless_it_is_kept(keep: bool) -> None:
    destroyed: list[str] = []

    async def script(message: Any) -> Any:
        match message:
            case r.ForkWorkspace():
                children = tuple(ForkedChild(number, "x", f"{number}" * 8) for number in range(4))
                report = ForkReport("x", "x", None, None, 0, 0.0, (*children, ForkedChild(4, "x", error="no")))
                found = tuple(r.Found(f"{number}" * 8, "x", both.actor, message_owner) for number in range(4))
                return r.Forked(found, report)
            case r.FindWorkspace(workspace):
                owner = "somebody" if workspace == "33333333" else message_owner
                return r.Found(workspace, "x", both.actor, owner)
            case r.DestroyWorkspace(workspace):
                destroyed.append(workspace)
        return None

    message_owner = r.ForkWorkspace("x").owner
    async with attached(script, keep=keep) as both:
        await both.remote.ask(r.ForkWorkspace("x", 5))
        await both.remote.ask(r.DestroyWorkspace("11111111"))
    # The one that somebody has adopted meanwhile is not the program's any more.
    assert sorted(destroyed) == (["11111111"] if keep else ["00000000", "11111111", "22222222"])


def test_a_program_that_knows_other_messages_is_refused_with_what_to_do() -> None:
    programs.check(Greeting("library", vocabulary=vocabulary()))
    with pytest.raises(OtherVersion, match=r"newer than this program .*daemon restart"):
        programs.check(Greeting("library", vocabulary="another", version="0.0.9"))


def test_a_program_is_told_the_settings_in_force() -> None:
    chosen = Settings(images_dir=Path("/images"))
    assert typed_settings(json.loads(json.dumps(programs.introduction(chosen)))["settings"]) == chosen


async def test_the_audit_log_tells_of_every_message_and_no_secret(tmp_path: Path) -> None:
    async def script(message: Message[Any]) -> Any:
        match message:
            case r.FindWorkspace():
                return r.Found("0123", "mine", actor, "ann")
            case EditFile():
                return Edited(1, 6)
            case w.Start():
                scope.cancel()
                await trio.sleep_forever()
        raise NotFound("There is none.")

    scope = trio.CancelScope()
    command = CommandSpec("curl https://user:s3cret@host/", env={"KEY": "s3cret"})
    async with attached(script, log=tmp_path) as both:
        actor = both.actor
        workspace = (await both.remote.ask(r.FindWorkspace("mine"))).ref
        with pytest.raises(NotFound):
            await workspace.ask(StartJob(command))
        await workspace.ask(EditFile("/f", "s3cret", "s3cret"))
        with pytest.raises(NotFound):
            await workspace.ask(WriteFile("/f", b"s3cret"))
        with scope:
            await workspace.ask(w.Start(None))
    lines = read_last(tmp_path, 9).lines
    assert [(line["tool"], line["outcome"]) for line in lines] == [
        ("FindWorkspace", "ok"),
        ("StartJob", "not_found"),
        ("EditFile", "ok"),
        ("WriteFile", "not_found"),
        ("Start", "cancelled"),
    ]
    for line in lines:
        assert (line["session"], line["transport"], line["workspace"]) == ("library", "library", "mine")
    assert lines[1]["arguments"]["command"]["command"] == "curl https://***@host/"
    assert "s3cret" not in (tmp_path / "audit.log").read_text()


async def test_a_client_that_talks_nonsense_is_cut_off_and_harms_nobody(tmp_path: Path) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            actor = await Supervisor(nursery).start("scripted", lambda: Scripted(trio.sleep))
            nursery.start_soon(serve_library, theirs, actor, AuditLog(tmp_path, Audit()), None)
            await ours.send_all(b"\xff" * 64)
            while await ours.receive_some(4096):
                pass
            assert actor.alive
            nursery.cancel_scope.cancel()
