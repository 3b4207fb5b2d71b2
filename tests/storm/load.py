"""The mixed load of a storm: what clients do to workspaces while everything around them is killed."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import trio

import agentiso
from actors.model.errors import CheckpointUnusable, NotFound
from tests.storm.ledger import Kept, Ledger

MAX_SNAPSHOTS = 3
MAX_WORKSPACES = 5
WRITE = "n=$(wc -l < /root/log); for _ in 1 2 3; do n=$((n+1)); echo $n >> /root/log; done; sync /root/log; echo $n"
CHECK = "sed -n '{0}p' /root/log; tail -n1 /root/log; wc -l < /root/log"


class Load:
    """Writers and operators over one attached system at a time."""

    def __init__(self, ledger: Ledger, chance: random.Random) -> None:
        self.ledger = ledger
        self.system: agentiso.System | None = None
        self.lost = trio.Event()
        """Set by whoever notices that the supervisor is gone."""
        self._chance = chance
        self._number = 0
        self._busy: dict[str, trio.Lock] = {}
        self.gone_at: float | None = None

    def _named(self, prefix: str) -> str:
        self._number += 1
        return f"{prefix}-{self._number}"

    @property
    def attached(self) -> agentiso.System:
        """The system, as long as its supervisor is there."""
        if self.system is None:
            raise agentiso.errors.SupervisorGone("The supervisor was killed.")
        return self.system

    async def _workspace(self, kept: Kept) -> agentiso.Workspace:
        return await self.attached.get(kept.name)

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something that may be refused or cut off; only what is untrue of the acknowledged is a violation."""
        try:
            await work()
        except agentiso.errors.SupervisorGone:
            self.lost.set()
        except agentiso.AgentisoError as error:
            self.ledger.counts[f"refused: {error.code}"] += 1

    # -- writers

    async def write_on(self) -> None:
        """Write to whichever workspace comes next, for ever."""
        while True:
            await trio.sleep(self._chance.uniform(0.02, 0.2))
            if self.system is not None and self.ledger.workspaces:
                kept = self._chance.choice(list(self.ledger.workspaces.values()))
                await self.attempt(lambda kept=kept: self._write(kept))  # type: ignore[misc]

    def _lock(self, kept: Kept) -> trio.Lock:
        return self._busy.setdefault(kept.name, trio.Lock())

    async def _write(self, kept: Kept) -> None:
        async with self._lock(kept):
            done = await (await self._workspace(kept)).exec(WRITE, timeout_s=20)
            if done.exit_code == 0:
                kept.acked = int(done.stdout)
                self.ledger.counts["lines"] += 3
                if self.gone_at is not None:
                    self.ledger.recoveries_s.append(trio.current_time() - self.gone_at)
                    self.gone_at = None

    # -- operators

    async def operate(self) -> None:
        """Do whatever comes to mind, for ever."""
        operations = (
            self._snapshot, self._snapshot, self._restore, self._undo, self._put_away, self._pause, self._stop,
            self._fork, self._create, self._destroy, self.look, self._mend,
        )  # fmt: skip
        while True:
            await trio.sleep(self._chance.uniform(0.05, 0.3))
            if self.system is not None and self.ledger.workspaces:
                kept = self._chance.choice(list(self.ledger.workspaces.values()))
                operation = self._chance.choice(operations)
                self.ledger.counts[operation.__name__.strip("_")] += 1
                await self.attempt(lambda: operation(kept))  # noqa: B023 - it is awaited at once

    async def _snapshot(self, kept: Kept) -> None:
        name, lines = self._named("point"), kept.acked
        ws = await self._workspace(kept)
        if len(kept.snapshots) >= MAX_SNAPSHOTS:
            oldest = next(iter(kept.snapshots))
            kept.maybe[oldest] = kept.snapshots.pop(oldest)
            await ws.snapshots.delete(oldest)
            kept.maybe.pop(oldest, None)
        kept.maybe[name] = lines
        await ws.snapshots.create(name, include_memory=self._chance.random() < 0.7)
        kept.maybe.pop(name, None)
        kept.snapshots[name] = lines

    async def _restore(self, kept: Kept) -> None:
        async with self._lock(kept):
            if not kept.snapshots:
                return
            name = self._chance.choice(list(kept.snapshots))
            lines, ws = kept.snapshots[name], await self._workspace(kept)
            before = kept.acked
            kept.rewind(lines, certain=False)
            try:
                await ws.snapshots.restore(name)
            except (CheckpointUnusable, NotFound) as error:
                self.ledger.violation(f"snapshot {name} of {kept.name} was acknowledged and cannot be had: {error}")
                return
            kept.acked = before
            kept.rewind(lines, certain=True)

    async def _undo(self, kept: Kept) -> None:
        async with self._lock(kept):
            if not kept.undo:
                return
            *rest, lines = kept.undo
            ws = await self._workspace(kept)
            kept.rewind(lines, certain=False)
            await ws.undo()
            kept.acked, kept.undo = lines, rest

    async def _put_away(self, kept: Kept) -> None:
        async with self._lock(kept):
            ws = await self._workspace(kept)
            await ws.suspend()
            await ws.resume()

    async def _pause(self, kept: Kept) -> None:
        async with self._lock(kept):
            ws = await self._workspace(kept)
            await ws.pause()
            await ws.resume()

    async def _stop(self, kept: Kept) -> None:
        if self._chance.random() < 0.3:
            async with self._lock(kept):
                ws = await self._workspace(kept)
                await ws.stop()
                await ws.start()

    async def _fork(self, kept: Kept) -> None:
        if len(self.ledger.workspaces) < MAX_WORKSPACES:
            ws, lines = await self._workspace(kept), kept.acked
            names = [self._named("child") for _ in range(self._chance.choice((1, 2)))]
            for name in names:
                self.ledger.maybe[name] = Kept(name, lines)
            fork = await ws.fork(len(names), names=names)
            for child in fork.report.children:
                self.ledger.settle(child.name, exists=child.error is None)

    async def _create(self, _kept: Kept) -> None:
        if len(self.ledger.workspaces) < MAX_WORKSPACES:
            await self.create()

    async def create(self) -> None:
        """Make a workspace."""
        name = self._named("ws")
        self.ledger.maybe[name] = Kept(name)
        ws = await self.attached.create(name)
        await ws.exec("touch /root/log; sync", timeout_s=20)
        self.ledger.settle(name, exists=True)

    async def _destroy(self, kept: Kept) -> None:
        if len(self.ledger.workspaces) > 2:
            async with self._lock(kept):
                self.ledger.maybe[kept.name] = self.ledger.workspaces.pop(kept.name)
                await (await self._workspace(self.ledger.maybe[kept.name])).destroy()
                self.ledger.maybe.pop(kept.name, None)

    async def _mend(self, kept: Kept) -> None:
        """Bring back a workspace whose machine was killed, or that somebody was interrupted with."""
        async with self._lock(kept):
            await self.bring_back(kept)

    async def bring_back(self, kept: Kept) -> None:
        """Have a workspace run; whoever calls holds its lock, or is alone."""
        ws = await self._workspace(kept)
        match (await ws.info()).state:
            case "failed" | "stopped":
                await ws.start()
            case "suspended" | "paused":
                await ws.resume()

    # -- looking

    async def look(self, kept: Kept) -> None:
        """Hold one workspace against what was acknowledged of it."""
        async with self._lock(kept):
            await self.check(kept)

    async def check(self, kept: Kept) -> None:
        """Do so; whoever calls holds its lock, or is alone."""
        ws = await self._workspace(kept)
        info = await ws.info()
        there = {snapshot.name for snapshot in info.snapshots}
        for name in list(kept.maybe):
            if name in there:
                kept.snapshots[name] = kept.maybe[name]
            del kept.maybe[name]
        if missing := kept.snapshots.keys() - there:
            self.ledger.violation(f"{kept.name} has lost its snapshots {sorted(missing)}")
        if info.state == "running" and kept.acked:
            done = await ws.exec(CHECK.format(kept.acked), timeout_s=20)
            line, last, count = (*done.stdout.decode().split(), "", "", "")[:3]
            if done.exit_code == 0 and (line != str(kept.acked) or last != count):
                self.ledger.violation(f"{kept.name}: line {kept.acked} is {line!r}, the last {last!r} of {count!r}")
