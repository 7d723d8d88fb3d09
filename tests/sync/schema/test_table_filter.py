"""Tables of other programs stay in their file unless the settings name them."""

from __future__ import annotations

import pytest

from mycomesh.sync.admin.verify import compare_files
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.schema import table_filter
from mycomesh.sync.schema.table_filter import TableFilter, owner_of
from tests.sync.peers import Peer, converge

SEQ = "_litestream_seq"
DDL = f"CREATE TABLE {SEQ}(id INTEGER PRIMARY KEY, seq INTEGER); INSERT INTO {SEQ} VALUES(1, {{}}); CREATE TABLE t(v)"


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("_litestream_lock", "Litestream"),
        ("_Litestream_SEQ", "Litestream"),
        ("_debezium_cdc_log", "Debezium"),
        ("turso_cdc", "Turso"),
        ("turso_sync_last_change_id", "Turso"),
        ("__turso_internal_mvcc_meta", "Turso"),
        ("crsql_site_id", "cr-sqlite"),
        ("__crsql_clock", "cr-sqlite"),
        ("todo__crsql_pks", "cr-sqlite"),
        ("cloudsync_site_id", "SQLite Sync"),
        ("todo_cloudsync", "SQLite Sync"),
        ("litestream_seq", ""),
        ("turso_cdc_of_mine", ""),
        ("todo", ""),
    ],
)
def test_state_of_other_programs_is_known_by_name(name, owner):
    assert owner_of(name) == owner
    assert TableFilter().admits(name) is (not owner)
    assert TableFilter(only=("*",)).admits(name) is (not owner)
    assert TableFilter(only=("*", name.upper())).admits(name)
    assert not TableFilter(only=(name,), exclude=(name,)).admits(name)


def test_tables_of_other_programs_stay_and_are_named(pair):
    for number, peer in enumerate(pair):
        peer.shell(DDL.format(number))
    converge(pair)
    for number, peer in enumerate(pair):
        assert set(peer.replica.tables) == {"mycomesh_schema", "t"}
        assert peer.sql(f"SELECT seq FROM {SEQ}") == [(number,)]
        (told,) = [table.note for table in peer.replica.status().tables if table.name == SEQ]
        assert told == (
            "not replicated: Litestream keeps its own state about this file in it; name it in 'only' to replicate it:"
            f' only = ["*", "{SEQ}"]'
        )
    assert [table.table for table in compare_files(*(peer.path for peer in pair), shown_max=0)] == ["t"]


def test_settings_that_name_the_table_replicate_it(tmp_path):
    config = ReplicaConfig(only=("*", SEQ))
    peers = [Peer(tmp_path / f"{number}.db", number, config=config) for number in range(2)]
    peers[0].shell(DDL.format(7))
    converge(peers)
    assert peers[1].sql(f"SELECT seq FROM {SEQ}") == [(7,)]
    for peer in peers:
        peer.close()


def test_a_table_that_earlier_versions_replicated_is_released(pair, monkeypatch):
    one, two = pair
    with monkeypatch.context() as earlier:
        earlier.setattr(table_filter, "owner_of", lambda _name: "")
        one.shell(DDL.format(7))
        converge(pair)
        assert two.sql(f"SELECT seq FROM {SEQ}") == [(7,)]
        two.close()
    two.open()
    two.drain()
    two.shell(f"UPDATE {SEQ} SET seq = 8")
    one.shell(f"UPDATE {SEQ} SET seq = 9")
    assert not two.drain()
    converge(pair)
    assert two.sql(f"SELECT seq FROM {SEQ}") == [(8,)]
    assert not two.sql("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?", SEQ)
