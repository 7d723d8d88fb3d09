"""Definitions as a member may state them, right and wrong: the facts that the target `facts` feeds to a replica."""

from __future__ import annotations

import json

from hypothesis import strategies as st

__all__ = ["FACTS", "NAMES"]

NAMES = ("d", "words", "bag", "strict", "pair", "numbered")  # tables of the replicas
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
def _create_view(draw):
    name = draw(st.sampled_from(("v1", "v2", "d", "mycomesh_v", "temp.v1")))
    source = draw(st.sampled_from((*NAMES, "v1", "v2", "fresh", "mycomesh_meta", "sqlite_schema", "json_each('[1]')")))
    forms = (
        "SELECT {} AS a, id FROM {}",
        "SELECT * FROM {1}, {1}",
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x, {} FROM c, {}",
        "SELECT {} FROM {} UNION SELECT 1",
        "VALUES({})",
    )
    body = draw(st.sampled_from(forms)).format(draw(expressions), source)
    return (
        f"CREATE VIEW {name}{draw(st.sampled_from(('', '', '(a)', '(a, a)')))} AS {body}{draw(st.sampled_from(TAILS))}"
    )


@st.composite
def _create_trigger(draw):
    name = draw(st.sampled_from(("t1", "t2", "mycomesh_t", "temp.t1")))
    when = draw(st.sampled_from(("AFTER INSERT", "BEFORE UPDATE OF doc", "AFTER DELETE", "INSTEAD OF INSERT")))
    owner = draw(st.sampled_from((*NAMES, "v1", "fresh", "mycomesh_schema", "mycomesh_pending_1")))
    guard = draw(st.sampled_from(("", " WHEN {}"))).format(draw(expressions))
    forms = (
        "INSERT INTO {1}(doc) VALUES({0})",
        "UPDATE {1} SET doc = {0}",
        "DELETE FROM {1} WHERE {0}",
        "SELECT RAISE(ABORT, 'no')",
        "INSERT OR REPLACE INTO mycomesh_meta VALUES('site', {0})",
        "SELECT {0}",
        "DELETE FROM mycomesh_schema",
    )
    steps = draw(st.lists(st.sampled_from(forms), min_size=1, max_size=3))
    body = "; ".join(step.format(draw(expressions), draw(st.sampled_from(NAMES))) for step in steps)
    return f"CREATE TRIGGER {name} {when} ON {owner}{guard} BEGIN {body}; END{draw(st.sampled_from(TAILS))}"


@st.composite
def _virtual(draw):
    """Draw the fact of an index with its triggers, most of which are refused."""
    index = draw(
        st.sampled_from(
            (
                "CREATE VIRTUAL TABLE x USING rtree(id, a, b)",
                "CREATE VIRTUAL TABLE x USING fts5(doc, content='d', content_rowid='id')",
                "CREATE VIRTUAL TABLE x USING fts5(doc)",
                "CREATE VIRTUAL TABLE x USING csv(filename='/etc/passwd')",
            )
        )
    )
    keep = "CREATE TRIGGER t1 AFTER INSERT ON d BEGIN INSERT INTO x(rowid, doc) VALUES(NEW.id, NEW.doc); END"
    triggers = draw(st.lists(st.just(keep) | _mangled(_create_trigger()), min_size=1, max_size=3))
    content = [draw(st.sampled_from((*NAMES, "fresh", "mycomesh_schema"))), draw(_mangled(st.just(index))), *triggers]
    return draw(
        st.sampled_from((json.dumps(content), json.dumps(content), json.dumps(content[:2]), index, "{}", "[[["))
    )


def _named(names, *parts):
    """Names of facts that begin with a word: mostly of the right form."""
    columns = st.sampled_from(("id", "doc", "n", "g", "x"))
    right = st.tuples(names, *([columns] * len(parts))).map(lambda found: json.dumps([*found]))
    odd = ("[]", "[1]", '["', "x", '["d", "doc", 1]', '["mycomesh_schema"]', '["\\ud800"]', '["d", "\\udfff"]')
    return right | right | st.sampled_from(odd)


def _fact_of(kind, names, texts):
    """Facts of one kind, with the names after the colon and the texts from two strategies."""
    return st.tuples(st.just(kind), names.map(lambda name: f"{kind}:{name}"), texts).map(list)


def _generated():
    texts = st.sampled_from(
        ("{} AS ({})", "{} INT GENERATED ALWAYS AS ({}) STORED", "", "{} AS ({}), y", "{} AS ({})) --")
    )
    columns = st.sampled_from(("doc", "n", "g", "x"))
    return st.builds(lambda text, column, body: text.format(column, body), texts, columns, expressions)


def _rule():
    """Draw the text of a rule of retention: of this time, of the far past or future, or of another form."""
    ages = st.sampled_from((1_000, 60_000, 3_162_240_000_000, 0, -1, 1 << 70, "1", None, True))
    texts = st.sampled_from(("", "n", "doc", "id", "x", "\ud800"))
    times = st.sampled_from((0, 1_800_000_000_000, (1 << 47) - 1, 1 << 47, -1, "0"))
    eras = st.sampled_from((0, 1, 1 << 31, 1 << 40, -1))
    rules = st.fixed_dictionaries({"age_ms": ages, "by": texts, "floor_ms": times}, optional={"era": eras})
    return (
        rules.map(json.dumps) | eras.map(lambda era: json.dumps({"era": era})) | st.sampled_from(("{}", "[" * 900, ""))
    )


def _interest():
    """Draw the text of an interest: what a member keeps of the tables that are cut."""
    areas = st.lists(st.sampled_from(("", "1", "a", "{}", "\ud800", "\0", "x" * 300, "]", 1)), max_size=3)
    kept = st.dictionaries(st.sampled_from((*NAMES, "fresh", "\udc00")), areas | st.none(), max_size=3)
    stated = st.fixed_dictionaries({"keeps": kept}, optional={"again": st.sampled_from((0, 1 << 70, -1, "1"))})
    return stated.map(json.dumps) | st.sampled_from(("{}", "[]", "[" * 5_000, '{"keeps":' * 900, "9" * 5_000))


TABLES = st.sampled_from((*NAMES, "fresh"))
SLOTS = st.sampled_from(("0", "7", "4095", "4096", "-1", "x", "9" * 400, ""))
SITES = st.sampled_from(("77" * 16, "00" * 16, "x", ""))
MEMBERS = st.sampled_from(("77" * 8, "01" * 8, "00" * 8, "7", ""))
NUMBERS = st.sampled_from(("7", "-1", "x", "9" * 40, "1; DROP TABLE d", ""))
INDEX_NAMES = st.sampled_from(("i1", "i2", "by_doc", "once"))
NEW_NAMES = st.sampled_from((*TABLE_NAMES, "doc", "n", "", "x" * 300))
DEFINITIONS = _mangled(_create_table()) | _mangled(_create_index())
ANYTHING = st.none() | st.integers() | st.text(max_size=5) | DEFINITIONS
TABLE_FACTS = st.tuples(
    st.just("table"), st.sampled_from((*NAMES, "fresh", "d2", "two words")), _mangled(_create_table())
).map(list)
INDEX_FACTS = _fact_of("index", INDEX_NAMES, _mangled(_create_index()) | st.just(""))
# A fact as a member may state it: [kind, name, text].
FACTS = st.one_of(
    TABLE_FACTS,
    TABLE_FACTS,
    TABLE_FACTS,
    INDEX_FACTS,
    INDEX_FACTS,
    _fact_of("view", st.sampled_from(("v1", "v2")), _mangled(_create_view()) | st.just("")),
    _fact_of("trigger", st.sampled_from(("t1", "t2")), _mangled(_create_trigger()) | st.just("")),
    _fact_of("virtual", st.sampled_from(("x", "d_fts", "", "mycomesh_x")), _virtual()),
    _fact_of("generated", _named(TABLES, "column"), _generated()),
    _fact_of("counter", _named(TABLES, "column"), st.just("")),
    _fact_of("dropped", _named(TABLES, "column") | _named(TABLES), st.just("")),
    _fact_of("policy", _named(TABLES), st.sampled_from(("keep-both", "same-row", ""))),
    _fact_of("own-ids", _named(TABLES), st.sampled_from(("own-ids", "shared-ids", "", "x"))),
    _fact_of("signed", _named(TABLES), st.just("")),
    _fact_of("slot", _named(SITES), SLOTS),
    _fact_of("retain", _named(TABLES), _rule()),
    _fact_of("adopted", _named(SITES), st.sampled_from(("0", "1800000000000", "9" * 15, "-1", "x", ""))),
    _fact_of("area", _named(TABLES), st.sampled_from(("doc", "n", "id", "k", "x", "", "\ud800"))),
    _fact_of("interest", _named(MEMBERS), _interest()),
    _fact_of("header", st.sampled_from(("user_version", "application_id", "page_size", "")), NUMBERS),
    _fact_of("name", _named(TABLES) | _named(TABLES, "column"), NEW_NAMES),
    _fact_of("floor", st.sampled_from(("sqlite", "x")), st.sampled_from(("3.31", "3.99", "x", "", "9" * 400))),
    st.tuples(ANYTHING, st.text(max_size=9) | st.sampled_from(("d", "index:i1", "view:v1")), ANYTHING).map(list),
)
