"""Who a guest is, as it is told, and what it says of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from actors.machine.network.protocol import NetworkIdentity
from actors.model.info import CarriedJob, HookOutcome
from guest.untrusted import finite, whole

MAX_HOOKS: Final = 100
MAX_CARRIED_JOBS: Final = 1000


@attrs.frozen
class Identity:
    """Who a guest is from now on."""

    epoch: str
    time_ns: int
    entropy: bytes = attrs.field(repr=False)
    hostname: str
    nonce: bytes
    key: bytes = attrs.field(repr=False)
    """The channel's key from the next connection on."""
    machine_id: str
    network: NetworkIdentity | None
    rehearsal: bool = False
    """Whether this is no restore, and so not counted as one."""


@attrs.frozen
class IdentityReply:
    """What became of it."""

    previous_nonce: str | None
    generation: int
    rng_reseeded: bool
    clock_step_s: float
    hostname: str
    mac: str | None
    address: str | None
    connections_closed: int
    failures: dict[str, str]
    hooks: tuple[HookOutcome, ...]
    jobs: tuple[CarriedJob, ...]

    @classmethod
    def of(cls, reply: Mapping[str, Any]) -> IdentityReply:
        """Read the guest's answer, each part cut to a length that is enough; what is malformed raises `MALFORMED`."""
        return cls(
            previous_nonce=_optional_text(reply["previous_nonce"]),
            generation=whole(reply["generation"]),
            rng_reseeded=reply["rng_reseeded"] is True,
            clock_step_s=finite(reply["clock_step_s"]),
            hostname=str(reply["hostname"])[:255],
            mac=_optional_text(reply.get("mac")),
            address=_optional_text(reply.get("address")),
            connections_closed=whole(reply["connections_closed"]),
            failures={str(part)[:50]: str(text)[:500] for part, text in dict(reply["failures"]).items()},
            hooks=tuple(
                HookOutcome(str(hook["name"])[:255], _optional_int(hook["exit_code"]), str(hook["error"])[:500])
                for hook in list(reply["hooks"])[:MAX_HOOKS]
            ),
            jobs=tuple(
                CarriedJob(
                    str(job["job"])[:32],
                    None if job["carried_from"] is None else str(job["carried_from"])[:32],
                    str(job["command"])[:200],
                )
                for job in list(reply["jobs"])[:MAX_CARRIED_JOBS]
            ),
        )


def _optional_int(value: object) -> int | None:
    return None if value is None else whole(value)


def _optional_text(value: object) -> str | None:
    return None if value is None else str(value)[:255]
