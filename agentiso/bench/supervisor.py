"""The row about the supervisor alone: how soon it answers when it has a thousand workspaces.

The registry and the workspaces' actors are the real ones, over records of workspaces whose machines are stopped.
"""

from __future__ import annotations

import random
import time
from typing import Final

import attrs
import trio

from actors.model import record as records
from actors.model.image import BootImage
from actors.model.info import Lifetime
from actors.model.settings import Settings
from actors.model.states import State
from agentiso.bench.bench import Bench, Plan, ms_since
from agentiso.bench.result import Aim, Found
from agentiso.library.image_shelf import loader
from agentiso.library.opening import open_system
from agentiso.library.system import System

WORKSPACES: Final = 1000
CLIENTS: Final = 10
ASKS: Final = 100
"""Of each client, in a round."""


async def _supervisor_ask(bench: Bench, number: int) -> Found:
    settings = bench.system.settings
    settings = attrs.evolve(
        settings,
        state_dir=settings.state_dir / f"thousand-{number}",
        images_dir=settings.images,
        limits=attrs.evolve(settings.limits, max_workspaces=WORKSPACES),
    )
    image = await loader(settings.images)(settings.image)
    await trio.to_thread.run_sync(_write_records, settings, image)
    figures: list[float] = []
    async with open_system(settings, keep=True) as system, trio.open_nursery() as nursery:
        for seed in range(CLIENTS):
            nursery.start_soon(_ask, system, seed, figures)
    return Found(figures)


def _write_records(settings: Settings, image: BootImage) -> None:
    for number in range(WORKSPACES):
        record = records.new_record(
            name=f"simulated-{number}", image=image, shape=settings.shape, network=settings.network,
            allow_internet=False, channel=settings.channel, accelerator="tcg", lifetime=Lifetime(),
        )  # fmt: skip
        records.directory_of(settings.state_dir, record.id).mkdir(parents=True)
        records.save(settings.state_dir, attrs.evolve(record, state=State.STOPPED))


async def _ask(system: System, seed: int, figures: list[float]) -> None:
    """Find a workspace by name and have it describe itself, again and again, as fast as it answers."""
    chance = random.Random(seed)  # noqa: S311 - which ones are asked is no secret
    for _ in range(ASKS):
        began = time.perf_counter()
        workspace = await system.get(f"simulated-{chance.randrange(WORKSPACES)}")
        await workspace.info()
        figures.append(ms_since(began) / 2)


PLANS: Final = (Plan("supervisor_ask", "ms", 5, 1, Aim(max_p99=5), _supervisor_ask),)
