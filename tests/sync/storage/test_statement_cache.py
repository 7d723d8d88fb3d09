"""A large value leaves the memory with the statement that wrote it."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.storage.statement_cache import VALUE_KEPT_MAX, Large, may_stay
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.peers import WALL_MS, Peer

SITE = b"B" * 8 + bytes(8)
HLC = (WALL_MS + 5) << 16


@pytest.mark.parametrize(("over", "stays"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("value", ["x", b"x"])
def test_statements_with_small_values_stay_prepared(value, over, stays):
    assert may_stay([1, value * (VALUE_KEPT_MAX + over), None]) is stays


def test_values_handed_over_are_forgotten():
    values = Large({"a": 1, "b": "x" * 100_000})
    db = apsw.Connection(":memory:")
    assert db.execute("SELECT :a, length(:b)", values).fetchone() == (1, 100_000)
    assert dict(values) == {}


def in_statements(peer):
    """Bytes that the prepared statements of the node's connection have."""
    return peer.replica.store.db.status(apsw.SQLITE_DBSTATUS_STMT_USED)[0]


@pytest.mark.parametrize("kind", [Kind.INSERT, Kind.UPDATE])
@pytest.mark.parametrize("before", [None, 1, b"m" * (1 << 20)])
def test_large_values_of_a_member_leave_the_memory(tmp_path, kind, before):
    names = [f"c{number}" for number in range(8)]
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql(f"CREATE TABLE d(id INTEGER PRIMARY KEY, {', '.join(names)})")
    for row in range(len(names)) if before is not None else ():
        peer.sql(f"INSERT INTO d(id, {names[row]}) VALUES(?, ?)", row, before)
    peer.drain()
    small = in_statements(peer)
    groups = []
    for number, name in enumerate(names):
        columns = (name, "id") if kind is Kind.INSERT else (name,)
        cells = [b"w" * (1 << 20), number][: len(columns)]
        keys = None if kind is Kind.INSERT else [number]
        groups.append(Group(SITE, kind, columns, [HLC + number], keys, [cells], None))
    data = Bundle([Section("d", [(SITE, 0, HLC + 100)], groups)]).encode()
    merged = peer.replica.apply(data, peer.wall_ms + 10, origin=b"B" * 16).merged
    rows = len(names)
    assert (merged.changes, merged.conflicts) == (
        rows,
        0 if before is None and kind is Kind.UPDATE else rows if before else 0,
    )
    assert in_statements(peer) - small < 1 << 20
    peer.close()
