"""Points: the moments of a supervisor's life at which something may go wrong.

Each time that one of its tasks goes on is one, and so is each thing that it does to a file.  They are counted while a
watch is on; what befalls the supervisor at one of them is up to whoever set the watch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import attrs
import trio

from tests.stateful import lives

ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}|\b[0-9a-f]{8}\b")
TASK: Final = "task"
FILE: Final = "file"
MAX_STEPS: Final = 200_000
"""Of a whole run; one that takes more gets nowhere."""


@attrs.frozen
class Point:
    """One moment."""

    kind: str
    """``task`` or ``file``."""
    number: int
    what: str
    """Which task goes on, or what is done to which file, without what differs from run to run."""


class Watch:
    """Counts points."""

    def __init__(self) -> None:
        self.seen: list[Point] = []
        self.on = False
        self.at: Callable[[Point], None] = lambda _point: None
        """Called at each point; what it raises at a file's is what comes of that."""
        self._counts = {TASK: 0, FILE: 0}

    def reach(self, kind: str, what: str) -> None:
        """Note a point, unless nobody watches or it belongs to no supervisor that is alive."""
        life = lives.CURRENT.get()
        if self.on and life is not None and not life.killed and not lives.BESIDE.get():
            point = Point(kind, self._counts[kind], ID.sub("*", what))
            self._counts[kind] += 1
            self.seen.append(point)
            self.at(point)


class Steps(trio.abc.Instrument):
    """Sees tasks go on; ends a run that gets nowhere."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._count = 0
        self.whole = trio.CancelScope()
        """Of the whole run."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Note a point."""
        self._count += 1
        if self._count == MAX_STEPS:
            self.whole.cancel(reason="it gets nowhere")
        if self._watch.on:
            task.context.run(self._watch.reach, TASK, task.name)
