"""What the documentation says is there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from mypy import api

from agentiso.bench import PLANS
from tools import apidoc

ROOT = Path(__file__).parents[2]
CORRECTNESS = ROOT / "docs" / "fork-correctness.md"


def names_in(*paths: Path) -> set[str]:
    return {
        name for path in paths for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }


def test_the_api_reference_is_what_the_docstrings_say() -> None:
    assert (ROOT / "docs" / "api.md").read_text() == apidoc.page(), "run: python -m tools.apidoc > docs/api.md"


def test_every_test_that_a_hazard_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", CORRECTNESS.read_text()))
    assert named
    assert named <= names_in(*ROOT.glob("tests/*/test_*.py"))


def test_every_hazard_of_forks_has_a_row() -> None:
    rows = re.findall(r"^\| ((?:A\d+(?:, )?)+) \|", CORRECTNESS.read_text(), re.MULTILINE)
    assert {number for row in rows for number in row.split(", ")} == {f"A{number}" for number in range(1, 36)}


def test_every_test_of_a_hazard_is_named_by_it() -> None:
    named = set(re.findall(r"`(test_\w+)`", CORRECTNESS.read_text()))
    assert names_in(ROOT / "tests" / "functional" / "test_fork_correctness.py") <= named


def test_every_link_of_the_documentation_leads_to_a_file() -> None:
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert "://" in target or (page.parent / target).exists(), (page, target)


def test_the_specification_promises_exactly_what_the_benchmark_measures() -> None:
    table = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", (ROOT / "docs" / "SPECIFICATION.md").read_text(), re.MULTILINE)
    assert table == [(plan.name, plan.aim.text(plan.unit)) for plan in PLANS]


def test_type_checkers_accept_the_documentations_python(tmp_path: Path) -> None:
    lines = ["import agentiso"]
    for number, page in enumerate(sorted(ROOT.glob("docs/*.md"))):
        for block, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)):
            lines.append(f"async def of_{number}_{block}(system: agentiso.System, ws: agentiso.Workspace) -> None:")
            lines.append(textwrap.indent(code, "    "))
    assert len(lines) > 1
    (tmp_path / "documented.py").write_text("\n".join(lines))
    said, _, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), str(tmp_path / "documented.py")])
    assert status == 0, said
