"""What may go to git as an address or a name, what is cut out of its words, and how its status is read."""

from __future__ import annotations

import pytest

from actors.model.errors import InvalidArgument
from actors.model.guest import ExecResult
from agentiso.library.git import _failure
from agentiso.library.git_text import check_ref, check_remote, check_url, hint, parse_status, redact

TOKEN = "ghp_Secret%2Fvalue"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a/b.git",
        "http://127.0.0.1:8080/x",
        "git://host/repo",
        "ssh://git@host:2222/~user/repo.git",
        "git@host.example:group/repo.git",
        "https://[::1]:80/x",
    ],
)
def test_addresses_of_every_allowed_kind_are_taken_as_they_are(url: str) -> None:
    assert check_url(url).url == url


@pytest.mark.parametrize(
    "url",
    [
        "", "-u./evil", "--upload-pack=x", "ext::sh -c id", "file:///etc", "/etc", "../x", "ssh://-oProxyCommand=id/x",
        "-oProxyCommand=id:x", "host:-x", "https://h/x;id", "https://h/$(id)", "https://h/`id`", "https://h/a b",
        "https://h/x\n", "https://h/\0", "https://h/'x'", "ftp://h/x", "https://", "git@host::x", "h:" + "x" * 3000,
        "https://h/\udc80",
    ],
)  # fmt: skip
def test_addresses_that_git_or_a_shell_might_take_for_something_else_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        check_url(url)


def test_a_token_is_taken_out_of_the_address_and_out_of_all_text() -> None:
    address = check_url(f"https://user:{TOKEN}@host/x.git")
    assert address.url == "https://host/x.git"
    assert TOKEN not in repr(address)
    said = f"fatal: unable to access 'https://user:{TOKEN}@host/x.git/': {TOKEN} and ghp_Secret/value refused"
    assert redact(said, address) == "fatal: unable to access 'https://***@host/x.git/': *** and *** refused"
    alone = check_url("https://justatoken@host/x")
    assert redact("justatoken", alone) == "***"
    with pytest.raises(InvalidArgument) as caught:
        check_url("https://user:secret@host/a b")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "-f", "a..b", "a@{1}", "a b", "a.lock", "x/", "a//b", "a\n", "$(id)", "x" * 300])
def test_names_that_are_no_refs_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        check_ref(name)
    with pytest.raises(InvalidArgument):
        check_remote(name + "/")
    assert (check_ref("feature/x-1.2"), check_remote("my.fork")) == ("feature/x-1.2", "my.fork")


def test_a_status_with_every_kind_of_change_is_read() -> None:
    sha = "0" * 40
    output = "\0".join(
        [
            f"# branch.oid {sha}", "# branch.head topic", "# branch.upstream origin/topic", "# branch.ab +2 -3",
            f"1 M. N... 100644 100644 100644 {sha} {sha} staged file",
            f"1 .M N... 100644 100644 100644 {sha} {sha} changed",
            f"1 MM N... 100644 100644 100644 {sha} {sha} both",
            f"2 R. N... 100644 100644 100644 {sha} {sha} R100 new name", "old name",
            f"u UU N... 100644 100644 100644 100644 {sha} {sha} {sha} fight",
            "? unknown file", "",
        ]
    )  # fmt: skip
    status = parse_status(output)
    assert (status.branch, status.ahead, status.behind) == ("topic", 2, 3)
    assert status.staged == ("staged file", "both", "new name")
    assert status.modified == ("changed", "both")
    assert (status.conflicted, status.untracked) == (("fight",), ("unknown file",))
    assert (status.changes, status.dirty) == (7, True)


def test_a_clean_detached_tree_is_read_as_such() -> None:
    status = parse_status("# branch.oid abc\0# branch.head (detached)\0")
    assert (status.branch, status.dirty) == (None, False)


def test_each_usual_failure_has_its_advice() -> None:
    assert "allow_internet" in hint("fatal: unable to access: Could not resolve host: example.org")
    assert "token" in hint("fatal: could not read Username for 'https://h'")
    assert "force" in hint("! [rejected] main -> main (non-fast-forward)")
    assert hint("something else") == ""


def test_a_failure_is_told_without_the_options_that_git_lists_after_it() -> None:
    said = b"warning: Not a git repository. Use --no-index\nusage: git diff --no-index\n" + b"    --option\n" * 500
    error = _failure(ExecResult(129, None, b"", said, 0, len(said), timed_out=False, duration_s=0.1))
    assert error.message == "Git failed: warning: Not a git repository. Use --no-index."
    assert error.remedy == "Give the path of a repository in the guest."
