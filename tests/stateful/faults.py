"""What goes wrong, at one point of an operation."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import Final

import attrs
import trio

from actors.registry.actor import RegistryActor
from actors.workspace.actor import WorkspaceActor
from tests.stateful.file_work import CHANGES, POSSIBLE, Torn, Work
from tests.stateful.lives import Killed
from tests.stateful.operations import crash
from tests.stateful.points import FILE, TASK, Point
from tests.stateful.simulated import Qemu
from tests.stateful.stable_disk import WAYS
from tests.stateful.stage import Stage

MOMENT_S: Final = 5.0
"""How long what fails for a moment fails."""
ERRORS: Final = (errno.ENOSPC, errno.EMFILE, errno.EIO, errno.EACCES)


@attrs.define
class Happening:
    """One fault, as it comes to pass in one trial."""

    stage: Stage
    asking: trio.CancelScope
    """Of whoever asks for the operation."""
    fallen: list[Qemu] = attrs.field(factory=list)
    """Machines that died of it."""
    silent: list[Qemu] = attrs.field(factory=list)
    answered: bool = False
    came: bool = False
    """Whether it could come to pass."""
    lost: str | None = None
    """What becomes of that which was not flushed, where the power is lost."""
    failing: int | None = None
    """The error that file work fails with for now."""
    until: float = 0.0

    @property
    def killed(self) -> bool:
        """Whether it ended the supervisor."""
        return self.stage.life.killed

    def relieve(self) -> None:
        """Have machines that fell silent speak again."""
        for qemu in self.silent:
            qemu.qmp.speak()
            qemu.guest.speak()


Do = Callable[[Happening, Work | None], None]
"""Has a fault come to pass; at file work it may raise what comes of that."""


@attrs.frozen
class Fault:
    """One kind of fault."""

    name: str
    kind: str
    """Of the points at which it comes: ``task`` or ``file``."""
    do: Do
    works: frozenset[str] | None = None
    """At which kinds of work on files it can come; at all unless set."""
    loses_power: bool = False
    hushes_old: bool = False
    """Whether it is the machine that was there before the operation which falls silent."""

    def possible(self, point: Point) -> bool:
        """Tell whether it can come at a point."""
        return point.kind == self.kind and (self.works is None or point.what.split()[0] in self.works)


def _kill(happening: Happening, work: Work | None) -> None:
    happening.came = True
    happening.stage.life.kill()
    happening.asking.cancel(reason="the supervisor is gone")
    if work is not None:
        raise Torn(Killed()) if work.kind == "write" else Killed


def _lose(way: str) -> Do:
    def do(happening: Happening, _work: Work | None) -> None:
        happening.lost = way
        _kill(happening, None)
        raise Killed

    return do


def _cancel(happening: Happening, _work: Work | None) -> None:
    happening.came = not happening.answered
    happening.asking.cancel(reason="the asker gave up")


def _crash(kind: type, choose: int) -> Do:
    def do(happening: Happening, _work: Work | None) -> None:
        happening.came = crash(happening.stage, kind, choose)

    return do


def _bug(happening: Happening, _work: Work | None) -> None:
    happening.came = True
    raise RuntimeError("a bug")


def _machine(choose: int, befall: Callable[[Happening, Qemu], object]) -> Do:
    """Have something befall the oldest machine (0) or the youngest (-1), if that is another."""

    def do(happening: Happening, _work: Work | None) -> None:
        alive = happening.stage.world.alive
        if alive and (choose == 0 or len(alive) > 1):
            happening.came = True
            befall(happening, alive[choose])

    return do


def _die(happening: Happening, qemu: Qemu) -> None:
    happening.fallen.append(qemu)
    qemu.dead.set()


def _hush_guest(happening: Happening, qemu: Qemu) -> None:
    happening.silent.append(qemu)
    qemu.guest.hush()


def _hush(happening: Happening, qemu: Qemu) -> None:
    """QEMU stands still, and the guest in it."""
    _hush_guest(happening, qemu)
    qemu.qmp.hush()


def _failing(error: int, *, lasting: bool) -> Do:
    def do(happening: Happening, work: Work | None) -> None:
        assert work is not None
        happening.came = True
        if lasting:
            happening.failing, happening.until = error, trio.current_time() + MOMENT_S
        failure = work.fails(error)
        raise Torn(failure) if work.kind == "write" and error == errno.ENOSPC else failure

    return do


def _errors() -> Iterator[Fault]:
    for error in ERRORS:
        name = errno.errorcode[error]
        works = frozenset(kind for kind, errors in POSSIBLE.items() if error in errors)
        yield Fault(name, FILE, _failing(error, lasting=False), works)
        yield Fault(f"{name} for a moment", FILE, _failing(error, lasting=True), works)


FAULTS: Final = (
    Fault("supervisor killed", TASK, _kill),
    Fault("supervisor killed at a file", FILE, _kill),
    Fault("ask cancelled", TASK, _cancel),
    Fault("oldest workspace actor crashes", TASK, _crash(WorkspaceActor, 0)),
    Fault("youngest workspace actor crashes", TASK, _crash(WorkspaceActor, -1)),
    Fault("registry crashes", TASK, _crash(RegistryActor, 0)),
    Fault("bug at a file", FILE, _bug),
    Fault("oldest QEMU dies", TASK, _machine(0, _die)),
    Fault("youngest QEMU dies", TASK, _machine(-1, _die)),
    Fault("oldest guest mute", TASK, _machine(0, _hush_guest), hushes_old=True),
    Fault("youngest guest mute", TASK, _machine(-1, _hush_guest)),
    Fault("oldest QMP mute", TASK, _machine(0, _hush), hushes_old=True),
    Fault("youngest QMP mute", TASK, _machine(-1, _hush)),
    *_errors(),
)


LOSSES: Final = tuple(Fault(f"power lost: {way}", FILE, _lose(way), CHANGES, loses_power=True) for way in WAYS)


def go_on_failing(happening: Happening, work: Work) -> None:
    """Raise what file work fails with at the moment, if it does."""
    error = happening.failing
    if error is not None and trio.current_time() < happening.until and error in POSSIBLE[work.kind]:
        raise work.fails(error)
