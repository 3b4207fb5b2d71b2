"""The directory of workspaces: who there is, by id and by name, and the names of those that are about to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from actors.model.errors import InvalidArgument, NameTaken, NotFound
from actors.model.names import check_name, new_id
from actors.model.text import shown
from actors.registry import messages as r

MIN_PREFIX_CHARS: Final = 8
MAX_CANDIDATES: Final = 20


class Directory:
    """Kept by the registry; all methods are instant."""

    def __init__(self, unread: Callable[[], Sequence[str]] = tuple) -> None:
        """Make an empty one; ``unread`` tells of the workspaces that cannot be read, whose names nobody knows."""
        self._unread = unread
        self._found: dict[str, r.Found] = {}
        self._reserved: set[str] = set()

    def __len__(self) -> int:
        """How many there are, and are about to be."""
        named = {found.name for found in self._found.values()}
        return len(self._found) + len(self._reserved - named)

    def __contains__(self, workspace_id: str) -> bool:
        return workspace_id in self._found

    def all(self) -> tuple[r.Found, ...]:
        """Return all that there are."""
        return tuple(self._found.values())

    def get(self, workspace_id: str) -> r.Found | None:
        """Return the one with an id, whole."""
        return self._found.get(workspace_id)

    def put(self, found: r.Found) -> None:
        """Enter a workspace, or change its entry."""
        self._found[found.workspace_id] = found

    def remove(self, workspace_id: str) -> None:
        """Take an entry out, if it is there."""
        self._found.pop(workspace_id, None)

    def find(self, text: str) -> r.Found:
        """Return the workspace that a text names: by its id, its name, or an unambiguous beginning of its id.

        Raises:
            NotFound: there is none, or more than one.

        """
        if text in self._found:
            return self._found[text]
        # Two may have one name, if one of them could not be read when the other was made.
        namesakes = [found for found in self._found.values() if text == found.name]
        if len(namesakes) == 1:
            return namesakes[0]
        if namesakes:
            ids = ", ".join(sorted(found.workspace_id for found in namesakes))
            raise NotFound(f"{len(namesakes)} workspaces are named {shown(text)}: {ids}.", remedy="Use an id.")
        matching = [found for key, found in self._found.items() if text and key.startswith(text)]
        if len(matching) == 1 and len(text) >= MIN_PREFIX_CHARS:
            return matching[0]
        known = ", ".join(sorted(found.name for found in self._found.values())[:MAX_CANDIDATES]) or "none"
        message, remedy = f"There is no workspace {shown(text)}; there are: {known}.", "workspace_list lists them."
        if matching:
            named = sorted(f"{found.name} ({found.workspace_id})" for found in matching)[:MAX_CANDIDATES]
            message += f" The ids of {len(matching)} begin like that: {', '.join(named)}."
            remedy = f"Use a name, or at least {MIN_PREFIX_CHARS} digits of an id."
        elif unread := self._unread():
            message = f"Of the workspaces that can be read, none is {shown(text)}; there are: {known}."
            message += f" What cannot be read: {', '.join(unread[:MAX_CANDIDATES])}."
            remedy = "`agentiso doctor` tells what is wrong, and what would mend it."
        raise NotFound(message, remedy=remedy)

    # -- names

    @contextmanager
    def reserved(self, *names: str) -> Iterator[None]:
        """Keep names from all others for the length of a block, in which their workspaces come to be.

        Raises:
            InvalidName: one is no name.
            NameTaken: one is a workspace's, or about to be.

        """
        mine: list[str] = []
        try:
            for name in names:
                check_name(name)
                if name in self._taken():
                    raise NameTaken(
                        f"There is a workspace {name!r} already.", remedy="Choose another name or destroy it."
                    )
                self._reserved.add(name)
                mine.append(name)
            yield
        finally:
            self._reserved.difference_update(mine)

    def _taken(self) -> set[str]:
        return self._reserved | {found.name for found in self._found.values()}

    def free_name(self, wanted: str) -> str:
        """Return a name that nobody has: the wanted one, or one like it."""
        return f"{wanted[:50]}-{new_id()[:8]}" if wanted in self._taken() else wanted

    def fork_names(self, parent: str, message: r.ForkWorkspace, most: int) -> list[str]:
        """Return the names of a fork's children, at ``most`` so many: those asked for, or the first free ones.

        Raises:
            InvalidArgument: so many are not allowed, or other names were given than are needed.

        """
        if not 1 <= message.count <= most:
            raise InvalidArgument(
                f"A fork of {message.count} was asked for; 1 to {most} are allowed.", remedy="Choose another count."
            )
        if message.names is not None:
            if len(message.names) != message.count or len(set(message.names)) != message.count:
                raise InvalidArgument(
                    f"{message.count} distinct names are needed, {len(message.names)} were given.",
                    remedy="Give one name for each child, or name_prefix.",
                )
            return list(message.names)
        prefix = message.name_prefix or f"{parent[:48]}-fork"
        taken, names, number = self._taken(), list[str](), 1
        while len(names) < message.count:
            if f"{prefix}-{number}" not in taken:
                names.append(f"{prefix}-{number}")
            number += 1
        return names
