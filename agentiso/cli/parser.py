"""The parser of the command line: misuse is an error like any other, and a command to run keeps its own options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any

from actors.model.errors import AgentisoError
from actors.model.settings import check_bind


class Misuse(AgentisoError):
    """What was typed is not a command; ``facts`` may have its ``usage``."""

    code = "misuse"


class Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong.

    With ``runs_command`` what is typed ends with a command to run: our options end at ``--``, or at the command's
    first word, and whatever comes then is the command's.
    """

    runs_command = False

    def error(self, message: str) -> Any:
        """Raise what is wrong as `Misuse`."""
        said = f"{message[:1].upper()}{message[1:].rstrip('.')}."
        raise Misuse(said, remedy=f"See: {self.prog} --help", usage=self.format_usage())

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse our own words, and keep those of a command to run as they are."""
        if not self.runs_command or args is None:
            return super().parse_known_args(args, namespace)
        ours, command = self._split(list(args))
        parsed, unknown = super().parse_known_args(ours, namespace)
        parsed.command = command
        return parsed, unknown

    def _split(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return our words, of which one is the workspace, and the command's."""
        named, valued = False, False
        for index, word in enumerate(words):
            if valued:
                valued = False
            elif word == "--":
                return list(words[:index]), list(words[index + 1 :])
            elif word.startswith("-") and len(word) > 1:
                valued = self._takes_value(word)
            elif named:
                return list(words[:index]), list(words[index:])
            else:
                named = True
        return list(words), []

    def _takes_value(self, word: str) -> bool:
        """Tell whether an option, which may be abbreviated, has its value in the next word."""
        found = (a for a in self._actions for name in a.option_strings if name == word or _abbreviates(word, name))
        return any(action.nargs != 0 for action in found)


def _abbreviates(word: str, name: str) -> bool:
    return word.startswith("--") and name.startswith(word)


def seconds(text: str) -> float:
    """Return a time that was typed; neither "nan" nor "inf" is one."""
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def host_port(text: str) -> str:
    """Return what was typed as ``HOST:PORT``."""
    try:
        check_bind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    return text
