"""Text of every encoding: files whose text is UTF-16, definitions and keys that are not UTF-8, what collations make of them."""

from __future__ import annotations

import subprocess

import pytest

from mycomesh.sync.admin.verify import compare_files
from mycomesh.sync.errors import DatabaseError
from tests.sync.peers import Peer, assert_equal, catch_up, converge, shell
from tests.sync.shapes import SHAPES


def notes(peer):
    return {table.name: table.note for table in peer.replica.status().tables if table.note}


def rows(peer):
    """Every row as a client reads it: the bytes of text differ between files of two encodings."""
    return {shape.name: sorted(peer.sql(f"SELECT * FROM {shape.t}"), key=repr) for shape in SHAPES}


def written(path, text):
    """Has the stock shell run a script that is not UTF-8."""
    subprocess.run(["sqlite3", "-batch", str(path)], input=text.encode("latin-1"), check=True, timeout=60)


@pytest.fixture(params=["UTF-16le", "UTF-16be"])
def wide(request, tmp_path):
    """A replica whose text is UTF-16, and one whose text is not."""
    shell(tmp_path / "0.db", f"PRAGMA encoding = '{request.param}'; CREATE TABLE first(v);")
    peers = [Peer(tmp_path / f"{number}.db", number, wall_ms=1_000) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


def test_a_file_of_utf_16_replicates_every_shape(wide, tmp_path):
    one, two = wide
    one.close()
    script = [shape.ddl for shape in SHAPES]
    script += [shape.insert(number, f"'wört {number}'", f"'ü{number}'") for shape in SHAPES for number in range(3)]
    one.shell("; ".join(script) + ";")  # adopted below, and not captured
    one.open()
    converge([one, two])
    one.shell("; ".join(f"UPDATE {shape.t} SET v = v || '!' WHERE {shape.where(1)}" for shape in SHAPES) + ";")
    two.shell(
        "; ".join(f"DELETE FROM {shape.t} WHERE {shape.where(0)}; {shape.insert(4, repr('für'))}" for shape in SHAPES)
        + ";"
    )
    converge([one, two])
    assert rows(one) == rows(two)
    assert all(len(found) == 3 for found in rows(one).values())
    assert one.digests() == two.digests()
    assert one.scrub().found == two.scrub().found == 0
    with pytest.raises(DatabaseError, match="encodes its text as UTF-16"):
        list(compare_files(tmp_path / "0.db", tmp_path / "1.db", shown_max=1))


def test_text_broken_in_one_encoding_arrives_or_is_parked(wide):
    one, two = wide
    surrogate = "00d8" if one.sql("PRAGMA encoding") == [("UTF-16le",)] else "d800"
    one.shell(f"CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, CAST(x'{surrogate}' AS TEXT));")
    converge([one, two])
    assert two.sql("SELECT id, typeof(v), hex(v) FROM t") == [(1, "text", "EDA080")]
    two.shell("INSERT INTO t VALUES(2, CAST(x'ff41' AS TEXT)), (3, 'whole');")
    converge([one, two])
    assert one.sql("SELECT id FROM t ORDER BY id") == [(1,), (3,)]
    [parked] = one.recorded("mycomesh_parked")
    assert parked[2] == "text that is not UTF-8 cannot be stored in a file whose encoding is UTF-16"
    assert one.digests() == two.digests()
    assert one.scrub().found == two.scrub().found == 0
    two.shell("UPDATE t SET v = 'fixed' WHERE id = 2;")
    converge([one, two])
    assert one.sql("SELECT v FROM t WHERE id > 1 ORDER BY id") == [("fixed",), ("whole",)]


@pytest.mark.parametrize(
    ("collation", "mine", "theirs"),
    [
        ("NOCASE", "'a' || char(0) || 'one'", "'A' || char(0) || 'two'"),
        ("NOCASE", "CAST(x'61ff' AS TEXT)", "CAST(x'41ff' AS TEXT)"),
        ("NOCASE", "CAST(x'c04100ff' AS TEXT)", "CAST(x'c0610062' AS TEXT)"),
        ("RTRIM", "CAST(x'61ff2020' AS TEXT)", "CAST(x'61ff' AS TEXT)"),
    ],
)
@pytest.mark.parametrize("rest", ["", " WITHOUT ROWID"])
def test_keys_that_a_collation_calls_equal_are_one_row(pair, collation, mine, theirs, rest):
    one, two = pair
    one.sql(f"CREATE TABLE t(k TEXT COLLATE {collation} PRIMARY KEY NOT NULL, v){rest}")
    converge(pair)
    assert one.sql(f"SELECT {mine} = {theirs} COLLATE {collation}") == [(1,)]
    one.shell(f"INSERT INTO t VALUES({mine}, 'mine');")
    two.wall_ms += 1
    two.shell(f"INSERT INTO t VALUES({theirs}, 'theirs');")
    converge(pair)
    assert_equal(one, two)
    assert one.sql("SELECT v FROM t") == [("theirs",)]
    assert one.scrub().found == two.scrub().found == 0


def test_a_length_in_characters_is_not_one_in_bytes(pair):
    """NOCASE compares up to a NUL, then the bytes that follow by their number alone."""
    one, two = pair
    one.sql("CREATE TABLE t(k TEXT COLLATE NOCASE PRIMARY KEY NOT NULL, v)")
    converge(pair)
    one.sql("INSERT INTO t VALUES('a' || char(0) || 'bb', 1)")
    two.sql("INSERT INTO t VALUES('A' || char(0) || 'é', 2), ('A' || char(0) || 'c', 3)")
    converge(pair)
    assert_equal(one, two)
    assert len(one.sql("SELECT * FROM t")) == 2


def test_a_definition_with_comments_that_are_not_utf8_replicates(tmp_path):
    written(
        tmp_path / "0.db",
        "CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE /* größe */, w DEFAULT 7 -- hübsch\n); INSERT INTO t VALUES(1, 'a', 2);"
        "CREATE UNIQUE INDEX i ON t(lower(w) /* ü */); CREATE VIEW seen AS SELECT 'ö' AS o;"
        "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT 'ä'; END;",
    )
    one, two = (Peer(tmp_path / f"{number}.db", number, wall_ms=1_000) for number in range(2))
    converge([one, two])
    assert_equal(one, two)
    assert notes(one) == {}
    written(one.path, "REPLACE INTO t VALUES(2, 'b', 2); ALTER TABLE t ADD COLUMN x /* ß */ DEFAULT 'x';")
    converge([one, two])
    assert_equal(one, two)
    assert two.sql("SELECT * FROM t") == [(2, "b", 2, "x")]
    assert one.replica.migrate("ALTER TABLE t DROP COLUMN x", one.wall_ms)
    converge([one, two])
    assert_equal(one, two)
    one.close()
    two.close()


def test_a_definition_that_is_not_utf8_stays_local(tmp_path):
    written(
        tmp_path / "0.db",
        "CREATE TABLE größe(v); CREATE TABLE a(höhe); CREATE TABLE b(v DEFAULT 'ü'); CREATE TABLE c(v);"
        "CREATE INDEX ä ON c(v); CREATE TABLE d(v, CHECK(v <> 'ö')); CREATE TABLE e(v); CREATE INDEX i ON e(v) WHERE v <> 'ß';"
        "CREATE TABLE f(v); CREATE UNIQUE INDEX ö ON f(v);",
    )
    one, two = (Peer(tmp_path / f"{number}.db", number, wall_ms=1_000) for number in range(2))
    converge([one, two])
    written(one.path, "INSERT INTO größe VALUES(1); INSERT INTO a VALUES(1); INSERT INTO e VALUES(1), ('ß');")
    converge([one, two])
    told = notes(one)
    assert told["gr\ufffd\ufffde"] == "not replicated: its name is not UTF-8"
    assert set(told) == {"gr\ufffd\ufffde", "a", "b", "d", "f"}
    assert all(note.startswith("not replicated") and note.endswith("is not UTF-8") for note in told.values())
    assert set(two.tables()) == {"c", "e"}
    read = "SELECT hex(v) FROM e ORDER BY 1"
    assert one.sql(read) == two.sql(read) == [("31",), ("DF",)]
    one.close()
    one.open()
    catch_up(two, one)
    one.close()
    two.close()


@pytest.mark.parametrize("rest", ["", " WITHOUT ROWID"])
def test_a_respelt_broken_key_reaches_every_replica(pair, rest):
    one, two = pair
    one.shell(
        f"CREATE TABLE t(k TEXT COLLATE RTRIM PRIMARY KEY NOT NULL, v){rest};"
        " INSERT INTO t VALUES(CAST(x'61ff' AS TEXT), 1), ('b', 1);"
    )
    one.drain()
    one.shell("UPDATE t SET k = CAST(x'61ff20' AS TEXT) WHERE k > 'a' AND k <> 'b';")
    converge(pair)
    assert two.sql("SELECT typeof(k), hex(k) FROM t ORDER BY k") == [("text", "61FF20"), ("text", "62")]
    assert_equal(one, two)
