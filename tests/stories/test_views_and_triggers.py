"""Views and triggers of a program are on every node as on its own; the node never runs a trigger (ADR 50)."""

from __future__ import annotations

import sqlite3

import apsw
import pytest

from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.schema import view_facts
from mycomesh.sync.sqlite.view_trial import RUN_STEPS_MAX, RUN_VALUE_BYTES_MAX, trial
from tests.sync.peers import Peer, assert_equal, converge, shell

TABLES = (
    "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b); CREATE TABLE log(id TEXT PRIMARY KEY NOT NULL, what);"
    " INSERT INTO t VALUES(1, 'a1', 1), (2, 'a2', 2);"
)
LOGGING = "CREATE TRIGGER logs AFTER INSERT ON t BEGIN INSERT INTO log VALUES(hex(randomblob(8)), NEW.id); END"


@pytest.fixture
def trio(equals):
    return equals(3, TABLES)


def objects(peer):
    kinds = "type IN ('view', 'trigger') AND name NOT GLOB 'mycomesh*'"
    return peer.sql(f"SELECT type, name, sql FROM sqlite_schema WHERE {kinds} ORDER BY name")


def notes(*peers):
    return [f"{status.name}: {status.note}" for peer in peers for status in peer.replica.status().tables if status.note]


def facts(peer, kind):
    return peer.sql("SELECT name, sql FROM mycomesh_schema WHERE kind = ? ORDER BY name", kind)


def assert_alike(made):
    for peer in made:
        assert objects(peer) == objects(made[0])
        assert_equal(made[0], peer)
        assert not [bundle for each in made for bundle in each.drain()]


@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
def test_views_are_created_replaced_and_dropped_everywhere(trio, down):
    one, two, three = trio

    def act(peer, script):
        if down:
            peer.close()
        peer.shell(script)
        if down:
            peer.open()
        converge(trio)

    act(one, "CREATE VIEW z AS SELECT a FROM w; CREATE VIEW w AS SELECT a, b FROM t WHERE b > 1;")
    assert three.sql("SELECT * FROM z") == [("a2",)]
    act(two, "BEGIN; DROP VIEW w; CREATE VIEW w AS SELECT a || '!' AS a FROM t; COMMIT;")
    assert three.sql("SELECT * FROM z ORDER BY 1") == [("a1!",), ("a2!",)]
    act(three, "DROP VIEW z;")
    assert [name for _, name, _ in objects(one)] == ["w"]
    assert_alike(trio)
    assert not notes(*trio)
    newcomer_sees = objects(one)
    for peer in trio:
        peer.close()
        peer.open()
    converge(trio)
    assert objects(two) == newcomer_sees


@pytest.mark.parametrize("down", [False, True], ids=["node up", "node down"])
def test_a_trigger_acts_once_where_a_program_writes(trio, down):
    one, two, three = trio
    one.shell(LOGGING + ";")
    converge(trio)
    if down:
        two.close()
    shell(two.path, "INSERT INTO t VALUES(10, 'x', 0), (11, 'y', 0);")
    if down:
        two.open()
    three.sql("INSERT INTO t VALUES(12, 'z', 0)")
    converge(trio)
    assert_alike(trio)
    assert sorted(what for (what,) in one.sql("SELECT what FROM log")) == [10, 11, 12]
    two.shell("DROP TRIGGER logs;")
    converge(trio)
    one.sql("INSERT INTO t VALUES(13, 'z', 0)")
    converge(trio)
    assert_alike(trio)
    assert not objects(three)
    assert len(one.sql("SELECT * FROM log")) == 3


def test_a_file_that_began_empty_gets_views_and_triggers(equals):
    (one,) = equals(1, TABLES + LOGGING + "; CREATE VIEW v AS SELECT count(*) AS n FROM t;"
                    "CREATE TRIGGER into_v INSTEAD OF INSERT ON v BEGIN INSERT INTO t(a) VALUES(NEW.n); END;")  # fmt: skip
    late = equals(1, "")[-1]
    converge([one, late])
    assert [name for _, name, _ in objects(late)] == ["into_v", "logs", "v"]
    late.shell("INSERT INTO v VALUES('made');")
    converge([one, late])
    assert one.sql("SELECT a FROM t WHERE a = 'made'") == [("made",)]
    assert one.sql("SELECT count(*) FROM log") == [(1,)]
    assert_alike([one, late])


def test_texts_of_two_nodes_settle_and_are_recorded(trio):
    one, two, _ = trio
    one.shell("CREATE VIEW v AS SELECT 1 AS x;")
    two.wall_ms += 1_000
    two.shell("CREATE VIEW v AS SELECT 2 AS x;")
    converge(trio)
    converge(trio)
    assert_alike(trio)
    assert one.sql("SELECT x FROM v") == [(2,)]
    assert any("SELECT 1 AS x" in str(row) for peer in trio for row in peer.recorded("mycomesh_conflicts"))


def test_texts_from_before_the_mesh_stay_apart(tmp_path):
    made = []
    for number in range(2):
        path = tmp_path / f"{number}.db"
        shell(path, f"CREATE TABLE t(a); CREATE VIEW v AS SELECT {number} AS x FROM t;")
        made.append(Peer(path, number))
    one, two = made
    converge(made)
    converge(made)
    assert objects(one) != objects(two)
    assert any("create it again" in note for note in notes(*made))
    one.shell("DROP VIEW v; CREATE VIEW v AS SELECT 0 AS x FROM t /* decided */;")
    converge(made)
    assert_alike(made)
    assert not notes(*made)
    for peer in made:
        peer.close()


def test_what_names_tables_of_one_node_stays_there(tmp_path):
    config = ReplicaConfig(exclude=("private",))
    one, two = made = [Peer(tmp_path / f"{number}.db", number, config=config) for number in range(2)]
    one.sql(TABLES)
    converge(made)
    one.shell(
        "CREATE TABLE private(a); CREATE TRIGGER home AFTER INSERT ON t BEGIN INSERT INTO private VALUES(1); END;"
        " CREATE TRIGGER other AFTER INSERT ON private BEGIN SELECT 1; END;"
        " CREATE VIEW record AS SELECT * FROM mycomesh_conflicts; CREATE VIEW p AS SELECT * FROM private;"
    )
    converge(made)
    assert not facts(two, "trigger")
    assert not objects(two)
    assert any("trigger home: it stays on this node: it is on or writes private" in note for note in notes(one))
    assert any("view p: not created: no such table: main.private" in note for note in notes(two))
    assert len(objects(one)) == 4
    two.shell("INSERT INTO t VALUES(9, 'x', 9);")
    two.shell("CREATE TABLE private(a);")
    converge(made)
    assert [name for _, name, _ in objects(two)] == ["p"]
    for peer in made:
        peer.close()


def test_a_trigger_at_home_leaves_the_meshs_alone(tmp_path):
    config = ReplicaConfig(exclude=("private",))
    one, two = made = [Peer(tmp_path / f"{number}.db", number, config=config) for number in range(2)]
    one.sql(TABLES)
    converge(made)
    one.shell("CREATE TABLE private(a); CREATE TRIGGER logs AFTER INSERT ON private BEGIN SELECT 1; END;")
    two.shell(f"{LOGGING};")
    converge(made)
    two.shell("CREATE VIEW another AS SELECT 1 AS x;")
    converge(made)
    assert "ON private" in objects(one)[1][2]
    one.shell("DROP TRIGGER logs;")
    converge(made)
    converge(made)
    assert objects(one) == objects(two)
    assert len(objects(one)) == 2
    for peer in made:
        peer.close()


@pytest.mark.parametrize(
    "script",
    [
        "CREATE VIEW v AS SELECT unistr('x') AS a FROM t",
        "CREATE VIEW v AS SELECT 1_000 AS a",
        "CREATE VIEW v AS SELECT string_agg(a, ',' ORDER BY b) AS a FROM t",
        "CREATE VIEW v AS SELECT group_concat(a, ',' ORDER BY b) AS a FROM t",
        "CREATE TRIGGER v AFTER INSERT ON t BEGIN SELECT RAISE(ABORT, 'no ' || NEW.a); END",
    ],
)
def test_newer_sql_spreads_to_no_older_client(equals, script):
    one, two = made = equals(2, TABLES)
    one.sql(script)
    converge(made)
    assert not objects(two)
    assert any("needs SQLite" in note for note in notes(one))
    with sqlite3.connect(two.path) as old:
        assert old.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_columns_go_with_the_views_that_named_them(trio):
    one, two, _ = trio
    one.shell(f"CREATE VIEW v AS SELECT a, b FROM t; {LOGGING.replace('NEW.id', 'NEW.b')};")
    converge(trio)
    one.shell(
        f"DROP VIEW v; DROP TRIGGER logs; ALTER TABLE t DROP COLUMN b; CREATE VIEW v AS SELECT a FROM t; {LOGGING};"
    )
    converge(trio)
    assert_alike(trio)
    assert two.sql("SELECT * FROM v ORDER BY a") == [("a1",), ("a2",)]
    two.shell("ALTER TABLE t RENAME COLUMN a TO renamed; ALTER TABLE log RENAME COLUMN what TO said;")
    converge(trio)
    converge(trio)
    assert_alike(trio)
    one.shell("INSERT INTO t VALUES(20, 'later');")
    converge(trio)
    assert two.sql("SELECT said FROM log") == [(20,)]
    assert not notes(*trio)


def test_a_rebuild_takes_its_triggers_along(trio):
    one, two, _ = trio
    one.shell(LOGGING + ";")
    converge(trio)
    two.shell(
        "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, a NOT NULL, b); INSERT INTO n SELECT * FROM t; DROP TABLE t;"
        f" ALTER TABLE n RENAME TO t; {LOGGING}; COMMIT;"
    )
    converge(trio)
    assert_alike(trio)
    assert len(objects(one)) == 1
    two.shell(
        "BEGIN; CREATE TABLE n(id INTEGER PRIMARY KEY, a, b); INSERT INTO n SELECT * FROM t; DROP TABLE t;"
        " ALTER TABLE n RENAME TO t; COMMIT;"
    )
    converge(trio)
    assert_alike(trio)
    assert not objects(one)


def test_a_migration_states_its_views(trio):
    one, two, _ = trio
    one.replica.migrate("CREATE VIEW v AS SELECT a FROM t; DROP TABLE log;", one.wall_ms)
    converge(trio)
    assert_alike(trio)
    assert two.sql("SELECT count(*) FROM v") == [(2,)]


ATTACKS = (
    ("view", "v", "CREATE VIEW v AS SELECT load_extension('x')"),
    ("view", "v", "CREATE VIEW v AS SELECT * FROM mycomesh_meta"),
    ("view", "v", "CREATE VIEW v AS SELECT * FROM pragma_database_list"),
    ("view", "v", "CREATE VIEW v AS SELECT * FROM sqlite_schema"),
    ("view", "other", "CREATE VIEW v AS SELECT 1"),
    ("view", "v", "CREATE TEMP VIEW v AS SELECT 1"),
    ("view", "v", "CREATE VIEW v AS SELECT 1; DROP TABLE t"),
    ("view", "v", "CREATE TABLE v(x)"),
    ("view", "t", "CREATE VIEW t AS SELECT 1"),
    ("view", "mycomesh_v", "CREATE VIEW mycomesh_v AS SELECT 1"),
    ("view", "v", "CREATE VIEW v AS SELECT"),
    ("view", "v", "CREATE VIEW v AS SELECT " + "(" * 2_000 + "1" + ")" * 2_000),
    ("trigger", "g", "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM mycomesh_meta; END"),
    ("trigger", "g", "CREATE TRIGGER g AFTER INSERT ON mycomesh_meta BEGIN SELECT 1; END"),
    ("trigger", "g", "CREATE TRIGGER g AFTER INSERT ON t BEGIN INSERT INTO missing VALUES(1); END"),
    ("trigger", "g", "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT fts3_tokenizer('a', 'b'); END"),
    ("trigger", "g", "CREATE TRIGGER g AFTER UPDATE OF nothing ON t BEGIN SELECT NEW.nothing; END"),
    ("trigger", "g", "CREATE VIEW g AS SELECT 1"),
)


@pytest.mark.parametrize(("kind", "name", "sql"), ATTACKS)
def test_a_hostile_text_enters_no_file(equals, kind, name, sql):
    one, two = made = equals(2, TABLES)
    one.replica.catalog.decide((f"{kind}:{name}", kind, sql))
    with one.replica.store.transaction():
        one.replica.catalog.registry.facts.write(f"{kind}:{name}", kind, sql)
    two.take(one.drain(), one.node_id)
    before = shell(two.path, "SELECT count(*) FROM t; INSERT INTO t VALUES(50, 1, 1); SELECT count(*) FROM t;")
    assert before.split() == [b"2", b"3"]
    assert not objects(two)
    assert notes(two)
    converge(made)


def test_views_that_double_are_refused(equals):
    one, two = equals(2, TABLES)
    with one.replica.store.transaction():
        for number in range(40):
            half = f"SELECT a FROM {f'v{number - 1:02}' if number else 't'}"
            one.replica.catalog.registry.facts.write(
                f"view:v{number:02}", "view", f"CREATE VIEW v{number:02} AS {half} UNION ALL {half}"
            )
    two.take(one.drain(), one.node_id)
    two.drain()
    assert len(objects(two)) == 8  # 255 are fewer than VIEWS_NAMED_MAX, 511 are more
    assert any("reads more than 256 views" in note for note in notes(two))


def test_no_file_takes_more_than_its_limits(equals, monkeypatch):
    monkeypatch.setattr(view_facts, "VIEWS_MAX", 3)
    monkeypatch.setattr(view_facts, "TRIGGERS_OF_TABLE_MAX", 2)
    monkeypatch.setattr(view_facts, "TRIGGERS_MAX", 3)
    one, two = equals(2, TABLES)
    for number in range(5):
        one.sql(f"CREATE VIEW v{number} AS SELECT 1 AS x")
        one.sql(f"CREATE TRIGGER g{number} AFTER INSERT ON t BEGIN SELECT 1; END")
        one.sql(f"CREATE TRIGGER h{number} AFTER INSERT ON log BEGIN SELECT 1; END")
    two.take(one.drain(), one.node_id)
    two.drain()
    assert [name for _, name, _ in objects(two)] == ["g0", "g1", "h0", "v0", "v1", "v2"]
    monkeypatch.setattr(view_facts, "VIEW_CHARS_MAX", 100)
    late = equals(1, "")[-1]
    converge([one, late])
    assert len(objects(late)) < 6
    assert any("more of them than a file takes" in note for note in notes(late))


def test_members_write_through_triggers_only_what_they_may(trio):
    one, two, three = trio
    rights = Rights(two.node_id, ((one.node_id, (("log", "r"), ("*", "rw"))),))
    two.replica.set_rights(rights)
    with one.replica.store.transaction():
        one.replica.catalog.registry.facts.write("trigger:logs", "trigger", LOGGING)
    batches = one.drain()
    two.take(batches, one.node_id)
    three.take(batches, one.node_id)
    assert not objects(two)
    assert any("may not write log" in note for note in notes(two))
    assert objects(three)


COSTLY = {
    "an endless recursion": "INSERT INTO log WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i FROM n",
    "a recursion of a million": "INSERT INTO log SELECT 'x', (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
    " LIMIT 1000000) SELECT max(i) FROM n)",
    "a large value": "INSERT INTO log VALUES(NEW.id, hex(randomblob(100000000)))",
    "a value that grows": "INSERT INTO log SELECT 'x', replace(hex(zeroblob(900)), '0', hex(zeroblob(900)))",
    "a join without a condition": "UPDATE log SET what = (SELECT count(*) FROM t x, t y, t z)",
    "each pair of rows": "UPDATE t SET b = (SELECT count(*) FROM t o WHERE o.a + 0 > t.a + 0)",
}
KEPT = {
    "a pass over the table": "UPDATE log SET what = (SELECT count(*) FROM t)",
    "a refusal": "SELECT RAISE(ABORT, 'no') WHERE NEW.b < 0",
    "a rollback": "SELECT RAISE(ROLLBACK, 'no') WHERE NEW.b > 0",
    "a recursion of a thousand": "INSERT INTO log SELECT 'x' || NEW.id || '/' || max(i), 1 FROM (WITH RECURSIVE n(i) AS (SELECT 1"
    " UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT i FROM n)",
    "a document": "INSERT INTO log VALUES(hex(randomblob(16)), json_object('id', NEW.id, 'a', NEW.a, 'b', NEW.b))",
}


def state(peer, name, sql):
    """Write the fact of a trigger as a member would whose own program does not have it."""
    with peer.replica.store.transaction():
        peer.replica.catalog.registry.facts.write(f"trigger:{name}", "trigger", sql)


@pytest.mark.parametrize("body", COSTLY.values(), ids=COSTLY)
def test_a_trigger_too_costly_for_each_write_stays_home(equals, body):
    one, two = equals(2, TABLES)
    state(one, "x", f"CREATE TRIGGER x AFTER INSERT ON t BEGIN {body}; END")
    state(one, "logs", LOGGING)
    two.take(one.drain(), one.node_id)
    two.drain()
    assert [name for _, name, _ in objects(two)] == ["logs"]  # others are created
    assert any("too costly for each write of t" in note for note in notes(two))
    two.sql("INSERT INTO t VALUES(7, 'a7', 7)")  # a program's write is as quick as before
    two.shell(f"CREATE TRIGGER y AFTER INSERT ON t BEGIN {body}; END")
    two.drain()
    assert any("it stays on this node: it is too costly" in note for note in notes(two))


@pytest.mark.parametrize("body", KEPT.values(), ids=KEPT)
def test_an_ordinary_trigger_is_not_too_costly(equals, body):
    made = equals(2, TABLES)
    made[0].shell(f"CREATE TRIGGER x AFTER INSERT ON t BEGIN {body}; END")
    converge(made)
    assert [name for _, name, _ in objects(made[1])] == ["x"]
    assert not notes(*made)


@pytest.mark.parametrize(("rounds", "is_kept"), [(-1, True), (0, True), (1, False)], ids=["below", "at", "above"])
def test_steps_of_a_trigger_are_limited(rounds, is_kept):
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")

    def refused(limit):
        with trial(db) as tried:
            numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {limit}) SELECT i FROM n"
            body = f"SELECT max(i) FROM ({numbers})"
            return tried.add("trigger", "x", f"CREATE TRIGGER x AFTER INSERT ON t BEGIN {body}; END").refused

    low, high = 1, RUN_STEPS_MAX
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refused(middle) else (middle, high)
    assert RUN_STEPS_MAX // 30 < low < RUN_STEPS_MAX // 5
    assert (refused(low + rounds) == "") is is_kept


@pytest.mark.parametrize(("size", "is_kept"), [(-1, True), (0, True), (1, False)], ids=["below", "at", "above"])
def test_values_of_a_trigger_are_limited(size, is_kept):
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, a)")
    with trial(db) as tried:
        body = f"SELECT length(zeroblob({RUN_VALUE_BYTES_MAX + size}) || '')"
        refused = tried.add("trigger", "x", f"CREATE TRIGGER x AFTER INSERT ON t BEGIN {body}; END").refused
    assert (refused == "") is is_kept


def test_the_note_of_what_is_dropped_goes(tmp_path):
    peer = Peer(tmp_path / "0.db", 0)
    peer.sql("CREATE TABLE t(a);")
    peer.sql(
        "CREATE TABLE _litestream_seq(a); CREATE TRIGGER home AFTER INSERT ON t BEGIN INSERT INTO _litestream_seq VALUES(1); END"
    )
    peer.drain()
    assert any("trigger home: it stays on this node" in note for note in notes(peer))
    assert any("_litestream_seq: " in note for note in notes(peer))
    peer.sql("DROP TRIGGER home; DROP TABLE _litestream_seq")
    peer.drain()
    assert not notes(peer)
    peer.close()
