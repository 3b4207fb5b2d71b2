"""How an object of the library gets a face without `async`: a class with the same methods, which wait.

The classes are made from the library's, method by method, so that none can be missing: whatever is awaited there is
waited for here, every ``async with`` is a ``with``, every ``async for`` a ``for``, and an iterator of bytes stands for
an asynchronous one.  What they look like to a type checker is in ``blocking.pyi``, which `tools.stubs` makes.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Final

import trio
from anyio.from_thread import BlockingPortal

from actors.runtime import SETTLE_S
from agentiso.library.system import Imported
from agentiso.library.workspace import Fork


class Face:
    """An object of the library whose methods wait instead of being awaited."""

    def __init__(self, portal: BlockingPortal, behind: Any) -> None:
        self._portal = portal
        self._behind = behind

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return wrap(self._portal, getattr(self._behind, name))

    def __repr__(self) -> str:
        return repr(self._behind)


HOLDERS: Final = (Fork, Imported)
"""What has nothing to wait for, but holds what has."""


def _is_face_worthy(kind: type) -> bool:
    """Tell whether objects of a class have anything to wait for."""
    return kind.__module__.startswith("agentiso.") and (
        kind in HOLDERS or hasattr(kind, "__aiter__") or any(_waits(method) for method in vars(kind).values())
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
            return wrap(self._portal, _run(self._portal, functools.partial(bound, *arguments, **named)))
        return wrap(self._portal, bound(*arguments, **named))

    call.__name__, call.__qualname__, call.__doc__ = method.__name__, method.__qualname__, method.__doc__
    call.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return call


def _next(self: Face) -> Any:
    try:
        return wrap(self._portal, _run(self._portal, self._behind.__anext__))
    except StopAsyncIteration:
        raise StopIteration from None


@contextmanager
def _entered(portal: BlockingPortal, manager: Callable[[], AbstractAsyncContextManager[Any]]) -> Iterator[Any]:
    with portal.wrap_async_context_manager(manager()) as value:
        yield wrap(portal, value)


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


def wrap(portal: BlockingPortal, value: Any) -> Any:
    """Return a value of the library with its face, if it needs one."""
    if isinstance(value, tuple) and type(value) is tuple:
        return tuple(wrap(portal, each) for each in value)
    return face_of(type(value))(portal, value) if _is_face_worthy(type(value)) else value


def _unwrap(value: Any) -> Any:
    if isinstance(value, Face):
        return value._behind
    return _stepping(value) if isinstance(value, Iterator) else value


async def _stepping(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
        yield piece
