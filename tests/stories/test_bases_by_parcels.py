"""Bases without a link, in virtual time: parcels over a mailbox that loses, repeats, withholds, swaps and damages.

Each row has one writer, so the oracle knows what every base must hold once the mailbox is honest for a while.
`make long` runs all 500 seeds.
"""

import asyncio
import random

import pytest

from mycomesh.mesh.mailbox import streams
from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.membership.roster import Roster
from mycomesh.mesh.node import recording
from mycomesh.mesh.node.courier import Courier
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.sync.events import Notice
from tests.mesh.node.surroundings import WorldSurroundings
from tests.mesh.pipes import mesh_of
from tests.sync.exchanges import World
from tests.sync.scale import sweep

SEEDS = sweep(range(500), 8)


class Storage:
    """A mailbox in memory. While `lies` is true, its operator does what it can without the keys."""

    def __init__(self, rng):
        self.rng = rng
        self.lies = False
        self.kept = {}  # (stream, position) -> bytes; a liar keeps what was removed
        self.removed = set()

    def _chance(self, share):
        return self.lies and self.rng.random() < share

    def append(self, _mesh, stream, position, data):
        if self._chance(0.03):
            raise MailboxError("disk full")
        if (stream, position) in self.kept:
            return False
        if not self._chance(0.1):  # lost, and reported as stored
            self.kept[stream, position] = data
        return True

    def streams(self, _mesh):
        return sorted({stream for stream, _ in self.kept} | ({b"\xff" * 8} if self.lies else set()))

    def list_after(self, _mesh, stream, position):
        shown = [
            Listed(stream, at, len(data))
            for (each, at), data in self.kept.items()
            if each == stream and at > position and ((each, at) not in self.removed or self._chance(0.5))
        ]
        return sorted(each for each in shown if not self._chance(0.1))

    def get(self, _mesh, listed):
        data = self.kept.get((listed.stream, listed.position))
        if data is None or self._chance(0.03):
            return None
        if self._chance(0.05):
            return self.rng.choice(list(self.kept.values()))
        if self._chance(0.05):
            return data[: self.rng.randrange(len(data))]
        return data

    def remove(self, _mesh, listed):
        self.removed.add((listed.stream, listed.position))


class Bases(World):
    """Nodes that never link; each has a courier."""

    def __init__(self, peers, config=None):
        identities, _ = mesh_of(len(peers))
        self.virtual = {}
        super().__init__(peers, config)
        self.couriers = []
        for node, identity in zip(self.nodes, identities, strict=True):
            self.virtual[node] = links = VirtualLinks(lambda event, node=node: self.do(node, event))
            roster = Roster(identity)
            for each in identities:
                roster.add(each.certificate)
            keys = EnvelopeKeys(identity.mesh_id, identity.secret, (identity.secret,))
            around = WorldSurroundings(self, node)
            self.couriers.append(Courier(None, roster, lambda keys=keys: keys, links, around))

    def courier(self, number, storage):
        """Return the courier of a base, with a mailbox."""
        self.couriers[number].mailbox = storage
        return self.couriers[number]

    def do(self, node, event):
        actions = node.exchange.handle(event, self.now, node.peer.wall_ms + self.now)
        others = self.virtual[node].take(actions) if node in self.virtual else actions
        node.notices += [action for action in others if isinstance(action, Notice)]
        self._rearm(node)


@pytest.fixture
def bases(tmp_path, monkeypatch):
    """Return a function that makes bases, whose couriers wait in virtual time."""
    made = []

    monkeypatch.setattr(streams, "GATHER_BYTES", 300)  # many envelopes a parcel

    def make(count):
        made.append(Bases.made(tmp_path, count))
        return made[-1]

    yield make
    for world in made:
        world.close()


def write(world, rng, oracle, number):
    """Let one base insert, change or delete rows of its own."""
    for _ in range(rng.randrange(1, 6)):
        own = [key for key in oracle if key.startswith(f"{number}-")]
        key = rng.choice(own) if own and rng.random() < 0.5 else f"{number}-{rng.randrange(10_000)}"
        if key in oracle and rng.random() < 0.3:
            del oracle[key]
            world.write(world.nodes[number], "DELETE FROM t WHERE id = ?", key)
        else:
            oracle[key] = rng.randrange(1_000_000)
            world.write(world.nodes[number], "INSERT OR REPLACE INTO t VALUES(?, ?)", key, oracle[key])


async def use(world, storage, number, rng):
    """Export, import or both, as a courier would. A lying mailbox may cause a clear error, never another exception."""
    if rng.random() < 0.6:
        try:
            await world.courier(number, storage).export()
        except (MailboxError, NodeError):
            assert storage.lies
    if rng.random() < 0.6:
        taken = await world.courier(number, storage).take_in()
        assert storage.lies or all(each.state == "read" for each in taken), taken


async def live(world, storage, rng):
    """Run a lying time, then an honest one; return the oracle's rows."""
    oracle = {}
    world.write(world.nodes[0], "CREATE TABLE t(id TEXT PRIMARY KEY, v)")
    await world.courier(0, storage).export()
    for number in range(1, len(world.nodes)):
        await world.courier(number, storage).take_in()
    storage.lies = True
    for _ in range(25):
        number = rng.randrange(len(world.nodes))
        write(world, rng, oracle, number)
        world.run(rng.randrange(2_000))
        await use(world, storage, number, rng)
    storage.lies = False
    for number in range(len(world.nodes)):
        await world.courier(number, storage).export()
    for number in range(len(world.nodes)):
        await world.courier(number, storage).take_in()
    return oracle


def rows_of(node):
    return dict(node.sql("SELECT id, v FROM t"))


def rows_of_any(world):
    """Return whether every base has the table, and some base has rows."""
    tables = [node.sql("SELECT 1 FROM sqlite_master WHERE name = 't'") for node in world.nodes]
    return all(tables) and any(rows_of(node) for node in world.nodes)


@pytest.mark.parametrize("seed", SEEDS)
def test_bases_agree_after_a_lying_mailbox(bases, seed):
    rng, world = random.Random(seed), bases(3)
    oracle = asyncio.run(live(world, Storage(rng), rng))
    assert [rows_of(node) == oracle for node in world.nodes] == [True] * 3
    # A beat after the last export moves its own site's vector alone, so compare what the vectors are about.
    entries = [{name: digest for name, (_, digest) in node.peer.digests().items()} for node in world.nodes]
    assert entries == [entries[0]] * 3
    assert not any("site.renewed" in node.noticed() for node in world.nodes)


def test_the_oracle_notices_chunks_left_out(bases, monkeypatch):
    replayed = recording._replay_once

    async def without_chunks(surroundings, link, done, names, chunks):
        async def none():
            for each in ():
                yield each

        return await replayed(surroundings, link, done, names, chunks if not began else none)

    rng, world, began = random.Random(1), bases(3), []
    monkeypatch.setattr(recording, "_replay_once", without_chunks)
    monkeypatch.setattr(
        world, "run", lambda ms, run=world.run: (began.append(ms) if rows_of_any(world) else None, run(ms))
    )
    oracle = asyncio.run(live(world, Storage(rng), rng))
    assert [rows_of(node) == oracle for node in world.nodes] != [True] * 3
