"""Status of a replica: its tables with rows, hashes, conflicts and parked rows. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mycomesh.sync.admin.limits import near_limit
from mycomesh.sync.capture import table_scan
from mycomesh.sync.crdt.hlc import SITE_PREFIX, ms_from_hlc
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.replication.scrub import Scrubbed
from mycomesh.sync.schema.fact_limits import stated_by
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.registry import DEFINITIONS, Registry
from mycomesh.sync.storage.accounts import Account
from mycomesh.sync.storage.horizon import Horizon
from mycomesh.sync.storage.pending_log import pending_name
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.units import NO_AREA, unit_name

__all__ = ["ReplicaStatus", "TableStatus", "read_status"]


WITHHELD = "this node may not write it: what it writes stays here, and others refuse it"
AREAS_NAMED = 3  # of a note


@dataclass(frozen=True, slots=True)
class TableStatus:
    """Status of one table. `digest` is hexadecimal; `note` says what is wrong with the table, "" for nothing.

    Rows older than `horizon_ms` (Unix) are gone; 0 without a rule. `cut` rows have gone so, and `refused` came too late.
    `areas_by` is the column that cuts the table into areas, "" if it is not cut.
    """

    name: str
    rows: int
    digest: str
    conflicts: int
    parked: int
    note: str = ""
    horizon_ms: int = 0
    cut: int = 0
    refused: int = 0
    areas_by: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """Status of the replica. `pending` counts writes without a stamp, and rows of tables that are not logged yet."""

    path: str
    site: str
    clock_ms: int
    tables: tuple[TableStatus, ...]
    pending: int
    scrubbed: Scrubbed | None  # the last complete pass, None before the first
    warning: str = ""  # which limit comes near
    accounts: tuple[tuple[str, Account, str], ...] = ()  # as `Accounts.read` returns them
    stated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # definitions, as `stated_by` returns them


def read_status(
    store: Store, registry: Registry, site: bytes, scrubbed: Scrubbed | None, rights: Rights
) -> ReplicaStatus:
    """Return the status of the replica."""
    db = store.db
    tables, notes = [], registry.notes.by_name()
    own = [number for number, each in enumerate(store.sites) if each[:SITE_PREFIX] == site[:SITE_PREFIX]]
    pending, scanned = 0, table_scan.active_ids(db)
    for name, table in sorted(registry.tables.items()):
        waiting = db.execute(f"SELECT count(*) FROM {pending_name(table.table_id)}").fetchone()[0]
        rows = table.rows.count()  # once: it reads an index of the table
        if table.table_id in scanned:  # rows from before the table was replicated get entries too
            waiting = max(waiting, rows - table.log.count)
        pending += waiting
        if name == SCHEMA_TABLE:
            continue
        conflicts = db.execute(
            "SELECT count(*) FROM mycomesh_conflicts WHERE table_name = ?", (table.spec.name,)
        ).fetchone()[0]
        parked = db.execute("SELECT count(*) FROM mycomesh_parked WHERE id = ?", (table.table_id,)).fetchone()[0]
        note = notes.get(name, "")
        note = note or _withheld(table, own, rights)
        status = TableStatus(table.spec.name, rows, table.log.digest.hex(), conflicts, parked, note)
        if table.areas is not None:
            status = replace(status, areas_by=table.areas_by)
        tables.append(status if table.coverage.horizon is None else _retained(status, table.coverage.horizon))
    tables += [TableStatus(name, 0, "", 0, 0, note) for name, note in notes.items() if name not in registry.tables]
    clock_ms = ms_from_hlc(store.clock.last)
    warning = near_limit(store, registry)
    accounts = tuple(store.accounts.read())
    stated = stated_by(registry.tables.get(SCHEMA_TABLE), DEFINITIONS)
    return ReplicaStatus(store.path, site.hex(), clock_ms, tuple(tables), pending, scrubbed, warning, accounts, stated)


def _retained(status: TableStatus, horizon: Horizon) -> TableStatus:
    """Return the status of a table whose rows go with time."""
    figures, note = horizon.figures, status.note
    if not note and figures.untimed:
        note = f"{figures.untimed} row(s) have no time in {horizon.rule.by!r}, and stay"
    if not note and horizon.is_pinned:
        note = "keeps less than the mesh, on this node alone"
    if not note and horizon.is_restoring:
        note = "rows that this node had removed earlier than the mesh come back from other nodes"
    return replace(status, note=note, horizon_ms=horizon.bound_ms, cut=figures.cut, refused=figures.refused)


def _withheld(table: Table, own: Sequence[int], rights: Rights) -> str:
    """Return the note of a table whose log has entries of sites of this node, by number, that other nodes refuse; "" without."""
    name, areas = table.spec.folded, table.areas
    if not rights.is_limited(rights.own):
        return ""
    found = {number: None if areas is None else areas.of(number) for number in own}
    forbidden = {
        number: area for number, area in found.items() if not rights.may_write(rights.own, unit_name(name, area))
    }
    first = {number: table.log.scan(number, -1, 1) for number in forbidden}
    held = [area for number, area in forbidden.items() if first[number] and first[number][0][0] == number]
    named = sorted({area for area in held if area is not None and area != NO_AREA})
    if not held or len(named) < len(set(held)):
        return WITHHELD if held else ""
    more = f" and {len(named) - AREAS_NAMED} more" if len(named) > AREAS_NAMED else ""
    listed = ", ".join(named[:AREAS_NAMED]) + more
    return f"this node may not write area {listed}: what it writes there stays here, and others refuse it"
