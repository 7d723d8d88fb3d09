"""The registry of replicated tables: which tables of this file replicate, and each one as the change log knows it.

`mycomesh_replicated` is its record in the file. Tables are known here by canonical name, the folded name that all nodes use;
`TableSpec.name` is the name in this file.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import apsw

from mycomesh.sync.capture.install import (
    ensure_pending_log,
    install_capture,
    is_captured,
    is_outdated,
    keep_both_key,
    remove_capture,
    remove_internal,
)
from mycomesh.sync.merge.dropped_columns import drop_columns
from mycomesh.sync.merge.keep_both import convert
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.schema.fact_limits import find_excess
from mycomesh.sync.schema.facts import INDEX, SCHEMA_ID, SCHEMA_TABLE, TABLE, TRIGGER, VIEW, VIRTUAL, Facts
from mycomesh.sync.schema.names import Names
from mycomesh.sync.schema.notes import Notes, Source
from mycomesh.sync.schema.policy import GENERATED, Policies, area_refusal, moving_refusal
from mycomesh.sync.schema.table_filter import TableFilter
from mycomesh.sync.sqlite.affinity import as_stored
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.table_spec import FileSchema, TableSpec, UnsupportedTable
from mycomesh.sync.sqlite.trial import refusal_of
from mycomesh.sync.sqlite.versions import FLOOR_DEFAULT, Version, newest_need
from mycomesh.sync.storage.change_log import ChangeLog, changes_name
from mycomesh.sync.storage.column_bits import extended
from mycomesh.sync.storage.insert_runs import runs_name
from mycomesh.sync.storage.moved_rows import MovedRows
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.interest import Interest
from mycomesh.sync.wire.units import NO_AREA, area_of, shown_unit, split_unit, unit_name

__all__ = ["DEFINITIONS", "Record", "Registry", "Snapshot", "read_sums"]

# The kinds of facts that are SQL.
DEFINITIONS = (TABLE, INDEX, GENERATED, VIRTUAL, VIEW, TRIGGER)

_SIGNED = "signed"  # in mycomesh_meta: the tables that were ever signed
# The sums of each change log (`ChangeLog.read_sums`), by table id.
Sums = dict[int, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Record:
    """The record of one table in `mycomesh_replicated`.

    identity: the form of its key, as in `TableSpec.identity`.
    bits: the bits of its columns.
    captured: those of the columns that the installed triggers compare, in the order of the table.
    """

    table_id: int
    identity: str
    bits: dict[str, int]
    captured: dict[str, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tables and notes of a registry before a transaction."""

    tables: dict[str, Table]
    notes: Notes


def read_sums(store: Store) -> Sums:
    """Return the sums of the change logs, by a long scan. It needs no write lock, because only the node writes these logs."""
    listing = "SELECT name FROM sqlite_schema WHERE name GLOB 'mycomesh_*'"
    existing = {name for (name,) in store.db.execute(listing)}
    if "mycomesh_replicated" not in existing:
        return {}
    sums = {}
    ids = [SCHEMA_ID, *(number for (number,) in store.db.execute("SELECT id FROM mycomesh_replicated ORDER BY id"))]
    for table_id in ids:
        if {changes_name(table_id), runs_name(table_id)} <= existing:
            with contextlib.suppress(apsw.SQLError):  # altered by hand: opening the table reports that
                sums[table_id] = ChangeLog(store, table_id).read_sums()
    return sums


class Registry:
    """The replicated tables of one file, by canonical name, and what the mesh has decided about them."""

    def __init__(
        self,
        store: Store,
        mesh_key: bytes,
        tables: TableFilter,
        sums: Sums,
        indexes: Mapping[int, Sequence[str]],
        interest: Interest | None = None,
    ) -> None:
        """Take the result of `read_sums`, and the indexes that this connection's triggers keep, by table id.

        `interest` says which areas this node keeps; without one it does not know areas, as earlier versions.
        """
        self._store = store
        self._filter = tables
        self._factory = _TableFactory(store, mesh_key, sums, indexes)
        self._captured: dict[int, object] = {}  # SQLite's catalogue entries when a table's triggers were last complete
        # By table id: a table, its spec and its catalogue entries when its triggers were last found to fit.
        self._fitting: dict[int, tuple[Table, TableSpec, object]] = {}
        self.file = FileSchema(store.db)
        self.tables: dict[str, Table] = {}
        self.loaded: list[Table] = []  # those whose parked rows the outbox is to retry: loaded, or of a changed schema
        # Tables that peers may replicate and this node does not: dropped or renamed by hand in this file, or shadow tables here.
        self.removed: set[str] = set()
        # By canonical name: the definition here, and the mesh's that it could not be given; not to be tried again.
        self.refused_definitions: dict[str, tuple[str, str]] = {}
        self.behind: frozenset[str] = frozenset()  # tables that are not as the mesh has them, or not here
        self.notes = Notes()
        self.facts = Facts(store)
        self.policies = Policies()
        # Tables and columns that facts drop, also those of keys, which are not dropped.
        self.stated_drops: frozenset[tuple[str, ...]] = frozenset()
        self._interest = interest
        self._kept: Interest | None = (
            None  # `interest` by canonical names and stored values; None until it is asked for
        )
        self.own_floor: Version | None = None  # the oldest SQLite beside this node, if its settings state it
        self.names: Names

    @property
    def mesh_key(self) -> bytes:
        """The key of the digests."""
        return self._factory.mesh_key

    # ---- transactions

    def snapshot(self) -> Snapshot:
        """Return the tables and notes, for `restore` if the transaction is rolled back."""
        return Snapshot(dict(self.tables), self.notes.copy())

    def restore(self, before: Snapshot) -> None:
        """Go back to the tables of before a transaction that was rolled back."""
        self.notes = before.notes
        for name in [name for name, table in self.tables.items() if table is not before.tables.get(name)]:
            self.forget(name)
        for table in [table for name, table in before.tables.items() if name not in self.tables]:
            table.restore()
            self.tables[table.spec.folded] = table

    # ---- decisions and definitions

    def read_decisions(self) -> None:
        """Read what the mesh has decided about tables, and what this file calls them."""
        excess = find_excess(self.tables.get(SCHEMA_TABLE), DEFINITIONS)
        self.facts.without_effect = excess.names
        self.notes.put("definitions of the mesh", excess.note)
        before = self._store.meta(_SIGNED)
        signed = frozenset(json.loads(before)) if isinstance(before, str) else frozenset()
        self.names = Names(self._store.db)
        policies = Policies.read(self._store.db, SCHEMA_TABLE, without=excess.names, signed=signed)
        self.stated_drops = policies.dropped
        self.policies = policies.keeping_keys(functools.cache(self._key))
        if self.policies.signed != signed:
            self._store.meta_set(_SIGNED, json.dumps(sorted(self.policies.signed)))
        self._kept = None

    def _key(self, name: str) -> frozenset[str]:
        """Return the canonical names of the columns of a table's key: here, or on the mesh if the table is not here."""
        try:
            return self.names.key(self.file.spec(self.names.table(name)), name)
        except UnsupportedTable:
            defined = self.facts.defined(name, {})
            return frozenset() if defined is None else frozenset(column.folded for column in defined.key)

    def canonical_names(self, names: Collection[str]) -> dict[str, str]:
        """Return those tables of the file that the settings admit: their names here, by canonical name."""
        canonical = {self.names.canonical(name, self.policies.dropped): name for name in names}
        return {name: here for name, here in canonical.items() if self._filter.admits(name)}

    def admits(self, name: str) -> bool:
        """Return True if a table of that name is replicated here, or would be if this file had it."""
        return self.selects(name) and name not in self.removed and (name,) not in self.policies.dropped

    def selects(self, name: str) -> bool:
        """Return True if the settings admit a table of that name."""
        return self._filter.admits(name)

    def owner(self, name: str) -> str:
        """Return the other program whose state a table is, and which stays in this file for that reason; "" otherwise."""
        return self._filter.owner(name)

    def defined(self, name: str) -> TableSpec | None:
        """Return the canonical definition of a table, None if the facts have none that can be read."""
        return self.facts.defined(name, self.policies.generated.get(name, {}))

    @property
    def floor(self) -> Version:
        """The oldest SQLite of the programs that must be able to read this schema: beside this node, and beside the others."""
        return min(self.policies.floor or FLOOR_DEFAULT, self.own_floor or (self.policies.floor or FLOOR_DEFAULT))

    def too_new(self, sql: str) -> str:
        """Return why a definition is too new for programs beside the nodes, "" if it is not."""
        version, what = newest_need(sql)
        if version <= self.floor:
            return ""
        needed, floor = (f"{major}.{minor}" for major, minor in (version, self.floor))
        return (
            f"{what} needs SQLite {needed}, and a program with SQLite {floor} could read no table of a file that has it; change"
            f' the definition, or set sqlite_floor = "{needed}" in config.toml if no program on any node is older'
        )

    def refusal_of(self, sql: str, index: str = "") -> str:
        """Return why a CREATE TABLE of the mesh, or an index on it, must not enter this file; "" if it may."""
        return self.too_new(index or sql) or refusal_of(sql, index)

    def spec(self, name: str, here: str) -> TableSpec:
        """Return the spec of the table that this file calls `here`, under canonical names; raises `UnsupportedTable`."""
        return self.policies.applied(self.undecided_spec(name, here))

    def undecided_spec(self, name: str, here: str) -> TableSpec:
        """Return the spec as it was before the mesh decided how the rows are identified; raises `UnsupportedTable`."""
        return self.names.spec(self.file.spec(here), name, self.policies.dropped_of(name))

    def local_name(self, name: str) -> str:
        """Return the folded name by which this file calls a table; that of an area is `table[area]`."""
        table_name, area = split_unit(name) or (name, None)
        table = self.tables.get(table_name)
        shown = table_name if table is None else fold(table.spec.name)
        return shown_unit(unit_name(shown, area))

    # ---- the records in the file

    def record(self, name: str) -> Record | None:
        """Return the record of a table, None if it was never registered."""
        listing = "SELECT id, shape, bits, known FROM mycomesh_replicated WHERE name = ?"
        found = self._store.db.execute(listing, (name,)).fetchone()
        if found is None:
            return None
        return Record(found[0], found[1], json.loads(found[2]), json.loads(found[3]))

    def recorded(self, names: Collection[str]) -> frozenset[str]:
        """Return those of these canonical names that have a record."""
        listing = "SELECT name FROM mycomesh_replicated WHERE name IN (SELECT value FROM json_each(?)) ORDER BY name"
        found = self._store.db.execute(listing, (json.dumps(list(names)),)).fetchall() if names else []
        return frozenset(name for (name,) in found)

    def register(self, spec: TableSpec) -> Table:
        """Register a table that has no record yet, and load it."""
        bits = extended({}, spec)
        db = self._store.db
        found = db.execute("SELECT max(id) FROM mycomesh_replicated").fetchone()
        table_id = max(found[0] or 0, SCHEMA_ID) + 1
        db.execute(
            "INSERT INTO mycomesh_replicated VALUES(?, ?, ?, ?, '{}')",
            (table_id, spec.folded, spec.identity, json.dumps(bits)),
        )
        self.names.note_registered(spec.folded, spec.name)
        return self.load(table_id, spec, bits)

    def start_over(self, table_id: int, spec: TableSpec) -> Table:
        """Load a table with another key than it was registered with: its change log is empty."""
        bits = extended({}, spec)
        self.forget(spec.folded)
        self._factory.sums.pop(table_id, None)
        remove_internal(self._store.db, table_id)
        self._store.db.execute(
            "UPDATE mycomesh_replicated SET shape = ?, bits = ?, known = '{}' WHERE id = ?",
            (spec.identity, json.dumps(bits), table_id),
        )
        return self.load(table_id, spec, bits)

    def discard(self, name: str) -> None:
        """Remove everything internal of a table that the mesh has dropped; the caller drops the user's table."""
        db = self._store.db
        self.forget(name)
        self.names.forget(name)
        self.notes.drop(name)
        found = db.execute("SELECT id FROM mycomesh_replicated WHERE name = ?", (name,)).fetchone()
        if found is None:
            return
        remove_internal(db, found[0])
        for suffix in ("vectors", "replicated"):
            db.execute(f"DELETE FROM mycomesh_{suffix} WHERE id = ?", found)

    # ---- loaded tables

    def load(
        self, table_id: int, spec: TableSpec, bits: dict[str, int] | None = None, before: Table | None = None
    ) -> Table:
        """Load a table, in place of the Table object from before, if any."""
        with self.file.altering():
            table = self._factory.make(table_id, spec, bits or extended({}, spec), before)
        table.columns.counters = self.policies.counters_of(spec)
        self.sign(table)
        self.cut(table)
        self._captured.pop(table_id, None)
        self._kept = None
        self.names.record(spec.folded, spec.name, {column.folded: column.name for column in spec.columns})
        self.drop_columns(table)
        self.tables[spec.folded] = table
        self.loaded.append(table)
        self.notes.drop(spec.folded)
        return table

    def reload(
        self, table_id: int, spec: TableSpec, bits: dict[str, int], before: Table | None, captured: dict[str, int]
    ) -> Table:
        """Load a table as the file has it by now, with triggers that compare the columns in `captured`."""
        self.forget(spec.folded)
        table = self.load(table_id, spec, extended(bits, spec), before)
        table.columns.captured = captured
        return table

    def reload_stamped(self, before: Table, spec: TableSpec, captured: dict[str, int]) -> Table:
        """Load a table as the file has it by now, all of whose captured writes have their stamps.

        If the mesh has decided meanwhile that it keeps both rows of one id, its entries get their other keys.
        """
        table = self.reload(before.table_id, spec, before.columns.bits, before, captured)
        if spec.id_column and self._store.meta(keep_both_key(table.table_id)) is None:
            convert(table)
            self._store.meta_set(keep_both_key(table.table_id), 1)
        return table

    def forget(self, name: str) -> None:
        """Unload a table; its triggers go on."""
        table = self.tables.pop(name, None)
        if table is not None:
            self._fitting.pop(table.table_id, None)
            table.unload()

    def drop_columns(self, table: Table, more: frozenset[str] = frozenset()) -> frozenset[str]:
        """Remove the columns that the mesh has dropped from the table's entries; return those that it had not yet removed.

        `more` are columns that a migration is about to drop.
        """
        dropped = table.columns.dropped = self.policies.dropped_of(table.spec.folded) | more
        key = f"shed/{table.table_id}"
        due = dropped - set(json.loads(self._store.meta(key) or "[]")) if dropped else dropped
        if due:
            drop_columns(table, due)
            self._store.meta_set(key, json.dumps(sorted(dropped)))
        return due

    def sign(self, table: Table) -> None:
        """Keep the signatures of a table's changes from here on if its policy says so."""
        if table.spec.folded in self.policies.signed and table.seals is None:
            table.sign(functools.partial(keys_of, table))

    def cut(self, table: Table) -> None:
        """Keep the areas of a table apart from here on if the mesh has decided so and the table allows it."""
        column = self.policies.areas.get(table.spec.folded) if self._interest is not None else None
        if column is None or area_refusal(table.spec, column, self.policies):
            return
        moved = MovedRows.read(self._store, table.table_id) if table.areas is None else table.areas.moved
        if moved is None and table.spec.folded in self.policies.moved and not table.spec.lacks_primary_key:
            if moving_refusal(table.spec, column):
                return
            table.cut_with_rows(column)
        elif table.areas is None:
            table.cut(column if moved is None else moved.column)
        elif moved is None:
            table.areas.column = column
        if moved is not None and table.areas is not None:
            table.areas.parked = column != moved.column
            text = f"it was cut by {moved.column} here, and by {column} on the mesh: its rows stay in this file"
            self.notes.put(table.spec.folded, text if table.areas.parked else "", Source.AREAS)

    # ---- units: whole tables, and the areas of those that are cut

    def unit(self, name: str) -> Unit | None:
        """Return the unit of that name on the wire, None if this file has no such table, or has not cut it."""
        table = self.tables.get(name)
        if table is not None:
            return Unit(name, table, None) if self.has_base(table) else None
        table_name, area = split_unit(name) or ("", None)
        table = self.tables.get(table_name)
        return None if table is None or table.areas is None or table.areas.idle else Unit(name, table, area)

    def has_base(self, table: Table) -> bool:
        """Return True for a whole table, and for one that is cut and has a base."""
        return table.areas is None or table.areas.moved is None

    def table_of(self, name: str) -> Table | None:
        """Return the table of the unit of that name, None if it is not here."""
        unit = self.unit(name)
        return None if unit is None else unit.table

    def units(self) -> Iterator[Unit]:
        """Yield every unit of which this file covers something, and every whole table, by name."""
        for name, table in sorted(self.tables.items()):
            if self.has_base(table):
                yield Unit(name, table, None)
        yield from (unit for unit in self.areas() if unit.vector.count)

    def areas(self) -> Iterator[Unit]:
        """Yield every area of which this file knows a site, by name."""
        for name, table in sorted(self.tables.items()):
            if table.areas is not None and not table.areas.idle:
                for area in table.areas.known():
                    yield Unit(unit_name(name, area), table, area)

    def keeps(self, name: str) -> bool:
        """Return True if this node keeps the unit of that name."""
        table, area = split_unit(name) or (name, None)
        kept = self.kept
        return area is None or (kept is not None and kept.keeps(table, area))

    @property
    def interest(self) -> Interest | None:
        """The areas that this node keeps, as its settings name them; None for a node that does not know areas."""
        return self._interest

    @interest.setter
    def interest(self, interest: Interest) -> None:
        self._interest, self._kept = interest, None

    @property
    def kept(self) -> Interest | None:
        """The areas that this node keeps, by canonical names and by the values that their columns store."""
        if self._kept is None and self._interest is not None:
            self._kept = self.resolved(self._interest)
        return self._kept

    def resolved(self, interest: Interest) -> Interest:
        """Return an interest whose tables have the names of this file, or canonical ones, and whose areas are any texts.

        The result has canonical names, and the areas as the columns that cut these tables store them. A table that is not here
        yet, or not cut, stays as it is.
        """
        found: dict[str, frozenset[str]] = {}
        for name, texts in sorted(interest.areas.items()):
            folded = fold(name)
            known = self.names.canonical(name, self.policies.dropped)
            canonical = known if known in self.tables or folded not in self.tables else folded
            table, column = self.tables.get(canonical), self.policies.areas.get(canonical)
            spec = next((each for each in table.spec.columns if each.folded == column), None) if table else None
            found[canonical] = texts
            if spec is not None:
                stored = map(area_of, as_stored(tuple(sorted(texts)), spec.affinity))
                found[canonical] = frozenset(area for area in stored if area is not None)
                if canonical in self.policies.moved:
                    found[canonical] |= {NO_AREA}
        return Interest(found)

    # ---- capture

    def install(self, table: Table) -> None:
        """Install capture for the table's current columns."""
        with self.file.altering(table.spec.name):
            install_capture(table)
        self.is_captured(table)  # which notes its entries: passes of narrow scope do not look at it again

    def uninstall(self, table_id: int) -> None:
        """Remove the triggers, which name columns of the table; only a table scan finds the writes made without them."""
        remove_capture(self._store.db, table_id)

    def is_captured(self, table: Table) -> bool:
        """Return True if the table's triggers are complete."""
        entries = self.file.catalogue_entries(table.spec.name)
        if self._captured.get(table.table_id) != entries and is_captured(table, entries):
            self._captured[table.table_id] = entries
        return self._captured.get(table.table_id) == entries

    def is_captured_as(self, table: Table, spec: TableSpec) -> bool:
        """Return True if the table is loaded with this spec, and its triggers are complete and of this version."""
        if not table.columns.installed:
            return False
        entries = self.file.catalogue_entries(table.spec.name)
        known = self._fitting.get(table.table_id)
        if known is not None and known[0] is table and known[1] is spec and known[2] is entries:
            return True
        fits = table.spec == spec and self.is_captured(table) and not self.is_outdated(table)
        if fits:
            self._fitting[table.table_id] = table, spec, entries
        return fits

    def is_outdated(self, table: Table) -> bool:
        """Return True if an earlier version has installed the table's triggers, which are complete."""
        return is_outdated(table, self.file.catalogue_entries(table.spec.name))

    def is_unchanged(self, table: Table) -> bool:
        """Return True if the table has not changed since its triggers were last found complete."""
        return self.file.catalogue_entries(table.spec.name) == self._captured.get(table.table_id)


class _TableFactory:
    """Makes the tables of a registry."""

    def __init__(self, store: Store, mesh_key: bytes, sums: Sums, indexes: Mapping[int, Sequence[str]]) -> None:
        self._store = store
        self.mesh_key = mesh_key
        self._indexes = indexes
        self.sums = sums  # of change logs that were not loaded yet

    def make(self, table_id: int, spec: TableSpec, bits: dict[str, int], before: Table | None) -> Table:
        """Return a table that follows transactions, and whose logs exist."""
        table = Table(self._store, table_id, spec, bits, self.mesh_key, self._indexes)
        table.create()
        ensure_pending_log(table)
        table.load(before, self.sums.pop(table_id, None))
        return table
