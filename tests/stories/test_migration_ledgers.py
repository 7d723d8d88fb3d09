"""Ledgers of migration tools and the schema that they speak of: another node has both or neither."""

from __future__ import annotations

import pytest

from mycomesh.sync.schema import rebuild_table
from tests.sync.peers import Peer, assert_equal, catch_up, converge

SEED = (
    "CREATE TABLE django_migrations(id INTEGER PRIMARY KEY AUTOINCREMENT, app TEXT, name TEXT);"
    " INSERT INTO django_migrations VALUES(1, 'shop', '0001');"
    " CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT NOT NULL); INSERT INTO item VALUES(1, 'rope'), (2, 'tent')"
)
MIGRATION = (
    "BEGIN; CREATE TABLE new__item(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);"
    " INSERT INTO new__item SELECT * FROM item; DROP TABLE item; ALTER TABLE new__item RENAME TO item;"
    " INSERT INTO django_migrations VALUES(2, 'shop', '0002'); PRAGMA user_version = 2; COMMIT;"
)


def done(peer):
    """Whether the ledger, the definition and the header say that the migration is done."""
    (sql,) = peer.sql("SELECT sql FROM sqlite_schema WHERE name = 'item'")[0]
    says = bool(peer.sql("SELECT 1 FROM django_migrations WHERE name = '0002'"))
    return {says, "UNIQUE" in sql, peer.sql("PRAGMA user_version")[0][0] == 2}


def note(peer, table):
    return next(status.note for status in peer.replica.status().tables if status.name == table)


@pytest.mark.parametrize("live", [True, False])
def test_a_ledger_arrives_with_the_rebuilt_table(equals, live):
    one, two = equals(2, SEED)
    one.shell(MIGRATION)
    for bundle in one.drain() if live else ():
        two.take([bundle], one.node_id)
        assert len(done(two)) == 1
    if not live:
        catch_up(two, one)
    assert done(two) == {True}
    converge([one, two])
    assert_equal(one, two)


@pytest.mark.parametrize("live", [True, False])
def test_a_ledger_waits_for_a_definition_not_followed(equals, monkeypatch, live):
    one, two, three = made = equals(3, SEED)
    monkeypatch.setattr(rebuild_table, "REBUILT_ROWS_MAX", 1)
    one.shell(MIGRATION)
    if live:
        two.take(one.drain(), one.node_id)
    else:
        catch_up(two, one)
    assert done(two) == {False}
    assert note(two, "django_migrations").startswith("its rows of other nodes wait: item is not as on the mesh")
    two.close()
    two.open()
    catch_up(two, one)
    assert done(two) == {False}
    two.shell("INSERT INTO item VALUES(3, 'stove');")  # other tables do not wait
    catch_up(one, two)
    assert one.sql("SELECT name FROM item WHERE id = 3") == [("stove",)]
    two.shell(MIGRATION)  # as the tool of that node would
    converge(made)
    assert done(two) == {True}
    assert_equal(one, two)
    assert not note(two, "django_migrations")
    assert done(three) == {False}


def test_a_ledger_is_sent_after_its_tables(tmp_path):
    """A first migration creates more tables than one pass takes in."""
    one, two = Peer(tmp_path / "0.db", 0), Peer(tmp_path / "1.db", 1)
    tables = "; ".join(f"CREATE TABLE t{number}(id INTEGER PRIMARY KEY, x)" for number in range(30))
    one.shell(f"{SEED}; {tables}; INSERT INTO django_migrations VALUES(2, 'shop', '0002');")
    more = True
    while more:
        bundles, more = one.replica.drain(one.wall_ms)
        for bundle in bundles:
            two.take([bundle], one.node_id)
            found = two.tables()
            assert not found.get("django_migrations") or f"t{29}" in found
    assert len(two.sql("SELECT * FROM django_migrations")) == 2
    for peer in (one, two):
        peer.close()
