"""Own ids: each node numbers the rows of some AUTOINCREMENT tables from blocks that no other node uses.

SQLite gives a row the id after `max(rowid, sqlite_sequence.seq)`. So before each commit, the node moves the sequence of these
tables to its next own block above every id that is in the file: a program that commits next finds it there. The slot that says
which blocks are a site's own is a fact (`id_blocks`), which the site claims itself. If two sites have claimed one slot, because
neither knew of the other, the earlier claim stays and the other site claims another.

Invariant: after each commit of the node, the next id of each of these tables is in a block of this site's slot, unless `status`
says why not. ADR 0040.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import apsw

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.id_blocks import SLOTS, choose_slot, ids_left, preferred_slots, sequence_above
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.schema.policy import SLOT, slot_fact
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.table_spec import KeyKind, TableSpec, encode_key
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["SITE_CLAIMS_MAX", "OwnIds", "Room", "is_automatic"]

# Claims of one node that count: one for each of its sites.
SITE_CLAIMS_MAX = 64
# Sites without a claim whose preferred slots are left to them: more would leave none.
_UNCLAIMED_MAX = SLOTS // 4
_Stamp = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Room:
    """The next id that SQLite gives to a row of a table, and how many follow before another node's, this one included."""

    next_id: int
    left: int


@dataclass(frozen=True, slots=True)
class _State:
    """The numbering of this site: its slot, the slots of others, and each table's last sequence, by its name in this file."""

    site: bytes = b""
    stale: bool = False
    slot: int | None = None
    taken: frozenset[int] = frozenset()
    tables: tuple[tuple[str, str], ...] = ()  # name in this file, canonical name
    sequences: tuple[tuple[str, int], ...] = ()


class OwnIds:
    """The own ids of one file."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self._state = self._committed = _State()
        store.enlist(self)
        store.finish_with(self._keep_ahead)

    def committed(self) -> None:
        """Keep what the transaction did."""
        self._committed = self._state

    def rolled_back(self) -> None:
        """Go back to before the transaction."""
        self._state = self._committed

    @property
    def stale(self) -> bool:
        """True if this file has another site than the one that has claimed a slot, since the last transaction."""
        return self._state.stale

    def renew(self) -> None:
        """Look which tables have own ids, and claim a slot if there are any; inside a transaction."""
        tables = []
        for name, table in sorted(self._registry.tables.items()):
            wanted = name in self._registry.policies.own_ids
            able = wanted and is_automatic(self._store.db, table.spec)
            line = "" if able or not wanted else "own-ids has no effect: the table is not AUTOINCREMENT in this file"
            self._registry.notes.put(name, line, Source.IDS)
            if able:
                tables.append((table.spec.name, name))
        self._state = replace(self._state, tables=tuple(tables), sequences=(), stale=False)
        if not tables:
            return
        self._claim(self._store.meta("site"))
        if self._state.slot is None:
            for _, name in tables:
                self._registry.notes.put(name, f"own-ids has no effect: all {SLOTS:,} slots are taken", Source.IDS)

    def room(self, table: Table) -> Room | None:
        """Return the next own id of a table, None if it has none of its own."""
        state = self._state
        if state.slot is None or table.spec.folded not in dict(state.tables).values():
            return None
        used = _used(self._store.db, table.spec.name, _sequences(self._store.db).get(table.spec.name))
        return Room(used + 1, ids_left(state.slot, used, state.taken))

    # ---- the slot

    def _claim(self, site: bytes) -> None:
        claims = self._claims()
        mine = claims.pop(site, None)
        taken = frozenset(slot for slot, _ in claims.values())
        slot = None if mine is None else mine[0]
        if mine is None or any(other == slot and stamp < mine[1] for other, stamp in claims.values()):
            slot = choose_slot(site, taken | self._preferred_by_others(claims.keys() | {site}))
            if slot is None:
                slot = choose_slot(site, taken)
            if slot is not None:
                self._registry.facts.write(*slot_fact(site, slot))
        self._state = replace(self._state, site=site, stale=False, slot=slot, taken=taken)

    def _claims(self) -> dict[bytes, tuple[int, _Stamp]]:
        """Return the slot that each site has claimed for itself, and the stamp of the claim."""
        table = self._registry.tables[SCHEMA_TABLE]
        bit = 1 << table.columns.bits["sql"]
        found: dict[bytes, tuple[int, _Stamp]] = {}
        count: dict[bytes, int] = {}
        for name, sql in self._registry.facts.all(SLOT):
            site, slot = _parsed(name, sql)
            member = site[:SITE_PREFIX]
            if not site or count.get(member, 0) == SITE_CLAIMS_MAX:
                continue
            stored_entries = table.log.entries_of_row(encode_key(table.spec, (name,)))
            entries = [table.log.entry(stored) for stored in stored_entries]
            # A claim without an entry is this file's, and has no stamp yet.
            stamp = next((entry.stamp for entry in entries if entry.mask & bit), (1 << 63, site))
            if stamp[1][:SITE_PREFIX] == member:
                count[member] = count.get(member, 0) + 1
                found[site] = slot, stamp
        return found

    def _preferred_by_others(self, claimed: Collection[bytes]) -> frozenset[int]:
        """Return the slots that known sites prefer which have not claimed any: the next moment may bring their claims."""
        others = [site for site in self._store.sites if site not in claimed]
        if len(others) > _UNCLAIMED_MAX:
            return frozenset()
        return frozenset(next(preferred_slots(site)) for site in others)

    # ---- the sequences

    def _keep_ahead(self) -> None:
        """Move the sequence of each table to this site's next own block, where it is not in one; before a commit."""
        state = self._state
        if not state.tables:
            return
        if state.site != self._store.meta("site"):
            state = self._state = replace(state, stale=True)
        if state.slot is None:
            return
        db = self._store.db
        found = _sequences(db)
        before = dict(state.sequences)
        after = {}
        for name, canonical in state.tables:
            sequence = found.get(name)
            if sequence is not None and sequence == before.get(name):
                after[name] = sequence
                continue
            # Where the sequence went back (a rebuild, an edit by hand), ids above it may be in use.
            grown = sequence is not None and sequence >= before.get(name, 1 << 63)
            used = sequence if sequence is not None and grown else _used(db, name, sequence)
            target = sequence_above(state.slot, used)
            line = (
                f"after id {used:,} no id of this node is left below 2^53; delete or renumber that row"
                if target is None
                else ""
            )
            self._registry.notes.put(canonical, line and f"own-ids has no effect: {line}", Source.IDS)
            after[name] = used if target is None else target
            if target is not None and target != sequence:
                _set_sequence(db, name, target)
        self._state = replace(state, sequences=tuple(after.items()))


def is_automatic(db: Any, spec: TableSpec) -> bool:
    """Return True if SQLite numbers the rows of a table by a sequence: AUTOINCREMENT."""
    if spec.kind is not KeyKind.ROWID and not spec.id_column:
        return False
    try:
        return bool(db.column_metadata("main", spec.name, spec.rowid)[4])
    except apsw.SQLError:
        return False


def _sequences(db: Any) -> dict[str, int]:
    """Return SQLite's sequences by name; any program can write that table."""
    listing = "SELECT name, seq FROM sqlite_sequence WHERE typeof(seq) = 'integer' ORDER BY rowid DESC"
    return dict(db.execute(listing).fetchall())


def _used(db: Any, name: str, sequence: int | None) -> int:
    """Return the greatest id that a table has or had, as SQLite reckons."""
    greatest = db.execute(f"SELECT max(rowid) FROM {quoted(name)}").fetchone()[0]
    return max(0, greatest or 0, sequence or 0)


def _set_sequence(db: Any, name: str, sequence: int) -> None:
    db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (sequence, name))
    if not db.changes():
        db.execute("INSERT INTO sqlite_sequence(name, seq) VALUES(?, ?)", (name, sequence))


def _parsed(name: str, sql: str) -> tuple[bytes, int]:
    """Return the site and the slot of a claim, an empty site if it is of another form."""
    try:
        (site,) = json.loads(name[len(SLOT) + 1 :])
        found = bytes.fromhex(site)
        slot = int(sql) if sql.isascii() and sql.isdigit() and len(sql) <= 4 else SLOTS
    except (ValueError, TypeError, RecursionError):
        return b"", 0
    valid = len(found) == 2 * SITE_PREFIX and slot < SLOTS and (name, SLOT, sql) == slot_fact(found, slot)
    return (found, slot) if valid else (b"", 0)
