"""Requests about areas: lists for people, and refusals in one line."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.control import area_requests, decisions
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.snapshot import AREAS_SHOWN_MAX, area_views, shown_areas
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.exchange.area_status import WRITERS_MAX, AreaStatus, area_statuses
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.wire.interest import Interest
from tests.sync.peers import Peer, converge

KEPT = ReplicaConfig(interest=Interest({"telemetry": frozenset({"7"})}))


@pytest.fixture
def peer(tmp_path):
    peer = Peer(tmp_path / "a.db", 0, config=KEPT)
    peer.sql("CREATE TABLE Telemetry(Drone INTEGER, x); CREATE TABLE other(id INTEGER PRIMARY KEY, x)")
    peer.drain()
    yield peer
    peer.close()


def ask(peer, **fields):
    answer = decisions.prepare({"do": "area", **fields}, {})(peer.replica)
    peer.drain()
    return answer["tables"]


def test_areas_are_listed_with_their_rows(peer):
    assert ask(peer) == []
    blank = {"table": "Telemetry", "by": "", "areas": [], "more": 0, "no_area": 0}
    assert ask(peer, table="telemetry") == [blank]
    assert ask(peer, table="telemetry", column="DRONE") == [blank | {"by": "Drone"}]
    peer.sql("INSERT INTO Telemetry VALUES(7, 1), (7, 2), (8, 1), (NULL, 1)")
    peer.drain()
    own = peer.node_id[:8].hex()
    seven = {"area": "7", "rows": 2, "kept": True, "writers": [{"node_id": own, "changes": 2}]}
    eight = {"area": "8", "rows": 1, "kept": False, "writers": [{"node_id": own, "changes": 1}]}
    shown = blank | {"by": "Drone", "areas": [seven, eight], "no_area": 1}
    assert ask(peer) == ask(peer, table="telemetry") == [shown]
    assert decisions.prepare({"do": "policy", "table": "telemetry"}, {})(peer.replica)["areas_by"] == "Drone"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"table": "nothing", "column": "x"}, "nothing"),
        ({"table": "telemetry", "column": "y"}, "no stored column 'y'; its columns are"),
        ({"table": "other", "column": "x"}, "the primary key of other does not contain x"),
    ],
)
def test_refusals_are_one_line(peer, fields, said):
    with pytest.raises(PolicyError, match=said) as caught:
        ask(peer, **fields)
    assert "\n" not in str(caught.value)
    assert ask(peer) == []


def test_a_node_without_the_right_cuts_nothing(peer):
    peer.replica.set_rights(Rights(peer.node_id, ((peer.node_id, (("telemetry", "rw"),)),)))
    with pytest.raises(PolicyError, match="no right to write mycomesh_schema"):
        ask(peer, table="telemetry", column="drone")


def test_wrong_fields_are_refused(peer):
    for wrong in ({"table": 7}, {"table": "telemetry", "column": 7}):
        with pytest.raises(NodeError, match="needs text"):
            ask(peer, **wrong)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_listing_has_a_limited_length(peer, monkeypatch, count):
    monkeypatch.setattr(area_requests, "LISTED_MAX", 3)
    ask(peer, table="telemetry", column="drone")
    peer.sql("INSERT INTO Telemetry VALUES " + ", ".join(f"({number}, 1)" for number in range(count)))
    peer.drain()
    (shown,) = ask(peer, table="telemetry")
    assert (len(shown["areas"]), shown["more"]) == (min(count, 3), max(0, count - 3))


@pytest.mark.parametrize("count", [WRITERS_MAX - 1, WRITERS_MAX, WRITERS_MAX + 1])
def test_an_area_lists_those_who_wrote_most(peer, tmp_path, count):
    ask(peer, table="telemetry", column="drone")
    for number in range(1, count + 1):
        other = Peer(tmp_path / f"{number}.db", number, config=ReplicaConfig(interest=Interest({})))
        converge([peer, other])
        other.sql("INSERT INTO Telemetry VALUES " + ", ".join(["(7, 1)"] * number))
        peer.take(other.drain(), origin=other.node_id)
        other.close()
    (shown,) = ask(peer, table="telemetry")
    writers = shown["areas"][0]["writers"]
    assert [each["changes"] for each in writers] == list(range(count, 0, -1))[:WRITERS_MAX]
    (view,) = area_views(area_statuses(peer.replica, (), (), 2))
    assert view.writers == tuple((each["node_id"], each["changes"]) for each in writers)


@pytest.mark.parametrize("count", [AREAS_SHOWN_MAX - 1, AREAS_SHOWN_MAX, AREAS_SHOWN_MAX + 1])
def test_a_status_has_a_limited_number_of_areas(count):
    states = [AreaStatus("t", f"{number:05}", True, 1, "00", (), 2, 2) for number in range(count)]
    states.append(AreaStatus("t", "z", True, 1, "00", (), 1, 2))
    shown, more = shown_areas(area_views(states))
    assert (len(shown), more) == (min(count + 1, AREAS_SHOWN_MAX), max(0, count + 1 - AREAS_SHOWN_MAX))
    assert shown[0].area == "z"
