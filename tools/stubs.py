"""agentiso/blocking.pyi, made from the library's source: ``python -m tools.stubs > agentiso/blocking.pyi``.

What type checkers see of the classes that `agentiso.library.synchronous` makes at run time.  ``ruff format`` gives the
file its form, which the unit test does not look at.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final

from agentiso.library import files, git, images, jobs, opening, ports, snapshots, system, templates, workspace

KINDS: Final[tuple[type, ...]] = (
    system.System,
    system.Imported,
    workspace.Workspace,
    workspace.Fork,
    files.Files,
    git.Git,
    images.Images,
    jobs.Jobs,
    jobs.Output,
    ports.Ports,
    snapshots.Snapshots,
    templates.Templates,
)
NAMES: Final = {kind.__name__ for kind in KINDS}
HEAD: Final = "# Made by `python -m tools.stubs`.\n"
OWN: Final = """
class Face:
    def __init__(self, portal: BlockingPortal, behind: Any) -> None: ...

def face_of(kind: type) -> type[Face]: ...
"""
"""What is not made of the library."""
OWN_IMPORTS: Final = {"AbstractContextManager": "contextlib", "Any": "typing", "BlockingPortal": "anyio.from_thread"}
WAITING: Final = {
    "AsyncIterator": "Iterator",
    "AsyncIterable": "Iterator",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
}
"""What stands for what, where somebody waits."""
KEPT: Final = {"__aiter__", "__anext__", "__iter__", "__len__", "__getitem__"}


def main() -> None:
    """Print the file."""
    sys.stdout.write(stub())


def stub() -> str:
    """Return the file's text, but for its form."""
    imports = dict(OWN_IMPORTS)
    made = [ast.unparse(_Face(kind, imports).definition) for kind in KINDS]
    opened = ast.unparse(_Waiting(opening, imports).function(_parsed(inspect.unwrap(opening.open_system))))
    exported = sorted([*NAMES, "Face", "face_of", "open_system"])
    return "\n".join([HEAD, *_import_lines(imports), f"__all__ = {exported}", OWN, *made, opened]) + "\n"


def _import_lines(imports: dict[str, str]) -> Iterator[str]:
    """Yield what imports names from modules, in the order that ruff wants."""
    ours, standard = {"actors", "agentiso", "guest"}, sys.stdlib_module_names
    sections: dict[int, dict[str, list[str]]] = {}
    for name, module in sorted(imports.items()):
        root = module.partition(".")[0]
        section = sections.setdefault(0 if root in standard else 2 if root in ours else 1, {})
        section.setdefault(module, []).append(name)
    for _, section in sorted(sections.items()):
        yield from (f"from {module} import {', '.join(names)}" for module, names in sorted(section.items()))
        yield ""


def _parsed(thing: Any) -> Any:
    return ast.parse(inspect.cleandoc("\n" + inspect.getsource(thing))).body[0]


class _Waiting(ast.NodeTransformer):
    """Makes what a module says of something asynchronous say it of what waits, and collects what that imports."""

    def __init__(self, module: ModuleType, imports: dict[str, str]) -> None:
        self._module = module
        self._imports = imports
        self._origins = dict(_origins(ast.parse(inspect.getsource(module))))

    def function(self, function: Any) -> ast.FunctionDef:
        """Return a function, or method, as it is to be called."""
        returns, args = self.visit(function.returns), self.visit(function.args)
        if any(ast.unparse(decorator) == "asynccontextmanager" for decorator in function.decorator_list):
            # What it iterates over, once, is what the block gets.
            returns = ast.Subscript(ast.Name("AbstractContextManager"), returns.slice)
        name = WAITING.get(function.name, function.name)
        made = ast.FunctionDef(name, args, _dots(), [], returns)
        return ast.fix_missing_locations(made)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        """Have an argument take what is there where somebody waits."""
        return ast.arg(node.arg, node.annotation and self.visit(node.annotation))

    def visit_arguments(self, node: ast.arguments) -> ast.arguments:
        """Leave out what a default is, unless it can be read."""
        node.args, node.kwonlyargs = [*map(self.visit_arg, node.args)], [*map(self.visit_arg, node.kwonlyargs)]
        node.vararg = node.vararg and self.visit_arg(node.vararg)
        node.defaults = [_readable(default) for default in node.defaults]
        node.kw_defaults = [default and _readable(default) for default in node.kw_defaults]
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """Import what an annotation takes from a module, by itself."""
        package, name = self._origins[ast.unparse(node.value)]
        return self._imported(node.attr, f"{package}.{name}")

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """Import what an annotation names, unless it is here or everywhere."""
        name = WAITING.get(node.id, node.id)
        if name in NAMES or hasattr(builtins, name):
            return ast.Name(name)
        package, _ = self._origins.get(node.id, (self._module.__name__, name))
        return self._imported(name, package)

    def _imported(self, name: str, module: str) -> ast.Name:
        if self._imports.setdefault(name, module) != module:
            raise TypeError(f"{name} is in {module} and in {self._imports[name]}")
        return ast.Name(name)


class _Face(_Waiting):
    """One class of the library, and its definition for those who wait."""

    def __init__(self, kind: type, imports: dict[str, str]) -> None:
        super().__init__(sys.modules[kind.__module__], imports)
        body = [*self._attributes(_parsed(kind)), *self._methods(_parsed(kind))]
        self.definition = ast.fix_missing_locations(ast.ClassDef(kind.__name__, [ast.Name("Face")], [], body, []))

    def _methods(self, kind: ast.ClassDef) -> Iterator[ast.stmt]:
        for node in kind.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _is_property(node):
                continue
            if not node.name.startswith("_") or node.name in KEPT:
                yield self.function(node)

    def _attributes(self, kind: ast.ClassDef) -> Iterator[ast.stmt]:
        """Yield what every instance has, of the type that it is said or seen to be of."""
        maker = [node for node in kind.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"]
        for node in maker[0].body if maker else kind.body:
            if isinstance(node, ast.AnnAssign):
                target, of = ast.unparse(node.target), node.annotation
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                target, of = ast.unparse(node.targets[0]), node.value.func
            else:
                continue
            name = target.removeprefix("self.")
            if name.isidentifier() and not name.startswith("_"):
                arguments = ast.arguments([], [ast.arg("self")], None, [], [], None, [])
                yield ast.FunctionDef(name, arguments, _dots(), [ast.Name("property")], self.visit(of))


def _is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)


def _origins(module: ast.Module) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the names that a module imports, with the package and the name that each has there."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield alias.asname or alias.name, (node.module, alias.name)


def _readable(default: ast.expr) -> ast.expr:
    return default if isinstance(default, ast.Constant) else ast.Constant(...)


def _dots() -> list[ast.stmt]:
    return [ast.Expr(ast.Constant(...))]


if __name__ == "__main__":
    main()
