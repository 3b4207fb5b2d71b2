"""The command line: every command, its arguments and what it prints.

Commands about workspaces go to the supervisor of the state directory, which is started on demand.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import trio

from actors.errors import AgentisoError
from agentiso.cli.client import ToolFailed, call
from agentiso.config import load_settings, settings_to_plain
from guest.errors import only_error

T = TypeVar("T")
EXAMPLES = """\
examples:
  agentiso image build base            build the image that workspaces start from (a minute)
  agentiso create demo                 make a workspace
  agentiso exec demo -- uname -a       run a command in it
  agentiso fork demo -n 3              fork it, memory and disk, while it runs
  agentiso snapshot create demo tidy   keep its state under a name
  agentiso serve                       be an MCP server on stdio
"""


def main() -> None:
    """Run the command and exit with its status: 0, 1 on failure, 2 on misuse, 130 on Ctrl-C, exec's own."""
    arguments = _parser().parse_args()
    try:
        sys.exit(arguments.run(arguments))
    except BrokenPipeError:
        # Whoever read our output has enough; nothing may be flushed to it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (KeyboardInterrupt, AgentisoError, BaseExceptionGroup) as caught:
        match only_error(caught):
            case KeyboardInterrupt():
                sys.exit(130)
            case AgentisoError() as error:
                _report(error, as_json=arguments.json)
                sys.exit(1)
        raise


def _report(error: AgentisoError, *, as_json: bool) -> None:
    code = error.facts.get("code", error.code) if isinstance(error, ToolFailed) else error.code
    if as_json:
        print(json.dumps({"error": {"code": code, "message": error.message, "remedy": error.remedy}}))
    else:
        print(f"error: {error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentiso",
        description="Disposable Linux machines for AI agents: microVM workspaces that fork while they run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", "-c", type=Path, help="configuration file (TOML)")
    parser.add_argument("--version", action="version", version=f"agentiso {version('agentiso')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        made.add_argument("--json", action="store_true", help="print JSON instead of text")
        return made

    command("check", _check, "look at this host and say what is missing and how to get it")
    made = command("create", _create, "make a workspace")
    made.add_argument("name", nargs="?")
    made.add_argument("--image", dest="base_image")
    made.add_argument("--vcpus", type=int)
    made.add_argument("--memory-mb", type=int)
    made.add_argument("--disk-gb", type=int)
    made.add_argument("--allow-internet", action="store_true", default=None)
    command("list", _list, "list the workspaces")
    made = command("info", _info, "describe a workspace")
    made.add_argument("workspace")
    made = command("exec", _exec, "run a command in a workspace; exits with its status")
    made.add_argument("workspace")
    made.add_argument("--timeout-secs", type=float, default=120.0)
    made.add_argument("--workdir")
    made.add_argument("command", nargs=argparse.REMAINDER, help="after --, the command")
    made = command("fork", _fork, "fork a workspace, memory and disk, while it runs")
    made.add_argument("workspace")
    made.add_argument("-n", "--count", type=int, default=1)
    made.add_argument("--snapshot", help="fork from this snapshot instead of the running machine")
    made.add_argument("--name-prefix")
    made = command("snapshot", _snapshot, "create, list or restore snapshots")
    made.add_argument("action", choices=("create", "list", "restore"))
    made.add_argument("workspace")
    made.add_argument("name", nargs="?")
    made.add_argument("--disk-only", action="store_true", help="keep the disk without the memory")
    made = command("destroy", _destroy, "destroy workspaces for good")
    made.add_argument("workspaces", nargs="+")
    made = command("image", _image, "build, list, verify or remove images")
    made.add_argument("action", choices=("build", "list", "verify", "remove"))
    made.add_argument("name", nargs="?", default="base")
    made.add_argument("--root", choices=("debian", "busybox"), default="debian", help="kind of root disk to build")
    made.add_argument(
        "--kernel", choices=("stock", "small"), default="stock",
        help="the distribution's kernel, or a small one that is compiled here once, in some minutes",
    )  # fmt: skip
    command("serve", _serve, "be an MCP server on stdio, for an agent's configuration")
    made = command("daemon", _daemon, "run, or stop, the supervisor of the state directory")
    made.add_argument("action", nargs="?", choices=("run", "stop"), default="run")
    made.add_argument("--idle-exit", type=float, metavar="SECONDS", help="end after being idle for so long")
    made = command("bench", _bench, "measure agentiso against a bare script that drives the same QEMU")
    made.add_argument("rows", nargs="*", metavar="ROW", help="only these rows")
    made.add_argument("--quick", action="store_true", help="fewer samples")
    command("config", _config, "print the configuration in force, as TOML")
    made = command("completion", _completion, "print a shell's completion script")
    made.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    command("demo", _demo, "show what workspaces can do, on a real one")
    return parser


def _call(arguments: Any, tool: str, **values: Any) -> dict[str, Any]:
    given = {key: value for key, value in values.items() if value is not None}
    settings = load_settings(arguments.config)
    # On a terminal only: the status line is drawn with control characters.
    if not sys.stderr.isatty():
        return trio.run(call, settings, arguments.config, tool, given, lambda _text: None)
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        return trio.run(call, settings, arguments.config, tool, given, status.update)


def _run_interruptibly(work: Callable[[], Awaitable[T]]) -> T:
    """Run what makes things of its own; Ctrl-C and SIGTERM cancel it, so that it takes them away before the end."""
    numbers: list[int] = []
    results: list[T] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:

            async def listen(*, task_status: trio.TaskStatus[None]) -> None:
                with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
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


def _show(arguments: Any, result: Any, text: str) -> int:
    print(json.dumps(result) if arguments.json else text)
    return 0


def _create(a: Any) -> int:
    result = _call(
        a, "workspace_create", name=a.name, base_image=a.base_image, vcpus=a.vcpus, memory_mb=a.memory_mb,
        disk_gb=a.disk_gb, allow_internet=a.allow_internet,
    )  # fmt: skip
    how = f"{result['started_by']} in {result['start_seconds']:.2f} s, {result['accelerator']}"
    text = f"{result['name']} is running ({how})"
    return _show(a, result, text)


def _list(a: Any) -> int:
    found = _call(a, "workspace_list")["workspaces"]
    rows = [("NAME", "STATE", "IMAGE", "MEMORY", "SNAPSHOTS", "FORKED FROM", "ID")]
    rows += [
        (w["name"], w["state"], w["base_image"], f"{w['resources']['memory_mb']} MB", str(len(w["snapshots"])),
         w["forked_from"] or "-", w["workspace_id"][:8])
        for w in found
    ]  # fmt: skip
    return _show(a, found, columns(rows))


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _info(a: Any) -> int:
    result = _call(a, "workspace_info", workspace_id=a.workspace)
    return _show(a, result, json.dumps(result, indent=2))


def _exec(a: Any) -> int:
    import shlex

    words = a.command[1:] if a.command[:1] == ["--"] else a.command
    if not words:
        print("error: no command was given. Use: agentiso exec WORKSPACE -- COMMAND", file=sys.stderr)
        return 2
    command = words[0] if len(words) == 1 else shlex.join(words)
    result = _call(
        a, "exec", workspace_id=a.workspace, command=command, timeout_secs=a.timeout_secs, workdir=a.workdir,
        max_output_bytes=262144,
    )  # fmt: skip
    if a.json:
        print(json.dumps(result))
    else:
        sys.stdout.write(result["stdout"])
        sys.stderr.write(result["stderr"] + (result["note"] + "\n" if result["note"] else ""))
    return int(result["exit_code"]) if result["exit_code"] is not None else 128 + int(result["signal"])


def _fork(a: Any) -> int:
    result = _call(
        a,
        "workspace_fork",
        workspace_id=a.workspace,
        count=a.count,
        snapshot_name=a.snapshot,
        name_prefix=a.name_prefix,
    )
    pause = "" if result["pause_ms"] is None else f"; the parent stood still for {result['pause_ms']:.0f} ms"
    lines = [w["error"] or f"{w['name']} was ready in {w['ready_ms']:.0f} ms" for w in result["workers"]]
    _show(a, result, "\n".join(lines) + pause)
    return 1 if any(worker["error"] for worker in result["workers"]) else 0


def _snapshot(a: Any) -> int:
    if a.action == "list":
        found = _call(a, "snapshot_list", workspace_id=a.workspace)["snapshots"]
        rows = [("NAME", "MEMORY", "PARENT")]
        rows += [(s["name"], "yes" if s["has_memory"] else "no", s["parent"] or "-") for s in found]
        return _show(a, found, columns(rows))
    if not a.name:
        print("error: a snapshot's name is needed.", file=sys.stderr)
        return 2
    if a.action == "create":
        made = _call(a, "snapshot_create", workspace_id=a.workspace, name=a.name, include_memory=not a.disk_only)
        return _show(a, made, f"snapshot {a.name} was taken")
    back = _call(a, "snapshot_restore", workspace_id=a.workspace, snapshot_name=a.name)
    return _show(a, back, f"{back['name']} is back at {a.name} ({back['started_by']} in {back['start_seconds']:.2f} s)")


def _destroy(a: Any) -> int:
    done = [_call(a, "workspace_destroy", workspace_id=name)["message"] for name in a.workspaces]
    return _show(a, done, "\n".join(done))


def _check(a: Any) -> int:
    from agentiso.check import run_checks

    results = trio.run(run_checks, load_settings(a.config))
    rows = [("CHECK", "", "VERDICT", "REASON", "FIX")]
    mark = {True: "ok", False: "MISSING", None: "note"}
    rows += [(r.name, mark[r.ok], r.verdict, r.reason, r.fix) for r in results]
    plain = [{"name": r.name, "ok": r.ok, "verdict": r.verdict, "reason": r.reason, "fix": r.fix} for r in results]
    _show(a, plain, columns(rows))
    return 1 if any(result.ok is False for result in results) else 0


def _image(a: Any) -> int:
    import imagebuild

    images_dir = load_settings(a.config).images
    if a.action == "list":
        found = imagebuild.list_images(images_dir)
        rows = [("NAME", "DIGEST", "SUITE", "KERNEL")]
        rows += [(i.name, i.digest, i.manifest.suite, i.manifest.kernel_version) for i in found]
        return _show(
            a,
            [dict(zip(("name", "digest", "suite", "kernel"), row, strict=True)) for row in rows[1:]],
            columns(rows),
        )
    if a.action == "build":
        image = _run_interruptibly(
            lambda: imagebuild.build_image(
                a.name, images_dir, progress=show_progress, root_kind=a.root, kernel_kind=a.kernel
            )
        )
        return _show(a, {"name": a.name, "digest": image.digest}, f"image {a.name} is ready ({image.digest})")
    if a.action == "verify":
        imagebuild.verify_image(imagebuild.load_image(images_dir, a.name))
        return _show(a, {"name": a.name, "ok": True}, f"image {a.name} is whole")
    imagebuild.remove_image(images_dir, a.name)
    return _show(a, {"name": a.name, "removed": True}, f"image {a.name} was removed")


def show_progress(progress: Any) -> None:
    """Print one line of a build's progress."""
    state = "done" if progress.done else "..."
    print(f"[{progress.elapsed_s:5.1f} s] {progress.step}: {progress.message} {state}", file=sys.stderr)


def _serve(a: Any) -> int:
    from agentiso.serve import run_serve

    trio.run(run_serve, load_settings(a.config), a.config)
    return 0


def _daemon(a: Any) -> int:
    from agentiso.daemon import run_daemon, stop_daemon

    settings = load_settings(a.config)
    if a.action == "stop":
        stopped = stop_daemon(settings)
        return _show(a, {"stopped": stopped}, "the supervisor was asked to end" if stopped else "no supervisor runs")
    trio.run(lambda: run_daemon(settings, idle_exit_s=a.idle_exit))
    return 0


def _bench(a: Any) -> int:
    from rich.console import Console

    from agentiso.bench import run_bench, table, to_json

    settings = load_settings(a.config)
    with Console(stderr=True).status("agentiso bench") as status:
        rows = _run_interruptibly(lambda: run_bench(settings, names=a.rows, quick=a.quick, report=status.update))
    if a.json:
        print(json.dumps(to_json(rows, settings)))
    else:
        console = Console()
        console.print(table(rows), width=max(console.width, 110))
    return 0


def _config(a: Any) -> int:
    import tomli_w

    plain = settings_to_plain(load_settings(a.config))
    return _show(a, plain, tomli_w.dumps(plain).rstrip())


def _completion(a: Any) -> int:
    import shtab

    print(shtab.complete(_parser(), shell=a.shell))
    return 0


def _demo(a: Any) -> int:
    from agentiso.demo import run_demo

    _run_interruptibly(lambda: run_demo(load_settings(a.config), as_json=a.json))
    return 0
