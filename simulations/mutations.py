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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from mycomesh.mesh.links import link
from mycomesh.mesh.messages import Batch, encode_parts
from mycomesh.simulations import shell
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.recorder import Recorder
from mycomesh.simulations.runner import Result, run
from mycomesh.simulations.scenarios import Scenario, build
from mycomesh.sync.exchange.exchange import ExchangeConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CASES", "MUTATIONS", "Case", "Found", "Mutation", "StaleMutationError", "hunt", "planted", "row_of"]


SETTLE_S = 40.0  # correct code converges within a few seconds at these sizes
TABLE = (
    "| mutation | the bug | scenario | must be found within seeds 1.. | found with seed | first violation |",
    "|---|---|---|---|---|---|",
)
SEEN_CHARS = 100
LIVE_SHARE_MIN = 0.95  # without faults, all batches spread live once the links are open


class StaleMutationError(ScenarioError):
    """The code that a mutation edits has changed: update the mutation in simulations/mutations.py."""


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit of a function (`module:qualified.name`) that replaces `old`, which occurs exactly once, by `new`."""

    function: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Case:
    """The run that shows a bug: a scenario, its size and special settings."""

    scenario: str
    nodes: int
    duration_s: float
    rates: tuple[tuple[str, float], ...] = ()  # fields of `Rates` that differ from the scenario's
    collect_ms: int | None = None  # interval of the tombstone GC; None: the default
    forged: bool = False  # a captured member alters batches that it forwards
    live: bool = False  # without faults, batches must spread live, not by rounds

    @property
    def text(self) -> str:
        """The case in words."""
        more = [f"{name} {value:g}" for name, value in self.rates]
        more += [f"collection every {self.collect_ms / 1_000:g} s"] if self.collect_ms is not None else []
        more += ["a captured member alters batches"] if self.forged else []
        return ", ".join([f"{self.scenario}, {self.nodes} nodes, {self.duration_s:g} s", *more])

    def expand(self, seed: int) -> Scenario:
        """Return the scenario for this seed."""
        scenario = build(self.scenario, seed=seed, nodes=self.nodes, duration_s=self.duration_s)
        rates: dict[str, Any] = dict(self.rates)
        return replace(scenario, rates=replace(scenario.rates, **rates), settle_s=SETTLE_S)

    def run(self, seed: int) -> Result:
        """Run this case with one seed."""
        with ExitStack() as stack:
            if self.collect_ms is not None:
                often = functools.partial(ExchangeConfig, collect_ms=self.collect_ms, beat_ms=1_000)
                stack.enter_context(mock.patch.object(shell, "ExchangeConfig", often))
            if self.forged:
                stack.enter_context(mock.patch.object(link, "encode_parts", _forging()))
            record = Recorder() if self.live else None
            result = run(self.expand(seed), seed, record=record)
        if record is None or record.live_share >= LIVE_SHARE_MIN:
            return result
        text = (
            f"only {record.live_share:.0%} of the batches came live; at least {LIVE_SHARE_MIN:.0%} must without faults"
        )
        return replace(result, violations=(*result.violations, text))


@dataclass(frozen=True, slots=True)
class Mutation:
    """A planted bug: its description, its edits, the case that shows it, and within how many seeds (from 1) it must."""

    name: str
    why: str
    edits: tuple[Edit, ...]
    case: Case
    seeds: int


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a hunt: the seed that showed the bug (None: it survived), and the first violation."""

    mutation: str
    seed: int | None
    tried: int
    text: str


SPLIT = Case("split-brain", 4, 40, (("edit", 1.0), ("insert", 0.3), ("delete", 0.3), ("rows", 8)))
CLOCKS = Case("clock-chaos", 4, 40, (("edit", 1.0), ("insert", 0.3), ("delete", 0.3), ("rows", 8)))
NAMES = Case("split-brain", 4, 40, (("rename", 1.0), ("rows", 30)))
CALM = Case("two-nodes", 4, 20, (("edit", 1.0), ("delete", 0.2)))
FORGED = Case("two-nodes", 3, 15, forged=True)
FLAPPING = Case("flapping", 4, 40, (("telemetry", 4.0), ("edit", 2.0), ("insert", 0.5), ("delete", 0.5), ("rows", 8)))
LARGE = Case("two-nodes", 18, 10, (("telemetry", 0.5),), live=True)
REVOKED = Case("captured-drone", 4, 40)
COPIED = Case("copies", 4, 40, (("telemetry", 2.0), ("edit", 1.0)))
MIXED = Case("mixed-load", 3, 40, (("count", 2.0), ("replace", 1.0)))
COLLECTING = replace(SPLIT, duration_s=90, collect_ms=2_000)

MUTATIONS = (
    Mutation(
        "vector-advanced-early",
        "a batch covers everything of its site before it, although earlier batches may be missing",
        (
            Edit(
                "mycomesh.sync.merge.section_merge:SectionMerge.step",
                "table.coverage.cover(site, after, upto)",
                "table.coverage.cover(site, 0, upto)",
            ),
        ),
        FLAPPING,
        3,
    ),
    Mutation(
        "gap-ranges-merged",
        "the ranges of a vector are joined over the gap between them",
        (Edit("mycomesh.sync.crdt.version_vector:Vector.add", "if merged and low <= merged[-1][1]:", "if merged:"),),
        FLAPPING,
        3,
    ),
    Mutation(
        "vector-adopted-without-its-rows",
        "one chunk of a round in four is thrown away, and the receiver takes the sender's vector anyway",
        (
            Edit(
                "mycomesh.sync.exchange.fetch:Fetcher.on_chunk",
                "self._replica.apply(bundle, turn.wall_ms, sender=link.peer)",
                "Applied() if len(bundle) % 4 == 0 else self._replica.apply(bundle, turn.wall_ms, sender=link.peer)",
            ),
        ),
        SPLIT,
        3,
    ),
    Mutation(
        "tombstone-dropped-early",
        "tombstones are collected before members have passed them, and without a GC watermark for an audit",
        (
            Edit(
                "mycomesh.sync.exchange.tombstone_gc:TombstoneGC._stable_upto",
                "return max(min(waiting), hlc_from_ms(max(oldest_ms, 0)))",
                "return hlc_from_ms(wall_ms - 1_000)",
            ),
            Edit(
                "mycomesh.sync.merge.tombstones:_raise_watermark",
                "table.store.db.execute(",
                "table.table_id and None and (",
            ),
        ),
        COLLECTING,
        3,
    ),
    Mutation(
        "tie-broken-by-arrival",
        "of two writes within a second the first to arrive wins, whatever their stamps",
        (
            Edit(
                "mycomesh.sync.crdt.lattice:join",
                "if entry.stamp >= stamp:",
                "if entry.stamp == stamp or entry.stamp[0] >> 26 >= stamp[0] >> 26:",
            ),
        ),
        SPLIT,
        3,
    ),
    Mutation(
        "later-delete-forgotten",
        "an older update of a deleted row is applied as if the row still existed",
        (
            Edit(
                "mycomesh.sync.crdt.lattice:join",
                "if newest_existence is not None and newest_existence > stamp:",
                "if False:",
            ),
        ),
        FLAPPING,
        3,
    ),
    Mutation(
        "hlc-goes-back",
        "the clock follows the wall clock, even when that jumps back",
        (
            Edit(
                "mycomesh.sync.crdt.hlc:Clock.tick",
                "max(self.last + 1, wall_ms << COUNTER_BITS, floor + 1)",
                "max((wall_ms << COUNTER_BITS) + (self.last + 1) % 1024, floor + 1)",
            ),
        ),
        CLOCKS,
        3,
    ),
    Mutation(
        "seen-writes-not-overwritten",
        "a local write is stamped by the wall clock alone, so a write that its user saw may win over it",
        (
            Edit(
                "mycomesh.sync.capture.drain:_change",
                "clock.tick(pending.at_ms, view.hlc)",
                "clock.tick(pending.at_ms)",
            ),
            Edit("mycomesh.sync.crdt.hlc:Clock.witness", "self.last = max(self.last, hlc)", "pass"),
        ),
        CLOCKS,
        3,
    ),
    Mutation(
        "conflict-not-recorded",
        "a value that loses to a concurrent write is dropped without a record",
        (Edit("mycomesh.sync.merge.conflicts:record_conflicts", "made = 0\n", "return 0\n"),),
        SPLIT,
        3,
    ),
    Mutation(
        "parked-row-dropped",
        "a row that a constraint refuses is neither parked nor held",
        (
            Edit("mycomesh.sync.merge.merge:materialize", "    if reason:\n        key", "    if False:\n        key"),
            Edit(
                "mycomesh.sync.merge.merge:materialize",
                "if reason or not alive or not view.plain",
                "if not reason and not alive",
            ),
        ),
        NAMES,
        5,
    ),
    Mutation(
        "unique-loser-by-arrival",
        "of two rows that claim one UNIQUE value, the first to arrive keeps it",
        (
            Edit(
                "mycomesh.sync.merge.unique_claims:later_claims",
                "found: dict[Row, str] = {}\n",
                "found: dict[Row, str] = {}\n    return {}\n",
            ),
        ),
        NAMES,
        5,
    ),
    Mutation(
        "held-values-dropped",
        "values that the table cannot show are not held",
        (Edit("mycomesh.sync.merge.merge:_hold", "hidden = {", "return\n    hidden = {"),),
        NAMES,
        5,
    ),
    Mutation(
        "delete-not-captured",
        "the trigger for DELETE does not fire",
        (
            Edit(
                "mycomesh.sync.capture.triggers:create_statements",
                '_trigger(names[3], "AFTER DELETE", table, "",',
                '_trigger(names[3], "AFTER DELETE", table, "WHEN 0",',
            ),
        ),
        CALM,
        2,
    ),
    Mutation(
        "prune-without-graft",
        "links are pruned from the tree, and no node requests the batches that then do not arrive",
        (
            Edit(
                "mycomesh.mesh.overlay.gossip:Gossip._may_prune",
                "return int.from_bytes",
                "return True or int.from_bytes",
            ),
            Edit(
                "mycomesh.mesh.overlay.gossip:Gossip._graft",
                "sends.append(GossipSend(link, Graft(tree, tuple(ids))))",
                "pass",
            ),
        ),
        LARGE,
        2,
    ),
    Mutation(
        "signature-not-checked",
        "a batch is accepted whatever its signature",
        (Edit("mycomesh.mesh.overlay.overlay:Overlay._on_batch", "if not verify(", "if False and not verify("),),
        FORGED,
        2,
    ),
    Mutation(
        "revocation-not-heeded",
        "a revocation is stored and forwarded, but the revoked member keeps its links and its batches are accepted",
        (
            Edit(
                "mycomesh.mesh.membership.membership:Membership._on_revoked", "self.roster.drop(each.node_id)", "pass"
            ),
            Edit("mycomesh.mesh.membership.membership:Membership._on_revoked", "for link in gone)", "for link in ())"),
        ),
        REVOKED,
        2,
    ),
    Mutation(
        "copy-keeps-its-site",
        "a file that was copied from another node, or went back in time, keeps its old site",
        (
            Edit(
                "mycomesh.sync.replication.site:Site.begin",
                "if not own or recalled.get(site, 0) > store.clock.last:",
                "if not site:",
            ),
            Edit(
                "mycomesh.sync.replication.site:Site.renew_if_behind",
                "if not self.is_behind(tables, tops):",
                "if True:",
            ),
        ),
        COPIED,
        3,
    ),
    Mutation(
        "counter-has-one-winner",
        "an amount that a node counted is treated as a plain value",
        (
            Edit(
                "mycomesh.sync.merge.counters:update_registers",
                "if type(now) is int and type(before) is int:",
                "if False:",
            ),
        ),
        MIXED,
        2,
    ),
    Mutation(
        "evicted-rows-not-captured",
        "a row that REPLACE evicts by its UNIQUE column is not captured",
        (
            Edit(
                "mycomesh.sync.capture.triggers:_evicting",
                "in spec.unique if index.match]",
                "in spec.unique if False]",
            ),
        ),
        MIXED,
        3,
    ),
)
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


def _forging() -> Callable[[Any, int], tuple[bytes, bytes]]:
    """Return an encoder that alters values in one batch of three."""
    count = 0

    def encoded(message: Any, version: int) -> tuple[bytes, bytes]:
        nonlocal count
        if isinstance(message, Batch) and b"<w" in message.payload:
            count += 1
            if count % 3 == 0:
                message = replace(message, payload=message.payload.replace(b"<w", b"<v"))
        return encode_parts(message, version)

    return encoded


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
