"""Supervision, one for one: a crashed actor is restarted alone, over the same mailbox, with growing pauses.

An actor that crashes more often than its policy allows is given up: its mailbox is closed, and ``on_giveup`` is told,
or, without one, the crash escalates to the supervisor's own parent, unless the host alone is to blame.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Final

import attrs
import trio

from actors.model.errors import ActorGone, HostFailed, NoCapacity
from actors.runtime.actor import Actor
from actors.runtime.ask import ActorRef
from actors.runtime.mailbox import Mailbox
from actors.runtime.nursery import failure_of
from guest.errors import only_error

log = logging.getLogger("agentiso.actors")
STOP_S: Final = 60.0


@attrs.frozen
class RestartPolicy:
    """How often, and how soon, an actor is restarted."""

    max_restarts: int = 3
    window_s: float = 60.0
    backoff_s: float = 0.1
    backoff_max_s: float = 5.0
    jitter: float = 0.5
    """Each pause is lengthened by up to this share, so that crashed siblings do not return in step."""


@attrs.define(eq=False)
class _Child:
    ref: ActorRef[object]
    factory: Callable[[], Actor]
    policy: RestartPolicy
    on_giveup: Callable[[str, BaseException], None] | None
    mailbox: Mailbox
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    restarts: int = 0
    started: bool = False
    """Whether a setup of it has succeeded."""


class Supervisor:
    """Starts actors in a nursery and keeps them running."""

    def __init__(self, nursery: trio.Nursery, *, chance: Callable[[], float] = random.random) -> None:
        self._nursery = nursery
        self._chance = chance
        self._children: dict[str, _Child] = {}

    @property
    def children(self) -> tuple[str, ...]:
        """The names of the actors that run."""
        return tuple(self._children)

    def find(self, name: str) -> ActorRef[object] | None:
        """Return the actor that runs under a name, so that whoever starts actors may crash and find its own again."""
        child = self._children.get(name)
        return child.ref if child else None

    async def start(
        self,
        name: str,
        factory: Callable[[], Actor],
        *,
        policy: RestartPolicy | None = None,
        on_giveup: Callable[[str, BaseException], None] | None = None,
    ) -> ActorRef[object]:
        """Start an actor and return once its setup has succeeded; what its first setup raises is raised here.

        Raises:
            ActorGone: it was stopped meanwhile.

        """
        assert name not in self._children, f"an actor {name} runs already"
        mailbox = Mailbox()
        ref: ActorRef[object] = ActorRef(name, mailbox)
        child = _Child(ref, factory, policy or RestartPolicy(), on_giveup, mailbox)
        self._children[name] = child
        failure = await self._nursery.start(self._keep, child)
        if failure is not None:
            raise failure
        return ref

    async def stop(self, ref: ActorRef[object]) -> None:
        """Stop an actor and wait, bounded, until its teardown is over."""
        child = self._children.get(ref.name)
        if child is not None and child.ref is ref:
            child.mailbox.close("it was stopped")
            child.scope.cancel(reason="the actor is stopped")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_S):
                await ref.stopped.wait()

    async def _keep(
        self, child: _Child, *, task_status: trio.TaskStatus[BaseException | None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        crashes: deque[float] = deque()
        reported = False
        try:
            with child.scope:
                while True:
                    failure, started = await self._run_once(child, None if reported else task_status)
                    if not reported:
                        reported = True
                        if not started:
                            task_status.started(failure)
                            return
                    crashes.append(trio.current_time())
                    while crashes and crashes[0] < trio.current_time() - child.policy.window_s:
                        crashes.popleft()
                    # Where the host alone is to blame, and nobody can do without the actor, it begins when it can.
                    patient = child.on_giveup is None and isinstance(failure, HostFailed | NoCapacity)
                    if len(crashes) > child.policy.max_restarts and not patient:
                        self._give_up(child, failure)
                        return
                    child.restarts += 1
                    log.error("%s crashed and is restarted", child.ref.name, exc_info=failure)
                    await trio.sleep(self._pause_s(child.policy, len(crashes)))
        finally:
            child.mailbox.close("it stopped")
            self._children.pop(child.ref.name, None)
            child.ref.stopped.set()
        if not child.started:
            task_status.started(ActorGone(f"{child.ref.name} was stopped while it was being started."))

    async def _run_once(
        self, child: _Child, report: trio.TaskStatus[BaseException | None] | None
    ) -> tuple[BaseException, bool]:
        """Run one life of an actor and return what ended it, and whether its setup had succeeded."""
        started = False

        class Status:
            def started(self, _value: None = None) -> None:
                nonlocal started
                started = child.started = True
                if report is not None:
                    report.started(None)

        try:
            await child.factory().run(child.mailbox, task_status=Status())
        except BaseException as error:
            # This is the border at which crashes become restarts.  One that comes together with a cancellation, in one
            # group, must not pass it: the others would be taken along.
            cancelled, failure = _split(error)
            if cancelled is not None or not isinstance(failure, Exception):
                if failure is not None and cancelled is not None:
                    log.error("%s crashed while it was stopped", child.ref.name, exc_info=failure)
                raise (cancelled or error) from None
            return failure_of(failure) or only_error(failure), started
        raise AssertionError("an actor ends only by cancellation or by an exception")

    def _pause_s(self, policy: RestartPolicy, crashes: int) -> float:
        pause = min(policy.backoff_max_s, policy.backoff_s * 2 ** (crashes - 1))
        return float(pause * (1 + policy.jitter * self._chance()))

    def _give_up(self, child: _Child, failure: BaseException) -> None:
        log.error("%s crashed too often and is given up", child.ref.name, exc_info=failure)
        if child.on_giveup is None:
            raise failure
        try:
            child.on_giveup(child.ref.name, failure)
        except Exception:
            # Whoever is told may have ended itself; the others that run here are not to pay for that.
            log.exception("nobody could be told that %s was given up", child.ref.name)


def _split(error: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Return the cancellations in an error, and what else there is."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)
