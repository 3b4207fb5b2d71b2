"""The façade without `async` has all that the library has, and may be used where asyncio runs."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from anyio.from_thread import start_blocking_portal

import agentiso
from actors.registry.messages import Found
from actors.runtime import ActorRef, Mailbox
from agentiso import Imported, System, Workspace, blocking
from agentiso.library.synchronous import wrap
from tools import stubs
from tools.stubs import KINDS

STUB = Path(agentiso.__file__).with_name("blocking.pyi")


@pytest.mark.parametrize("kind", KINDS)
def test_each_class_has_a_face_with_the_same_methods_none_of_which_is_awaited(kind: type) -> None:
    face = blocking.face_of(kind)
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert inspect.signature(getattr(face, name)) == inspect.signature(method)
            assert not inspect.iscoroutinefunction(getattr(face, name))
            assert getattr(face, name).__doc__ == method.__doc__


def test_every_facet_of_the_library_is_among_them() -> None:
    facets = {
        name
        for kind in (System, Workspace)
        for name in re.findall(r"self\.\w+ = ([A-Z]\w+)\(", inspect.getsource(kind))
    }
    assert {"Files", "Jobs", "Snapshots"} <= facets <= stubs.NAMES


def test_what_type_checkers_are_told_is_what_the_library_says_now() -> None:
    told, true = (ast.dump(ast.parse(text)) for text in (STUB.read_text(), stubs.stub()))
    assert told == true, "run: python -m tools.stubs > agentiso/blocking.pyi && ruff format agentiso/blocking.pyi"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_told_of_a_class_is_there(kind: type) -> None:
    face = getattr(blocking, kind.__name__)
    assert face is blocking.face_of(kind)
    (told,) = (
        node
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    methods = {node.name for node in told.body if isinstance(node, ast.FunctionDef) and not node.decorator_list}
    # Iteration over a sequence needs no method of its own.
    assert all(hasattr(face, name) for name in methods - {"__iter__"})
    assert {name for name, value in vars(face).items() if inspect.isfunction(value)} <= methods


def test_a_system_is_opened_with_the_same_arguments() -> None:
    assert inspect.signature(blocking.open_system).parameters == inspect.signature(agentiso.open_system).parameters


class Thing:
    """Stands for an object of the library."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.began = threading.Event()

    async def double(self, number: int) -> int:
        await trio.lowlevel.checkpoint()
        return number * 2

    async def other(self) -> Thing:
        return Thing()

    async def same(self, thing: Thing) -> bool:
        return thing is self

    async def join(self, pieces: AsyncIterator[bytes]) -> bytes:
        return b"".join([piece async for piece in pieces])

    async def wait(self) -> None:
        try:
            self.began.set()
            await trio.sleep_forever()
        finally:
            self.ended.set()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Thing]:
        async with trio.open_nursery():
            try:
                yield self
            finally:
                self.ended.set()


Thing.__module__ = "agentiso.thing"


@pytest.fixture
def thing() -> Iterator[Any]:
    with start_blocking_portal("trio") as portal:
        yield blocking.face_of(Thing)(portal, Thing())


def test_what_is_awaited_in_the_library_is_waited_for(thing: Any) -> None:
    assert thing.double(4) == 8
    assert thing.other().double(2) == 4
    assert thing.same(thing)
    assert thing.join(iter([b"a", b"b"])) == b"ab"
    with thing.opened() as opened:
        assert opened.double(1) == 2
    assert thing.ended.is_set()


def test_what_only_holds_something_to_wait_for_hands_it_out_with_its_face() -> None:
    ref: ActorRef[Any] = ActorRef("nobody", Mailbox())
    report: Any = object()
    imported = Imported(Workspace(ref, Found("1", "demo", ref, "cli")), report)
    with start_blocking_portal("trio") as portal:
        face = wrap(portal, imported)
        assert isinstance(face, blocking.Imported)
        assert isinstance(face.workspace, blocking.Workspace)
        assert (face.workspace.name, face.report) == ("demo", report)


def test_it_may_be_called_where_asyncio_runs(thing: Any) -> None:
    async def main() -> int:
        number: int = thing.double(4)
        return number + int(await asyncio.to_thread(thing.double, 1))

    assert asyncio.run(main()) == 10


def test_a_call_that_is_interrupted_is_cancelled_before_the_interrupt_goes_on(
    thing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future

    def interrupted(_future: Any, _timeout: Any = None) -> None:
        assert thing.began.wait(10)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            thing.wait()
    assert thing.ended.is_set()
    assert thing.double(1) == 2


def test_a_system_is_opened_and_asked_without_async(tmp_path: Path) -> None:
    with blocking.open_system(agentiso.Settings(state_dir=tmp_path)) as system:
        assert system.list() == ()
