"""Very many areas: equal ones cost one line of a comparison, and a difference is found by a descent."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import CompareRequested
from mycomesh.sync.exchange import area_comparison
from mycomesh.sync.exchange.area_comparison import LISTED_MAX
from mycomesh.sync.merge.release import release_rows
from mycomesh.sync.wire import messages as wire
from tests.stories.test_areas import Fleet

ROWS = (
    "WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < {}) INSERT INTO t SELECT i, i, 0 FROM c"
)


@pytest.fixture
def bases(tmp_path):
    """Two nodes that keep all areas, and one that keeps two."""
    fleet = Fleet.begin(tmp_path, [None, None, ("1", "2")])
    yield fleet
    fleet.close()


def said(fleet, act, ms=1_000):
    """Return the messages between the nodes from an act on: (sender, receiver, kind) and their sizes."""
    for node in fleet.nodes:
        node.sent.clear()
    act()
    fleet.run(ms)
    found = {}
    for sender, node in enumerate(fleet.nodes):
        for _, link, payload in node.sent:
            receiver = fleet.nodes.index(fleet.links[fleet.links[link][1]][0])
            kind = type(wire.decode(payload)).__name__
            found.setdefault((sender, receiver, kind), []).append(len(payload))
    return found


def compare(fleet):
    return said(fleet, lambda: fleet.do(fleet.nodes[0], CompareRequested()))


@pytest.mark.parametrize("count", [LISTED_MAX - 1, LISTED_MAX, LISTED_MAX + 1, 300])
def test_equal_areas_cost_one_line_however_many(bases, count):
    bases.write(bases.nodes[0], ROWS.format(count))
    bases.run(20_000)
    assert len(bases.rows(1)) == count
    found = compare(bases)
    assert {kind for _, _, kind in found} == {"Digests"}
    (size,) = found[0, 1, "Digests"]
    assert size < 130 + (64 * count if count <= LISTED_MAX else 0)
    (size,) = found[0, 2, "Digests"]
    assert size < 300, "two areas, of which this node keeps no more"


def test_ten_thousand_areas_of_one_writer_cost_one_line(bases):
    """Takes some seconds: it holds the limit of sites of one node to what the documents promise."""
    count = 10_000
    bases.write(bases.nodes[0], ROWS.format(count))
    bases.run(20_000)
    assert len(bases.rows(1)) == count
    found = compare(bases)
    assert {kind for _, _, kind in found} == {"Digests"}
    assert sum(found[0, 1, "Digests"]) < 1_024


def lose(fleet, script):
    fleet.publishing = False
    fleet.write(fleet.nodes[0], script)
    fleet.publishing = True


@pytest.mark.parametrize("count", [1, 3, 60])
def test_differences_among_many_areas_are_found_and_fetched(bases, count):
    bases.write(bases.nodes[0], ROWS.format(400))
    bases.run(20_000)
    lose(bases, f"UPDATE t SET n = 1 WHERE area % 400 < {count}")
    found = said(bases, lambda: None, 20_000)
    assert bases.rows(1) == bases.rows(0)
    bases.check_shared()
    bases.check_unrepaired()
    descent = sum(map(sum, (sizes for (_, _, kind), sizes in found.items() if kind == "AreaDigests")))
    assert 0 < descent < 6_000 + 400 * count


def test_damage_in_one_of_many_areas_is_repaired(bases):
    bases.write(bases.nodes[0], ROWS.format(200))
    bases.run(20_000)
    broken = bases.nodes[1].peer.replica
    with broken.store.transaction():
        table = broken.tables["t"]
        (number,) = table.areas.numbers("77")
        release_rows(table, [entry[:2] for entry in table.log.scan_site(number, -1, 9)])  # and not their coverage
    assert bases.rows(1) != bases.rows(0)
    for _ in range(4):
        compare(bases)
        bases.run(20_000)
    assert bases.rows(1) == bases.rows(0)


def test_an_area_of_one_side_is_no_damage(bases):
    bases.write(bases.nodes[0], ROWS.format(100))
    bases.run(20_000)
    lose(bases, "INSERT INTO t VALUES(1000, 'new', 0)")
    bases.run(20_000)
    assert bases.rows(1) == bases.rows(0)
    bases.check_unrepaired()


def test_without_a_descent_differences_stay(bases, monkeypatch):
    bases.write(bases.nodes[0], ROWS.format(100))
    bases.run(20_000)
    monkeypatch.setattr(area_comparison.AreaComparison, "on_message", lambda *_: {})
    lose(bases, "UPDATE t SET n = 1 WHERE area = 50")
    bases.run(40_000)
    assert bases.rows(1) != bases.rows(0)


def test_junk_of_a_peer_in_a_descent_does_nothing(bases):
    bases.write(bases.nodes[0], ROWS.format(100))
    bases.run(20_000)
    link = next(link for link, (node, _) in bases.links.items() if node is bases.nodes[0])
    before = bases.rows(0)
    for message in (
        wire.AreaDigests("unknown", (0,), (), (), (), answer=True),
        wire.AreaDigests("t", (0, 5, 4_160), ((70, bytes(16)),), (1, 64), (("x", bytes(8), bytes(16)),), answer=True),
        wire.AreaDigests("t", (), (), tuple(range(65)), (), answer=True),
    ):
        for _ in range(200):
            bases._carry(bases.links[link][1], wire.encode(message))
        bases.run(1_000)
    bases.run(60_000)
    assert bases.rows(0) == bases.rows(1) == before
    assert [node.dropped for node in bases.nodes] == [[], [], []]
