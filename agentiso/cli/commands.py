"""Commands that run something in a workspace, and those for what runs there."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Final

import trio

from actors.machine.guest.jobs import new_job_id
from actors.model.errors import AgentisoError, GuestRefused
from agentiso.cli.common import Commands, add_workspace, call_tool, columns, show
from agentiso.cli.environment import assigned
from agentiso.cli.output import OutputFailed
from agentiso.cli.parser import Misuse, Parser, seconds
from agentiso.client.tools import ToolFailed
from agentiso.library.config import load_settings
from guest.errors import only_error

EXEC_EXAMPLES: Final = """\
  agentiso exec demo -- uname -a
  agentiso exec demo --json -- 'cd /srv && make'   one word is a shell's line
  agentiso exec demo -i -- tar -x < files.tar      with this command's standard input
  agentiso exec demo --env TOKEN -- ./deploy       with a variable of this shell
  agentiso exec demo --background -- ./serve       a job: see `agentiso jobs demo`
"""
JOB_EXAMPLES: Final = """\
  agentiso jobs demo                 every command that runs or ran there, newest first
  agentiso output -f demo JOB        what it says, until its end
  agentiso kill demo JOB
"""
SHELL_EXAMPLES: Final = """\
  agentiso shell demo
  agentiso shell demo -- top
"""
KILL_EXAMPLES: Final = """\
  agentiso kill demo JOB               it and all that it started
  agentiso kill demo JOB --signal 15   ask its process group to end
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("exec", _exec, "run a command in a workspace; exits with its status", EXEC_EXAMPLES)
    _add_command(made, "the command; its own options come after --, or after its first word")
    made.add_argument("--timeout-secs", type=seconds, help="kill it after this; 120, or no limit with --yield")
    made.add_argument("--workdir", metavar="DIRECTORY", help="of the guest, to run it in; / if left out")
    made.add_argument("--env", "-e", action="append", default=[], metavar="NAME[=VALUE]",
                      help="a variable for it alone (again); this shell's value if left out")  # fmt: skip
    made.add_argument("--stdin", "-i", action="store_true", help="give it this command's standard input")
    made.add_argument("--yield", type=seconds, dest="yield_secs", metavar="SECONDS", help="leave it alone after this")
    made.add_argument("--background", action="store_true", help="print its job id and return at once")
    made = commands.add("jobs", _jobs, "list a workspace's jobs: every command that runs or ran there", JOB_EXAMPLES)
    add_workspace(made)
    made = commands.add("output", _output, "print a job's output", JOB_EXAMPLES)
    _add_job(made)
    made.add_argument("--follow", "-f", action="store_true", help="until its end; exits with its status")
    made = commands.add("kill", _kill, "kill a job and all its descendants", KILL_EXAMPLES)
    _add_job(made)
    made.add_argument("--signal", type=int, default=9, metavar="NUMBER", help="to send instead of 9, SIGKILL")
    made = commands.add("shell", _shell, "open a terminal in a workspace; exits with its status", SHELL_EXAMPLES)
    _add_command(made, "what to run instead of a shell")


def _add_command(parser: Parser, text: str) -> None:
    parser.runs_command = True
    add_workspace(parser)
    parser.add_argument("command", nargs="*", metavar="COMMAND", help=text)


def _add_job(parser: Parser) -> None:
    add_workspace(parser)
    parser.add_argument("job", help="its id, as `agentiso jobs` lists it")


def _words(a: Any) -> str | None:
    import shlex

    if not a.command:
        return None
    return str(a.command[0]) if len(a.command) == 1 else shlex.join(a.command)


def _exec(a: Any) -> int:
    command = _words(a)
    if command is None:
        raise Misuse("No command was given.", remedy="Use: agentiso exec WORKSPACE -- COMMAND")
    env = assigned(a.env)
    if a.background:
        made = call_tool(a, "exec_background", workspace_id=a.workspace, command=command, workdir=a.workdir, env=env,
                         timeout_secs=a.timeout_secs)  # fmt: skip
        return show(a, made, made["job_id"])
    limit_s = 120.0 if a.timeout_secs is None and a.yield_secs is None else a.timeout_secs
    request = {
        "workspace": a.workspace,
        "command": command,
        "workdir": a.workdir,
        "env": env,
        "timeout_s": limit_s,
        "stdin": a.stdin,
    }
    # Chosen here, so that it can be ended whatever is heard of its start.
    request["job_id"] = job_id = new_job_id()
    return _attach(a, request, yield_s=a.yield_secs, stdin=a.stdin, ours=job_id)


def _output(a: Any) -> int:
    return _attach(a, {"workspace": a.workspace, "job": a.job, "follow": a.follow})


def _attach(
    a: Any, request: dict[str, Any], *, yield_s: float | None = None, stdin: bool = False, ours: str | None = None
) -> int:
    """Show a job's output as it comes and return its exit status.

    The job that this command begins, ``ours``, is killed by Ctrl-C, and when nobody takes its output any more.
    """
    from agentiso.cli.terminal import attach, write_through

    kept = {1: bytearray(), 2: bytearray()}

    async def keep(stream: int, data: bytes) -> None:
        kept[stream] += data

    on_output = keep if a.json else write_through

    async def run() -> Any:
        return await attach(load_settings(a.config), a.config, request, on_output, yield_s=yield_s, stdin=stdin)

    try:
        done = trio.run(run)
    except (OutputFailed, BaseExceptionGroup) as caught:
        if ours and isinstance(only_error(caught), OutputFailed):
            _end(a, ours, begun=True)
        raise
    if done.interrupted is not None:
        if ours:
            _end(a, done.job_id or ours, begun=bool(done.job_id))
        return 128 + int(done.interrupted)
    return _show_end(a, done, kept, noted=ours is not None)


def _show_end(a: Any, done: Any, kept: dict[int, bytearray], *, noted: bool) -> int:
    """Tell how a job ended, unless its output has told it all, and return its exit status."""
    if done.end is None:
        print(f"job {done.job_id} goes on; see: agentiso output -f {a.workspace} {done.job_id}", file=sys.stderr)
    end = done.end["end"] if done.end else {"job_id": done.job_id, "running": True, "exit_code": None, "signal": None}
    lost = done.end["lost"] if done.end else 0
    if a.json:
        texts = {"stdout": kept[1].decode(errors="replace"), "stderr": kept[2].decode(errors="replace")}
        print(json.dumps({**end, **texts, "lost_bytes": lost}))
    elif lost:
        print(f"{lost} earlier bytes are not kept any more", file=sys.stderr)
    if not a.json and end.get("note") and noted:
        print(end["note"], file=sys.stderr)
    return _status(end)


def _end(a: Any, job_id: str, *, begun: bool) -> None:
    """Kill a job that this command asked for, and say so unless it is certain that it does not run."""
    try:
        call_tool(a, "exec_kill", workspace_id=a.workspace, job_id=job_id)
    except (KeyboardInterrupt, AgentisoError, BaseExceptionGroup) as caught:
        error = only_error(caught)
        if not begun and isinstance(error, ToolFailed) and error.facts.get("code") == GuestRefused.code:
            # The guest knows no such job: it was taken back before it began.
            return
        if not isinstance(error, KeyboardInterrupt | AgentisoError):
            raise
        why = f" ({error.message})" if isinstance(error, AgentisoError) else ""
        print(
            f"whether job {job_id} runs is unknown{why}; see: agentiso jobs {a.workspace}, "
            f"and end it: agentiso kill {a.workspace} {job_id}",
            file=sys.stderr,
        )


def _status(end: dict[str, Any]) -> int:
    if end["running"]:
        return 0
    return int(end["exit_code"]) if end["exit_code"] is not None else 128 + int(end["signal"])


def _jobs(a: Any) -> int:
    result = call_tool(a, "exec_list", workspace_id=a.workspace)
    rows = [("JOB", "STATE", "STARTED", "SECONDS", "OUTPUT", "COMMAND")]
    for job in result["jobs"]:
        ended = f"exit {job['exit_code']}" if job["exit_code"] is not None else f"signal {job['signal']}"
        started = time.strftime("%H:%M:%S", time.localtime(job["started_at"]))
        size = f"{job['stdout_bytes'] + job['stderr_bytes']} B"
        first_line = job["command"].splitlines()[0][:60] if job["command"].strip() else ""
        state = "running" if job["running"] else ended
        rows.append((job["job_id"], state, started, f"{job['duration_secs']:.1f}", size, first_line))
    if result["note"]:
        print(result["note"], file=sys.stderr)
    return show(a, result["jobs"], columns(rows))


def _kill(a: Any) -> int:
    done = call_tool(a, "exec_kill", workspace_id=a.workspace, job_id=a.job, signal=a.signal)
    return show(a, done, done["note"] if done["status"] != "already_ended" else f"job {a.job} had ended already")


def _shell(a: Any) -> int:
    from agentiso.cli.terminal import attach, raw_terminal, terminal_size, write_through

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Misuse("A shell needs a terminal.", remedy="For a script use: agentiso exec -i WORKSPACE -- sh")
    request = {
        "workspace": a.workspace,
        "command": _words(a) or 'cd; exec "$(command -v bash || command -v sh)" -l',
        "env": {"TERM": os.environ.get("TERM", "xterm-256color")},
        "terminal": terminal_size(),
        "stdin": True,
    }

    async def run() -> Any:
        return await attach(load_settings(a.config), a.config, request, write_through, stdin=True)

    with raw_terminal():
        done = trio.run(run)
    return _status(done.end["end"]) if done.end else 128 + int(done.interrupted or 1)
