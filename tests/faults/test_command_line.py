"""Ctrl-C of the demo at several moments, and the errors of commands as people and programs meet them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.faults.helpers import LIMIT_S, CommandLine, ended, processes, until

pytestmark = pytest.mark.faults
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "the accelerator is probed": lambda scratch: any(scratch.glob("agentiso-probe-*/console")),
    "the template boots": lambda scratch: any(scratch.glob("agentiso-*/templates/boot-*/machines/*/console.log")),
    "the template is saved": lambda scratch: any(scratch.glob("agentiso-*/checkpoints/[!.]*")),
    "the demo is forked": lambda scratch: len(list(scratch.glob("agentiso-*/workspaces/*/record.json"))) > 1,
}


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        *((moment, signal.SIGINT) for moment in MOMENTS),
        ("the demo is forked", signal.SIGTERM),
        ("the demo is forked", signal.SIGHUP),
    ],
)
async def test_an_interrupted_demo_ends_soon_and_leaves_nothing(
    cli: CommandLine, moment: str, number: signal.Signals
) -> None:
    scratch = Path(cli.environment["TMPDIR"])
    with trio.fail_after(LIMIT_S):
        demo = cli.start("demo")
        await until(lambda: MOMENTS[moment](scratch) or demo.poll() is not None)
        demo.send_signal(number)
        # An fsync under way cannot be interrupted, which takes its time when others write too.
        with trio.fail_after(LIMIT_S / 2):
            status, _, error = await ended(demo)
        assert status == 128 + number
        assert "Traceback" not in error
        assert list(scratch.iterdir()) == []
        assert processes(scratch) == set()


async def test_errors_are_one_clear_line_or_one_object(cli: CommandLine) -> None:
    cases = {
        ("info", "nobody"): ("not_found", "There is no workspace 'nobody'; there are: taken."),
        ("exec", "nobody", "--", "true"): ("not_found", "There is no workspace 'nobody'"),
        ("destroy", "nobody"): ("not_found", "There is no workspace 'nobody'"),
        ("create", "Bad_Name"): ("invalid_name", "'Bad_Name' is not a valid workspace name. Use 1 to 63"),
        ("create", "../up"): ("invalid_name", "'../up' is not a valid workspace name."),
        ("create", "taken"): ("name_taken", "There is a workspace 'taken' already. Choose another name"),
        ("create", "x", "--image", "nowhere"): ("image_error", "There is no image 'nowhere'"),
        ("create", "x", "--memory-mb", "1"): ("invalid_argument", "memory_mb is 1; 128 to"),
        ("fork", "taken", "-n", "0"): ("invalid_argument", "0"),
        ("snapshot", "restore", "taken", "never"): ("not_found", "has no snapshot 'never'"),
    }
    with trio.fail_after(LIMIT_S):
        await cli.json("create", "taken")
        for arguments, (code, message) in cases.items():
            plain = await cli.run(*arguments)
            assert (plain.returncode, plain.stdout) == (1, b""), (arguments, plain)
            (line,) = plain.stderr.decode().splitlines()
            assert line.startswith("error: ")
            assert message in line
            as_json = await cli.run(arguments[0], "--json", *arguments[1:])
            assert (as_json.returncode, as_json.stderr) == (1, b""), (arguments, as_json)
            shown = json.loads(as_json.stdout)
            assert set(shown) == {"error"}
            assert set(shown["error"]) == {"code", "message", "remedy"}
            assert shown["error"]["code"] == code
        assert [info["name"] for info in await cli.json("list")] == ["taken"]
