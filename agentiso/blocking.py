"""The library for scripts and notebooks without `async`: the same names, called and waited for.

Synopsis::

    with agentiso.blocking.open_system() as system:
        ws = system.create("demo")
        print(ws.exec("uname -a").stdout)
        children = ws.fork(3)

Everything runs on Trio in a thread of its own, so this may be used beside asyncio.  The classes are made from those of
the library, method by method: whatever is awaited there is waited for here, every ``async with`` is a ``with``, every
``async for`` a ``for``, and an iterator of bytes stands for an asynchronous one.  Callbacks are called in that thread.
A call that Ctrl-C interrupts is cancelled, and rolled back, before `KeyboardInterrupt` goes on.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final, Literal

import trio
from anyio.from_thread import BlockingPortal, start_blocking_portal

import agentiso.system
from actors.runtime.actor import SETTLE_S
from actors.settings import Settings
from agentiso.workspace import Fork

__all__ = ["Face", "open_system"]


@contextmanager
def open_system(
    settings: Settings | None = None, *, keep: bool = False, attach: bool | Literal["auto"] = False
) -> Iterator[Any]:
    """Yield a `System` whose methods wait; see `agentiso.open_system`."""
    with start_blocking_portal("trio", name="agentiso") as portal:
        opened = agentiso.system.open_system(settings, keep=keep, attach=attach)
        with portal.wrap_async_context_manager(opened) as system:
            yield _wrap(portal, system)


class Face:
    """An object of the library whose methods wait instead of being awaited."""

    def __init__(self, portal: BlockingPortal, behind: Any) -> None:
        self._portal = portal
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return _wrap(self._portal, getattr(self._behind, name))

    def __repr__(self) -> str:
        return repr(self._behind)


def _is_face_worthy(kind: type) -> bool:
    """Tell whether objects of a class have anything to wait for."""
    return kind.__module__.startswith("agentiso.") and (
        kind is Fork or hasattr(kind, "__aiter__") or any(_waits(method) for method in vars(kind).values())
    )


def _waits(method: Any) -> bool:
    return inspect.iscoroutinefunction(method) or _is_context_manager(method)


def _is_context_manager(method: Any) -> bool:
    return inspect.isasyncgenfunction(getattr(method, "__wrapped__", None))


_faces: Final[dict[type, type[Face]]] = {}


def face_of(kind: type) -> type[Face]:
    """Return the class that has the public methods of one of the library's, and waits."""
    return _faces.get(kind) or _faces.setdefault(kind, _make_face(kind))


def _make_face(kind: type) -> type[Face]:
    methods: dict[str, Any] = {"__doc__": kind.__doc__}
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            methods[name] = _method(name, method)
    if hasattr(kind, "__aiter__"):
        methods |= {"__iter__": lambda self: self, "__next__": _next}
    for name in ("__len__", "__getitem__"):
        if name in vars(kind):
            methods[name] = _method(name, vars(kind)[name])
    return type(kind.__name__, (Face,), methods)


def _method(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Face, *arguments: Any, **named: Any) -> Any:
        bound = getattr(self._behind, name)
        arguments = tuple(map(_unwrap, arguments))
        named = {key: _unwrap(value) for key, value in named.items()}
        if _is_context_manager(method):
            return _entered(self._portal, functools.partial(bound, *arguments, **named))
        if inspect.iscoroutinefunction(method):
            return _wrap(self._portal, _run(self._portal, functools.partial(bound, *arguments, **named)))
        return _wrap(self._portal, bound(*arguments, **named))

    call.__name__, call.__qualname__, call.__doc__ = method.__name__, method.__qualname__, method.__doc__
    call.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return call


def _next(self: Face) -> Any:
    try:
        return _wrap(self._portal, _run(self._portal, self._behind.__anext__))
    except StopAsyncIteration:
        raise StopIteration from None


@contextmanager
def _entered(portal: BlockingPortal, manager: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[Any]:
    with portal.wrap_async_context_manager(manager()) as value:
        yield _wrap(portal, value)


def _run(portal: BlockingPortal, function: Callable[[], Any]) -> Any:
    ended = threading.Event()

    async def call() -> Any:
        try:
            return await function()
        finally:
            ended.set()

    future = portal.start_task_soon(call)
    try:
        return future.result()
    except BaseException:
        if future.cancel():
            # Interrupted here; what was under way is rolled back before anybody goes on.
            ended.wait(SETTLE_S)
        raise


def _wrap(portal: BlockingPortal, value: Any) -> Any:
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(_wrap(portal, each) for each in value)
    return face_of(type(value))(portal, value) if _is_face_worthy(type(value)) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, Face):
        return value._behind
    return _stepping(value) if isinstance(value, Iterator) else value


async def _stepping(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece
