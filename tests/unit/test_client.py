"""The command line's own client of the supervisor, as far as it needs none."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actors.model.errors import InvalidArgument
from actors.model.settings import Settings
from agentiso.client.tools import call


async def test_an_argument_that_is_not_utf8_is_refused_before_a_supervisor_is_asked(tmp_path: Path) -> None:
    with trio.fail_after(30), pytest.raises(InvalidArgument, match=r"'a\\udcff' is not valid UTF-8"):
        await call(Settings(state_dir=tmp_path), None, "workspace_info", {"workspace_id": "a\udcff"}, print)
    assert not list(tmp_path.iterdir())
