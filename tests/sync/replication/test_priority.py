"""Urgent tables: what is written there leaves before everything else, and each table stays in order."""

from __future__ import annotations

import itertools
import random

import pytest

from mycomesh.sync.events import CommitSeen, CompareRequested, LinkOpened, MessageReceived, Publish, Send
from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig
from mycomesh.sync.merge.work_budget import CHUNK_ROWS_MAX
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication import priority
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle
from tests.sync.peers import Peer

SCHEMA = "CREATE TABLE alerts(id PRIMARY KEY, what); CREATE TABLE bulk(id, at); CREATE TABLE aaa(id, at)"
FILL = (
    "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO bulk SELECT i, i FROM n"
)
BOTH = "BEGIN; INSERT INTO bulk VALUES(1, 1); INSERT INTO alerts VALUES('a', 'smoke'); COMMIT"


@pytest.fixture
def peer_of(tmp_path):
    peers = []

    def make(*urgent):
        peers.append(Peer(tmp_path / f"{len(peers)}.db", len(peers), config=ReplicaConfig(urgent=urgent)))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


def tables_of(bundle):
    return [section.table for section in Bundle.decode(bundle).sections]


def published(peer):
    """(priority, tables) of each batch that a look at this file makes."""
    exchange = Exchange(peer.replica, rng=random.Random(1), config=ExchangeConfig())
    actions = exchange.handle(CommitSeen(), 1_000, peer.wall_ms)
    return [(action.priority, tables_of(action.payload)) for action in actions if isinstance(action, Publish)]


def test_urgent_rows_are_a_batch_before_the_others(peer_of):
    peer = peer_of("ALERT*")
    peer.sql(SCHEMA)
    peer.drain()
    peer.sql(BOTH)
    assert published(peer) == [(0, ["alerts"]), (1, ["bulk"])]


def test_without_urgent_tables_one_transaction_is_one_batch(peer_of):
    peer = peer_of()
    peer.sql(SCHEMA)
    peer.drain()
    peer.sql(BOTH)
    ((priority, tables),) = published(peer)
    assert (priority, sorted(tables)) == (1, ["alerts", "bulk"])


def test_table_is_urgent_by_name_that_it_has_here(peer_of):
    peer = peer_of("sirens")
    peer.sql(SCHEMA)
    peer.drain()
    peer.replica.migrate("ALTER TABLE alerts RENAME TO sirens", peer.wall_ms)
    peer.drain()
    peer.sql(BOTH.replace("alerts", "sirens"))
    assert published(peer) == [(0, ["alerts"]), (1, ["bulk"])]


def test_definitions_go_with_what_is_urgent(peer_of):
    peer = peer_of("alerts")
    peer.sql(SCHEMA)
    peer.sql(BOTH)
    classes = dict.fromkeys(
        itertools.chain.from_iterable(((priority, name) for name in names) for priority, names in published(peer))
    )
    assert list(classes) == [(0, SCHEMA_TABLE), (0, "alerts"), (1, "bulk")]


def test_alert_does_not_wait_for_chunks_of_bulk_load(peer_of):
    peer = peer_of("alerts")
    peer.sql(SCHEMA)
    peer.drain()
    peer.sql(FILL, 3 * CHUNK_ROWS_MAX)
    peer.drain()
    peer.sql(FILL, 3 * CHUNK_ROWS_MAX)
    peer.sql("INSERT INTO alerts VALUES('a', 'smoke')")
    assert [tables_of(bundle) for bundle in peer.drain()][:2] == [["alerts"], ["bulk"]]


@pytest.mark.parametrize("turned", [False, True])
def test_batches_of_both_classes_leave_no_gap(peer_of, turned):
    one, two = peer_of("alerts"), peer_of()
    one.sql(SCHEMA)
    two.take(one.drain(), origin=one.node_id)
    bundles = []
    for number in range(3):
        one.sql(f"BEGIN; INSERT INTO bulk VALUES({number}, 0); INSERT INTO alerts VALUES({number}, 'smoke'); COMMIT")
        bundles.append(one.drain())
    urgent, others = zip(*bundles, strict=True)
    order = [*others, *urgent] if turned else [*urgent, *others]
    assert not any(two.replica.apply(bundle, two.wall_ms, origin=one.node_id).gaps for bundle in order)
    assert two.digests() == one.digests()
    assert two.tables() == one.tables()


def test_a_beat_stays_in_the_order_of_its_table(peer_of):
    one, two = peer_of("alerts"), peer_of()
    one.sql(SCHEMA)
    two.take(one.drain(), origin=one.node_id)
    beat = one.replica.outbox.advance_clock(["alerts", "bulk"], one.wall_ms + 10)
    one.sql("INSERT INTO alerts VALUES('a', 'smoke')")
    one.wall_ms += 20
    urgent = [beat[0], *one.drain()]
    assert [tables_of(bundle) for bundle in [*urgent, beat[1]]] == [["alerts"], ["alerts"], ["bulk"]]
    assert not any(two.replica.apply(bundle, one.wall_ms, origin=one.node_id).gaps for bundle in [*urgent, beat[1]])
    assert two.digests() == one.digests()


def test_a_returning_node_gets_urgent_rows_first_and_alone(peer_of):
    one, two = peer_of("alerts"), peer_of()
    one.sql(SCHEMA)
    two.take(one.drain(), origin=one.node_id)
    one.sql("INSERT INTO aaa VALUES(1, 1)")
    one.sql(BOTH)
    one.drain()
    stream = CatchUpStream(one.replica, {name: two.replica.vector(name) for name in two.replica.tables})
    chunks = [stream.next(one.wall_ms), stream.next(one.wall_ms)]
    assert [(tables_of(chunk.bundle), chunk.urgent) for chunk in chunks] == [
        (["alerts"], True),
        (["aaa", "bulk"], False),
    ]
    assert stream.next(one.wall_ms).bundle is None


def test_urgent_tables_go_in_the_order_of_their_list(peer_of):
    one, two = peer_of("bulk", "a*"), peer_of()
    one.sql(SCHEMA)
    two.take(one.drain(), origin=one.node_id)
    one.sql("INSERT INTO aaa VALUES(1, 1)")
    one.sql(BOTH)
    assert [tables_of(batch) for batch in one.drain()] == [["bulk", "aaa", "alerts"]]
    stream = CatchUpStream(one.replica, {name: two.replica.vector(name) for name in two.replica.tables})
    assert [tables_of(stream.next(one.wall_ms).bundle) for _ in range(2)] == [["bulk"], ["aaa", "alerts"]]


def test_newly_urgent_rows_are_the_streams_next_chunk(peer_of):
    one, two = peer_of("alerts"), peer_of()
    one.sql(SCHEMA)
    two.take(one.drain(), origin=one.node_id)
    one.sql(FILL, 3_000)
    one.drain()
    stream = CatchUpStream(one.replica, {name: two.replica.vector(name) for name in two.replica.tables})
    assert tables_of(stream.next(one.wall_ms).bundle) == ["bulk"]
    one.sql("INSERT INTO alerts VALUES('a', 'smoke')")
    chunk = stream.next(one.wall_ms)
    assert tables_of(chunk.bundle) == ["alerts"]
    assert tables_of(stream.next(one.wall_ms).bundle) == ["bulk"]


@pytest.mark.parametrize(("tables", "batches"), [(2, 1), (3, 1), (4, 2), (7, 3)])
def test_a_transaction_over_many_tables_is_several_batches(peer_of, monkeypatch, tables, batches):
    monkeypatch.setattr(priority, "SECTIONS_MAX", 3)
    peer = peer_of()
    peer.sql("; ".join(f"CREATE TABLE t{number}(id PRIMARY KEY)" for number in range(tables)))
    peer.drain()
    peer.sql("BEGIN;" + "".join(f"INSERT INTO t{number} VALUES(1);" for number in range(tables)) + "COMMIT")
    found = published(peer)
    assert len(found) == batches
    assert sorted(name for _, names in found for name in names) == [f"t{number}" for number in range(tables)]


@pytest.mark.parametrize("urgent", [(), ("alerts",)])
def test_first_comparison_waits_for_no_budget(peer_of, urgent):
    peer = peer_of(*urgent)
    peer.sql(SCHEMA)
    peer.drain()
    exchange = Exchange(peer.replica, rng=random.Random(1), config=ExchangeConfig())
    first = exchange.handle(LinkOpened(1, b"p" * 16), 1_000, peer.wall_ms)
    assert [action.priority for action in first if isinstance(action, Send)] == [0 if urgent else 2]
    other = wire.encode(wire.Digests((("bulk", bytes(8), bytes(16)),)))
    asked = exchange.handle(MessageReceived(1, other), 2_500, peer.wall_ms)
    assert [action.priority for action in asked if isinstance(action, Send)] == [0 if urgent else 2]
    later = exchange.handle(CompareRequested(), 3_000, peer.wall_ms)
    assert [action.priority for action in later if isinstance(action, Send)] == [2]
