"""No wait for a supervisor is without a bound: one that has welcomed its client can still come to a standstill.

That something takes long says nothing, and not every service says anything meanwhile.  So whoever waits asks now and
then, on a connection of its own, whether the supervisor still answers at all.
"""

from __future__ import annotations

from typing import Final, NoReturn

import trio

from actors.model.errors import AgentisoError, SupervisorGone
from actors.model.settings import Settings
from agentiso.client.dialling import connect_running
from agentiso.protocol.greeting import Greeting

SILENCE_S: Final = 30.0


async def check_answers(settings: Settings) -> None:
    """Return if the supervisor answers, whatever it says; one that is ending closes its connections itself.

    Raises:
        SupervisorGone: it does not.

    """
    try:
        found = await connect_running(settings, Greeting("status"))
    except SupervisorGone:
        raise
    except AgentisoError:
        return
    if found is not None:
        await trio.aclose_forcefully(found[0])


async def watch(settings: Settings, what: str, remedy: str) -> NoReturn:
    """Raise `SupervisorGone` once the supervisor does not answer any more; ``what`` says what is unknown then."""
    while True:
        await trio.sleep(SILENCE_S)
        try:
            await check_answers(settings)
        except SupervisorGone as error:
            raise SupervisorGone(
                f"The supervisor runs and does not answer any more; {what}.",
                remedy=f"{remedy} {error.remedy}",
            ) from error
