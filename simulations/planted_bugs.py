"""The planted bugs that sweeps must find: small edits of functions, each with the runs that show it.

`simulations.mutations` plants them.
"""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from unittest import mock

from mycomesh.mesh.links import link
from mycomesh.mesh.messages import Batch, encode_parts
from mycomesh.simulations import shell
from mycomesh.simulations.faults import Fault, MailboxDoes, Window
from mycomesh.simulations.recorder import Recorder
from mycomesh.simulations.runner import Result, run
from mycomesh.simulations.scenarios import Scenario, build
from mycomesh.sync.exchange.exchange import ExchangeConfig

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MUTATIONS", "Case", "Edit", "Mutation"]

SETTLE_S = 40.0  # correct code converges within a few seconds at these sizes
LIVE_SHARE_MIN = 0.95  # without faults, all batches spread live once the links are open


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
    settle_s: float = SETTLE_S  # limit of the liveness phase
    faults: tuple[Fault, ...] = ()  # instead of the scenario's
    happens: str = ""  # these faults in words

    @property
    def text(self) -> str:
        """The case in words."""
        more = [f"{name} {value:g}" for name, value in self.rates]
        more += [f"collection every {self.collect_ms / 1_000:g} s"] if self.collect_ms is not None else []
        more += ["a captured member alters batches"] if self.forged else []
        more += [self.happens] if self.happens else []
        return ", ".join([f"{self.scenario}, {self.nodes} nodes, {self.duration_s:g} s", *more])

    def expand(self, seed: int) -> Scenario:
        """Return the scenario for this seed."""
        scenario = build(self.scenario, seed=seed, nodes=self.nodes, duration_s=self.duration_s)
        rates: dict[str, Any] = dict(self.rates)
        faults = self.faults or scenario.faults
        return replace(scenario, rates=replace(scenario.rates, **rates), settle_s=self.settle_s, faults=faults)

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


SPLIT = Case("split-brain", 4, 40, (("edit", 1.0), ("insert", 0.3), ("delete", 0.3), ("rows", 8)))
CLOCKS = Case("clock-chaos", 4, 40, (("edit", 1.0), ("insert", 0.3), ("delete", 0.3), ("rows", 8)))
NAMES = Case("split-brain", 4, 40, (("rename", 1.0), ("rows", 30)))
CALM = Case("two-nodes", 4, 20, (("edit", 1.0), ("delete", 0.2)))
FORGED = Case("two-nodes", 3, 15, forged=True)
FLAPPING = Case("flapping", 4, 40, (("telemetry", 4.0), ("edit", 2.0), ("insert", 0.5), ("delete", 0.5), ("rows", 8)))
LARGE = Case("two-nodes", 18, 10, (("telemetry", 0.5),), live=True)
REVOKED = Case("captured-drone", 4, 40)
COPIED = Case("copies", 4, 40, (("telemetry", 2.0), ("edit", 1.0)))
NUMBERED = Case("own-ids", 4, 40)
BASES = Case("bases", 6, 60, settle_s=1_200)  # correct code waits for holes, and looks every five minutes
# The last base reads and appends what many wrote meanwhile, and half of the gateways miss something for a minute.
APART = Case(
    "bases",
    6,
    60,
    (("telemetry", 0.0), ("edit", 2.0), ("alert", 0.0), ("rows", 2)),
    settle_s=1_200,
    faults=(
        MailboxDoes(8.0, ("lies",)),
        Window(10.0, 2, False),
        Window(30.0, 2, True),
        Window(36.0, 2, False),
        Window(52.0, 2, True),
    ),
    happens="a mailbox that lies, a base that is away twice",
)
MIXED = Case("mixed-load", 3, 40, (("count", 2.0), ("replace", 1.0)))
BETRAYED = Case("traitor", 4, 40)
AGED = Case("retention", 4, 40)
CUT = Case(
    "areas", 4, 40, settle_s=120.0
)  # correct code takes a minute: a node asks who covers an area every ten seconds
CUT_AGED = Case("aged-areas", 4, 40, settle_s=120.0)
LATE = Case("late-areas", 4, 40, settle_s=120.0)
LIMITED = Case("area-rights", 4, 40, settle_s=120.0)
CHAINED = Case("area-chain", 4, 40, settle_s=200.0)  # correct code takes some 40 s: a radio comes back, circuits open
READ = Case("readers", 4, 40, (("rename", 1.0), ("telemetry", 2.0)))
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
        (
            Edit(
                "mycomesh.sync.merge.conflicts:record_conflicts",
                "return sum(loss.record(table, wall_ms) for loss in losses_of(table, view, change, gained, masks))",
                "return 0",
            ),
        ),
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
                "fresh = not own or recalled.get(site, 0) > store.clock.last",
                "fresh = not site",
            ),
            Edit(
                "mycomesh.sync.replication.site:Site.renew_if_behind",
                "if not self.is_behind(tops):",
                "if True:",
            ),
        ),
        COPIED,
        3,
    ),
    Mutation(
        "seals-not-checked",
        "rows of a signed table are taken with any signature or none",
        (
            Edit("mycomesh.sync.storage.seals:Seals.prove", "flags.append(leaf == expected)", "flags.append(True)"),
            Edit("mycomesh.sync.storage.seals:Seals._counts", "return self._signers.verify(", "return True or ("),
        ),
        BETRAYED,
        12,
    ),
    Mutation(
        "one-word-believed",
        "all rows that one member reports as deleted go",
        (
            Edit(
                "mycomesh.sync.replication.drop_guard:DropGuard.judge",
                "count <= self._accepted[key]):",
                "count <= self._accepted[key]) or True:",
            ),
        ),
        BETRAYED,
        12,
    ),
    Mutation(
        "foreign-sites-accepted",
        "a batch may have stamps of another node's site than its origin's",
        (
            Edit(
                "mycomesh.sync.replication.admission:_check_sites",
                "if any(site[:SITE_PREFIX] != origin[:SITE_PREFIX] for site in sites):",
                "if not sites:",
            ),
        ),
        BETRAYED,
        6,
    ),
    Mutation(
        "every-word-renews-the-site",
        "a node takes another site each time that a peer claims to have more of it",
        (
            Edit("mycomesh.sync.replication.site:Site.is_behind", "if self.site_number != self._found:", "if False:"),
            Edit("mycomesh.sync.replication.site:Site.is_behind", "if unit.name not in self._confirmed", "if True"),
        ),
        BETRAYED,
        8,
    ),
    Mutation(
        "two-values-of-one-stamp-kept",
        "replicas that got two values under one stamp keep each its own",
        (Edit("mycomesh.sync.merge.merge:_resolve_same_stamp", "if not greater:", "if True:"),),
        BETRAYED,
        12,
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
    Mutation(
        "own-ids-of-one-slot",
        "every node numbers its rows from the next block, which is not its own",
        (Edit("mycomesh.sync.crdt.id_blocks:sequence_above", "block += (slot - block) % SLOTS", "block += 0"),),
        NUMBERED,
        2,
    ),
    Mutation(
        "own-ids-not-above-taken-ones",
        "a node that takes in a greater id goes on after it, in a block of another node",
        (Edit("mycomesh.sync.schema.own_ids:OwnIds._keep_ahead", "target != sequence:", "not sequence:"),),
        NUMBERED,
        4,
    ),
    Mutation(
        "reader-skips-gaps",
        "a reader's position is the greatest clock of each site, so that what comes in late is never shown",
        (
            Edit(
                "mycomesh.sync.feed.reader:read_page",
                "page.position.seen.add(site, after, reached)",
                "page.position.seen.add(site, 0, reached)",
            ),
        ),
        READ,
        3,
    ),
    Mutation(
        "page-out-of-order",
        "a page with changes of several sites is not in the order of their clocks",
        (Edit("mycomesh.sync.feed.reader:read_page", "page.changes.sort(key=_clock)", "page.changes.reverse()"),),
        READ,
        2,
    ),
    Mutation(
        "unread-part-acknowledged",
        "a reader that acknowledges a part of a page is moved behind all of it",
        (Edit("mycomesh.sync.feed.reader:Page.after", "if count >= len(self.changes):", "if count:"),),
        READ,
        2,
    ),
    Mutation(
        "refused-rows-not-shown-as-gone",
        "a row that leaves or enters a table without a write, as when a constraint refuses it, is not noted for readers",
        (
            Edit(
                "mycomesh.sync.feed.touched:Touched._record",
                "self._store_records(records)",
                "self._store_records([])",
            ),
        ),
        READ,
        4,
    ),
    Mutation(
        "readers-not-woken",
        "commits do not wake the readers",
        (
            Edit(
                "mycomesh.sync.feed.feed:Feed.committed",
                "if self.on_commit is not None:",
                "if False:",
            ),
        ),
        READ,
        2,
    ),
    Mutation(
        "one-site-not-cut",
        "a look at the rows that are too old leaves out every other site",
        (Edit("mycomesh.sync.merge.cut:_look_at_stamps", "whole else (number + 1, 0)", "whole else (number + 2, 0)"),),
        AGED,
        3,
    ),
    Mutation(
        "cut-by-a-clock-alone",
        "a node moves its horizon by its own clock, whatever the mesh's time is",
        (
            Edit(
                "mycomesh.sync.exchange.retention_schedule:RetentionSchedule._trusted_ms",
                "if self._is_sure:",
                "if True:",
            ),
        ),
        AGED,
        6,
    ),
    Mutation(
        "cut-ends-early",
        "a node takes a table for cut after the first step of its look",
        (
            Edit(
                "mycomesh.sync.replication.retention:Retention._continue",
                "current.place = looked.following",
                "current.place = None",
            ),
        ),
        AGED,
        4,
    ),
    Mutation(
        "cut-leaves-entries",
        "rows leave the table, and their entries stay in the change log",
        (Edit("mycomesh.sync.merge.cut:_cut_fast", "table.log.remove_plain(removed)", "pass"),),
        AGED,
        3,
    ),
    Mutation(
        "moved-row-stays",
        "a row whose area changes stays where it was",
        (
            Edit(
                "mycomesh.sync.capture.drain_areas:has_moved",
                "return area_of(view.present.get(areas.column)) != area",
                "return False",
            ),
        ),
        CUT,
        2,
    ),
    Mutation(
        "released-area-still-covered",
        "a node that gives up an area goes on covering it",
        (Edit("mycomesh.sync.replication.releases:Releases._give_up", "coverage.cut(site, 0)", "pass"),),
        CUT,
        2,
    ),
    Mutation(
        "sums-of-areas-not-kept",
        "entries that go are taken off the sums of their table, and not off those of their area",
        (
            Edit(
                "mycomesh.sync.storage.change_log:ChangeLog._count_entries",
                "if self.areas is not None:",
                "if self.areas is not None and sign > 0:",
            ),
        ),
        CUT_AGED,
        2,
    ),
    Mutation(
        "areas-covered-that-are-not-kept",
        "a node covers the batches of areas that it does not keep, and that it does not take in",
        (
            Edit(
                "mycomesh.sync.replication.inbox:Inbox._takes",
                "if not self._registry.keeps(section.table):\n        return False\n"
                "    unit = self._registry.unit(section.table)\n",
                "unit = self._registry.unit(section.table)\n    if not self._registry.keeps(section.table):\n"
                "        for site, after, upto in section.rest.ranges if unit is not None else ():\n"
                "            if unit.table.areas.learn(site, unit.area):\n"
                "                unit.table.coverage.cover(site, after, upto)\n"
                "        return False\n",
            ),
        ),
        CUT,
        6,
    ),
    Mutation(
        "areas-not-back-filled",
        "a node that begins to keep an area asks for nothing of it until a batch of it has come",
        (
            Edit(
                "mycomesh.sync.replica:Replica.admits",
                "known and self.registry.keeps(name)",
                'known and ("\\0" not in name or self.vector(name).count > 0) and self.registry.keeps(name)',
            ),
        ),
        CUT,
        3,
    ),
    Mutation(
        "old-writes-claimed-after-a-cut",
        "the first batch of an area claims that it has all that its node wrote there before the table was cut",
        (
            Edit(
                "mycomesh.sync.storage.areas:Areas.top",
                "before = self._top_before(site, area)",
                "before = 0",
            ),
            Edit(
                "mycomesh.sync.storage.areas:Areas.learn",
                "if self.moved is not None:",
                "if self.moved is not None and self._store.signers.own != site[:8]:",
            ),
        ),
        LATE,
        3,
    ),
    Mutation(
        "whole-table-taken-in-after-a-cut",
        "a node that knows the cut goes on taking in, and covering, what others send of the whole table",
        (
            Edit(
                "mycomesh.sync.schema.registry:Registry.unit",
                "return Unit(name, table, None) if self.has_base(table) else None",
                "return Unit(name, table, None)",
            ),
            Edit(
                "mycomesh.sync.replica:Replica.admits",
                'known = known and "\\0" in name and not table.areas.idle',
                "pass",
            ),
        ),
        LATE,
        3,
    ),
    Mutation(
        "right-to-an-area-taken-for-its-table",
        "a certificate that lets a member write one area lets it write all of the table",
        (
            Edit(
                "mycomesh.sync.replication.rights:Rights.may_write",
                '"w" in _rights(grants, name)',
                '"w" in _rights(grants, name) or any(\n'
                '        "w" in each and matches(pattern.partition("[")[0], (split_unit(name) or (name, ""))[0], "")\n'
                "        for pattern, each in grants\n    )",
            ),
        ),
        LIMITED,
        3,
    ),
    Mutation(
        "rows-of-a-section-not-checked",
        "a member that may write one area hides rows of others in its section",
        (
            Edit(
                "mycomesh.sync.replication.area_check:_is_of",
                "if area_of(value) != unit.area or area_of(stored) != unit.area:",
                "if False:",
            ),
        ),
        LIMITED,
        4,
    ),
    Mutation(
        "deletes-of-a-section-not-checked",
        "a member that may write one area deletes rows of others in its section",
        (
            Edit(
                "mycomesh.sync.replication.area_check:_is_known",
                'area == unit.area, f"',
                'True, f"',
            ),
        ),
        replace(LIMITED, duration_s=30),
        3,
    ),
    Mutation(
        "keepers-not-joined",
        "members that keep an area open no circuits over those that do not",
        (
            Edit(
                "mycomesh.mesh.relay.topic_plan:TopicPlan.routes_to_open",
                "return list(routes.values())",
                "return []",
            ),
        ),
        CHAINED,
        2,
    ),
    Mutation(
        "hole-in-a-mailbox-not-noticed",
        "a gateway takes in a run although the runs before it are missing, and heeds no statement",
        (
            Edit(
                "mycomesh.mesh.node.gateway.reader:LiveReader._follow",
                "elif opened.previous <= self._ledger.passed.get(name, 0) and self._ledger.passed.get(name, 0):",
                "elif True:",
            ),
            Edit(
                "mycomesh.mesh.node.gateway.reader:LiveReader._settle_doubts",
                "if missing:",
                "if missing and False:",
            ),
        ),
        BASES,
        8,
    ),
    Mutation(
        "lost-envelopes-not-looked-for",
        "a gateway does not look whether what it has appended is still in the mailbox",
        (
            Edit("mycomesh.mesh.node.gateway.writer:LiveWriter.look", "lost = any(", "lost = False and any("),
            Edit(
                "mycomesh.mesh.node.gateway.reader:LiveReader.wanted",
                "if stream.parcel_from is not None",
                "if False and stream.parcel_from is not None",
            ),
        ),
        BASES,
        12,
    ),
    Mutation(
        "run-taken-without-its-rows",
        "one chunk in four of a mailbox is thrown away, and its vectors are taken anyway",
        (
            Edit(
                "mycomesh.mesh.node.gateway.reader:LiveRun.feed",
                "elif isinstance(whole, wire.Chunk) and self.kept is not None:",
                "elif isinstance(whole, wire.Chunk) and self.kept is not None and len(payload) % 4:",
            ),
        ),
        BASES,
        6,
    ),
    Mutation(
        "base-of-a-run-ignored",
        "a gateway takes in a run without what the run takes for granted",
        (
            Edit(
                "mycomesh.mesh.node.gateway.reader:LiveReader._take_run",
                "missing = await query(lambda replica: lacking(replica, author, run.needed))",
                "missing: list[str] = []",
            ),
        ),
        APART,
        4,
    ),
    Mutation(
        "base-of-a-run-omitted",
        "a gateway does not say what its runs take for granted",
        (
            Edit(
                "mycomesh.mesh.node.gateway.writer:_Delta._begin",
                "for name, windows in needed if windows.count",
                "for name, windows in needed if False",
            ),
        ),
        APART,
        4,
    ),
)
