"""Which paths of the host a session may name, and that what was checked is what is used."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.model.errors import AgentisoError, InvalidArgument, NotFound
from agentiso.library.host_paths import PathRefused, opened


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "root" / "in" / "file").write_text("inside")
    (tmp_path / "rooted").mkdir()
    (tmp_path / "secret").write_text("outside")
    (tmp_path / "root" / "out").symlink_to(tmp_path)
    (tmp_path / "root" / "leak").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "fine").symlink_to(tmp_path / "root" / "in")
    return tmp_path / "root"


@pytest.mark.parametrize("path", ["in/file", "fine/file", "in/../in/file"])
def test_paths_within_a_root_lead_to_their_file(root: Path, path: str) -> None:
    with opened(f"{root}/{path}", [root], must_exist=True) as place:
        assert Path(place.path).read_text() == "inside"


@pytest.mark.parametrize(
    "path", ["../secret", "leak", "out/secret", "in/../../secret", "fine/../../secret", "../rooted"]
)
@pytest.mark.parametrize("must_exist", [True, False])
def test_paths_that_lead_out_of_the_roots_are_refused(root: Path, path: str, must_exist: bool) -> None:
    with pytest.raises(PathRefused), opened(f"{root}/{path}", [root], must_exist=must_exist):
        pass


def test_a_new_file_is_placed_by_the_real_directory_it_would_be_in(root: Path) -> None:
    with opened(root / "fine" / "new", [root], must_exist=False) as place:
        Path(place.path).write_text("x")
    assert (root / "in" / "new").read_text() == "x"
    with pytest.raises(PathRefused), opened(root / "out" / "new", [root], must_exist=False):
        pass


def test_a_directory_that_is_swapped_for_a_link_after_the_check_is_not_followed(root: Path) -> None:
    with opened(root / "in" / "file", [root], must_exist=True) as place:
        (root / "in").rename(root / "moved")
        (root / "in").symlink_to(root.parent)
        assert Path(place.path).read_text() == "inside"


def test_without_roots_nothing_is_open_and_the_remedy_says_how(root: Path) -> None:
    with pytest.raises(PathRefused) as caught, opened(root / "in" / "file", [], must_exist=True):
        pass
    assert "transfer_roots" in caught.value.remedy


@pytest.mark.parametrize(
    ("path", "error"),
    [("", InvalidArgument), ("x\0y", InvalidArgument), ("relative", InvalidArgument), ("/no/such", NotFound),
     ("/\ud800", NotFound), ("/" + "x" * 5000, NotFound)],
)  # fmt: skip
def test_paths_that_are_none_are_refused(path: str, error: type[AgentisoError]) -> None:
    with pytest.raises(error), opened(path, [Path("/")], must_exist=True):
        pass


def test_the_root_itself_can_be_transferred_but_not_the_whole_host(root: Path) -> None:
    with opened(root, [root], must_exist=True) as place:
        assert (Path(place.path) / "in").is_dir()
    with pytest.raises(InvalidArgument), opened("/", None, must_exist=True):
        pass
