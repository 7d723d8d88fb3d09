"""The tests of sync and mesh lie where their subjects lie: tests/sync/merge/test_merge.py is about sync/merge/merge.py.

A test that crosses modules is in tests/stories, one of real processes in tests/integration.
`python -m tests.test_mirror` lists the modules without a test file of their name, the longest first.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MIRRORED = ("sync", "mesh")


def mirrored_tests():
    return sorted(path.relative_to(ROOT) for top in MIRRORED for path in (ROOT / "tests" / top).rglob("test_*.py"))


def modules():
    """Return the modules that may have a test file of their name."""
    paths = (path for top in MIRRORED for path in (ROOT / top).rglob("*.py") if path.name != "__init__.py")
    return sorted(path.relative_to(ROOT) for path in paths)


def mirror_of(module):
    return Path("tests", *module.parts[:-1], f"test_{module.name}")


@pytest.mark.parametrize("path", mirrored_tests(), ids=str)
def test_a_test_file_names_a_module_of_its_folder(path):
    module = Path(*path.parts[1:-1], path.name.removeprefix("test_"))
    assert (ROOT / module).is_file(), (
        f"{path} tests no module of {module.parent}: move it, or put it into tests/stories"
    )


def test_names_of_tests_have_three_to_nine_words():
    paths = sorted((ROOT / "tests").rglob("test_*.py"))
    names = [
        (path.name, name)
        for path in paths
        for name in re.findall(r"^(?:async )?def test_(\w+)", path.read_text(), re.MULTILINE)
    ]
    assert len(names) > 1_400
    assert [(path, name) for path, name in names if not 3 <= len(name.split("_")) <= 9] == []


if __name__ == "__main__":
    bare = [module for module in modules() if not (ROOT / mirror_of(module)).exists()]
    for module in sorted(bare, key=lambda module: -len((ROOT / module).read_text().splitlines())):
        print(len((ROOT / module).read_text().splitlines()), module)
    print(f"{len(modules()) - len(bare)} of {len(modules())} modules have a test file of their name")
