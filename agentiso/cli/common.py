"""What the commands share: a call of the supervisor, what is printed, and interruption."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import trio

from actors.model.errors import AgentisoError
from agentiso.cli.parser import Parser
from agentiso.client.tools import ToolFailed, call
from agentiso.library.config import load_settings

T = TypeVar("T")


class Commands:
    """The subcommands of `agentiso`."""

    def __init__(self, parser: Parser) -> None:
        self._commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(self, name: str, run: Callable[[Any], int], text: str, examples: str = "") -> Parser:
        """Add a command that ``run`` carries out, and return its parser; every command takes ``--json``."""
        made: Parser = self._commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="print JSON instead of text")
        return made


def call_tool(arguments: Any, tool: str, *, session: str | None = None, **values: Any) -> dict[str, Any]:
    """Have the supervisor carry a tool out, for the user or for a session; values that are `None` are left out."""
    given = {key: value for key, value in values.items() if value is not None}
    settings = load_settings(arguments.config)
    # On a terminal only: the status line is drawn with control characters.
    if not sys.stderr.isatty():
        return trio.run(call, settings, arguments.config, tool, given, lambda _text: None, session)
    from rich.console import Console

    from agentiso.mcp.progress import STILL

    with Console(stderr=True).status("") as status:
        step = ""

        def report(text: str) -> None:
            nonlocal step
            if not text.startswith(STILL):
                step = text
            status.update(text if text is step or not step else f"{step} ({text})")

        return trio.run(call, settings, arguments.config, tool, given, report, session)


def add_workspace(parser: Parser) -> None:
    """Have a command take a workspace."""
    parser.add_argument("workspace", help="its name or id")


def error_object(error: AgentisoError) -> dict[str, Any]:
    """Return an error as programs get it; of a tool's, the code that the supervisor gave it."""
    code = error.facts.get("code", error.code) if isinstance(error, ToolFailed) else error.code
    return {"code": code, "message": error.message, "remedy": error.remedy}


def show(arguments: Any, result: Any, text: str) -> int:
    """Print a result as JSON, if asked for, or the text for people; return 0."""
    print(json.dumps(result) if arguments.json else text)
    return 0


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def ending_signals() -> list[signal.Signals]:
    """Return the signals that end a command, but what whoever started it had it ignore, like nohup(1)."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def run_interruptibly(work: Callable[[], Awaitable[T]]) -> T:
    """Run what makes things of its own; what ends a command cancels it, so that it takes them away before the end."""
    numbers: list[int] = []
    results: list[T] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:

            async def listen(*, task_status: trio.TaskStatus[None]) -> None:
                with trio.open_signal_receiver(*ending_signals()) as received:
                    task_status.started()
                    async for number in received:
                        numbers.append(number)
                        nursery.cancel_scope.cancel(reason="the user interrupted it")

            await nursery.start(listen)
            results.append(await work())
            nursery.cancel_scope.cancel(reason="the work is done")

    trio.run(run)
    if results:
        return results[0]
    if numbers[0] == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + numbers[0])
