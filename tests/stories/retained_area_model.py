"""Executable model of rows that go with time in a table that is cut into areas: `area_model` with horizons and pins.

    python -m tests.stories.retained_area_model 3000

Each insert is a row of its own, in the unit of its area. Nodes lose batches, break off rounds, change what they keep, keep less
for a while (a pin), and cut at different moments. Then everything is delivered, and `check` compares with the joined history.

- A horizon is one of a table. Vectors, digests, vouching, the witnesses of a pin and what a pin lacks go by unit.
- Units share no row, so each unit alone is a table with a rule: what ADR 55 says of tables holds for units.
- A release needs more than coverage: a keeper may cover an insert and have cut the row, which an update here has made younger.
  So the rows of which a keeper has a part are joined there first.
- A node with a pin answers for nothing in a release, and is no witness of another pin. Nor is a node that does not keep the unit.
  After its pin a node may lack for a while what only nodes hold that do not keep the unit: they go on holding it.
"""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import dataclass, field, fields, replace

from mycomesh.sync.crdt.version_vector import Vector

AREAS = (1, 2)
UNITS = (0, *AREAS)  # the first is the base
NODES = 4
COPIES = 2
AGE, PIN, STEP = 100, 40, 10


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules that `tests/stories/test_retained_area_model.py` breaks one by one; each is right as it is by default."""

    horizon_in_digest: bool = True
    joined_row_decides: bool = True
    refused_is_covered: bool = True
    cut_is_no_delete: bool = True
    updates_count_from_their_stamp: bool = True
    parts_count_by_their_time: bool = True  # also without the insert
    release_joins_parts: bool = True
    pin_vouches_for_less: bool = True
    pinned_answer_for_nothing: bool = True
    pin_needs_a_witness: bool = True
    pin_refuses_what_others_have: bool = True  # and nothing else
    witness_keeps: bool = True
    witness_has_no_pin: bool = True


Stamp = tuple[int, int, int]  # clock, node, unit
Name = tuple[int, int]  # unit, a number of its own


@dataclass(frozen=True, slots=True)
class Entry:
    """A write: `owns` are parts of the row (existence, the time, a value); `at` is the time that it wrote."""

    row: Name
    owns: frozenset[str]
    dead: bool = False
    at: int = 0


INSERT = frozenset({"exists", "at", "b"})


@dataclass(slots=True)
class Pin:
    on: bool = False
    bound: int = 0
    dropped: dict[tuple[int, int], int] = field(default_factory=dict)  # site -> clock
    elsewhere: dict[tuple[int, int], int] = field(default_factory=dict)
    witness: dict[tuple[int, int], int] = field(default_factory=dict)  # site -> node


@dataclass(slots=True)
class Node:
    number: int
    by: bool
    rules: Rules
    clock: int = 0
    keeps: frozenset[int] = frozenset(AREAS)
    log: dict[Stamp, Entry] = field(default_factory=dict)
    vector: Vector = field(default_factory=Vector)
    tops: dict[int, int] = field(default_factory=dict)
    horizon: int = 0
    pin: Pin = field(default_factory=Pin)

    # ---- the lattice

    def row(self, name):
        return {stamp: entry for stamp, entry in self.log.items() if entry.row == name}

    def owners(self, name):
        return {part: stamp for stamp, entry in self.row(name).items() for part in entry.owns}

    def put(self, stamp, entry):
        owners = self.owners(entry.row)
        exists = owners.get("exists")
        gained = {
            part
            for part in entry.owns
            if not (part in owners and owners[part] >= stamp) and not (part != "exists" and exists and exists > stamp)
        }
        for part, other in owners.items():
            if part in gained or ("exists" in gained and other < stamp):
                self.drop(other, {part})
        if gained:
            before = self.log.get(stamp)
            self.log[stamp] = replace(entry, owns=frozenset(gained | (before.owns if before else set())))
        self.clock = max(self.clock, stamp[0])

    def drop(self, stamp, parts):
        left = self.log[stamp].owns - parts
        if left:
            self.log[stamp] = replace(self.log[stamp], owns=frozenset(left))
        else:
            del self.log[stamp]

    # ---- time

    def time(self, name):
        """Return the time by which a row goes, None if it stays."""
        owners = self.owners(name)
        exists = owners.get("exists")
        if exists is None:  # updates alone
            newest = max(owners.values())[0]
            counts = self.by and self.rules.parts_count_by_their_time and "at" in owners
            return max(newest, self.log[owners["at"]].at) if counts else newest
        if self.log[exists].dead:
            return None
        if not self.by:
            return exists[0]
        stamp = owners.get("at")
        if stamp is None:
            return None
        at = self.log[stamp].at
        if stamp == exists or not self.rules.updates_count_from_their_stamp:
            return at
        return max(at, stamp[0])

    @property
    def bound(self):
        return max(self.horizon, self.pin.bound if self.pin.on else 0)

    def is_old(self, name, bound=None):
        at = self.time(name)
        return at is not None and at < (self.bound if bound is None else bound)

    def move(self, now):
        self.horizon = max(self.horizon, (now - AGE) // STEP * STEP)
        if self.pin.on:
            self.pin.bound = max(self.pin.bound, (now - PIN) // STEP * STEP)
        for name in sorted({entry.row for entry in self.log.values()}):
            if self.is_old(name) and self._may_go(name):
                for stamp in self.row(name):
                    del self.log[stamp]

    def _may_go(self, name):
        """Note what the pin removes; a row of which no witness is known stays."""
        if self.bound <= self.horizon:
            return True
        stamps = self.row(name)
        needs = self.rules.pin_needs_a_witness
        if needs and not all(map(self._is_elsewhere, stamps)):
            return False
        for stamp in stamps:
            self._lack(stamp)
        return True

    def _is_elsewhere(self, stamp):
        return stamp[0] <= self.pin.elsewhere.get(stamp[1:], 0)

    def _lack(self, stamp):
        self.pin.dropped[stamp[1:]] = max(self.pin.dropped.get(stamp[1:], 0), stamp[0])

    def take(self, entries):
        """Join what others sent; what is too old and of unknown rows stays out."""
        for stamp, entry in sorted(entries.items()):
            if not self.row(entry.row) and not entry.dead:
                inserts = "exists" in entry.owns
                timed = self.by and "at" in entry.owns and self.rules.parts_count_by_their_time
                at = entry.at if inserts and self.by else max(stamp[0], entry.at if timed else 0)
                if at < self.horizon:
                    continue
                if at < self.bound and (self._is_elsewhere(stamp) or not self.rules.pin_refuses_what_others_have):
                    self._lack(stamp)
                    continue
            elif not self.rules.joined_row_decides and entry.at < self.bound and not entry.dead:
                continue
            self.put(stamp, entry)

    # ---- units

    def vector_of(self, unit):
        return Vector({site: ranges for site, ranges in self.vector.items() if site[1] == unit})

    def vouched(self, unit):
        vector = self.vector_of(unit)
        if not self.rules.pin_vouches_for_less:
            return vector
        kept = Vector()
        for site, ranges in vector.items():
            first = self.pin.dropped.get(site, 0)
            for after, upto in ranges:
                if upto > first:
                    kept.add(site, max(after, first), upto)
        return kept

    def entries(self, unit):
        return {stamp: entry for stamp, entry in self.log.items() if stamp[2] == unit}

    def digest(self, unit):
        return {(stamp, entry.owns, entry.at) for stamp, entry in self.entries(unit).items() if not entry.dead}

    def is_kept(self, unit):
        return unit == 0 or unit in self.keeps

    def shown(self, unit):
        """{row: owners} of the visible rows of a unit that are not too old."""
        names = {entry.row for entry in self.entries(unit).values()}
        found = {name: self.owners(name) for name in names}
        return {
            name: owners
            for name, owners in found.items()
            if "exists" in owners and not self.log[owners["exists"]].dead and not self.is_old(name)
        }

    def times(self, unit):
        """The times of these rows. Other values may have gone with a row that an unknown update was about to make younger."""
        return {name: self.time(name) for name in self.shown(unit)}

    def publish(self, unit):
        site, after = (self.number, unit), self.tops.get(unit, 0)
        self.vector.add(site, after, self.clock)
        self.tops[unit] = self.clock
        return site, after, self.clock

    # ---- local writes

    def write(self, world, kind, unit, at, to):
        """Write as a program does; return the batch to publish, and the entries of it."""
        made = {}

        def stamp_write(name, owns, *, dead=False, at=0):
            last = max((stamp[0] for stamp in self.row(name)), default=0)
            self.clock = max(self.clock, world.now, last) + 1
            stamp = (self.clock, self.number, name[0])
            made[stamp] = Entry(name, frozenset(owns), dead, at)
            self.put(stamp, made[stamp])

        rows = sorted(self.shown(unit))
        if kind == "insert":
            world.born += 1
            stamp_write((unit, world.born), INSERT, at=world.now + at)
        elif rows:
            name = rows[to % len(rows)]
            match kind:
                case "retime":
                    stamp_write(name, {"at"}, at=world.now + at)
                case "edit":
                    stamp_write(name, {"b"})
                case "delete":
                    stamp_write(name, {"exists"}, dead=True)
                case "move":
                    seen = self.owners(name).get("at")
                    at = self.log[seen].at if seen else 0
                    stamp_write(name, {"exists"}, dead=True)
                    world.born += 1
                    stamp_write((UNITS[to % len(UNITS)], world.born), INSERT, at=at)
        if not made:
            return None
        units = sorted({stamp[2] for stamp in made})
        return [(*self.publish(unit), {s: e for s, e in made.items() if s[2] == unit}) for unit in units], made

    # ---- what others sent

    def receive(self, batch):
        for site, after, upto, made in batch:
            if self.is_kept(site[1]):
                self.take({stamp: entry for stamp, entry in made.items() if not self.vector.covers(site, stamp[0])})
                self.vector.add(site, after, upto)
                self.clock = max(self.clock, upto)

    def note_holder(self, peer, unit):
        """Take a comparison that found equal vectors."""
        if self.vector_of(unit) != peer.vector_of(unit) or not self.pin.on:
            return
        if peer.pin.on and self.rules.witness_has_no_pin:
            for site in [site for site, number in self.pin.witness.items() if number == peer.number]:
                del self.pin.witness[site], self.pin.elsewhere[site]
        elif peer.is_kept(unit) or not self.rules.witness_keeps:
            for site, ranges in self.vector_of(unit).items():
                self.pin.elsewhere[site], self.pin.witness[site] = ranges[-1][1], peer.number

    def release(self, unit, nodes):
        """Give up a unit that is not kept, once enough keepers without a pin cover it and hold of its rows what they can."""
        if self.is_kept(unit) or not self.vector_of(unit).count:
            return False
        mine = self.entries(unit)
        keepers = [node for node in nodes if node is not self and node.is_kept(unit)]
        able = [
            node
            for node in keepers
            if not (node.pin.on and self.rules.pinned_answer_for_nothing)
            and not self.vector_of(unit).missing_from(node.vouched(unit))
        ]
        if not able or len(able) < min(COPIES, len(keepers)):
            return False
        for keeper in able if self.rules.release_joins_parts else ():
            self._push(unit, keeper)
        for stamp in mine:
            del self.log[stamp]
        for site in dict(self.vector_of(unit).items()):
            self.vector.cut(site, 0)
        return True

    def _push(self, unit, keeper):
        """Send a keeper the rows of which it has a part, twice: what it refused alone fits once it has the rest."""
        for _ in range(2):
            rows = {entry.row for stamp, entry in self.entries(unit).items() if stamp not in keeper.log}
            for name in sorted(rows):
                if keeper.row(name):
                    keeper.take(self.row(name))


# ---- conversations


def catch_up(sender, receiver, unit, keep=None):
    """One stream of one unit; `keep` of its entries arrive (all for None), and only then the receiver takes the vector."""
    if not receiver.is_kept(unit):
        return
    sender.publish(unit)
    theirs = sender.vouched(unit)
    todo = {
        stamp: entry
        for stamp, entry in sorted(sender.entries(unit).items())
        if not receiver.vector.covers(stamp[1:], stamp[0])
    }
    receiver.take(dict(itertools.islice(todo.items(), keep)))
    if keep is not None:
        return
    if not receiver.rules.cut_is_no_delete:
        for stamp in [s for s in receiver.entries(unit) if theirs.covers(s[1:], s[0]) and s not in sender.log]:
            del receiver.log[stamp]
    for site, ranges in theirs.items():
        for after, upto in ranges:
            receiver.vector.add(site, after, upto)
            receiver.clock = max(receiver.clock, upto)
    if not receiver.rules.refused_is_covered:
        for stamp in todo:
            if stamp not in receiver.log:
                receiver.vector.cut(stamp[1:], stamp[0] - 1)


def compare(one, other, unit):
    """Compare two nodes; where vectors and horizons are equal, join the rows in which they differ."""
    if not (one.is_kept(unit) and other.is_kept(unit)):
        one.note_holder(other, unit)
        return
    one.note_holder(other, unit)
    other.note_holder(one, unit)
    same = one.horizon == other.horizon and not one.pin.on and not other.pin.on
    if not same and one.rules.horizon_in_digest:
        return
    if one.vector_of(unit) != other.vector_of(unit):
        return
    names = {one.log.get(stamp, other.log.get(stamp)).row for stamp, *_ in one.digest(unit) ^ other.digest(unit)}
    if one.rules.horizon_in_digest:
        entries = {s: e for node in (one, other) for s, e in node.log.items() if e.row in names}
        both = sorted(
            ((s, e) for node in (one, other) for s, e in node.log.items() if e.row in names),
            key=lambda item: (item[0], sorted(item[1].owns)),
        )
        assert entries.keys() == {stamp for stamp, _ in both}
        for node in (one, other):
            for stamp, entry in both:
                node.put(stamp, entry)
    else:  # entries are compared at any horizon, and what only one side has passes for a delete
        for node, peer in ((one, other), (other, one)):
            for stamp in [s for s, e in node.log.items() if e.row in names and s not in peer.log]:
                del node.log[stamp]
    if same and one.digest(unit) == other.digest(unit):
        for node in (one, other):
            for site in dict(node.vector_of(unit).items()):
                node.pin.dropped.pop(site, None)


# ---- histories


@dataclass(slots=True)
class World:
    """The nodes of one history, the batches under way, and every write that was made."""

    nodes: list[Node]
    by: bool
    now: int = 1_000
    born: int = 0
    batches: list = field(default_factory=list)
    history: dict[Stamp, Entry] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def begin(cls, rules, by):
        return cls([Node(number, by, rules) for number in range(NODES)], by)

    def step(self, kind, one, other, unit, more):
        """Take one step; the numbers choose who, what and how much."""
        node, peer = self.nodes[one], self.nodes[other]
        match kind:
            case "insert" | "retime" | "edit" | "delete" | "move":
                written = node.write(self, kind, unit, more * 3 - 160, more)
                if written is not None:
                    self.batches.append(written[0])
                    self.history |= written[1]
            case "deliver" if self.batches:
                node.receive(self.batches[-1 - more % min(8, len(self.batches))])
            case "round" if node is not peer:
                catch_up(node, peer, unit, keep=None if more % 3 else more // 3)
            case "compare" if node is not peer:
                catch_up(node, peer, unit)
                catch_up(peer, node, unit)
                compare(node, peer, unit)
            case "pass":
                self.now += more
            case "cut":
                before = len(node.log)
                node.move(self.now)
                self._count("cut", before - len(node.log))
            case "keep":
                node.keeps = frozenset(area for area in AREAS if more >> area & 1)
            case "release":
                self._count("released", node.release(unit, self.nodes))
            case "pin":
                node.pin.on, node.pin.bound = True, 0
                node.pin.elsewhere, node.pin.witness = {}, {}
            case "unpin":
                self._unpin(node)

    def _unpin(self, node):
        self._count("lacked", len(node.pin.dropped))
        node.pin = Pin(dropped=node.pin.dropped)

    def _count(self, what, number):
        self.counts[what] = self.counts.get(what, 0) + int(number)

    def settle(self):
        """End the pins, and deliver everything at one horizon."""
        for node in self.nodes:
            self._unpin(node)
        for _ in range(4):
            for node in self.nodes:
                node.move(self.now)
            for unit in UNITS:
                for one, other in itertools.permutations(self.nodes, 2):
                    catch_up(one, other, unit)
                for one, other in itertools.combinations(self.nodes, 2):
                    compare(one, other, unit)
            for node in self.nodes:
                for unit in AREAS:
                    node.release(unit, self.nodes)

    def check(self, *, strict=False):
        """Return what is wrong in the end, "" if nothing is; if `strict`, also rows that a pin goes on hiding."""
        truth = Node(99, self.by, Rules())
        for stamp, entry in sorted(self.history.items()):
            truth.put(stamp, entry)
        truth.horizon = self.nodes[0].horizon
        for unit in UNITS:
            keepers = [node for node in self.nodes if node.is_kept(unit)]
            for node in keepers:
                if node.digest(unit) != keepers[0].digest(unit):
                    return f"unit {unit}: nodes {keepers[0].number} and {node.number} hold different entries"
                wanted, shown = truth.times(unit), node.times(unit)
                lacking = wanted.keys() - shown.keys() if node.pin.dropped and not strict else set()
                held = set().union(*(other.times(unit) for other in self.nodes))
                if {name: at for name, at in wanted.items() if name not in lacking} != shown or lacking - held:
                    return f"unit {unit}: node {node.number} shows {shown}, not {wanted}"
                if any(node.is_old(entry.row) for entry in node.entries(unit).values()):
                    return f"unit {unit}: node {node.number} has a row that is too old"
            for node in self.nodes:
                restoring = any(site[1] == unit for keeper in keepers for site in keeper.pin.dropped)
                if keepers and not node.is_kept(unit) and node.entries(unit) and not restoring:
                    return f"unit {unit}: node {node.number} never released it"
        return ""


KINDS = {
    "insert": 8, "retime": 8, "edit": 3, "delete": 2, "move": 4, "deliver": 12, "round": 10, "compare": 8, "pass": 8,
    "cut": 12, "keep": 3, "release": 8, "pin": 3, "unpin": 2,
}  # fmt: skip


# Every third history is about pins: few rows, many comparisons and cuts.
PINNED = KINDS | {"retime": 3, "move": 2, "edit": 1, "compare": 20, "cut": 20, "pass": 14, "pin": 10, "unpin": 3}


def random_steps(rng, kinds, count=80):
    for number in range(NODES):
        yield "keep", number, 0, 1, rng.randrange(8)
    names, weights = list(kinds), list(kinds.values())
    for _ in range(count):
        kind = rng.choices(names, weights)[0]
        yield kind, rng.randrange(NODES), rng.randrange(NODES), rng.choice(UNITS), rng.randrange(64)


def run(steps, rules=Rules(), *, by=True, strict=False):
    """Run one history; return (what is wrong in the end, the world)."""
    world = World.begin(rules, by)
    for step in steps:
        world.step(*step)
    world.settle()
    return world.check(strict=strict), world


def run_seed(seed, rules=Rules(), *, strict=False):
    """Run the random history of a seed; the even ones go by a column, the odd ones by the stamp of the insert."""
    return run(
        random_steps(random.Random(seed), PINNED if seed % 3 == 0 else KINDS), rules, by=seed % 2 == 0, strict=strict
    )


def first_wrong(rules, seeds):
    """Return the first of some seeds whose random history ends wrong, None without one."""
    return next((seed for seed in seeds if run_seed(seed, rules)[0]), None)


def main():
    total: dict[str, int] = {}
    for seed in range(int(sys.argv[1])):
        wrong, world = run_seed(seed)
        for what, number in world.counts.items():
            total[what] = total.get(what, 0) + number
        if wrong:
            print(f"seed {seed}: {wrong}")
    print("histories", sys.argv[1], total)
    for rule in fields(Rules):
        print(f"without {rule.name}: seed {first_wrong(replace(Rules(), **{rule.name: False}), range(2_000))}")


if __name__ == "__main__":
    main()
