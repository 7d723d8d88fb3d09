"""Limits on the definitions that members state: those beyond a limit stay in the table of facts, and have no effect.

Each definition is read in every pass over the schema, so their number bounds how long a pass keeps the write lock. The
oldest count first, by stamp, so every replica with the same facts leaves out the same ones. Facts that are not SQL always
have effect: a dropped column must not come back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.sqlite.table_spec import SQL_MAX
from mycomesh.sync.storage.table import Table

__all__ = [
    "FACTS_MAX",
    "FACTS_PER_MEMBER_MAX",
    "Excess",
    "Weight",
    "exceeds",
    "find_excess",
    "newest_stamps",
    "stated_by",
    "weight_of",
]

# A thousand tables with three indexes and some renamed columns each; a table takes about 1 ms in a pass.
FACTS_PER_MEMBER_MAX = 8_192
FACTS_MAX = 4 * FACTS_PER_MEMBER_MAX
# Characters of SQL: 1 KB for each.
SQL_PER_MEMBER_MAX = FACTS_PER_MEMBER_MAX << 10
SQL_OF_ALL_MAX = FACTS_MAX << 10
# Columns of tables: the node and SQLite keep some 2.6 KB of each in memory, and as much of a table as of TABLE_COLUMNS. A member
# may take 85 MB, as much as a thousand tables of twenty columns. Commas are counted, so a definition may count for more.
COLUMNS_PER_MEMBER_MAX = 32_768
COLUMNS_OF_ALL_MAX = 4 * COLUMNS_PER_MEMBER_MAX
TABLE_COLUMNS = 12
Weight = tuple[int, int, int]  # a number of facts, their bytes, and the columns of those that define tables
_COMMAS = "length(sql) - length(replace(sql, ',', ''))"
_ALL = 1 << 40  # entries; the sums of the log do not count those of the running transaction


@dataclass(frozen=True, slots=True)
class Excess:
    """The names of the facts beyond the limits, and a line for people; both empty if there are none."""

    names: frozenset[str] = frozenset()
    note: str = ""


def find_excess(table: Table | None, kinds: Iterable[str]) -> Excess:
    """Return which facts of these kinds, all of them SQL, are beyond the limits; `table` is the loaded table of facts."""
    if table is None:
        return Excess()
    db, wanted = table.store.db, list(kinds)
    columns = f"CASE kind WHEN 'table' THEN {_COMMAS} + {TABLE_COLUMNS} ELSE 0 END"
    source = f"FROM {table.spec.name} WHERE kind IN ({', '.join('?' * len(wanted))})"
    totals = f"SELECT count(*), total(octet_length(sql)), total({columns}) {source}"
    count, size, of_tables = db.execute(totals, wanted).fetchone()
    if not exceeds((count, size, of_tables)):
        return Excess()
    listing = f"SELECT name, 1, length(sql), {columns} {source}"
    sizes = {
        name: (number, min(length, SQL_MAX), columns)
        for name, number, length, columns in db.execute(f"{listing} ORDER BY name", wanted)
        if type(name) is str and type(length) is int
    }
    room = [FACTS_MAX, SQL_OF_ALL_MAX, COLUMNS_OF_ALL_MAX]
    own: dict[bytes, list[int]] = {}
    beyond: dict[str, bytes] = {}
    for stamp, name in sorted((stamp, name) for name, stamp in newest_stamps(table).items() if name in sizes):
        member = stamp[1][:SITE_PREFIX]
        left = own.setdefault(member, [FACTS_PER_MEMBER_MAX, SQL_PER_MEMBER_MAX, COLUMNS_PER_MEMBER_MAX])
        if all(size <= min(rest) for size, *rest in zip(sizes[name], left, room, strict=True)):
            for at, size in enumerate(sizes[name]):
                left[at] -= size
                room[at] -= size
        else:
            beyond[name] = member
    if not beyond:
        return Excess()
    members = ", ".join(sorted({member.hex() for member in beyond.values()}))
    return Excess(
        frozenset(beyond),
        f"{len(beyond):,} definitions have no effect: a member may state {FACTS_PER_MEMBER_MAX:,}, of"
        f" {COLUMNS_PER_MEMBER_MAX:,} columns in all, and all members together {FACTS_MAX:,};"
        f" they are of {members}: drop tables and indexes that nobody needs, or revoke that member",
    )


def weight_of(kind: Any, sql: Any) -> Weight:
    """Return what one fact counts for these limits, at most: 1, its bytes and its columns."""
    text = sql if isinstance(sql, str) else str(sql)
    size = len(text.encode(errors="surrogatepass"))
    return 1, size, text.count(",") + TABLE_COLUMNS if kind == "table" else 0


def exceeds(weight: Weight) -> bool:
    """Return True if facts of this weight may be beyond a limit."""
    count, size, columns = weight
    columns_max = min(COLUMNS_PER_MEMBER_MAX, COLUMNS_OF_ALL_MAX)
    return count > FACTS_PER_MEMBER_MAX or size > SQL_PER_MEMBER_MAX or columns > columns_max


def stated_by(table: Table | None, kinds: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return how many facts of each of these kinds a member has stated last, by the hexadecimal first half of its node id.

    Empty if there are more than `FACTS_PER_MEMBER_MAX` facts: it would take too long for a status.
    """
    if table is None or table.log.count > FACTS_PER_MEMBER_MAX:
        return {}
    wanted = list(kinds)
    listing = f"SELECT name, kind FROM {table.spec.name} WHERE kind IN ({', '.join('?' * len(wanted))}) ORDER BY name"
    kind_of = dict(table.store.db.execute(listing, wanted).fetchall())
    found: dict[str, dict[str, int]] = {}
    for name, (_, site) in sorted(newest_stamps(table).items()):
        if name in kind_of:
            of_member = found.setdefault(site[:SITE_PREFIX].hex(), {})
            of_member[kind_of[name]] = of_member.get(kind_of[name], 0) + 1
    return found


def newest_stamps(table: Table) -> dict[str, tuple[int, bytes]]:
    """Return the newest stamp (clock, site) of each fact that has one."""
    found: dict[str, tuple[int, bytes]] = {}
    for number, hlc, row, _ in table.log.scan(-1, -1, _ALL):
        if type(row) is bytes and row[:1] != b"\x00":
            (name,) = codec.decode(row, bytes_max=len(row))
            if type(name) is str:
                stamp = hlc, table.store.site(number)
                found[name] = max(found.get(name, stamp), stamp)
    return found
