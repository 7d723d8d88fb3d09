"""The facade over one SQLite file: open, drain, apply, read ranges, compare, take everything out again.

Owns the order of work inside a transaction: pending local writes are stamped before anything remote is applied, so a
remote change never overwrites a local one that has no stamp yet. What always holds: whatever is returned for publishing
has been committed. It must not know links, rounds or time other than its arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mycomesh.sync.admin.decisions import Decisions
from mycomesh.sync.admin.state_tables import StateTables
from mycomesh.sync.admin.status import ReplicaStatus, TableStatus, read_status
from mycomesh.sync.admin.uninstall import drop_all
from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.crdt.hlc import DRIFT_MS_MAX, hlc_from_ms
from mycomesh.sync.crdt.version_vector import Range, Vector
from mycomesh.sync.errors import IndexTriggerError, MigrationError
from mycomesh.sync.merge import tombstones
from mycomesh.sync.merge.keep_both import has_other_key_form
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.replication.admission import admit, future_bound
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.replication.inbox import Inbox
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.replication.priority import Priority
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.replication.scrub import Scrub
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.schema.migration_plan import Plan
from mycomesh.sync.schema.table_filter import TableFilter
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.storage.log_reader import read_range, read_rows
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Bundle, Section

__all__ = ["Applied", "Replica", "ReplicaConfig", "ReplicaStatus", "TableDigest", "TableStatus"]


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Which tables are replicated: patterns as in the shell; `only` empty means every user table. `urgent` ones go first."""

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    urgent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableDigest:
    """What two replicas compare first: BLAKE2b-64 of the vector, and the 16-byte sum of the entries' digests."""

    table: str
    vector: bytes
    entries: bytes


class Replica:
    """One file as a replica. Not thread-safe: one thread owns it."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, priority: Priority) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry
        self._site = site
        self.rights = Rights(b"")  # until the mesh tells of them
        self.decisions = Decisions(store, catalog)
        self.priority = priority
        self._outbox = Outbox(store, catalog, site, priority)
        self.scrub = Scrub(store, catalog, self._outbox)
        self.state = StateTables(store, catalog.registry, site, self.scrub)
        self._inbox = Inbox(store, catalog, site, self._outbox, priority)

    @classmethod
    def open(
        cls,
        path: str,
        *,
        node_id: bytes,
        mesh_key: bytes,
        entropy: Callable[[int], bytes],
        config: ReplicaConfig,
        recalled: Mapping[bytes, int] | None = None,
        holding: Callable[[bool], None] | None = None,
    ) -> Replica:
        """Open the file as a replica of the mesh whose members share `mesh_key`, making what is missing.

        A file that is behind `recalled`, (site, clock) as `noted` told them, was put back from a backup: its site is new.
        `holding` is told when this replica has taken the file's write lock (True), and when that is free again.

        Raises:
            DatabaseError: not an SQLite database, read-only, locked or unreadable; nothing was changed.
            ForeignFileError: it belongs to another mesh; nothing was changed.
        """
        store = Store(path)
        if holding is not None:
            store.holding = holding
        try:
            catalog = Catalog(store, mesh_key, TableFilter(config.only, config.exclude))
            with store.transaction():
                store.create()
                store.clock.last = max(store.clock.last, 0)
                site = Site.begin(store, node_id, mesh_key, entropy, recalled or {})
                replica = cls(store, catalog, site, Priority(catalog.registry, config.urgent))
                catalog.open(lambda table: not replica._outbox.pending_ids([table]))
                table_scan.begin_for_lost_records(catalog.registry.tables.values(), store.made_again)
        except BaseException:
            store.close()
            raise
        return replica

    @property
    def path(self) -> str:
        """The file."""
        return self._store.path

    @property
    def syncs(self) -> int:
        """How often this replica has waited until its writes were on the disk."""
        return self._store.syncs

    @property
    def site(self) -> bytes:
        """The 16-byte id under which this replica stamps its writes."""
        return self._site.id

    @property
    def noted(self) -> tuple[bytes, int]:
        """The site and its clock as they are in the file: to be noted elsewhere."""
        return self.site, self._store.clock.last

    @property
    def made_again(self) -> tuple[str, ...]:
        """The internal tables that somebody had dropped or altered, and the opening of the file has made again."""
        return tuple(name for name in self._store.made_again if name != rebuild_mark.TABLE)

    def doubted(self) -> list[str]:
        """Return the tables that were found made anew, or without their triggers, since this was last asked."""
        found, self._catalog.rebuilt = self._catalog.rebuilt, []
        return found

    def check_whole(self) -> None:
        """Raise `FileReplacedError` if internal tables are not as this replica left them: to open the file again mends them."""
        self._store.check_whole()

    @property
    def tables(self) -> Mapping[str, Table]:
        """The replicated tables by folded name, the schema table among them."""
        return self._registry.tables

    def shown(self, name: str) -> str:
        """Return what this file calls a table that the mesh calls so, folded."""
        table = self._registry.tables.get(name)
        return name if table is None else fold(table.spec.name)

    def recall(self, name: str) -> object:
        """Return a fact that `remember` wrote into the file, None if there is none."""
        return self._store.meta(name)

    def remember(self, name: str, fact: bytes) -> None:
        """Write a fact into the file."""
        with self._store.transaction():
            self._store.meta_set(name, fact)

    def breathe_by(self, pause: Callable[[], None]) -> None:
        """Has `pause` called between the transactions of a call that needs several, where others may want the file."""
        self._outbox.pause_between = pause

    def spread_by(self, publish: Callable[[list[bytes]], None]) -> None:
        """Has `publish` take at once what such a transaction has stamped: the call may take minutes, and returns the rest."""
        self._outbox.publish_early = publish

    def close(self) -> None:
        """Close the file; triggers stay and go on logging, so that nothing written meanwhile is lost."""
        self._store.close()

    def shrink(self) -> None:
        """Give back what SQLite holds in caches; they fill again with use."""
        self._store.shrink()

    def remove(self) -> None:
        """Take every trigger and internal table out of the file, and closes it. Undrained writes stay in the tables."""
        with self._store.bare_transaction() as db:
            drop_all(db)
        self._store.close()

    # ---- local writes

    def stale(self) -> bool:
        """Return True if another connection has committed since the last `drain` that found nothing more."""
        return self._outbox.stale()

    def redefined(self) -> int | None:
        """Return a number that changes with each commit of others, if one has changed the schema, else None."""
        return self._outbox.schema_change()

    @property
    def unshown(self) -> bool:
        """True if rows that a constraint refused, or whose column has come, wait to be tried again by a drain."""
        return self._outbox.has_retries

    def show_again(self, table: Table) -> None:
        """Has a table's rows that could not be shown tried again; inside a transaction that has changed something."""
        self._outbox.retry(table)

    def waiting(self) -> bool:
        """Return True if some local write has no stamp yet."""
        return self._outbox.has_unstamped()

    def found(self, written_ms: int) -> None:
        """Note, right after opening, when the file was last written before: inserts that wait without a time get that one.

        `written_ms` is Unix time in milliseconds. Without this they get that of the drain.
        """
        self._outbox.record_last_write(written_ms)

    def drain(self, wall_ms: int) -> tuple[list[bytes], bool]:
        """Stamps up to one chunk of captured writes; returns (batches to publish, whether more are waiting)."""
        return self._outbox.drain(wall_ms)

    def changing(self, wall_ms: int, change: Callable[[], None]) -> list[bytes]:
        """Run `change` in a write transaction in which no captured write is without its stamp; returns what to publish."""
        return self._outbox.write_drained(wall_ms, change)

    def settled(self, wall_ms: int, read: Callable[[], None]) -> list[bytes]:
        """Run `read` in a transaction in which no captured write is without its stamp; returns batches to publish."""
        return self._outbox.read_drained(wall_ms, read)

    def migrate(self, script: str, wall_ms: int, *, dry_run: bool = False) -> list[str]:
        """Run a script that may drop and rename tables and columns, here and then on every replica, as one transaction.

        Returns one line for each thing that it does, or with `dry_run` would do; the next drain publishes it.

        Raises:
            MigrationError: a statement that cannot be run, or this node may not decide; nothing was changed.
        """
        if not self.rights.may_write(self.rights.own, SCHEMA_TABLE):
            raise MigrationError(
                f"this node's certificate gives no right to write {SCHEMA_TABLE}: run it on a node that may"
            )
        if dry_run:
            return Plan.of(self._store.db, script).told()
        sections: list[Section] = []
        told: list[str] = []

        def change() -> None:
            told[:] = self._catalog.migrate(script, self._outbox.table_drainer(wall_ms, sections)).told()
            self._outbox.retry_rebuilt()
            if sections:
                self._store.durable()

        published = self.changing(wall_ms, change)
        self._outbox.publish_later([*published, *self.priority.batches(sections)])
        return told

    # ---- remote changes

    def apply(
        self,
        payload: bytes,
        wall_ms: int,
        *,
        origin: bytes | None = None,
        sender: bytes | None = None,
        repair: bool = False,
    ) -> Applied:
        """Merge one bundle in one transaction, local writes first.

        Args:
            payload: an encoded bundle.
            wall_ms: wall time of this node.
            origin: 16-byte node id that signed a live batch; None for a catch-up chunk, vouched for by its sender.
            sender: 16-byte node id of that sender.
            repair: take changes although they are covered here.

        Raises:
            DecodeError: not a bundle, or values that cannot belong to their tables; nothing was changed.
            BatchRefusedError: a live batch with a forged site or a stamp from the future; nothing was changed or covered.
        """
        return self._apply([(payload, origin)], wall_ms, sender, repair=repair)[0]

    def apply_all(self, batches: Sequence[tuple[bytes, bytes]], wall_ms: int) -> list[Applied]:
        """Merge live batches, (payload, origin) each, as `apply` would one after another, in one transaction.

        Raises:
            DecodeError, BatchRefusedError: as `apply`, because of any of them; nothing was changed.
        """
        return self._apply(batches, wall_ms, None, repair=False)

    def _apply(
        self, payloads: Sequence[tuple[bytes, bytes | None]], wall_ms: int, sender: bytes | None, *, repair: bool
    ) -> list[Applied]:
        try:
            return self._merged(payloads, wall_ms, sender, repair=repair)
        except IndexTriggerError:  # what has failed is off
            return self._merged(payloads, wall_ms, sender, repair=repair)

    def _merged(
        self, payloads: Sequence[tuple[bytes, bytes | None]], wall_ms: int, sender: bytes | None, *, repair: bool
    ) -> list[Applied]:
        admitted = [admit(payload, self.rights, wall_ms, origin, sender) for payload, origin in payloads]
        live = any(origin is not None for _, origin in payloads)

        def merge() -> None:
            for bundle, applied in admitted:
                self._inbox.merge(bundle, applied, wall_ms, live=live, repair=repair)

        published = self.changing(wall_ms, merge)
        left = [(Bundle([section]), applied) for bundle, applied in admitted for section in bundle.sections]
        for bundle, applied in left:
            self._outbox.pause_between()
            rest = functools.partial(self._inbox.merge, bundle, applied, wall_ms, live=live, repair=repair)
            published += self.changing(wall_ms, rest)
        done = [applied for _, applied in admitted]
        if not any(applied.renewed for applied in done):  # else they were stamped anew: a round tells of them
            done[0].published[:0] = published
        if any(table.pending.unread for table in self._registry.tables.values()):
            done[-1].published += self.drain(wall_ms)[0]
            self._outbox.invalidate()  # the rest is for the next drain
        return done

    # ---- copies

    def met(self, vectors: Mapping[str, Vector]) -> bool:
        """Return True if a peer covers more of this site's clock than the file itself, which then goes on under a new site.

        Raises:
            DecodeError: peers have said so too often; nothing was changed.
        """
        reach = {name: vector.top(self.site) for name, vector in vectors.items()}
        if not self._site.is_behind(self._registry.tables, reach):
            return False  # no write lock for nothing
        with self._store.transaction():
            return self._site.renew_if_behind(self._registry.tables, reach)

    def ahead(self, wall_ms: int) -> bool:
        """Return True if no peer can take what this replica stamps, where `wall_ms` is the time to within a minute.

        What is less ahead some may take and others not, until a minute or two have passed.
        """
        return self._site.restamp is None and self._store.clock.last > future_bound(wall_ms + DRIFT_MS_MAX)

    def set_back(self, after: int, wall_ms: int) -> None:
        """Goes on under a new site; drains stamp again what this one has stamped past the clock `after`, ahead of `wall_ms`.

        Raises:
            DatabaseBusyError: nothing was changed.
        """
        with self._store.transaction():
            self._site.set_clock_back(self._registry.tables.values(), after, future_bound(wall_ms))
        self._outbox.invalidate()

    def adopt(self, vectors: Mapping[str, Vector], collected: Mapping[str, Vector], wall_ms: int) -> list[str]:
        """Take over a sender's vectors at the end of a complete catch-up round; returns the tables that moved.

        `collected` are the sender's marks of these tables (`tombstones`), which go with the vectors. What a vector claims
        beyond this moment is not taken: writes that are still to come would count as known. The clock witnesses what is
        taken, so that whatever is written from here on comes after tombstones that are no longer told.
        """
        moved = []
        last = self._store.clock.last
        bound = max(last, hlc_from_ms(wall_ms))
        with self._store.transaction():
            for name in sorted(vectors):
                table = self._registry.tables.get(name)
                if table is None or self._inbox.lacks(table):
                    continue
                gained = [
                    (site, (after, min(upto, last if site == self.site else bound)))
                    for site, (after, upto) in vectors[name].missing_from(table.coverage.vector)
                ]
                gained = [(site, window) for site, window in gained if window[0] < window[1]]
                for site, (after, upto) in gained:
                    table.coverage.cover(site, after, upto)
                    self._store.clock.witness(upto)
                if gained:
                    moved.append(name)
                if name in collected:
                    tombstones.raise_watermarks(table, collected[name], bound)
        return moved

    def beat(self, names: Sequence[str], wall_ms: int) -> list[bytes]:
        """Covers this site's own clock up to now in some tables, all its writes being stamped; returns what to publish.

        It tells every member that nothing older will come from here.
        """
        sections: list[Section] = []

        def cover() -> None:
            clock = self._store.clock.tick(wall_ms)
            for name in names:
                table = self._registry.tables[name]
                after = table.coverage.staged.top(self.site)
                table.coverage.cover(self.site, after, clock)
                sections.append(Section(name, [(self.site, after, clock)]))

        published = self.changing(wall_ms, cover)
        return [*published, *self.priority.batches(sections)]

    # ---- comparing and reading

    def digests(self, *, remember: bool = False) -> list[TableDigest]:
        """Return one digest pair for each replicated table, by name; with `remember`, who has one of these later is behind."""
        tables = sorted(self._registry.tables.items())
        if remember:  # only what is asked for by what goes on: to look at a node must not change what it does
            for _, table in tables:
                table.coverage.remember()
        return [TableDigest(name, table.coverage.digest, table.log.digest) for name, table in tables]

    def vector(self, name: str) -> Vector:
        """Return a table's vector; empty for a table that is not here."""
        table = self._registry.tables.get(name)
        return Vector() if table is None else table.coverage.vector.copy()

    def forgot(self, name: str) -> bool:
        """Return whether coverage of a table was forgotten since this was asked last; asked where a round begins.

        What a round brings that began before must not be adopted, and is not until then; nor is it where some of it has come
        before there was a table to take it.
        """
        return self._inbox.begin_round(name)

    def admits(self, name: str) -> bool:
        """Return True if a table of that folded name may be replicated here, present or not."""
        return (name == SCHEMA_TABLE or self._registry.admits(name)) and self.rights.may_read(self.rights.own, name)

    def read(
        self, name: str, site: bytes, window: Range, *, rows_max: int, bytes_max: int
    ) -> tuple[Section | None, int, int, int]:
        """Return (section without ranges, clock reached, rows, bytes) of a site's entries in `(after, upto]`.

        The caller has drained: a read sees the values that its entries own.
        """
        table = self._registry.tables.get(name)
        if table is None:
            return None, window[1], 0, 0
        groups, reached, rows, size = read_range(
            table, site, window[0], window[1], rows_max=rows_max, bytes_max=bytes_max
        )
        return (Section(name, [], groups) if groups else None), reached, rows, size

    def collect(self, name: str, stable: int, limit: int) -> int:
        """Remove up to `limit` tombstones of a table with clocks up to `stable`; returns how many."""
        table = self._registry.tables[name]
        if not stable or not 0 < tombstones.oldest_hlc(table) <= stable:
            return 0
        with self._store.transaction():
            return tombstones.collect(table, stable, limit)

    def collected(self, name: str) -> Vector:
        """Return up to which clock of each site tombstones of a table have been removed here."""
        table = self._registry.tables.get(name)
        return Vector() if table is None else tombstones.watermarks(table)

    def scan(self, name: str, after: tuple[int, int], limit: int) -> list[tuple[int, int, int | bytes, int]]:
        """Return up to `limit` (place, hlc, row, digest) of a table's entries after a stamp; empty at the end."""
        table = self._registry.tables.get(name)
        return [] if table is None else table.log.scan(after[0], after[1], limit)

    def rows(self, name: str, rows: Sequence[int | bytes], *, bytes_max: int) -> tuple[list[bytes], int]:
        """Return bundles of every entry of the first of some rows, and how many rows that are; the caller has drained."""
        table = self._registry.tables.get(name)
        if table is None:
            return [], len(rows)
        parts, count = read_rows(table, rows, bytes_max=bytes_max)
        return [Bundle([Section(name, [], groups)]).encode() for groups in parts], count

    def rows_named(self, section: Section, *, bytes_max: int) -> Iterator[Section]:
        """Yield sections with every entry held of the rows that a section's changes name; the caller has drained."""
        table = self._registry.tables.get(section.table)
        if table is None or has_other_key_form(table, section):
            return
        keys = [key for group in section.groups for key in keys_of(table, group)]
        rows = list(dict.fromkeys(table.locate_many(keys)))
        while rows:
            parts, count = read_rows(table, rows, bytes_max=bytes_max)
            rows = rows[count:]
            yield from (Section(section.table, [], groups) for groups in parts)

    def status(self) -> ReplicaStatus:
        """Return the replica as people see it."""
        return read_status(self._store, self._registry, self.site, self.scrub.last)
