"""When a write was made, as its stamp tells: noted by a trigger, by the drain, or by who opens a file that nobody served."""

from __future__ import annotations

import sqlite3

import pytest

from mycomesh.sync.admin.provenance import read_provenance
from mycomesh.sync.crdt.hlc import ms_from_hlc
from tests.sync.peers import WALL_MS, Peer

DOWN_MS = WALL_MS - 3_600_000  # the node went down
LAST_MS = WALL_MS - 1_200_000  # the last write before it came up again
_UNIX_EPOCH_JULIAN, _DAY_MS = 2_440_587.5, 86_400_000


@pytest.fixture
def peer(tmp_path):
    peer = Peer(tmp_path / "here.db", 1, wall_ms=DOWN_MS)
    peer.sql(
        "CREATE TABLE track(x, y); CREATE TABLE orders(id INTEGER PRIMARY KEY, state); INSERT INTO orders VALUES(1, 'new')"
    )
    peer.drain()
    peer.close()
    yield peer
    peer.close()


def written_by_app(peer, *statements):
    with sqlite3.connect(peer.path) as app:
        for statement in statements:
            app.execute(statement)
    app.close()


def noted(peer, table, at_ms):
    """Sets the times that triggers have noted for a table's writes."""
    with sqlite3.connect(peer.path) as app:
        (number,) = app.execute("SELECT id FROM mycomesh_replicated WHERE name = ?", (table,)).fetchone()
        at = _UNIX_EPOCH_JULIAN + at_ms / _DAY_MS
        app.execute(f"UPDATE mycomesh_pending_{number} SET at = ? WHERE at IS NOT NULL", (at,))
    app.close()


def born_ms(peer, row):
    return ms_from_hlc(read_provenance(peer.path, "track", str(row)).existence.hlc)


@pytest.mark.parametrize(("table", "called"), [("track(x, y)", False), ("orders(id, state)", True)])
def test_an_insert_of_a_keyless_row_calls_no_function(peer, table, called):
    with sqlite3.connect(peer.path) as app:
        steps = app.execute(f"EXPLAIN INSERT INTO {table} VALUES(?, ?)", (2, 3)).fetchall()
    app.close()
    assert any(step[1] == "Program" for step in steps), "the trigger is part of it"
    assert any(step[1] in ("Function", "PureFunc") for step in steps) is called


def test_waiting_keyless_rows_have_the_last_writes_time(peer):
    written_by_app(peer, "INSERT INTO track VALUES(1, 1)", "INSERT INTO track VALUES(2, 2)")
    peer.open()
    peer.replica.outbox.record_last_write(LAST_MS)
    peer.wall_ms = WALL_MS
    peer.drain()
    assert (born_ms(peer, 1), born_ms(peer, 2)) == (LAST_MS, LAST_MS)
    peer.sql("INSERT INTO track VALUES(3, 3)")
    peer.drain()
    assert born_ms(peer, 3) == WALL_MS, "it was written while somebody looked"


def test_nothing_is_put_off_where_nothing_waited(peer):
    peer.open()
    peer.replica.outbox.record_last_write(LAST_MS)
    peer.wall_ms = WALL_MS
    peer.sql("INSERT INTO track VALUES(1, 1)")
    peer.drain()
    assert born_ms(peer, 1) == WALL_MS


def test_waiting_keyless_rows_do_not_postpone_timed_writes(peer):
    kept_ms = DOWN_MS + 60_000
    written_by_app(
        peer,
        "UPDATE orders SET state = 'sent'",
        *(f"INSERT INTO track VALUES({row}, 0)" for row in range(1, 4_000)),
        "UPDATE track SET y = 1 WHERE x = 1",
    )
    noted(peer, "orders", kept_ms)
    noted(peer, "track", LAST_MS - 500)
    peer.open()
    peer.replica.outbox.record_last_write(LAST_MS)
    peer.wall_ms = WALL_MS
    peer.drain()
    (state,) = [cell for cell in read_provenance(peer.path, "orders", "1").cells if cell.column == "state"]
    assert ms_from_hlc(state.hlc) == kept_ms
    assert {born_ms(peer, row) for row in (2, 3_999)} == {kept_ms}
    (y,) = [cell for cell in read_provenance(peer.path, "track", "1").cells if cell.column == "y"]
    assert ms_from_hlc(y.hlc) == LAST_MS - 500


def test_a_clock_set_back_makes_no_future_stamps(peer):
    written_by_app(peer, "INSERT INTO track VALUES(1, 1)")
    peer.open()
    peer.replica.outbox.record_last_write(WALL_MS + 3_600_000)
    peer.wall_ms = WALL_MS
    peer.drain()
    assert born_ms(peer, 1) == WALL_MS
