"""One replicated table: its columns, change log, coverage, digests and held values, beside the rows of the user's table.

The table itself maps the keys of the wire to the names of rows in this file. A row without a primary key has the stamp of its
insert as its key; in this file it is named by its rowid while it is visible, and by its key otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, TableSpec
from mycomesh.sync.storage.areas import Areas
from mycomesh.sync.storage.change_log import ChangeLog, StoredEntry, unpack_mask
from mycomesh.sync.storage.column_bits import ColumnBits
from mycomesh.sync.storage.coverage import Coverage
from mycomesh.sync.storage.digests import Digests
from mycomesh.sync.storage.held_values import HeldValues
from mycomesh.sync.storage.internal_tables import has_rare
from mycomesh.sync.storage.moved_rows import MovedRows, watermarks_of
from mycomesh.sync.storage.pending_log import PendingLog
from mycomesh.sync.storage.seals import KeysOf, Seals
from mycomesh.sync.storage.store import Enlisted, Store
from mycomesh.sync.storage.user_table import UserTable

__all__ = ["INSERT_KEY_SIZE", "Table", "insert_key", "insert_stamp"]

# The key of a row without a primary key: a zero byte (no CBOR array begins so), the site, the hlc.
INSERT_KEY_SIZE = 1 + 16 + 8
_NO_INDEXES: Mapping[int, Sequence[str]] = MappingProxyType({})


def insert_key(site: bytes, hlc: int) -> bytes:
    """Return the key of a row that is identified by the stamp of its insert."""
    return b"\x00" + site + hlc.to_bytes(8, "big")


def insert_stamp(key: bytes) -> tuple[bytes, int]:
    """Return the stamp (site, hlc) in such a key."""
    return key[1:17], int.from_bytes(key[17:25], "big")


class Table:
    """A replicated table as this replica has it."""

    def __init__(
        self,
        store: Store,
        table_id: int,
        spec: TableSpec,
        bits: dict[str, int],
        mesh_key: bytes,
        indexes: Mapping[int, Sequence[str]] = _NO_INDEXES,
    ) -> None:
        """Take the bits of the columns, and the indexes that this connection's triggers keep, by table id."""
        self.store = store
        self.table_id = table_id
        self.spec = spec
        self.columns = ColumnBits(store, table_id, spec, bits)
        self.digests = Digests(store, spec.folded, self.columns, mesh_key)
        self.rows = UserTable(store, table_id, spec, indexes)
        self.log = ChangeLog(store, table_id)
        self.held = HeldValues(store, table_id, self.log)
        self.coverage = Coverage(store, table_id)
        self.pending = PendingLog(store, table_id)
        self.seals: Seals | None = None  # of a signed table
        self.areas: Areas | None = None  # of a table that is cut
        self._areas_before: Areas | None = None  # which the running transaction has replaced

    # ---- life

    def create(self) -> None:
        """Make the change log where it is missing; inside a transaction."""
        self.log.create()

    def sign(self, keys_of: KeysOf) -> None:
        """Keep the signatures of all changes from here on; inside a transaction."""
        self.seals = Seals(self.store, self.spec.folded, self.table_id, keys_of)
        self.seals.create()
        self.log.seals = self.seals

    def cut(self, column: str) -> None:
        """Keep the areas of the table apart from here on, by the canonical name of the column; inside a transaction."""
        self._begin_areas(column, MovedRows.read(self.store, self.table_id))

    def cut_with_rows(self, column: str) -> None:
        """Cut the table, whose entries get the sites of their areas step by step (`area_moves`); inside a transaction."""
        self.log.flush()
        collected = watermarks_of(self.store, self.table_id)
        sources = self.log.site_numbers()
        covered = self.coverage.staged
        horizon = self.coverage.horizon
        before = (
            covered.copy() if horizon is None else horizon.vouched(covered).copy()
        )  # a pin may have removed the rest
        tops = {site: covered.top(site) for site, _ in covered.items() if before.top(site) < covered.top(site)}
        moved = MovedRows(column, before, tops, collected, sources)
        moved.write(self.store, self.table_id)
        self.coverage.clear()
        if has_rare(self.store.db, "mycomesh_collected"):
            self.store.db.execute("DELETE FROM mycomesh_collected WHERE id = ?", (self.table_id,))
        if self.areas is not None:  # cut while it was empty, as others thought: its areas were sites of another form
            self._areas_before = self.areas
            self.store.dismiss(self.areas)
            self.store.db.execute("UPDATE OR REPLACE mycomesh_areas SET id = -id WHERE id = ?", (self.table_id,))
        self._begin_areas(column, moved)

    def _begin_areas(self, column: str, moved: MovedRows | None) -> None:
        areas = Areas(self.store, self.table_id, self.spec.folded, column, self.coverage, moved)
        areas.create()
        areas.load(self.log.name, self.log.runs.name)
        self._take_areas(areas)

    def _take_areas(self, areas: Areas) -> None:
        self.areas = self.log.areas = areas
        self.coverage.on_covered, self.coverage.on_moved = areas.on_covered, areas.on_moved
        if self.coverage.horizon is not None:
            self.coverage.horizon.origin = areas.origin_of
        self.store.enlist(areas)

    @property
    def areas_by(self) -> str:
        """The column of this file that cuts the table into areas, "" if none does."""
        cut = None if self.areas is None else self.areas.column
        return next((column.name for column in self.spec.columns if column.folded == cut), "")

    def load(self, before: Table | None = None, sums: tuple[int, int, int] | None = None) -> None:
        """Read the vector and the log's sums, or take them from the table that this one replaces; follow transactions."""
        if before is not None:
            self.log, self.held = before.log, before.held
            self.coverage, self.pending = before.coverage, before.pending
            self.store.enlist(self.log)
            if before.areas is not None:
                self._take_areas(before.areas)
        else:
            self.log.load(sums)
            self.coverage.load()
        self.store.enlist(self)

    def unload(self) -> None:
        """Stop following transactions."""
        for member in self._followers():
            self.store.dismiss(member)

    def restore(self) -> None:
        """Go on after an `unload` whose transaction was rolled back."""
        for member in self._followers():
            member.rolled_back()
            self.store.enlist(member)

    def _followers(self) -> tuple[Enlisted, ...]:
        """Return what follows transactions: the areas before the coverage, which tells them of its commit."""
        return (self.log, self) if self.areas is None else (self.log, self.areas, self)

    def committed(self) -> None:
        """Keep the coverage and the columns that the transaction brought."""
        self.coverage.committed()
        self.columns.committed()
        self._areas_before = None

    def rolled_back(self) -> None:
        """Forget the coverage and the columns that the transaction brought."""
        self.coverage.rolled_back()
        if self.areas is not None and self.areas.fresh:
            self.store.dismiss(self.areas)
            self.areas = self.log.areas = self.coverage.on_covered = self.coverage.on_moved = None
            if self._areas_before is not None:
                self._take_areas(self._areas_before)
        self.columns.rolled_back()
        self.digests.rolled_back()

    # ---- identity

    def key(self, row: Row, stored_entries: Sequence[StoredEntry]) -> Any:
        """Return the key of a row on the wire: an integer (`KeyKind.ROWID`), else bytes."""
        if isinstance(row, bytes) or self.spec.kind is KeyKind.ROWID:
            return row
        for stored in stored_entries:
            mask, dead = unpack_mask(stored[3])
            if mask & EXISTENCE and not dead:
                return insert_key(self.store.site(stored[0]), stored[1])
        raise AssertionError(f"{self.spec.name}: row {row} has entries but no insert")

    def locate(self, key: Any) -> Row:
        """Return the name in this file of the row with a key of the wire."""
        if isinstance(key, int) or key[:1] != b"\x00":
            return key  # type: ignore[no-any-return]
        site, hlc = insert_stamp(key)
        site_number = self.store.site_number(site)
        row = None if site_number is None else self.log.row_of(site_number, hlc)
        return key if row is None else row

    def locate_many(self, keys: Sequence[Any]) -> list[Row]:
        """Return the names of many rows, as `locate` does for one."""
        stamps = {}
        for key in keys:
            if type(key) is bytes and key[:1] == b"\x00":
                site, hlc = insert_stamp(key)
                site_number = self.store.site_number(site)
                if site_number is not None:
                    stamps[key] = (site_number, hlc)
        if not stamps:
            return list(keys)
        found = self.log.rows_of(list(stamps.values()))
        return [found.get(stamps[key], key) if key in stamps else key for key in keys]

    def has_orphans(self) -> bool:
        """Return True if some row of a table without key columns is not visible, so that entries name it by its key."""
        found = self.store.db.execute(f"SELECT 1 FROM {self.log.name} WHERE row >= x'' LIMIT 1").fetchone()
        return found is not None
