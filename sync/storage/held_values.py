"""Values that change log entries own and the user's table cannot show: of parked rows, of columns that this file lacks.

They are kept in `mycomesh_held`, one record an entry. Invariant: every column that an entry owns has its value in the user's
row or here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.storage.batch_join import join_numbers
from mycomesh.sync.storage.change_log import ChangeLog, StoredEntry
from mycomesh.sync.storage.row_codec import encode_rows
from mycomesh.sync.storage.statement_cache import Large, may_stay
from mycomesh.sync.storage.store import Store

__all__ = ["HeldValues"]

_RECENT_KINDS = 8  # by whose names a record is recognised without decoding its own: most tables have fewer
# Records with the same names: how each begins, the places of their entries, and their encoded values.
_Kind = tuple[bytes, list[int], list[bytes]]


class HeldValues:
    """The held values of one table, by entry."""

    def __init__(self, store: Store, table_id: int, log: ChangeLog) -> None:
        self._store = store
        self._table_id = table_id
        self._log = log

    def any(self) -> bool:
        """Return True if some entry of the table has held values."""
        listing = "SELECT 1 FROM mycomesh_held WHERE id = ? LIMIT 1"
        return self._store.db.execute(listing, (self._table_id,)).fetchone() is not None

    def among(self, stored_entries: Iterable[StoredEntry]) -> frozenset[tuple[int, int]]:
        """Return the stamps (site number, hlc) of those entries that have held values."""
        if not self.any():
            return frozenset()
        found: list[tuple[int, int]] = []
        for site_number, clocks in _by_site(stored_entries).items():
            where = f"t.id = {self._table_id} AND t.place = {site_number}"
            found += join_numbers(self._store.db, "t.place, t.hlc", "mycomesh_held", "hlc", clocks, where)
        return frozenset(found)

    def read(self, stored: StoredEntry) -> dict[str, Any]:
        """Return the held values of one entry, by folded column name."""
        found = self._store.db.execute(
            "SELECT content FROM mycomesh_held WHERE id = ? AND place = ? AND hlc = ?", (self._table_id, *stored[:2])
        ).fetchone()
        if found is None:
            return {}
        names, values = codec.decode(found[0], bytes_max=len(found[0]))
        return dict(zip(names, values, strict=True))

    def read_many(
        self, stored_entries: Sequence[StoredEntry]
    ) -> Iterator[tuple[tuple[str, ...], list[int], list[list[Any]]]]:
        """Yield (column names, places of the entries, held values of each) of those of some entries that have some.

        Entries with the same names come together, since many hold the same columns: their names are read once.
        """
        kinds: dict[tuple[str, ...], _Kind] = {}
        recent: list[_Kind] = []
        for at, content in self._contents(stored_entries):
            for kind in recent:
                if content.startswith(kind[0]):
                    break
            else:
                names = tuple(codec.decode(content, bytes_max=len(content))[0])
                kind = kinds.setdefault(names, (_head(names), [], []))
                recent = [kind, *recent[: _RECENT_KINDS - 1]]
            kind[1].append(at)
            kind[2].append(content[len(kind[0]) :])
        for names, (_, places, values) in kinds.items():
            encoded = codec.encode_array(values)
            yield names, places, codec.decode(encoded, bytes_max=len(encoded), own=True)

    def _contents(self, stored_entries: Sequence[StoredEntry]) -> Iterator[tuple[int, bytes]]:
        """Yield (place of the entry, content of its record) of those of some entries that have one."""
        by_site: dict[int, list[int]] = {}
        for at, stored in enumerate(stored_entries):
            by_site.setdefault(stored[0], []).append(at)
        for site_number, own in by_site.items():
            where = f"t.id = {self._table_id} AND t.place = {site_number}"
            clocks = [stored_entries[at][1] for at in own]
            for key, content in join_numbers(self._store.db, "k.key, t.content", "mycomesh_held", "hlc", clocks, where):
                yield own[key], content

    def remove_many(self, stamps: Iterable[tuple[int, int]]) -> None:
        """Remove the held values of many entries."""
        self._store.db.executemany(
            f"DELETE FROM mycomesh_held WHERE id = {self._table_id} AND place = ? AND hlc = ?", list(stamps)
        )

    def write(self, site_number: int, hlc: int, values: dict[str, Any]) -> None:
        """Set the held values of one entry; an empty dict removes its record."""
        key = self._table_id, site_number, hlc
        if not values:
            self._store.db.execute("DELETE FROM mycomesh_held WHERE id = ? AND place = ? AND hlc = ?", key)
            return
        content = codec.encode([list(values), list(values.values())])
        if not may_stay((content,)):
            large = Large({"content": content})
            del content
            self._write_large(key, large)
            return
        self._store.db.execute(
            "UPDATE mycomesh_held SET content = ? WHERE id = ? AND place = ? AND hlc = ?", (content, *key)
        )
        if not self._store.db.changes():
            self._log.unpack(site_number, hlc)  # a packed run has no entries with held values
            self._store.db.execute("INSERT INTO mycomesh_held VALUES(?, ?, ?, ?)", (*key, content))

    def _write_large(self, key: tuple[int, int, int], content: Large) -> None:
        """Set the held values of one entry with one statement: each copies the content, and reads others on the way."""
        table_id, site_number, hlc = key
        self._log.unpack(site_number, hlc)
        self._store.db.execute(
            f"INSERT INTO mycomesh_held VALUES({table_id}, {site_number}, {hlc}, :content)"
            " ON CONFLICT(id, place, hlc) DO UPDATE SET content = excluded.content",
            content,
            can_cache=False,
        )

    def write_many(self, names: Sequence[str], values: Sequence[tuple[int, int, Sequence[Any]]]) -> None:
        """Set the held values of these columns for many entries, (site number, hlc, values) each, that had none."""
        stamps = [(site_number, hlc) for site_number, hlc, _ in values]
        self.write_encoded(names, stamps, encode_rows([cells for _, _, cells in values]))

    def write_encoded(self, names: Sequence[str], stamps: Sequence[tuple[int, int]], rows: Sequence[bytes]) -> None:
        """Set them as `write_many` does, by the stamps (site number, hlc) of the entries, to values that are encoded already."""
        head = _head(names)
        self._store.db.executemany(
            f"INSERT INTO mycomesh_held VALUES({self._table_id}, ?, ?, ?)",
            [(site_number, hlc, head + row) for (site_number, hlc), row in zip(stamps, rows, strict=True)],
        )


def _head(names: Sequence[str]) -> bytes:
    """Return the beginning of a record, which ends where its values begin."""
    return codec.array_head(2) + codec.encode(list(names))


def _by_site(stored_entries: Iterable[StoredEntry]) -> dict[int, list[int]]:
    """Return the clocks of entries by their site's number."""
    hlcs: dict[int, list[int]] = {}
    for stored in stored_entries:
        hlcs.setdefault(stored[0], []).append(stored[1])
    return hlcs
