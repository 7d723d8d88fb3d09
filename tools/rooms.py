"""`python -m tools.rooms`: measures the rooms, imports and import cycles of the source tree.

Every import counts, also one inside a function or for the type checker alone, because a reader follows those too.
"""

from __future__ import annotations

import argparse
import ast
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MODULES_MAX", "cycles", "graph", "main", "modules", "room", "upward"]

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("mesh", "sync", "simulations", "tools")
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")  # fields of the syntax tree that hold statements
MODULES_MAX = {"mesh": 24, "sync": 10}  # modules directly in the folder; more are hard to survey


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the modules of the source tree by dotted name; a package has its folder's name."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Return for each module the modules that it imports anywhere in its text."""
    found = modules(root)
    return {name: _imports(path.read_text(), found) - {name} for name, path in found.items()}


@functools.cache
def _statements(text: str) -> list[ast.stmt]:
    """Return the import statements of a module, wherever they are: only statements hold statements."""
    found: list[ast.stmt] = []
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        for name, value in ast.iter_fields(waiting.pop()):
            if name in BLOCKS:
                found += (node for node in value if isinstance(node, ast.Import | ast.ImportFrom))
                waiting += value
    return found


def _imports(text: str, known: dict[str, Path]) -> set[str]:
    names: list[str] = []
    for node in _statements(text):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            named = [name for name in inner if name.removeprefix("mycomesh.") in known]
            names += named
            if len(named) < len(inner):
                names.append(node.module)
    return {name.removeprefix("mycomesh.") for name in names} & known.keys()


def cycles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one node, largest first (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(arrows[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    for node in sorted(arrows):
        if node not in index:
            visit(node)
    return sorted(found, key=lambda each: (-len(each), each))


def room(module: str, found: dict[str, Path]) -> str:
    """Return the room of a module: its folder, with the folders below it; one directly in `mesh` or `sync` is a room itself."""
    folder = module if found[module].name == "__init__.py" else module.rpartition(".")[0]
    return module if folder in MODULES_MAX else ".".join(folder.split(".")[:2])


def upward(arrows: dict[str, set[str]]) -> int:
    """Return how many arrows close a cycle in a depth-first walk: those that run up wherever one begins to read."""
    path: list[str] = []
    seen: set[str] = set()

    def visit(node: str) -> int:
        seen.add(node)
        path.append(node)
        count = sum(target in path for target in arrows[node])
        count += sum(visit(target) for target in sorted(arrows[node]) if target not in seen)
        path.pop()
        return count

    return sum(visit(node) for node in sorted(arrows) if node not in seen)


def _floors(arrows: dict[str, set[str]]) -> int:
    """Return the length of the longest chain of imports; 0 where a cycle leaves it undefined."""
    if cycles(arrows):
        return 0
    depth: dict[str, int] = {}

    def visit(node: str) -> int:
        if node not in depth:
            depth[node] = 1 + max((visit(target) for target in sorted(arrows[node])), default=0)
        return depth[node]

    return max((visit(node) for node in sorted(arrows)), default=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; return 1 if a rule is broken."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.rooms", description=(__doc__ or "").partition(":")[2].strip()
    )
    parser.add_argument(
        "root", nargs="?", type=Path, default=ROOT, help="the source tree to measure (default: this one)"
    )
    root: Path = parser.parse_args(argv).root
    found, arrows = modules(root), graph(root)
    broken = []
    for folder in ("sync", "mesh"):
        inside = {name: {t for t in to if _in(t, folder)} for name, to in arrows.items() if _in(name, folder)}
        between: dict[str, set[str]] = {room(name, found): set() for name in inside}
        for name, to in inside.items():
            between[room(name, found)] |= {room(target, found) for target in to} - {room(name, found)}
        direct = [n for n in inside if n.count(".") == 1 and found[n].name != "__init__.py"]
        print(
            f"{folder}: {len(inside)} modules, {len(direct)} directly in it; {len(between)} rooms, {_floors(between)} floors, "
            f"{sum(map(len, between.values()))} arrows, {upward(between)} up, {len(cycles(between))} cycles between rooms"
        )
        if len(direct) > MODULES_MAX[folder]:
            broken.append(f"{folder}/ has {len(direct)} modules directly in it; at most {MODULES_MAX[folder]}")
    broken += [f"import cycle of {len(cycle)}: {', '.join(cycle)}" for cycle in cycles(arrows)]
    print(
        f"all: {len(arrows)} modules, {sum(map(len, arrows.values()))} imports, {len(cycles(arrows))} cycles of modules"
    )
    for name, path in found.items():
        bare = sorted(_bare(path.read_text()))
        if bare:
            broken.append(f"{name} imports {', '.join(bare)}: write mycomesh.{bare[0]}")
    for line in broken:
        print(f"broken: {line}")
    return 1 if broken else 0


def _in(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def _bare(text: str) -> set[str]:
    """Return the imports without `mycomesh`, which would load a module a second time under another name."""
    names = [n.module for n in _statements(text) if isinstance(n, ast.ImportFrom) and n.module and n.level == 0]
    return {name for name in names if name.partition(".")[0] in FOLDERS}


if __name__ == "__main__":
    sys.exit(main())
