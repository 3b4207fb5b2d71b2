"""The command line, as far as it needs no supervisor: its words, its help, what it says to misuse."""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import imagebuild
from actors.model.errors import AgentisoError
from agentiso.cli import common, environment, looking, workspaces
from agentiso.cli.main import main, make_parser
from agentiso.cli.parser import Misuse, Parser
from agentiso.cli.words import COMMANDS, in_commands
from agentiso.client.tools import ToolFailed
from agentiso.mcp.tools import TOOLS

TALKATIVE = {"check", "config", "demo", "list", "start", "stop", "pause", "suspend", "resume", "undo", "info"}
"""Commands whose usage says all."""


def parsed(*words: str) -> Any:
    return make_parser().parse_args(list(words))


def status_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["agentiso", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def parsers() -> Iterator[tuple[str, Parser]]:
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


# -- a command's own options and ours


@pytest.mark.parametrize("command", ["exec", "shell"])
@pytest.mark.parametrize(
    ("words", "as_json", "run"),
    [
        (("demo", "--json", "--", "true"), True, ["true"]),
        (("--json", "demo", "--", "true"), True, ["true"]),
        (("demo", "--", "echo", "--json"), False, ["echo", "--json"]),
        (("demo", "ls", "--json", "-l"), False, ["ls", "--json", "-l"]),
        (("demo", "--json", "git", "checkout", "--", "file"), True, ["git", "checkout", "--", "file"]),
        (("demo", "--", "--", "-"), False, ["--", "-"]),
        (("demo", "-", "x"), False, ["-", "x"]),
        (("demo",), False, []),
    ],
)
def test_options_are_ours_until_the_command_begins(
    command: str, words: tuple[str, ...], as_json: bool, run: list[str]
) -> None:
    found = parsed(command, *words)
    assert (found.workspace, found.json, found.command) == ("demo", as_json, run)


def test_an_options_value_is_not_taken_for_the_command() -> None:
    words = ("--timeout", "5", "demo", "--workdir=/srv", "-e", "A=1", "--env", "B=2", "-i", "make", "-e", "x")
    found = parsed("exec", *words)
    assert (found.timeout_secs, found.workdir, found.env, found.stdin) == (5.0, "/srv", ["A=1", "B=2"], True)
    assert (found.workspace, found.command) == ("demo", ["make", "-e", "x"])


@pytest.mark.parametrize(
    ("words", "said"), [(("demo", "--jsn", "--", "true"), "--jsn"), (("--", "true"), "workspace"), ((), "workspace")]
)
def test_a_word_before_the_command_that_is_no_option_of_ours_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Misuse, match=said):
        parsed("exec", *words)


# -- help


def test_every_argument_is_explained_and_every_command_that_needs_them_has_examples() -> None:
    for name, parser in parsers():
        for action in parser._actions:
            assert action.help, (name, action.dest)
        assert (parser.epilog is not None) is (name not in TALKATIVE), name
        for line in (parser.epilog or "").splitlines():
            assert len(line) <= 96, (name, line)


# -- misuse


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("nonsense",), "nonsense"),
        (("session", "token"), "The session's name is missing."),
        (("snapshot", "create", "demo"), "The snapshot's name is missing."),
        (("port", "add", "demo"), "The port in the guest is missing."),
        (("exec", "demo"), "No command was given."),
        (("env", "demo"), "No variable was named."),
        (("fork", "demo", "-n", "many"), "many"),
    ],
)
def test_misuse_is_an_error_of_status_2_for_people_and_for_programs(
    words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(monkeypatch, *words) == 2
    plain = capsys.readouterr()
    assert said in plain.err.splitlines()[-1]
    assert plain.err.splitlines()[-1].startswith("error: ")
    assert status_of(monkeypatch, *words, "--json") == 2
    as_json = capsys.readouterr()
    shown = json.loads(as_json.out)["error"]
    assert (shown["code"], as_json.err) == ("misuse", "")
    assert said in shown["message"]


def test_json_that_a_command_is_given_is_not_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(monkeypatch, "exec", "--nonsense", "demo", "--", "jq", "--json") == 2
    assert capsys.readouterr().out == ""


# -- commands that need no supervisor


def test_a_state_directory_is_forgotten_by_the_images_only_once_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images, old = tmp_path / "images", tmp_path / "old"
    for directory in (images, old / "workspaces"):
        directory.mkdir(parents=True)
    imagebuild.note_user(images, old)
    monkeypatch.setenv("AGENTISO_STATE_DIR", str(tmp_path))
    assert status_of(monkeypatch, "image", "forget", str(old)) == 1
    assert "is there" in capsys.readouterr().err
    shutil.rmtree(old)
    assert status_of(monkeypatch, "image", "forget", str(old)) == 0
    assert "no image is kept for" in capsys.readouterr().out
    assert imagebuild.other_users(images, tmp_path) == []


# -- commands, with a supervisor that is made up


class Supervisor:
    """Records the calls of tools; what is in ``missing`` does not exist."""

    def __init__(self, *missing: str) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._missing = missing

    def __call__(self, _arguments: Any, tool: str, **values: Any) -> dict[str, Any]:
        self.calls.append((tool, {key: value for key, value in values.items() if value is not None}))
        if values.get("workspace_id") in self._missing:
            raise ToolFailed(f"There is no workspace {values['workspace_id']!r}.", remedy="Look.")
        return {"message": f"{values.get('workspace_id')} is gone.", "count": 2, "name": "demo", "note": ""}


def test_destroying_goes_on_after_a_failure_and_tells_of_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(workspaces, "call_tool", Supervisor("b"))
    assert status_of(monkeypatch, "destroy", "a", "b", "c") == 1
    plain = capsys.readouterr()
    assert plain.out == "a is gone.\nc is gone.\n"
    assert plain.err == "error: There is no workspace 'b'. Look.\n"
    assert status_of(monkeypatch, "destroy", "a", "b", "c", "--json") == 1
    shown = json.loads(capsys.readouterr().out)
    assert [(each["workspace"], each["error"] is None) for each in shown] == [("a", True), ("b", False), ("c", True)]
    assert status_of(monkeypatch, "destroy", "a", "c") == 0


@pytest.mark.parametrize(("option", "asked"), [("--no-internet", False), ("--allow-internet", True), (None, None)])
def test_internet_is_switched_on_or_off_or_left_as_configured(
    monkeypatch: pytest.MonkeyPatch, option: str | None, asked: bool | None
) -> None:
    supervisor = Supervisor()
    monkeypatch.setattr(workspaces, "call_tool", supervisor)
    assert status_of(monkeypatch, "create", "demo", *([option] if option else [])) == 0
    assert supervisor.calls[0][1].get("allow_internet") is asked


@pytest.mark.parametrize(("told", "shown"), [({"note": "They boot."}, "They boot.\n"), ({"note": ""}, ""), ({}, "")])
def test_a_fork_without_memory_says_so_also_beside_a_supervisor_that_cannot(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: dict[str, str], shown: str
) -> None:
    worker = {"name": "demo-fork-1", "ready_ms": 80.0, "error": None}
    result = {"workers": [worker], "pause_ms": None, "dropped_forwards": [], **told}
    monkeypatch.setattr(workspaces, "call_tool", lambda *_arguments, **_values: result)
    assert status_of(monkeypatch, "fork", "demo") == 0
    assert capsys.readouterr().out == f"demo-fork-1 was ready in 80 ms\n{shown}"


def test_a_secret_is_read_from_the_standard_input_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor()
    monkeypatch.setattr(environment, "call_tool", supervisor)
    monkeypatch.setattr(sys, "stdin", io.StringIO("s3cret\n"))
    assert status_of(monkeypatch, "env", "demo", "TOKEN", "A=1", "--unset", "OLD") == 0
    assert supervisor.calls == [
        ("set_env", {"workspace_id": "demo", "vars": {"OLD": None, "TOKEN": "s3cret", "A": "1"}})
    ]
    shown = capsys.readouterr()
    assert "s3cret" not in shown.out + shown.err


def test_a_variable_without_a_value_is_passed_on_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "s3cret")
    assert environment.assigned(["TOKEN", "A=b=c"]) == {"TOKEN": "s3cret", "A": "b=c"}
    with pytest.raises(Misuse, match="no variable NOWHERE"):
        environment.assigned(["NOWHERE"])


def test_columns_are_aligned() -> None:
    assert common.columns([("A", "B"), ("long", "x")]) == "A     B\nlong  x"


class File:
    """A file of a workspace, read in pieces."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __call__(self, _arguments: Any, tool: str, *, offset: int, limit: int, **_: Any) -> dict[str, Any]:
        assert tool == "file_read"
        piece = self._content[offset : offset + limit]
        size = {"returned_bytes": len(piece), "size_bytes": len(self._content)}
        try:
            return {"content": piece.decode(), "encoding": "utf-8", **size}
        except UnicodeDecodeError:
            return {"content": base64.b64encode(piece).decode(), "encoding": "base64", **size}


@pytest.mark.parametrize("content", [b"", b"text\n", bytes(range(256)), "ä".encode() * 300_001, b"\0" * 524_288])
def test_a_file_is_printed_whole_and_unchanged(
    content: bytes, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(looking, "call_tool", File(content))
    assert status_of(monkeypatch, "cat", "demo:/f") == 0
    assert capfdbinary.readouterr().out == content


@pytest.mark.parametrize("command", ["ls", "cat", "search"])
def test_a_place_without_a_workspace_is_misuse(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pattern = ["x"] if command == "search" else []
    assert status_of(monkeypatch, command, "/etc/passwd", *pattern) == 2
    assert "WORKSPACE:PATH" in capsys.readouterr().err


def test_errors_name_commands_at_the_command_line() -> None:
    said = "workspace_info tells whether its machine runs, `workspace_logs` what it said; exec_list names jobs."
    assert in_commands(said) == (
        "`agentiso info` tells whether its machine runs, `agentiso logs` what it said; `agentiso jobs` names jobs."
    )
    assert set(COMMANDS) <= {tool.name for tool in TOOLS}
    known = make_parser()._subparsers
    assert known is not None
    assert {command.split()[0] for command in COMMANDS.values()} <= set(known._group_actions[0].choices or ())


def test_no_usual_remedy_names_a_tool_at_the_command_line() -> None:
    names = [tool.name for tool in TOOLS if "_" in tool.name]
    kinds: list[type[AgentisoError]] = [AgentisoError, *all_below(AgentisoError)]
    for kind in kinds:
        assert not [name for name in names if name in in_commands(kind.usual_remedy)], kind


def all_below(kind: type[AgentisoError]) -> list[type[AgentisoError]]:
    return [each for below in kind.__subclasses__() for each in (below, *all_below(below))]


def test_a_table_is_no_wider_than_the_terminal_and_loses_nothing() -> None:
    rows = [("CHECK", "REASON"), ("qemu", "word " * 60 + "end"), ("a  b", "short")]
    shown = common.columns(rows, 80).splitlines()
    assert max(map(len, shown)) <= 80
    assert " ".join(" ".join(shown).split()).count("word") == 60
    assert shown[-1] == "a  b   short"
    assert common.columns(rows).splitlines()[1] == "qemu   " + "word " * 60 + "end"


def test_progress_without_a_terminal_is_a_line_now_and_then_and_none_of_what_is_over_soon() -> None:
    now, said = 0.0, list[str]()
    report = common.Lines(said.append, lambda: now)
    for step in range(100):
        now = step / 10
        report(f"{now}")
    assert said == ["2.0", "7.0"]
