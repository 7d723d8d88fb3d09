"""Comparison of areas with peers: one sum for all areas of a table that both keep, and a descent where it differs.

Digests names the areas of a table one by one while they are few. Beyond that it has one line for all that this node and the peer
keep (`sync.storage.area_tree`). The side that finds another sum sends those of the tree's branches; the other answers with what
lies below those that differ, until the areas themselves are listed, by both sides. An area that this node holds and does not keep
is in no sum: it is named for a peer that keeps it.

A peer that has stated no interest is one of an earlier version, perhaps, and gets all areas by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replica import Replica
from mycomesh.sync.storage.area_tree import ROOT, AreaTree, Pair, branch_of, is_twig, parent_of, twig_of
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.units import split_unit, summary_name, summary_table, unit_name

__all__ = ["LISTED_MAX", "AreaComparison", "Digests"]

# Areas of a table that Digests names one by one: less than the sums of the branches would take.
LISTED_MAX = 16
# Areas of a branch that are listed instead of the sums below it.
FEW = 8
# Areas that differ, of one table and peer, that are kept until the next comparison.
UNEQUAL_MAX = 4_096
# Between two notes that a peer has what this node has written in areas.
CONFIRM_MS = 15_000

# Between two descents where a pin makes the areas of a table differ, however much of them is equal.
PINNED_MS = 300_000

# unit -> (digest of the vector, digest of the entries)
Digests = dict[str, Pair]


@dataclass(slots=True)
class _Shared:
    """The areas of one table that this node and one peer keep, and the state of this node that it was made of."""

    state: object
    tree: AreaTree


@dataclass(slots=True)
class _Link:
    peer: bytes
    shared: dict[str, _Shared] = field(default_factory=dict)
    confirmed: dict[str, int] = field(
        default_factory=dict
    )  # by table: when its areas were last found equal, monotonic ms
    descended: dict[str, int] = field(default_factory=dict)  # by table: when the last descent began, monotonic ms
    # By table whose sum was not equal: what the peer has of the areas that differ, None for an area that it lacks.
    unequal: dict[str, dict[str, Pair | None]] = field(default_factory=dict)


class AreaComparison:
    """The comparisons of areas on all links."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._links: dict[int, _Link] = {}

    def on_link_opened(self, number: int, peer: bytes) -> None:
        """Register a link."""
        self._links[number] = _Link(peer)

    def on_link_closed(self, number: int) -> None:
        """Remove a link."""
        self._links.pop(number, None)

    # ---- this node's digests

    def outline(self, number: int) -> Digests:
        """Return what Digests says of areas to the peer of a link, by name."""
        found: Digests = {}
        peer = self._links[number].peer
        for name, table in sorted(self._replica.tables.items()):
            if table.areas is None or table.areas.idle:
                continue
            pairs = table.areas.tree.pairs
            if self._replica.interests.of(peer) is None:
                found |= {unit_name(name, area): pairs[area] for area in sorted(pairs)}
                continue
            tree = self.shared(number, name)
            if len(tree.pairs) > LISTED_MAX:
                found[summary_name(name)] = _summary(tree)
            else:
                found |= {unit_name(name, area): tree.pairs[area] for area in sorted(tree.pairs)}
            for area in self._held(name, pairs):
                unit = unit_name(name, area)
                if self._replica.wants(peer, unit):
                    found[unit] = pairs[area]
        return found

    def shared(self, number: int, name: str) -> AreaTree:
        """Return the tree of the areas that this node covers and that both sides keep and may read; not to be changed."""
        link, areas = self._links[number], self._replica.tables[name].areas
        assert areas is not None
        replica, tree = self._replica, areas.tree
        state = areas.version, replica.interests.version, replica.rights
        known = link.shared.get(name)
        if known is None or known.state != state:
            known = link.shared[name] = _Shared(state, self._both(link.peer, name, tree))
        return known.tree

    def _both(self, peer: bytes, name: str, tree: AreaTree) -> AreaTree:
        kept, stated, rights = self._replica.registry.kept, self._replica.interests.of(peer), self._replica.rights
        named = [each.areas[name] for each in (kept, stated) if each is not None and name in each.areas]
        if not named and not rights.is_limited(peer) and not rights.is_limited(rights.own):
            return tree
        candidates = min(named, key=len) if named else tree.pairs
        units = {area: unit_name(name, area) for area in candidates if area in tree.pairs}
        return AreaTree(
            {
                area: tree.pairs[area]
                for area, unit in units.items()
                if self._replica.wants(peer, unit)
                and self._replica.registry.keeps(unit)
                and rights.may_read(rights.own, unit)
            }
        )

    def _held(self, name: str, pairs: Mapping[str, Pair]) -> list[str]:
        """Return the areas that this node holds and does not keep."""
        kept = self._replica.registry.kept
        own = None if kept is None else kept.areas.get(name)
        return [] if own is None else sorted(area for area in pairs if area not in own)

    # ---- the peer's digests

    def on_digests(self, number: int, theirs: Digests, pinned: Collection[str], turn: Turn) -> Digests:
        """Begin a descent in each table whose sum differs; return the digests of units alone.

        Of the tables in `pinned` the peer keeps less than the mesh.
        """
        link = self._links[number]
        link.unequal.clear()
        for name in [name for name in theirs if summary_table(name) is not None]:
            table = summary_table(name) or ""
            if self._is_cut(table):
                tree = self.shared(number, table)
                if theirs[name] == _summary(tree):
                    self._confirm(link, table, tree, turn)
                elif self._may_descend(link, table, pinned, turn.now_ms):
                    link.descended[table] = turn.now_ms
                    link.unequal[table] = {}
                    sums = tuple(tree.below(ROOT).items())
                    turn.send(number, wire.AreaDigests(table, (ROOT,), sums, (), (), answer=True))
        return {name: pair for name, pair in theirs.items() if summary_table(name) is None}

    def _may_descend(self, link: _Link, name: str, pinned: Collection[str], now_ms: int) -> bool:
        """Return False while all areas differ anyway: rows are about to go, or a pin makes them, and there was a descent."""
        horizon = self._replica.tables[name].coverage.horizon
        if horizon is None:
            return True
        if horizon.is_behind:
            return False
        if name not in pinned and not horizon.is_pinned:
            return True
        return now_ms - link.descended.get(name, -PINNED_MS) >= PINNED_MS

    def _confirm(self, link: _Link, name: str, tree: AreaTree, turn: Turn) -> None:
        """Note that the peer has the areas that this node has written; not often, as they may be many."""
        if turn.now_ms - link.confirmed.get(name, -CONFIRM_MS) < CONFIRM_MS:
            return
        link.confirmed[name] = turn.now_ms
        areas = self._replica.tables[name].areas
        assert areas is not None
        if self._replica.retention.is_restoring:
            self._replica.retention.on_equal({unit_name(name, area) for area in tree.pairs})
        written = areas.written_by(self._replica.site[:SITE_PREFIX])
        self._replica.inbox.confirm_equal([unit_name(name, area) for area in written if area in tree.pairs], link.peer)

    def on_message(self, number: int, message: wire.AreaDigests, turn: Turn) -> dict[str, None]:
        """Go a step further down; return the names of the areas of which the peer has said what it has."""
        link = self._links[number]
        if not self._is_cut(message.table) or self._replica.interests.of(link.peer) is None:
            return {}
        tree = self.shared(number, message.table)
        unequal = link.unequal.setdefault(message.table, {})
        different = self._different(tree, message)
        listed = [node for node in different if is_twig(node) or tree.count(node) <= FEW]
        below = tuple(node for node in different if node not in listed)
        sums = tuple(pair for node in below for pair in tree.below(node).items())
        if different:
            turn.send(number, wire.AreaDigests(message.table, below, sums, *_lists(tree, listed), answer=True))
        answers: list[int] = []
        compared: dict[str, None] = {}
        said = {area: (vector, entries) for area, vector, entries in message.areas}
        for node in message.listed:
            theirs = {area: pair for area, pair in said.items() if node in (branch_of(area), twig_of(area))}
            found = {area: theirs.get(area) for area in (*tree.areas(node), *theirs)}
            changed = {area: pair for area, pair in found.items() if tree.pairs.get(area) != pair}
            compared |= dict.fromkeys(unit_name(message.table, area) for area in found)
            unequal |= dict(itertools.islice(changed.items(), UNEQUAL_MAX - len(unequal)))
            if changed:
                answers.append(node)
        if answers and message.answer:
            turn.send(number, wire.AreaDigests(message.table, (), (), *_lists(tree, answers), answer=False))
        return compared

    def _different(self, tree: AreaTree, message: wire.AreaDigests) -> list[int]:
        theirs = dict(message.sums)
        found = []
        for parent in message.below:
            mine = tree.below(parent)
            nodes = sorted({*mine, *(node for node in theirs if parent_of(node) == parent)})
            found += [node for node in nodes if mine.get(node) != theirs.get(node)]
        return found

    def is_settled(self, number: int, name: str) -> bool:
        """Return True unless a descent has to find out whether the area of that name is equal."""
        table, _ = split_unit(name) or (name, None)
        return name == table or table not in self._links[number].unequal

    def _is_cut(self, name: str) -> bool:
        table = self._replica.tables.get(name)
        return table is not None and table.areas is not None and not table.areas.idle

    def unequal(self, number: int) -> Digests:
        """Return what the peer of a link has of areas that the last descents have found to differ."""
        return {
            unit_name(table, area): pair
            for table, areas in self._links[number].unequal.items()
            for area, pair in areas.items()
            if pair is not None
        }

    def known(
        self, number: int, theirs: Mapping[str, Pair], equal_at: Mapping[str, int]
    ) -> tuple[Digests, dict[str, int]]:
        """Return what the peer of a link has of each unit, and since when each is equal, given both for the lines of Digests."""
        digests, since = dict(theirs), dict(equal_at)
        unequal = self._links[number].unequal
        for name in theirs:
            table = summary_table(name)
            if table is None or not self._is_cut(table) or unequal.get(table) == {}:
                continue  # no summary, or nobody knows yet which areas differ
            different = unequal.get(table, {})
            for area, pair in self.shared(number, table).pairs.items():
                found = different.get(area, pair)
                if found is not None:
                    digests[unit_name(table, area)] = found
                if name in equal_at:
                    since[unit_name(table, area)] = equal_at[name]
        return digests, since

    def behind(self, number: int) -> list[str]:
        """Return the names of areas that differ; that of the table while nobody knows which."""
        found = []
        for table, areas in sorted(self._links[number].unequal.items()):
            found += [unit_name(table, area) for area in sorted(areas)] or [table]
        return found


def _lists(tree: AreaTree, listed: list[int]) -> tuple[tuple[int, ...], tuple[tuple[str, bytes, bytes], ...]]:
    """Return the nodes whose areas one message has room for, and these areas; the next comparison finds the others."""
    areas: list[tuple[str, bytes, bytes]] = []
    whole: list[int] = []
    for node in listed:
        some = [(area, *tree.pairs[area]) for area in tree.areas(node)]
        if areas and len(areas) + len(some) > wire.AREAS_READ_MAX:
            break
        areas += some[: wire.AREAS_READ_MAX]
        whole.append(node)
    return tuple(whole), tuple(areas)


def _summary(tree: AreaTree) -> Pair:
    total = tree.sum(ROOT)
    return total[:8], total
