"""Who may come to be: names, places, quotas and memory, checked and taken in one step that waits for nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

import attrs

from actors.machine.limits.memory import MemoryLedger
from actors.model.errors import AgentisoError, IllegalState, NoCapacity
from actors.model.info import LIBRARY, USER, Shape
from actors.model.names import new_id
from actors.model.settings import Quotas
from actors.registry.directory import Directory

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

    def move(self, workspace_id: str, owner: str, *, expected: str) -> None:
        """Have a claim be another owner's.

        Raises:
            QuotaExceeded: it is more than the new owner may hold.
            IllegalState: the workspace is not ``expected``'s any more.

        """
        claim = self._claims.get(workspace_id)
        if claim is None or claim.owner != expected:
            raise IllegalState("The workspace has another owner since.", remedy="List the workspaces and try again.")
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


@attrs.frozen
class Entrant:
    """A workspace that is about to be."""

    name: str
    owner: str
    shape: Shape
    id: str = attrs.field(factory=new_id)


class Admission:
    """The one place where workspaces are let in."""

    def __init__(self, directory: Directory, ledger: Ledger, memory: MemoryLedger, *, max_workspaces: int) -> None:
        self._directory = directory
        self._ledger = ledger
        self._memory = memory
        self._max_workspaces = max_workspaces

    @contextmanager
    def admitted(self, *entrants: Entrant, memory_mb: int, forked: bool = False) -> Iterator[None]:
        """Take what workspaces of one owner need, for all of them or for none, for the length of a block.

        They come to be in the block, or do not: what those have taken that are not in the directory at its end is given
        back.  The memory is that of their starts, and given back in any case.

        Raises:
            InvalidName, NameTaken: a name cannot be had.
            NoCapacity: there would be more workspaces than are allowed, or the host has not the memory.
            QuotaExceeded: it is more than their owner may hold.

        """
        with ExitStack() as taken:
            self._check_places(len(entrants))
            taken.enter_context(self._directory.reserved(*(entrant.name for entrant in entrants)))
            if forked:
                taken.enter_context(self._ledger.forking(entrants[0].owner, len(entrants)))
            taken.enter_context(self._taken_of_quota(entrants))
            taken.enter_context(self._memory.reserved(memory_mb))
            yield

    def _check_places(self, count: int) -> None:
        if len(self._directory) + count > self._max_workspaces:
            raise NoCapacity(
                f"{count} more would exceed the limit of {self._max_workspaces} workspaces.",
                remedy="Destroy some, or raise limits.max_workspaces.",
            )

    @contextmanager
    def _taken_of_quota(self, entrants: tuple[Entrant, ...]) -> Iterator[None]:
        self._ledger.take({entrant.id: Claim(entrant.owner, entrant.shape) for entrant in entrants})
        try:
            yield
        finally:
            for entrant in entrants:
                if entrant.id not in self._directory:
                    self._ledger.give_back(entrant.id)


def _sums(shapes: list[Shape]) -> dict[str, int]:
    return {
        "workspaces": len(shapes),
        "memory_mb": sum(shape.memory_mb for shape in shapes),
        "disk_gb": sum(shape.disk_gb for shape in shapes),
    }
