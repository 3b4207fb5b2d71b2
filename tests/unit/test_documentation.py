"""What the documentation says is there."""

from __future__ import annotations

import re
from pathlib import Path

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
