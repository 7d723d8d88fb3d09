"""A replica: one SQLite file that drains its local writes into batches, and applies the bundles of peers.

Captured local writes get their stamps before a remote change is applied, so a remote change never overwrites a local one that
has no stamp yet. A batch is returned for publishing only after its transaction has committed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import apsw

from mycomesh.sync.admin.conflicts import Conflicts
from mycomesh.sync.admin.decisions import Decisions
from mycomesh.sync.admin.state_tables import StateTables
from mycomesh.sync.admin.status import ReplicaStatus, TableStatus, read_status
from mycomesh.sync.admin.uninstall import drop_all
from mycomesh.sync.capture import rebuild_mark, table_scan
from mycomesh.sync.crdt.hlc import ms_from_hlc
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import IndexTriggerError, MigrationError, PolicyError, StatementError
from mycomesh.sync.feed.feed import IDLE_DAYS, Feed
from mycomesh.sync.replication.admission import admit
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.replication.area_check import check_areas
from mycomesh.sync.replication.drop_guard import DropGuard
from mycomesh.sync.replication.inbox import Inbox
from mycomesh.sync.replication.incoming import Incoming
from mycomesh.sync.replication.map_extents import MAP_CONTENTS, MapExtents
from mycomesh.sync.replication.outbox import Hooks, Outbox
from mycomesh.sync.replication.priority import Priority
from mycomesh.sync.replication.purges import Purges
from mycomesh.sync.replication.releases import Releases
from mycomesh.sync.replication.retention import Retention
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.replication.scrub import Scrub
from mycomesh.sync.replication.site import Site
from mycomesh.sync.replication.table_settings import TableSetting
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.schema.facts import read_ahead
from mycomesh.sync.schema.migration import ended_rules
from mycomesh.sync.schema.migration_plan import Plan
from mycomesh.sync.schema.table_filter import TableFilter
from mycomesh.sync.sqlite.versions import Version
from mycomesh.sync.storage.conflict_room import ConflictLimits
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.bundle import Section
from mycomesh.sync.wire.interest import Interest
from mycomesh.sync.wire.units import split_unit, table_of, unit_name

__all__ = [
    "Applied",
    "ConflictLimits",
    "Hooks",
    "Replica",
    "ReplicaConfig",
    "ReplicaStatus",
    "TableDigest",
    "TableStatus",
]


@dataclass(frozen=True, slots=True)
class ReplicaConfig:
    """Which user tables are replicated, by shell patterns over their names, and for which programs.

    only: tables to replicate; empty means all.
    exclude: tables to leave out, also of those in `only`.
    urgent: tables whose changes go first.
    tables: settings of tables, of which the first that matches counts.
    conflicts: what the record of conflicts may grow to.
    sqlite_floor: the oldest SQLite of the programs beside the nodes, for the mesh to know; None to state nothing.
    cursor_days: days after which a cursor of the change feed that has not moved holds nothing back.
    interest: which areas of tables this node keeps; None for a node that does not know areas.
    extensions: paths of loadable extensions whose modules and functions the user's index triggers need.
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    urgent: tuple[str, ...] = ()
    tables: tuple[TableSetting, ...] = ()
    conflicts: ConflictLimits = field(default_factory=ConflictLimits)
    sqlite_floor: Version | None = None
    cursor_days: int = IDLE_DAYS
    extensions: tuple[str, ...] = ()
    interest: Interest | None = None


@dataclass(frozen=True, slots=True)
class TableDigest:
    """The digest pair of one table: BLAKE2b-64 of its vector, and the 16-byte sum of its entries' digests."""

    table: str
    vector: bytes
    entries: bytes


class Replica:
    """One file as a replica. Not thread-safe: one thread owns it."""

    def __init__(
        self, store: Store, catalog: Catalog, site: Site, priority: Priority, hooks: Hooks, cursor_days: int
    ) -> None:
        """Assemble the parts; `open` is the way to make a replica."""
        self.store = store
        self.catalog = catalog
        self.registry = catalog.registry
        self.interests = catalog.interests
        self.priority = priority
        self.rights = Rights(b"")  # until the mesh reports them
        self.decisions = Decisions(store, catalog)
        self.conflicts = Conflicts(store, catalog.registry)
        self.outbox = Outbox(store, catalog, site, priority, hooks)
        self.inbox = Inbox(store, catalog, site, self.outbox, priority)
        self.purges = Purges(store, catalog.registry, site, self.outbox)
        self.retention = Retention(store, catalog, site, self.outbox)
        self.releases = Releases(store, catalog.registry, site, self.outbox, self.holds)
        self.drop_guard = DropGuard(catalog.registry, site.unseen_after)
        self.scrub = Scrub(store, catalog, self.outbox)
        self.state = StateTables(store, catalog.registry, site, self.scrub)
        self._map_extents = MapExtents(store, catalog.registry)
        self.feed = Feed(store, catalog.registry, self.outbox, cursor_days)
        self._site = site
        self._hooks = hooks

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
        hooks: Hooks | None = None,
    ) -> Replica:
        """Open the file as a replica, and create what is missing in it.

        Args:
            path: the SQLite file.
            node_id: 16 bytes.
            mesh_key: the 32-byte key of the digests, which all members share.
            entropy: returns so many random bytes.
            config: which tables are replicated.
            recalled: the clock of each site as `noted` returned it earlier. A file with an older clock was restored from a
                backup, so it gets a new site.
            hooks: functions to call during later calls.

        Raises:
            DatabaseError: not an SQLite database, read-only, locked or unreadable; nothing was changed.
            ExtensionError: an extension of the settings cannot be loaded; nothing was changed.
            ForeignFileError: the file belongs to another mesh; nothing was changed.
        """
        hooks = hooks or Hooks()
        store = Store(path, on_lock=hooks.on_lock, sleep=hooks.sleep, extensions=config.extensions)
        store.conflict_room.limits = config.conflicts
        store.set_authority(node_id, hooks.authority)
        try:
            catalog = Catalog(store, mesh_key, TableFilter(config.only, config.exclude), config.interest)
            with store.transaction():
                store.create()
                store.clock.last = max(store.clock.last, 0)
                store.conflict_room.expire(ms_from_hlc(store.clock.last))
                site = Site.begin(store, node_id, mesh_key, entropy, recalled or {})
                priority = Priority(catalog.registry, config.urgent, catalog.interests, config.tables)
                replica = cls(store, catalog, site, priority, hooks, config.cursor_days)
                # Nothing is drained yet: a table with writes in its pending log keeps its triggers until the first drain.
                catalog.open(lambda table: not replica.outbox.pending_ids([table]), config.sqlite_floor)
                replica.feed.open()
                replica.retention.refresh()
                table_scan.begin_for_lost_records(catalog.registry.tables.values(), store.recreated)
        except BaseException:
            store.close()
            raise
        return replica

    def set_rights(self, rights: Rights) -> None:
        """Take the rights of all nodes, as the mesh reports them."""
        self.rights = rights
        self.catalog.views.may_write = rights.member_may_write

    def check_decides(self, refused: str) -> None:
        """Refuse a decision for the mesh that other nodes would not take from this one, and that would hold here alone.

        Raises:
            PolicyError: this node may not write facts. Its text begins with `refused`, such as "not a counter".
        """
        if not self.rights.may_write(self.rights.own, SCHEMA_TABLE):
            text = f"this node's certificate gives no right to write {SCHEMA_TABLE}; run it on a node that may"
            raise PolicyError(f"{refused}: {text}")

    def set_interest(self, interest: Interest) -> None:
        """Keep other areas from here on: rounds bring those that are missing, and others go once enough members keep them."""
        self.catalog.set_interest(interest)

    def repeat_interest(self) -> bool:
        """State the areas that this node keeps although they are stated; return whether the next drain publishes that."""
        if not self.registry.policies.areas:
            return False
        with self.store.transaction():
            return self.interests.renew(again=True)

    def close(self) -> None:
        """Close the file. The triggers stay and log later writes for the next run."""
        self.store.close()

    def remove(self) -> None:
        """Drop every trigger and internal table of the file, and close it. Writes that were not drained stay in the tables."""
        with self.store.bare_transaction() as db:
            drop_all(db)
        self.store.close()

    def shrink(self) -> None:
        """Free SQLite's caches, which fill again with use."""
        self.store.shrink()

    # ---- reading

    @property
    def path(self) -> str:
        """The file."""
        return self.store.path

    @property
    def site(self) -> bytes:
        """The 16-byte id under which this replica stamps its writes."""
        return self._site.id

    @property
    def noted(self) -> tuple[bytes, int]:
        """The site and its clock, for a record outside of the file (`recalled` in `open`)."""
        return self.site, self.store.clock.last

    @property
    def recreated(self) -> tuple[str, ...]:
        """The internal tables that were dropped or altered by hand, and that opening the file has recreated."""
        return tuple(name for name in self.store.recreated if name != rebuild_mark.TABLE)

    @property
    def tables(self) -> Mapping[str, Table]:
        """The replicated tables by canonical name, the schema table among them."""
        return self.registry.tables

    def admits(self, name: str) -> bool:
        """Return True if a table of that canonical name may be replicated here, whether the file has it or not."""
        known = name == SCHEMA_TABLE or self.registry.admits(name.split("\0")[1] if "\0" in name else name)
        table = self.tables.get(table_of(name))
        if table is not None and table.areas is not None and table.areas.moved is not None:
            known = known and "\0" in name and not table.areas.idle  # the whole table is no unit any more
        return known and self.registry.keeps(name) and self.rights.may_read(self.rights.own, name)

    def holds(self, name: str) -> bool:
        """Return True if this node keeps what it has of a unit: it wants that, and has not lost all rights to it."""
        rights = self.rights
        return self.registry.keeps(name) and (rights.may_read(rights.own, name) or rights.may_write(rights.own, name))

    def wants(self, node: bytes, name: str) -> bool:
        """Return True if a member, by its node id, is to get the changes of a unit: it may read it, and may keep it.

        A member that has stated no interest may keep everything.
        """
        table, area = split_unit(name) or (name, None)
        if not self.rights.may_read(node, name):
            return False
        stated = None if area is None else self.interests.of(node)
        return area is None or stated is None or stated.keeps(table, area)

    def shares(self, node: bytes, name: str) -> bool:
        """Return True if a table may be replicated here; of an area, if both this node and that member keep it."""
        return self.admits(name) and (split_unit(name) is None or self.wants(node, name))

    def is_holder(self, node: bytes, table: str, area: str) -> bool:
        """Return True if a member has stated that it keeps an area, and others take the area from it as well."""
        stated, name = self.interests.of(node), unit_name(table, area)
        kept = stated is not None and stated.keeps(table, area)
        return kept and self.rights.may_read(node, name) and self.rights.may_write(node, name)

    def digests(self) -> list[TableDigest]:
        """Return the digest pair of each replicated table, by name."""
        return [TableDigest(name, *pair) for name, pair in self.digest_pairs().items()]

    def digest_pairs(self, *, remember: bool = False) -> dict[str, tuple[bytes, bytes]]:
        """Return (digest of the vector, digest of the entries) of each unit, first of tables that are not cut.

        With `remember`, a peer that has one of these vectors later is recognised as behind. Only the protocol remembers: a look
        at a node must not change what it does.
        """
        found = self.table_pairs(remember=remember)
        for name, table in sorted(self.tables.items()) if self.registry.policies.areas else ():
            if table.areas is not None and not table.areas.idle:
                if remember:
                    table.areas.remember_changed()
                pairs = table.areas.tree.pairs
                found |= {unit_name(name, area): pairs[area] for area in sorted(pairs)}
        return found

    def table_pairs(self, *, remember: bool = False) -> dict[str, tuple[bytes, bytes]]:
        """Return the pairs of `digest_pairs` for whole tables and the bases of those that are cut."""
        found, cut = {}, {}
        for name, table in sorted(self.tables.items()):
            if table.areas is None:  # nearly all tables: with no object for each
                if remember:
                    table.coverage.remember()
                found[name] = (table.coverage.digest, table.log.digest)
            elif self.registry.has_base(table):
                unit = Unit(name, table, None)
                if remember:
                    unit.remember()
                cut[name] = unit.vector_digest, unit.digest
        return found | cut if cut else found

    def vector(self, name: str) -> Vector:
        """Return a copy of a unit's vector; empty for a unit that is not here."""
        unit = self.registry.unit(name)
        return Vector() if unit is None else unit.vector.copy()

    def status(self) -> ReplicaStatus:
        """Return the status of the replica, for people."""
        return read_status(self.store, self.registry, self.site, self.scrub.last, self.rights)

    # ---- local writes

    def drain(self, wall_ms: int) -> tuple[list[bytes], bool]:
        """Stamp up to one chunk of captured writes; return (batches to publish, whether more wait)."""
        return self.outbox.drain(wall_ms)

    def migrate(self, script: str, wall_ms: int, *, dry_run: bool = False) -> list[str]:
        """Run a script that may drop and rename tables and columns, here and then on every replica, as one transaction.

        Returns one line for each thing that it does, or would do with `dry_run`. The next drain publishes it.

        Raises:
            MigrationError: a statement that cannot be run, or this node may not decide; nothing was changed.
        """
        if not self.rights.may_write(self.rights.own, SCHEMA_TABLE):
            raise MigrationError(
                f"this node's certificate gives no right to write {SCHEMA_TABLE}: run it on a node that may"
            )
        if dry_run:
            plan = Plan.of(self.store.db, script)
            plan.consequences += ended_rules(self.registry, plan)
            return plan.lines()
        sections: list[Section] = []
        lines: list[str] = []

        def change() -> None:
            lines[:] = self.catalog.migrate(script, self.outbox.table_drainer(wall_ms, sections)).lines()
            self.outbox.retry_rebuilt()
            if sections:
                self.store.durable()

        published = self.outbox.write_drained(wall_ms, change)
        self.outbox.publish_later([*published, *self.priority.batches(sections)])
        return lines

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
        """Merge one bundle, local writes first, in as many transactions as keep the file's write lock short.

        A live batch of an honest node takes one, unless more of it is refused here than one transaction may try. A divided
        batch is covered with its last part.

        Args:
            payload: an encoded bundle.
            wall_ms: wall time of this node.
            origin: 16-byte node id that signed a live batch; None for a catch-up chunk, vouched for by its sender.
            sender: 16-byte node id of that sender.
            repair: take changes although they are covered here.

        Raises:
            DecodeError: not a bundle, or values that cannot belong to their tables; nothing of it is covered.
            BatchRefusedError: a live batch with a forged site or a stamp from the future; nothing was changed or covered.
            StatementError: SQLite failed in a way that no layer expects; nothing of it is covered.
        """
        return self._apply([(payload, origin)], wall_ms, sender, repair=repair)[0]

    def apply_all(self, batches: Sequence[tuple[bytes, bytes]], wall_ms: int) -> list[Applied]:
        """Merge live batches, (payload, origin) each, as `apply` would one after another, in as few transactions.

        Raises:
            DecodeError, BatchRefusedError, StatementError: as `apply`, because of any of them; those before it may be in the
                file.
        """
        return self._apply(batches, wall_ms, None, repair=False)

    def _apply(
        self, payloads: Sequence[tuple[bytes, bytes | None]], wall_ms: int, sender: bytes | None, *, repair: bool
    ) -> list[Applied]:
        try:
            try:
                return self._merge(payloads, wall_ms, sender, repair=repair)
            except IndexTriggerError:  # the rollback has switched the failing trigger off
                return self._merge(payloads, wall_ms, sender, repair=repair)
        except apsw.Error as error:
            self.store.check_whole()  # another program may have dropped an internal table
            raise StatementError(f"{type(error).__name__}: {error}") from error

    def _merge(
        self, payloads: Sequence[tuple[bytes, bytes | None]], wall_ms: int, sender: bytes | None, *, repair: bool
    ) -> list[Applied]:
        incoming = []
        for payload, origin in payloads:
            bundle, applied = admit(payload, self.rights, wall_ms, origin, sender)
            unsure = check_areas(bundle, self.registry, self.rights, origin or sender or b"")
            applied.gaps += unsure
            applied.withheld |= bool(unsure)
            incoming.append(Incoming(bundle, applied, len(payload)))
        done = [batch.applied for batch in incoming]
        live = any(origin is not None for _, origin in payloads)
        for batch in incoming:
            read_ahead(self.store.db, batch.bundle)
        merge = functools.partial(self.inbox.merge, incoming, wall_ms, live=live, repair=repair)
        published: list[bytes] = []
        renewed = False
        try:
            while True:
                for batch in incoming:
                    batch.prepare()
                published += self.outbox.write_within_budget(wall_ms, lambda budget: merge(budget=budget))
                if not renewed and any(applied.renewed for applied in done):
                    renewed = True
                    published = []  # these writes have other stamps since, and a round brings them
                if all(batch.done for batch in incoming):
                    break
                published = self.outbox.yield_file(published)
        except BaseException:
            self.outbox.publish_later(published)  # of the parts that are committed
            raise
        done[0].published[:0] = published
        if MAP_CONTENTS in self.tables and self.rights.may_write(self.rights.own, MAP_CONTENTS):
            self._map_extents.widen({section.table for batch in incoming for section in batch.bundle.sections})
        if any(table.pending.unread for table in self.tables.values()):
            done[-1].published += self.drain(wall_ms)[0]
            self.outbox.invalidate()  # one chunk may not have been all
        return done
