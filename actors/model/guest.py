"""The values of work in a guest: commands and jobs, files and what differs between them.

Frozen, comparable, free of behaviour, like those of `actors.model.info`; the same units.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class ExecResult:
    """The outcome of a command in a guest.

    ``stdout`` and ``stderr`` hold at most the caller's cap, head and tail kept; ``*_bytes`` are the true totals.
    """

    exit_code: int | None
    """``None`` when a signal ended the command."""
    signal: int | None
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    timed_out: bool
    duration_s: float
    note: str = ""
    """What was killed and why, when something was."""
    job_id: str = ""
    """By which its output can be asked for again."""
    running: bool = False
    """Whether it goes on: then this is what came so far."""


@attrs.frozen
class CommandSpec:
    """A command to be run in a guest."""

    command: str | tuple[str, ...]
    """A string goes to ``/bin/sh -c``, a sequence is run as it is."""
    workdir: str | None = None
    env: dict[str, str] | None = attrs.field(default=None, repr=False)
    timeout_s: float | None = None
    """After this its process group and all descendants are killed."""
    stdin: bool = False
    """Whether its standard input can be written to; otherwise it is empty."""
    terminal: tuple[int, int] | None = None
    """Rows and columns of a terminal that it is given instead of pipes; its output is then all on stdout."""


@attrs.frozen
class JobInfo:
    """A command of a guest: each is a job, independent of who began it or asks for it."""

    job_id: str
    command: str
    """Its beginning."""
    running: bool
    exit_code: int | None
    """``None`` while it runs, or when a signal ended it."""
    signal: int | None
    timed_out: bool
    started_at: float
    duration_s: float
    stdout_bytes: int
    """How much it has written in all."""
    stderr_bytes: int
    note: str = ""
    """What was killed and why, when something was."""
    carried_from: str | None = None
    """Its id in the workspace of which this one is a fork."""


@attrs.frozen
class JobOutput:
    """A job, and a piece of its output."""

    job: JobInfo
    stdout: bytes
    stderr: bytes
    cursors: tuple[int, int]
    """Where to read on, in stdout and in stderr."""
    lost: tuple[int, int]
    """Bytes before this piece that are not kept any more."""
    matched: bool
    """Whether the text that was waited for has appeared."""


@attrs.frozen
class JobEnd:
    """A job that was killed."""

    job: JobInfo
    signalled: bool
    """``False`` when there was nothing left to signal."""
    gone: bool
    """Whether it has ended, and with SIGKILL its descendants."""


@attrs.frozen
class JobList:
    """All jobs that a guest knows, oldest first."""

    jobs: tuple[JobInfo, ...]
    began_anew: bool
    """The guest agent ended at some time and began anew, without what it knew of jobs and of variables."""


@attrs.frozen
class InputTaken:
    """What became of bytes for a job's standard input."""

    taken_bytes: int
    closed: bool
    """Whether nobody reads it any more."""


@attrs.frozen
class FileEntry:
    """One entry of a guest directory."""

    name: str
    kind: str
    """``file``, ``dir``, ``symlink`` or ``other``."""
    size_bytes: int
    mode: int
    modified_at: float


@attrs.frozen
class FileFacts:
    """What a path is."""

    kind: str
    """``file``, ``dir``, ``symlink`` or ``other``."""
    size_bytes: int
    """Of a file; 0 for everything else."""
    mode: int


@attrs.frozen
class FileChange:
    """One path that differs between two states."""

    path: str
    change: str
    """``added``, ``removed`` or ``changed``."""
    before: FileFacts | None
    after: FileFacts | None
    text: str = ""
    """The unified difference, where that was asked for and both are text."""


@attrs.frozen
class Diff:
    """What differs between two nodes of a workspace's tree, sorted by path."""

    base: str
    other: str
    """Names of snapshots, or ``now``."""
    changes: tuple[FileChange, ...]
    compared: int
    """How many paths were looked at."""
    text_truncated: bool
    """Whether differences of text were left out, since there are too many."""
    seconds: float


@attrs.frozen
class FileContent:
    """A piece of a guest file."""

    content: bytes
    size_bytes: int
    """The whole file's size."""
    offset: int
    mode: int = 0o644
    """Its permissions."""


@attrs.frozen
class Edited:
    """What an edit did to a file."""

    replacements: int
    size_bytes: int


@attrs.frozen
class TreeReport:
    """What became of a directory tree."""

    entries: int
    """Files, directories and links written."""
    size_bytes: int
    skipped: tuple[str, ...] = ()
    """What was left out and why, the first few."""
    skipped_count: int = 0


@attrs.frozen
class Helper:
    """How a program of the guest layer is started."""

    argv: tuple[str, ...]
    workdir: str
    env: dict[str, str]


@attrs.frozen
class Match:
    """A line of a guest file that matches what was searched for."""

    path: str
    line: int
    text: str


@attrs.frozen
class SearchResult:
    """What a search found."""

    matches: tuple[Match, ...]
    files: int
    """How many files were gone through."""
    truncated: bool
    """Whether there is more."""
