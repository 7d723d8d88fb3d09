"""Mutation tests of the simulator: plants known bugs in sync/ and mesh/, which a sweep must find.

Each mutation is a small edit of a function, applied to the running code and undone afterwards, with the scenario that shows the
bug and the number of seeds within which it must. `python -m simulations.mutations` plants them one by one.

Invariant: an edit whose old text is not in its function exactly once is an error, never a pass.
"""

from __future__ import annotations
import __future__

import argparse
import functools
import importlib
import inspect
import sys
import textwrap
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.planted_bugs import MUTATIONS, Edit, Mutation

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CASES", "Found", "StaleMutationError", "hunt", "planted", "row_of"]


TABLE = (
    "| mutation | the bug | scenario | must be found within seeds 1.. | found with seed | first violation |",
    "|---|---|---|---|---|---|",
)
SEEN_CHARS = 100


class StaleMutationError(ScenarioError):
    """The code that a mutation edits has changed: update the mutation in simulations/planted_bugs.py."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a hunt: the seed that showed the bug (None: it survived), and the first violation."""

    mutation: str
    seed: int | None
    tried: int
    text: str


CASES = {mutation.name: mutation for mutation in MUTATIONS}


@contextmanager
def planted(mutation: Mutation) -> Iterator[None]:
    """Plant a bug in the running code within the block.

    Raises:
        StaleMutationError: the function does not exist, or the text is not in it exactly once; nothing was changed.
    """
    sources: dict[str, tuple[Any, str]] = {}
    for edit in mutation.edits:
        function, source = sources.get(edit.function) or _function(mutation, edit)
        if source.count(edit.old) != 1:
            times = source.count(edit.old)
            raise StaleMutationError(f"{mutation.name}: {edit.old!r} is {times} times in {edit.function}, not once")
        sources[edit.function] = function, source.replace(edit.old, edit.new)
    before = [(function, function.__code__) for function, _ in sources.values()]
    try:
        for function, source in sources.values():
            function.__code__ = _compiled(function, source)
        yield
    finally:
        for function, code in before:
            function.__code__ = code


def hunt(mutation: Mutation, seeds: int | None = None) -> Found:
    """Plant a bug and run its case with seeds 1, 2, ... until a run fails or the seeds are used up."""
    tried = seeds or mutation.seeds
    with planted(mutation):
        for seed in range(1, tried + 1):
            try:
                result = mutation.case.run(seed)
            except AssertionError as error:  # the product's assertions are checkers too
                return Found(mutation.name, seed, seed, f"an assertion failed: {error}")
            except Exception as error:  # noqa: BLE001  (a bug may raise anything, and that counts as found)
                return Found(mutation.name, seed, seed, f"{type(error).__name__}: {error}")
            if not result.ok:
                return Found(mutation.name, seed, seed, result.violations[0])
    return Found(mutation.name, None, tried, "")


def row_of(mutation: Mutation, found: Found) -> str:
    """Return the mutation's row of the table in docs/simulations.md."""
    seen = " ".join(found.text.replace("|", "/").split())
    seen = seen if len(seen) <= SEEN_CHARS else seen[: SEEN_CHARS - 3] + "..."
    seed = "survived" if found.seed is None else str(found.seed)
    return f"| {mutation.name} | {mutation.why} | {mutation.case.text} | {mutation.seeds} | {seed} | {seen} |"


def _function(mutation: Mutation, edit: Edit) -> tuple[Any, str]:
    module, _, path = edit.function.partition(":")
    try:
        found: Any = functools.reduce(getattr, path.split("."), importlib.import_module(module))
    except AttributeError as error:
        raise StaleMutationError(f"{mutation.name}: there is no {edit.function}") from error
    found = getattr(found, "__func__", found)  # a class method's own function
    return found, textwrap.dedent(inspect.getsource(found))


def _compiled(function: Any, source: str) -> Any:
    """Compile another source for a function, with the names of its module."""
    module = compile(source, function.__code__.co_filename, "exec", __future__.annotations.compiler_flag)
    made: dict[str, Any] = {}
    exec(module, function.__globals__, made)  # noqa: S102  (the text comes from the list above)
    found = made[function.__name__]
    return getattr(found, "__func__", found).__code__


def main(words: list[str] | None = None) -> int:
    """Hunt the named bugs, or all; return 0 if each was found, 1 if one survived, 2 if one cannot be planted."""
    parser = argparse.ArgumentParser(prog="python -m simulations.mutations", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="mutations (default: all)")
    parser.add_argument("--table", action="store_true", help="print the table of docs/simulations.md (minutes)")
    parser.add_argument("--list", action="store_true", help="list the mutations and exit")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds to try (default: as listed)")
    args = parser.parse_args(words)
    unknown = [name for name in args.names if name not in CASES]
    if unknown:
        print(f"no mutation {unknown[0]!r}; --list names them", file=sys.stderr)  # noqa: T201
        return 2
    survived = 0
    if args.table:
        print("\n".join(TABLE), flush=True)  # noqa: T201
    for mutation in [CASES[name] for name in args.names] or MUTATIONS:
        case = mutation.case
        where = f"{case.scenario} --nodes {case.nodes} --duration {case.duration_s:g}"
        if args.list:
            print(f"{mutation.name:32}  {where:44}  {mutation.seeds:4} seeds  {mutation.why}")  # noqa: T201
            continue
        try:
            found = hunt(mutation, args.seeds)
        except StaleMutationError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 2
        survived += found.seed is None
        if args.table:
            print(row_of(mutation, found), flush=True)  # noqa: T201
            continue
        verdict = f"SURVIVED {found.tried} seeds" if found.seed is None else f"seed {found.seed}: {found.text}"
        print(f"{mutation.name:32}  {where:44}  {verdict}", flush=True)  # noqa: T201
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
