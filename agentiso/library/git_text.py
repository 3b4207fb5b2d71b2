"""What goes to git and what comes back, as text: the grammar of addresses and refs, secrets cut out, output read.

Nothing here runs anything.  Arguments reach git as a list, never through a shell; the grammar is for what git itself
would take for an option or a program (``--upload-pack=...``, ``ext::...``, ``ssh://-o...``).
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

import attrs

from actors.model.errors import InvalidArgument
from actors.model.text import shown

MAX_URL_CHARS: Final = 2048
MAX_PATHS: Final = 200
"""Of each kind in a status; the counts are always whole."""

_HOST: Final = r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:]+\])"
_URL: Final = re.compile(
    rf"(?P<scheme>https?|git|ssh)://(?:(?P<user>[A-Za-z0-9._~%:+=-]+)@)?"
    rf"(?P<rest>{_HOST}(?::[0-9]{{1,5}})?(?:/[A-Za-z0-9._~%/+@:,=-]*)?)",
    re.ASCII,
)
_SCP: Final = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9._-]*@)?{_HOST}:(?![:-]|//)[A-Za-z0-9._~/+@-]+", re.ASCII)
_REF: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+@-]{0,254}", re.ASCII)
_REMOTE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", re.ASCII)
_USER_INFO: Final = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@'\"]+@")

HINTS: Final = (
    (r"Could not resolve host|unable to look up|Network is unreachable|Connection timed out|Failed to connect",
     "The workspace may not reach it: see network_policy (allow_internet)."),
    (r"could not read Username|Authentication failed|Permission denied|access denied|error: 40[13]",
     "Credentials are missing or wrong: put a token into the URL, or set up a key or credential helper in the guest."),
    (r"non-fast-forward|fetch first|stale info", "The remote has commits that are not here: pull first, or use force."),
    (r"does not appear to be a git repository|No such remote|[Rr]epository .*not found",
     "Look at the address and the remote's name: git remote -v"),
    (r"[Nn]ot a git repository|cannot change to", "Give the path of a repository in the guest."),
    (r"already exists and is not an empty directory", "Choose another path."),
    (r"No space left on device", "Make room on the workspace's disk."),
)  # fmt: skip
"""What git says when something fails, and what to do then."""


@attrs.frozen
class Address:
    """Where a repository is, its secret apart."""

    url: str
    """Without credentials; this is what the clone remembers."""
    with_secret: str | None = attrs.field(default=None, repr=False)
    """With the credentials that it was given with."""


def check_url(url: str) -> Address:
    """Return the address of a repository: http, https, git or ssh, or the form ``user@host:path``.

    Raises:
        InvalidArgument: it is none of these, or has characters that no address needs.

    """
    found = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARS else None
    if found and found["scheme"].startswith("http") and found["user"]:
        return Address(f"{found['scheme']}://{found['rest']}", url)
    if found or (len(url) <= MAX_URL_CHARS and _SCP.fullmatch(url)):
        return Address(url)
    raise InvalidArgument(
        f"{shown(redact(url), 200)} is not an address that can be cloned.",
        remedy="Use http://, https://, git://, ssh:// or user@host:path, without spaces, quotes or shell characters.",
    )


def check_ref(name: str, what: str = "branch") -> str:
    """Return the name of a branch or tag (git check-ref-format(1), and no leading hyphen)."""
    bad = ("..", "@{", "//", "/.")
    if not _REF.fullmatch(name) or any(part in name for part in bad) or name.endswith((".lock", "/", ".")):
        raise InvalidArgument(f"{shown(name)} is not the name of a {what}.", remedy="Use letters, digits and ._/-+@")
    return name


def check_remote(name: str) -> str:
    """Return the name of a remote."""
    if not _REMOTE.fullmatch(name):
        raise InvalidArgument(f"{shown(name)} is not the name of a remote.", remedy="Use its name, such as origin.")
    return name


def redact(text: str, address: Address | None = None) -> str:
    """Cut credentials out of text: those of any URL, and those of ``address`` wherever they stand."""
    text = _USER_INFO.sub(r"\1***@", text)
    if address is not None and address.with_secret:
        user_info = address.with_secret.partition("://")[2].rpartition("@")[0]
        _, _, password = user_info.partition(":")
        for secret in {password or user_info, unquote(password or user_info)}:
            text = text.replace(secret, "***")
    return text


def hint(text: str) -> str:
    """Return what to do about a failure, as far as git's words tell it."""
    return next((advice for pattern, advice in HINTS if re.search(pattern, text)), "")


@attrs.frozen
class GitStatus:
    """The state of a working tree; of each kind of path at most `MAX_PATHS` are named."""

    branch: str | None = None
    """``None`` when no branch is checked out."""
    ahead: int = 0
    behind: int = 0
    staged: tuple[str, ...] = ()
    modified: tuple[str, ...] = ()
    untracked: tuple[str, ...] = ()
    conflicted: tuple[str, ...] = ()
    changes: int = 0
    """How many paths there are in all four."""
    dirty: bool = False
    error: str = ""
    """Why there is no status: the path is not a repository."""


def parse_status(output: str) -> GitStatus:
    """Read ``git status --porcelain=v2 --branch -z`` (git-status(1))."""
    branch: str | None = None
    ahead = behind = 0
    kinds: dict[str, list[str]] = {"staged": [], "modified": [], "untracked": [], "conflicted": []}
    fields = iter(output.split("\0"))
    for field in fields:
        tag, _, rest = field.partition(" ")
        if field.startswith("# branch.head "):
            branch = field[14:] if field[14:] != "(detached)" else None
        elif field.startswith("# branch.ab "):
            plus, minus = field[12:].split()
            ahead, behind = int(plus), -int(minus)
        elif tag in ("1", "2"):
            # Nine words before the path of a renamed one, eight of any other; the old name is a field of its own.
            path = rest.split(" ", 8 if tag == "2" else 7)[-1]
            if tag == "2":
                next(fields, None)
            if rest[0] != ".":
                kinds["staged"].append(path)
            if rest[1] != ".":
                kinds["modified"].append(path)
        elif tag == "u":
            kinds["conflicted"].append(rest.split(" ", 9)[-1])
        elif tag == "?":
            kinds["untracked"].append(rest)
    total = sum(len(paths) for paths in kinds.values())
    staged, modified, untracked, conflicted = (tuple(paths[:MAX_PATHS]) for paths in kinds.values())
    return GitStatus(branch, ahead, behind, staged, modified, untracked, conflicted, total, total > 0)
