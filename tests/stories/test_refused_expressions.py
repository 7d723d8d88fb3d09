"""Expressions that fail for some rows, made on one side of a split while the other side writes such rows.

SQLite's errors for one row or one definition refuse that row or that definition, on every node, and nothing else.
"""

from __future__ import annotations

import tempfile
from itertools import pairwise

import apsw
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from mycomesh.sync.errors import StatementError
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.storage import user_table
from tests.sync.machine import NUMBERS, Mail
from tests.sync.peers import converge
from tests.sync.scale import examples
from tests.sync.templates import equal_peers

# Most fail for some of the values below, each in its own way; some SQLite takes nowhere.
EXPRESSIONS = (
    "json_extract({}, '$.a')",
    "abs({})",
    "length(zeroblob({}))",
    "zeroblob({})",
    "printf('%*d', {}, 1)",
    "date({})",
    "json_set({}, '$.a', 1, 'b')",
    "unhex({}) IS NULL",
    "sqlite_version() || {}",
    "{} LIKE a ESCAPE b",
    "{} + 1",
    "CASE WHEN {} THEN json(b) END",
    "random() + {}",
)
VALUES = (
    "NULL",
    "1",
    "0",
    "-9223372036854775808",
    "3000000000",
    "70000000",
    "'now'",
    "'no json'",
    "'{{}}'",
    "x'00'",
    "'ab'",
    "1.5",
    "'[' || substr(hex(zeroblob(3000)), 1, 3000)",
)
POISON = {
    "malformed JSON": ("json_extract(doc, '$.a')", "'no json'", "'{}'"),
    "integer overflow": ("abs(doc)", "-9223372036854775808", "1"),
    "string or blob too big": ("zeroblob(doc)", "3000000000", "1"),
    "non-deterministic use of date": ("date(doc)", "'now'", "'2020-01-01'"),
}
FORMS = {
    "index": "CREATE TABLE d(id INTEGER PRIMARY KEY, doc); CREATE INDEX i ON d({})",
    "unique index": "CREATE TABLE d(id INTEGER PRIMARY KEY, doc); CREATE UNIQUE INDEX i ON d({})",
    "partial index": "CREATE TABLE d(id INTEGER PRIMARY KEY, doc); CREATE INDEX i ON d(id) WHERE {} IS NOT 7",
}
DEFINITIONS = {
    "check": "CREATE TABLE d(id INTEGER PRIMARY KEY, doc, CHECK({} IS NOT 7))",
    "stored": "CREATE TABLE d(id INTEGER PRIMARY KEY, doc, g AS ({}) STORED)",
    "text key": "CREATE TABLE d(id TEXT PRIMARY KEY, doc, CHECK({} IS NOT 7)) WITHOUT ROWID",
    "keyless": "CREATE TABLE d(id, doc, CHECK({} IS NOT 7))",
}


@pytest.mark.parametrize("error", POISON)
@pytest.mark.parametrize("form", FORMS)
def test_row_for_which_expression_fails_is_parked_alone(pair, form, error):
    one, two = pair
    expression, poison, good = POISON[error]
    one.sql(FORMS[form].format(expression))
    two.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    two.sql(f"INSERT INTO d VALUES(1, {good}), (2, {poison}), (3, NULL)")
    converge(pair)
    (parked,) = one.recorded("mycomesh_parked")
    assert error in str(parked)
    assert len(one.sql("SELECT * FROM d")) == len(two.sql("SELECT * FROM d")) - 1
    two.sql(f"UPDATE d SET doc = {good.replace('1', '2').replace('{}', '[]')} WHERE id = 2")
    converge(pair)
    assert one.recorded("mycomesh_parked") == []
    assert one.sql("SELECT id, doc FROM d ORDER BY 1") == two.sql("SELECT id, doc FROM d ORDER BY 1")
    assert one.sql("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("error", POISON)
@pytest.mark.parametrize("form", DEFINITIONS)
def test_definition_that_fails_for_a_row_parks_it(pair, form, error):
    """A rebuild on one side of a split: the row waits there, and the node that has it keeps its definition and says why."""
    one, two = pair
    expression, poison, good = POISON[error]
    one.sql(DEFINITIONS[form].format("1"))
    converge(pair)
    two.sql(f"INSERT INTO d(id, doc) VALUES(1, {good}), (2, {poison}), (3, NULL)")
    two.drain()
    one.wall_ms += 1_000
    rebuilt = DEFINITIONS[form].replace("TABLE d(", "TABLE n(").format(expression)
    copied = "INSERT INTO n(id, doc) SELECT id, doc FROM d; DROP TABLE d; ALTER TABLE n RENAME TO d"
    one.shell(f"BEGIN; {rebuilt}; {copied}; COMMIT;")
    converge(pair)
    (parked,) = one.recorded("mycomesh_parked")
    assert error in str(parked)
    (note,) = [table.note for table in two.replica.status().tables if table.name == "d"]
    if form == "stored":  # each node keeps its own
        assert note.startswith("definitions differ: g AS (1) here alone")
    else:
        assert note == f"keeps its definition, the mesh has another: {note.rpartition(': ')[2]}"
        assert error in note
    assert [len(peer.sql("SELECT * FROM d")) for peer in pair] == [2, 3]
    two.sql(f"UPDATE d SET doc = {good.replace('1', '2').replace('{}', '[]')} WHERE id = 2")
    converge(pair)
    assert one.recorded("mycomesh_parked") == []
    assert one.sql("SELECT id, doc FROM d ORDER BY 1") == two.sql("SELECT id, doc FROM d ORDER BY 1")
    assert [peer.sql("PRAGMA integrity_check") for peer in pair] == [[("ok",)]] * 2


@pytest.mark.parametrize(
    "how",
    [
        "changed by its writer",
        "changed by a third",
        "written where it waits",
        "index dropped",
        "index dropped by a peer",
    ],
)
def test_parked_row_enters_at_once_when_it_can(equals, how):
    """Without a wait for another message: the change that removes the cause also shows the row."""
    one, two, three = peers = equals(
        3, "CREATE TABLE d(id INTEGER PRIMARY KEY, doc); INSERT INTO d VALUES(1, '{}'), (2, '{}')"
    )
    one.sql("CREATE INDEX i ON d(json_extract(doc, '$.a'))")
    three.take(one.drain(), one.node_id)
    two.sql("UPDATE d SET doc = 'no json' WHERE id = 2")
    bundles = two.drain()
    for peer in (one, three):
        peer.take(bundles, two.node_id)
    assert "malformed JSON" in str(one.recorded("mycomesh_parked"))
    if how == "written where it waits":
        one.sql("INSERT INTO d VALUES(2, '[2]')")
        one.drain()
    elif how == "index dropped":
        one.sql("DROP INDEX i")
        one.drain()
    elif how == "index dropped by a peer":
        three.replica.migrate("DROP INDEX i", three.wall_ms)
        one.take(three.drain(), three.node_id)
    else:
        other = two if how == "changed by its writer" else three
        other.sql(
            "INSERT OR REPLACE INTO d VALUES(2, '[2]')" if other is three else "UPDATE d SET doc = '[2]' WHERE id = 2"
        )
        one.take(other.drain(), other.node_id)
    assert one.recorded("mycomesh_parked") == []
    doc = "no json" if how.startswith("index dropped") else "[2]"
    assert one.sql("SELECT doc FROM d WHERE id = 2") == [(doc,)]
    converge(peers)
    showing = (one, two) if how == "index dropped" else peers  # a program's DROP INDEX does not travel
    assert [peer.sql("SELECT * FROM d ORDER BY 1") for peer in showing] == [[(1, "{}"), (2, doc)]] * len(showing)


def test_update_for_which_expression_fails_parks_its_row(pair):
    one, two = pair
    two.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc); INSERT INTO d VALUES(1, '{}')")
    converge(pair)
    one.sql("CREATE INDEX i ON d(json_extract(doc, '$.a'))")
    two.sql("UPDATE d SET doc = 'no json'")
    one.take(two.drain(), two.node_id)
    assert "malformed JSON" in str(one.recorded("mycomesh_parked"))
    assert one.sql("SELECT * FROM d") == []
    assert one.sql("PRAGMA integrity_check") == [("ok",)]


def test_an_index_that_fails_for_a_row_is_refused(pair):
    one, two = pair
    one.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    converge(pair)
    two.sql("INSERT INTO d VALUES(1, 'no json')")
    two.drain()
    one.sql("CREATE INDEX i ON d(json_extract(doc, '$.a'))")
    two.take(one.drain(), one.node_id)
    assert two.sql("SELECT name FROM pragma_index_list('d')") == []
    notes = {table.name: table.note for table in two.replica.status().tables}
    assert any("not created: malformed JSON" in note for note in notes.values()), notes
    converge(pair)
    assert one.digests() == two.digests()


def test_a_column_that_fails_for_a_row_is_refused(pair):
    one, two = pair
    one.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    converge(pair)
    two.sql("INSERT INTO d VALUES(1, 'no json')")
    one.sql("ALTER TABLE d ADD COLUMN g AS (json_extract(doc, '$.a'))")
    converge(pair)
    assert two.sql("SELECT * FROM d") == [(1, "no json")]
    assert one.sql("SELECT * FROM d") == []
    assert "malformed JSON" in str(one.recorded("mycomesh_parked"))


def test_a_rows_error_keeps_the_full_text_index_on(pair):
    one, two = pair
    one.sql(
        "CREATE TABLE d(id INTEGER PRIMARY KEY, doc);"
        "CREATE VIRTUAL TABLE f USING fts5(doc, content='d', content_rowid='id');"
        "CREATE TRIGGER di AFTER INSERT ON d BEGIN INSERT INTO f(rowid, doc) VALUES(NEW.id, NEW.doc); END"
    )
    two.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    converge(pair)
    one.sql("CREATE INDEX i ON d(json_extract(doc, '$.a'))")
    one.drain()
    two.sql("INSERT INTO d VALUES(1, 'no json')")
    one.take(two.drain(), two.node_id)
    two.sql('INSERT INTO d VALUES(2, \'{"b":"word"}\')')
    one.take(two.drain(), two.node_id)
    assert "malformed JSON" in str(one.recorded("mycomesh_parked"))
    assert one.sql("SELECT rowid FROM f('word')") == [(2,)]


def test_error_that_undoes_transaction_refuses_message_alone(pair, monkeypatch):
    one, two = pair
    one.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    converge(pair)
    two.sql("INSERT INTO d VALUES(1, 1)")
    bundles = two.drain()

    def roll_back(self, names, values, most):
        self._store.db.execute("ROLLBACK")
        error = apsw.NoMemError("out of memory")
        self._check_transaction(error)

    with monkeypatch.context() as patch:
        patch.setattr(user_table.UserTable, "insert_each", roll_back)
        with pytest.raises(StatementError, match="undone the whole transaction"):
            one.take(bundles, two.node_id)
    one.take(bundles, two.node_id)
    assert one.sql("SELECT * FROM d") == [(1, 1)]


def test_what_expression_may_make_of_row_is_limited(pair, monkeypatch):
    monkeypatch.setattr(user_table, "INSERTED_BYTES_MAX", 1_000)
    one, two = pair
    one.sql("CREATE TABLE d(id INTEGER PRIMARY KEY, doc)")
    converge(pair)
    one.sql("CREATE INDEX i ON d(zeroblob(doc))")
    one.drain()
    two.sql("INSERT INTO d VALUES(1, 900), (2, 1100), (3, 1)")
    one.take(two.drain(), two.node_id)
    assert [row[0] for row in one.sql("SELECT id FROM d")] == [1, 3]
    two.sql("INSERT INTO d VALUES(4, zeroblob(5000))")  # its own values are no expression's
    one.take(two.drain(), two.node_id)
    assert [row[0] for row in one.sql("SELECT id FROM d")] == [1, 3, 4]


class Refusing(Mail):
    """Three replicas whose people make tables, columns and indexes with expressions, and write rows for which they fail."""

    def __init__(self):
        super().__init__(tempfile.TemporaryDirectory(prefix="mycomesh-expressions-"))

    @initialize(clocks=st.lists(st.integers(1_000, 1_020), min_size=3, max_size=3))
    def start(self, clocks):
        tables = (
            "CREATE TABLE t(id INTEGER PRIMARY KEY, v, a, b); CREATE TABLE w(id TEXT PRIMARY KEY, v, a, b) WITHOUT ROWID;"
            "CREATE TABLE bag(id, v, a, b)"
        )
        self.peers += equal_peers(self.folder.name, 3, tables, wall_ms=1_000)
        for peer, wall_ms in zip(self.peers, clocks, strict=True):
            peer.wall_ms = wall_ms

    def attempt(self, number, sql):
        try:
            self.peers[number].sql(sql)
        except REFUSALS:  # the application is refused what its own file cannot hold
            return

    @rule(number=NUMBERS, table=st.sampled_from(["t", "w", "bag", "n0", "n1"]), key=st.integers(1, 6),
          a=st.sampled_from(VALUES), b=st.sampled_from(VALUES), update=st.booleans(), publish=st.booleans())  # fmt: skip
    def write(self, number, table, key, a, b, update, publish):
        self.count += 1
        sql = f"INSERT OR REPLACE INTO {table}(id, v, a, b) VALUES({key}, 'w{self.count}', {a}, {b})"
        if update:
            sql = f"UPDATE {table} SET v = 'w{self.count}', a = {a}, b = {b} WHERE id = {key}"
        self.attempt(number, sql)
        if publish:
            self.publish(number)

    @rule(number=NUMBERS, form=st.sampled_from([
        "CREATE INDEX i{n} ON {t}({e})",
        "CREATE UNIQUE INDEX i{n} ON {t}({e}, b)",
        "CREATE INDEX i{n} ON {t}(b) WHERE {e}",
        "ALTER TABLE {t} ADD COLUMN c{n} AS ({e})",
        "ALTER TABLE {t} ADD COLUMN c{n} AS ({e}) CHECK (c{n} IS NOT 1)",
        "ALTER TABLE {t} ADD COLUMN c{n} CHECK ({e} IS NOT 1)",
        "ALTER TABLE {t} ADD COLUMN c{n} DEFAULT 1 CHECK ({e} IS NOT c{n})",
        "CREATE TABLE n{n}(id INTEGER PRIMARY KEY, v, a, b, CHECK ({e} IS NOT 1))",
        "CREATE TABLE n{n}(id INTEGER PRIMARY KEY, v, a, b, g AS ({e}) STORED)",
        "CREATE TABLE n{n}(id INTEGER PRIMARY KEY, v, a, b DEFAULT 2, g AS ({e}) UNIQUE)",
    ]), table=st.sampled_from(["t", "w", "bag"]), n=st.integers(0, 1), expression=st.sampled_from(EXPRESSIONS),
        column=st.sampled_from("ab"))  # fmt: skip
    def define(self, number, form, table, n, expression, column):
        self.attempt(number, form.format(t=table, n=n, e=expression.format(column)))

    def rows(self, peer):
        """The rows that a file shows or has parked, by table."""
        names = {
            table.spec.name: table.table_id for name, table in peer.replica.tables.items() if name != "mycomesh_schema"
        }
        shown = {name: peer.sql(f'SELECT count(*) FROM "{name}"')[0][0] for name in names}
        parked = dict(peer.sql("SELECT id, count(*) FROM mycomesh_parked GROUP BY id"))
        return {name: shown[name] + parked.get(number, 0) for name, number in names.items()}

    def check(self):
        converge(self.peers)
        for first, second in pairwise(self.peers):
            # A table whose expressions are too costly is on the node that made it, alone.
            for mine, theirs in ((first.digests(), second.digests()), (self.rows(first), self.rows(second))):
                assert {name: mine[name] for name in mine if name in theirs} == {
                    name: theirs[name] for name in theirs if name in mine
                }
        for peer in self.peers:
            assert peer.sql("PRAGMA integrity_check") == [("ok",)]
            peer.drain()
            assert peer.scrub().found == 0


@pytest.mark.slow
def test_no_expression_and_no_row_stops_a_replica():
    """A sample of 40 runs of 25 steps, some 12 s; MYCOMESH_TEST_SCALE tries as many more as it says."""
    run_state_machine_as_test(Refusing, settings=examples(40, sample=20, stateful_step_count=25))
