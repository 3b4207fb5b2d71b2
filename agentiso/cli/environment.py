"""The command for a workspace's variables, whose values are secrets: they are read and passed on, never shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any, Final

from agentiso.cli.common import Commands, add_workspace, call_tool, show
from agentiso.cli.parser import Misuse

EXAMPLES: Final = """\
  agentiso env demo API_TOKEN < token.txt   in no argument list; typed in on a terminal
  agentiso env demo EDITOR=vi PAGER=less    values that are no secrets
  agentiso env demo --unset API_TOKEN
"""


def register(commands: Commands) -> None:
    """Add these commands."""
    made = commands.add("env", _env, "set variables of all later commands, kept in the guest's memory only", EXAMPLES)
    add_workspace(made)
    made.add_argument(
        "variables", nargs="*", metavar="NAME[=VALUE]", help="to set; one without a value gets the standard input"
    )
    made.add_argument("--unset", action="append", default=[], metavar="NAME", help="have it no longer (again)")


def assigned(variables: Iterable[str]) -> dict[str, str] | None:
    """Return values by name of what was typed as ``NAME=VALUE``, or ``NAME`` to pass on what this process has.

    Raises:
        Misuse: this process has no such variable.

    """
    given = {}
    for variable in variables:
        name, has_value, value = variable.partition("=")
        if not has_value and name not in os.environ:
            raise Misuse(f"There is no variable {name} here to pass on.", remedy="Give its value: NAME=VALUE.")
        given[name] = value if has_value else os.environ[name]
    return given or None


def _env(a: Any) -> int:
    asked = [variable for variable in a.variables if "=" not in variable]
    if len(asked) > 1:
        raise Misuse("The standard input is the value of one variable.", remedy="Set the others in calls of their own.")
    given: dict[str, str | None] = dict.fromkeys(a.unset)
    given |= {name: _read(name) for name in asked}
    given |= assigned(variable for variable in a.variables if "=" in variable) or {}
    if not given:
        raise Misuse("No variable was named.", remedy="Use: agentiso env WORKSPACE NAME[=VALUE]")
    done = call_tool(a, "set_env", workspace_id=a.workspace, vars=given)
    return show(a, done, f"{done['count']} variables are set in {a.workspace}")


def _read(name: str) -> str:
    """Return the value of a variable: what is typed, unseen, or the standard input without its last newline."""
    if sys.stdin.isatty():
        import getpass

        return getpass.getpass(f"{name}: ")
    return sys.stdin.read().removesuffix("\n")
