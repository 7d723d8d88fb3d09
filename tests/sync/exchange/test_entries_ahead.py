"""A node that serves a round within another one: its peer covers no change that it neither has nor has replaced (ADR 77)."""

from __future__ import annotations

import pytest

from mycomesh.sync.exchange.catch_up_stream import CatchUpStream
from tests.sync.peers import catch_up, converge

TABLE = "CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT)"
FILL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT ?) INSERT INTO t SELECT i, 'first' FROM n"
SMALL = 1_024  # bytes of a chunk


@pytest.fixture(params=[1, 300])
def meeting(request, peers):
    """A writer, one who replaces its writes unseen, a relay that has got that without the vectors, and a reader."""
    writer, later, relay, reader = peers(4)
    writer.sql(TABLE)
    writer.sql(FILL, request.param)
    converge([writer, later, relay, reader])
    writer.sql("UPDATE t SET v = 'written'")
    batches = writer.drain()
    for each in (later, relay):
        each.take(batches, origin=writer.node_id)
    later.sql("UPDATE t SET v = 'replaced'")
    later.drain()
    return writer, later, relay, reader


def stream_to(receiver, sender):
    return CatchUpStream(sender.replica, {name: receiver.replica.vector(name) for name in receiver.replica.tables})


def bring(receiver, chunk):
    assert not receiver.replica.apply(chunk.bundle, receiver.wall_ms).withheld


def begin(relay, later, share=1.0):
    """Bring the chunks of a round without its end."""
    chunks, stream = [], stream_to(relay, later)
    while (chunk := stream.next(later.wall_ms, SMALL)).bundle is not None:
        chunks.append(chunk)
    for chunk in chunks[: max(1, round(len(chunks) * share))]:
        bring(relay, chunk)
    return chunks


def finish(reader, relay, stream, between=lambda: None):
    """Bring the rest of a round, and return its chunks."""
    chunks = []
    while (chunk := stream.next(relay.wall_ms, SMALL)).bundle is not None:
        bring(reader, chunk)
        chunks.append(chunk)
        between()
    reader.replica.inbox.take_vectors(chunk.vectors, chunk.collected, reader.wall_ms)
    return chunks


def stale(reader, relay, writer):
    """Return the rows that the reader covers as the writer wrote them, and shows as they were before."""
    assert not relay.replica.vector("t").missing_from(reader.replica.vector("t"))
    assert reader.replica.vector("t").covers(writer.replica.site, writer.replica.store.clock.last)
    return reader.app.execute("SELECT count(*) FROM t WHERE v = 'first'").fetchone()[0]


def test_a_peer_gets_what_replaced_its_changes(meeting):
    writer, later, relay, reader = meeting
    begin(relay, later)
    finish(reader, relay, stream_to(reader, relay))
    assert not stale(reader, relay, writer)
    assert reader.tables() == relay.tables()
    assert not reader.replica.vector("t").covers(later.replica.site, later.replica.store.clock.last)
    converge([relay, later, reader, writer])
    assert reader.digests() == later.digests()


def test_what_comes_while_they_are_sent_goes_too(meeting):
    writer, later, relay, reader = meeting
    chunks = begin(relay, later, share=0.5)
    stream, left = stream_to(reader, relay), iter(chunks[len(chunks) // 2 :])
    finish(reader, relay, stream, lambda: bring(relay, chunk) if (chunk := next(left, None)) else None)
    shown = dict(relay.app.execute("SELECT id, v FROM t"))
    mine = dict(reader.app.execute("SELECT id, v FROM t"))
    assert all(
        mine[row] == "replaced" for row, value in shown.items() if value == "replaced" and mine[row] != "written"
    )
    assert not [row for row, value in mine.items() if value == "first"]
    assert writer.replica.site != later.replica.site


def test_a_peer_that_learns_nothing_gets_none(meeting):
    writer, later, relay, _ = meeting
    begin(relay, later)
    assert stream_to(writer, relay).next(relay.wall_ms).bundle is None, "it covers what the relay does"


def test_a_peer_that_covers_them_gets_none(meeting):
    _, later, relay, _ = meeting
    begin(relay, later)
    relay.sql("INSERT INTO t VALUES(0, 'own')")
    stream = stream_to(later, relay)
    assert stream.next(relay.wall_ms).rows == 1
    assert stream.next(relay.wall_ms).bundle is None


def test_a_log_within_its_vector_is_searched_once(meeting):
    _, later, relay, reader = meeting
    coverage = relay.replica.tables["t"].coverage
    begin(relay, later)
    assert coverage.may_be_ahead
    catch_up(relay, later)
    catch_up(reader, relay)
    assert not coverage.may_be_ahead
