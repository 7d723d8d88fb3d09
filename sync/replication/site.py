"""Copies: a file that went back in time goes on under a new site (design.md section 4, "Copies" and "HLC").

A restored backup, a disk image put back, a power cut that took the tail of the WAL: the file's clock is then behind what its
site has told the mesh, and going on would give two writes one stamp. Who knows better is a note kept outside the file
(`recalled`, read when the file is opened), or a peer that covers more of the site's clock than the file itself. A file whose
stamps lie in the future, since its machine's clock was wrong, goes on under a new site too.

Owns the choice of the site and the stamping again of what was written since the file was opened. What always holds: whatever
was stamped before the opening keeps its stamp, since that life of the file told the mesh of it. It must not know peers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.errors import DecodeError, ForeignFileError
from mycomesh.sync.merge import records
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.change_log import Leaf, unpack_mask
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table, birth_key

__all__ = ["RENEWALS_MAX", "Site", "restamp_all"]

# A file goes back in time once in a while, not again and again: a peer that says so more often in one run is lying.
RENEWALS_MAX = 8
_STEP_ENTRIES = 10_000
_RESTAMP_KEY = "moving"


@dataclass(frozen=True, slots=True)
class Restamp:
    """Entries that wait for another stamp: those of the site at `place` past the clock `after`."""

    site_number: int
    after: int


class Site:
    """One run of one file: the site under which it stamps, and from where on it does."""

    __slots__ = ("_entropy", "_kept", "_opened_at", "_renewals", "_store", "restamp", "site_number")

    def __init__(self, store: Store, site: bytes, entropy: Callable[[int], bytes]) -> None:
        self.site_number = store.site_number_or_new(site)
        self._store = store
        self._entropy = entropy
        self._opened_at = store.clock.last  # what this run stamps lies after it
        self._renewals = 0
        self.restamp = _read_restamp(store.meta(_RESTAMP_KEY))
        self._kept = (self.site_number, self.restamp)
        store.enlist(self)

    @classmethod
    def begin(
        cls,
        store: Store,
        node_id: bytes,
        mesh_key: bytes,
        entropy: Callable[[int], bytes],
        recalled: Mapping[bytes, int],
    ) -> Site:
        """Begins a run under the file's site, or a new one if it was another node's or is behind `recalled`.

        `recalled` holds, for each site, an hlc that it is known to have reached. Inside a transaction.

        Raises:
            ForeignFileError: the file belongs to another mesh.
        """
        tag = hashlib.blake2b(mesh_key, digest_size=16, person=b"mycomesh-meshtag").digest()
        found = store.meta("mesh")
        if found is None:
            store.meta_set("mesh", tag)
        elif found != tag:
            raise ForeignFileError(
                f"{store.path}: belongs to another mesh; use a copy without it (mycomesh down --remove on its node)"
            )
        site = store.meta("site")
        own = type(site) is bytes and site[:SITE_PREFIX] == node_id[:SITE_PREFIX]
        if not own or recalled.get(site, 0) > store.clock.last:
            site = _fresh_site(store, node_id, entropy)
        return cls(store, site, entropy)

    @property
    def id(self) -> bytes:
        """The 16-byte id under which this run stamps."""
        return self._store.site(self.site_number)

    def is_behind(self, tables: Mapping[str, Table], reach: Mapping[str, int]) -> bool:
        """Return True if a peer knows more of this site's clock, by table, than the file does."""
        known = {name: tables[name].coverage.staged.top(self.id) for name in reach if name in tables}
        return any(reach[name] > top for name, top in known.items())

    def renew_if_behind(self, tables: Mapping[str, Table], reach: Mapping[str, int]) -> bool:
        """Where a peer knows more of this site than the file does, goes on under a new site; inside a transaction.

        What this run has stamped is stamped again. Returns whether the site is new.

        Raises:
            DecodeError: peers have made it do so too often.
        """
        if not self.is_behind(tables, reach):
            return False
        if self._renewals == RENEWALS_MAX:
            raise DecodeError("tells again and again of writes of this node that it never made")
        self._renewals += 1
        old = self.site_number
        self.site_number = self._store.site_number_or_new(_fresh_site(self._store, self.id, self._entropy))
        for name in sorted(tables):
            restamp_all(tables[name], old, self.site_number, self._opened_at)
        return True

    def committed(self) -> None:
        """The transaction stands."""
        self._kept = (self.site_number, self.restamp)

    def rolled_back(self) -> None:
        """The transaction is undone, and with it a new site."""
        self.site_number, self.restamp = self._kept

    # ---- a clock that was ahead

    def set_clock_back(self, tables: Collection[Table], after: int, bound: int) -> None:
        """Goes on under a new site; inside a transaction, while nothing is `moving`.

        What the old one has stamped past `after` is covered by nobody, and waits for `move`. The clock begins past that and
        past every other site's: who stamped in the future has overwritten those. What lies past `bound` counts for neither.
        """
        old = self.site_number
        tops = [
            table.coverage.staged.top(site)
            for table in tables
            for site, _ in table.coverage.staged.items()
            if site != self.id
        ]
        self.site_number = self._store.site_number_or_new(_fresh_site(self._store, self.id, self._entropy))
        for table in tables:
            table.coverage.cut(self._store.site(old), after)
        self._store.clock.last = self._opened_at = max(top for top in (0, after, *tops) if top <= bound)
        self.restamp = Restamp(old, after)
        self._store.meta_set(_RESTAMP_KEY, json.dumps([old, after]))

    def restamp_some(self, tables: Iterable[Table], room: int) -> None:
        """Stamps so many of the waiting entries again; inside a transaction. Nothing is `moving` when all are through."""
        assert self.restamp is not None, "asked for only while something waits"
        for table in tables:
            before = table.coverage.staged.top(self.id)
            moved = _restamp_some(table, self.restamp.site_number, self.site_number, self.restamp.after, room)
            if moved:
                table.coverage.cover(self.id, before, self._store.clock.last)
            room -= moved
            if room <= 0:
                return
        self.restamp = None
        self._store.meta_set(_RESTAMP_KEY, None)


def _fresh_site(store: Store, node_id: bytes, entropy: Callable[[int], bytes]) -> bytes:
    site = node_id[:SITE_PREFIX] + entropy(SITE_PREFIX)
    store.meta_set("site", site)
    return site


def restamp_all(table: Table, old: int, new: int, after: int) -> int:
    """Give every entry of the site at place `old` with an hlc past `after` a stamp of the site at `new`.

    The table's vector covers of the old site only what lies before. Returns the number of entries; inside a transaction.
    """
    count = 0
    while moved := _restamp_some(table, old, new, after, _STEP_ENTRIES):
        count += moved
    table.coverage.cut(table.store.site(old), after)
    if count:
        table.coverage.cover(table.store.site(new), 0, table.store.clock.last)
    return count


def _restamp_some(table: Table, old: int, new: int, after: int, limit: int) -> int:
    """Stamps up to so many of these entries again, the earliest first; returns how many."""
    log, clock = table.log, table.store.clock
    entries = [entry for entry in log.scan(old, after, limit) if entry[0] == old]
    for _, hlc, row, _ in entries:
        current = log.row_of(old, hlc)
        _restamp_one(table, row if current is None else current, (old, hlc), (new, clock.tick(0)))
    log.flush()
    return len(entries)


def _restamp_one(table: Table, row: Row, old: tuple[int, int], new: tuple[int, int]) -> None:
    site = table.store.site
    view = RowView.read(table, row)
    leaf = next(leaf for leaf in view.leaves if leaf[:2] == old)
    mask, dead = unpack_mask(leaf[3])
    key = table.key(row, view.leaves)
    named = mask & EXISTENCE and not dead and key == birth_key(site(old[0]), old[1])
    if named:
        key = birth_key(site(new[0]), new[1])
    name = key if named and isinstance(row, bytes) else row
    values = view.values(leaf, mask & ~EXISTENCE)
    held = view.held(leaf)
    table.held.write(*old, {})
    table.log.remove(leaf)
    digest = table.digests.entry(*new, mask, key, list(values.values()), dead=dead)
    table.log.add((*new, name, leaf[3], digest, leaf[5]))
    if held:
        table.held.write(*new, held)
    if named:
        _rename(table, view, leaf, name, key)


def _read_restamp(stored: object) -> Restamp | None:
    """Return what a file says of entries that wait for another stamp; None where another hand has been at it."""
    try:
        place, after = json.loads(stored) if isinstance(stored, str) else (None, None)
    except (ValueError, TypeError):
        return None
    return Restamp(place, after) if type(place) is type(after) is int else None


def _rename(table: Table, view: RowView, birth: Leaf, name: Row, key: bytes) -> None:
    """The row goes by another birth now: its other entries, and the record of it if it is parked, follow."""
    for leaf, entry in zip(view.leaves, view.entries, strict=True):
        if leaf is not birth:
            values = view.values(leaf, entry.mask & ~EXISTENCE)
            digest = table.digests.entry(leaf[0], leaf[1], entry.mask, key, list(values.values()), dead=entry.dead)
            table.log.replace(leaf, (*leaf[:2], name, leaf[3], digest, leaf[5]))
    if name != view.row:
        records.rename_parked(table, view.row, name, key)
