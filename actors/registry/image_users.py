"""Who stands on which image, as far as it can be read from a state directory; what cannot be read may stand on any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from actors.machine.storage.layers import Layers
from actors.model import record as records
from actors.model.errors import AgentisoError
from actors.model.names import short
from actors.model.states import State
from actors.registry.templates import images_of_templates

WORKSPACE: Final = "workspace"
TEMPLATE: Final = "template"
LAYER: Final = "disk layer"
DIGEST_CHARS: Final = 32


@attrs.frozen
class User:
    """Something that stands on an image."""

    kind: str
    id: str
    name: str = ""
    """Of a workspace."""
    state: str = ""
    snapshots: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.kind != WORKSPACE:
            return f"{self.kind} {short(self.id)}"
        kept = f", with the snapshots {', '.join(self.snapshots)}" if self.snapshots else ""
        return f"{self.kind} {self.name} ({self.state}{kept})"


@attrs.define
class Users:
    """All users in one state directory."""

    by_digest: dict[str, list[User]] = attrs.field(factory=dict)
    doubtful: list[str] = attrs.field(factory=list)
    """What cannot be read, and so may stand on any image."""
    gone: list[str] = attrs.field(factory=list)
    """The command that mends that, where all of it is gone for good."""

    def of(self, digest: str) -> tuple[User, ...]:
        """Return those of one image."""
        return tuple(self.by_digest.get(digest, ()))

    def add(self, digest: str, user: User) -> None:
        """Enter one."""
        self.by_digest.setdefault(digest, []).append(user)


def read_users(state_dir: Path, layers: Layers) -> Users:
    """Read every record, and the header of every layer: a record may be older than what stands on an image."""
    users = Users()
    for part, look in (("workspaces", _workspaces), ("templates", _templates)):
        try:
            look(state_dir / part, users)
        except FileNotFoundError:
            # Nothing of that kind was ever made there.
            continue
        except OSError as error:
            users.doubtful.append(f"the {part} in {state_dir}, which cannot be listed: {error.strerror}")
    try:
        _layers(layers, users)
    except FileNotFoundError:
        pass
    except OSError as error:
        users.doubtful.append(f"the disk layers in {state_dir}, which cannot be listed: {error.strerror}")
    return users


def _workspaces(root: Path, users: Users) -> None:
    for directory in sorted(root.iterdir()):
        try:
            if not records.may_be_workspace(directory):
                continue
            if records.is_empty(directory):
                # About to be made, by work that says so, or left by such work.
                continue
            record = records.load(directory)
        except (AgentisoError, OSError) as error:
            if not _is_gone(directory):
                users.doubtful.append(f"workspace {directory.name}, whose record cannot be read: {_said(error)}")
            continue
        kept = tuple(snapshot.name for snapshot in record.snapshots)
        state = "being made" if record.state is State.CREATING else record.state
        users.add(record.image_digest, User(WORKSPACE, record.id, record.name, state, kept))


def _templates(root: Path, users: Users) -> None:
    for path, digest in images_of_templates(root):
        if digest is None:
            users.doubtful.append(f"template {short(path.stem)}, whose record cannot be read")
        else:
            users.add(digest, User(TEMPLATE, path.stem))


def _layers(layers: Layers, users: Users) -> None:
    for layer in sorted(layers.owned()):
        try:
            base = layers.base(layer)
        except (AgentisoError, OSError) as error:
            if layer in layers.owned():
                users.doubtful.append(f"disk layer {short(layer)}, which cannot be read: {_said(error)}")
            continue
        if (digest := _digest_in(base)) is None:
            users.doubtful.append(f"disk layer {short(layer)}, which stands on {base or 'nothing'}")
        else:
            users.add(digest, User(LAYER, layer))


def _digest_in(base: Path | None) -> str | None:
    """Return the digest of the image whose root disk a path is.

    The directory's name alone counts: the images may have been moved, or be reached by another path.
    """
    return base.parent.name if base is not None and len(base.parent.name) == DIGEST_CHARS else None


def _is_gone(directory: Path) -> bool:
    try:
        directory.lstat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _said(error: Exception) -> str:
    return error.message if isinstance(error, AgentisoError) else str(error)


def texts(users: tuple[User, ...]) -> Iterator[str]:
    """Yield what people read of users: layers only where nothing else tells why they are there."""
    telling = [user for user in users if user.kind != LAYER]
    yield from map(str, telling or users)
