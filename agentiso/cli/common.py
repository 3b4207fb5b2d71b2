"""What the commands share: a call of the supervisor, what is printed, and interruption."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import trio

from actors.model.errors import AgentisoError
from agentiso.cli.parser import Parser
from agentiso.cli.words import in_commands
from agentiso.client.tools import ToolFailed, call
from agentiso.library.config import load_settings

T = TypeVar("T")
FIRST_LINE_S: Final = 2.0
LINE_S: Final = 5.0
GAP: Final = "  "
MIN_CELL_CHARS: Final = 16
"""A column that is made narrower has at least so much room, or it could not be read."""


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
    # The status line is drawn with control characters, which only a terminal understands.
    if not sys.stderr.isatty():
        quiet = arguments.json
        report_line = (lambda _text: None) if quiet else Lines(lambda text: print(text, file=sys.stderr))
        return trio.run(call, settings, arguments.config, tool, given, report_line, session)
    from rich.console import Console

    from agentiso.mcp.progress import STILL

    with Console(stderr=True).status("asking the supervisor") as status:
        step = ""

        def report(text: str) -> None:
            nonlocal step
            if not text.startswith(STILL):
                step = text
            status.update(text if text is step or not step else f"{step} ({text})")

        return trio.run(call, settings, arguments.config, tool, given, report, session)


class Lines:
    """Progress where there is no terminal: a line now and then, and none of what is over soon."""

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._due = clock() + FIRST_LINE_S

    def __call__(self, text: str) -> None:
        """Tell how far it is, unless that was told just now."""
        if text and self._clock() >= self._due:
            self._due = self._clock() + LINE_S
            self._write(text)


def add_workspace(parser: Parser) -> None:
    """Have a command take a workspace."""
    parser.add_argument("workspace", help="its name or id")


def error_object(error: AgentisoError) -> dict[str, Any]:
    """Return an error as programs get it; of a tool's, the code that the supervisor gave it."""
    code = error.facts.get("code", error.code) if isinstance(error, ToolFailed) else error.code
    return {"code": code, "message": in_commands(error.message), "remedy": in_commands(error.remedy)}


def show(arguments: Any, result: Any, text: str) -> int:
    """Print a result as JSON, if asked for, or the text for people; return 0."""
    print(json.dumps(result) if arguments.json else text)
    return 0


def columns(rows: Sequence[tuple[str, ...]], width: int | None = None) -> str:
    """Return rows as aligned columns, on a terminal no wider than that where it can be done: long cells are wrapped."""
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    while width and sum(widths) + len(GAP) * (len(widths) - 1) > width and max(widths) > MIN_CELL_CHARS:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [
            [cell] if len(cell) <= room else textwrap.wrap(cell, room) for cell, room in zip(row, widths, strict=True)
        ]
        lines += [
            GAP.join(part.ljust(room) for part, room in zip(parts, widths, strict=True)).rstrip()
            for parts in itertools.zip_longest(*cells, fillvalue="")
        ]
    return "\n".join(lines)


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
