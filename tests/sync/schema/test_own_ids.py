"""Own ids: nodes number the rows of AUTOINCREMENT tables from blocks of their own, whatever happens to the file."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.sync.crdt import id_blocks
from mycomesh.sync.crdt.id_blocks import BLOCK_IDS, IDS_MAX, SLOTS, is_own
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.schema import own_ids
from mycomesh.sync.schema.policy import own_ids_fact, slot_fact
from tests.sync.peers import Peer, assert_equal, converge
from tests.sync.scale import examples

CREW = "CREATE TABLE crew(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT)"


def owning(peers, fill="", policies=("own-ids",)):
    peers[0].sql(f"{CREW};{fill}")
    peers[0].drain()
    for policy in policies:
        peers[0].replica.decisions.decide_policy("crew", policy)
    for _ in range(2):
        converge(peers)
    assert {peer.replica.decisions.ids("crew") for peer in peers} == {"own-ids"}
    return peers


def insert(peer, *names, drain=True):
    peer.wall_ms += 10
    for name in names:
        peer.sql("INSERT INTO crew(name) VALUES(?)", name)
    return peer.drain() if drain else []


def slot_of(peer):
    return peer.replica.catalog.own_ids._state.slot


def names(peer):
    return [name for (name,) in peer.sql("SELECT name FROM crew ORDER BY name")]


def conflicts(peers):
    return [peer.sql("SELECT count(*) FROM mycomesh_conflicts")[0][0] for peer in peers]


def note(peer):
    return next(table.note for table in peer.replica.status().tables if table.name == "crew")


@pytest.mark.parametrize("policies", [("own-ids",), ("keep-both", "own-ids"), ("own-ids", "keep-both")], ids="+".join)
def test_rows_of_a_split_keep_their_ids(trio, policies):
    owning(trio, "INSERT INTO crew(name) VALUES('early')", policies)
    for peer in trio:
        insert(peer, f"{peer.number} a", f"{peer.number} b")
    ids = {peer.number: set(peer.sql("SELECT id FROM crew WHERE id > 1")) for peer in trio}
    converge(trio)
    assert len(names(trio[0])) == 7
    assert set.union(*ids.values()) == set(trio[0].sql("SELECT id FROM crew WHERE id > 1"))
    assert conflicts(trio) == [0, 0, 0]


def test_a_linked_node_numbers_above_what_arrives(pair):
    owning(pair)
    for number in range(20):
        one, other = pair if number % 2 else pair[::-1]
        other.take(insert(one, str(number)), one.node_id)
        last = one.sql("SELECT max(id) FROM crew")[0][0]
        assert is_own(slot_of(one), last - 1)
        assert other.replica.decisions.room("crew").next_id > last
    converge(pair)
    assert len(names(pair[0])) == 20


def test_the_sequence_moves_before_the_commit(pair, monkeypatch):
    one, two = owning(pair)
    store, seen = two.replica.store, []
    commit = store._commit

    def watched():
        seen.append(store.db.execute("SELECT (SELECT max(id) FROM crew), seq FROM sqlite_sequence").fetchone())
        commit()

    monkeypatch.setattr(store, "_commit", watched)
    for number in range(6):
        two.take(insert(one, f"one {number}"), one.node_id)
        one.take(insert(two, f"two {number}"), two.node_id)
    assert len(seen) >= 12
    assert all(is_own(slot_of(two), sequence) and sequence >= (greatest or 0) for greatest, sequence in seen)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["insert", "insert", "many", "delete", "meet", "reopen"]), st.integers(0, 1)
    ),
    max_size=14,
)


@examples(40, sample=20)
@given(STEPS)
def test_no_history_of_replicas_loses_a_row(steps):
    with tempfile.TemporaryDirectory() as folder:
        peers = [Peer(Path(folder) / f"{number}.db", number, wall_ms=1_000) for number in range(3)]
        owning(peers)
        there = set()
        for number, (who, what, pick) in enumerate(steps):
            peer = peers[who]
            match what:
                case "insert":
                    insert(peer, str(number), drain=pick)
                    there.add(str(number))
                case "many":
                    insert(peer, *(f"{number} {each}" for each in range(300)))
                    there |= {f"{number} {each}" for each in range(300)}
                case "delete":
                    there -= {
                        name
                        for (name,) in peer.sql("DELETE FROM crew WHERE id = (SELECT max(id) FROM crew) RETURNING name")
                    }
                case "meet":
                    converge([peer, peers[(who + 1 + pick) % 3]])
                case _:
                    peer.close()
                    peer.open()
        try:
            converge(peers)
            assert set(names(peers[0])) == there
            assert conflicts(peers) == [0, 0, 0]
            assert_equal(peers[0], peers[1])
        finally:
            for peer in peers:
                peer.close()


def test_two_claims_of_one_slot_end_with_two_slots(pair, monkeypatch):
    one, two = pair
    monkeypatch.setattr(own_ids, "choose_slot", lambda _site, taken: min(set(range(9)) - set(taken)))
    one.sql(CREW)
    one.drain()
    converge(pair)
    for peer in pair:  # each decides while the other is away
        peer.wall_ms += 10 * peer.number
        peer.replica.decisions.decide_policy("crew", "own-ids")
        peer.drain()
    assert [slot_of(peer) for peer in pair] == [0, 0]
    for _ in range(2):
        converge(pair)
    assert [slot_of(peer) for peer in pair] == [0, 1]
    insert(one, "one")
    insert(two, "two")
    converge(pair)
    assert names(one) == ["one", "two"]


def test_sites_without_a_claim_keep_their_preferred_slot(pair, monkeypatch):
    one, two = pair
    monkeypatch.setattr(own_ids, "preferred_slots", lambda site: iter([5]))
    monkeypatch.setattr(id_blocks, "preferred_slots", lambda site: [5, 6 + (site == two.replica.site)])
    one.sql(CREW)
    two.sql("CREATE TABLE other(v); INSERT INTO other VALUES(1)")
    for peer in pair:
        peer.drain()
    converge(pair)
    for peer in pair:
        peer.replica.decisions.decide_policy("crew", "own-ids")
        peer.drain()
    assert [slot_of(peer) for peer in pair] == [6, 7]


def test_a_forged_claim_counts_for_nothing(pair):
    one, two = owning(pair)
    slot = slot_of(one)
    stranger = b"\x01" * 8 + b"x" * 8  # a site of the first node, stated by the second
    with two.replica.store.transaction():
        two.replica.catalog.decide(slot_fact(stranger, slot))
        two.replica.catalog.decide(('slot:["zz"]', "slot", "1"))
        two.replica.catalog.decide(('slot:["' + "09" * 16 + '"]', "slot", str(SLOTS)))
    converge(pair)
    insert(one, "one")
    assert slot_of(one) == slot
    assert slot not in one.replica.catalog.own_ids._state.taken


def test_claims_of_one_member_are_limited(pair):
    one, two = owning(pair)
    with two.replica.store.transaction():
        for number in range(own_ids.SITE_CLAIMS_MAX + 40):
            site = two.node_id[:8] + number.to_bytes(8, "big")
            two.replica.catalog.decide(slot_fact(site, number))
    converge(pair)
    assert len(one.replica.catalog.own_ids._state.taken) == own_ids.SITE_CLAIMS_MAX


def test_more_nodes_than_slots_are_told(pair, monkeypatch):
    monkeypatch.setattr(own_ids, "choose_slot", lambda *_: None)
    one, _ = owning(pair)
    insert(one, "a")
    assert one.sql("SELECT id FROM crew") == [(1,)]
    assert one.replica.decisions.room("crew") is None
    assert "all 4,096" in note(one)


def test_a_restored_backup_takes_other_blocks(pair, tmp_path):
    one, two = owning(pair)
    insert(one, "a")
    converge(pair)
    one.close()
    shutil.copy(one.path, tmp_path / "backup.db")
    one.open()
    insert(one, "lost one", "lost two")
    converge(pair)
    one.recalled = dict([one.replica.noted])
    one.close()
    shutil.copy(tmp_path / "backup.db", one.path)
    one.open()
    insert(one, "new one", "new two")
    converge(pair)
    assert names(two) == ["a", "lost one", "lost two", "new one", "new two"]
    assert conflicts(pair) == [0, 0]


def test_a_site_renewed_by_a_peer_takes_another_slot(pair, tmp_path):
    one, two = owning(pair)
    one.close()
    shutil.copy(one.path, tmp_path / "backup.db")
    one.open()
    insert(one, "lost")
    converge(pair)
    one.close()
    shutil.copy(tmp_path / "backup.db", one.path)
    one.open()
    before = slot_of(one)
    two.replica.inbox.renew_site_if_behind({})
    one.replica.inbox.renew_site_if_behind({name: two.replica.vector(name) for name in two.replica.tables})
    assert one.replica.catalog.changed()
    converge(pair)
    assert slot_of(one) != before
    insert(one, "new")
    converge(pair)
    assert names(two) == ["lost", "new"]


def test_a_dump_that_is_read_elsewhere_takes_other_blocks(pair, tmp_path):
    one, two = owning(pair)
    insert(one, "a")
    script = [line for line in one.shell(".dump crew sqlite_sequence").decode().splitlines() if "mycomesh" not in line]
    two.close()
    two.path.unlink()
    plain = sqlite3.connect(two.path)
    plain.executescript("\n".join(script).replace("CREATE TABLE sqlite_sequence", "-- "))
    plain.close()
    two.open()
    for _ in range(2):
        converge(pair)
    insert(two, "b")
    insert(one, "c")
    converge(pair)
    assert {"a", "b", "c"} == set(names(one))


REBUILD = (
    "CREATE TABLE new__crew(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, age INTEGER);"
    " INSERT INTO new__crew(id, name) SELECT id, name FROM crew; DROP TABLE crew; ALTER TABLE new__crew RENAME TO crew"
)


@pytest.mark.parametrize(
    "script",
    [REBUILD, "DELETE FROM sqlite_sequence", "UPDATE sqlite_sequence SET seq = 0",
     "DELETE FROM crew; DELETE FROM sqlite_sequence", "UPDATE sqlite_sequence SET seq = 'x'"],
    ids=["rebuilt", "row lost", "set back", "flushed", "text"],
)  # fmt: skip
def test_a_lost_sequence_is_set_again(pair, script):
    one, two = owning(pair)
    insert(one, "a")
    converge(pair)
    insert(two, "b")
    converge(pair)
    one.sql(script)
    one.sql("CREATE TABLE IF NOT EXISTS other(v); INSERT INTO other VALUES(1)")  # any write that the node sees
    one.drain()
    (sequence,) = one.sql("SELECT seq FROM sqlite_sequence WHERE name = 'crew'")[0]
    assert is_own(slot_of(one), sequence)
    assert sequence >= (one.sql("SELECT max(id) FROM crew")[0][0] or 0)


def test_a_renamed_table_keeps_its_own_ids(pair):
    one, _ = owning(pair)
    insert(one, "a")
    one.replica.migrate("ALTER TABLE crew RENAME TO staff", one.wall_ms)
    converge(pair)
    for peer in pair:
        peer.sql("INSERT INTO staff(name) VALUES(?)", str(peer.number))
    converge(pair)
    assert one.sql("SELECT name FROM staff ORDER BY name") == [("0",), ("1",), ("a",)]


def test_a_long_transaction_runs_on_to_others(pair, monkeypatch):
    monkeypatch.setattr(own_ids, "choose_slot", lambda site, taken: 0 if site[:1] == b"\x01" else 8)
    one, two = owning(pair)
    room = one.replica.decisions.room("crew")
    assert (room.next_id, room.left) == (1, 8 * BLOCK_IDS)
    count = "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT {})"
    one.sql(f"{count.format(8 * BLOCK_IDS)} INSERT INTO crew(name) SELECT 'one' FROM i")
    two.sql(f"{count.format(2 * BLOCK_IDS)} INSERT INTO crew(name) SELECT 'two' FROM i")
    converge(pair)
    assert one.sql("SELECT name, count(*) FROM crew GROUP BY name") == [("one", 8 * BLOCK_IDS), ("two", 2 * BLOCK_IDS)]
    assert one.replica.decisions.room("crew").next_id == SLOTS * BLOCK_IDS + 1


def test_ids_that_a_program_chose_are_passed(pair):
    one, two = owning(pair)
    one.sql("INSERT INTO crew VALUES(70000000, 'chosen'), (-3, 'below')")
    converge(pair)
    for peer in pair:
        insert(peer, str(peer.number))
        assert peer.sql("SELECT max(id) FROM crew")[0][0] > 70_000_000
    converge(pair)
    assert len(names(two)) == 4


@pytest.mark.parametrize("greatest", [IDS_MAX - 5, 1 << 53, (1 << 63) - 2])
def test_an_id_above_all_blocks_is_told(pair, greatest):
    one, two = owning(pair)
    one.sql("INSERT INTO crew VALUES(?, 'high')", greatest)
    converge(pair)
    assert f"after id {greatest:,} no id of this node is left" in note(two)
    insert(two, "goes on")
    assert two.sql("SELECT id FROM crew WHERE name = 'goes on'") == [(greatest + 1,)]
    two.sql("DELETE FROM crew; DELETE FROM sqlite_sequence")
    insert(two, "again")
    insert(two, "own")
    assert note(two) == ""
    assert is_own(slot_of(two), two.sql("SELECT max(id) FROM crew")[0][0] - 1)


def test_a_stopped_node_goes_on_in_its_block(pair):
    one, two = owning(pair)
    insert(one, "a")
    converge(pair)
    room = two.replica.decisions.room("crew")
    two.close()
    plain = sqlite3.connect(two.path)
    plain.executemany(
        "INSERT INTO crew(name) VALUES(?)", [(f"while stopped {number:04}",) for number in range(BLOCK_IDS // 2)]
    )
    plain.commit()
    assert plain.execute("SELECT min(id), max(id) FROM crew WHERE name LIKE 'while%'").fetchone() == (
        room.next_id,
        room.next_id + BLOCK_IDS // 2 - 1,
    )
    plain.close()
    insert(one, "b")
    two.open()
    converge(pair)
    assert len(names(one)) == 2 + BLOCK_IDS // 2
    assert conflicts(pair) == [0, 0]


def test_shared_ids_end_it_and_nothing_goes_back(pair):
    one, two = owning(pair)
    insert(one, "a")
    converge(pair)
    two.replica.decisions.decide_policy("crew", "shared-ids")
    converge(pair)
    assert [peer.replica.decisions.ids("crew") for peer in pair] == ["shared-ids"] * 2
    assert one.replica.decisions.room("crew") is None
    last = two.sql("SELECT seq FROM sqlite_sequence")[0][0]
    insert(two, "b")
    assert two.sql("SELECT id FROM crew WHERE name = 'b'") == [(last + 1,)]
    one.take(two.drain() or [], two.node_id)
    two.replica.decisions.decide_policy("crew", "own-ids")
    for _ in range(2):
        converge(pair)
    insert(one, "c")
    insert(two, "d")
    converge(pair)
    assert names(one) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("ddl", "why"),
    [
        ("CREATE TABLE crew(id INTEGER PRIMARY KEY, name)", "not AUTOINCREMENT.*keep-both.*UUIDs"),
        (
            "CREATE TABLE crew(id INTEGER PRIMARY KEY /* AUTOINCREMENT */, name DEFAULT 'AUTOINCREMENT')",
            "not AUTOINCREMENT",
        ),
        ("CREATE TABLE crew(id TEXT PRIMARY KEY, name)", "no INTEGER PRIMARY KEY"),
        ("CREATE TABLE crew(id, name)", "no INTEGER PRIMARY KEY"),
    ],
)
def test_other_tables_are_refused_with_the_choices(pair, ddl, why):
    one, _ = pair
    one.sql(ddl)
    one.drain()
    with pytest.raises(PolicyError, match=why):
        one.replica.decisions.decide_policy("crew", "own-ids")
    assert one.replica.decisions.ids("crew") == "shared-ids"
    assert one.sql("SELECT count(*) FROM mycomesh_schema WHERE kind IN ('own-ids', 'slot')") == [(0,)]


def test_a_table_that_is_not_automatic_here_says_so(pair):
    one, two = owning(pair)
    two.sql("PRAGMA foreign_keys = 0; CREATE TABLE x(id INTEGER PRIMARY KEY, name TEXT); INSERT INTO x SELECT * FROM crew;"
            " DROP TABLE crew; ALTER TABLE x RENAME TO crew")  # fmt: skip
    two.drain()
    assert "not AUTOINCREMENT in this file" in note(two)
    assert "AUTOINCREMENT" not in note(one)


def test_a_fact_of_another_form_is_ignored(pair):
    one, two = owning(pair)
    with two.replica.store.transaction():
        name, kind, _ = own_ids_fact("crew", own=True)
        two.replica.catalog.decide((name, kind, "whatever"))
    converge(pair)
    assert one.replica.decisions.ids("crew") == "shared-ids"


def test_a_rolled_back_transaction_moves_no_sequence(pair):
    one, _ = owning(pair)
    before = one.sql("SELECT seq FROM sqlite_sequence")
    state = one.replica.catalog.own_ids._state

    def fail():
        with one.replica.store.transaction() as db:
            db.execute("INSERT INTO crew VALUES(99000000, 'x')")
            one.replica.catalog.own_ids._keep_ahead()
            assert one.replica.catalog.own_ids._state != state
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert one.replica.catalog.own_ids._state == state
    assert one.sql("SELECT seq FROM sqlite_sequence") == before


@examples(300, sample=100)
@given(st.text(), st.text() | st.integers(-5, 9_999).map(str))
def test_a_claim_of_any_other_form_is_no_claim(name, sql):
    for text in (name, f"slot:{name}", f'slot:["{name}"]', f'slot:["{b"s" * 16!r}"]'):
        assert own_ids._parsed(text, sql)[0] == b""
    site = b"s" * 16
    found = own_ids._parsed(slot_fact(site, 0)[0], sql)
    assert found == (site, int(sql)) if sql in set(map(str, range(SLOTS))) else found[0] == b""
