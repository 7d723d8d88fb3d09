"""The internal tables of a file: their definitions, and which of them were dropped or altered by hand.

People drop and alter tables that they do not know. Tables whose content follows from the rest, or that peers bring again, are
recreated. The clock, the names and the change log cannot be.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Any

import apsw

from mycomesh.sync.sqlite.identifiers import is_capture_index, is_capture_trigger, is_internal

__all__ = [
    "LOGS",
    "RARE",
    "SCHEMA",
    "can_recreate",
    "create_rare",
    "damaged",
    "definitions",
    "fill_recreated",
    "give_rowids",
    "has_other_tables",
    "has_rare",
    "left_capture",
    "mark_rare",
]

SCHEMA = """
CREATE TABLE IF NOT EXISTS mycomesh_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_sites(place INTEGER PRIMARY KEY, site BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS mycomesh_replicated(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, shape TEXT NOT NULL, bits TEXT NOT NULL, known TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mycomesh_vectors(
  id INTEGER, place INTEGER, after INTEGER, upto INTEGER, PRIMARY KEY(id, place, after)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_held(
  id INTEGER, place INTEGER, hlc INTEGER, content BLOB NOT NULL, PRIMARY KEY(id, place, hlc));
CREATE TABLE IF NOT EXISTS mycomesh_schema(name TEXT PRIMARY KEY, kind TEXT, sql TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_conflicts(
  seq INTEGER PRIMARY KEY, seen_at TEXT, table_name TEXT, row_key TEXT, lost TEXT, lost_at TEXT, lost_site TEXT,
  won_at TEXT, won_site TEXT, reason TEXT, lost_hlc INTEGER, won TEXT, row, restored_at TEXT);
CREATE INDEX IF NOT EXISTS mycomesh_conflicts_of ON mycomesh_conflicts(table_name, row_key, lost_site, lost_hlc);
CREATE TABLE IF NOT EXISTS mycomesh_parked(
  table_name TEXT, row_key TEXT, reason TEXT, content TEXT, since TEXT, id INTEGER, row, PRIMARY KEY(id, row));
CREATE TABLE IF NOT EXISTS mycomesh_mark(v);
CREATE TABLE IF NOT EXISTS mycomesh_status(
  phase TEXT, mesh TEXT, mesh_id TEXT, node TEXT, node_id TEXT, site TEXT, pid INTEGER, port INTEGER, pending INTEGER,
  linked INTEGER, members INTEGER, scrub_found INTEGER, scrubbed_at TEXT, clock_offset_ms REAL, as_of TEXT);
CREATE TABLE IF NOT EXISTS mycomesh_accounts(
  node TEXT PRIMARY KEY, rows INTEGER, bytes INTEGER, conflicts INTEGER, parked INTEGER, since TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_trouble(code TEXT PRIMARY KEY, text TEXT, since TEXT, as_of TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_peers(
  node_id TEXT PRIMARY KEY, name TEXT, roles TEXT, state TEXT, equal INTEGER, address TEXT, rtt_ms REAL, offset_ms REAL,
  sent_bytes INTEGER, received_bytes INTEGER, seen_at TEXT, as_of TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_tables(
  name TEXT PRIMARY KEY, rows INTEGER, hash TEXT, conflicts INTEGER, parked INTEGER, equal_on INTEGER, linked INTEGER,
  note TEXT, as_of TEXT) WITHOUT ROWID;
"""

# Tables that many files never need: `create_rare` makes each at its first row, and `mycomesh_meta` has a mark of it from then on.
RARE = {
    "mycomesh_names": "name TEXT, mesh TEXT, shown TEXT NOT NULL, PRIMARY KEY(name, mesh)) WITHOUT ROWID",
    "mycomesh_collected": "id INTEGER, place INTEGER, hlc INTEGER NOT NULL, PRIMARY KEY(id, place)) WITHOUT ROWID",
    "mycomesh_moved": (
        "id INTEGER, row INTEGER, wanted INTEGER, place INTEGER, hlc INTEGER, PRIMARY KEY(id, row)) WITHOUT ROWID"
    ),
    "mycomesh_sweeps": "id INTEGER PRIMARY KEY, adopting INTEGER, written TEXT, phase INTEGER, after BLOB)",
}
_RARE_MARK = "made/"  # in mycomesh_meta, before the name of a rare table that was made

# The columns of the logs of one replicated table. A pending log may have more.
LOGS = {
    "pending": frozenset({"at", "what"}),
    "changes": frozenset({"place", "hlc", "row", "mask", "digest", "prior"}),
    "runs": frozenset({"seq", "place", "hlc", "row", "n", "mask", "low", "high", "digests"}),
}
# Files of earlier versions lack these. `Store.create` creates them, and nothing is lost.
_ADDED = frozenset({"mycomesh_accounts", "mycomesh_trouble"})
_LARGE_RECORDS = ("mycomesh_held", "mycomesh_parked")
# Records and bytes of one table that `give_rowids` copies under the write lock, in some 0.3 s.
_COPIED_ROWS = 100_000
_COPIED_BYTES = 64 << 20
_SCHEMA_ID = 1  # of the schema table, which is not in mycomesh_replicated
_RECREATED = re.compile(
    r"mycomesh_(pending_\d+|collected|conflicts|moved|parked|sweeps|mark|status|accounts|trouble|peers|tables|vectors)"
)
_LOG = re.compile(r"mycomesh_changes_(\d+)")


def can_recreate(db: Any, name: str) -> bool:
    """Return True if an internal table can be recreated from the others."""
    if name == "mycomesh_names":  # empty as long as nothing was renamed
        listing = "SELECT 1 FROM mycomesh_schema WHERE kind IN ('name', 'dropped') LIMIT 1"
        return db.execute(listing).fetchone() is None
    return _RECREATED.fullmatch(name) is not None


def has_rare(db: Any, name: str) -> bool:
    """Return True if the file has that one of the `RARE` tables."""
    # Unlike a query of sqlite_schema, this takes the same time in a file of thousands of tables.
    return db.execute("SELECT 1 FROM pragma_table_info(?, 'main') LIMIT 1", (name,)).fetchone() is not None


def create_rare(db: Any, name: str) -> None:
    """Create that one of the `RARE` tables where the file lacks it; inside a transaction."""
    if not has_rare(db, name):
        db.execute(f"CREATE TABLE {name}({RARE[name]}")
        db.execute("INSERT OR IGNORE INTO mycomesh_meta VALUES(?, 1)", (_RARE_MARK + name,))


def mark_rare(db: Any) -> None:
    """Mark the rare tables of a file of an earlier version, which made them all at once; inside a transaction."""
    made = [(_RARE_MARK + name,) for name in RARE if has_rare(db, name)]
    db.executemany("INSERT OR IGNORE INTO mycomesh_meta VALUES(?, 1)", made)


def give_rowids(db: Any) -> None:
    """Give the tables of large records rowids in a file of an earlier version, unless they are large; inside a transaction.

    In a table WITHOUT ROWID, SQLite reads whole records on the way to a place: megabytes each, if the rows are large. Both forms
    have the same columns and key, so that every version works with either (ADR 95).
    """
    for name in _LARGE_RECORDS:
        listing = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?"
        ((sql,),) = db.execute(listing, (name,)).fetchall()
        if "WITHOUT ROWID" not in sql:
            continue
        first = f"SELECT content FROM {name} LIMIT {_COPIED_ROWS + 1}"
        counted = f"SELECT count(*), total(octet_length(content)) FROM ({first})"
        ((count, size),) = db.execute(counted).fetchall()
        if count > _COPIED_ROWS or size > _COPIED_BYTES:
            continue
        db.execute(f"CREATE TEMP TABLE mycomesh_copied AS SELECT * FROM main.{name}")
        db.execute(f"DROP TABLE main.{name}")
        db.execute(next(statement for statement in SCHEMA.split(";\n") if f" {name}(" in statement))
        db.execute(f"INSERT INTO main.{name} SELECT * FROM temp.mycomesh_copied")
        db.execute("DROP TABLE temp.mycomesh_copied")


def has_other_tables(db: Any) -> bool:
    """Return True if a file that lacks `mycomesh_meta` has other internal tables, so that it was a replica."""
    found = _present(db)
    return all(found.get(name) == _expected()[name] for name in ("mycomesh_sites", "mycomesh_replicated"))


def left_capture(db: Any) -> list[str]:
    """Return the names of triggers and indexes of capture that the file has, by name."""
    listing = "SELECT type, name FROM sqlite_schema WHERE type IN ('index', 'trigger') AND name GLOB 'mycomesh_*' ORDER BY name"
    tests = {"index": is_capture_index, "trigger": is_capture_trigger}
    return [name for kind, name in db.execute(listing).fetchall() if tests[kind](name)]


def damaged(db: Any, *, served: bool = False) -> list[str]:
    """Return the internal tables that a replica lacks, or has with other columns or too few rows, by name.

    A file that is not `served` yet may be of an earlier version, which lacks some.
    """
    found, expected = _present(db), dict(_expected())
    never_made = {name for name in RARE if name not in found} - _made(db, found)
    wrong = {
        name
        for name, columns in expected.items()
        if found.get(name) != columns
        and not (name not in found and (name in never_made or (name in _ADDED and not served)))
    }
    if "mycomesh_replicated" not in wrong:
        ids = {_SCHEMA_ID, *(number for (number,) in db.execute("SELECT id FROM mycomesh_replicated ORDER BY id"))}
        for number in sorted(ids):
            for kind, columns in LOGS.items():
                present = found.get(f"mycomesh_{kind}_{number}", frozenset())
                if present != columns and not (kind == "pending" and present > columns):
                    wrong.add(f"mycomesh_{kind}_{number}")
        logs = {int(match[1]) for match in map(_LOG.fullmatch, found) if match is not None}
        if not logs <= ids:
            wrong.add("mycomesh_replicated")
    if not {"mycomesh_sites", "mycomesh_vectors"} & wrong and _has_unknown_site(db):
        wrong.add("mycomesh_sites")
    if (
        "mycomesh_meta" not in wrong
        and db.execute("SELECT 1 FROM mycomesh_meta WHERE name = 'format'").fetchone() is None
    ):
        wrong.add("mycomesh_meta")
    return sorted(wrong)


def fill_recreated(db: Any, names: Collection[str]) -> None:
    """Fill tables that were recreated empty with all that is known; inside a transaction.

    The file covers its own site. Rounds bring the changes of other sites again. Any tombstone that the file covers may have been
    collected.
    """
    if "mycomesh_vectors" in names:
        db.execute(
            "INSERT INTO mycomesh_vectors SELECT t.id, s.place, 0, c.value"
            f" FROM (SELECT {_SCHEMA_ID} AS id UNION SELECT id FROM mycomesh_replicated) t, mycomesh_sites s, mycomesh_meta c"
            " WHERE s.site = (SELECT value FROM mycomesh_meta WHERE name = 'site') AND c.name = 'clock' AND c.value > 0"
        )
    if "mycomesh_collected" in names:
        db.execute("INSERT INTO mycomesh_collected SELECT id, place, upto FROM mycomesh_vectors WHERE after = 0")


def definitions(db: Any, later: str = "") -> dict[str, str]:
    """Return the SQL of each internal table: a fast check for changes, which `damaged` then judges.

    With `later`, a condition, of those entries of SQLite's catalogue alone.
    """
    listing = (
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name GLOB 'mycomesh_*' AND name NOT GLOB '*[^a-z0-9_]*'"
        f"{later and f' AND {later}'} ORDER BY rowid"
    )
    return {name: sql for name, sql in db.execute(listing).fetchall() if is_internal(name)}


def _has_unknown_site(db: Any) -> bool:
    """Return True if a vector has a site that `mycomesh_sites` lacks."""
    listing = "SELECT 1 FROM mycomesh_vectors WHERE place NOT IN (SELECT place FROM mycomesh_sites) LIMIT 1"
    return db.execute(listing).fetchone() is not None


def _made(db: Any, found: Collection[str]) -> set[str]:
    """Return the rare tables that the file once had, by its marks."""
    if "mycomesh_meta" not in found:
        return set()
    listing = "SELECT name FROM mycomesh_meta WHERE name > ? AND name < ?"
    bounds = (_RARE_MARK, _RARE_MARK[:-1] + chr(ord(_RARE_MARK[-1]) + 1))
    return {name.removeprefix(_RARE_MARK) for (name,) in db.execute(listing, bounds)}


def _present(db: Any) -> dict[str, frozenset[str]]:
    names = [(name, name) for name in definitions(db)]
    found: dict[str, set[str]] = {}
    for table, column in db.executemany("SELECT ?, name FROM pragma_table_info(?) ORDER BY cid", names):
        found.setdefault(table, set()).add(column)
    return {table: frozenset(columns) for table, columns in found.items()}


@functools.cache
def _expected() -> dict[str, frozenset[str]]:
    db = apsw.Connection(":memory:")
    for statement in SCHEMA.split(";\n"):
        db.execute(statement)
    for name in RARE:
        create_rare(db, name)
    found = _present(db)
    db.close()
    return found
