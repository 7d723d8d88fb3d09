"""Policies: decisions of the mesh about a table beyond its definition, as facts in `mycomesh_schema`.

A person or a migration decides; the fact replicates like any row, so every replica that has it has the same policies. A fact
that does not fit the table of this file has no effect here.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any

from mycomesh.sync.schema.retain import ADOPTED, RETAIN, adoption_of, rule_of
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold, is_reserved
from mycomesh.sync.sqlite.table_spec import SQL_MAX, KeyKind, TableSpec
from mycomesh.sync.sqlite.versions import Version, parse_version
from mycomesh.sync.storage.horizon import RetainRule
from mycomesh.sync.wire.units import CUT_NAME_CHARS_MAX

__all__ = [
    "AREA",
    "COUNTER",
    "DROPPED",
    "FLOOR",
    "GENERATED",
    "HEADER_NUMBERS",
    "KEEP_BOTH",
    "NAME",
    "OWN_IDS",
    "POLICY",
    "SAME_ROW",
    "SHARED_IDS",
    "SIGNED",
    "SLOT",
    "Policies",
    "area_fact",
    "area_refusal",
    "counter_fact",
    "counter_refusal",
    "dropped_fact",
    "floor_facts",
    "generated_fact",
    "has_equal_texts",
    "header_fact",
    "keep_both_fact",
    "keep_both_refusal",
    "moving_refusal",
    "name_fact",
    "new_cut_refusal",
    "own_ids_fact",
    "own_ids_refusal",
    "signed_fact",
    "signed_refusal",
    "slot_fact",
]

COUNTER = "counter"
POLICY = "policy"
NAME = "name"
DROPPED = "dropped"
GENERATED = "generated"
FLOOR = "floor"
_FLOOR_NAME = f"{FLOOR}:sqlite"
HEADER = "header"
HEADER_NUMBERS = ("user_version", "application_id")
SAME_ROW = "same-row"
KEEP_BOTH = "keep-both"
OWN_IDS = "own-ids"
SHARED_IDS = "shared-ids"
SLOT = "slot"
SIGNED = "signed"
AREA = "area"
# Every row gets another key, in one transaction: about 40 us each.
KEEP_BOTH_ROWS_MAX = 10_000
# Generated columns of one table, dropped ones included: each is tried when any of them changes.
GENERATED_MAX = 256
# The wire's longest name, less what `counters.share_name` adds to the name of a counter.
COLUMN_CHARS_MAX = 200
REMEMBERED_CHARS = 512  # of the name of a fact, so that what is remembered of all is bounded


@dataclass(frozen=True, slots=True)
class Policies:
    """The policies that the facts of one file state, by canonical names.

    counters: the columns of each table that are counters.
    keep_both: tables that keep both rows if two nodes give out one id.
    own_ids: tables whose rows each node numbers from blocks of its own.
    signed: tables whose changes their writers sign. Nothing takes that back, neither of these two policies nor a lost fact.
    renames: the name that a table (table,) or a column (table, column) got by its last rename.
    dropped: tables and columns that were dropped, as in `renames`; never taken back.
    generated: the texts of generated columns by table and column, "" for a dropped one.
    floor: the oldest SQLite of the programs beside the nodes; None if nobody has stated it.
    header: the header numbers that programs have set, by name.
    retain: how long rows of a table are kept, by table.
    adopted: the Unix milliseconds at which a node took in rows from before the mesh, by the early site that stamps them.
    areas: the column that cuts a table into areas, by table.
    moved: those of these tables that were cut with their rows (`sync.storage.moved_rows`).
    """

    counters: dict[str, frozenset[str]] = field(default_factory=dict)
    keep_both: frozenset[str] = frozenset()
    signed: frozenset[str] = frozenset()
    renames: dict[tuple[str, ...], str] = field(default_factory=dict)
    dropped: frozenset[tuple[str, ...]] = frozenset()
    generated: dict[str, dict[str, str]] = field(default_factory=dict)
    floor: Version | None = None
    own_ids: frozenset[str] = frozenset()
    header: dict[str, int] = field(default_factory=dict)
    retain: dict[str, RetainRule] = field(default_factory=dict)
    adopted: dict[bytes, int] = field(default_factory=dict)
    areas: dict[str, str] = field(default_factory=dict)
    moved: frozenset[str] = frozenset()

    @classmethod
    def read(  # noqa: C901, PLR0912, PLR0915  (one branch a kind)
        cls, db: Any, schema_table: str, *, without: Collection[str] = (), signed: frozenset[str] = frozenset()
    ) -> Policies:
        """Read the facts, `without` those of some names; one that is not of the form that this module writes is ignored.

        `signed` are the tables that were signed when the facts were read last.
        """
        counters: dict[str, frozenset[str]] = {}
        keep_both: set[str] = set()
        stated: set[str] = set()
        renames: dict[tuple[str, ...], str] = {}
        dropped: set[tuple[str, ...]] = set()
        generated: dict[str, dict[str, str]] = {}
        floor: Version | None = None
        own_ids: set[str] = set()
        header: dict[str, int] = {}
        retain: dict[str, RetainRule] = {}
        adopted: dict[bytes, int] = {}
        areas: dict[str, str] = {}
        moved: dict[str, str] = {}
        kinds = (COUNTER, POLICY, NAME, DROPPED, GENERATED, FLOOR, OWN_IDS, HEADER, SIGNED, RETAIN, ADOPTED, AREA)
        listing = (
            f"SELECT name, kind, sql FROM {schema_table} WHERE kind IN ({', '.join('?' * len(kinds))}) ORDER BY name"
        )
        for name, kind, sql in db.execute(listing, kinds):
            if name in without:
                continue
            if kind == HEADER:
                header |= _header_number(name, sql)
                continue
            if kind == FLOOR:
                stated_floor = parse_version(sql) if name in (FLOOR, _FLOOR_NAME) and isinstance(sql, str) else None
                floor = min(filter(None, (floor, stated_floor)), default=None)
                continue
            match kind, _subject(name, kind), sql:
                case "counter", [table, column], _:
                    counters[table] = counters.get(table, frozenset()) | {column}
                case "policy", [table], "keep-both":
                    keep_both.add(table)
                case "own-ids", [table], "own-ids":
                    own_ids.add(table)
                case "area", [table], str() as column if is_valid_name(column):
                    areas[table] = column
                case "area", [table, "rows"], str() as column if is_valid_name(column):
                    moved[table] = column
                case "signed", [table], _:
                    stated.add(table)
                case "retain", [table], str() as text:
                    retain |= {table: rule} if (rule := rule_of(text)) is not None else {}
                case "adopted", [site], str() as text:
                    adopted |= adoption_of(site, text)
                case "name", [_] | [_, _] as subject, str() as renamed if is_valid_name(renamed):
                    renames[tuple(subject)] = renamed
                case "dropped", [_] | [_, _] as subject, _:
                    dropped.add(tuple(subject))
                case "generated", [table, column], str() as text if len(text) <= SQL_MAX and "\0" not in text:
                    texts = generated.setdefault(table, {})
                    if len(texts) < GENERATED_MAX:
                        texts[column] = text
                case _:
                    continue
        areas |= moved
        keep_both -= signed
        signed |= stated - keep_both
        dropped = {
            subject
            for subject in dropped
            if len(subject) == 1 or (subject[0] not in signed and areas.get(subject[0]) != subject[1])
        }
        return cls(
            counters,
            frozenset(keep_both),
            signed,
            renames,
            frozenset(dropped),
            generated,
            floor,
            frozenset(own_ids),
            header,
            retain,
            adopted,
            areas,
            frozenset(moved),
        )

    def keeping_keys(self, key: Callable[[str], Collection[str]]) -> Policies:
        """Return these policies without drops of columns by which a table identifies its rows: SQLite drops none of those.

        `key` returns the canonical names of these columns of a table.
        """
        dropped = frozenset(each for each in self.dropped if len(each) == 1 or each[1] not in key(each[0]))
        return self if dropped == self.dropped else replace(self, dropped=dropped)

    def dropped_of(self, table: str) -> frozenset[str]:
        """Return the dropped columns of a table."""
        return _dropped_columns(self.dropped).get(table, frozenset())

    def applied(self, spec: TableSpec) -> TableSpec:
        """Return the spec of a table under its policy."""
        return spec.keeping_both() if spec.folded in self.keep_both else spec

    def counters_of(self, spec: TableSpec) -> frozenset[str]:
        """Return the counters of this table; a column of its key cannot be one."""
        if spec.folded in self.signed or spec.folded not in self.counters:
            return frozenset()
        able = {column.folded for column in spec.columns} - {column.folded for column in spec.key} - {spec.id_column}
        return self.counters[spec.folded] & able


@functools.lru_cache(maxsize=4)
def _dropped_columns(dropped: frozenset[tuple[str, ...]]) -> dict[str, frozenset[str]]:
    """Return the dropped columns by table: a pass over the schema asks several times for each table."""
    found: dict[str, set[str]] = {}
    for subject in dropped:
        if len(subject) == 2:
            found.setdefault(subject[0], set()).add(subject[1])
    return {table: frozenset(columns) for table, columns in found.items()}


def area_fact(table: str, column: str, *, rows: bool = False) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a column cuts a table into areas; both by canonical name.

    With `rows` it cuts a table with a primary key that has rows. Versions that do not know this form go on with the whole table,
    of which others neither take nor send anything.
    """
    subject = [table, "rows"] if rows else [table]
    return f"{AREA}:{json.dumps(subject, ensure_ascii=False)}", AREA, column


def area_refusal(spec: TableSpec, column: str, policies: Policies) -> str:
    """Return why a column, by canonical name, cannot cut a table into areas, "" if it can."""
    if column not in {each.folded for each in spec.columns}:
        return f"{spec.name} has no stored column {column!r}; its columns are {', '.join(c.name for c in spec.columns)}"
    if spec.folded in policies.signed:
        return f"{spec.name} is {SIGNED}, and its seals speak of whole tables; create another table"
    if spec.id_column:
        return f"{spec.name} is {KEEP_BOTH}, which finds a row by its insert and not by its key; create another table"
    if not spec.lacks_primary_key and column not in {each.folded for each in spec.key}:
        return (
            f"the primary key of {spec.name} does not contain {column}, so two areas could each have a row of one key; make"
            " the column part of the key"
        )
    if len(spec.folded) > CUT_NAME_CHARS_MAX:
        return f"its name has {len(spec.folded)} characters; a table with areas may have {CUT_NAME_CHARS_MAX}"
    return ""


def has_equal_texts(spec: TableSpec, column: str) -> bool:
    """Return True if a column of the primary key has values that are one key and different texts, such as 7 and 7.0."""
    return any(each.folded == column and (each.collation != "BINARY" or each.affinity == "BLOB") for each in spec.key)


def new_cut_refusal(spec: TableSpec, column: str) -> str:
    """Return why nobody decides any more that a column cuts a table, "" if it can; earlier versions may have."""
    if not has_equal_texts(spec, column):
        return ""
    collation = next(each.collation for each in spec.key if each.folded == column)
    how = f"by {collation}" if collation != "BINARY" else "values of any type, as 7 and 7.0"
    return (
        f"{spec.name}.{column} compares {how}, so one key has several texts; create a table where it is INTEGER or TEXT"
    )


def moving_refusal(spec: TableSpec, column: str) -> str:
    """Return why a column cannot cut a table with a primary key that has rows, "" if it can."""
    collation = next(each.collation for each in spec.key if each.folded == column)
    if collation != "BINARY":
        return f"{spec.name}.{column} compares by {collation}, so one row has several texts there; create another table"
    return ""


def counter_fact(table: str, column: str) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a column is a counter; both by canonical name."""
    return f"{COUNTER}:{json.dumps([table, column], ensure_ascii=False)}", COUNTER, ""


def name_fact(subject: tuple[str, ...], name: str) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a table or a column was renamed; `subject` as in `Policies.renames`."""
    return f"{NAME}:{json.dumps(subject, ensure_ascii=False)}", NAME, name


def dropped_fact(subject: tuple[str, ...]) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a table or a column was dropped."""
    return f"{DROPPED}:{json.dumps(subject, ensure_ascii=False)}", DROPPED, ""


def generated_fact(table: str, column: str, text: str) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) of a generated column, whose text is "" if it was dropped; by canonical names."""
    return f"{GENERATED}:{json.dumps([table, column], ensure_ascii=False)}", GENERATED, text


def floor_facts(version: Version) -> list[tuple[str, str, str]]:
    """Return the facts (name, kind, sql) of the oldest SQLite beside the nodes.

    The fact of a user's table `floor` has the name under which earlier versions look for it, and that one the table takes.
    """
    return [(name, FLOOR, f"{version[0]}.{version[1]}") for name in (FLOOR, _FLOOR_NAME)]


def header_fact(name: str, number: int) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a program has set a header number."""
    return f"{HEADER}:{name}", HEADER, str(number)


def _header_number(name: Any, sql: Any) -> dict[str, int]:
    """Return the header number that a fact states, by name; empty for a fact of another form."""
    known = next((each for each in HEADER_NUMBERS if name == f"{HEADER}:{each}"), None)
    if known is None or not isinstance(sql, str) or not re.fullmatch(r"-?[0-9]{1,10}", sql):
        return {}
    return {known: int(sql)} if -(1 << 31) <= int(sql) < 1 << 31 else {}


def is_valid_name(name: str) -> bool:
    """Return True if a table or column may have that name: not reserved by SQLite or mycomesh, and writable in any client."""
    return (
        0 < len(name) <= COLUMN_CHARS_MAX
        and "\0" not in name
        and not fold(name).startswith(("sqlite_", INTERNAL_PREFIX))
    )


def counter_refusal(spec: TableSpec, column: str) -> str:
    """Return why a column cannot be a counter, "" if it can."""
    found = next((item for item in spec.columns if fold(item.name) == fold(column)), None)
    name = f"{spec.name}.{column}"
    if found is None:
        return f"{spec.name} has no stored column {column!r}; its columns are {', '.join(c.name for c in spec.columns)}"
    if found.folded in {spec.id_column, *(item.folded for item in spec.key)}:
        return f"{name} is part of the primary key, which says which row it is; count in another column"
    if any(fold(term) == fold(found.name) for index in spec.unique for term, _ in index.columns):
        return f"{name} must be UNIQUE, and a sum cannot promise that; count in another column"
    if found.affinity in ("TEXT", "REAL"):
        return f"{name} has {found.affinity} affinity and cannot keep integers exact; declare it INTEGER"
    if len(column) > COLUMN_CHARS_MAX:
        return f"the column's name has {len(column)} characters; a counter's may have {COLUMN_CHARS_MAX}"
    return ""


def keep_both_fact(table: str) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that a table, by canonical name, keeps both rows of one id."""
    return f"{POLICY}:{json.dumps([table], ensure_ascii=False)}", POLICY, KEEP_BOTH


def signed_fact(table: str) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that the changes of a table, by canonical name, are signed."""
    return f"{SIGNED}:{json.dumps([table], ensure_ascii=False)}", SIGNED, ""


def signed_refusal(spec: TableSpec, policies: Policies, *, used: bool) -> str:
    """Return why a table cannot become signed, "" if it can; `used` if it has or had rows."""
    if spec.id_column:
        return f"{spec.name} is {KEEP_BOTH}, which gives rows other keys; create another table"
    if policies.counters_of(spec):
        return f"{spec.name} has counters, whose sums no single writer can sign; create another table"
    if used:
        return (
            f"{spec.name} has or had rows that nobody signed; create a table, make that one {SIGNED}, and copy the rows into"
            " it, which signs them in this node's name"
        )
    return ""


def keep_both_refusal(spec: TableSpec, rows: int) -> str:
    """Return why a table with so many rows cannot keep both rows of one id, "" if it can."""
    if spec.kind is not KeyKind.ROWID:
        return f"{spec.name} has no INTEGER PRIMARY KEY, so two nodes cannot number two rows alike"
    if rows > KEEP_BOTH_ROWS_MAX:
        return f"{spec.name} has {rows} rows, and each would get another identity; decide before it has {KEEP_BOTH_ROWS_MAX}"
    return ""


def own_ids_fact(table: str, *, own: bool) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) that each node numbers the rows of a table from own blocks, or not."""
    return f"{OWN_IDS}:{json.dumps([table], ensure_ascii=False)}", OWN_IDS, OWN_IDS if own else SHARED_IDS


def own_ids_refusal(spec: TableSpec, *, automatic: bool) -> str:
    """Return why nodes cannot number the rows of a table from own blocks, "" if they can; `automatic`: it is AUTOINCREMENT."""
    if spec.kind is not KeyKind.ROWID and not spec.id_column:
        return f"{spec.name} has no INTEGER PRIMARY KEY, so SQLite gives its rows no ids that could collide"
    if not automatic:
        return (
            f"{spec.name} is not AUTOINCREMENT, so SQLite gives out the id after the greatest, whatever a node does; declare it"
            f" AUTOINCREMENT, keep both rows of one id (mycomesh policy {spec.name} {KEEP_BOTH}), or let programs draw UUIDs"
        )
    return ""


def slot_fact(site: bytes, slot: int) -> tuple[str, str, str]:
    """Return the fact (name, kind, sql) by which a site claims a slot (`id_blocks`)."""
    return f"{SLOT}:{json.dumps([site.hex()])}", SLOT, str(slot)


def _subject(name: Any, kind: str) -> tuple[str, ...] | None:
    """Return the names in the name of a fact, None if it has another form."""
    if type(name) is not str or not name.startswith(f"{kind}:"):
        return None
    return _parsed_subject(name, kind) if len(name) <= REMEMBERED_CHARS else _parsed_subject.__wrapped__(name, kind)


@functools.lru_cache(maxsize=4 * 8_192)
def _parsed_subject(name: str, kind: str) -> tuple[str, ...] | None:
    # Each pass over the schema reads all decisions, some thousand in a large mesh.
    try:
        names = json.loads(name[len(kind) + 1 :])
    except (ValueError, RecursionError):
        return None
    if type(names) is not list or not names or not all(type(item) is str for item in names):
        return None
    internal = names[0].startswith(INTERNAL_PREFIX) and is_reserved(names[0])
    return None if internal else tuple(names)  # nobody decides about internal tables
