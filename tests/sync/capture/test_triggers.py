"""Capture is complete: every table shape, every way to write, through the stock shell, ends equal on another replica."""

from __future__ import annotations

import shutil

import apsw
import pytest

from mycomesh.sync.errors import DatabaseBusyError
from mycomesh.sync.replica import ReplicaConfig
from tests.sync.pairs import handed_over
from tests.sync.peers import Peer, assert_equal, catch_up, content, converge, shell
from tests.sync.scale import sweep
from tests.sync.shapes import SHAPES


def scripts(way):
    """One script a step, every shape in each step."""
    steps = [way(shape) for shape in SHAPES]
    return [";\n".join(statement for step in column for statement in step) + ";" for column in zip(*steps, strict=True)]


def three(shape):
    return [shape.insert(0, "'a'", "1"), shape.insert(1, "'b'", "2"), shape.insert(2, "'c'", "3")]


def insert(shape):
    return [three(shape)]


def insert_many_at_once(shape):
    rows = ", ".join(f"({shape.keys[number]}, {number}, {number})" for number in range(4))
    return [[f"INSERT INTO {shape.t}({shape.columns('v', 'u')}) VALUES {rows}"]]


def insert_from_select(shape):
    return [
        [shape.insert(0, "'a'", "1")],
        [f"INSERT INTO {shape.t}({shape.columns('v')}) SELECT {shape.keys[3]}, v || 'x' FROM {shape.t}"],
    ]


def update_one_column(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = 'changed' WHERE {shape.where(1)}"]]


def update_every_row(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = v || '+', u = u + 100"]]


def update_to_the_same(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = v, u = u"]]


def update_the_type_only(shape):
    """1, 1.0 and '1', 0.0 and -0.0: some of them compare equal, and a replica must hold the very value."""
    return [
        [shape.insert(0, "1"), shape.insert(1, "1.0"), shape.insert(2, "'1'"), shape.insert(3, "0.0")],
        [
            f"UPDATE {shape.t} SET v = -0.0 WHERE {shape.where(3)}",
            f"UPDATE {shape.t} SET v = 1.0 WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET v = 1 WHERE {shape.where(1)}",
            f"UPDATE {shape.t} SET v = x'31' WHERE {shape.where(2)}",
        ],
    ]


def update_case_only(shape):
    return [[shape.insert(0, "'a' COLLATE NOCASE")], [f"UPDATE {shape.t} SET v = 'A'"]]


def delete_one(shape):
    return [three(shape), [f"DELETE FROM {shape.t} WHERE {shape.where(1)}"]]


def delete_every_row(shape):
    return [three(shape), [f"DELETE FROM {shape.t}"]]


def delete_and_insert_again(shape):
    return [
        three(shape),
        [f"DELETE FROM {shape.t}", shape.insert(0, "'again'", "3")],
        [f"DELETE FROM {shape.t}"],
        [shape.insert(1, "'once more'", "1")],
    ]


def upsert(shape):
    target = f"({shape.columns()})" if shape.primary else "(u)"
    return [
        three(shape),
        [
            f"{shape.insert(0, repr('new'), '1')} ON CONFLICT{target} DO UPDATE SET v = v || excluded.v",
            f"{shape.insert(3, repr('else'), '2')} ON CONFLICT(u) DO UPDATE SET v = 'upserted'",
            f"{shape.insert(4, repr('none'), '3')} ON CONFLICT DO NOTHING",
        ],
    ]


def replace_through_unique(shape):
    """The evicted row fires no delete trigger, for recursive_triggers is off by default."""
    return [three(shape), [shape.insert(3, "'winner'", "2", how="REPLACE")]]


def replace_through_unique_recursive(shape):
    return [three(shape), ["PRAGMA recursive_triggers = 1", shape.insert(3, "'winner'", "2", how="REPLACE")]]


def replace_same_key(shape):
    return [three(shape), [shape.insert(0, "'replaced'", "9", how="REPLACE")]]


def replace_two_rows_at_once(shape):
    return [three(shape), [shape.insert(0, "'both'", "2", how="INSERT OR REPLACE")]]


def update_or_replace(shape):
    return [three(shape), [f"UPDATE OR REPLACE {shape.t} SET u = 3 WHERE {shape.where(0)}"]]


def update_or_replace_recursive(shape):
    return [
        three(shape),
        ["PRAGMA recursive_triggers = 1", f"UPDATE OR REPLACE {shape.t} SET u = 3 WHERE {shape.where(0)}"],
    ]


def insert_or_ignore(shape):
    return [three(shape), [shape.insert(3, "'ignored'", "2", how="INSERT OR IGNORE"), shape.insert(4, "'kept'", "5")]]


def change_keys(shape):
    return [three(shape), [f"UPDATE {shape.t} SET {shape.set_key(3)} WHERE {shape.where(0)}"]]


def move_keys_round(shape):
    """a -> d, b -> a, d -> b in one transaction: both rows swap their keys."""
    return [
        three(shape),
        [
            "BEGIN",
            f"UPDATE {shape.t} SET {shape.set_key(3)} WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET {shape.set_key(0)} WHERE {shape.where(1)}",
            f"UPDATE {shape.t} SET {shape.set_key(1)} WHERE {shape.where(3)}",
            "COMMIT",
        ],
    ]


def change_keys_with_replace(shape):
    return [three(shape), [f"UPDATE OR REPLACE {shape.t} SET {shape.set_key(1)}, v = 'moved' WHERE {shape.where(0)}"]]


def savepoints(shape):
    return [
        three(shape),
        [
            "BEGIN",
            "SAVEPOINT one",
            f"UPDATE {shape.t} SET v = 'undone'",
            shape.insert(3, "'undone'"),
            "ROLLBACK TO one",
            f"UPDATE {shape.t} SET v = 'kept' WHERE {shape.where(2)}",
            "RELEASE one",
            "COMMIT",
        ],
        ["BEGIN", f"DELETE FROM {shape.t}", "ROLLBACK"],
    ]


def returning(shape):
    return [
        [f"{shape.insert(0, '5')} RETURNING v", shape.insert(1, "6")],
        [f"UPDATE {shape.t} SET v = v + 1 RETURNING *", f"DELETE FROM {shape.t} WHERE v = 6 RETURNING v"],
    ]


def update_from(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = w.x FROM (SELECT 2 AS y, 'joined' AS x) AS w WHERE u = w.y"]]


def in_and_out_in_one_transaction(shape):
    return [
        [
            "BEGIN",
            *three(shape),
            f"DELETE FROM {shape.t} WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET v = 1",
            "COMMIT",
        ]
    ]


def odd_values(shape):
    return [
        [
            shape.insert(0, "-9223372036854775808"),
            shape.insert(1, "9e999"),
            shape.insert(2, "'a' || char(0) || 'b'"),
            shape.insert(3, "zeroblob(0)"),
            shape.insert(4, "NULL"),
        ],
        [
            f"UPDATE {shape.t} SET v = -9e999 WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET v = '' WHERE {shape.where(1)}",
            f"UPDATE {shape.t} SET v = x'00ff00' WHERE {shape.where(2)}",
            f"UPDATE {shape.t} SET v = 0.1 WHERE {shape.where(3)}",
            f"UPDATE {shape.t} SET v = -0.0 WHERE {shape.where(4)}",
        ],
    ]


WAYS = (
    insert, insert_many_at_once, insert_from_select, update_one_column, update_every_row, update_to_the_same,
    update_the_type_only, update_case_only, delete_one, delete_every_row, delete_and_insert_again, upsert,
    replace_through_unique, replace_through_unique_recursive, replace_same_key, replace_two_rows_at_once,
    update_or_replace, update_or_replace_recursive, insert_or_ignore, change_keys, move_keys_round,
    change_keys_with_replace, savepoints, returning, update_from, in_and_out_in_one_transaction, odd_values,
)  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two replicas with every shape, and a plain file; made once, copied for each test."""
    folder = tmp_path_factory.mktemp("template")
    schema = ";\n".join(shape.ddl for shape in SHAPES) + ";"
    shell(folder / "plain.db", schema)
    first, second = (Peer(folder / f"{number}.db", number) for number in range(2))
    first.shell(schema)
    converge([first, second])
    assert_equal(first, second)
    assert len(second.tables()) == len(SHAPES)
    first.close()
    second.close()
    return folder


@pytest.fixture
def pair(template, tmp_path):
    for path in sorted(template.iterdir()):
        shutil.copy(path, tmp_path)
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


@pytest.fixture(scope="module")
def emptied(template, tmp_path_factory):
    """One pair and a plain file for many tests, each of which begins with tables whose rows were deleted."""
    folder = tmp_path_factory.mktemp("emptied")
    for path in sorted(template.iterdir()):
        shutil.copy(path, folder)
    peers = [Peer(folder / f"{number}.db", number) for number in range(2)]
    yield *peers, folder / "plain.db"
    for peer in peers:
        peer.close()


EMPTY = "".join(f"DELETE FROM {shape.t};" for shape in SHAPES)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_shape_written_in_this_way_ends_equal(emptied, way):
    first, second, plain = emptied
    first.shell(EMPTY)
    shell(plain, EMPTY)
    second.take(first.drain(), first.node_id)
    for script in scripts(way):
        first.shell(script)
        shell(plain, script)
    second.take(first.drain(), first.node_id)
    second.drain()  # refused rows that there was no room to try again
    assert_equal_to_plain(first, second, plain)


@pytest.mark.parametrize("way", sweep(WAYS, 14), ids=lambda way: way.__name__)
def test_every_shape_drained_after_each_step_ends_equal(emptied, way):
    first, second, plain = emptied
    first.shell(EMPTY)
    shell(plain, EMPTY)
    for script in scripts(way):
        first.shell(script)
        shell(plain, script)
        second.take(first.drain(), first.node_id)
    second.take(first.drain(), first.node_id)
    second.drain()  # refused rows that there was no room to try again
    assert_equal_to_plain(first, second, plain)


def assert_equal_to_plain(first, second, path):
    assert_equal(first, second)
    plain = apsw.Connection(str(path))
    assert first.tables() == content(plain)  # capture changed nothing for the application
    plain.close()


@pytest.mark.parametrize(
    "way", [update_every_row, delete_and_insert_again, move_keys_round, odd_values], ids=lambda way: way.__name__
)
def test_every_shape_reaches_an_empty_file_by_a_round(pair, tmp_path, way):
    first, _ = pair
    for script in scripts(way):
        first.shell(script)
    late = Peer(tmp_path / "late.db", 7)
    catch_up(late, first)
    catch_up(late, first)  # the tables came with the first round
    assert_equal(first, late)
    late.close()


@pytest.mark.parametrize("recursive", [0, 1])
def test_foreign_key_cascades_arrive_as_rows(both, recursive):
    first, second = both
    first.shell(f"""
        PRAGMA foreign_keys = 1; PRAGMA recursive_triggers = {recursive};
        CREATE TABLE parent(id INTEGER PRIMARY KEY, name TEXT UNIQUE);
        CREATE TABLE child(id INTEGER PRIMARY KEY, p REFERENCES parent(id) ON DELETE CASCADE ON UPDATE CASCADE);
        CREATE TABLE nuller(k TEXT PRIMARY KEY, p REFERENCES parent(name) ON DELETE SET NULL ON UPDATE SET NULL);
        CREATE TABLE defaulter(p DEFAULT 1 REFERENCES parent(id) ON DELETE SET DEFAULT);
        INSERT INTO parent VALUES(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd');
        INSERT INTO child VALUES(10, 1), (20, 2), (30, 3); INSERT INTO nuller VALUES('x', 'b'), ('y', 'd');
        INSERT INTO defaulter VALUES(2), (2);""")
    handed_over(first, second)
    first.shell(f"""
        PRAGMA foreign_keys = 1; PRAGMA recursive_triggers = {recursive};
        DELETE FROM parent WHERE id = 2;
        UPDATE parent SET id = 33 WHERE id = 3;
        REPLACE INTO parent VALUES(5, 'd');""")
    assert first.sql("SELECT count(*) FROM child") == [(2,)]
    assert first.sql("SELECT p FROM nuller ORDER BY k") == [(None,), (None,)]
    handed_over(first, second)


def test_effects_of_the_users_triggers_arrive_once(both):
    first, second = both
    first.shell("""
        CREATE TABLE t(id INTEGER PRIMARY KEY, v, n DEFAULT 0);
        CREATE TABLE audit(what, at DEFAULT 5);
        CREATE TRIGGER t_insert AFTER INSERT ON t BEGIN
          UPDATE t SET n = n + 1 WHERE id = NEW.id; INSERT INTO audit(what) VALUES('in ' || NEW.id); END;
        CREATE TRIGGER t_before BEFORE UPDATE OF v ON t WHEN NEW.v > 9 BEGIN DELETE FROM t WHERE id = NEW.id + 1; END;
        CREATE TRIGGER t_delete AFTER DELETE ON t BEGIN INSERT INTO audit(what) VALUES('out ' || OLD.id); END;
        CREATE VIEW shown AS SELECT id, v FROM t;
        CREATE TRIGGER shown_insert INSTEAD OF INSERT ON shown BEGIN INSERT INTO t(id, v) VALUES(NEW.id, NEW.v); END;
        INSERT INTO t(id, v) VALUES(1, 1), (2, 2), (3, 3); INSERT INTO shown VALUES(4, 4);
        UPDATE t SET v = 10 WHERE id = 2;""")
    handed_over(first, second)
    assert second.sql("SELECT id, v, n FROM t ORDER BY id") == [(1, 1, 1), (2, 10, 1), (4, 4, 1)]
    assert [row[0] for row in second.sql("SELECT what FROM audit ORDER BY what")] == [
        "in 1", "in 2", "in 3", "in 4", "out 3"
    ]  # fmt: skip
    assert second.drain() == []  # nothing of what was applied was captured again


def test_writes_of_several_connections_are_all_captured(both):
    first, second = both
    first.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, who)")
    others = [apsw.Connection(str(first.path)) for _ in range(3)]
    for number in range(30):
        others[number % 3].execute("INSERT INTO t VALUES(?, ?)", (number, number % 3))
        if number % 7 == 0:
            second.take(first.drain(), first.node_id)
    others[0].execute("BEGIN; DELETE FROM t WHERE id < 10")
    first.replica.store.db.set_busy_timeout(1)
    with pytest.raises(DatabaseBusyError, match="close its transaction"):
        first.drain()
    assert first.sql("SELECT count(*) FROM t") == [(30,)]  # not committed: not there for anyone
    others[0].execute("COMMIT")
    handed_over(first, second)
    for other in others:
        other.close()


def test_writes_through_an_attached_name_are_captured(both, tmp_path):
    first, second = both
    first.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE)")
    shell(
        tmp_path / "other.db",
        f"""
        CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'decoy');
        ATTACH '{first.path}' AS f;
        INSERT INTO f.t VALUES(5, 'a'), (6, 'b'); REPLACE INTO f.t VALUES(7, 'a'); UPDATE f.t SET v = 'c' WHERE id = 6;
        INSERT INTO t SELECT id + 10, v FROM f.t;""",
    )
    handed_over(first, second)
    assert second.sql("SELECT * FROM t ORDER BY id") == [(6, "c"), (7, "a")]


def test_writes_made_while_the_node_is_down_are_captured(both):
    first, second = both
    first.sql("CREATE TABLE t(a, b UNIQUE); INSERT INTO t VALUES(1, 1), (2, 2)")
    second.take(first.drain(), first.node_id)
    first.close()
    first.shell("REPLACE INTO t VALUES(3, 2); UPDATE t SET a = 9 WHERE b = 1; INSERT INTO t VALUES(4, 4);")
    first.open()  # what it finds is stamped at once, and told to peers by the next round
    converge([first, second])
    assert_equal(first, second)


def test_rows_that_were_there_before_the_mesh_are_replicated(tmp_path):
    for shape in SHAPES:
        shell(tmp_path / "0.db", ";\n".join([shape.ddl, *three(shape)]) + ";")
    first, second = (Peer(tmp_path / f"{number}.db", number) for number in range(2))
    converge([first, second])
    assert_equal(first, second)
    assert all(len(rows) == 3 for rows in second.tables().values())
    first.close()
    second.close()


@pytest.mark.parametrize("mode", ["delete", "truncate", "persist", "wal"])
def test_the_files_own_journal_mode_is_kept_and_serves(tmp_path, mode):
    shell(tmp_path / "0.db", f"PRAGMA journal_mode = {mode}; CREATE TABLE t(a, b);".replace("\n", ""))
    first, second = (Peer(tmp_path / f"{number}.db", number) for number in range(2))
    first.shell(
        "INSERT INTO t VALUES(1, 2); UPDATE t SET b = 3; INSERT INTO t VALUES(4, 5); DELETE FROM t WHERE a = 4;"
    )
    converge([first, second])
    assert_equal(first, second)
    if mode == "wal":
        assert first.sql("PRAGMA journal_mode") == [("wal",)]
    else:
        assert first.sql("PRAGMA journal_mode") != [("wal",)]
    first.close()
    second.close()


@pytest.mark.parametrize("expression", [
    "NULL", "9223372036854775807", "-9223372036854775808", "9e999", "-9e999", "9e999 - 9e999", "0.0", "-0.0", "5e-324",
    "1.7976931348623157e308", "''", "x''", "char(0)", "'a' || char(0, 0) || 'b'", "char(55296)", "char(1114111)", "'\ufeff'",
    "zeroblob(70000)", "'1'", "1", "1.0", "x'31'",
])  # fmt: skip
def test_a_value_arrives_as_it_is(both, expression):
    first, second = both
    first.shell(f"""
        CREATE TABLE plain(k TEXT PRIMARY KEY, v, i INT, r REAL, t TEXT, n NUMERIC, b BLOB);
        CREATE TABLE typed(id INTEGER PRIMARY KEY, v ANY) STRICT;
        CREATE TABLE bag(v);
        INSERT INTO plain VALUES('x', {expression}, {expression}, {expression}, {expression}, {expression}, {expression});
        INSERT INTO typed VALUES(1, {expression}); INSERT INTO bag VALUES({expression});""")
    handed_over(first, second)
    first.shell(f"INSERT INTO plain(k) VALUES('y'); UPDATE plain SET v = {expression}, t = {expression} WHERE k = 'y';")
    handed_over(first, second)


@pytest.mark.parametrize("columns", [255, 256, 300])
def test_edits_of_wide_tables_merge_by_column(both, columns):
    first, second = both
    names = ", ".join(f"c{number} DEFAULT 0" for number in range(1, columns))  # and id
    first.shell(f"CREATE TABLE t(id INTEGER PRIMARY KEY, {names}); INSERT INTO t(id) VALUES(1), (2), (3);")
    converge([first, second])
    last = columns - 1
    first.shell(f"UPDATE t SET c1 = 1, c64 = 1, c129 = 1, c{last} = 1 WHERE id = 1; UPDATE t SET c3 = c3 WHERE id = 2;")
    second.shell(
        f"UPDATE t SET c2 = 2, c63 = 2, c130 = 2, c{last - 1} = 2 WHERE id = 1; ALTER TABLE t DROP COLUMN c200;"
    )
    second.shell("UPDATE t SET c5 = 2 WHERE id = 3;")
    converge([first, second])
    for peer in both:
        (row,) = peer.sql(f"SELECT c1, c64, c129, c{last}, c2, c63, c130, c{last - 1}, c4 FROM t WHERE id = 1")
        assert row == (1, 1, 1, 1, 2, 2, 2, 2, 0)
        assert peer.sql("SELECT c5 FROM t WHERE id = 3") == [(2,)]
        assert peer.recorded("mycomesh_conflicts") == []


def test_a_blob_of_16_mib_arrives(both):
    first, second = both
    first.shell("CREATE TABLE t(id INTEGER PRIMARY KEY, b); INSERT INTO t VALUES(1, zeroblob(16777216)), (2, 'small');")
    handed_over(first, second)
    assert second.sql("SELECT length(b) FROM t WHERE id = 1") == [(16 << 20,)]


@pytest.mark.parametrize("table", ["t(id INTEGER PRIMARY KEY, v)", "t(k TEXT PRIMARY KEY, v)", "t(v)"])
def test_text_that_is_not_utf8_arrives_byte_for_byte(both, table):
    first, second = both
    columns = "v" if table == "t(v)" else table[2:].split()[0] + ", v"
    values = "CAST(x'ff41' AS TEXT)" if table == "t(v)" else "'1', CAST(x'ff41' AS TEXT)"
    first.shell(f"CREATE TABLE {table}; INSERT INTO t({columns}) VALUES({values});")
    handed_over(first, second)
    first.shell("INSERT INTO t(v) VALUES('plain'); UPDATE t SET v = v || CAST(x'c328' AS TEXT);")
    handed_over(first, second)


@pytest.mark.parametrize("name", ["rowid", "oid", "_rowid_", "ROWID", '"rowid"', "id"])
@pytest.mark.parametrize("shape", ["id INTEGER PRIMARY KEY, v", "id, v", "id INTEGER, v, PRIMARY KEY(id, v)"])
def test_row_that_moves_under_any_name_of_its_rowid(both, shape, name):
    first, second = both
    first.shell(f"CREATE TABLE t({shape}); INSERT INTO t VALUES(1, 'a'), (2, 'b'), (3, NULL), (NULL, 'd');")
    handed_over(first, second)
    first.shell(f"UPDATE t SET {name} = 10 * rowid WHERE v = 'b' OR v IS NULL; UPDATE t SET v = 'B' WHERE v = 'b';")
    handed_over(first, second)
    assert second.sql("SELECT count(*) FROM t WHERE v = 'B'") == [(1,)]


def test_a_failing_index_expression_does_not_block_unindexed_rows(both):
    first, second = both
    first.shell("""
        CREATE TABLE t(id INTEGER PRIMARY KEY, body, n);
        CREATE UNIQUE INDEX j ON t(json_extract(body, '$.id') DESC, n) WHERE /* (only) */ json_valid(body) -- these
        ;
        INSERT INTO t VALUES(1, '{"id": 1}', 1), (2, 'no JSON', 1), (3, 'no JSON', 1);""")
    handed_over(first, second)
    first.shell("""
        UPDATE t SET body = 'nor this' WHERE id = 3; INSERT INTO t VALUES(4, 'nor this', 1);
        REPLACE INTO t VALUES(5, '{"id": 1}', 1);""")
    handed_over(first, second)
    assert second.sql("SELECT id FROM t ORDER BY id") == [(2,), (3,), (4,), (5,)]


def test_vacuum_renumbers_no_rows(both):
    first, second = both
    first.shell("CREATE TABLE t(a, b); INSERT INTO t VALUES(1, 1), (2, 2), (3, 3), (4, 4);")
    handed_over(first, second)
    first.shell("DELETE FROM t WHERE a IN (1, 3); VACUUM; UPDATE t SET b = 20 WHERE a = 2; DELETE FROM t WHERE a = 4;")
    handed_over(first, second)
    assert second.sql("SELECT * FROM t") == [(2, 20)]


def test_virtual_tables_and_views_are_left_out_and_said(both):
    first, second = both
    first.shell("""
        CREATE VIRTUAL TABLE words USING fts5(body); CREATE VIRTUAL TABLE box USING rtree(id, x0, x1);
        CREATE TABLE t(a); CREATE VIEW seen AS SELECT * FROM t; INSERT INTO words VALUES('hello'); INSERT INTO t VALUES(1);""")
    second.take(first.drain(), first.node_id)
    assert list(second.tables()) == ["t"]
    assert first.tables()["t"] == second.tables()["t"]
    notes = {table.name: table.note for table in first.replica.status().tables}
    assert "virtual" in notes["words"]
    assert "virtual" in notes["box"]
    assert notes["t"] == ""


def test_a_table_excluded_by_name_stays_local(tmp_path):
    config = ReplicaConfig(exclude=("private*",))
    first, second = Peer(tmp_path / "0.db", 0, config=config), Peer(tmp_path / "1.db", 1)
    first.shell(
        "CREATE TABLE private_keys(k); CREATE TABLE t(a); INSERT INTO private_keys VALUES(1); INSERT INTO t VALUES(2);"
    )
    second.take(first.drain(), first.node_id)
    assert second.tables() == {"t": first.tables()["t"]}
    first.close()
    second.close()


def test_removal_leaves_the_users_file_as_it_was(tmp_path):
    schema = "".join(shape.ddl + ";\n" + ";\n".join(three(shape)) + ";\n" for shape in SHAPES)
    shell(tmp_path / "0.db", schema)
    shell(tmp_path / "plain.db", schema)
    peer = Peer(tmp_path / "0.db", 0)
    peer.shell("UPDATE pkint SET v = 'x';")
    shell(tmp_path / "plain.db", "UPDATE pkint SET v = 'x';")
    peer.drain()
    peer.app.close()
    peer.replica.remove()
    dumps = [shell(tmp_path / name, ".dump") for name in ("0.db", "plain.db")]
    assert dumps[0] == dumps[1]
