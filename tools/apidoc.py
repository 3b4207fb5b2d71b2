"""docs/api.md, made from the library's docstrings: ``python -m tools.apidoc > docs/api.md``."""

from __future__ import annotations

import enum
import inspect
import re
import sys
from collections.abc import Iterator

import attrs

import agentiso
from agentiso.library.files import Files
from agentiso.library.git import Git
from agentiso.library.images import Images
from agentiso.library.jobs import Jobs
from agentiso.library.ports import Ports
from agentiso.library.snapshots import Snapshots
from agentiso.library.templates import Templates

_FIELD = re.compile(r'^    (\w+): [^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
_MEMBER = re.compile(r'^    (\w+) = [^\n]*\n    """(.*?)"""', re.MULTILINE | re.DOTALL)
FACETS = (Files, Jobs, Snapshots, Ports, Git, Templates, Images)
HEAD = """\
# API reference

Made from the docstrings by `python -m tools.apidoc`.  [library.md](library.md) says how the pieces fit together.
Everything here is in `agentiso`, save what is reached as a facet, like `workspace.files`.  In `agentiso.blocking` all
of it is the same without `async` and `await`.
"""


def main() -> None:
    """Print the page."""
    sys.stdout.write(page())


def page() -> str:
    """Return the whole page."""
    public = [getattr(agentiso, name) for name in agentiso.__all__]
    kinds = [kind for kind in public if inspect.isclass(kind) and not issubclass(kind, Exception)]
    live = [kind for kind in kinds if not (attrs.has(kind) or issubclass(kind, enum.Enum)) or kind is agentiso.Fork]
    errors = [getattr(agentiso.errors, name) for name in agentiso.errors.__all__]
    parts = [HEAD, "## Functions\n", *_function("agentiso.open_system", agentiso.open_system), "## Objects\n"]
    parts += [line for kind in (*live, *FACETS) for line in _class(kind)]
    parts += ["## Values\n", *(line for kind in kinds if kind not in live for line in _class(kind))]
    parts += ["## Errors\n", *(f"- `errors.{kind.__name__}` (`{kind.code}`): {_text(kind)}" for kind in errors)]
    return "\n".join(parts).rstrip() + "\n"


def _class(kind: type) -> Iterator[str]:
    yield f"### {kind.__name__}\n"
    yield f"{_text(kind)}\n"
    if attrs.has(kind):
        said = dict(_FIELD.findall(inspect.getsource(kind)))
        for field in attrs.fields(kind):
            is_plain = field.default is not attrs.NOTHING and not hasattr(field.default, "factory")
            shown = f" = {field.default!r}" if is_plain else ""
            meaning = f": {_joined(said[field.name])}" if field.name in said else ""
            yield f"- `{field.name}: {kind.__annotations__[field.name]}{shown}`{meaning}"
        yield ""
    if issubclass(kind, enum.Enum):
        said = dict(_MEMBER.findall(inspect.getsource(kind)))
        yield from (f"- `{member.value}`: {_joined(said[member.name])}" for member in kind)
        yield ""
        return
    for name, method in vars(kind).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            yield from _function(f"{kind.__name__}.{name}", method)


def _function(name: str, function: object) -> Iterator[str]:
    inner = inspect.unwrap(function)  # type: ignore[arg-type]
    kind = "await " if inspect.iscoroutinefunction(inner) else ""
    if inspect.isasyncgenfunction(inner):
        kind = "async with "
    signature = re.sub(r"^\(self(, )?", "(", str(inspect.signature(inner)))
    # Annotations are strings here, and are shown as such.
    signature = re.sub(r"""(: |-> )(['"])(.*?)\2""", r"\1\3", signature)
    # A default that is a function has no name that a reader could use.
    signature = re.sub(r"<function \w+ at 0x[0-9a-f]+>", "...", signature)
    yield f"#### `{kind}{name}`\n"
    yield f"```\n{name}{signature}\n```\n"
    yield f"{_text(function)}\n"


def _text(thing: object) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", inspect.getdoc(thing) or "")


def _joined(text: str) -> str:
    return re.sub(r"``([^`]+)``", r"`\1`", " ".join(text.split()))


if __name__ == "__main__":
    main()
