"""Executable model of areas: the rules of merge, rounds, repair, release and collection, one small class a node.

    python -m tests.stories.area_model 3000

Some nodes write rows of a few areas, also of areas that they do not keep. They lose batches, break off rounds, change what they
keep, come back from old backups and learn late that the table is cut. Then everything is delivered, and `check` compares.

- An area's writes have sites of their own, and so have those from before the table was cut (`BASE`). A unit, which is an area or
  the base, has the vector of its sites. Everyone keeps the base.
- A row is named by the unit of its insert, and the area is part of its key. So units share no row, and a write that changes the
  area is a delete there and an insert here. Rows from before stay in the base until they are moved or inserted again.
- A node takes in only the units that it keeps. It may hold entries of others: its own writes, and all of a unit that it kept
  before. It releases them once enough nodes that keep the unit cover them, each asked at that moment. Then it covers nothing of
  the unit, but remembers how far it had published there.
- A tombstone goes once every member's site of its unit is covered beyond it. A member without the unit answers for its own site.
"""

from __future__ import annotations

import copy
import itertools
import random
import sys
from dataclasses import dataclass, field, fields, replace

from mycomesh.sync.crdt.version_vector import Vector

BASE = 0
AREAS = (1, 2, 3)
UNITS = (BASE, *AREAS)
KEYS = (0, 1)
COLUMNS = ("a", "b", "n")
EXISTS = "exists"
NODES = 4
COPIES = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that `tests/stories/test_area_model.py` breaks one by one; each is right as it is by default."""

    release_covers_nothing: bool = True
    release_keeps_tops: bool = True
    release_asks: bool = True  # at the moment of the release, and not what was known before
    acknowledged_by_keepers: bool = True  # and not by every node that covers it
    acknowledged_if_covered: bool = True
    forwarded_is_not_covered: bool = True
    area_names_the_row: bool = True
    move_deletes: bool = True
    collection_waits_for_all: bool = True  # and not only for those that keep the unit
    rounds_end_by_unit: bool = True  # and not in all that the sender covers
    audits_below_watermarks: bool = True


@dataclass(frozen=True, slots=True)
class Entry:
    row: tuple[int, int, int]  # unit, area, key
    area: int
    owns: frozenset[str]
    dead: bool
    total: int = 0  # the value of the counter n, as the insert or this site's share has it


Stamp = tuple[int, bytes]


def site_of(node, epoch, unit):
    return bytes([node, epoch, unit])


def unit_of(site):
    return site[2]


@dataclass(slots=True)
class Batch:
    sections: list  # (site, after, upto, {stamp: entry})


@dataclass(slots=True)
class Node:
    number: int
    rules: Rules
    epoch: int = 0
    clock: int = 0
    keeps: frozenset[int] = frozenset(AREAS)
    cut: bool = False  # knows that the table is cut
    log: dict[Stamp, Entry] = field(default_factory=dict)
    vector: Vector = field(default_factory=Vector)
    tops: dict[int, int] = field(default_factory=dict)  # unit -> how far this site has published there
    watermarks: dict[bytes, int] = field(default_factory=dict)

    # ---- the lattice

    def owners(self, row):
        return {part: stamp for stamp, entry in self.log.items() if entry.row == row for part in entry.owns}

    def put(self, stamp, entry):
        owners = self.owners(entry.row)
        exists = owners.get(EXISTS)
        gained = {
            part
            for part in entry.owns
            if not (part in owners and owners[part] >= stamp) and not (part != EXISTS and exists and exists > stamp)
        }
        for part, other in owners.items():
            if part in gained or (EXISTS in gained and other < stamp):
                self.drop(other, {part})
        if gained:
            before = self.log.get(stamp)
            self.log[stamp] = replace(entry, owns=frozenset(gained | (before.owns if before else set())))
        self.clock = max(self.clock, stamp[0])

    def drop(self, stamp, parts):
        entry = self.log[stamp]
        left = entry.owns - parts
        if left:
            self.log[stamp] = replace(entry, owns=frozenset(left))
        else:
            del self.log[stamp]

    def is_visible(self, row):
        stamp = self.owners(row).get(EXISTS)
        return stamp is not None and not self.log[stamp].dead

    def total(self, row):
        """The counter's value: the base, which the insert owns, and a share of each site."""
        return sum(entry.total for entry in self.log.values() if entry.row == row and not entry.dead)

    def shown(self, unit=None):
        """{row: {cell: stamp}, with the counter's total} of one area, or of all."""
        rows = {entry.row for entry in self.log.values()}
        found = {row: self.owners(row) | {"total": self.total(row)} for row in rows if self.is_visible(row)}
        return {row: cells for row, cells in found.items() if unit is None or self.log[cells[EXISTS]].area == unit}

    def digest(self, unit):
        return {
            (stamp, entry.owns, entry.total)
            for stamp, entry in self.log.items()
            if unit_of(stamp[1]) == unit and not entry.dead
        }

    # ---- units

    def vector_of(self, unit):
        return Vector({site: ranges for site, ranges in self.vector.items() if unit_of(site) == unit})

    def holds(self, unit):
        return any(unit_of(site) == unit for _, site in self.log)

    def is_kept(self, unit):
        return unit == BASE or (self.cut and unit in self.keeps)

    def publish(self, unit):
        """Cover this site's own clock in a unit; return (site, after, upto)."""
        site, after = site_of(self.number, self.epoch, unit), self.tops.get(unit, 0)
        self.vector.add(site, after, self.clock)
        self.tops[unit] = self.clock
        return site, after, self.clock

    # ---- local writes

    def write(self, kind, area, key, column=0, to=0):
        """Write as a program does; return the batch to publish, and every stamp that the write should have made."""
        row = next(filter(self.is_visible, (self.row(unit, area, key) for unit in (area, BASE))), None)
        seen = row is not None and self.log[self.owners(row)[EXISTS]].area == area
        row = row or self.row(self._unit(area), area, key)
        made: list[tuple[Stamp, Entry, bool]] = []
        if kind == "insert" and not (seen or self.is_visible(row)):
            made.append(self._stamp(self._unit(area), row, area, {EXISTS, *COLUMNS}))
        elif kind == "update" and seen:
            made.append(self._stamp(self._unit_of_row(row), row, area, {COLUMNS[column % 2]}))
        elif kind == "count" and seen:
            share = f"n/{self.number}/{self.epoch}"
            owner = self.owners(row).get(share)
            before = self.log[owner].total if owner else 0
            made.append(self._stamp(self._unit_of_row(row), row, area, {share}, total=before + 1))
        elif kind == "delete" and seen:
            made.append(self._stamp(self._unit_of_row(row), row, area, {EXISTS}, dead=True))
        elif kind == "move" and seen and to != area:
            total = self.total(row)
            kept = self.rules.move_deletes
            made.append(self._stamp(self._unit_of_row(row), row, area, {EXISTS}, dead=True, kept=kept))
            made.append(
                self._stamp(self._unit(to), self.row(self._unit(to), to, key), to, {EXISTS, *COLUMNS}, total=total)
            )
        if not made:
            return None
        sections: dict[int, dict[Stamp, Entry]] = {}
        for stamp, entry, kept in made:
            if kept:
                sections.setdefault(unit_of(stamp[1]), {})[stamp] = entry
        batch = Batch([(*self.publish(unit), entries) for unit, entries in sorted(sections.items())])
        return batch, {stamp: entry for stamp, entry, _ in made}

    def row(self, unit, area, key):
        return (unit, area, key) if self.rules.area_names_the_row else (BASE, BASE, key)

    def _unit(self, area):
        return area if self.cut else BASE

    def _unit_of_row(self, row):
        return unit_of(self.owners(row)[EXISTS][1])

    def _stamp(self, unit, row, area, owns, *, dead=False, total=0, kept=True):
        self.clock = max([self.clock, *(stamp[0] for stamp in self.owners(row).values())]) + 1
        stamp = (self.clock, site_of(self.number, self.epoch, unit))
        entry = Entry(row, area, frozenset(owns), dead, total)
        if kept:
            self.put(stamp, entry)
        return stamp, entry, kept

    # ---- what others sent

    def receive(self, batch):
        for site, after, upto, made in batch.sections:
            if not self.is_kept(unit_of(site)):
                if not self.rules.forwarded_is_not_covered:
                    self.vector.add(site, after, upto)
                continue
            for stamp, entry in made.items():
                if not self.vector.covers(site, stamp[0]):
                    self.put(stamp, entry)
            self.vector.add(site, after, upto)
            self.clock = max(self.clock, upto)

    def collect(self, nodes):
        """Remove the tombstones that are stable in their unit."""
        for stamp, entry in list(self.log.items()):
            unit = unit_of(stamp[1])
            if not entry.dead or not self.is_kept(unit):
                continue
            waiting = []
            for node in nodes:
                if self.rules.collection_waits_for_all or node.is_kept(unit):
                    waiting += self._clocks_of(node.number, unit) or [0]
            if min(waiting) >= stamp[0]:
                del self.log[stamp]
                self.watermarks[stamp[1]] = max(self.watermarks.get(stamp[1], 0), stamp[0])

    def _clocks_of(self, number, unit):
        """How far this node covers each site of a member in a unit."""
        sites = [site for site, _ in self.vector.items() if site[0] == number and unit_of(site) == unit]
        return [self.vector.upto(site) for site in sites]

    def release(self, unit, nodes, known):
        """Give up a unit that is not kept, if enough nodes that keep it cover all that this one covers of it.

        What was superseded counts too: else a node that still has it would bring it back. Nobody relies on entries of a broken
        round, which are not covered.
        """
        if self.is_kept(unit) or not self.holds(unit):
            return False
        mine = [stamp for stamp in self.log if unit_of(stamp[1]) == unit]
        others = [node for node in nodes if node is not self]
        keepers = [node for node in others if node.is_kept(unit) or not self.rules.acknowledged_by_keepers]
        acked = {
            node.number
            for node in keepers
            if not self.rules.acknowledged_if_covered or not self.vector_of(unit).missing_from(node.vector)
        }
        if not self.rules.release_asks:
            acked = known.get((self.number, unit), set()) | acked
        if not acked or len(acked) < min(COPIES, len(keepers)):
            known[self.number, unit] = acked
            return False
        for stamp in mine:
            del self.log[stamp]
        if self.rules.release_covers_nothing:
            for site in dict(self.vector_of(unit).items()):
                self.vector.cut(site, 0)
                self.watermarks.pop(site, None)
        if not self.rules.release_keeps_tops:
            self.tops.pop(unit, None)
        return True


# ---- conversations


def catch_up(sender, receiver, unit, *, keep=None):
    """One stream of one unit; `keep` of its entries arrive (all for None), and only then the receiver takes the vector."""
    if not receiver.is_kept(unit):
        return
    sender.publish(unit)  # a member answers for its own site in any unit
    theirs = sender.vector_of(unit)
    had_entries = receiver.holds(unit)
    todo = sorted(
        (stamp, entry)
        for stamp, entry in sender.log.items()
        if unit_of(stamp[1]) == unit and not receiver.vector.covers(stamp[1], stamp[0])
    )
    for stamp, entry in todo if keep is None else todo[:keep]:
        receiver.put(stamp, entry)
    if keep is not None:
        return
    watermarks = {site: hlc for site, hlc in sender.watermarks.items() if unit_of(site) == unit}
    if had_entries and any(not receiver.vector.covers_range(site, 0, hlc) for site, hlc in watermarks.items()):
        _audit(sender, receiver, unit)
    receiver.vector.merge(theirs if receiver.rules.rounds_end_by_unit else sender.vector)
    for site, hlc in watermarks.items():
        receiver.watermarks[site] = max(receiver.watermarks.get(site, 0), hlc)
    receiver.clock = max([receiver.clock, *(ranges[-1][1] for _, ranges in theirs.items())])


def _audit(sender, receiver, unit):
    """Drop what the sender covers and does not hold, unless the insert of the row stays."""
    if not receiver.rules.audits_below_watermarks:
        return
    gone = [
        stamp
        for stamp, entry in receiver.log.items()
        if unit_of(stamp[1]) == unit
        and sender.vector.covers(stamp[1], stamp[0])
        and stamp not in sender.log
        and not entry.dead
    ]
    for stamp in gone:
        exists = receiver.owners(receiver.log[stamp].row).get(EXISTS)
        if exists in gone or exists is None or receiver.log[exists].dead:
            receiver.drop(stamp, set(receiver.log[stamp].owns))


def repair(one, other, unit):
    """Join the rows in which two nodes with equal vectors differ; nothing is dropped."""
    if not (one.is_kept(unit) and other.is_kept(unit)) or one.vector_of(unit) != other.vector_of(unit):
        return
    rows = {one.log.get(stamp, other.log.get(stamp)).row for stamp, *_ in one.digest(unit) ^ other.digest(unit)}
    found = [(stamp, entry) for node in (one, other) for stamp, entry in node.log.items() if entry.row in rows]
    for stamp, entry in sorted(found, key=lambda item: (item[0], sorted(item[1].owns))):
        for node in (one, other):
            node.put(stamp, entry)


# ---- histories


@dataclass(slots=True)
class World:
    """The nodes of one history, the batches under way, and every write that was made."""

    nodes: list[Node]
    batches: list[Batch] = field(default_factory=list)
    history: dict[Stamp, Entry] = field(default_factory=dict)
    backups: dict[int, Node] = field(default_factory=dict)
    acked: dict = field(default_factory=dict)
    epochs: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def begin(cls, rules):
        return cls([Node(number, rules) for number in range(NODES)])

    def step(self, kind, one, other, area, key, more):
        """Take one step; the numbers choose who, what and how much."""
        node, peer = self.nodes[one], self.nodes[other]
        match kind:
            case "insert" | "update" | "count" | "delete" | "move":
                written = node.write(kind, area, key, more, AREAS[more % len(AREAS)])
                if written is not None:
                    self.batches.append(written[0])
                    self.history |= written[1]
            case "deliver" if self.batches:
                node.receive(self.batches[-1 - more % min(8, len(self.batches))])
            case "round" if node is not peer:
                catch_up(node, peer, UNITS[area], keep=None if more % 3 else more)
                peer.cut = peer.cut or (node.cut and more % 2 == 0)
            case "repair" if node is not peer:
                catch_up(node, peer, UNITS[area])
                catch_up(peer, node, UNITS[area])
                repair(node, peer, UNITS[area])
            case "meet":
                self._meet(UNITS[more % len(UNITS)])
            case _:
                self._step_alone(kind, node, area, more)

    def _step_alone(self, kind, node, area, more):
        match kind:
            case "keep":
                node.keeps = frozenset(area for area in AREAS if more >> area & 1)
            case "cut":
                node.cut = True
            case "release":
                self._count("released", node.release(area, self.nodes, self.acked))
            case "collect":
                before = len(node.log)
                node.collect(self.nodes)
                self._count("collected", before - len(node.log))
            case "backup":
                self.backups[node.number] = copy.deepcopy(node)
            case "restore" if node.number in self.backups and self._has_copies(node):
                self._restore(node)

    def _count(self, what, number):
        self.counts[what] = self.counts.get(what, 0) + int(number)

    def _has_copies(self, node):
        """Nothing is on this node alone: else a restore loses it by right."""
        keepers = [peer for peer in self.nodes if peer is not node]
        return all(
            any(peer.is_kept(unit_of(site)) and peer.vector.covers(site, hlc) for peer in keepers)
            for hlc, site in node.log
        )

    def _restore(self, node):
        backup = copy.deepcopy(self.backups[node.number])
        self.epochs += 1
        backup.keeps, backup.epoch, backup.tops = node.keeps, self.epochs, {}
        self.nodes[node.number] = backup
        self._count("restored", 1)

    def _meet(self, unit):
        """A connected period: each pair has a round of one unit."""
        for one, other in itertools.permutations(self.nodes, 2):
            catch_up(one, other, unit)

    def settle(self):
        """Deliver everything: all know the cut, and all pairs compare until nothing changes."""
        for node in self.nodes:
            node.cut = True
        for _ in range(3):
            for unit in UNITS:
                self._meet(unit)
            for one, other in itertools.combinations(self.nodes, 2):
                for unit in UNITS:
                    repair(one, other, unit)
            for node in self.nodes:
                for unit in AREAS:
                    node.release(unit, self.nodes, self.acked)

    def check(self):
        """Return what is wrong in the end, "" if nothing is."""
        truth = Node(99, self.nodes[0].rules)
        for stamp, entry in sorted(self.history.items()):
            truth.put(stamp, entry)
        for unit in UNITS:
            keepers = [node for node in self.nodes if node.is_kept(unit)]
            for node in keepers:
                if node.digest(unit) != keepers[0].digest(unit):
                    return f"unit {unit}: nodes {keepers[0].number} and {node.number} hold different entries"
                if unit != BASE and node.shown(unit) != truth.shown(unit):
                    return f"area {unit}: node {node.number} shows {node.shown(unit)}, not {truth.shown(unit)}"
            for node in self.nodes:
                if keepers and not node.is_kept(unit) and node.holds(unit):
                    return f"unit {unit}: node {node.number} never released it"
            if not keepers and not self._comes_back(unit, truth):
                return f"area {unit}: nobody keeps it, and a write of it is lost"
        return ""

    def _comes_back(self, unit, truth):
        """Whether a node that begins to keep an area which nobody keeps gets all of it from the others."""
        later = copy.deepcopy(self)
        later.nodes[0].keeps = frozenset(AREAS)
        later.settle()
        return later.nodes[0].shown(unit) == truth.shown(unit)


KINDS = {
    "insert": 8, "update": 8, "count": 3, "delete": 5, "move": 6, "deliver": 14, "round": 12, "repair": 4, "keep": 3,
    "cut": 3, "release": 8, "collect": 8, "backup": 2, "restore": 1, "meet": 3,
}  # fmt: skip


def random_steps(rng, count=70):
    for number in range(NODES):
        yield "keep", number, 0, 1, 0, rng.randrange(16)
        if rng.random() < 0.8:
            yield "cut", number, 0, 1, 0, 0
    names, weights = list(KINDS), list(KINDS.values())
    for _ in range(count):
        kind = rng.choices(names, weights)[0]
        yield kind, rng.randrange(NODES), rng.randrange(NODES), rng.choice(AREAS), rng.choice(KEYS), rng.randrange(64)


def run(steps, rules=Rules()):
    """Run one history; return (what is wrong in the end, the world)."""
    world = World.begin(rules)
    for step in steps:
        world.step(*step)
    world.settle()
    return world.check(), world


def first_wrong(rules, seeds):
    """Return the first of some seeds whose random history ends wrong, None without one."""
    return next((seed for seed in seeds if run(random_steps(random.Random(seed)), rules)[0]), None)


def main():
    total: dict[str, int] = {}
    for seed in range(int(sys.argv[1])):
        wrong, world = run(random_steps(random.Random(seed)))
        for what, number in world.counts.items():
            total[what] = total.get(what, 0) + number
        if wrong:
            print(f"seed {seed}: {wrong}")
    print("histories", sys.argv[1], total)
    for rule in fields(Rules):
        print(f"without {rule.name}: seed {first_wrong(replace(Rules(), **{rule.name: False}), range(2_000))}")


if __name__ == "__main__":
    main()
