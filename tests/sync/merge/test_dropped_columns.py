"""A dropped column goes from every replica and takes nothing else along."""

from __future__ import annotations

from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.migrations import T, migrate, started
from tests.sync.peers import assert_equal, converge


def test_a_dropped_column_goes_everywhere_and_its_neighbours_stay(migrating):
    one, two, three = started(migrating, T, 3)
    assert migrate(one, "ALTER TABLE t DROP COLUMN b;") == ["drops t.b and its values"]
    two.sql("UPDATE t SET b = 'not seen', c = 'seen' WHERE id = 1; INSERT INTO t VALUES(3, 'a3', 'b3', 'c3')")
    converge([one, two, three])
    assert_equal(one, two)
    assert_equal(one, three)
    assert one.sql("SELECT * FROM t ORDER BY id") == [(1, "a1", "seen"), (2, "a2", "c2"), (3, "a3", "c3")]
    three.shell("UPDATE t SET a = 'later' WHERE id = 2;")
    converge([one, two, three])
    assert_equal(one, three)
    assert one.sql("SELECT a FROM t WHERE id = 2") == [("later",)]
    assert one.scrub().found == 0


def test_rows_written_together_keep_their_remaining_columns(migrating):
    made = migrating(2)
    one, two = made
    one.sql(
        "CREATE TABLE t(a, b, c); WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)"
        " INSERT INTO t SELECT i, 'b', iif(i = 300, CAST(x'61ff62' AS TEXT), i * 1.5) FROM n"
    )
    one.drain()
    one.sql("DELETE FROM t WHERE a = 100")
    converge(made)
    migrate(one, "ALTER TABLE t DROP COLUMN b")
    converge(made)
    assert_equal(one, two)
    assert two.sql("SELECT count(*), sum(a), hex(max(c)) FROM t") == [(499, 125_150, "61FF62")]
    assert all(peer.scrub().found == 0 for peer in made)


def test_a_recreated_column_has_none_of_the_old_values(migrating):
    one, two = started(migrating, T)
    migrate(one, "ALTER TABLE t DROP COLUMN b; ALTER TABLE t ADD COLUMN b")
    two.sql("UPDATE t SET b = 'old b' WHERE id = 1")
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT b FROM t") == [(None,), (None,)]
    two.shell("UPDATE t SET b = 'new b' WHERE id = 1;")
    converge([one, two])
    assert_equal(one, two)
    assert one.sql("SELECT b FROM t ORDER BY id") == [("new b",), (None,)]
    newcomer = migrating(1)[-1]
    converge([one, two, newcomer])
    assert_equal(one, newcomer)


def test_a_fact_drops_no_column_of_a_key(peers):
    made = peers(2)
    one, two = made
    one.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc); CREATE TABLE w(k TEXT PRIMARY KEY, doc) WITHOUT ROWID")
    one.sql("INSERT INTO d VALUES(1, 'a'); INSERT INTO w VALUES('k', 'b')")
    converge(made)
    site = b"\x77" * 16
    facts = [["dropped", 'dropped:["d", "id"]', ""], ["dropped", 'dropped:["w", "k"]', ""]]
    facts += [["table", "d", "CREATE TABLE sqlite_x(id)"], ["policy", 'policy:["d"]', "keep-both"]]
    hlc = (one.wall_ms + 1_000) << 16
    group = Group(site, Kind.INSERT, ("kind", "name", "sql"), [hlc + n for n in range(4)], None, facts, None)
    stated = Bundle([Section("mycomesh_schema", [(site, hlc - 1, hlc + 3)], [group])]).encode()
    for peer in made:
        peer.take([stated], origin=site)
    converge(made)
    digests = [peer.digests() for peer in made]
    for peer in made:
        peer.close()
        peer.open()
        peer.drain()
    assert [peer.digests() for peer in made] == digests
    two.sql("UPDATE w SET doc = 'c'; UPDATE d SET doc = 'c'")
    converge(made)
    assert_equal(one, two)
    assert one.sql("SELECT * FROM w") == [("k", "c")]
    assert one.sql("SELECT id, doc FROM d") == [(1, "c")]


def test_a_decision_follows_a_drop_that_the_file_refuses(peers):
    """A file that cannot drop a column tries again in each pass, and loads its table again (fuzzing facts, seed 9703)."""
    made = peers(2)
    one = made[0]
    one.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc TEXT, n INT, g INT AS (n + 1))")
    one.sql("INSERT INTO d VALUES(1, 'a', 1), (2, 'b', 2)")
    converge(made)
    site = b"\x77" * 16
    for step, fact in enumerate([["dropped", 'dropped:["d", "n"]', ""], ["policy", 'policy:["d"]', "keep-both"]]):
        hlc = (one.wall_ms + 1_000 * (step + 1)) << 16
        group = Group(site, Kind.INSERT, ("kind", "name", "sql"), [hlc], None, [fact], None)
        stated = Bundle([Section("mycomesh_schema", [(site, hlc - 1, hlc)], [group])]).encode()
        for peer in made:
            peer.take([stated], origin=site)
            peer.drain()
    converge(made)
    digests = [peer.digests() for peer in made]
    for peer in made:
        peer.close()
        peer.open()
        peer.drain()
    assert [peer.digests() for peer in made] == digests
    one.sql("UPDATE d SET doc = 'c' WHERE id = 1")
    converge(made)
    assert_equal(*made)
