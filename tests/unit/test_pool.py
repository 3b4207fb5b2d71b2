"""When the pool is filled, and when it is left alone; its machines are stand-ins here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.machine.accelerator.verdict import AcceleratorVerdict
from actors.machine.storage.checkpoint import Checkpoint
from actors.machine.storage.store import Store
from actors.model.errors import MachineFailed
from actors.model.image import BootImage
from actors.model.info import Lifetime, Shape
from actors.model.record import WorkspaceRecord, new_record
from actors.model.settings import Pool as PoolSettings
from actors.model.settings import Settings
from actors.registry.pool import RETRY_S, Pool, Pooled
from actors.registry.templates import Wanted
from actors.runtime import ActorRef, Mailbox
from actors.workspace.host import Host

SMALL, LARGE = Shape(1, 256, 2), Shape(2, 512, 2)
NOWHERE = Path("/nowhere")
IMAGE = BootImage("base", "digest", NOWHERE, NOWHERE, NOWHERE, NOWHERE)
TEMPLATE = Checkpoint("template", 1.0, None, "layer", 2**31, True, "00", "11", 5)


class _Host(Host):
    async def accelerator(self, image: BootImage) -> AcceleratorVerdict:
        return AcceleratorVerdict("tcg", "max", ())


class _Templates:
    async def get(self, nursery: trio.Nursery, wanted: Wanted, report: object) -> Checkpoint:
        return TEMPLATE


class _Pool(Pool):
    """A pool whose machines take a second to restore and are made of nothing."""

    failing = 0
    begun = 0

    async def _restore(self, record: WorkspaceRecord, template: Checkpoint) -> Pooled:
        self.begun += 1
        await trio.sleep(1)
        if self.failing:
            self.failing -= 1
            raise MachineFailed("It did not come up.")
        return Pooled(record, ActorRef(record.id, Mailbox()))


@asynccontextmanager
async def kept(tmp_path: Path, pool: PoolSettings) -> AsyncIterator[_Pool]:
    async def load_image(_name: str) -> BootImage:
        return IMAGE

    host = _Host(Settings(state_dir=tmp_path, shape=SMALL, pool=pool), Store(tmp_path), load_image)
    templates: Any = _Templates()
    supervisor: Any = None
    workspaces: Any = None
    made = _Pool(host, supervisor, templates, workspaces)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.keep)
        yield made
        nursery.cancel_scope.cancel(reason="the test is over")


def wanted(shape: Shape = SMALL, **changes: Any) -> WorkspaceRecord:
    made = new_record(
        name="mine", image=IMAGE, shape=shape, network="user", allow_internet=False, channel="serial",
        accelerator="tcg", lifetime=Lifetime(ttl_s=5),
    )  # fmt: skip
    return attrs.evolve(made, **changes)


async def test_it_is_filled_and_refilled_only_when_half_of_it_is_gone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kept(tmp_path, PoolSettings(size=4)) as pool:
        await trio.sleep(10)
        assert (pool.info().ready, pool.info().size) == (4, 4)
        with pool.creating():
            assert pool.take(wanted())
        await trio.sleep(10)
        assert pool.info().ready == 3
        with pool.creating():
            assert pool.take(wanted())
        await trio.sleep(10)
        assert (pool.info().ready, pool.info().claimed) == (4, 2)


async def test_a_create_stops_what_is_being_restored_and_all_is_quiet_until_it_is_over(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kept(tmp_path, PoolSettings(size=1)) as pool:
        await trio.sleep(0.5)
        assert (pool.begun, pool.info().ready) == (1, 0)
        with pool.creating():
            assert pool.take(wanted()) is None
            await trio.sleep(100)
            assert (pool.begun, pool.info().ready) == (1, 0)
        await trio.sleep(2)
        assert (pool.begun, pool.info().ready, pool.info().missed) == (2, 1, 1)


async def test_only_what_was_asked_for_is_taken_and_only_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with kept(tmp_path, PoolSettings(size=1)) as pool:
        await trio.sleep(5)
        for other in (wanted(LARGE), wanted(allow_internet=True), wanted(network="none"), wanted(image_digest="new")):
            assert pool.take(other) is None
        taken = pool.take(wanted())
        assert taken is not None
        assert taken.record.id != wanted().id
        assert pool.take(wanted()) is None


async def test_the_memory_budget_bounds_all_shapes_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with kept(tmp_path, PoolSettings(size=2, shapes=(SMALL, LARGE), memory_budget_mb=256 * 2 + 512)) as pool:
        await trio.sleep(20)
        assert pool.info().ready == 3
        assert pool.take(wanted(LARGE)) is not None
        assert pool.take(wanted(LARGE)) is None


async def test_a_machine_that_does_not_come_up_is_told_of_and_tried_again_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with kept(tmp_path, PoolSettings(size=1)) as pool:
        pool.failing = 1
        await trio.sleep(5)
        assert "did not come up" in (pool.info().failure or "")
        assert pool.begun == 1
        await trio.sleep(RETRY_S)
        assert (pool.info().ready, pool.info().failure) == (1, None)


async def test_a_machine_whose_actor_is_gone_is_not_given_away(tmp_path: Path) -> None:
    async with kept(tmp_path, PoolSettings(size=0)) as pool:
        mailbox = Mailbox()
        pool._ready.append(Pooled(wanted(), ActorRef("gone", mailbox)))
        mailbox.close("it stopped")
        await wait_all_tasks_blocked()
        assert pool.take(wanted()) is None
