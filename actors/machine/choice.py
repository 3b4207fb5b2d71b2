"""The implementations of one backend protocol, and the one among them that a name means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from actors.model.errors import HostUnfit, InvalidArgument
from actors.model.text import shown


class Named(Protocol):
    """What settings and records name."""

    @property
    def name(self) -> str:
        """Its name, which no other implementation of its protocol has."""


B = TypeVar("B", bound=Named)


class Choice(Generic[B]):
    """All implementations of one protocol, the best one first."""

    def __init__(self, what: str, *known: B) -> None:
        self._what = what
        self._known = {backend.name: backend for backend in known}

    def __iter__(self) -> Iterator[B]:
        return iter(self._known.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names there are."""
        return tuple(self._known)

    def get(self, name: str) -> B | None:
        """Return the one with a name, if this version has it."""
        return self._known.get(name)

    def named(self, name: str) -> B:
        """Return the one that a record names.

        Raises:
            HostUnfit: this version has none of that name; another one wrote the record.

        """
        if (found := self._known.get(name)) is None:
            raise HostUnfit(
                f"This version of agentiso has no {self._what} {shown(name)}; it has {', '.join(self._known)}.",
                remedy="Use the version that made the workspace.",
            )
        return found

    def check(self, name: str) -> None:
        """Raise `InvalidArgument` if somebody asks for what there is not."""
        if name not in self._known:
            raise InvalidArgument(
                f"There is no {self._what} {shown(name)}.", remedy=f"Choose one of: {', '.join(self._known)}."
            )
