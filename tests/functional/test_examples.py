"""What people start from works: every example, and the Python of the README."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.functional
LIMIT_S = 600
ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
LAST_WORDS = {
    "attach.py": "found: prepared by another program\n",
    "best_of_n.py": "kept: gzip -9 -c text, True\n",
    "blocking.py": "sorted: apple; reversed: pear; the parent still has: pear, apple, fig\n",
    "explore.py": "kept: try-sorted\n",
    "rewind.py": "after the restore: still here; 1 process sleeps on\n",
    "stream.py": "saw True; still running: 0\n",
}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
async def test_an_example_runs_and_says_what_it_promises(path: Path, environment: dict[str, str]) -> None:
    assert (await run(str(path), environment)).endswith(LAST_WORDS[path.name])


async def test_the_python_of_the_readme_runs(tmp_path: Path, environment: dict[str, str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        script = tmp_path / "block.py"
        script.write_text(block)
        assert "demo-fork-3" in await run(str(script), environment)


async def run(script: str, environment: dict[str, str]) -> str:
    with trio.fail_after(LIMIT_S):
        done = await trio.run_process([sys.executable, script], env={**os.environ, **environment}, capture_stdout=True)
    return done.stdout.decode()
