"""What a person, a program and a model are told of what is damaged, of unneeded files, and of images."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.model.errors import HostUnfit
from actors.model.settings import Settings
from actors.registry.places import MARK, claim
from agentiso.access.gate import Gate
from agentiso.cli import checks, doctor, images, workspaces
from agentiso.cli.main import main
from agentiso.library.system import System
from agentiso.mcp.uris import DOCTOR
from agentiso.protocol.sessions import LOCAL
from tests.standins import caller, open_stopped

LIMIT_S = 60
DAMAGED = {"what": "workspace 1234abcd", "path": "/state/1234abcd", "why": "It is cut off.", "remedy": "Mend it."}
BLOCKED = {"what": "collection", "path": "", "why": "Nothing is removed.", "remedy": "Mend what is named."}
NOTHING: dict[str, Any] = {"healthy": True, "damaged": [], "unreachable": [], "half_done": [], "collection": []}
ILL = {**NOTHING, "healthy": False, "damaged": [DAMAGED], "collection": [BLOCKED]}


def run(monkeypatch: pytest.MonkeyPatch, module: Any, answer: Any, *words: str) -> int | str | None:
    """Run a command whose calls of tools have an answer: of each its own, or the same for all."""

    def call_tool(_arguments: Any, tool: str, **_values: Any) -> Any:
        found = answer.get(tool, answer)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(module, "call_tool", call_tool)
    monkeypatch.setattr(sys, "argv", ["agentiso", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_doctor_tells_each_thing_with_its_place_reason_and_remedy_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, doctor, ILL, "doctor") == 1
    assert capsys.readouterr().out == (
        "workspace 1234abcd: damaged or not understood, and left alone\n"
        "  at   /state/1234abcd\n  why  It is cut off.\n  do   Mend it.\n\n"
        "collection: keeps unneeded files\n  why  Nothing is removed.\n  do   Mend what is named.\n"
    )
    assert run(monkeypatch, doctor, ILL, "doctor", "--json") == 1
    assert json.loads(capsys.readouterr().out) == ILL
    assert run(monkeypatch, doctor, NOTHING, "doctor") == 0
    assert capsys.readouterr().out == "nothing is wrong\n"


@pytest.mark.parametrize("part", ["", "workspaces", "layers"])
def test_doctor_says_itself_why_no_supervisor_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    state_dir = tmp_path / "state"
    unreadable = state_dir / part
    unreadable.parent.mkdir(parents=True, exist_ok=True)
    unreadable.write_text("a file where a directory should be")
    monkeypatch.setenv("AGENTISO_STATE_DIR", str(state_dir))
    assert run(monkeypatch, doctor, {"doctor": HostUnfit("It did not start.")}, "doctor", "--json") == 1
    damaged = json.loads(capsys.readouterr().out)["damaged"]
    assert damaged[0]["path"] == str(unreadable)
    assert "cannot be read" in damaged[0]["why"]


def test_doctor_names_a_directory_that_is_missing_and_not_the_log_that_speaks_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim(tmp_path)
    (tmp_path / "layers" / MARK).unlink()
    (tmp_path / "layers").rmdir()
    monkeypatch.setenv("AGENTISO_STATE_DIR", str(tmp_path))
    failure = HostUnfit("It did not start. Its log ends: 20 lines", remedy="See the log.")
    assert run(monkeypatch, doctor, {"doctor": failure}, "doctor", "--json") == 1
    (told,) = json.loads(capsys.readouterr().out)["damaged"]
    assert (told["what"], told["path"]) == ("the directory layers", str(tmp_path / "layers"))
    assert ("20 lines" in told["why"], "put it back" in told["remedy"]) == (False, True)


def test_doctor_without_an_answer_tells_what_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTISO_STATE_DIR", str(tmp_path))
    failure = HostUnfit("It did not start.", remedy="See the log.")
    assert run(monkeypatch, doctor, {"doctor": failure}, "doctor") == 1
    assert "why  It did not start.\n  do   See the log.\n" in capsys.readouterr().out


def test_gc_says_what_went_and_a_dry_run_who_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"id": "a", "kind": "layer", "path": "/a", "size_bytes": 3 * 2**20, "kept_by": []}
    kept = {"id": "b", "kind": "checkpoint", "path": "/b", "size_bytes": 100, "kept_by": ["workspace demo"]}
    found = {"pieces": [gone, kept], "blocked": []}
    assert run(monkeypatch, doctor, found, "gc", "--dry-run") == 0
    assert capsys.readouterr().out == (
        "would go    3.0 MB  layer a\nkept         100 B  checkpoint b  by workspace demo\n1 not needed, 3.0 MB\n"
    )
    assert run(monkeypatch, doctor, {"pieces": [gone], "blocked": []}, "gc") == 0
    assert capsys.readouterr().out == "removed    3.0 MB  layer a\n1 removed, 3.0 MB\n"
    assert run(monkeypatch, doctor, {"pieces": [], "blocked": [BLOCKED]}, "gc") == 1
    assert capsys.readouterr().out == "0 removed, 0 B\nNothing is removed. Mend what is named.\n"
    doubtful = {"pieces": [{**gone, "maybe_kept_by": ["workspace 1234abcd"]}], "blocked": [BLOCKED]}
    assert run(monkeypatch, doctor, doubtful, "gc", "--dry-run") == 1
    assert capsys.readouterr().out == (
        "unknown     3.0 MB  layer a  may be needed by workspace 1234abcd\n0 not needed, 0 B\n"
        "1 may be needed, 3.0 MB\nNothing is removed. Mend what is named.\n"
    )


def test_list_hints_on_stderr_that_something_needs_a_look(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, workspaces, {"workspace_list": {"workspaces": []}, "doctor": ILL}, "list", "--json") == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("[]\n", "2 things need a look: agentiso doctor\n")
    assert run(monkeypatch, workspaces, {"workspace_list": {"workspaces": []}, "doctor": NOTHING}, "list") == 0
    assert capsys.readouterr().err == ""


def test_images_are_listed_with_their_users_and_what_is_wrong_with_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {"names": ["base"], "digest": "a" * 32, "suite": "s", "kernel": "6.1", "size_bytes": 2**20, "fault": "",
             "used_by": ["workspace demo (stopped)"]}  # fmt: skip
    damaged = {**whole, "names": [], "digest": "b" * 32, "suite": "", "kernel": "", "fault": "No manifest.",
               "used_by": []}  # fmt: skip
    assert run(monkeypatch, images, {"images": [whole, damaged]}, "image", "list") == 0
    shown = capsys.readouterr()
    _, first, second = shown.out.splitlines()
    assert [*first.split(maxsplit=6)[:2], first[-24:]] == ["base", "a" * 32, "workspace demo (stopped)"]
    assert second.split()[:2] == ["-", "b" * 32]
    assert shown.err == f"{'b' * 32} cannot be used: No manifest.\n"


def test_a_removal_says_what_went_with_the_image_and_for_whom_it_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"digest": "d", "names": ["base"], "files_removed": True, "dropped": ["template 1234abcd"], "used_by": []}
    assert run(monkeypatch, images, gone, "image", "remove", "base") == 0
    assert capsys.readouterr().out == "image base was removed\ntemplate 1234abcd went with it\n"
    left = {**gone, "files_removed": False, "dropped": [], "used_by": ["workspace demo (stopped)"]}
    assert run(monkeypatch, images, left, "image", "remove", "base", "--force") == 0
    assert capsys.readouterr().out == "the name base was removed\nits files stay as d, for workspace demo (stopped)\n"
    assert run(monkeypatch, images, {**left, "used_by": []}, "image", "remove", "base") == 0
    assert capsys.readouterr().out == "the name base was removed\nits files stay as d: it has another name\n"


# -- the real registry, over a workspace whose record is damaged


@pytest.fixture
async def ill(tmp_path: Path) -> AsyncIterator[System]:
    directory = tmp_path / "workspaces" / "1234abcd"
    directory.mkdir(parents=True)
    (directory / "record.json").write_text("{")
    with trio.fail_after(LIMIT_S):
        async with open_stopped(Settings(state_dir=tmp_path), {"mine": "ann"}) as system:
            yield system


async def test_a_model_is_told_that_something_is_damaged_and_where_to_read_of_it(ill: System) -> None:
    async with caller(ill, Gate(ill.settings), "ann") as ann:
        listed = await ann.client.call_tool("workspace_list", {})
        (text,) = (getattr(content, "text", "") for content in listed.content)
        assert (
            text.splitlines()[-1]
            == "Damaged or not understood, and left alone: workspace 1234abcd; see agentiso://doctor"
        )
        assert DOCTOR in [str(each.uri) for each in (await ann.client.list_resources()).resources]
        (content,) = (await ann.client.read_resource(DOCTOR)).contents
        (damaged,) = json.loads(getattr(content, "text", ""))["damaged"]
        assert (damaged["what"], damaged["path"][-8:]) == ("workspace 1234abcd", "1234abcd")


async def test_the_tools_of_the_command_line_tell_the_same(ill: System) -> None:
    async with caller(ill, Gate(ill.settings), LOCAL.session) as user:
        assert [each["what"] for each in (await user("doctor"))["damaged"]] == ["workspace 1234abcd"]
        shown = await user("collect", dry_run=True)
        assert (shown["pieces"], len(shown["blocked"])) == ([], 1)
        assert (await user.refused("image_list"))["code"] == "host_unfit"
        assert (await user.refused("image_remove", image="base"))["code"] == "host_unfit"


async def test_check_has_a_row_for_what_is_kept(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    assert (await checks._state(settings)).verdict == "none yet"
    directory = settings.state_dir / "workspaces" / "1234abcd"
    directory.mkdir(parents=True)
    assert (await checks._state(settings)).verdict == "healthy"
    (directory / "record.json").write_text("{")
    row = await checks._state(settings)
    assert (row.ok, row.reason, row.fix) == (False, "workspace 1234abcd", "agentiso doctor")
    (settings.state_dir / "workspaces").rename(tmp_path / "away")
    (settings.state_dir / "workspaces").write_text("a file")
    assert (await checks._state(settings)).verdict == "unreadable"
