"""The command line: every command, its arguments and what it prints.

Commands about workspaces go to the supervisor of the state directory, which is started on demand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from actors.model.errors import AgentisoError
from actors.model.files import reported
from agentiso.cli import (
    commands,
    doctor,
    environment,
    files,
    images,
    lifecycle,
    looking,
    network,
    service,
    sessions,
    snapshots,
    templates,
    transfer,
    tree,
    workspaces,
)
from agentiso.cli.common import Commands, error_object
from agentiso.cli.output import OutputFailed, ReaderGone, checked_stdout
from agentiso.cli.parser import Misuse, Parser
from agentiso.cli.words import in_commands
from agentiso.protocol.places import RUNS_ALREADY
from agentiso.supervisor.daemon import DaemonRunning
from guest.errors import only_error

GROUPS: Final = (
    workspaces,
    tree,
    lifecycle,
    commands,
    environment,
    files,
    looking,
    snapshots,
    network,
    images,
    templates,
    transfer,
    sessions,
    doctor,
    service,
)
EXAMPLES = """\
examples:
  agentiso image build base            build the image that workspaces start from (a minute)
  agentiso create demo                 make a workspace
  agentiso exec demo -- uname -a       run a command in it
  agentiso cp ./project demo:/workspace
                                       copy a directory into it
  agentiso fork demo -n 3              fork it, memory and disk, while it runs
  agentiso snapshot create demo tidy   keep its state under a name
  agentiso snapshot restore demo tidy  go back to it, and with `agentiso undo demo` forth again
  agentiso tree                        draw workspaces, forks and snapshots
  agentiso suspend demo                put it away; `agentiso resume demo` has it run on
  agentiso serve                       be an MCP server on stdio
"""
COMPLETION: Final = """\
  . <(agentiso completion bash)        completion, in this shell
"""


def main() -> None:
    """Run the command and exit with its status: 0, 1 on failure, 2 on misuse, 130 on Ctrl-C, exec's own.

    It is 141 where nobody reads the output any more.  A daemon that another one makes superfluous ends with 3.
    """
    try:
        with checked_stdout():
            status = _run(sys.argv[1:])
    except (ReaderGone, BrokenPipeError):
        status = 141
    except OutputFailed as error:
        _report(error, as_json=False)
        status = 1
    sys.exit(status)


def _run(words: list[str]) -> int:
    # Of a line that cannot be parsed, whether it asks for JSON must be known all the same.
    as_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    try:
        arguments = make_parser().parse_args(words)
        as_json = arguments.json
        status: int = arguments.run(arguments)
    except (KeyboardInterrupt, AgentisoError, OSError, BaseExceptionGroup) as caught:
        match _of_the_host(only_error(caught)):
            case KeyboardInterrupt():
                return 130
            case OutputFailed() | BrokenPipeError() as failed:
                raise failed from None
            case AgentisoError() as error:
                _report(error, as_json=as_json)
                return _status_of(error)
        raise
    return status


def _of_the_host(error: BaseException) -> BaseException:
    """Return a failure of the host's files as the error that says so; any other one as it is."""
    # What becomes of a pipe is no failure of theirs.
    if isinstance(error, OSError) and not isinstance(error, BlockingIOError | BrokenPipeError):
        return reported(error)
    return error


def _status_of(error: AgentisoError) -> int:
    match error:
        case Misuse():
            return 2
        case DaemonRunning():
            return RUNS_ALREADY
    return 1


def _report(error: AgentisoError, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"error": error_object(error)}))
        return
    # Where that cannot be written either, the status alone tells.
    with contextlib.suppress(OSError):
        print(f"{error.facts.get('usage', '')}error: {in_commands(str(error))}", file=sys.stderr)


def make_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="agentiso",
        description="Disposable Linux machines for AI agents: microVM workspaces that fork while they run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", "-c", type=Path, help="configuration file (TOML)")
    parser.add_argument("--version", action="version", version=f"agentiso {version('agentiso')}")
    available = Commands(parser)
    for group in GROUPS:
        group.register(available)
    made = available.add("completion", _completion, "print a shell's completion script", COMPLETION)
    made.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="whose")
    return parser


def _completion(a: Any) -> int:
    import shtab

    print(shtab.complete(make_parser(), shell=a.shell))
    return 0
