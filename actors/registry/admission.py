"""What each session may hold: counted in one place, checked and taken in one step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import attrs

from actors.model.errors import AgentisoError, IllegalState
from actors.model.info import LIBRARY, USER, Shape
from actors.model.settings import Quotas

UNLIMITED: Final = frozenset({USER, LIBRARY})
"""They are bound by the host's limits only."""


class QuotaExceeded(AgentisoError):
    """A session asked for more than it may hold; ``facts`` has resource, limit, current and requested."""

    code = "quota_exceeded"


@attrs.frozen
class Claim:
    """What one workspace takes of its owner's quota: its whole shape, however little of it is used yet."""

    owner: str
    shape: Shape


class Ledger:
    """Which workspace takes what of whose quota.  No method waits, so none can be overtaken by another."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._claims: dict[str, Claim] = {}
        self._forking: Counter[str] = Counter()

    def take(self, claims: Mapping[str, Claim]) -> None:
        """Take what workspaces, by id and all of one owner, need: of all of them or of none.

        Raises:
            QuotaExceeded: it is more than their owner may hold.

        """
        for owner in {claim.owner for claim in claims.values()}:
            self._check(owner, [claim.shape for claim in claims.values() if claim.owner == owner])
        self._claims |= claims

    def note(self, workspace_id: str, claim: Claim) -> None:
        """Count what is there already, allowed or not."""
        self._claims[workspace_id] = claim

    def give_back(self, workspace_id: str) -> None:
        """Forget a workspace's claim, if it has one."""
        self._claims.pop(workspace_id, None)

    def move(self, workspace_id: str, owner: str, *, expected: str, checked: bool = True) -> None:
        """Have a claim be another owner's; not ``checked`` is for taking that back.

        Raises:
            QuotaExceeded: it is more than the new owner may hold.
            IllegalState: the workspace is not ``expected``'s any more.

        """
        claim = self._claims.get(workspace_id)
        if claim is None or claim.owner != expected:
            raise IllegalState("The workspace has another owner since.", remedy="List the workspaces and try again.")
        if checked:
            self._check(owner, [claim.shape])
        self._claims[workspace_id] = attrs.evolve(claim, owner=owner)

    @contextmanager
    def forking(self, owner: str, count: int) -> Iterator[None]:
        """Count children that are being started.

        Raises:
            QuotaExceeded: too many of the owner's are.

        """
        self._compare(owner, "concurrent_forks", self._forking[owner], count)
        self._forking[owner] += count
        try:
            yield
        finally:
            self._forking[owner] -= count

    def usage(self, owner: str) -> dict[str, int]:
        """Return what an owner holds, by the names of the quotas."""
        shapes = [claim.shape for claim in self._claims.values() if claim.owner == owner]
        return {**_sums(shapes), "concurrent_forks": self._forking[owner]}

    def _check(self, owner: str, shapes: list[Shape]) -> None:
        held = self.usage(owner)
        for resource, requested in _sums(shapes).items():
            self._compare(owner, resource, held[resource], requested)

    def _compare(self, owner: str, resource: str, current: int, requested: int) -> None:
        limit = getattr(self._quotas, resource)
        if owner not in UNLIMITED and current + requested > limit:
            raise QuotaExceeded(
                f"Session {owner!r} may have {limit} {resource}; it has {current} and asked for {requested} more.",
                remedy=f"Destroy what is not needed any more, or raise quotas.{resource}.",
                resource=resource,
                limit=limit,
                current=current,
                requested=requested,
            )


def _sums(shapes: list[Shape]) -> dict[str, int]:
    return {
        "workspaces": len(shapes),
        "memory_mb": sum(shape.memory_mb for shape in shapes),
        "disk_gb": sum(shape.disk_gb for shape in shapes),
    }
