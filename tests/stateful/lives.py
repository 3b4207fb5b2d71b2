"""Lives: a supervisor from its start until it ends or is killed; whoever is killed does nothing more.

What runs in a life is known by its context, which every task that it starts inherits.  Killed tasks are unwound since
Trio needs that, but whatever they try to do to the world outside of their memory raises `Killed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import attrs
import trio

P = ParamSpec("P")
T = TypeVar("T")


class Killed(BaseException):
    """What becomes of everything that a killed supervisor tries to do."""


@attrs.define(eq=False)
class Life:
    """One supervisor."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    killed: bool = False

    def kill(self) -> None:
        """End it as SIGKILL would."""
        self.killed = True
        self.scope.cancel(reason="the supervisor was killed")

    @contextmanager
    def lived(self) -> Iterator[None]:
        """Have the block, and all tasks that it starts, be of this life."""
        token = CURRENT.set(self)
        try:
            yield
        finally:
            CURRENT.reset(token)


CURRENT: Final[ContextVar[Life | None]] = ContextVar("life", default=None)
BESIDE: Final[ContextVar[bool]] = ContextVar("beside", default=False)
"""Whether this is done for somebody else than who is looked at."""
_SOMEBODY: Final = Life()


def check() -> None:
    """Raise `Killed` in a life that was ended."""
    life = CURRENT.get()
    if life is not None and life.killed:
        raise Killed


def current() -> Life:
    """Return the life that this is part of; all that is of none is one."""
    return CURRENT.get() or _SOMEBODY


def is_alive(owner: object) -> bool:
    """Tell whether an owner is a life that was not ended."""
    return isinstance(owner, Life) and not owner.killed


@contextmanager
def nobody() -> Iterator[None]:
    """Have the block be of no life: it is done by the world outside."""
    token = CURRENT.set(None)
    try:
        yield
    finally:
        CURRENT.reset(token)


@contextmanager
def beside() -> Iterator[None]:
    """Have the block be done by the same life, for somebody else."""
    token = BESIDE.set(True)
    try:
        yield
    finally:
        BESIDE.reset(token)


def as_nobody(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function be of no life."""

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> T:
        with nobody():
            return function(*args, **kwargs)

    return outside
