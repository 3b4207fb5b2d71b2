"""Silence: one end of a simulated machine that takes what it is asked, and does not do it before it speaks again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import trio
from trio_util import wait_any

from actors.model.errors import AgentisoError

T = TypeVar("T")


class Silent(Exception):
    """No answer came in time."""


@attrs.define(eq=False)
class _Asked:
    do: Callable[[], Any]
    done: trio.Event = attrs.field(factory=trio.Event)
    result: Any = None
    error: AgentisoError | None = None

    def work(self) -> None:
        try:
            self.result = self.do()
        except AgentisoError as error:
            self.error = error
        self.done.set()


class Line:
    """The way to a guest, or to QEMU's QMP."""

    def __init__(self) -> None:
        self.silent = False
        self._asked: list[_Asked] = []

    def hush(self) -> None:
        """Have nothing be answered from now on."""
        self.silent = True

    def speak(self) -> None:
        """Do all that was asked meanwhile, and answer again."""
        self.silent = False
        asked, self._asked = self._asked, []
        for each in asked:
            each.work()

    def tell(self, do: Callable[[], Any]) -> _Asked:
        """Ask for something, for whose answer nobody may wait."""
        asked = _Asked(do)
        if self.silent:
            self._asked.append(asked)
        else:
            asked.work()
        return asked

    async def ask(self, do: Callable[[], T], dead: trio.Event, limit_s: float) -> T:
        """Ask for something and return the answer; who is dead answers nothing, and is known to be.

        Raises:
            Silent: it takes longer than ``limit_s``.

        """
        asked = self.tell(do)
        if not asked.done.is_set():
            with trio.move_on_after(limit_s):
                await wait_any(asked.done.wait, dead.wait)
            if dead.is_set() and not asked.done.is_set():
                asked.work()
        if not asked.done.is_set():
            raise Silent
        if asked.error is not None:
            raise asked.error
        result: T = asked.result
        return result
