"""The messages to a workspace about its jobs, and what is done with each.

All are guest work: they run beside each other and beside everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, TypeAlias, TypeVar, assert_never

import attrs

from actors.machine.guest.client import GuestClient
from actors.machine.guest.jobs import Followed, Window
from actors.model.errors import InvalidArgument
from actors.model.guest import CommandSpec, ExecResult, InputTaken, JobEnd, JobInfo, JobList, JobOutput
from actors.model.states import State
from actors.runtime import Message
from actors.workspace.file_messages import check_path

R = TypeVar("R")
MAX_TIME_S: Final = 24 * 3600.0
MAX_TERMINAL: Final = 1000
MAX_SIGNAL: Final = 64
MAX_WORD_BYTES: Final = 128 * 1024 - 1
"""Linux's own limit of one argument (execve(2), MAX_ARG_STRLEN), with its final zero byte; a shell command is one."""
TURN_S: Final = 10.0
"""How much longer than for what it waits a request may wait for its turn: no time to wait may be 0."""
MIN_TURN_S: Final = 1.0
"""A command whose asker wants to wait for nothing may wait this long for its turn."""

OnOutput: TypeAlias = Callable[[int, bytes], None]
"""Called with (1 for stdout, 2 for stderr; bytes) as output arrives."""


@attrs.frozen
class JobMessage(Message[R]):
    """What all of them have in common."""

    LEGAL: ClassVar[frozenset[State]] = frozenset({State.RUNNING})
    CONCURRENT: ClassVar[bool] = True
    DEADLINE_S: ClassVar[float] = float("inf")
    """Guest work is bounded by its own time limit and by the channel's, not by the mailbox."""


@attrs.frozen
class Exec(JobMessage[ExecResult]):
    """Run a command in the guest to its end, or for ``yield_s``.

    When its asker gives up it is killed, unless it is to be kept.
    """

    command: CommandSpec
    yield_s: float | None = None
    max_output_bytes: int = 262144
    on_output: OnOutput | None = None
    job_id: str | None = None
    keep: bool = False


@attrs.frozen
class StartJob(JobMessage[JobInfo]):
    """Start a command that nobody waits for; ``job_id`` names it beforehand."""

    command: CommandSpec
    job_id: str | None = None


@attrs.frozen
class FollowJob(JobMessage[Followed]):
    """Get all output of a job from ``cursors`` on as it comes, until its end or for ``wait_s``."""

    job_id: str
    on_output: OnOutput
    cursors: tuple[int, int] = (0, 0)
    wait_s: float | None = None
    window: Window | None = None


@attrs.frozen
class ReadJob(JobMessage[JobOutput]):
    """Get a piece of a job's output, perhaps after a wait; see `GuestJobs.read`."""

    job_id: str
    cursors: tuple[int, int] = (0, 0)
    max_bytes: int = 65536
    wait_s: float = 0.0
    text: str | None = None
    eager: bool = False


@attrs.frozen
class KillJob(JobMessage[JobEnd]):
    """Signal a job's process group, with SIGKILL all its descendants, and wait ``wait_s`` for its end."""

    job_id: str
    signal: int = 9
    wait_s: float = 5.0


@attrs.frozen
class FeedJob(JobMessage[InputTaken]):
    """Write to a job's standard input, and close it if this is the end."""

    job_id: str
    data: bytes = attrs.field(repr=False)
    end: bool = False
    wait_s: float = 10.0


@attrs.frozen
class ResizeJob(JobMessage[None]):
    """Tell a job's terminal its size."""

    job_id: str
    rows: int
    cols: int


@attrs.frozen
class ListJobs(JobMessage[JobList]):
    """Describe all jobs that the guest knows."""


@attrs.frozen
class ReleaseJob(JobMessage[None]):
    """Forget a finished job and its output."""

    job_id: str


@attrs.frozen
class SetEnv(JobMessage[int]):
    """Set, or with ``None`` unset, variables of all later commands; answers with how many are set."""

    variables: dict[str, str | None] = attrs.field(repr=False)


JobWork: TypeAlias = (
    Exec | StartJob | FollowJob | ReadJob | KillJob | FeedJob | ResizeJob | ListJobs | ReleaseJob | SetEnv
)


def check(message: JobWork) -> None:
    """Raise `InvalidArgument` if a number is out of range, or if a command cannot be started."""
    spec = message.command if isinstance(message, Exec | StartJob) else None
    if spec is not None:
        _check_command(spec)
        _check_size(*_assignments(spec.env))
    if isinstance(message, SetEnv):
        _check_size(*_assignments(message.variables))
    for what, seconds in _times(message).items():
        if not (0 <= seconds <= MAX_TIME_S and (seconds or what != "timeout")):
            raise InvalidArgument(
                f"A {what} of {seconds} s is out of range.", remedy=f"Use a number up to {MAX_TIME_S:.0f}."
            )
    size = (message.rows, message.cols) if isinstance(message, ResizeJob) else spec.terminal if spec else None
    if size and not all(1 <= length <= MAX_TERMINAL for length in size):
        raise InvalidArgument(
            f"A terminal of {size[0]} rows and {size[1]} columns cannot be made.",
            remedy=f"Use 1 to {MAX_TERMINAL} of each.",
        )
    if isinstance(message, KillJob) and not 1 <= message.signal <= MAX_SIGNAL:
        raise InvalidArgument(f"There is no signal {message.signal}.", remedy="Use 15 to ask, 9 to kill.")


def turn_s(message: JobWork) -> float | None:
    """Return how long whoever asked for something lets it wait for its turn, if it has a time of its own."""
    times = _times(message)
    if "wait" in times:
        return times["wait"] + TURN_S
    return max(MIN_TURN_S, min(times.values())) if times else None


def _times(message: JobWork) -> dict[str, float]:
    spec = message.command if isinstance(message, Exec | StartJob) else None
    times = {
        "timeout": spec.timeout_s if spec else None,
        "yield": message.yield_s if isinstance(message, Exec) else None,
        "wait": getattr(message, "wait_s", None),
    }
    return {what: seconds for what, seconds in times.items() if seconds is not None}


def _check_command(spec: CommandSpec) -> None:
    words = (spec.command,) if isinstance(spec.command, str) else spec.command
    if not words:
        raise InvalidArgument("There is no command.", remedy="Give one.")
    if any("\0" in word for word in words):
        raise InvalidArgument("A command cannot have a NUL character.", remedy="Have printf '\\0' write it.")
    _check_size(*words)
    if spec.workdir is not None:
        check_path(spec.workdir)


def _check_size(*words: str) -> None:
    size = max((len(word.encode(errors="surrogatepass")) for word in words), default=0)
    if size > MAX_WORD_BYTES:
        raise InvalidArgument(
            f"A command, an argument or a variable of {size} bytes is too long; {MAX_WORD_BYTES} are possible.",
            remedy="Write it to a file of the guest (file_write), and run or read that: sh /path/of/it",
        )


def _assignments(variables: Mapping[str, str | None] | None) -> list[str]:
    """Return variables as a program is given them (environ(7))."""
    return [f"{name}={value or ''}" for name, value in (variables or {}).items()]


async def work(client: GuestClient, message: JobWork) -> Any:  # noqa: C901 - one line a message
    """Do what a message asks."""
    jobs = client.jobs
    match message:
        case Exec():
            return await jobs.exec(
                message.command,
                job_id=message.job_id,
                yield_s=message.yield_s,
                keep=message.keep,
                max_output_bytes=message.max_output_bytes,
                on_output=message.on_output,
            )
        case StartJob():
            return await jobs.start(message.command, message.job_id)
        case FollowJob(job_id, on_output, cursors, wait_s, window):
            return await jobs.follow(job_id, on_output, cursors=cursors, wait_s=wait_s, window=window)
        case ReadJob(job_id, cursors, max_bytes, wait_s, text, eager):
            return await jobs.read(job_id, cursors=cursors, max_bytes=max_bytes, wait_s=wait_s, text=text, eager=eager)
        case KillJob():
            return await jobs.kill(message.job_id, message.signal, wait_s=message.wait_s)
        case FeedJob():
            return await jobs.feed(message.job_id, message.data, end=message.end, wait_s=message.wait_s)
        case ResizeJob():
            return await jobs.resize(message.job_id, message.rows, message.cols)
        case ListJobs():
            return await jobs.list()
        case ReleaseJob():
            return await jobs.release(message.job_id)
        case SetEnv():
            return await jobs.set_env(message.variables)
        case _:
            assert_never(message)
