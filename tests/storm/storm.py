"""A storm: supervisors and machines are killed at random moments under mixed load; nothing acknowledged may be lost."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import statistics
import struct
from collections.abc import Callable
from typing import Any

import trio

import agentiso
from actors.machine.qemu.process import find_machines
from actors.runtime import unix_sockets
from agentiso.protocol.places import SOCKET
from tests.storm.ledger import Ledger
from tests.storm.load import Load

SETTLE_S = 240.0
"""Everything that was killed has been brought back by then, also on a busy host."""
AGAIN_S = 0.1


class Storm:
    """One storm over one state directory."""

    def __init__(self, settings: agentiso.Settings, seed: int, fill: Callable[[], Callable[[], None]] | None) -> None:
        self.settings = settings
        self.seed = seed
        self.ledger = Ledger()
        self._chance = random.Random(seed)
        self._fill = fill
        """Fills the file system of the state directory, and returns what frees it; ``None`` where that cannot be."""
        self.load = Load(self.ledger, random.Random(seed + 1))

    async def run(self, seconds: float) -> None:
        """Have it rage for so long, then look at everything."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_attached)
            await self._until_all(self.load.create, self.load.create)
            async with trio.open_nursery() as raging:
                raging.cancel_scope.deadline = trio.current_time() + seconds
                for work in (self.load.write_on, self.load.write_on, self.load.operate, self.load.operate, self._kill):
                    raging.start_soon(work)
            with trio.fail_after(SETTLE_S):
                await self._settle()
            nursery.cancel_scope.cancel(reason="the storm is over")

    def summary(self) -> dict[str, Any]:
        """Return what there is to tell, as plain data."""
        recoveries = self.ledger.recoveries_s
        return {
            "seed": self.seed,
            "counts": dict(sorted(self.ledger.counts.items())),
            "recovery_s_median": round(statistics.median(recoveries), 2) if recoveries else None,
            "violations": self.ledger.violations,
        }

    async def _stay_attached(self) -> None:
        while True:
            self.load.lost = trio.Event()
            with contextlib.suppress(agentiso.AgentisoError):
                async with agentiso.open_system(self.settings, attach=True, keep=True) as system:
                    self.load.system = system
                    await self.load.lost.wait()
            self.load.system = None
            await trio.sleep(AGAIN_S)

    async def _until_all(self, *works: Callable[[], Any]) -> None:
        for work in works:
            before = len(self.ledger.workspaces)
            while len(self.ledger.workspaces) == before:
                if self.load.system is not None:
                    await self.load.attempt(work)
                await trio.sleep(AGAIN_S)

    # -- what is killed

    async def _kill(self) -> None:
        faults = (*[self._kill_supervisor] * 10, *[self._kill_machine] * 6, self._stop_machine, self._lose_directory,
                  self._step_clock, self._fill_disk)  # fmt: skip
        while True:
            await trio.sleep(self._chance.uniform(0.2, 3.0))
            fault = self._chance.choice(faults)
            if await fault():
                self.ledger.counts[fault.__name__.strip("_")] += 1

    def _supervisor(self) -> int | None:
        """Return a pidfd of the supervisor that answers."""
        try:
            with unix_sockets.connect(self.settings.state_dir / SOCKET) as connected:
                pid, _, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return os.pidfd_open(pid)
        except OSError:
            return None

    async def _kill_supervisor(self) -> bool:
        fd = self._supervisor()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            await trio.lowlevel.wait_readable(fd)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        self.load.gone_at = trio.current_time()
        self.load.lost.set()
        return True

    def _machine(self) -> int | None:
        machines = sorted(identity.pid for identity, _ in find_machines(self.settings.state_dir))
        try:
            return os.pidfd_open(self._chance.choice(machines)) if machines else None
        except OSError:
            return None

    async def _kill_machine(self) -> bool:
        return await self._signal_machine(signal.SIGKILL, 0.0)

    async def _stop_machine(self) -> bool:
        return await self._signal_machine(signal.SIGSTOP, self._chance.uniform(0.3, 2.0))

    async def _signal_machine(self, number: signal.Signals, seconds: float) -> bool:
        fd = self._machine()
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, number)
            await trio.sleep(seconds)
            if number == signal.SIGSTOP:
                signal.pidfd_send_signal(fd, signal.SIGCONT)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    async def _lose_directory(self) -> bool:
        """Have the records be out of reach while a supervisor ends and another one starts."""
        place = self.settings.state_dir / "workspaces"
        away = place.with_name("workspaces.away")
        if not await self._kill_supervisor():
            return False
        place.rename(away)
        try:
            await trio.sleep(self._chance.uniform(0.5, 3.0))
        finally:
            away.rename(place)
        return True

    async def _step_clock(self) -> bool:
        """Step the clock of a guest, which its next start or pause sets right."""
        if self.load.system is None or not self.ledger.workspaces:
            return False
        kept = self._chance.choice(list(self.ledger.workspaces.values()))
        step = self._chance.choice((-86400, 3600))

        async def step_one() -> None:
            ws = await self.load.attached.get(kept.name)
            await ws.exec(f"date -s @$(( $(date +%s) + {step} ))", timeout_s=20)

        await self.load.attempt(step_one)
        return True

    async def _fill_disk(self) -> bool:
        if self._fill is None:
            return False
        free = self._fill()
        try:
            await trio.sleep(self._chance.uniform(0.5, 3.0))
        finally:
            free()
        return True

    # -- what is left

    async def _settle(self) -> None:
        """Wait until everything is back, and hold it against what was acknowledged; then destroy it all."""
        names = await self._eventually(self._names)
        for name in list(self.ledger.maybe):
            self.ledger.settle(name, exists=name in names)
        for name in sorted(self.ledger.workspaces.keys() - names):
            self.ledger.violation(f"workspace {name} is gone")
            del self.ledger.workspaces[name]
        for name in sorted(names - self.ledger.workspaces.keys()):
            self.ledger.violation(f"nobody was told of workspace {name}, or was told that it is gone")
        for kept in list(self.ledger.workspaces.values()):
            await self._eventually(lambda kept=kept: self._bring_back_and_check(kept))  # type: ignore[misc]
        for name in sorted(names):
            await self._eventually(lambda name=name: self._destroy(name))  # type: ignore[misc]

    async def _eventually(self, work: Callable[[], Any]) -> Any:
        while True:
            if self.load.system is not None:
                results: list[Any] = []

                async def once() -> None:
                    results.append(await work())  # noqa: B023 - it is awaited at once

                await self.load.attempt(once)
                if results:
                    return results[0]
            await trio.sleep(AGAIN_S)

    async def _names(self) -> set[str]:
        return {info.name for info in await self.load.attached.list() if info.state != "destroying"}

    async def _bring_back_and_check(self, kept: Any) -> None:
        await self.load.bring_back(kept)
        state = (await (await self.load.attached.get(kept.name)).info()).state
        if state != "running":
            raise agentiso.errors.IllegalState(f"{kept.name} is {state}.")
        await self.load.check(kept)

    async def _destroy(self, name: str) -> None:
        if name in await self._names():
            await (await self.load.attached.get(name)).destroy()
