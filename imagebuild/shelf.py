"""The shelf: which images there are, by digest and by name; putting one there, and taking it away.

Names and directories are changed under a lock that all processes share, by renames of whole things.  What is being
removed loses its names first, then its place, then its files; whoever comes next finishes what was interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from imagebuild.errors import ImageError
from imagebuild.image import NAMES, Image, is_digest, is_name, load_image, verify_image

REMOVING: Final = ".removing-"
LOCK: Final = ".lock"
LOCK_LIMIT_S: Final = 60.0
"""Longer than an image is read to see whether it is whole."""
LOCK_LOOK_S: Final = 0.02
USERS: Final = "users"
"""Links to the state directories that have used images of here."""


@attrs.frozen
class Shelved:
    """An image as it is found, usable or not."""

    digest: str
    """The name of its directory; empty for a name that is no link."""
    names: tuple[str, ...]
    image: Image | None
    fault: str = ""
    """Why it cannot be used."""


def list_images(images_dir: Path) -> list[Shelved]:
    """Return all images, those with names first; one that is damaged hides no other.

    Raises:
        ImageError: the directory cannot be read.

    """
    named = _names(images_dir)
    with _told(images_dir):
        entries = list(images_dir.iterdir()) if _is_there(images_dir) else []
    digests = {entry.name for entry in entries if is_digest(entry.name)} | set(named)
    found = [_shelved(images_dir, digest, tuple(sorted(named.get(digest, ())))) for digest in digests]
    return sorted(found, key=lambda each: (not each.names, each.names, each.digest))


def _names(images_dir: Path) -> dict[str, list[str]]:
    """Return the names that lead to each digest."""
    found: dict[str, list[str]] = {}
    with _told(images_dir / NAMES):
        if _is_there(images_dir / NAMES):
            for link in (images_dir / NAMES).iterdir():
                if is_name(link.name):
                    found.setdefault(link.readlink().name if link.is_symlink() else "", []).append(link.name)
    return found


def _shelved(images_dir: Path, digest: str, names: tuple[str, ...]) -> Shelved:
    if not is_digest(digest):
        return Shelved(digest, names, None, f"{images_dir / NAMES / names[0]} is no link to an image.")
    try:
        if not _is_there(images_dir / digest):
            return Shelved(digest, names, None, f"{images_dir / digest} is not there.")
        return Shelved(digest, names, load_image(images_dir, digest))
    except ImageError as error:
        return Shelved(digest, names, None, error.message)
    except OSError as error:
        return Shelved(digest, names, None, f"It cannot be read: {error}.")


def publish(name: str, images_dir: Path, made: Path, digest: str) -> Image:
    """Give a whole directory, all flushed, its place on the shelf and its name; a damaged one there is replaced."""
    with _locked(images_dir):
        final = images_dir / digest
        if not _is_intact(images_dir, digest):
            if _is_there(final):
                _set_aside(final)
            made.rename(final)
        _flush(images_dir)
        names = images_dir / NAMES
        names.mkdir(exist_ok=True)
        link = names / f".{name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / digest)
        link.rename(names / name)
        _flush(names)
    finish_removals(images_dir)
    return load_image(images_dir, name)


def _is_intact(images_dir: Path, digest: str) -> bool:
    try:
        verify_image(load_image(images_dir, digest))
    except (ImageError, OSError):
        return False
    return True


def remove_image(images_dir: Path, digest: str, names: tuple[str, ...], *, files: bool) -> bool:
    """Take names from an image, and its files if no name leads to it then; tell whether the files went.

    Whoever calls has made sure that nobody needs them.

    Raises:
        ImageError: a name leads to another image by now, and nothing was removed; or something could not be removed:
            what is hidden by then is removed the next time.

    """
    with _told(images_dir), _locked(images_dir):
        for leads_to, found in _names(images_dir).items():
            if leads_to != digest and (moved := set(found) & set(names)):
                raise ImageError(
                    f"{' '.join(sorted(moved))} is the name of another image by now; nothing was removed.",
                    remedy=f"See `agentiso image list`; this one is removed by its digest, {digest}.",
                )
        for name in names:
            (images_dir / NAMES / name).unlink(missing_ok=True)
        if _is_there(images_dir / NAMES):
            _flush(images_dir / NAMES)
        goes = files and is_digest(digest) and not _names(images_dir).get(digest)
        if goes and _is_there(images_dir / digest):
            _set_aside(images_dir / digest)
            _flush(images_dir)
    if left := finish_removals(images_dir):
        raise ImageError(
            f"The image is gone, but its files could not all be removed: {left[0]}.",
            remedy="Look at their rights; the next `agentiso image list` goes on with it.",
        )
    return goes


def finish_removals(images_dir: Path) -> list[Path]:
    """Remove the files of images that were taken off the shelf, and return what could not be removed."""
    left = []
    for path in images_dir.glob(f"{REMOVING}*"):
        if path.is_symlink():
            with contextlib.suppress(OSError):
                path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)
        if _is_there(path):
            left.append(path)
    return left


def _set_aside(directory: Path) -> None:
    directory.rename(directory.with_name(f"{REMOVING}{directory.name}-{secrets.token_hex(4)}"))


# -- state directories


def note_user(images_dir: Path, state_dir: Path) -> bool:
    """Write down that workspaces of a state directory stand on images of here; tell ``False`` if this user may not.

    Raises:
        ImageError: it cannot be written.

    """
    link = _note(images_dir, state_dir)
    with _told(link):
        try:
            if not link.is_symlink():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(state_dir.resolve())
                _flush(link.parent)
                _flush(images_dir)
        except FileExistsError:
            # Somebody else has noted it meanwhile.
            return True
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            return False
    return True


def other_users(images_dir: Path, state_dir: Path) -> list[Path]:
    """Return the other state directories that have used images of here.

    One that is not there may just not be mounted: nothing but `forget_user` ends that it counts.

    Raises:
        ImageError: they cannot be listed.

    """
    own = state_dir.resolve()
    with _told(images_dir / USERS):
        links = (images_dir / USERS).iterdir() if _is_there(images_dir / USERS) else ()
        return [target for link in links if (target := link.readlink()) != own]


def forget_user(images_dir: Path, state_dir: Path) -> bool:
    """Forget that a state directory has used images of here; tell whether that was known.

    Whoever calls knows that nothing in it is needed any more.

    Raises:
        ImageError: it cannot be forgotten.

    """
    link = _note(images_dir, state_dir)
    with _told(link):
        if not _is_there(link):
            return False
        link.unlink(missing_ok=True)
        _flush(link.parent)
    return True


def _note(images_dir: Path, state_dir: Path) -> Path:
    return images_dir / USERS / hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]


# -- how


@contextmanager
def _locked(images_dir: Path) -> Iterator[None]:
    fd = os.open(images_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(fd, images_dir)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, images_dir: Path) -> None:
    limit = time.monotonic() + LOCK_LIMIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > limit:
                raise ImageError(
                    f"Another process has changed the images in {images_dir} for {LOCK_LIMIT_S:.0f} s.",
                    remedy=f"Try again once it is done; `fuser {images_dir / LOCK}` tells which one it is.",
                ) from None
            time.sleep(LOCK_LOOK_S)
        else:
            return


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Raise what goes wrong with files as `ImageError`."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{path} fails: {error}.", remedy="Look at its disk and its rights.") from error


def _is_there(path: Path) -> bool:
    """Tell whether there is something; what cannot be looked at raises `OSError`."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _flush(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
