"""Executable model of the cut of a keyed table that has rows: each node moves its entries to the sites of their areas.

    python -m tests.stories.keyed_cut_model 3000

The key of a row contains the column, so every node computes the same area for each of its entries, those of deletes too. A node
that learns of the cut moves each entry (clock, site) to (clock, site of that area), with what it covers and has collected. Nodes
learn late, in splits, from old backups; two decide by different columns. Then everything is delivered, and `check` compares.

- Before the cut a node has one unit, `OLD`; after it the areas of the column, and none that is named as the whole table was. So
  nodes that know different cuts take nothing from each other but the cut.
- A node covers in every area all that it covered before the cut, also in those of which it has no row: these it meets later.
- A site of an area is met once. A release gives up its coverage, and what was covered before the cut does not come back.
- Of two cuts the later decision holds. A node that has moved its entries for the other column takes no part any more; in an
  earlier form of this model it moved them again, and writes that others had released were lost.
"""

from __future__ import annotations

import copy
import itertools
import random
import sys
from dataclasses import dataclass, field, fields, replace

from mycomesh.sync.crdt.version_vector import Vector
from tests.stories import area_model
from tests.stories.area_model import EXISTS, Batch, Entry, Stamp, repair, unit_of

OLD = 0
UNITS = {"": (OLD,), "x": (1, 2, 3), "y": (4, 5)}
NODES = 4
COPIES = 2
COLUMNS = ("a", "b", "n")
ROWS = ((1, 4), (2, 4), (3, 4), (1, 5), (2, 5))  # a key has an area by x and one by y


@dataclass(frozen=True, slots=True)
class Rules(area_model.Rules):
    """The rules that `tests/stories/test_keyed_cut_model.py` breaks one by one; each is right as it is by default."""

    tombstones_move: bool = True
    values_move: bool = True
    coverage_moves: bool = True
    unknown_areas_are_covered: bool = True
    watermarks_move: bool = True
    tops_move: bool = True
    old_batches_are_refused: bool = True
    old_rounds_are_refused: bool = True
    sites_are_met_once: bool = True  # and not again after a release
    no_collection_after_the_cut: bool = True  # in units of the cut, until everybody knows it: 30 days


OWN_RULES = [rule.name for rule in fields(Rules) if rule.name not in {each.name for each in fields(area_model.Rules)}]


def moved(site, unit):
    return site[:2] + bytes([unit])


@dataclass(slots=True)
class Node(area_model.Node):
    """One node; `cut` is the decision that it knows: (when, the column), and `vector` what it covers in the form of that cut."""

    cut: tuple = (0, "")
    before: Vector = field(default_factory=Vector)  # what it covered of the old form
    collected: dict[bytes, int] = field(default_factory=dict)  # the watermarks of the old form
    met: set[bytes] = field(default_factory=set)  # sites of areas, for good: also those that it has released since
    top: int = 0  # how far this site had published when it learned of the cut
    parked: bool = False  # it has moved its entries for a column that the mesh has decided against

    @property
    def units(self):
        return UNITS[self.cut[1]]

    def is_kept(self, unit):
        return unit in self.units and (unit == OLD or unit in self.keeps) and not self.parked

    def unit_of_row(self, row, column=None):
        return {"": OLD, "x": row[0], "y": row[1]}[self.cut[1] if column is None else column]

    # ---- the cut

    def learn(self, cut):
        """Take a decision over, and move everything to the form that it makes."""
        if cut <= self.cut:
            return
        if self.cut[1]:
            self.parked = self.parked or cut[1] != self.cut[1]
            self.cut = (cut[0], self.cut[1])
            return
        self.before, self.collected, self.top = self.vector.copy(), dict(self.watermarks), self.tops.get(OLD, 0)
        log = self.log
        self.cut, self.log, self.vector, self.watermarks, self.tops = cut, {}, Vector(), {}, {}
        for (hlc, site), entry in log.items():
            if self.rules.tombstones_move if entry.dead else self.rules.values_move:
                at = moved(site, self.unit_of_row(entry.row))
                self.log[hlc, at] = entry
                self.meet(at)

    def meet(self, site):
        """Meet a site of an area for the first time: what was covered of the old form is covered here."""
        unit, old = unit_of(site), moved(site, OLD)
        known = self.met if self.rules.sites_are_met_once else dict(self.vector.items())
        if unit == OLD or unit not in self.units or site in known:
            return
        self.met.add(site)
        if self.rules.unknown_areas_are_covered or self.holds(unit):
            for after, upto in self.before.ranges(old) if self.rules.coverage_moves else ():
                self.vector.add(site, after, upto)
        if self.rules.watermarks_move and old in self.collected:
            self.watermarks[site] = max(self.watermarks.get(site, 0), self.collected[old])

    # ---- local writes

    def publish(self, unit):
        site = area_model.site_of(self.number, self.epoch, unit)
        self.meet(site)
        after = self.tops.get(unit, self.top if self.rules.tops_move and unit != OLD else 0)
        if self.clock > after:
            self.vector.add(site, after, self.clock)
        self.tops[unit] = self.clock
        return site, after, self.clock

    def write(self, kind, row, column=0, to=None):
        """Write as a program does; return the batch to publish, and every stamp in it; None if there was nothing to do."""
        seen, made = self.is_visible(row), []
        match kind:
            case "insert" if not seen:
                made.append(self._made(row, {EXISTS, *COLUMNS}))
            case "update" if seen:
                made.append(self._made(row, {COLUMNS[column % 2]}))
            case "count" if seen:
                share = f"n/{self.number}/{self.epoch}"
                owner = self.owners(row).get(share)
                made.append(self._made(row, {share}, total=1 + (self.log[owner].total if owner else 0)))
            case "delete" if seen:
                made.append(self._made(row, {EXISTS}, dead=True))
            case "move" if seen and to != row and not self.is_visible(to):
                total = self.total(row)
                made.append(self._made(row, {EXISTS}, dead=True))
                made.append(self._made(to, {EXISTS, *COLUMNS}, total=total))
        if not made:
            return None
        sections: dict[int, dict[Stamp, Entry]] = {}
        for stamp, entry in made:
            sections.setdefault(unit_of(stamp[1]), {})[stamp] = entry
        return Batch([(*self.publish(unit), entries) for unit, entries in sorted(sections.items())]), dict(made)

    def _made(self, row, owns, *, dead=False, total=0):
        self.clock = max([self.clock, *(stamp[0] for stamp in self.owners(row).values())]) + 1
        stamp = (self.clock, area_model.site_of(self.number, self.epoch, self.unit_of_row(row)))
        entry = Entry(row, 0, frozenset(owns), dead, total)
        self.put(stamp, entry)
        return stamp, entry

    # ---- what others sent

    def receive(self, batch):
        for site, after, upto, made in batch.sections:
            unit = unit_of(site)
            taken = self.is_kept(unit) or (unit == OLD and not self.rules.old_batches_are_refused)
            if not taken:
                continue
            self.meet(site)
            for stamp, entry in made.items():
                if not self.vector.covers(site, stamp[0]):
                    self.put(stamp, entry)
            self.vector.add(site, after, upto)
            self.clock = max(self.clock, upto)

    def collect(self, nodes):
        if self.cut[1] and self.rules.no_collection_after_the_cut and len({node.cut[1] for node in nodes}) > 1:
            return
        area_model.Node.collect(self, nodes)

    def release(self, unit, nodes, known):
        held = {site for _, site in self.log if unit_of(site) == unit} | {
            site for site, _ in self.vector_of(unit).items()
        }
        for node in nodes:
            for site in held if node.is_kept(unit) else ():
                node.meet(site)
        return area_model.Node.release(self, unit, nodes, known)

    def shown(self, unit=None):
        rows = {entry.row for entry in self.log.values()}
        found = {row: self.owners(row) | {"total": self.total(row)} for row in rows if self.is_visible(row)}
        return {row: cells for row, cells in found.items() if unit is None or self.unit_of_row(row) == unit}


def catch_up(sender, receiver, unit, *, keep=None):
    """Have one stream of one unit, which both sides know; the receiver first learns what sites the sender has in it."""
    known = unit in sender.units and unit in receiver.units and not (sender.parked or receiver.parked)
    if not known and not (unit == OLD and not sender.rules.old_rounds_are_refused):
        return
    for one, other in ((sender, receiver), (receiver, sender)):
        for site in sorted(
            {site for site, _ in one.vector_of(unit).items()} | {s for _, s in one.log if unit_of(s) == unit}
        ):
            other.meet(site)
    if known:
        area_model.catch_up(sender, receiver, unit, keep=keep)
    else:  # as if a node served what it has under the name of the whole table
        receiver.vector.merge(sender.vector_of(unit))


@dataclass(slots=True)
class World(area_model.World):
    """The nodes of one history, the batches under way, and every write that was made, by the site of the whole table."""

    time: int = 0
    two: bool = False  # nodes decide by different columns

    @classmethod
    def begin(cls, rules):
        return cls([Node(number, rules) for number in range(NODES)])

    def step(self, kind, one, other, place, more):  # noqa: PLR0912  (one branch a kind)
        """Take one step; the numbers choose who, what and how much."""
        node, peer, row = self.nodes[one], self.nodes[other], ROWS[place]
        unit = node.units[more % len(node.units)]
        match kind:
            case "insert" | "update" | "count" | "delete" | "move":
                written = node.write(kind, row, more, ROWS[more % len(ROWS)])
                if written is not None:
                    self.batches.append(written[0])
                    self.history |= {(hlc, moved(site, OLD)): entry for (hlc, site), entry in written[1].items()}
                    self._count("under old form after the cut", not node.cut[1] and any(n.cut[1] for n in self.nodes))
            case "deliver" if self.batches:
                node.receive(self.batches[-1 - more % min(8, len(self.batches))])
            case "tell" if node is not peer:
                peer.learn(node.cut)
            case "round" if node is not peer:
                if more % 4:
                    peer.learn(node.cut)
                catch_up(node, peer, unit, keep=None if more % 3 else more)
            case "repair" if node is not peer:
                catch_up(node, peer, unit)
                catch_up(peer, node, unit)
                repair(node, peer, unit)
            case "meet":
                for peers in itertools.permutations(self.nodes, 2):
                    catch_up(*peers, unit)
            case "two":
                self.two = True
            case "cut":
                self.time += 1
                if not node.cut[1] or more % 4 == 0:
                    again = bool(node.cut[1])
                    node.learn((self.time, "xy"[more % 5 == 0 and self.two]))
                    self._count("cut", not again)
            case "keep":
                node.keeps = frozenset(area for area in (1, 2, 3, 4, 5) if more >> area & 1)
            case "release":
                self._count("released", node.release(unit, self.nodes, self.acked) if unit != OLD else False)
            case "collect":
                before = len(node.log)
                node.collect(self.nodes)
                self._count("collected", before - len(node.log))
            case "backup":
                self.backups[node.number] = copy.deepcopy(node)
            case "restore" if node.number in self.backups and self._has_copies(node):
                self._restore(node)

    def _has_copies(self, node):
        others = [peer for peer in self.nodes if peer is not node]
        return all(
            any(
                peer.cut[1] == node.cut[1] and peer.is_kept(unit_of(site)) and peer.vector.covers(site, hlc)
                for peer in others
            )
            for hlc, site in node.log
        )

    def _restore(self, node):
        backup = copy.deepcopy(self.backups[node.number])
        self.epochs += 1
        backup.keeps, backup.epoch, backup.tops, backup.top = node.keeps, self.epochs, {}, 0
        self.nodes[node.number] = backup
        self._count("restored", 1)

    def settle(self):
        last = max((node.cut for node in self.nodes if not node.parked), default=(0, ""))
        if not last[1]:
            last = (self.time + 1, "x")
        for node in self.nodes:
            self._count("learned", node.cut[1] == "" and bool(node.log))
            node.learn(last)
            self._count("parked", node.parked)
        units = UNITS[last[1]]
        for _ in range(3):
            for unit in units:
                for peers in itertools.permutations(self.nodes, 2):
                    catch_up(*peers, unit)
            for one, other in itertools.combinations(self.nodes, 2):
                for unit in units:
                    repair(one, other, unit)
            for node in self.nodes:
                for unit in units:
                    node.release(unit, self.nodes, self.acked)

    def check(self):
        here = [node for node in self.nodes if not node.parked]
        truth = Node(99, self.nodes[0].rules)
        for stamp, entry in sorted(self.history.items()):
            truth.put(stamp, entry)
        truth.learn(here[0].cut)
        for unit in here[0].units:
            keepers = [node for node in here if node.is_kept(unit)]
            for node in keepers:
                if node.digest(unit) != keepers[0].digest(unit):
                    return f"area {unit}: nodes {keepers[0].number} and {node.number} hold different entries"
                if node.vector_of(unit) != keepers[0].vector_of(unit):
                    return f"area {unit}: nodes {keepers[0].number} and {node.number} cover different clocks"
                if len(here) == NODES and node.shown(unit) != truth.shown(unit):
                    return f"area {unit}: node {node.number} shows {node.shown(unit)}, not {truth.shown(unit)}"
            for node in here:
                if keepers and not node.is_kept(unit) and node.holds(unit):
                    return f"area {unit}: node {node.number} never released it"
            if not keepers and len(here) == NODES and not self._comes_back(unit, truth):
                return f"area {unit}: nobody keeps it, and a write of it is lost"
        return ""

    def _comes_back(self, unit, truth):
        later = copy.deepcopy(self)
        later.nodes[0].keeps = frozenset((1, 2, 3, 4, 5))
        later.settle()
        return later.nodes[0].shown(unit) == truth.shown(unit)


KINDS = {
    "insert": 8, "update": 8, "count": 3, "delete": 5, "move": 3, "deliver": 14, "tell": 2, "round": 12, "repair": 4, "keep": 2,
    "cut": 2, "release": 5, "collect": 6, "backup": 2, "restore": 1, "meet": 3,
}  # fmt: skip


def random_steps(rng, count=70):
    for number in range(NODES):
        yield "keep", number, 0, 0, rng.randrange(64) if rng.random() < 0.5 else 63
    if rng.random() < 0.1:
        yield "two", 0, 0, 0, 0
    names, weights = list(KINDS), list(KINDS.values())
    for _ in range(count):
        kind = rng.choices(names, weights)[0]
        yield kind, rng.randrange(NODES), rng.randrange(NODES), rng.randrange(len(ROWS)), rng.randrange(64)


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
    wrongs = 0
    for seed in range(int(sys.argv[1])):
        wrong, world = run(random_steps(random.Random(seed)))
        for what, number in world.counts.items():
            total[what] = total.get(what, 0) + number
        if wrong:
            wrongs += 1
            print(f"seed {seed}: {wrong}") if wrongs < 12 else None
    print("histories", sys.argv[1], "wrong", wrongs, total)
    for rule in OWN_RULES if len(sys.argv) > 2 else ():
        print(
            f"without {rule}: seed {first_wrong(replace(Rules(), **{rule: False}), range(int(sys.argv[2])))}",
            flush=True,
        )


if __name__ == "__main__":
    main()
