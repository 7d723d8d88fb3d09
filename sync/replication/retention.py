"""Retention: moves the horizons of tables with time, and removes what lies below them in short transactions (ADR 55).

Each table is looked at once for each step of its horizon, and not at all if its oldest row is known to be younger. Rows that a
write has put below the horizon are removed soon after the write.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from mycomesh.sync.crdt.hlc import EARLY_MS_MAX, SITE_PREFIX, hlc_from_ms
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.merge.cut import CUT_ROWS_MAX, HIDDEN, READ_ROWS_MAX, Place, cut, look
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.catalog import Catalog
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.notes import Source
from mycomesh.sync.schema.policy import Policies
from mycomesh.sync.schema.retain import ERA_MAX, adopted_fact, end_fact, era_after, retain_fact, retain_name
from mycomesh.sync.sqlite.table_spec import Row, encode_key
from mycomesh.sync.storage.horizon import AGE_MS_MAX, ASTRAY_MS, Horizon, Likeness, RetainRule
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.storage.unit import Unit
from mycomesh.sync.wire.units import table_of, unit_name

__all__ = ["FREE_PAGES_MIN", "VACUUM_PAGES", "Retention", "RetentionStep"]

# Pages that one transaction gives back to the file system, and free pages that a file keeps for its next rows.
VACUUM_PAGES = 64
FREE_PAGES_MIN = 256
_INCREMENTAL = 2  # PRAGMA auto_vacuum
_CLOCK = "retain clock"  # in mycomesh_meta: the last time, in Unix milliseconds, that horizons have moved by


@dataclass(slots=True)
class RetentionStep:
    """The outcome of one step: batches to publish, rows that went, and the table that has nothing older left.

    stated_by: the first 8 bytes of the id of another node whose new rule has taken these rows, empty for an older or an own one.
    """

    published: list[bytes] = field(default_factory=list)
    rows: int = 0
    ended: str = ""
    stated_by: bytes = b""


@dataclass(slots=True)
class _Pass:
    """A look at a whole table."""

    ms: int  # the horizon, and the pin, when it began
    pin_ms: int
    place: Place | None = field(default_factory=Place)
    found: deque[Row] = field(default_factory=deque)
    oldest_ms: int | None = None
    untimed: int = 0
    rows: int = 0


def _horizon_of(table: Table) -> Horizon | None:
    return table.coverage.horizon


class Retention:
    """The horizons of one file."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, outbox: Outbox) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry
        self._site = site
        self._outbox = outbox
        self._followed: Policies | None = None  # what `refresh` has last followed
        self._lacking: dict[str, tuple[RetainRule, str]] = {}  # rules whose column this file lacks, and what that means
        self._retained: list[Table] = []  # the tables with a horizon, by name
        self._to_tell: set[str] = set()  # tables whose horizon is beyond what a rule that has come says
        self._passes: dict[str, _Pass] = {}
        self._fresh: set[str] = set()  # tables that were not looked at under their rule yet
        self._checked: set[int] = set()  # ids of tables that were looked at in this run
        self._freed = True  # whether free pages may have appeared
        # Correction of this machine's clock in milliseconds; None while another clock contradicts it and no third one decides.
        self.offset_ms: int | None = 0
        store.finish_with(self._save)

    # ---- rules

    def refresh(self) -> None:
        """Follow the rules of the mesh, as far as they fit the tables of this file."""
        policies = self._registry.policies
        if self._followed is policies:  # each pass over the schema reads them again
            return
        self._followed = policies
        if not policies.retain and not self._retained and not self._lacking:
            return
        lacking = {}
        tables = [table for name, table in sorted(self._registry.tables.items()) if name != SCHEMA_TABLE]
        for table in tables:
            rule = policies.retain.get(table.spec.folded)
            if rule is not None and rule.by and rule.by not in table.columns.local_names:
                note = f"its rows stay: they go by the time in {rule.by!r}, which this file lacks"
                lacking[table.spec.folded] = rule, note
                rule = None
            self._follow(table, rule)
        self._lacking = lacking
        self._registry.notes.replace(Source.RETAIN, {name: note for name, (_, note) in lacking.items()})
        self._retained = [table for table in tables if table.coverage.horizon is not None]
        names = {table.spec.folded for table in self._retained}
        self._passes = {name: each for name, each in self._passes.items() if name in names}

    def _follow(self, table: Table, rule: RetainRule | None) -> None:
        horizon = table.coverage.horizon
        if rule is None:
            self._passes.pop(table.spec.folded, None)
            if horizon is not None and horizon.pin.dropped:  # until repairs have brought what only this file lacks
                horizon.rule = RetainRule(AGE_MS_MAX, era=horizon.rule.era)
                horizon.restart()
                table.coverage.on_horizon(horizon)
            elif horizon is not None:
                table.coverage.on_horizon(None)
            return
        if horizon is None:
            horizon = Horizon(self._store, table.table_id, rule, self._site.id[:SITE_PREFIX])
            horizon.load()
            if not horizon.cut_ms:
                self._fresh.add(table.spec.folded)
        elif horizon.rule != rule:
            self._fresh.add(table.spec.folded)
            is_next = horizon.rule.era == rule.era
            horizon.rule = rule
            self._look_again(table, horizon)
            if not is_next:
                horizon.restart()
            elif horizon.ms > rule.floor_ms:
                self._to_tell.add(table.spec.folded)
        horizon.adopted = self._registry.policies.adopted
        horizon.origin = None if table.areas is None else table.areas.origin_of
        table.coverage.on_horizon(horizon)

    def _look_again(self, table: Table, horizon: Horizon) -> None:
        horizon.looked.oldest_ms = None
        self._checked.discard(table.table_id)
        self._passes.pop(table.spec.folded, None)

    def retained(self) -> list[Table]:
        """Return the tables with a horizon, by name."""
        self.refresh()
        return self._retained

    def ruled(self) -> list[Table]:
        """Return the tables with a horizon or a rule, by name, also those whose rule this file cannot follow."""
        horizons = {table.spec.folded for table in self.retained()}
        tables = sorted(self._registry.tables.items())
        return [table for name, table in tables if name in horizons or name in self._lacking]

    def lacking(self, table: Table) -> tuple[RetainRule, str] | None:
        """Return the rule of a table whose column this file lacks, and what that means; None without."""
        self.refresh()
        return self._lacking.get(table.spec.folded)

    def is_cutting(self, name: str) -> bool:
        """Return True while rows of the table of a unit may be left that are older than the horizon of this file."""
        table = self._registry.tables.get(table_of(name))
        horizon = None if table is None else table.coverage.horizon
        return horizon is not None and horizon.is_behind

    def _save(self) -> None:
        for table in self._retained:
            horizon = table.coverage.horizon
            if horizon is not None and horizon.changed:
                horizon.save()

    @property
    def clock_ms(self) -> int:
        """The last time that horizons have moved by, in Unix milliseconds; 0 before the first."""
        found = self._store.meta(_CLOCK)
        return found if isinstance(found, int) else 0

    def decide(self, table: Table, rule: RetainRule | None, wall_ms: int) -> None:
        """Decide for every replica how long rows of a table are kept; None: for ever. `wall_ms` is the machine's time."""
        horizon = table.coverage.horizon
        with self._store.transaction():
            name = retain_name(table.spec.folded)
            found = self._store.db.execute(f"SELECT sql FROM {SCHEMA_TABLE} WHERE name = ?", (name,)).fetchone()
            era = era_after(found[0] if found and isinstance(found[0], str) else None)
            if rule is None:
                ends = table.spec.folded in self._registry.policies.retain
                self._catalog.decide(end_fact(table.spec.folded, min(era + ends, ERA_MAX)))
                return
            floor_ms = 0 if horizon is None or horizon.rule.era != era else horizon.ms
            self._catalog.decide(retain_fact(table.spec.folded, replace(rule, floor_ms=floor_ms, era=era)))
            if self.offset_ms is None:
                return
            wall_ms += self.offset_ms
            if not self.clock_ms:  # a person is here, who would see a wrong clock
                self._store.meta_set(_CLOCK, wall_ms)
            if not rule.by:
                self._state_adoptions(table, wall_ms, b"")

    def pin(self, table: Table, age_ms: int) -> None:
        """Keep rows of a table for less time in this file alone; 0 ends that.

        Raises:
            PolicyError: the mesh keeps all rows of the table, or the pin would keep more than the mesh.
        """
        self.refresh()
        horizon = table.coverage.horizon
        if horizon is None:
            name = table.spec.name
            raise PolicyError(
                f"the mesh keeps all rows of {name}; decide first for the mesh: mycomesh retain {name} AGE"
            )
        if age_ms >= horizon.rule.age_ms:
            raise PolicyError(f"the mesh keeps rows of {table.spec.name} for less time than that; give a shorter one")
        with self._store.transaction():
            if age_ms:
                horizon.pin.age_ms, horizon.changed = age_ms, True
            else:
                horizon.end_pin()
        table.coverage.on_horizon(horizon)
        self._look_again(table, horizon)

    # ---- what other nodes have

    def on_peer(self, unit: Unit, likeness: Likeness, peer: bytes, *, keeps: bool) -> None:
        """Take what a comparison of a unit with a peer (16-byte node id), which keeps the unit or not, has shown."""
        horizon = unit.table.coverage.horizon
        if horizon is None:
            return
        if likeness is Likeness.HOLDS and keeps:
            horizon.on_holder(peer, unit.vector)
            if horizon.pin.waiting:
                horizon.pin.waiting, horizon.pin.cut_ms = False, 0
                self._look_again(unit.table, horizon)
        elif likeness is Likeness.COVERS:
            horizon.on_pinned_peer(peer)

    @property
    def is_restoring(self) -> bool:
        """True while rows that a pin had removed from some table may still be missing."""
        return any(horizon is not None and horizon.is_restoring for horizon in map(_horizon_of, self._retained))

    def on_equal(self, names: Collection[str]) -> None:
        """Note that a peer has the same entries of these units, at the same horizons."""
        for table in self._retained:
            horizon = table.coverage.horizon
            if horizon is None or not horizon.is_restoring:
                continue
            areas, name = table.areas, table.spec.folded
            sites = [
                site
                for site in sorted(horizon.pin.dropped)
                if unit_name(name, None if areas is None else areas.of_site(site)) in names
            ]
            if not sites:
                continue
            with self._store.transaction():
                horizon.on_equal(sites)
                horizon.save()
            if name not in self._registry.policies.retain and not horizon.pin.dropped:
                table.coverage.on_horizon(None)
                self._followed = None

    # ---- work

    def turn_back(self, wall_ms: int) -> list[str]:
        """Move back the horizons that a wrong clock has moved too far; return the tables, by name here.

        `wall_ms` is a time that another clock confirms, or that of the only member.
        """
        found = []
        for table in self.retained():
            horizon = table.coverage.horizon
            assert horizon is not None
            if horizon.is_astray(wall_ms):
                with self._store.transaction():
                    horizon.turn_back(wall_ms)
                table.coverage.on_horizon(horizon)
                self._look_again(table, horizon)
                self._to_tell.discard(table.spec.folded)
                found.append(table.spec.name)
        if found or self.clock_ms > wall_ms + ASTRAY_MS:
            with self._store.transaction():
                self._store.meta_set(_CLOCK, wall_ms)
        return found

    def next_due(self, wall_ms: int) -> int | None:
        """Return when the next step is due, a Unix time in milliseconds: not after `wall_ms` if now; None without a rule."""
        dues = []
        for table in self.retained():
            horizon = table.coverage.horizon
            assert horizon is not None
            unchecked = horizon.bound_ms > 0 and table.table_id not in self._checked
            busy = table.spec.folded in self._passes or horizon.looked.suspects or unchecked or horizon.is_behind
            dues.append(wall_ms if busy else horizon.next_due)
        if not dues:
            return None
        return wall_ms if self._freed else min(dues)

    def step(self, wall_ms: int) -> RetentionStep:
        """Move the horizons to a time, and do a part of the first work that waits, in one transaction.

        `wall_ms` is a time that may be trusted: rows that were removed do not come back.

        Raises:
            DatabaseError: the next call repeats the step.
        """
        step = RetentionStep()
        tables = self.retained()
        for table in tables:
            self._move(table, wall_ms)
        for table in tables:
            horizon = table.coverage.horizon
            if horizon is not None and horizon.looked.suspects:
                self._cut_suspects(table, horizon, wall_ms, step)
                return step
        for table in tables:
            if table.spec.folded in self._passes:
                self._continue(table, self._passes[table.spec.folded], wall_ms, step)
                return step
        if self._freed:
            self._freed = self._vacuum()
        return step

    def _move(self, table: Table, wall_ms: int) -> None:
        """Move the horizon of a table, and begin a look at it if rows may lie below; a horizon beyond its rule is stated."""
        horizon = table.coverage.horizon
        assert horizon is not None
        moved = horizon.move(wall_ms)
        if moved:
            table.coverage.on_horizon(horizon)
            with self._store.transaction():
                self._store.meta_set(_CLOCK, wall_ms)
                # So much time has passed, whatever this machine's clock says: what is written from here on is younger.
                self._store.clock.witness(hlc_from_ms(horizon.bound_ms))
        if table.spec.folded in self._to_tell:
            self._tell(table, horizon, wall_ms)
        name, due = table.spec.folded, moved or horizon.is_behind or table.table_id not in self._checked
        if not due or name in self._passes or not horizon.bound_ms:
            return
        oldest_ms = horizon.looked.oldest_ms
        is_young = oldest_ms is not None and oldest_ms >= horizon.bound_ms and table.table_id in self._checked
        if is_young and not table.held.any():
            with self._store.transaction():
                horizon.settle(horizon.ms, horizon.pin.ms)
            table.coverage.on_horizon(horizon)
            return
        if not horizon.rule.by:
            with self._store.transaction():
                self._state_adoptions(table, wall_ms, self._site.id[:SITE_PREFIX])
        self._checked.add(table.table_id)
        current = self._passes[name] = _Pass(horizon.ms, horizon.pin.ms)
        if is_young:  # but there are rows that are not shown
            current.place, current.oldest_ms, current.untimed = HIDDEN, oldest_ms, horizon.figures.untimed

    def _tell(self, table: Table, horizon: Horizon, wall_ms: int) -> None:
        """Let a rule begin at the horizon that this file had reached under an earlier one: others may not have known that."""
        self._to_tell.discard(table.spec.folded)
        if horizon.ms > max(horizon.rule.due(wall_ms), horizon.rule.floor_ms):
            with self._store.transaction():
                self._catalog.decide(retain_fact(table.spec.folded, replace(horizon.rule, floor_ms=horizon.ms)))

    def _state_adoptions(self, table: Table, wall_ms: int, node: bytes) -> None:
        """Say since when the rows of early sites count, of those that begin with `node` and of which nobody has said it."""
        end, log = hlc_from_ms(EARLY_MS_MAX), table.log
        known = self._registry.policies.adopted
        for number, site in enumerate(self._store.sites):
            origin = site if table.areas is None else table.areas.origin_of(site)
            first = log.scan(number, 0, 1) if site.startswith(node) and not {site, origin} & known.keys() else []
            if any(at == number and hlc < end for at, hlc, _, _ in first):
                self._catalog.decide(adopted_fact(site, wall_ms))

    def _cut_suspects(self, table: Table, horizon: Horizon, wall_ms: int, step: RetentionStep) -> None:
        keys = list(horizon.looked.suspects)[:READ_ROWS_MAX]
        self._cut(table, list(dict.fromkeys(table.locate_many(keys))), wall_ms, step)
        for key in keys:
            horizon.looked.suspects.pop(key, None)

    def _continue(self, table: Table, current: _Pass, wall_ms: int, step: RetentionStep) -> None:
        horizon = table.coverage.horizon
        assert horizon is not None
        if current.found:
            rows = [current.found.popleft() for _ in range(min(CUT_ROWS_MAX, len(current.found)))]
            try:
                gone, left = self._cut(table, rows, wall_ms, step)
            except BaseException:
                current.found.extendleft(reversed(rows))
                raise
            current.found.extendleft(reversed(left))
            current.rows += gone
            if gone + len(left) < len(rows):  # an update has made the others younger, for a while
                current.oldest_ms = current.ms
            return
        if current.place is not None:
            with self._store.reading():
                looked = look(table, current.place)
            current.found.extend(looked.rows)
            current.place = looked.following
            current.untimed += looked.untimed
            if looked.oldest_ms is not None:
                current.oldest_ms = min(
                    looked.oldest_ms, looked.oldest_ms if current.oldest_ms is None else current.oldest_ms
                )
            return
        del self._passes[table.spec.folded]
        with self._store.transaction():
            horizon.settle(current.ms, current.pin_ms)
            horizon.figures.untimed = current.untimed
        if horizon.rule.by:
            horizon.looked.oldest_ms = current.oldest_ms
        table.coverage.on_horizon(horizon)
        step.ended, step.rows = table.spec.folded, current.rows
        if table.spec.folded in self._fresh:
            self._fresh.discard(table.spec.folded)
            step.stated_by = self._stated_by(table)

    def _stated_by(self, table: Table) -> bytes:
        """Return the first bytes of the id of the other node that has stated the rule of a table, as far as anybody can tell."""
        facts = self._registry.tables[SCHEMA_TABLE]
        name = encode_key(facts.spec, (retain_name(table.spec.folded),))
        stamps = [(hlc, self._store.site(number)) for number, hlc, *_ in facts.log.entries_of_row(name)]
        member = max(stamps, default=(0, b""))[1][:SITE_PREFIX]
        return b"" if member == self._site.id[:SITE_PREFIX] else member

    def _cut(self, table: Table, rows: list[Row], wall_ms: int, step: RetentionStep) -> tuple[int, list[Row]]:
        done: list[tuple[int, list[Row]]] = []
        step.published += self._outbox.write_within_budget(wall_ms, lambda _: done.append(cut(table, rows)))
        if done[-1][0]:
            self._freed = True
            self._outbox.retry(table)  # parked rows may fit now
        return done[-1]

    def _vacuum(self) -> bool:
        """Give some free pages back to the file system if the file allows it; return whether more can be."""
        db = self._store.db
        with self._store.translated():
            if db.execute("PRAGMA auto_vacuum").fetchone()[0] != _INCREMENTAL:
                return False  # a file with full auto_vacuum gives them back at each commit; any other keeps them for its rows
            if db.execute("PRAGMA freelist_count").fetchone()[0] <= FREE_PAGES_MIN:
                return False
        with self._store.transaction():
            db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
        return True
