"""Counters: what several nodes did to one number at the same time is added up, whatever the order, on every replica."""

from __future__ import annotations

import itertools

import pytest

from mycomesh.sync.errors import PolicyError
from tests.sync.peers import Peer, assert_equal, catch_up, converge

STOCK = "CREATE TABLE stock(item TEXT PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0, note)"


def stocked(peers, ddl=STOCK, *, column="n", fill="INSERT INTO stock VALUES('bolt', 100, 'M6')"):
    """Peers that share a counter of 100."""
    peers[0].sql(ddl)
    peers[0].drain()
    peers[0].replica.decisions.declare_counter("stock", column)
    peers[0].drain()
    peers[0].sql(fill)
    converge(peers)
    return peers


def all_show(peers, value, table="stock", column="n"):
    for peer in peers:
        assert peer.sql(f"SELECT {column} FROM {table}") == [(value,)]
    for one, two in itertools.pairwise(peers):
        assert_equal(one, two)
    assert [peer.recorded("mycomesh_conflicts") for peer in peers] == [[]] * len(peers)


def test_concurrent_changes_add_up(trio):
    one, two, three = stocked(trio)
    one.sql("UPDATE stock SET n = n - 1")
    two.sql("UPDATE stock SET n = n - 2; UPDATE stock SET n = n - 3")
    three.sql("UPDATE stock SET n = n + 20, note = 'counted'")
    converge(trio)
    all_show(trio, 114)


def test_another_column_of_the_row_still_has_one_winner(trio):
    one, two, _ = stocked(trio)
    one.sql("UPDATE stock SET n = n - 1, note = 'one'")
    two.sql("UPDATE stock SET n = n - 1, note = 'two'")
    converge(trio)
    assert [peer.sql("SELECT n, note FROM stock") for peer in trio] == [[(98, "two")]] * 3


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_any_order_of_arrival(trio, order):
    one, two, three = stocked(trio)
    mail = []
    for peer, step in ((one, 1), (two, 10), (one, 100)):
        peer.sql(f"UPDATE stock SET n = n + {step}")
        mail.append((peer, peer.drain()))
    for number in (*order, *order):  # twice: a batch that comes again adds nothing
        sender, bundles = mail[number]
        three.take(bundles, sender.node_id)
    assert three.sql("SELECT n FROM stock") == [(211,)]
    converge(trio)
    all_show(trio, 211)


def test_a_node_that_is_down_while_programs_count(trio):
    one, two, _ = stocked(trio)
    one.replica.close()
    one.replica = None
    one.shell("UPDATE stock SET n = n - 1; UPDATE stock SET n = n - 1;")
    two.sql("UPDATE stock SET n = n - 5")
    one.close()
    one.open()
    converge(trio)
    all_show(trio, 93)


@pytest.mark.slow
def test_a_chunked_drain_counts_each_change_once(trio):
    """The rows are read as they are: a chunk takes in what later rows of the log tell again."""
    one, two, _ = stocked(trio)
    one.sql(
        "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i LIMIT 1500) INSERT INTO stock SELECT x, x, '' FROM i"
    )
    one.drain()
    one.sql("BEGIN; UPDATE stock SET n = n + 1; UPDATE stock SET n = n + 1; INSERT INTO stock VALUES('late', 5, '')")
    one.sql("UPDATE stock SET note = 'x'; UPDATE stock SET n = n * 2; UPDATE stock SET n = n - 4; COMMIT")
    two.sql("UPDATE stock SET n = n - 50 WHERE item = 'bolt'")
    converge(trio)
    for peer in trio:
        assert peer.sql("SELECT sum(n = item * 2) FROM stock") == [(1500,)]
        assert peer.sql("SELECT item, n FROM stock WHERE item IN ('bolt', 'late') ORDER BY 1") == [
            ("bolt", 150),
            ("late", 6),
        ]
    assert_equal(one, two)


def test_birth_gives_first_value_and_new_birth_another(trio):
    one, two, _ = stocked(trio)
    two.sql("UPDATE stock SET n = n - 1")
    converge(trio)
    one.sql("DELETE FROM stock; INSERT INTO stock VALUES('bolt', 7, 'new')")
    converge(trio)
    all_show(trio, 7)
    one.sql("REPLACE INTO stock VALUES('bolt', 50, 'replaced')")
    one.sql("UPDATE stock SET n = n + 1")
    converge(trio)
    two.sql("UPDATE stock SET n = n + 1")
    converge(trio)
    all_show(trio, 52)


def test_counts_in_a_deleted_row_are_recorded(trio):
    one, two, three = stocked(trio)
    one.sql("DELETE FROM stock")
    one.drain()
    two.wall_ms += 10
    two.sql("UPDATE stock SET n = n - 3")
    converge(trio)
    for peer in trio:
        assert peer.sql("SELECT * FROM stock") == []
    assert any('"n +": -3' in record[4] for record in three.recorded("mycomesh_conflicts"))
    assert_equal(one, two)


def test_a_row_inserted_on_two_sides_counts_on(trio):
    one, two, _ = stocked(trio)
    one.sql("INSERT INTO stock VALUES('nut', 10, '')")
    one.drain()
    two.wall_ms += 10
    two.sql("INSERT INTO stock VALUES('nut', 20, '')")
    two.drain()
    one.wall_ms += 20
    one.sql("UPDATE stock SET n = n - 1 WHERE item = 'nut'")
    two.sql("UPDATE stock SET n = n - 2 WHERE item = 'nut'")
    converge(trio)
    assert [peer.sql("SELECT n FROM stock WHERE item = 'nut'") for peer in trio] == [[(17,)]] * 3
    assert any('"n": 10' in record[4] for peer in trio for record in peer.recorded("mycomesh_conflicts"))


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("UPDATE stock SET n = 'none'", "none"),
        ("UPDATE stock SET n = NULL", None),
        ("UPDATE stock SET n = 1.5", 1.5),
        ("UPDATE stock SET n = x'00'", b"\x00"),
    ],
)
def test_what_is_no_integer_is_a_plain_write(trio, statement, shown):
    """It hides what was counted until an integer is written; that shows as it was written."""
    one, two, _ = stocked(trio, "CREATE TABLE stock(item TEXT PRIMARY KEY, n, note)")
    two.sql("UPDATE stock SET n = n + 1")
    converge(trio)
    one.sql(statement)
    two.sql("UPDATE stock SET n = n + 5")
    converge(trio)
    all_show(trio, shown)
    two.sql("UPDATE stock SET n = 40")
    converge(trio)
    all_show(trio, 40)
    one.sql("UPDATE stock SET n = n + 1")
    two.sql("UPDATE stock SET n = n + 1")
    converge(trio)
    all_show(trio, 42)


def test_zero_of_other_sign_is_plain_write(trio):
    one, two, _ = stocked(trio, "CREATE TABLE stock(item TEXT PRIMARY KEY, n, note)")
    one.sql("UPDATE stock SET n = 0.0")
    converge(trio)
    two.sql("UPDATE stock SET n = -0.0")
    converge(trio)
    all_show(trio, 0.0)
    assert [str(peer.sql("SELECT n FROM stock")[0][0]) for peer in trio] == ["-0.0"] * 3


def test_totals_go_on_at_the_other_end_of_int64(trio):
    one, two, three = stocked(trio, fill="INSERT INTO stock VALUES('bolt', 9223372036854775800, '')")
    one.sql("UPDATE stock SET n = n + 7")
    two.sql("UPDATE stock SET n = n + 7")
    converge(trio)
    all_show(trio, -(2**63) + 6)
    one.sql("UPDATE stock SET n = 9223372036854775807")
    three.sql("UPDATE stock SET n = n + 1")
    converge(trio)
    all_show(trio, -(2**63))


def test_a_column_with_data_becomes_a_counter(trio):
    """Every replica comes to it on its own, and goes on from the value that it shows."""
    one, two, three = trio
    one.sql(STOCK)
    one.sql("INSERT INTO stock VALUES('bolt', 100, 'M6')")
    converge(trio)
    two.sql("UPDATE stock SET n = 90")
    converge(trio)
    one.replica.decisions.declare_counter("stock", "n")
    converge(trio)
    one.sql("UPDATE stock SET n = n - 1")
    two.sql("UPDATE stock SET n = n - 2")
    three.sql("UPDATE stock SET n = n - 3")
    converge(trio)
    all_show(trio, 84)


def test_a_node_split_away_that_writes_plainly(trio):
    """Its writes are plain ones: the latest sets the value that the others' differences are added to."""
    one, two, three = trio
    one.sql(STOCK)
    one.sql("INSERT INTO stock VALUES('bolt', 100, 'M6')")
    converge(trio)
    one.replica.decisions.declare_counter("stock", "n")
    converge([one, two])
    one.sql("UPDATE stock SET n = n - 1")
    two.sql("UPDATE stock SET n = n - 2")
    three.sql("UPDATE stock SET n = n - 50")
    three.drain()
    converge([one, two])
    converge(trio)
    all_show(trio, 47)
    three.sql("UPDATE stock SET n = n - 4")
    one.sql("UPDATE stock SET n = n - 3")
    converge(trio)
    all_show(trio, 40)


def test_declaration_that_comes_after_what_was_counted_under_it(trio):
    """A live batch overtakes the one with the fact: the differences wait as values of an unknown column do."""
    one, _, three = trio
    one.sql(STOCK)
    one.sql("INSERT INTO stock VALUES('bolt', 100, 'M6')")
    converge(trio)
    one.replica.decisions.declare_counter("stock", "n")
    fact = one.drain()
    one.sql("UPDATE stock SET n = n - 1")
    counted = one.drain()
    three.take(counted, one.node_id)
    assert three.sql("SELECT n FROM stock") == [(100,)]
    three.sql("UPDATE stock SET note = 'seen'")
    three.take(fact, one.node_id)
    assert three.sql("SELECT n FROM stock") == [(99,)]
    three.sql("UPDATE stock SET n = n - 1")
    converge(trio)
    all_show(trio, 98)


def test_both_sides_of_a_split_declare(trio):
    one, two, _ = trio
    one.sql(STOCK)
    one.sql("INSERT INTO stock VALUES('bolt', 100, 'M6')")
    converge(trio)
    for peer, step in ((one, 1), (two, 2)):
        peer.replica.decisions.declare_counter("stock", "n")
        peer.drain()
        peer.sql(f"UPDATE stock SET n = n - {step}")
    converge(trio)
    all_show(trio, 97)


def test_a_column_added_later_counts_from_its_default(trio):
    one, two, _ = trio
    one.sql("CREATE TABLE stock(item TEXT PRIMARY KEY); INSERT INTO stock VALUES('bolt')")
    converge(trio)
    one.sql("ALTER TABLE stock ADD COLUMN n INTEGER DEFAULT 5")
    one.drain()
    one.replica.decisions.declare_counter("stock", "n")
    converge(trio)
    one.sql("UPDATE stock SET n = n + 1")
    two.sql("UPDATE stock SET n = n + 1")
    converge(trio)
    all_show(trio, 7)


def test_what_bypassed_the_triggers_counts_as_a_difference(trio):
    one, two, _ = stocked(trio)
    two.sql("UPDATE stock SET n = n - 1")
    converge(trio)
    db = one.replica.store.db  # triggers are off on this connection
    db.execute("UPDATE stock SET n = n + 10")
    two.sql("UPDATE stock SET n = n - 1")
    one.scrub()
    converge(trio)
    all_show(trio, 108)


def test_total_that_constraint_refuses_is_parked_and_comes_back(trio):
    one, two, three = stocked(
        trio,
        "CREATE TABLE stock(item TEXT PRIMARY KEY, n INTEGER CHECK(n >= 0), note)",
        fill="INSERT INTO stock VALUES('bolt', 3, '')",
    )
    one.sql("UPDATE stock SET n = n - 2")
    two.sql("UPDATE stock SET n = n - 2")
    converge(trio)
    for peer in trio:
        assert peer.sql("SELECT * FROM stock") == []
        assert [(record[0], record[3]) for record in peer.recorded("mycomesh_parked")] == [
            ("stock", '{"item": "bolt", "n": -1, "note": ""}')
        ]
    assert_equal(one, three)
    two.sql("INSERT INTO stock VALUES('bolt', 1, 'again')")
    converge(trio)
    assert [peer.sql("SELECT n FROM stock") for peer in trio] == [[(1,)]] * 3
    assert [peer.recorded("mycomesh_parked") for peer in trio] == [[]] * 3


@pytest.mark.parametrize(
    ("column", "refusal"),
    [
        ("nothing", "has no stored column 'nothing'"),
        ("item", "part of the primary key"),
        ("code", "must be UNIQUE"),
        ("label", "TEXT affinity"),
        ("price", "REAL affinity"),
        ("twice", "has no stored column 'twice'"),
    ],
)
def test_column_that_cannot_count_is_refused_with_one_line(tmp_path, column, refusal):
    peer = Peer(tmp_path / "file.db", 0)
    peer.sql(
        "CREATE TABLE stock(item TEXT PRIMARY KEY, n INTEGER, code INTEGER UNIQUE, label TEXT, price REAL, twice AS (n * 2))"
    )
    peer.drain()
    with pytest.raises(PolicyError, match=refusal) as caught:
        peer.replica.decisions.declare_counter("stock", column)
    assert "\n" not in str(caught.value)
    assert peer.drain() == []
    with pytest.raises(PolicyError, match=r"no replicated table 'socks' in .*; there are: stock"):
        peer.replica.decisions.declare_counter("socks", column)
    peer.close()


def test_a_node_that_joins_later_gets_the_totals(trio, tmp_path):
    one, two, _ = stocked(trio)
    one.sql("UPDATE stock SET n = n - 1")
    two.sql("UPDATE stock SET n = n - 1")
    converge(trio)
    late = Peer(tmp_path / "late.db", 7, wall_ms=1_000)
    catch_up(late, two)
    catch_up(late, two)
    assert late.sql("SELECT n FROM stock") == [(98,)]
    late.sql("UPDATE stock SET n = n - 1")
    converge([*trio, late])
    all_show([*trio, late], 97)
    late.close()
