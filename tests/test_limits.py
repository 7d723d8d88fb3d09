"""Every constant *_MAX of the source has a test that tries it by name, or says in tests/limits.toml why none does.

A test should try what is below, at and above the limit. The kinds of reasons:
- wait: a time; what takes longer is tried again.
- shown: it cuts what a person reads; nothing is lost.
- step: the size of one piece of work; the next piece follows.
- cache: what is forgotten is found or computed again.
- sum: it follows from other limits.
- tool: a person's own input, or a tool of the developers.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KINDS = {"wait", "shown", "step", "cache", "sum", "tool"}
LISTED = {
    (path, name): entry
    for path, names in tomllib.loads((ROOT / "tests" / "limits.toml").read_text()).items()
    for name, entry in names.items()
}


def limits(source):
    """Return the names of the limits that a module defines."""
    for node in ast.parse(source).body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (target.id for target in targets if isinstance(target, ast.Name) and target.id.endswith("_MAX"))


def test_every_limit_of_the_source_is_listed():
    paths = (path for top in ("sync", "mesh", "tools", "simulations") for path in sorted((ROOT / top).rglob("*.py")))
    found = {(str(path.relative_to(ROOT)), name) for path in paths for name in limits(path.read_text())}
    assert sorted(found - LISTED.keys()) == [], (
        "write a test below, at and above it, and name the test in tests/limits.toml"
    )
    assert sorted(LISTED.keys() - found) == [], "take it out of tests/limits.toml"


@pytest.mark.parametrize("limit", LISTED, ids=" ".join)
def test_a_listed_test_exists_and_names_its_limit(limit):
    entry = LISTED[limit]
    if "::" not in entry:
        kind, _, why = entry.partition(": ")
        assert kind in KINDS
        assert why
        return
    path, _, name = entry.partition("::")
    source = (ROOT / path).read_text()
    defined = {
        node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in defined
    assert limit[1] in source
