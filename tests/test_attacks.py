"""docs/attacks.md names a test for each attack: every one of them must be there."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "attacks.md").read_text())))


@cache
def names_in(path):
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_catalogue_names_tests():
    assert len(NAMED) > 60


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_every_test_of_the_catalogue_exists(path, name):
    assert name.startswith("test_")
    assert name in names_in(path)


def test_no_row_of_a_table_is_without_a_test():
    rows = [line for line in (ROOT / "docs" / "attacks.md").read_text().splitlines() if line.startswith("| ")]
    bare = [row for row in rows if "tests/" not in row and not row.endswith("| tests |")]
    assert bare == []
