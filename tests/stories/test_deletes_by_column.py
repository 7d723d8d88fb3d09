"""A delete removes in silence only what its writer had seen, column by column: anything else is in the conflicts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.merge import bulk_edit
from mycomesh.sync.storage import row_view
from mycomesh.sync.wire.bundle import SEEN_PREFIX, Bundle, Kind
from tests.sync.peers import Peer, assert_equal, catch_up, converge
from tests.sync.scale import examples


def open_peers(folder, count):
    peers = [Peer(folder / f"{number}.db", number) for number in range(count)]
    peers[0].sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x, y, z)")
    peers[0].drain()
    converge(peers)
    return peers


@pytest.fixture
def peers(tmp_path):
    opened = open_peers(tmp_path, 4)
    yield opened
    for peer in opened:
        peer.close()


def lost(peer):
    return [text for (text,) in peer.sql("SELECT lost FROM mycomesh_conflicts ORDER BY lost")]


def a_withheld_write(peers, *, between="", whole="DELETE FROM t"):
    """One writes x and then y; two gets y, covers both by a liar's word, and writes the whole row. Returns two's batches."""
    one, two, *_ = peers
    one.sql("INSERT INTO t VALUES(1, 'a', 'b', 'c')")
    converge(peers)
    one.wall_ms += 5
    one.sql("UPDATE t SET x = 'withheld'")
    one.drain()
    one.wall_ms += 5
    one.sql("UPDATE t SET y = 'seen'")
    seen = one.drain()
    two.replica.inbox.begin_round("t")
    two.replica.inbox.take_vectors({"t": one.replica.vector("t")}, {}, one.wall_ms)
    two.replica.apply(seen[0], one.wall_ms, repair=True)
    two.wall_ms = one.wall_ms + 5
    if between:
        two.sql(between)
        two.drain()
    assert two.sql("SELECT x, y FROM t") == [("a", "seen")]
    two.sql(whole)
    return two.drain()


@pytest.mark.parametrize("between", ["", "UPDATE t SET z = 'mine'"])
def test_withheld_write_that_a_delete_removes_is_recorded(peers, between):
    one, two, *_ = peers
    deletes = a_withheld_write(peers, between=between)
    one.wall_ms = two.wall_ms
    one.take(deletes, two.node_id)
    assert one.sql("SELECT * FROM t") == []
    assert lost(one) == ['{"x": "withheld"}']


def test_a_replace_removes_no_withheld_write_in_silence(peers):
    one, two, *_ = peers
    one.take(a_withheld_write(peers, whole="REPLACE INTO t VALUES(1, 'd', 'e', 'f')"), two.node_id)
    assert one.sql("SELECT x FROM t") == [("d",)]
    assert lost(one) == ['{"x": "withheld"}']


def test_an_insert_after_the_delete_knows_no_more(peers):
    one, two, *_ = peers
    a_withheld_write(peers)
    two.sql("INSERT INTO t VALUES(1, 'd', 'e', 'f')")
    one.take(two.drain(), two.node_id)
    assert one.sql("SELECT x FROM t") == [("d",)]
    assert lost(one) == ['{"x": "withheld"}']


@pytest.mark.parametrize(
    "again", ["INSERT INTO t VALUES(1, 'd', 'e', 'f')", "INSERT INTO t(id) VALUES(1); DELETE FROM t"]
)
def test_writes_of_others_after_it_know_no_more(peers, again):
    one, two, three, _ = peers
    two.sql("INSERT INTO t VALUES(1, 'a', 'b', 'c')")
    two.drain()
    one.wall_ms = two.wall_ms + 5
    one.sql("INSERT INTO t VALUES(1, 'withheld', 'p', 'withheld')")
    one.drain()
    one.wall_ms += 5
    one.sql("UPDATE t SET y = 'seen'")
    (seen,) = one.drain()
    for peer in (two, three):  # which cover all that one has written, by a liar's word
        peer.replica.inbox.begin_round("t")
        peer.replica.inbox.take_vectors({"t": one.replica.vector("t")}, {}, one.wall_ms)
    two.replica.apply(seen, one.wall_ms, repair=True)
    two.wall_ms = one.wall_ms + 5
    assert two.sql("SELECT x, y FROM t") == [("a", "seen")]
    two.sql("DELETE FROM t")
    three.wall_ms = two.wall_ms
    three.take(two.drain(), two.node_id)
    three.wall_ms = one.wall_ms = two.wall_ms + 5
    for write in again.split(";"):
        three.sql(write)
        batches = three.drain()
    one.take(batches, three.node_id)
    assert one.sql("SELECT x FROM t") == three.sql("SELECT x FROM t")
    (record,) = map(json.loads, lost(one))
    assert {name: value for name, value in record.items() if name != "id"} == {"x": "withheld", "z": "withheld"}


def test_third_node_passes_on_what_a_delete_saw(peers):
    one, two, three, _ = peers
    deletes = a_withheld_write(peers)
    three.wall_ms = one.wall_ms = two.wall_ms
    three.take(deletes, two.node_id)
    catch_up(one, three)
    assert one.sql("SELECT * FROM t") == []
    assert lost(one) == ['{"x": "withheld"}']


def test_write_that_meets_its_delete_later_is_recorded(peers):
    one, two, three, _ = peers
    deletes = a_withheld_write(peers)
    three.wall_ms = two.wall_ms
    three.take(deletes, two.node_id)
    catch_up(three, one)
    assert three.sql("SELECT * FROM t") == []
    assert lost(three) == ['{"x": "withheld"}']


def test_delete_knows_the_cells_that_an_insert_has(peers):
    """An insert comes without the cell that a write of the reader's own had taken from it, where neither had seen the other."""
    one, two, three, _ = peers
    three.wall_ms = one.wall_ms + 10
    one.sql("INSERT INTO t VALUES(1, 'hidden', 'b', 'c')")
    inserts = one.drain()
    two.wall_ms = one.wall_ms + 20
    two.sql("INSERT INTO t VALUES(1, 'x of two', 'y', 'z')")
    (batch,) = two.drain()
    # Two has written x alone, into a row that it knew and one has inserted again meanwhile.
    found = Bundle.decode(batch)
    (group,) = found.sections[0].groups
    group.kind, group.columns, group.keys, group.rows = Kind.UPDATE, ("x",), [1], [["x of two"]]
    three.take(inserts, one.node_id)
    three.take([found.encode()], two.node_id)
    assert three.sql("SELECT x, y FROM t") == [("x of two", "b")]
    three.sql("DELETE FROM mycomesh_conflicts")  # the record was a liar's
    with two.replica.store.transaction():
        table = two.replica.tables["t"]
        (stored,) = table.log.entries_of_row(1)
        table.log.remove(stored)
        table.log.flush()
        table.rows.delete(1)
    two.replica.apply(found.encode(), two.wall_ms, repair=True)
    catch_up(two, three)
    assert two.sql("SELECT x, y FROM t") == [("x of two", "b")]
    two.wall_ms += 5
    two.sql("DELETE FROM t")
    deletes = two.drain()
    one.wall_ms = two.wall_ms
    one.take(deletes, two.node_id)
    assert one.sql("SELECT * FROM t") == []
    assert lost(one) == ['{"x": "hidden"}']


def test_older_versions_see_priors_of_the_row_alone(peers):
    (delete,) = a_withheld_write(peers)
    found = Bundle.decode(delete)
    assert any(names == ("y",) for names, _, _ in found.sections[0].groups[0].priors[0])
    plain = without_columns(delete)
    assert SEEN_PREFIX.encode() in delete
    assert SEEN_PREFIX.encode() not in plain
    one, two, *_ = peers
    one.wall_ms = two.wall_ms
    one.take([plain], two.node_id)
    assert one.sql("SELECT * FROM t") == []


def test_a_row_of_one_writer_needs_no_columns(peers):
    one, two, *_ = peers
    one.sql("INSERT INTO t VALUES(1, 'a', 'b', 'c')")
    converge(peers)
    two.sql("DELETE FROM t")
    (delete,) = two.drain()
    assert SEEN_PREFIX.encode() not in delete


STATEMENTS = st.sampled_from(
    (
        "INSERT OR IGNORE INTO t VALUES({row}, {n}, {n}, {n})",
        "UPDATE t SET x = {n} WHERE id = {row}",
        "UPDATE t SET y = {n} WHERE id = {row}",
        "UPDATE t SET x = {n}, z = {n} WHERE id = {row}",
        "DELETE FROM t WHERE id = {row}",
        "REPLACE INTO t(id, x) VALUES({row}, {n})",
    )
)


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.DELETE])
def test_names_beyond_the_limit_count_as_unseen(peers, monkeypatch, over, kind):
    """Names are counted over all parts of a prior, of which a hostile one has thousands."""
    monkeypatch.setattr(row_view, "PRIOR_NAMES_MAX", 10 - over)
    monkeypatch.setattr(bulk_edit, "_PRIORS_A_CHANGE", 0)  # so many names are not for the fast path
    one, two, *_ = peers
    one.sql("INSERT INTO t VALUES(1, 'a', 'b', 'c')")
    converge(peers)
    one.sql("UPDATE t SET x = 'seen'")
    converge(peers)
    two.wall_ms = one.wall_ms = one.wall_ms + 5
    two.sql("DELETE FROM t" if kind is Kind.DELETE else "UPDATE t SET x = 1, y = 2")
    found = Bundle.decode(two.drain()[0])
    (group,) = found.sections[0].groups
    site, hlc = one.replica.site, one.replica.vector("t").top(one.replica.site)
    names = ("x", "y") if kind is Kind.UPDATE else ("x", "z")
    group.priors = [[(None, site, 1), *[(names, bytes([number]) * 16, hlc) for number in range(4)], (names, site, hlc)]]
    one.take([found.encode()], two.node_id)
    assert ('{"x": "seen"' in " ".join(lost(one))) is (over > 0)


def without_columns(batch):
    """A batch as an older version makes it."""
    found = Bundle.decode(batch)
    for group in (group for section in found.sections for group in section.groups if group.kind is not Kind.UPDATE):
        if group.priors is not None:
            group.priors = [[part for part in parts if part[0] is None] for parts in group.priors]
    return found.encode()


@pytest.mark.slow  # each example opens five replicas
@examples(20)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2), STATEMENTS), min_size=4, max_size=14), st.randoms())
def test_columns_of_honest_deletes_make_no_conflict(tmp_path_factory, writes, order):
    """Each write is made where all earlier ones are, and two nodes get the batches in one order, of which one without columns."""
    peers = open_peers(tmp_path_factory.mktemp("serial"), 5)
    *writers, late, plain = peers
    batches = []
    try:
        for number, (at, row, statement) in enumerate(writes):
            writer = writers[at]
            for peer in peers:
                peer.wall_ms += 5
            writer.sql(statement.format(row=row, n=number))
            made = writer.drain()
            batches += [(batch, writer.node_id) for batch in made]
            for peer in writers:
                if peer is not writer:
                    peer.take(made, writer.node_id)
        order.shuffle(batches)
        for batch, origin in batches:
            late.take([batch], origin)
            plain.take([without_columns(batch)], origin)
        assert_equal(late, writers[0])
        assert [lost(peer) for peer in writers] == [[], [], []]
        assert lost(late) == lost(plain)  # an update that comes before the insert of its row is recorded by both
    finally:
        for peer in peers:
            peer.close()
