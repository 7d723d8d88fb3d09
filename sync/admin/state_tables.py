"""The node's state as tables in its own file: `mycomesh_status`, `mycomesh_peers` and `mycomesh_tables`.

Owns their columns and the writing of them. What always holds: nothing is written that says the same as before, except that
figures which move all the time (round trips, bytes) are renewed beside what has changed; each row says in `as_of` when it was
written; the tables are no part of what is captured or replicated. It must not know when it is called, nor who reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mycomesh.sync.merge.records import time_text
from mycomesh.sync.replication.scrub import Scrub
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.storage.pending_log import pending_name
from mycomesh.sync.storage.store import Store

__all__ = ["NodeState", "PeerState", "StateTables"]

FIGURES_MS = 60_000  # figures beside an unchanged row are not renewed more often
_COLUMNS = {
    "mycomesh_status": (
        "phase, mesh, mesh_id, node, node_id, site, pid, port, pending, linked, members, scrub_found, scrubbed_at,"
        " clock_offset_ms"
    ),
    "mycomesh_peers": (
        "node_id, name, roles, state, equal, address, rtt_ms, offset_ms, sent_bytes, received_bytes, seen_at"
    ),
    "mycomesh_tables": "name, rows, hash, conflicts, parked, equal_on, linked, note",
}


@dataclass(frozen=True, slots=True)
class PeerState:
    """One member, as `mycomesh_peers` shows it: times ISO 8601 in UTC ("" for never), milliseconds, bytes since the link."""

    node_id: str
    name: str
    roles: str
    state: str
    equal: bool | None
    address: str
    rtt_ms: float | None
    offset_ms: float | None
    sent_bytes: int
    received_bytes: int
    seen_at: str

    def row(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """What a change of makes news, and the figures that come along."""
        equal = None if self.equal is None else int(self.equal)
        return (
            (self.node_id, self.name, self.roles, self.state, equal, self.address),
            (self.rtt_ms, self.offset_ms, self.sent_bytes, self.received_bytes, self.seen_at),
        )


@dataclass(frozen=True, slots=True)
class NodeState:
    """What the mesh side knows. `equal_on`: by folded table name, on how many of the linked peers it is equal."""

    phase: str
    mesh: str
    mesh_id: str
    node: str
    node_id: str
    pid: int
    port: int
    clock_offset_ms: float | None = None
    peers: tuple[PeerState, ...] = ()
    linked: int = 0
    equal_on: Mapping[str, int] = field(default_factory=dict)


# What a table says: (what a change of makes news, figures that come along), by its first value.
_Rows = dict[Any, tuple[tuple[Any, ...], tuple[Any, ...]]]


class StateTables:
    """The three tables of one file."""

    def __init__(self, store: Store, catalog: Catalog, site: Site, scrub: Scrub) -> None:
        self._store = store
        self._catalog = catalog
        self._site = site
        self._scrub = scrub
        self._changes = -1  # the connection's, when it was last written
        self._peers: tuple[Any, ...] | None = None
        self._told: dict[str, dict[Any, tuple[tuple[Any, ...], int]]] = {}

    def refresh(self, state: NodeState, wall_ms: int) -> bool:
        """Write what has changed, in one transaction; returns whether anything has.

        Raises:
            DatabaseBusyError: another connection holds the write lock; nothing was changed.
        """
        material = (
            state.phase,
            tuple(peer.row()[0] for peer in state.peers),
            tuple(sorted(state.equal_on.items())),
            state.linked,
            self._found(),
        )
        if material == self._peers and int(self._store.db.total_changes()) == self._changes:
            return False
        rows: dict[str, _Rows] = {
            "mycomesh_status": {0: self._status(state)},
            "mycomesh_peers": {peer.node_id: peer.row() for peer in state.peers},
            "mycomesh_tables": self._tables(state),
        }
        news = {name: self._news(name, rows[name], wall_ms) for name in rows}
        gone = {name: self._told.get(name, {}).keys() - rows[name].keys() for name in rows}
        wrote = any(news.values()) or any(gone.values()) or not self._told
        if wrote:
            self._write(rows, news, gone, wall_ms)
        self._peers, self._changes = material, int(self._store.db.total_changes())
        return wrote

    def _status(self, state: NodeState) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        db = self._store.db
        pending = sum(
            db.execute(f"SELECT count(*) FROM {pending_name(table.table_id)}").fetchone()[0]
            for _, table in sorted(self._catalog.tables.items())
        )
        head = (
            state.phase,
            state.mesh,
            state.mesh_id,
            state.node,
            state.node_id,
            self._site.id.hex(),
            state.pid,
            state.port,
        )
        last = self._scrub.last
        ended = None if last is None else time_text(last.ended_ms)
        return (*head, pending, state.linked, len(state.peers) + 1, self._found()), (ended, state.clock_offset_ms)

    def _found(self) -> int | None:
        """How many rows the last scrub found not captured, None before the first."""
        return None if self._scrub.last is None else self._scrub.last.found

    def _tables(self, state: NodeState) -> _Rows:
        db = self._store.db
        found: _Rows = {}
        for name, table in sorted(self._catalog.tables.items()):
            if name == SCHEMA_TABLE:
                continue
            conflicts = "SELECT count(*) FROM mycomesh_conflicts WHERE table_name = ?"
            parked = "SELECT count(*) FROM mycomesh_parked WHERE id = ?"
            found[table.spec.name] = (
                (
                    table.spec.name,
                    table.rows.count(),
                    table.log.digest.hex(),
                    db.execute(conflicts, (table.spec.name,)).fetchone()[0],
                    db.execute(parked, (table.table_id,)).fetchone()[0],
                    state.equal_on.get(fold(table.spec.name), 0),
                    state.linked,
                    self._catalog.notes.get(name, ""),
                ),
                (),
            )
        for name, note in sorted(self._catalog.notes.items()):
            if name not in self._catalog.tables:
                found[name] = ((name, None, None, 0, 0, 0, state.linked, note), ())
        return found

    def _news(self, name: str, rows: _Rows, wall_ms: int) -> list[Any]:
        """The keys of rows that say something else than what the table has, or have figures that are old."""
        told = self._told.get(name, {})
        return [
            key
            for key, (material, figures) in rows.items()
            if key not in told or told[key][0] != material or (figures and wall_ms - told[key][1] >= FIGURES_MS)
        ]

    def _write(self, rows: dict[str, _Rows], news: dict[str, list[Any]], gone: dict[str, Any], wall_ms: int) -> None:
        first = not self._told
        as_of = time_text(wall_ms)
        with self._store.transaction() as db:
            for name, columns in _COLUMNS.items():
                key = columns.partition(",")[0]
                if first or name == "mycomesh_status":
                    if first or news[name]:
                        db.execute(f"DELETE FROM {name}")
                else:
                    db.executemany(f"DELETE FROM {name} WHERE {key} = ?", [(each,) for each in sorted(gone[name])])
                marks = ", ".join("?" * (columns.count(",") + 2))
                values = [(*rows[name][each][0], *rows[name][each][1], as_of) for each in news[name]]
                db.executemany(f"INSERT OR REPLACE INTO {name}({columns}, as_of) VALUES({marks})", values)
        for name, keys in news.items():
            told = self._told.setdefault(name, {})
            for each in gone[name]:
                del told[each]
            told.update({each: (rows[name][each][0], wall_ms) for each in keys})
