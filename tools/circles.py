"""No circle of files: ``python -m tools.circles`` names each one and ends with 1 if there is any.

Imports that only a type checker sees count like all others.
"""

from __future__ import annotations

import graphlib
import sys
from collections.abc import Iterable
from typing import Final

import grimp

HOUSES: Final = ("agentiso", "actors", "guest", "imagebuild")


def circle(houses: Iterable[str] = HOUSES) -> list[str]:
    """Return the files of a circle in the order in which they import each other, the first one last again."""
    graph = grimp.build_graph(*houses, cache_dir=None)
    imports = {file: graph.find_modules_directly_imported_by(file) for file in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found[::-1]
    return []


def main() -> None:
    """Say what is wrong."""
    if found := circle():
        sys.exit("these files import each other in a circle: " + " > ".join(found))


if __name__ == "__main__":
    main()
