"""The shelf of images: what is published is whole, what is listed hides nothing, what is removed can be interrupted."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

import imagebuild
from imagebuild import ImageError, shelf
from imagebuild.image import MANIFEST, NAMES
from imagebuild.shelf import REMOVING
from tests.images import put_image


def listed(images: Path) -> list[tuple[tuple[str, ...], str, bool]]:
    return [(each.names, each.digest, not each.fault) for each in imagebuild.list_images(images)]


def remove(images: Path, image: imagebuild.Image, *names: str, files: bool = True) -> bool:
    return imagebuild.remove_image(images, image.digest, names, files=files)


def test_an_image_that_was_built_anew_is_listed_by_its_digest_and_can_be_removed(tmp_path: Path) -> None:
    old, new = put_image(tmp_path, "base", "old"), put_image(tmp_path, "base", "new")
    assert listed(tmp_path) == [(("base",), new.digest, True), ((), old.digest, True)]
    assert remove(tmp_path, old)
    assert listed(tmp_path) == [(("base",), new.digest, True)]


def test_an_image_keeps_its_files_while_a_name_leads_to_it(tmp_path: Path) -> None:
    image = put_image(tmp_path, "base", "one")
    assert put_image(tmp_path, "other", "one") == image
    assert not remove(tmp_path, image, "base")
    assert listed(tmp_path) == [(("other",), image.digest, True)]
    assert remove(tmp_path, image, "other")
    assert listed(tmp_path) == []
    assert not list(tmp_path.glob(f"{REMOVING}*"))


def test_a_name_alone_can_be_removed(tmp_path: Path) -> None:
    image = put_image(tmp_path, "base", "one")
    assert not remove(tmp_path, image, "base", files=False)
    assert listed(tmp_path) == [((), image.digest, True)]
    assert imagebuild.load_image(tmp_path, image.digest) == image


@pytest.mark.parametrize("damage", ["manifest", "missing", "another's", "size", "no directory"])
def test_a_damaged_image_hides_no_other_and_says_what_is_wrong(tmp_path: Path, damage: str) -> None:
    good, bad = put_image(tmp_path, "good", "good"), put_image(tmp_path, "bad", "bad one")
    match damage:
        case "manifest":
            replace(bad.directory / MANIFEST, "{")
        case "missing":
            (bad.directory / "root.img").unlink()
        case "another's":
            replace(bad.directory / MANIFEST, (good.directory / MANIFEST).read_text())
        case "size":
            replace(bad.directory / "root.img", "short")
        case "no directory":
            shutil.rmtree(bad.directory)
    assert listed(tmp_path) == [(("bad",), bad.digest, False), (("good",), good.digest, True)]
    assert remove(tmp_path, bad, "bad")
    assert listed(tmp_path) == [(("good",), good.digest, True)]


def replace(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


def test_images_that_cannot_be_listed_are_an_error_and_not_none(tmp_path: Path) -> None:
    assert imagebuild.list_images(tmp_path / "nowhere") == []
    (tmp_path / NAMES).write_text("a file")
    with pytest.raises(ImageError, match="names fails"):
        imagebuild.list_images(tmp_path)


@pytest.mark.parametrize("step", [os.rename, os.unlink])
def test_a_removal_that_ends_in_its_middle_is_finished_by_whoever_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: object
) -> None:
    image, other = put_image(tmp_path, "base", "one"), put_image(tmp_path, "other", "two")

    def dies(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # The directory's new name, or the first of its files.
        if step is os.rename:
            patch.setattr(Path, "rename", dies)
        else:
            patch.setattr(shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            remove(tmp_path, image, "base")
    if step is os.rename:
        # It is whole, has no name, and is removed by its digest.
        assert listed(tmp_path) == [(("other",), other.digest, True), ((), image.digest, True)]
        assert remove(tmp_path, image)
    else:
        assert listed(tmp_path) == [(("other",), other.digest, True)]
        assert imagebuild.finish_removals(tmp_path) == []
    assert {path.name for path in tmp_path.iterdir() if not path.is_file()} == {NAMES, other.digest}


@pytest.mark.parametrize("half_made", [True, False])
def test_a_build_replaces_what_is_half_made_or_damaged_under_its_digest(tmp_path: Path, *, half_made: bool) -> None:
    image = put_image(tmp_path, "base", "content")
    if half_made:
        (image.directory / "root.img").unlink()
        (image.directory / MANIFEST).unlink()
        (tmp_path / NAMES / "base").unlink()
    else:
        replace(image.directory / "root.img", "CONTENT")
    assert put_image(tmp_path, "base", "content") == image
    imagebuild.verify_image(imagebuild.load_image(tmp_path, "base"))
    assert listed(tmp_path) == [(("base",), image.digest, True)]


def test_a_build_leaves_a_whole_image_of_its_digest_as_it_is(tmp_path: Path) -> None:
    inode = put_image(tmp_path, "base", "content").file("root.img").stat().st_ino
    assert put_image(tmp_path, "again", "content").file("root.img").stat().st_ino == inode


def test_a_state_directory_that_uses_images_counts_until_it_is_forgotten_wherever_it_is(tmp_path: Path) -> None:
    images, one, far = tmp_path / "images", tmp_path / "one", tmp_path / "mounted" / "state"
    for path in (images, one, far):
        path.mkdir(parents=True)
        assert imagebuild.note_user(images, path)
    assert imagebuild.note_user(images, one)
    assert set(imagebuild.other_users(images, one)) == {images, far}
    # Its file system is not mounted, or it was removed: that cannot be told.
    shutil.rmtree(far)
    assert set(imagebuild.other_users(images, one)) == {images, far}
    shutil.rmtree(far.parent)
    assert set(imagebuild.other_users(images, one)) == {images, far}
    assert imagebuild.forget_user(images, far)
    assert not imagebuild.forget_user(images, far)
    assert imagebuild.other_users(images, one) == [images]


def test_a_user_that_cannot_be_noted_is_an_error_but_where_that_is_not_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int, *_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "symlink_to", partial(fails, errno.ENOSPC))
    with pytest.raises(ImageError, match="No space left"):
        imagebuild.note_user(tmp_path, tmp_path)
    monkeypatch.setattr(Path, "symlink_to", partial(fails, errno.EACCES))
    assert not imagebuild.note_user(tmp_path, tmp_path)


def test_a_name_that_leads_to_another_image_by_now_is_left_alone(tmp_path: Path) -> None:
    old = put_image(tmp_path, "base", "old")
    other = put_image(tmp_path, "other", "old")
    assert other == old
    new = put_image(tmp_path, "base", "new")
    with pytest.raises(ImageError, match="base is the name of another image by now; nothing was removed"):
        remove(tmp_path, old, "base", "other")
    assert listed(tmp_path) == [(("base",), new.digest, True), (("other",), old.digest, True)]


def test_images_that_another_process_changes_for_good_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = put_image(tmp_path, "base", "one")
    monkeypatch.setattr(shelf, "LOCK_LIMIT_S", 0.1)
    with (tmp_path / shelf.LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ImageError, match="Another process has changed the images"):
            remove(tmp_path, image, "base")
    assert remove(tmp_path, image, "base")
