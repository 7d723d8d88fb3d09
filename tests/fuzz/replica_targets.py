"""Fuzz targets that reach a file: definitions as a member may state them, and changes as a member may write them.

Whatever comes, only the package's own errors leave the replica, SQLite finds its file whole, the node's own tables and sums hold,
the application can write, an honest batch arrives, and SQLite's work and memory stay within bounds. Replicas that take in the
same changes in another order are equal.
"""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from pathlib import Path

import apsw
from hypothesis import event
from hypothesis import strategies as st

from mycomesh.sync.errors import SyncError
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.storage import internal_tables
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.fuzz.registry import target
from tests.sync.peers import WALL_MS, Peer, assert_equal, converge

__all__ = []

MEMBER = b"\x77" * 16
HLC = (WALL_MS + 1_000) << 16
# Of SQLite, for all that one example brings: virtual-machine steps in thousands, and bytes.
KILOSTEPS_MAX = 20_000
MEMORY_BYTES_MAX = 160 << 20

TABLES = """
CREATE TABLE d(id INTEGER PRIMARY KEY, doc, n INTEGER);
CREATE TABLE words(k TEXT PRIMARY KEY COLLATE NOCASE, doc, n UNIQUE) WITHOUT ROWID;
CREATE TABLE bag(doc, n);
CREATE TABLE strict(id INTEGER PRIMARY KEY, doc TEXT, n INT CHECK(n < 50), g INT AS (n + 1)) STRICT;
CREATE TABLE pair(a, b, doc, n DEFAULT 7, PRIMARY KEY(a, b));
CREATE INDEX by_doc ON bag(json_extract(doc, '$.a')) WHERE n > 0;
CREATE UNIQUE INDEX once ON pair(n) WHERE n IS NOT 3;
INSERT INTO d VALUES(1, '{}', 1), (2, 'no json', 2), (3, NULL, -9223372036854775808), (4, x'00', 1.5);
INSERT INTO words VALUES('a', 'b', 1), ('c', NULL, 2);
INSERT INTO bag VALUES('{}', 1), ('[1]', 2);
INSERT INTO strict VALUES(1, 'x', 1);
INSERT INTO pair VALUES(1, 2, 'x', 1), ('1', 2.0, 'y', 2)
"""
NAMES = ("d", "words", "bag", "strict", "pair")


@functools.cache
def _template(number):
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    peer = Peer(folder / "template.db", number)
    peer.sql(TABLES)
    peer.drain()
    peer.close()
    return folder / "template.db"


@contextlib.contextmanager
def _peers(count):
    """Peers with the same rows, each its own copy of one file: the copies take sites of their own."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        peers = []
        try:
            for number in range(count):
                path = Path(folder) / f"{number}.db"
                shutil.copy(_template(0), path)
                peers.append(Peer(path, number))
            yield peers
        finally:
            for peer in peers:
                peer.close()


@contextlib.contextmanager
def _bounded(peer):
    """Count SQLite's steps and memory while the replica takes something in."""
    ticks = [0]
    apsw.memory_high_water(True)

    def tick():
        ticks[0] += 1
        return ticks[0] > KILOSTEPS_MAX

    peer.replica.store.db.set_progress_handler(tick, 1_000)
    try:
        yield
    finally:
        peer.replica.store.db.set_progress_handler(None)
    assert ticks[0] <= KILOSTEPS_MAX, "SQLite computes for too long"
    assert apsw.memory_high_water() < MEMORY_BYTES_MAX, f"{apsw.memory_high_water()} bytes"


def _take(peer, bundle, *, live=True, repair=False):
    """Take in a bundle, which may be refused."""
    try:
        payload = bundle.encode()
    except (TypeError, ValueError, OverflowError):
        return False  # no sender can say it
    with _bounded(peer):
        try:
            origin = {"origin": MEMBER} if live else {"sender": MEMBER}
            peer.replica.apply(payload, peer.wall_ms + 2_000, repair=repair, **origin)
        except SyncError as error:
            _assert_one_line(error)
            return False
    return True


def _assert_one_line(error):
    assert str(error)
    assert "\n" not in str(error).strip()
    event(type(error).__name__)


def _assert_sound(peer):
    """The file is whole, and the node and the application go on."""
    assert peer.sql("PRAGMA integrity_check") == [("ok",)]
    assert internal_tables.damaged(peer.app) == []
    for table in peer.replica.tables.values():
        count, low, high = table.log.read_sums()
        assert (table.log.count, *table.log.sums) == (count, low, high), table.spec.name
    peer.drain()
    listing = (
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT GLOB 'mycomesh_*'"
    )
    for (name,) in peer.sql(listing):
        quoted = name.replace('"', '""')
        with contextlib.suppress(UnicodeDecodeError):  # text that is not UTF-8 is a value like any other
            peer.sql(f'SELECT * FROM "{quoted}" LIMIT 3')
    before = peer.digests()
    peer.close()
    peer.open()
    peer.drain()
    assert peer.digests() == before


# ---- definitions


EXPRESSIONS = (
    "1",
    "n",
    "doc",
    "n + 1",
    "json_extract(doc, '$.a')",
    "abs(n)",
    "zeroblob(n)",
    "hex(zeroblob(499999990))",
    "printf('%*d', n, 1)",
    "random()",
    "length(doc) < 50",
    "n < 50",
    "doc LIKE 'a%' ESCAPE '\\\\'",
    "(SELECT count(*) FROM d)",
    "n IN (SELECT id FROM d)",
    "instr(doc, doc)",
    "load_extension('x')",
    "doc || doc || doc",
    "replace(hex(zeroblob(3000)), '00', hex(zeroblob(3000)))",
    "CASE WHEN n THEN json(doc) END",
    "RAISE(ABORT, 'no')",
    "date(doc)",
    "nosuch(n)",
    "?1",
    '"nosuch"',
    "'text'",
    "x'00ff'",
    "9223372036854775808",
    "1e999",
    "likelihood(n, 0.5)",
    "doc MATCH 'a'",
    "doc REGEXP 'a'",
    "n COLLATE nosuch",
    "group_concat(n)",
    "row_number() OVER ()",
    "(n, doc) < (1, 2)",
    "doc -> '$.a'",
    "CAST(n AS TEXT)",
    "NULL",
    "sqlite_version()",
    "last_insert_rowid()",
    "(((((((((((((((((((((((((((((((((((n)))))))))))))))))))))))))))))))))))",
)
TYPES = ("", "INTEGER", "INT", "TEXT", "BLOB", "REAL", "ANY", "VARCHAR(10)", "GENERATED", "DATETIME DEFAULT")
COLUMN_NAMES = (
    "id",
    "doc",
    "n",
    "g",
    "x",
    '"odd name"',
    "[a]b]",
    "rowid",
    "oid",
    '"',
    "\u00e9",
    '"new\nline"',
    "mycomesh_x",
)
TABLE_NAMES = (*NAMES, "fresh", "FRESH", '"two words"', "sqlite_x", "mycomesh_meta", "mycomesh_pending_1", "main.fresh")
TABLE_NAMES += ("temp.fresh", "d2", '"x""; DROP TABLE d; --"')
TAILS = (
    "",
    "",
    "",
    " WITHOUT ROWID",
    " STRICT",
    " WITHOUT ROWID, STRICT",
    ";",
    "; DROP TABLE d",
    " -- end",
    " /* open",
)
TAILS += ("; SELECT 1", " AS SELECT * FROM d", "; CREATE TABLE other(a)", "; PRAGMA writable_schema = 1", "\0")
expressions = st.sampled_from(EXPRESSIONS)


@st.composite
def _column(draw):
    name, kind = draw(st.sampled_from(COLUMN_NAMES)), draw(st.sampled_from(TYPES))
    clause = draw(
        st.sampled_from(
            (
                "",
                "",
                "PRIMARY KEY",
                "UNIQUE",
                "NOT NULL",
                "NOT NULL DEFAULT 1",
                "DEFAULT ({})",
                "CHECK({})",
                "AS ({})",
                "AS ({}) STORED",
                "COLLATE NOCASE",
                "COLLATE nosuch",
                "REFERENCES d(id) ON DELETE CASCADE",
                "PRIMARY KEY AUTOINCREMENT",
                "UNIQUE ON CONFLICT REPLACE",
                "PRIMARY KEY ON CONFLICT ROLLBACK",
            )
        )
    )
    return f"{name} {kind} {clause.format(draw(expressions))}"


@st.composite
def _create_table(draw):
    head = draw(
        st.sampled_from(
            ("CREATE TABLE", "CREATE TABLE", "CREATE TABLE IF NOT EXISTS", "CREATE TEMP TABLE", "create table")
        )
    )
    columns = draw(st.lists(_column(), min_size=1, max_size=4))
    more = (
        "PRIMARY KEY(id)",
        "PRIMARY KEY(id, n)",
        "UNIQUE(n, doc)",
        "CHECK({})",
        "FOREIGN KEY(n) REFERENCES words(n)",
    )
    columns += [draw(st.sampled_from(more)).format(draw(expressions)) for _ in range(draw(st.integers(0, 1)))]
    return f"{head} {draw(st.sampled_from(TABLE_NAMES))}({', '.join(columns)}){draw(st.sampled_from(TAILS))}"


@st.composite
def _create_index(draw):
    unique = draw(st.sampled_from(("", "UNIQUE ")))
    terms = ", ".join(draw(st.lists(st.sampled_from(("n", "doc", "id")) | expressions, min_size=1, max_size=3)))
    where = draw(st.sampled_from(("", " WHERE {}"))).format(draw(expressions))
    name = draw(st.sampled_from(("i1", "i2", "by_doc", "once", "mycomesh_rows_1", "sqlite_autoindex_d_1", "main.i3")))
    owner = draw(st.sampled_from((*NAMES, "fresh", "mycomesh_meta", "sqlite_schema")))
    return f"CREATE {unique}INDEX {name} ON {owner}({terms}){where}{draw(st.sampled_from(TAILS))}"


@st.composite
def _mangled(draw, texts):
    """Draw one of the texts with a token gone, doubled or moved, or as it is."""
    parts = draw(texts).split(" ")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(parts) - 1))
        match draw(st.sampled_from(("drop", "twice", "move", "junk"))):
            case "drop" if len(parts) > 1:
                del parts[at]
            case "twice":
                parts.insert(at, parts[at])
            case "move":
                parts.insert(draw(st.integers(0, len(parts) - 1)), parts.pop(at))
            case "junk":
                parts.insert(
                    at, draw(st.sampled_from(("(", ")", "'", '"', ",", "/*", "--", ";", "SELECT", "\u2028", "[", "`")))
                )
    return " ".join(parts)


@st.composite
def _fact(draw):
    table, column = (
        draw(st.sampled_from((*NAMES, "fresh", "mycomesh_schema"))),
        draw(st.sampled_from(("id", "doc", "n", "g", "x"))),
    )
    named = draw(
        st.sampled_from(
            (f'["{table}"]', f'["{table}", "{column}"]', "[]", "[1]", '["', "x", f'["{table}", "{column}", 1]')
        )
    )
    texts = _mangled(_create_table()) | _mangled(_create_index())
    match draw(
        st.sampled_from(
            ("table", "table", "table", "index", "index", "generated", "counter", "policy", "name", "floor", "odd")
        )
    ):
        case "table":
            return [
                "table",
                draw(st.sampled_from((*NAMES, "fresh", "d2", "two words"))),
                draw(_mangled(_create_table())),
            ]
        case "index":
            return [
                "index",
                f"index:{draw(st.sampled_from(('i1', 'i2', 'by_doc', 'once')))}",
                draw(_mangled(_create_index()) | st.just("")),
            ]
        case "generated":
            text = draw(
                st.sampled_from(
                    ("{} AS ({})", "{} INT GENERATED ALWAYS AS ({}) STORED", "", "{} AS ({}), y", "{} AS ({})) --")
                )
            )
            return ["generated", f"generated:{named}", text.format(column, draw(expressions))]
        case "policy":
            return ["policy", f"policy:{named}", draw(st.sampled_from(("keep-both", "same-row", "")))]
        case "name":
            return ["name", f"name:{named}", draw(st.sampled_from((*TABLE_NAMES, "doc", "n", "", "x" * 300)))]
        case "floor":
            return ["floor", "floor", draw(st.sampled_from(("3.31", "3.99", "x", "", "9" * 400)))]
        case "odd":
            anything = st.none() | st.integers() | st.text(max_size=5) | texts
            return [draw(anything), draw(st.text(max_size=9) | st.sampled_from(("d", "index:i1"))), draw(anything)]
        case kind:
            return [kind, f"{kind}:{named}", ""]


def _facts_bundle(facts, hlc):
    last = {name: [kind, name, sql] for kind, name, sql in facts}
    rows = list(last.values())
    group = Group(MEMBER, Kind.INSERT, ("kind", "name", "sql"), [hlc + n for n in range(len(rows))], None, rows, None)
    return Bundle([Section(SCHEMA_TABLE, [(MEMBER, hlc - 1, hlc + len(rows))], [group])])


@target(st.lists(st.lists(_fact(), min_size=1, max_size=6), min_size=1, max_size=3))
def facts(batches):
    """Check that no definition of a member stops a node, costs it much, or reaches its own tables or the user's rows."""
    with _peers(1) as (peer,):
        kept = {name: peer.sql(f"SELECT count(*) FROM {name}") for name in NAMES}
        for number, batch in enumerate(batches):
            _take(peer, _facts_bundle(batch, HLC + 100 * number))
            peer.drain()
        _assert_sound(peer)
        here = {spec.name for spec in (table.spec for table in peer.replica.tables.values())}
        for name in NAMES:
            if name in here:
                parked = peer.sql("SELECT count(*) FROM mycomesh_parked WHERE table_name = ?", name)
                assert peer.sql(f"SELECT count(*) FROM {name}")[0][0] + parked[0][0] >= kept[name][0][0]


# ---- changes


values = st.sampled_from(
    (None, 0, 1, 2, 3, -1, 60, 1.0, -0.0, 1.5, 1e308, (1 << 63) - 1, -(1 << 63), "", "a", "A", "a ", "b")
)
values |= st.sampled_from(
    ("{}", "[1]", '{"a":1}', "no json", "\0", "\ud7ff", b"", b"\x00", b"a", "x" * 3_000, b"y" * 3_000)
)
values |= st.sampled_from(([b"\xff"], [b"a"], [b"\xff", b"\xff"], [], True, False, (1 << 64), -(1 << 64), float("nan")))
COLUMNS = {"d": "id doc n", "words": "k doc n", "bag": "doc n", "strict": "id doc n g", "pair": "a b doc n"}
KEYS = {"d": ("id",), "words": ("k",), "bag": (), "strict": ("id",), "pair": ("a", "b")}


@st.composite
def _group(draw, table, hlc):
    kind = draw(st.sampled_from(Kind))
    names = (*COLUMNS.get(table, "id doc n").split(), "unknown", "n\0" + "77" * 8, "")
    columns = set(draw(st.lists(st.sampled_from(names), max_size=4, unique=True)))
    if draw(st.integers(0, 4)):  # mostly what belongs to the table
        columns = set(draw(st.lists(st.sampled_from(names[:-3]), max_size=4, unique=True)))
        columns |= set(KEYS.get(table, ())) if kind is Kind.INSERT else set()
    columns = () if kind is Kind.DELETE else tuple(sorted(columns))
    count = draw(st.integers(1, 5))
    key = st.sampled_from(
        (1, 2, 3, 4, 5, 7, b"\x81\x61a", b"\x81\x61c", b"\x82\x01\x02", b"\x00" + MEMBER + hlc.to_bytes(8, "big"))
    )
    key |= st.sampled_from((0, -1, b"", b"\x81", b"\x01" + bytes(8), b"\x00" * 25, b"\x82\x61\x31\x02", (1 << 63) - 1))
    keys = None if kind is Kind.INSERT and draw(st.booleans()) else [draw(key) for _ in range(count)]
    rows = [[draw(values) for _ in columns] for _ in range(count)]
    priors = None
    if draw(st.integers(0, 3)) == 0:
        part = st.tuples(st.none() | st.just(columns[:1]), st.sampled_from((MEMBER, b"A" * 16)), st.integers(0, HLC))
        priors = [draw(st.lists(part, max_size=2)) for _ in range(count)]
    return Group(MEMBER, kind, columns, [hlc + n for n in range(count)], keys, rows, priors)


@st.composite
def _changes(draw):
    """Draw bundles of one member, no stamp twice."""
    bundles, hlc = [], HLC
    for _ in range(draw(st.integers(1, 4))):
        sections = []
        for table in draw(st.lists(st.sampled_from((*NAMES, *NAMES, "unknown")), min_size=1, max_size=3, unique=True)):
            first, groups = hlc, []
            for _ in range(draw(st.integers(1, 3))):
                groups.append(draw(_group(table, hlc)))
                hlc += 10
            sections.append(Section(table, [(MEMBER, first - 1, hlc)], groups))
        bundles.append(Bundle(sections))
    return bundles


@target(_changes(), st.randoms(use_true_random=False), st.booleans())
def changes(bundles, order, live):
    """Check that no change of a member stops a node, and that two which get them in another order become equal."""
    with _peers(2) as (one, two):
        for bundle in bundles:
            _take(one, bundle, live=live)
        _assert_sound(one)
        shuffled = [*bundles, *bundles[:1]]
        order.shuffle(shuffled)
        for bundle in shuffled:
            _take(two, bundle, live=live)
        _assert_sound(two)
        one.sql("INSERT INTO d(id, doc) VALUES(1000, 'honest')")
        two.sql("UPDATE d SET doc = 'honest' WHERE id = 1")
        one.drain()
        two.drain()
        converge([one, two])
        assert_equal(one, two)
        assert one.sql("SELECT doc FROM d WHERE id = 1000") == [("honest",)]


@target(_changes())
def repairs(bundles):
    """Check the same of rows that a repair brings, twice, and with other values for one stamp."""
    with _peers(1) as (one,):
        for bundle in [*bundles, *reversed(bundles)]:
            _take(one, bundle, live=False, repair=True)
        for group in (group for bundle in bundles for section in bundle.sections for group in section.groups):
            group.rows = [list(reversed(row)) for row in group.rows]
        for bundle in bundles:
            _take(one, bundle, live=False, repair=True)
        _assert_sound(one)
