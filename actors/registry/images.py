"""The images that the workspaces of this host stand on: listed with their users, removed when they have none.

Templates and machines of the pool are caches, and go with their image.  Everything else that stands on an image keeps
its files, and so does what cannot be read: what it stands on is not known.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Final

import attrs
import trio

from actors.machine.storage.store import Store
from actors.model.errors import AgentisoError, HostUnfit, ImageInUse, NotFound
from actors.model.info import ImageInfo, ImageRemoval, Trouble
from actors.model.text import shown
from actors.registry.image_users import TEMPLATE, WORKSPACE, User, Users, read_users, texts
from actors.registry.places import is_whole
from actors.registry.pool import THE_POOL, Pool
from actors.registry.templates import Templates
from actors.registry.workspaces import Workspaces
from actors.workspace.host import Host
from actors.workspace.image_uses import ImageShelf

MIN_PREFIX_CHARS: Final = 8


class Images:
    """Kept by the registry."""

    def __init__(self, host: Host, workspaces: Workspaces, templates: Templates, pool: Pool) -> None:
        self._host = host
        self._workspaces = workspaces
        self._templates = templates
        self._pool = pool
        self._removing = trio.Lock()

    @property
    def _shelf(self) -> ImageShelf:
        if self._host.shelf is None:
            raise HostUnfit("This supervisor has no directory of images.", remedy="Use the agentiso command.")
        return self._host.shelf

    # -- told of

    async def list(self) -> tuple[ImageInfo, ...]:
        """Describe all images, and who uses each."""
        found, (users, elsewhere) = await self._shelf.list(), await self._users()
        return tuple(attrs.evolve(image, used_by=self._told(image.digest, users, elsewhere)) for image in found)

    async def _users(self) -> tuple[Users, dict[Path, Users]]:
        """Return the users here, with the states that they have now, and those in other state directories."""
        host, states = self._host, {info.workspace_id: info.state for info in await self._workspaces.list()}
        async with host.store.nothing_removed():
            here = await trio.to_thread.run_sync(read_users, host.state_dir, host.store.layers)
        for users in here.by_digest.values():
            users[:] = [attrs.evolve(user, state=states.get(user.id, user.state)) for user in users]
        others = await self._shelf.others()
        return here, {path: await trio.to_thread.run_sync(_read_other, path) for path in others}

    def _told(self, digest: str, here: Users, elsewhere: dict[Path, Users]) -> tuple[str, ...]:
        """Return all users of an image as people read them."""
        under_way = [f"{what}, which is under way" for what in self._host.image_uses.of(digest)]
        told = [*under_way, *texts(tuple(map(self._shown, here.of(digest)))), *here.doubtful]
        for path, users in elsewhere.items():
            told += [f"{text}, of {path}" for text in (*texts(users.of(digest)), *users.doubtful)]
        return tuple(told)

    def _shown(self, user: User) -> User:
        return attrs.evolve(user, state="of the pool") if user.id in self._pool.ids else user

    async def troubles(self) -> tuple[Trouble, ...]:
        """Tell of other state directories that keep all images, since it cannot be read which theirs are."""
        if self._host.shelf is None:
            return ()
        try:
            others = await self._shelf.others()
        except AgentisoError as error:
            return (Trouble("the images", "", error.message, error.remedy),)
        whys = [(path, await trio.to_thread.run_sync(_why_unread, path)) for path in others]
        return tuple(
            Trouble(
                f"state directory {path}",
                str(path),
                f"Its workspaces may stand on any image, so none can be removed: {why}.",
                f"Mount it, or put it back; if it is gone for good: {_forget(path)}",
            )
            for path, why in whys
            if why
        )

    # -- removed

    async def remove(self, text: str, *, force: bool) -> ImageRemoval:
        """Remove an image by name, digest or a beginning of that; with ``force`` at least its name.

        Raises:
            NotFound: there is none, or more than one.
            ImageInUse: something stands on it, or may do so.

        """
        async with self._removing:
            with self._pool.creating():
                return await self._remove(text, force=force)

    async def _remove(self, text: str, *, force: bool) -> ImageRemoval:
        image = find_image(await self._shelf.list(), text)
        names = (text,) if text in image.names else image.names
        if set(names) != set(image.names):
            # It is known by another name, and nothing but this one goes.
            return await self._take_names(image, names, ())
        if users := await self._keepers(image.digest):
            return await self._refuse_or_unname(image, names, users, force=force)
        dropped = await self._drop_caches(image.digest)
        async with self._host.image_uses.none_new():
            here, elsewhere = await self._users()
            if users := self._told(image.digest, here, elsewhere):
                return await self._refuse_or_unname(image, names, users, force=force)
            gone = await self._shelf.remove(image.digest, names, files=True)
        return ImageRemoval(image.digest, names, gone, dropped)

    async def _keepers(self, digest: str) -> tuple[str, ...]:
        """Return who keeps an image, caches and what may belong to them apart."""
        here, elsewhere = await self._users()
        workspaces = [user for user in here.of(digest) if user.kind == WORKSPACE and user.id not in self._pool.ids]
        here.by_digest[digest] = workspaces
        pooling = f"{THE_POOL}, which is under way"
        return tuple(told for told in self._told(digest, here, elsewhere) if told != pooling)

    async def _drop_caches(self, digest: str) -> tuple[str, ...]:
        ended = await self._pool.drop(digest)
        dropped = [str(User(TEMPLATE, info)) for info in await self._templates.drop_of(digest)]
        return (*dropped, *([f"{ended} of the pool's machines"] if ended else []))

    async def _refuse_or_unname(
        self, image: ImageInfo, names: tuple[str, ...], users: tuple[str, ...], *, force: bool
    ) -> ImageRemoval:
        if force and names:
            return await self._take_names(image, names, users)
        what = f"The image {' '.join(image.names) or image.digest}"
        _, elsewhere = await self._users()
        gone = [command for others in elsewhere.values() for command in others.gone]
        keeps = "Destroy what is not needed any more"
        if gone:
            keeps = (
                f"Mount the state directory that is not there, or if it is gone for good: {'; '.join(gone)}. {keeps}"
            )
        raise ImageInUse(
            f"{what} is used, or may be: {'; '.join(users)}.",
            remedy=f"{keeps}, or remove its name alone (--force); its files stay then." if names else f"{keeps}.",
        )

    async def _take_names(self, image: ImageInfo, names: tuple[str, ...], users: tuple[str, ...]) -> ImageRemoval:
        await self._shelf.remove(image.digest, names, files=False)
        return ImageRemoval(image.digest, names, files_removed=False, used_by=users)


def find_image(images: tuple[ImageInfo, ...], text: str) -> ImageInfo:
    """Return the image that a text names: by its digest, by a name, or by an unambiguous beginning of its digest.

    Raises:
        NotFound: there is none, or more than one.

    """
    for image in images:
        if text and text == image.digest:
            return image
    for image in images:
        if text in image.names:
            return image
    matching = [image for image in images if len(text) >= MIN_PREFIX_CHARS and image.digest.startswith(text)]
    if len(matching) == 1:
        return matching[0]
    known = ", ".join(name for image in images for name in (image.names or (image.digest,))) or "none"
    raise NotFound(
        f"{len(matching) or 'No'} images are named {shown(text)}; there are: {known}.",
        remedy=f"Use a name, or at least {MIN_PREFIX_CHARS} digits of a digest.",
    )


def _read_other(state_dir: Path) -> Users:
    """Read who uses images in another state directory; if it is not there or not whole, anybody in it may."""
    if not (why := _why_unread(state_dir)):
        return read_users(state_dir, Store(state_dir).layers)
    forget = _forget(state_dir)
    return Users(doubtful=[f"workspaces that cannot be read ({why}; if it is gone for good: {forget})"], gone=[forget])


def _why_unread(state_dir: Path) -> str:
    """Return why it cannot be read what is in another state directory; empty if it can."""
    try:
        return "" if is_whole(state_dir) else "the directory, or one in it, is not there, perhaps not mounted"
    except OSError as error:
        return error.strerror or str(error)


def _forget(state_dir: Path) -> str:
    return f"agentiso image forget {shlex.quote(str(state_dir))}"
