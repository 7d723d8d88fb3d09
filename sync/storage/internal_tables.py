"""The tables of ours in a file: how they are made, and which of them are not as they should be.

People drop and alter what they do not know. What this file alone needs to capture and to tell is made again; what holds the
clock, the names and the log of rows cannot be.

Owns the definitions of the tables that every file has one of. What always holds: a table of ours that is there has the columns
that it was made with, or is told here. It must not know what the tables mean.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection
from typing import Any

import apsw

from mycomesh.sync.sqlite.identifiers import is_internal

__all__ = ["LOGS", "SCHEMA", "amiss", "made_again", "refill", "remain", "standing"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS mycomesh_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_sites(place INTEGER PRIMARY KEY, site BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS mycomesh_replicated(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, shape TEXT NOT NULL, bits TEXT NOT NULL, known TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS mycomesh_names(
  name TEXT, mesh TEXT, shown TEXT NOT NULL, PRIMARY KEY(name, mesh)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_vectors(
  id INTEGER, place INTEGER, after INTEGER, upto INTEGER, PRIMARY KEY(id, place, after)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_collected(
  id INTEGER, place INTEGER, hlc INTEGER NOT NULL, PRIMARY KEY(id, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_held(
  id INTEGER, place INTEGER, hlc INTEGER, content BLOB NOT NULL, PRIMARY KEY(id, place, hlc)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_schema(name TEXT PRIMARY KEY, kind TEXT, sql TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_conflicts(
  seq INTEGER PRIMARY KEY, seen_at TEXT, table_name TEXT, row_key TEXT, lost TEXT, lost_at TEXT, lost_site TEXT,
  won_at TEXT, won_site TEXT, reason TEXT, lost_hlc INTEGER, won TEXT, row, restored_at TEXT,
  UNIQUE(table_name, row_key, lost_site, lost_hlc, lost));
CREATE TABLE IF NOT EXISTS mycomesh_moved(
  id INTEGER, row INTEGER, wanted INTEGER, place INTEGER, hlc INTEGER, PRIMARY KEY(id, row)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_parked(
  table_name TEXT, row_key TEXT, reason TEXT, content TEXT, since TEXT, id INTEGER, row, PRIMARY KEY(id, row))
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_sweeps(
  id INTEGER PRIMARY KEY, adopting INTEGER, written TEXT, phase INTEGER, after BLOB);
CREATE TABLE IF NOT EXISTS mycomesh_mark(v);
CREATE TABLE IF NOT EXISTS mycomesh_status(
  phase TEXT, mesh TEXT, mesh_id TEXT, node TEXT, node_id TEXT, site TEXT, pid INTEGER, port INTEGER, pending INTEGER,
  linked INTEGER, members INTEGER, scrub_found INTEGER, scrubbed_at TEXT, clock_offset_ms REAL, as_of TEXT);
CREATE TABLE IF NOT EXISTS mycomesh_peers(
  node_id TEXT PRIMARY KEY, name TEXT, roles TEXT, state TEXT, equal INTEGER, address TEXT, rtt_ms REAL, offset_ms REAL,
  sent_bytes INTEGER, received_bytes INTEGER, seen_at TEXT, as_of TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mycomesh_tables(
  name TEXT PRIMARY KEY, rows INTEGER, hash TEXT, conflicts INTEGER, parked INTEGER, equal_on INTEGER, linked INTEGER,
  note TEXT, as_of TEXT) WITHOUT ROWID;
"""

# The tables of one replicated table: their columns, which for a pending log are at least these.
LOGS = {
    "pending": frozenset({"at", "what"}),
    "changes": frozenset({"place", "hlc", "row", "mask", "digest", "prior"}),
    "runs": frozenset({"seq", "place", "hlc", "row", "n", "mask", "low", "high", "digests"}),
}
_OWN_LOG = 1  # of the table of facts, which is not on record
_MADE_AGAIN = re.compile(
    r"mycomesh_(pending_\d+|collected|conflicts|moved|parked|sweeps|mark|status|peers|tables|vectors)"
)
_LOG = re.compile(r"mycomesh_changes_(\d+)")


def made_again(db: Any, name: str) -> bool:
    """True for a table of ours that can be made again from the others, which are there."""
    if name == "mycomesh_names":  # nothing of note where nothing has another name than at first
        listing = "SELECT 1 FROM mycomesh_schema WHERE kind IN ('name', 'dropped') LIMIT 1"
        return db.execute(listing).fetchone() is None
    return _MADE_AGAIN.fullmatch(name) is not None


def remain(db: Any) -> bool:
    """Return True if a file without our table of facts was a replica all the same."""
    found = _present(db)
    return all(found.get(name) == _expected()[name] for name in ("mycomesh_sites", "mycomesh_replicated"))


def amiss(db: Any) -> list[str]:
    """Return the tables of ours that a file which is a replica lacks, or has with other columns or too few rows, by name."""
    found, expected = _present(db), dict(_expected())
    wrong = {name for name, columns in expected.items() if found.get(name) != columns}
    if "mycomesh_replicated" not in wrong:
        ids = {_OWN_LOG, *(number for (number,) in db.execute("SELECT id FROM mycomesh_replicated ORDER BY id"))}
        for number in sorted(ids):
            for kind, columns in LOGS.items():
                present = found.get(f"mycomesh_{kind}_{number}", frozenset())
                if present != columns and not (kind == "pending" and present > columns):
                    wrong.add(f"mycomesh_{kind}_{number}")
        logs = {int(match[1]) for match in map(_LOG.fullmatch, found) if match is not None}
        if not logs <= ids:
            wrong.add("mycomesh_replicated")
    if not {"mycomesh_sites", "mycomesh_vectors"} & wrong and _unnamed(db):
        wrong.add("mycomesh_sites")
    if (
        "mycomesh_meta" not in wrong
        and db.execute("SELECT 1 FROM mycomesh_meta WHERE name = 'format'").fetchone() is None
    ):
        wrong.add("mycomesh_meta")
    return sorted(wrong)


def refill(db: Any, names: Collection[str]) -> None:
    """Write what can be told of tables that were made again and are empty; inside a transaction.

    Of its own site a file covers all. What peers have told comes again, and what they cover may have been collected.
    """
    if "mycomesh_vectors" in names:
        db.execute(
            "INSERT INTO mycomesh_vectors SELECT t.id, s.place, 0, c.value"
            f" FROM (SELECT {_OWN_LOG} AS id UNION SELECT id FROM mycomesh_replicated) t, mycomesh_sites s, mycomesh_meta c"
            " WHERE s.site = (SELECT value FROM mycomesh_meta WHERE name = 'site') AND c.name = 'clock' AND c.value > 0"
        )
    if "mycomesh_collected" in names:
        db.execute("INSERT INTO mycomesh_collected SELECT id, place, upto FROM mycomesh_vectors WHERE after = 0")


def standing(db: Any) -> dict[str, str]:
    """Return how each table of ours is defined, in a moment: where one has gone or changed, `amiss` tells what that means."""
    listing = (
        "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name GLOB 'mycomesh_*' AND name NOT GLOB '*[^a-z0-9_]*'"
        " ORDER BY rowid"
    )
    return {name: sql for name, sql in db.execute(listing).fetchall() if is_internal(name)}


def _unnamed(db: Any) -> bool:
    """Return True if a vector tells of a site that is not on record."""
    listing = "SELECT 1 FROM mycomesh_vectors WHERE place NOT IN (SELECT place FROM mycomesh_sites) LIMIT 1"
    return db.execute(listing).fetchone() is not None


def _present(db: Any) -> dict[str, frozenset[str]]:
    names = [(name, name) for name in standing(db)]
    found: dict[str, set[str]] = {}
    for table, column in db.executemany("SELECT ?, name FROM pragma_table_info(?) ORDER BY cid", names):
        found.setdefault(table, set()).add(column)
    return {table: frozenset(columns) for table, columns in found.items()}


@functools.cache
def _expected() -> dict[str, frozenset[str]]:
    db = apsw.Connection(":memory:")
    for statement in SCHEMA.split(";\n"):
        db.execute(statement)
    found = _present(db)
    db.close()
    return found
