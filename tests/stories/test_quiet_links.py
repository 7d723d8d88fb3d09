"""Links whose ends have nothing in common but facts: they compare less and less often, and at once when that changes."""

from __future__ import annotations

import pytest

from mycomesh.sync.events import CommitSeen
from mycomesh.sync.exchange import link
from mycomesh.sync.wire import messages as wire
from tests.stories.test_areas import Fleet

HOUR_MS = 3_600_000


@pytest.fixture
def fleet_of(tmp_path):
    fleets = []

    def begin(keeps):
        folder = tmp_path / str(len(fleets))
        folder.mkdir()
        fleets.append(Fleet.begin(folder, keeps))
        return fleets[-1]

    yield begin
    for fleet in fleets:
        fleet.close()


def digests(fleet, ms):
    """Return the sizes of the Digests that all nodes send from here on."""
    start = fleet.now
    fleet.run(ms)
    return [
        len(payload)
        for node in fleet.nodes
        for at, _, payload in node.sent
        if at > start and isinstance(wire.decode(payload), wire.Digests)
    ]


def written(fleet):
    for number, node in enumerate(fleet.nodes):
        fleet.write(node, f"INSERT INTO t VALUES({number + 1}, 'own', 0)")
    fleet.run(60_000)


def test_links_with_nothing_in_common_rest(fleet_of, monkeypatch):
    fleet = fleet_of([("1",), ("2",)])
    written(fleet)
    quiet = digests(fleet, HOUR_MS)
    monkeypatch.setattr(link, "QUIET_STEPS", 0)
    always = fleet_of([("1",), ("2",)])
    written(always)
    busy = digests(always, HOUR_MS)
    assert 0 < len(quiet) <= len(busy) / 8
    assert sum(quiet) <= sum(busy) / 8


@pytest.mark.parametrize("keeps", [[("1",), ("1",)], [None, ("2",)], [None, None]])
def test_links_with_a_common_area_do_not_rest(fleet_of, keeps):
    fleet = fleet_of(keeps)
    fleet.write(fleet.nodes[0], f"INSERT INTO t VALUES({'1' if keeps[0] else '2'}, 'shared', 0)")
    fleet.run(60_000)
    assert len(digests(fleet, HOUR_MS)) >= HOUR_MS / 40_000


def test_links_with_a_common_table_do_not_rest(fleet_of):
    fleet = fleet_of([("1",), ("2",)])
    fleet.write(fleet.nodes[0], "CREATE TABLE whole(id INTEGER PRIMARY KEY); INSERT INTO whole VALUES(1)")
    fleet.run(60_000)
    assert fleet.nodes[1].sql("SELECT id FROM whole") == [(1,)]
    assert len(digests(fleet, HOUR_MS)) >= HOUR_MS / 40_000


def test_another_interest_wakes_a_quiet_link(fleet_of):
    fleet = fleet_of([("1",), ("2",)])
    written(fleet)
    fleet.run(HOUR_MS)
    fleet.publishing = False  # only a comparison can bring anything
    fleet.keep(1, ("1", "2"))
    fleet.do(fleet.nodes[1], CommitSeen())
    fleet.run(5_000)
    assert fleet.rows(1, 1) == [(1, "own", 0)]
    assert len(digests(fleet, HOUR_MS)) >= HOUR_MS / 40_000


def test_lost_batches_come_over_quiet_links_soon(fleet_of):
    fleet = fleet_of([("1",), ("2",)])
    written(fleet)
    fleet.run(HOUR_MS)
    fleet.publishing = False
    fleet.write(fleet.nodes[0], "INSERT INTO t VALUES(2, 'of the other', 0)")
    fleet.run(5_000)
    assert (2, "of the other", 0) in fleet.rows(1)


def test_own_writes_send_nothing_over_quiet_links(fleet_of):
    fleet = fleet_of([("1",), ("2",)])
    written(fleet)
    fleet.run(HOUR_MS)
    fleet.publishing = False
    for number in range(20):
        fleet.write(fleet.nodes[0], f"INSERT INTO t VALUES(1, 'more {number}', 0)")
        fleet.run(2_000)
    assert len(digests(fleet, 0)) == 0
    sent = [at for node in fleet.nodes for at, _, _ in node.sent if at > fleet.now - 40_000]
    assert len(sent) <= 1
