"""Inbox: merge the bundles of peers into one file, a part in each of the caller's transactions.

The caller has stamped all local writes before each part. A schema fact takes effect before the rows that follow it in the
bundle, so that they find their tables and columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mycomesh.sync.crdt.hlc import hlc_from_ms, is_early
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import BatchRefusedError, DecodeError
from mycomesh.sync.merge import tombstones
from mycomesh.sync.merge.keep_both import has_other_key_form
from mycomesh.sync.merge.merged import Merged
from mycomesh.sync.merge.section_merge import SectionMerge
from mycomesh.sync.merge.work_budget import TRANSACTION_WEIGHT_MAX, WorkBudget
from mycomesh.sync.replication.admission import last_hlc
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.replication.decision_limit import limit_decisions
from mycomesh.sync.replication.incoming import Incoming
from mycomesh.sync.replication.outbox import FULL_SHOWN, Outbox
from mycomesh.sync.replication.priority import Priority
from mycomesh.sync.replication.site import Site
from mycomesh.sync.replication.site_limit import limit_sites, refused_sites
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.schema.interests import stated_members
from mycomesh.sync.schema.ledgers import is_ledger
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.storage.large_rows import KEY_BYTES_MAX
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.bundle import Section

__all__ = ["Inbox"]

MISSED_MAX = 4_096  # names that are kept; beyond this, digests reveal what is missing


class Inbox:
    """Applies bundles to one file."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, outbox: Outbox, priority: Priority) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry
        self._site = site
        self._outbox = outbox
        self._priority = priority
        self._free: int | None = None  # bytes of the disk, where tables leave some
        # Tables that this file did not have when a round brought changes of them; no round of theirs has begun since.
        self._missed: set[str] = set()
        # Sites of which a round has left inserts out, by table; no round of the table has begun since.
        self._left_out: dict[str, set[bytes]] = {}
        # `Coverage.loss` of the table of each unit when the last round for it began.
        self._losses: dict[str, object] = {}

    def on_free_space(self, free: int | None) -> None:
        """Take the free space of the disk in bytes, None if it is not known."""
        if not self._priority.settings.floors:
            return
        self._free = free
        text = "rows of other nodes wait: the disk has less free space than free_mb_min of this table, or of areas"
        settings = self._priority.settings
        closed = {
            name: text
            for name, table in self._registry.tables.items()
            if self.is_closed(name) or (table.areas is not None and settings.closes_areas(name, free))
        }
        self._registry.notes.replace(Source.SPACE, closed)

    def is_closed(self, name: str) -> bool:
        """Return True while the disk has less free space than a table leaves."""
        return self._free is not None and self._priority.settings.is_closed(name, self._free)

    def merge(self, batches: Sequence[Incoming], wall_ms: int, budget: WorkBudget, *, live: bool, repair: bool) -> None:
        """Merge as much of some bundles as the budget allows, in order, and record the results in them.

        A live batch that fits into one transaction is not divided between two, because its origin committed it as one.
        `live` and `repair` are as in `Replica.apply`. The caller repeats the call until every bundle is done.

        Raises:
            DecodeError: a value that SQLite cannot store.
            BatchRefusedError: a live batch identifies rows by another policy than this node, or has too many sites.
        """
        retried = False  # at most once in a transaction, because it takes as long as a transaction may
        begun = False
        self._outbox.begin_retries()
        for batch in batches:
            if batch.done:
                continue
            if begun and not batch.begun and budget.room < batch.weight <= TRANSACTION_WEIGHT_MAX:
                break
            if not batch.begun:
                self._begin(batch, live=live)
            begun = True
            retried |= self._merge(batch, wall_ms, budget, live=live, repair=repair)
            if not batch.done:
                break
        if self._outbox.has_retries and not retried:
            self._outbox.run_retries(budget)
        self._store.accounts.write(wall_ms)

    def _begin(self, batch: Incoming, *, live: bool) -> None:
        for certificate in batch.bundle.signers if self._registry.policies.signed else ():
            self._store.signers.learn(certificate)
        batch.applied.crowded += limit_sites(self._store, batch.bundle, live=live)
        count, sites = limit_decisions(self._registry.tables.get(SCHEMA_TABLE), batch.bundle, live=live)
        batch.applied.crowded += count
        if sites:
            self._left_out.setdefault(SCHEMA_TABLE, set()).update(sites)
        written = [
            (unit, last_hlc(section, unit.own_site(self._site.id)))
            for section in batch.bundle.sections
            if (unit := self._registry.unit(section.table)) is not None
        ]
        if self._site.renew_if_behind(self._registry.tables, written):
            batch.applied.renewed = True
        batch.begin(self._registry.tables)

    def _merge(self, batch: Incoming, wall_ms: int, budget: WorkBudget, *, live: bool, repair: bool) -> bool:
        """Merge the next sections of one bundle; return whether rows were retried."""
        applied, retried = batch.applied, False
        while batch.sections and not budget.spent:
            section = batch.sections[0]
            table = self._table_for(section, applied, wall_ms, budget, live=live)
            if table is None:
                batch.sections.popleft()
                continue
            # The policy may change between two parts of a section, since a fact or a person may set it.
            if batch.checked is not table and has_other_key_form(table, section.rest):
                if live:
                    raise BatchRefusedError(
                        f"{section.table}: identifies rows by another policy than this node; rounds bring them once both know it"
                    )
                applied.withheld = True
                batch.sections.popleft()
                continue
            if batch.checked is not table:
                applied.unsigned += section.prove(table)
            batch.checked = table
            sites, stated = section.sites, None
            if section.table == SCHEMA_TABLE:
                stated = stated_members(section.rest.groups)
            merged = self._merge_section(table, section, wall_ms, budget, repair=repair)
            applied.merged.add(merged)
            applied.full += self._store.parked_room.take_news()
            self._outbox.note_full()
            self._note_left_out(section, merged)
            if (
                merged.changes
                and section.table == SCHEMA_TABLE
                and not (stated and self._catalog.learn_interests(stated))
            ):
                self._apply_facts(applied, wall_ms, budget)
                retried = True
            batch.changed |= merged.changes > merged.parked_new
            if any(table.coverage.staged.has_gap(site) for site in sites) and section.table not in applied.gaps:
                applied.gaps.append(section.table)
            if not section.done:
                break
            batch.sections.popleft()
            self._note_early(table, sites)
            # Not before the last part, because each retry starts a pass over all refused rows again.
            if batch.changed and section.table != SCHEMA_TABLE:
                self._outbox.retry(table)
            batch.changed = False
        return retried

    def _note_left_out(self, section: SectionMerge, merged: Merged) -> None:
        """Note the sites of which a part of a section has left changes out, so that the end of a round does not cover them."""
        if merged.left_out or merged.large_keys:
            self._left_out.setdefault(section.table, set()).update(section.left_out)
        if merged.large_keys:
            nodes = ", ".join(site[:4].hex() for site in sorted(section.left_out)[:FULL_SHOWN])
            line = f"rows of {nodes} whose primary key takes more than {KEY_BYTES_MAX >> 10} KiB are left out"
            self._registry.notes.put(section.table, line, Source.KEYS)

    def _table_for(
        self, section: SectionMerge, applied: Applied, wall_ms: int, budget: WorkBudget, *, live: bool
    ) -> Table | None:
        """Return the table that takes a section in; None if the section is left out."""
        if is_ledger(section.table) and self._registry.behind:
            self._apply_facts(applied, wall_ms, budget)  # perhaps nobody has tried to follow them yet
        if not self._takes(section):
            return None
        if self.is_closed(section.table):
            applied.withheld = not live
            return None
        table = self._registry.table_of(section.table)
        if table is None or (is_ledger(section.table) and self._registry.behind):
            self._record_missed(section.table, applied, live=live)
            return None
        return table

    def _merge_section(
        self, table: Table, section: SectionMerge, wall_ms: int, budget: WorkBudget, *, repair: bool
    ) -> Merged:
        self._store.clock.witness(section.top)
        try:
            return section.step(table, wall_ms, budget, repair=repair)
        except (TypeError, OverflowError) as error:
            raise DecodeError(f"{section.table}: a value that SQLite cannot store: {error}") from error

    def _record_missed(self, name: str, applied: Applied, *, live: bool) -> None:
        applied.unknown.append(name)
        if (
            not live and len(self._missed) < MISSED_MAX
        ):  # a live batch is not part of a round, whose end would cover these changes
            self._missed.add(name)

    def begin_round(self, name: str) -> bool:
        """Note that a round for a table begins; return whether coverage of it was given up since the last one began."""
        self._missed.discard(name)
        self._left_out.pop(name, None)
        table = self._registry.table_of(name)
        if table is None or self._losses.get(name) is table.coverage.loss:
            return False
        self._losses[name] = table.coverage.loss
        return True

    def take_vectors(self, vectors: Mapping[str, Vector], watermarks: Mapping[str, Vector], wall_ms: int) -> list[str]:
        """Cover what a sender covers, at the end of a complete round; return the tables whose vectors have advanced.

        The part of a vector beyond this moment is left out, as writes that are yet to come would count as known. The clock
        witnesses the rest, so that later local writes come after tombstones that the sender has collected.

        Args:
            vectors: the sender's vectors, by table.
            watermarks: the sender's GC watermarks of these tables (`tombstones`), which go with the vectors.
            wall_ms: wall time of this node.
        """
        advanced = []
        last = self._store.clock.last
        bound = max(last, hlc_from_ms(wall_ms))
        with self._store.transaction():
            for name in sorted(vectors):
                unit = self._registry.unit(name)
                if unit is None or not self._registry.keeps(name) or self._has_missed(unit):
                    continue
                table, own = unit.table, unit.own_site(self._site.id)
                gained = [
                    (site, (after, min(upto, last if site == own else bound)))
                    for site, (after, upto) in vectors[name].missing_from(unit.vector)
                    if unit.has_site(site)
                ]
                sites = [site for site, _ in gained]
                refused = refused_sites(self._store, sites, sites if unit.area is not None else ())
                refused |= self._left_out.get(name, set())
                gained = [(site, window) for site, window in gained if window[0] < window[1] and site not in refused]
                for site, (after, upto) in gained:
                    if table.areas is not None and unit.area is not None:
                        table.areas.learn(site, unit.area)
                    table.coverage.cover(site, after, upto)
                    self._store.clock.witness(upto)
                if gained:
                    advanced.append(name)
                    self._note_early(table, [site for site, _ in gained])
                if name in watermarks:
                    tombstones.raise_watermarks(unit, watermarks[name])
        return advanced

    def _note_early(self, table: Table, sites: Iterable[bytes]) -> None:
        """Have rows from before the mesh compared with this file's own, once those of another site are covered."""
        if table.spec.lacks_primary_key and any(is_early(table.coverage.staged.top(site)) for site in sites):
            self._outbox.look_for_twins(table)

    def _has_missed(self, unit: Unit) -> bool:
        """Return True if the round under way brought something that the file lacks, or began before coverage was given up."""
        return unit.name in self._missed or self._losses.get(unit.name) is not unit.table.coverage.loss

    def _takes(self, section: SectionMerge) -> bool:
        """Return False for a section of an area that this node does not keep, or with a site of another unit.

        The sites that an area has are recorded.
        """
        if not self._registry.keeps(section.table):
            return False
        unit = self._registry.unit(section.table)
        areas = None if unit is None else unit.table.areas
        if unit is None or areas is None:
            return True
        rest = section.rest
        sites = dict.fromkeys([site for site, _, _ in rest.ranges] + [group.site for group in rest.groups])
        if unit.area is None:
            return all(areas.of_site(site) is None for site in sites)
        return all(areas.learn(site, unit.area) for site in sites)

    def renew_site_if_behind(self, vectors: Mapping[str, Vector]) -> bool:
        """Continue under a new site if a peer covers more of this one than the file; return whether it does."""
        units = ((self._registry.unit(name), vector) for name, vector in vectors.items())
        tops = [(unit, vector.top(unit.own_site(self._site.id))) for unit, vector in units if unit is not None]
        if not self._site.is_behind(tops):
            return False  # without taking the write lock
        with self._store.transaction():
            return self._site.renew_if_behind(self._registry.tables, tops)

    def note_shown(self) -> None:
        """Note that from here on a peer may have writes of this run."""
        self._site.shown = True

    def confirm_equal(self, names: Iterable[str], peer: bytes) -> None:
        """Note that a peer has these tables equal."""
        for name in names:
            unit = self._registry.unit(name)
            if unit is not None:
                self._site.confirm(unit, peer)

    def _apply_facts(self, applied: Applied, wall_ms: int, budget: WorkBudget) -> None:
        """Apply the definitions and decisions that a merge has brought to the tables of the file."""
        sections: list[Section] = []
        self._catalog.apply_facts(self._outbox.table_drainer(wall_ms, sections))
        self._outbox.retry_rebuilt()
        self._outbox.run_retries(budget)
        if sections:
            self._store.durable()
            applied.published += self._priority.batches(sections)
