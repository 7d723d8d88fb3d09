"""One replicated table as the replica holds it: its spec, column bits, change log, vector and held values, with their SQL.

Owns how a row is found by identity and how a change is digested. What always holds: an entry's digest is a function of
(table, site, hlc, key, owned columns, values) alone, so equal content gives equal digests on every replica. It must not
know where changes come from.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE, bits_of
from mycomesh.sync.crdt.version_vector import Range, Vector
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import bind_value, is_raw, placeholder, raw_select, restore
from mycomesh.sync.sqlite.table_spec import KeyKind, TableSpec
from mycomesh.sync.storage.change_log import ChangeLog, Leaf, unpack_mask
from mycomesh.sync.storage.statements import write
from mycomesh.sync.storage.store import Store

__all__ = ["BIRTH_KEY_SIZE", "Row", "Table", "birth_key", "birth_stamp", "extended"]

Row = int | bytes
# A row without a primary key is named by its birth: a zero byte (no CBOR array begins so), the site, the hlc.
BIRTH_KEY_SIZE = 1 + 16 + 8
# Prepared digest prefixes: one for each (site, mask) met; a fleet of sites times a few column sets fits.
DIGEST_PREFIXES_MAX = 1_024
# What the vector was before: as many states as a peer may be behind while writes are on their way.
PASSED_MAX = 32
_NO_KEY = codec.encode(None)


def birth_key(site: bytes, hlc: int) -> bytes:
    """Return the key of a row that is identified by the stamp of its birth."""
    return b"\x00" + site + hlc.to_bytes(8, "big")


def birth_stamp(key: bytes) -> tuple[bytes, int]:
    """Return (site, hlc) of a birth key."""
    return key[1:17], int.from_bytes(key[17:25], "big")


def extended(bits: dict[str, int], spec: TableSpec) -> dict[str, int]:
    """Give every column without a bit the next one; bits are never used again for another name."""
    bits = dict(bits)
    for column in spec.columns:
        if column.folded not in bits:
            bits[column.folded] = max(bits.values(), default=0) + 1
    return bits


class Table:
    """A replicated table. `known` are the stored columns of the file; `bits` may name more, learnt from peers.

    Columns go by the mesh's names (`Column.folded`) everywhere but in the text of SQL.
    """

    def __init__(self, store: Store, table_id: int, spec: TableSpec, bits: dict[str, int], mesh_key: bytes) -> None:
        self.store = store
        self.table_id = table_id
        self.spec = spec
        self.bits = bits
        self.names = {bit: name for name, bit in bits.items()}
        self.known = tuple(column.folded for column in spec.columns)
        self.known_mask = sum(1 << bits[name] for name in self.known)
        # Columns that keep 1 and 1.0 apart; in others one of two equal numbers becomes the other.
        self.loose_mask = sum(1 << bits[column.folded] for column in spec.columns if column.affinity == "BLOB")
        self.bits_captured = {name: bits[name] for name in self.known}
        self.log = ChangeLog(store, table_id)
        self.vector = Vector()
        self.counters: frozenset[str] = frozenset()  # columns whose cells show the total of several registers
        # Columns whose affinity is not the mesh's: they may change a value.
        self.converting: frozenset[str] = frozenset()
        self.staying: frozenset[str] = frozenset()  # columns some of whose values were too large to be told
        self.dropped: frozenset[str] = frozenset()  # columns that the mesh has dropped: no entry owns them
        self.unread = False  # whether rows wait in the pending log that no program has logged
        self.uncovered = False  # coverage was forgotten since a round was asked for: what that brings is not all
        self.settled = False  # whether held values that this table can show are shown
        self.stood: object = None  # what SQLite's catalogue said of the table when its triggers were last found whole
        self.displaced = 0  # rows parked in favour of others: when it moves, rows read earlier may be stale
        self.echoed: tuple[str, ...] = ()  # indexes that this connection keeps for it (`echoes`)
        self._staged: Vector | None = None
        self._learnt: list[str] = []
        self._vector_digest = b""
        self.passed: deque[bytes] = deque(maxlen=PASSED_MAX)  # digests of vectors that were told or compared
        self._mesh_key = mesh_key
        self._counted = ((-1, -1), 0)  # (data version, own changes), rows at that moment
        self.columns_of = functools.lru_cache(maxsize=256)(self._columns_of)
        self._settings = functools.lru_cache(maxsize=256)(self._settings_of)
        self.digest_prefix = functools.lru_cache(maxsize=DIGEST_PREFIXES_MAX)(self._digest_prefix)
        self.select_list = ", ".join(f"t.{quoted(column.name)}" for column in spec.columns)
        self.raw_list = ", ".join(raw_select(f"t.{quoted(column.name)}") for column in spec.columns)

    # ---- life

    def create(self) -> None:
        """Make the change log where it is missing; inside a transaction."""
        self.log.create()

    def load(self, before: Table | None = None, sums: tuple[int, int, int] | None = None) -> None:
        """Read the vector and the log's sums, and enlists both; takes them from the table that it stands for, if any."""
        if before is not None:
            self.log, self.vector = before.log, before.vector
            self._staged = None if before.coverage is before.vector else before.coverage
            self.store.enlist(self.log)
            self.store.enlist(self)
            return
        self.log.load(sums)
        rows = self.store.db.execute(
            "SELECT place, after, upto FROM mycomesh_vectors WHERE id = ? ORDER BY place, after", (self.table_id,)
        )
        for place, after, upto in rows:
            self.vector.add(self.store.site(place), after, upto)
        self.store.enlist(self)

    def unload(self) -> None:
        """End what `load` began."""
        self.store.dismiss(self.log)
        self.store.dismiss(self)

    def restore(self) -> None:
        """Goes on after an `unload` that was undone with its transaction."""
        for member in (self.log, self):
            member.rolled_back()
            self.store.enlist(member)

    def committed(self) -> None:
        """The transaction stands: its coverage becomes the vector."""
        if self._staged is not None:
            self.vector, self._staged = self._staged, None
            self._vector_digest = b""
        self._learnt.clear()

    def rolled_back(self) -> None:
        """The transaction is undone: forget its coverage, its columns, and digest prefixes of sites that it met."""
        self._staged = None
        self.settled = False
        for name in self._learnt:
            del self.names[self.bits.pop(name)]
        self._learnt.clear()
        self.columns_of.cache_clear()
        self.digest_prefix.cache_clear()

    def count(self, columns: frozenset[str]) -> None:
        """Says which columns are counters."""
        self.settled = self.settled and columns == self.counters
        self.counters = columns

    @property
    def vector_digest(self) -> bytes:
        """The vector's digest, made once for each change."""
        if not self._vector_digest:
            self._vector_digest = self.vector.digest()
        return self._vector_digest

    def remember_vector(self) -> None:
        """Add the vector of now to `passed`: who has one of these later covers nothing that is not covered here."""
        if self.vector_digest not in self.passed:
            self.passed.append(self.vector_digest)

    @property
    def coverage(self) -> Vector:
        """The vector, including what the running transaction has covered."""
        return self.vector if self._staged is None else self._staged

    def cover(self, site: bytes, after: int, upto: int) -> None:
        """Covers `(after, upto]` of a site's clock; inside the transaction that stores what it covers."""
        if self._staged is None:
            self._staged = self.vector.copy()
        before = self._staged.ranges(site)
        self._staged.add(site, after, upto)
        self._store_coverage(site, before, self._staged.ranges(site))

    def uncover_after(self, site: bytes, after: int) -> None:
        """Covers nothing of a site's clock past `after` any more: what its entries said has got other stamps."""
        if self._staged is None:
            self._staged = self.vector.copy()
        before = self._staged.ranges(site)
        self._staged.cut(site, after)
        self.passed.clear()
        self._store_coverage(site, before, self._staged.ranges(site))

    def _store_coverage(self, site: bytes, before: Sequence[Range], ranges: Sequence[Range]) -> None:
        place = self.store.site_number_or_new(site)
        if len(ranges) == len(before) == 1 and ranges[0][0] == before[0][0]:  # most often the one range grows
            self.store.db.execute(
                "UPDATE mycomesh_vectors SET upto = ? WHERE id = ? AND place = ?", (ranges[0][1], self.table_id, place)
            )
            return
        self.store.db.execute("DELETE FROM mycomesh_vectors WHERE id = ? AND place = ?", (self.table_id, place))
        self.store.db.executemany(
            "INSERT INTO mycomesh_vectors VALUES(?, ?, ?, ?)",
            [(self.table_id, place, low, high) for low, high in ranges],
        )

    def uncover(self, *, keep: bytes) -> None:
        """Forgets the coverage of every site but one, so that rounds bring its changes again."""
        coverage, place = self.coverage, self.store.site_number_or_new(keep)
        self.uncovered = True
        self.passed.clear()
        self._staged = Vector()
        for after, upto in coverage.ranges(keep):
            self._staged.add(keep, after, upto)
        self.store.db.execute("DELETE FROM mycomesh_vectors WHERE id = ? AND place <> ?", (self.table_id, place))

    def rows_shown(self) -> int:
        """Return how many rows the user's table has; counted again only if some connection has written since."""
        moment = (self.store.data_version(), self.store.db.total_changes())
        if self._counted[0] != moment:
            try:
                found = self.store.db.execute(f"SELECT count(*) FROM {quoted(self.spec.name)}").fetchone()
            except apsw.SQLError:  # it went a moment ago: the next drain takes that in
                found = (0,)
            self._counted = (moment, int(found[0]))
        return self._counted[1]

    # ---- columns and masks

    @property
    def installed(self) -> bool:
        """True if the triggers compare every column of the table."""
        return self.bits_captured == {name: self.bits[name] for name in self.known}

    @property
    def captured_mask(self) -> int:
        """The columns that the installed triggers compare."""
        return sum(1 << bit for bit in self.bits_captured.values())

    def _columns_of(self, mask: int) -> tuple[str, ...]:
        """Return the folded names of the columns in a mask, sorted: the order of values on the wire."""
        return tuple(sorted(self.names[bit] for bit in bits_of(mask & ~EXISTENCE)))

    def learn(self, columns: Sequence[str]) -> None:
        """Give bits to columns that this file does not have (yet); inside a transaction."""
        fresh = [name for name in columns if name not in self.bits]
        if not fresh:
            return
        for name in fresh:
            bit = max(self.bits.values(), default=0) + 1
            self.bits[name] = bit
            self.names[bit] = name
            self._learnt.append(name)
        self.store.db.execute(
            "UPDATE mycomesh_replicated SET bits = ? WHERE id = ?", (json.dumps(self.bits), self.table_id)
        )

    def mask_of(self, columns: Sequence[str]) -> int:
        """Return the mask of columns that all have bits."""
        mask = 0
        for name in columns:
            mask |= 1 << self.bits[name]
        return mask

    # ---- rows of the user's table

    @functools.cached_property
    def where(self) -> str:
        """SQL that finds one row by the parameters of `where_values`."""
        if self.spec.kind is KeyKind.KEYED:
            return " AND ".join(f"{column.keyed} = ?" for column in self.spec.key)
        return f"t.{quoted(self.spec.rowid)} = ?"

    @functools.cached_property
    def _where_rowid(self) -> str:
        """SQL that finds a row known by its rowid. In a keyed table it has a NULL in its key, or it goes by that key."""
        found = f"t.{quoted(self.spec.rowid)} = ?"
        if self.spec.kind is not KeyKind.KEYED:
            return found
        return f"{found} AND ({' OR '.join(f't.{quoted(column.name)} IS NULL' for column in self.spec.key)})"

    def where_values(self, row: Row) -> tuple[str, tuple[Any, ...]] | None:
        """Return (condition, parameters) that find a row, None if the row has no place in the user's table."""
        if isinstance(row, int):
            return self._where_rowid, (row,)
        if row[:1] == b"\x00" or self.spec.kind is not KeyKind.KEYED:
            return None
        values = codec.decode(row, bytes_max=len(row))
        if not any(map(is_raw, values)):
            return self.where, tuple(values)
        terms = [f"{column.keyed} = {placeholder(value)}" for column, value in zip(self.spec.key, values, strict=True)]
        return " AND ".join(terms), tuple(map(bind_value, values))

    def read(self, row: Row) -> dict[str, Any] | None:
        """Return the row's stored columns by folded name, None if it is not in the user's table."""
        found = self.where_values(row)
        if found is None:
            return None
        source = f"FROM {quoted(self.spec.name)} t WHERE {found[0]}"
        try:
            values = self.store.db.execute(f"SELECT {self.select_list} {source}", found[1]).fetchone()
        except UnicodeDecodeError:
            values = restore(self.store.db.execute(f"SELECT {self.raw_list} {source}", found[1]).fetchone())
        return None if values is None else dict(zip(self.known, values, strict=True))

    def read_many(self, rows: Sequence[Row]) -> dict[Row, dict[str, Any] | None]:
        """Return many rows at once, as `read` does for one."""
        if self.spec.kind is KeyKind.KEYED:
            return {row: self.read(row) for row in rows}
        found: dict[Row, dict[str, Any] | None] = dict.fromkeys(rows)
        rowid = quoted(self.spec.rowid)
        listing = f"SELECT t.{rowid}, {self.select_list} FROM {quoted(self.spec.name)} t WHERE t.{rowid} = ?"
        try:
            for record in self.store.db.executemany(listing, [(row,) for row in rows if isinstance(row, int)]):
                found[record[0]] = dict(zip(self.known, record[1:], strict=True))
        except UnicodeDecodeError:
            return {row: self.read(row) for row in rows}
        return found

    def cells_between(self, first: int, last: int, names: Sequence[str]) -> dict[Row, list[Any]]:
        """Return the cells of these columns, by rowid, of the rows from one rowid to another; None in one not stored here."""
        here = {column.folded: f"t.{quoted(column.name)}" for column in self.spec.columns}
        rowid = f"t.{quoted(self.spec.rowid)}"
        columns = ", ".join([rowid, *(here.get(name, "NULL") for name in names)])
        listing = f"SELECT {columns} FROM {quoted(self.spec.name)} t WHERE {rowid} BETWEEN ? AND ? ORDER BY {rowid}"
        try:
            return {row: cells for row, *cells in self.store.db.execute(listing, (first, last))}
        except UnicodeDecodeError:
            found = self.read_many(range(first, last + 1))
            return {row: [*map(cells.get, names)] for row, cells in found.items() if cells is not None}

    def insert(self, values: dict[str, Any], *, conflict: str = "ABORT") -> int:
        """Insert a row with those columns and returns its rowid (0 without one); constraint errors pass through.

        `conflict` is what SQLite does about them, whatever ON CONFLICT the table's own constraints ask for.
        """
        self._check_text(values)
        columns = [column for column in self.spec.columns if column.folded in values]
        names = ", ".join(quoted(column.name) for column in columns)
        placeholders = ", ".join(placeholder(values[column.folded]) for column in columns)
        body = f"({names}) VALUES({placeholders})" if columns else "DEFAULT VALUES"
        write(
            self,
            f"INSERT OR {conflict} INTO {quoted(self.spec.name)}{body}",
            tuple(bind_value(values[column.folded]) for column in columns),
        )
        return self.store.db.last_insert_rowid() if self.spec.rowid else 0

    def update(self, row: Row, values: dict[str, Any]) -> None:
        """Set columns of one row; constraint errors pass through."""
        found = self.where_values(row)
        if found is None or not values:
            return
        self._check_text(values)
        settings = self._settings(tuple(values), tuple(map(placeholder, values.values())))
        parameters = (*map(bind_value, values.values()), *found[1])
        write(self, f"{settings} WHERE {found[0]}", parameters)

    def _check_text(self, values: Mapping[str, Any]) -> None:
        if not self.store.utf8 and any(map(is_raw, values.values())):
            raise apsw.ConstraintError("text that is not UTF-8 has no place in a file whose text is UTF-16")

    def _settings_of(self, names: tuple[str, ...], placeholders: tuple[str, ...]) -> str:
        by_name = {column.folded: quoted(column.name) for column in self.spec.columns}
        settings = ", ".join(f"{by_name[name]} = {bind}" for name, bind in zip(names, placeholders, strict=True))
        return f"UPDATE OR ABORT {quoted(self.spec.name)} AS t SET {settings}"

    def delete(self, row: Row) -> None:
        """Delete one row if it is there."""
        found = self.where_values(row)
        if found is not None:
            write(self, f"DELETE FROM {quoted(self.spec.name)} AS t WHERE {found[0]}", found[1])

    # ---- identity

    def key(self, row: Row, leaves: Sequence[Leaf]) -> Any:
        """Return a row's key as peers know it: an integer (ROWID), else bytes."""
        if isinstance(row, bytes) or self.spec.kind is KeyKind.ROWID:
            return row
        for leaf in leaves:
            mask, dead = unpack_mask(leaf[3])
            if mask & EXISTENCE and not dead:
                return birth_key(self.store.site(leaf[0]), leaf[1])
        raise AssertionError(f"{self.spec.name}: row {row} has entries but no birth")

    def locate(self, key: Any) -> Row:
        """Return the local name of the row that peers know by `key`."""
        if isinstance(key, int) or key[:1] != b"\x00":
            return key  # type: ignore[no-any-return]
        site, hlc = birth_stamp(key)
        place = self.store.site_number(site)
        row = None if place is None else self.log.row_of(place, hlc)
        return key if row is None else row

    def locate_many(self, keys: Sequence[Any]) -> list[Row]:
        """Return the local names of many rows, as `locate` does for one."""
        stamps = {}
        for key in keys:
            if type(key) is bytes and key[:1] == b"\x00":
                site, hlc = birth_stamp(key)
                place = self.store.site_number(site)
                if place is not None:
                    stamps[key] = (place, hlc)
        if not stamps:
            return list(keys)
        found = self.log.rows_of(list(stamps.values()))
        return [found.get(stamps[key], key) if key in stamps else key for key in keys]

    # ---- digests

    def digest(self, place: int, hlc: int, mask: int, key: Any, values: Sequence[Any], *, dead: bool = False) -> int:
        """Return the keyed digest of one entry: BLAKE2b-64, signed; `values` in the order of `columns_of(mask)`.

        A tombstone's is 0: replicas collect them at different times, and are equal all the same.
        """
        if dead:
            return 0
        fresh, birth = self.digest_prefix(place, mask)
        stamp = hlc.to_bytes(8, "big")
        if type(key) is not bytes:
            name = codec.encode(key)
        elif mask & EXISTENCE and key == birth + stamp:
            name = _NO_KEY  # the birth names itself
        else:
            name = codec.bytes_head(len(key)) + key
        state = fresh()
        state.update(stamp + name + codec.encode(values))
        return int.from_bytes(state.digest(), "big", signed=True)

    def digests(
        self, place: int, mask: int, hlcs: Sequence[int], keys: Sequence[Any] | None, rows: Sequence[bytes]
    ) -> list[int]:
        """Return the digests of many births of one site and mask, as `digest` does for one.

        `keys` is None where births name themselves; `rows` are the encoded values, one array each.
        """
        fresh, _ = self.digest_prefix(place, mask)
        heads = itertools.repeat(_NO_KEY) if keys is None else map(codec.encode, keys)
        found = []
        for hlc, head, row in zip(hlcs, heads, rows, strict=False):
            state = fresh()
            state.update(hlc.to_bytes(8, "big") + head + row)
            found.append(int.from_bytes(state.digest(), "big", signed=True))
        return found

    def _digest_prefix(self, place: int, mask: int) -> tuple[Callable[[], hashlib.blake2b], bytes]:
        """Return what makes a state that has hashed what such entries share, and how the keys of own births begin."""
        state = hashlib.blake2b(digest_size=8, key=self._mesh_key, person=b"mycomesh-change")
        head = [self.spec.folded, self.store.site(place), mask & EXISTENCE, list(self.columns_of(mask))]
        state.update(codec.encode(head))
        return state.copy, b"\x00" + self.store.site(place)

    # ---- held values: what entries own but the user's table cannot show

    def held(self, leaf: Leaf) -> dict[str, Any]:
        """Return the values held for one entry, by folded column name."""
        found = self.store.db.execute(
            "SELECT content FROM mycomesh_held WHERE id = ? AND place = ? AND hlc = ?", (self.table_id, *leaf[:2])
        ).fetchone()
        if found is None:
            return {}
        names, values = codec.decode(found[0], bytes_max=len(found[0]))
        return dict(zip(names, values, strict=True))

    def hold(self, place: int, hlc: int, values: dict[str, Any]) -> None:
        """Set the values held for one entry; none removes the record."""
        if values:
            content = codec.encode([list(values), list(values.values())])
            self.store.db.execute(
                "UPDATE mycomesh_held SET content = ? WHERE id = ? AND place = ? AND hlc = ?",
                (content, self.table_id, place, hlc),
            )
            if not self.store.db.changes():  # what holds already is no part of a run
                self.log.loosen(place, hlc)
                self.store.db.execute(
                    "INSERT INTO mycomesh_held VALUES(?, ?, ?, ?)", (self.table_id, place, hlc, content)
                )
        else:
            self.store.db.execute(
                "DELETE FROM mycomesh_held WHERE id = ? AND place = ? AND hlc = ?", (self.table_id, place, hlc)
            )

    def hold_many(self, names: Sequence[str], values: Sequence[tuple[int, int, Sequence[Any]]]) -> None:
        """Set the values of these columns held for many entries (place, hlc, values) that held none."""
        names = list(names)
        self.store.db.executemany(
            f"INSERT INTO mycomesh_held VALUES({self.table_id}, ?, ?, ?)",
            [(place, hlc, codec.encode([names, list(cells)])) for place, hlc, cells in values],
        )

    def holds_any(self) -> bool:
        """Return True if some entry of this table has held values."""
        found = self.store.db.execute("SELECT 1 FROM mycomesh_held WHERE id = ? LIMIT 1", (self.table_id,)).fetchone()
        return found is not None

    def has_orphans(self) -> bool:
        """Return True if some row of a table without key columns is known by its birth alone (dead, or not yet born here)."""
        found = self.store.db.execute(f"SELECT 1 FROM {self.log.name} WHERE row >= x'' LIMIT 1").fetchone()
        return found is not None
