"""Site id of a file: detects a file that went back in time, and continues it under a new site.

After a restored backup, a restored disk image or a power cut that lost the tail of the WAL, the file's clock is behind the
stamps that its site has published. Continuing under the same site would give two writes one stamp. Two things reveal this: a
note that the node keeps outside the file (`recalled`, read when the file is opened), and a peer that covers more of the site's
clock than the file does. The file then continues under a new site, and this run's writes get new stamps.

A peer can lie about that, or repeat a lie. So its word counts once in a run, and only for tables that no peer has had equal
since the file was opened. Where the word is ignored although it is true, repairs bring what the file has lost.

Rows from before the mesh are stamped under a second site of the file, the early site (ADR 0031). It is another one in each run,
so that a file which has gone back in time never gives one of its stamps again.

A row without a key is known by the stamp of its insert. Where some peer may have got such a row of this run, another stamp makes
a second row of it, so the file also deletes the first one.

A file whose stamps lie in the future, because the clock of its machine was wrong, continues under a new site too.

Invariant: writes from before the file was opened keep their stamps if the file has gone back in time, because peers may have
them already.

design.md section 4, "Copies" and "HLC".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from mycomesh.sync.capture.stamps import Stamper
from mycomesh.sync.crdt.hlc import SITE_PREFIX, Clock
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.errors import ForeignFileError
from mycomesh.sync.merge import records
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.change_log import StoredEntry, pack_mask, unpack_mask
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table, insert_key
from mycomesh.sync.storage.unit import Unit

__all__ = ["Site", "restamp_all"]

_STEP_ENTRIES = 10_000
CONFIRMING = 2  # peers that have to have had a write before the word of others ends it
_RESTAMP_KEY = "moving"  # in mycomesh_meta


@dataclass(frozen=True, slots=True)
class Restamp:
    """Entries that wait for another stamp: those of a site with an hlc greater than `after`."""

    site_number: int
    after: int


class Site:
    """The site under which one run of the node stamps the writes of one file."""

    __slots__ = (
        "_committed",
        "_confirmed",
        "_early",
        "_entropy",
        "_found",
        "_opened_at",
        "_store",
        "restamp",
        "shown",
        "site_number",
    )

    def __init__(self, store: Store, site: bytes, entropy: Callable[[int], bytes], *, fresh: bool = False) -> None:
        """Take the file's site; `fresh` if it was drawn for this run."""
        self.site_number = store.site_number_or_new(site)
        self._store = store
        self._entropy = entropy
        self._opened_at = store.clock.last  # stamps of this run are greater
        self._found = -1 if fresh else self.site_number  # the site that the file had before this run
        # By name, of units that a peer has had equal in this run: the clock of this site that each of at most two peers had, the
        # latest of all.
        self._confirmed: dict[str, dict[bytes, int]] = {}
        self.restamp = _read_restamp(store.meta(_RESTAMP_KEY))
        self._early: Stamper | None = None  # None until a row needs it
        self.shown = False  # whether a peer may have writes of this run
        self._committed = self._state()
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
        """Begin a run under the file's site, or under a new one if the site is another node's or is behind `recalled`.

        `recalled` holds, for each site, an hlc that the site is known to have reached. Call it inside a transaction.

        Raises:
            ForeignFileError: the file belongs to another mesh.
        """
        tag = hashlib.blake2b(mesh_key, digest_size=16, person=b"mycomesh-meshtag").digest()
        found = store.meta("mesh")
        if found is None:
            store.meta_set("mesh", tag)
        elif found != tag:
            raise ForeignFileError(
                f"{store.path}: belongs to another mesh; run 'mycomesh down --remove' there first to use it in this one"
            )
        site = store.meta("site")
        own = type(site) is bytes and site[:SITE_PREFIX] == node_id[:SITE_PREFIX]
        fresh = not own or recalled.get(site, 0) > store.clock.last
        if fresh:
            site = _fresh_site(store, node_id, entropy)
        return cls(store, site, entropy, fresh=fresh)

    @property
    def id(self) -> bytes:
        """The 16-byte id under which this run stamps writes."""
        return self._store.site(self.site_number)

    def own(self) -> Stamper:
        """Return what stamps the writes of this run."""
        return Stamper(self.site_number, self._store.clock)

    def early(self) -> Stamper:
        """Return what stamps rows from before the mesh, with a clock that begins at 0. Call it inside a transaction."""
        if self._early is None:
            site = self.id[:SITE_PREFIX] + self._entropy(SITE_PREFIX)
            self._early = Stamper(self._store.site_number_or_new(site), Clock())
        return self._early

    def confirm(self, unit: Unit, peer: bytes) -> None:
        """Note that a peer has had this unit equal: its copies of this site's entries are those of the file."""
        clocks = self._confirmed.setdefault(unit.name, {})
        clocks[peer] = unit.own_top(self.id)
        if len(clocks) > CONFIRMING:
            del clocks[min(clocks, key=lambda each: (clocks[each], each))]

    def unseen_after(self, unit: Unit) -> tuple[int, int]:
        """Return (site number, clock): nobody is known to have this site's later entries of a unit, so none was deleted.

        Two peers have to have had a table equal, because one can repeat the digest that it was sent. Entries from before this run
        count as seen.
        """
        number, clocks = self._store.site_number(unit.own_site(self.id)), self._confirmed.get(unit.name, {})
        seen = min(clocks.values()) if len(clocks) == CONFIRMING else 0
        return -1 if number is None else number, max(self._opened_at, seen)

    def is_behind(self, tops: Iterable[tuple[Unit, int]]) -> bool:
        """Return True if a peer covers more of this site's clock than the file; `tops` are its greatest hlcs by unit.

        Nobody can have more of a site that was drawn in this run, nor of a unit that was equal in it.
        """
        if self.site_number != self._found:
            return False
        return any(top > unit.own_top(self.id) for unit, top in tops if unit.name not in self._confirmed)

    def renew_if_behind(self, tables: Mapping[str, Table], tops: Iterable[tuple[Unit, int]]) -> bool:
        """Continue under a new site if a peer covers more of this one than the file, and return whether it does.

        The writes of this run get new stamps in all `tables`. Call it inside a transaction.
        """
        if not self.is_behind(tops):
            return False
        old = self.site_number
        self.site_number = self._store.site_number_or_new(_fresh_site(self._store, self.id, self._entropy))
        for name in sorted(tables):
            for before, after in _renumbered(tables[name], old, self.site_number):
                restamp_all(tables[name], before, after, self._opened_at, shown=self.shown)
        return True

    def committed(self) -> None:
        """Keep the sites of the transaction."""
        self._committed = self._state()

    def rolled_back(self) -> None:
        """Return to the sites from before the transaction."""
        self.site_number, self.restamp, early = self._committed
        self._early = None if early is None else Stamper(early[0], Clock(early[1]))

    def _state(self) -> tuple[int, Restamp | None, tuple[int, int] | None]:
        early = self._early
        return self.site_number, self.restamp, None if early is None else (early.site_number, early.clock.last)

    # ---- a clock that was ahead

    def set_clock_back(self, tables: Collection[Table], after: int, bound: int) -> None:
        """Continue under a new site with an earlier clock; inside a transaction in which no entries wait.

        The entries of the old site with an hlc greater than `after` wait for `restamp_some`, and no vector covers them any
        more. The clock starts after `after` and after every stamp of another site, since the restamped writes have to win
        over those as they did before. Stamps greater than `bound` are in the future themselves and do not count.
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
            for number, _ in _renumbered(table, old, self.site_number):
                table.coverage.cut(self._store.site(number), after)
        self._store.clock.last = self._opened_at = max(top for top in (0, after, *tops) if top <= bound)
        self.restamp = Restamp(old, after)
        self._store.meta_set(_RESTAMP_KEY, json.dumps([old, after]))

    def restamp_some(self, tables: Iterable[Table], room: int) -> None:
        """Give up to `room` waiting entries new stamps; inside a transaction. Sets `restamp` to None after the last."""
        assert self.restamp is not None, "called only while entries wait"
        for table in tables:
            for old, new in _renumbered(table, self.restamp.site_number, self.site_number):
                site = self._store.site(new)
                before = table.coverage.staged.top(site)
                done = _restamp_some(table, old, new, self.restamp.after, room)
                if done:
                    table.coverage.cover(site, before, self._store.clock.last)
                room -= done
                if room <= 0:
                    return
        self.restamp = None
        self._store.meta_set(_RESTAMP_KEY, None)


def _fresh_site(store: Store, node_id: bytes, entropy: Callable[[int], bytes]) -> bytes:
    site = node_id[:SITE_PREFIX] + entropy(SITE_PREFIX)
    store.meta_set("site", site)
    return site


def _renumbered(table: Table, old: int, new: int) -> list[tuple[int, int]]:
    """Return (old number, new number) of the sites of a table that go with a file's site: its own, and one of each area."""
    pairs, areas, site = [(old, new)], table.areas, table.store.site
    if areas is None:
        return pairs
    areas.follow_renewal(old, new)
    for area in areas.known():
        number = table.store.site_number(areas.own_site(site(old), area))
        if number is not None and areas.of(number) == area:
            renewed = areas.own_site(site(new), area)
            areas.learn(renewed, area)
            pairs.append((number, table.store.site_number_or_new(renewed)))
    return pairs


def restamp_all(table: Table, old: int, new: int, after: int, *, shown: bool = False) -> int:
    """Give every entry of site number `old` with an hlc greater than `after` a stamp of site number `new`.

    With `shown`, a row that its insert names is also deleted under the name that it had: some peer may have it.
    The vector of the table then covers the old site only up to `after`. Return the number of entries. Call it inside a
    transaction.
    """
    count = 0
    while done := _restamp_some(table, old, new, after, _STEP_ENTRIES, shown=shown):
        count += done
    table.coverage.cut(table.store.site(old), after)
    if count:
        table.coverage.cover(table.store.site(new), 0, table.store.clock.last)
    return count


def _restamp_some(table: Table, old: int, new: int, after: int, limit: int, *, shown: bool = False) -> int:
    """Give up to `limit` of these entries new stamps, the earliest first; return how many."""
    log, clock = table.log, table.store.clock
    entries = [entry for entry in log.scan(old, after, limit) if entry[0] == old]
    for _, hlc, row, _ in entries:
        current = log.row_of(old, hlc)
        if _restamp_one(table, row if current is None else current, (old, hlc), (new, clock.tick(0))) and shown:
            log.add(
                (new, clock.tick(0), insert_key(table.store.site(old), hlc), pack_mask(EXISTENCE, dead=True), 0, None)
            )
    log.flush()
    return len(entries)


def _restamp_one(table: Table, row: Row, old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Replace the stamp (site number, hlc) of one entry, and the row key where that is the stamp of the row's insert.

    Returns whether it is.
    """
    site = table.store.site
    view = RowView.read(table, row)
    stored = next(stored for stored in view.stored if stored[:2] == old)
    mask, dead = unpack_mask(stored[3])
    key = table.key(row, view.stored)
    named = bool(mask & EXISTENCE) and not dead and key == insert_key(site(old[0]), old[1])
    if named:
        key = insert_key(site(new[0]), new[1])
    name = key if named and isinstance(row, bytes) else row
    values = view.values(stored, mask & ~EXISTENCE)
    held = view.held(stored)
    table.held.write(*old, {})
    table.log.remove(stored)
    digest = table.digests.entry(*new, mask, key, list(values.values()), dead=dead)
    table.log.add((*new, name, stored[3], digest, stored[5]))
    if held:
        table.held.write(*new, held)
    if named:
        _rename(table, view, stored, name, key)
    return named


def _read_restamp(stored: object) -> Restamp | None:
    """Return the entries that wait for another stamp, as the file says; None if another program has damaged the record."""
    try:
        site_number, after = json.loads(stored) if isinstance(stored, str) else (None, None)
    except (ValueError, TypeError):
        return None
    return Restamp(site_number, after) if type(site_number) is type(after) is int else None


def _rename(table: Table, view: RowView, insert: StoredEntry, name: Row, key: bytes) -> None:
    """Give a row the key of its insert's new stamp: update its other entries, and its record if it is parked."""
    for stored, entry in zip(view.stored, view.entries, strict=True):
        if stored is not insert:
            values = view.values(stored, entry.mask & ~EXISTENCE)
            digest = table.digests.entry(stored[0], stored[1], entry.mask, key, list(values.values()), dead=entry.dead)
            table.log.replace(stored, (*stored[:2], name, stored[3], digest, stored[5]))
    if name != view.row:
        records.rename_parked(table, view.row, name, key)
