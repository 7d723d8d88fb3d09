"""State tables: the node's state for any SQLite client, in `mycomesh_status`, `_peers`, `_tables`, `_trouble` and `_readers`.

A row is written only when it has changed, so that an idle node does not write. Figures that change all the time, such as round
trip times and bytes, do not count as a change. They are updated along with other changes, at most once in `FIGURES_MS` if their
own row is unchanged. `mycomesh_readers` is created with the first reader of the change feed, `mycomesh_mailboxes` with the
first gateway, `mycomesh_area_status` and `mycomesh_area_writers` with the first area. The column `as_of` is the time of the
write. These tables are not captured and not replicated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from mycomesh.sync.merge.records import time_text
from mycomesh.sync.replication.scrub import Scrub
from mycomesh.sync.replication.site import Site
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.storage.pending_log import pending_name
from mycomesh.sync.storage.store import Store

__all__ = ["AreaState", "MailboxState", "NodeState", "PeerState", "ReaderState", "StateTables"]

FIGURES_MS = 60_000  # figures of an otherwise unchanged row are updated at most this often
_COLUMNS = {
    "mycomesh_status": (
        "phase, mesh, mesh_id, node, node_id, site, pid, port, pending, linked, members, scrub_found, scrubbed_at,"
        " clock_offset_ms"
    ),
    "mycomesh_peers": (
        "node_id, name, roles, state, equal, address, rtt_ms, offset_ms, sent_bytes, received_bytes, seen_at"
    ),
    "mycomesh_trouble": "code, text, since",
    "mycomesh_tables": "name, rows, hash, conflicts, parked, equal_on, linked, note",
    "mycomesh_readers": "cursor, table_name, behind, oldest_at, moved_at, idle",
    "mycomesh_area_status": "table_name, area, kept, equal_on, behind, holders, changes, hash",
    "mycomesh_area_writers": "table_name, area, node_id, changes",
    "mycomesh_mailboxes": "mailbox, member, state, refused, behind, note, base, position, waiting, lag_s, bytes",
}
# Tables that a file has once something is in them.
_CREATE = {
    "mycomesh_readers": (
        "CREATE TABLE IF NOT EXISTS mycomesh_readers(cursor TEXT, table_name TEXT, behind INTEGER, oldest_at TEXT,"
        " moved_at TEXT, idle INTEGER, as_of TEXT, PRIMARY KEY(cursor, table_name)) WITHOUT ROWID"
    ),
    "mycomesh_area_status": (
        "CREATE TABLE IF NOT EXISTS mycomesh_area_status(table_name TEXT, area TEXT, kept INTEGER, equal_on INTEGER,"
        " behind INTEGER, holders INTEGER, changes INTEGER, hash TEXT, as_of TEXT, PRIMARY KEY(table_name, area))"
        " WITHOUT ROWID"
    ),
    "mycomesh_area_writers": (
        "CREATE TABLE IF NOT EXISTS mycomesh_area_writers(table_name TEXT, area TEXT, node_id TEXT, changes INTEGER, as_of TEXT,"
        " PRIMARY KEY(table_name, area, node_id)) WITHOUT ROWID"
    ),
    "mycomesh_mailboxes": (
        "CREATE TABLE IF NOT EXISTS mycomesh_mailboxes(mailbox TEXT, member TEXT, state TEXT, refused INTEGER, behind TEXT,"
        " note TEXT, base TEXT, position INTEGER, waiting INTEGER, lag_s REAL, bytes INTEGER, as_of TEXT,"
        " PRIMARY KEY(mailbox, member)) WITHOUT ROWID"
    ),
}


@dataclass(frozen=True, slots=True)
class PeerState:
    """One row of `mycomesh_peers`. `seen_at` is ISO 8601 in UTC, "" for never; bytes are counted since the link began."""

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
        """Return (values whose change causes a write, figures)."""
        equal = None if self.equal is None else int(self.equal)
        return (
            (self.node_id, self.name, self.roles, self.state, equal, self.address),
            (self.rtt_ms, self.offset_ms, self.sent_bytes, self.received_bytes, self.seen_at),
        )


@dataclass(frozen=True, slots=True)
class ReaderState:
    """One row of `mycomesh_readers`: a cursor of the change feed; times are ISO 8601 in UTC.

    behind: about how many changes it has not passed.
    oldest_at: when the first of them was written, None without any.
    idle: it has not moved for so long that it holds nothing back.
    """

    cursor: str
    table: str
    behind: int
    oldest_at: str | None
    moved_at: str
    idle: bool

    def row(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return (values whose change causes a write, figures)."""
        return (self.cursor, self.table, self.behind, self.oldest_at, self.moved_at, int(self.idle)), ()


@dataclass(frozen=True, slots=True)
class AreaState:
    """One row of `mycomesh_area_status`: an area of a table that is cut.

    kept: this node keeps it; if not, what the file has of it goes once enough others have it.
    equal_on, behind: linked peers that keep it and had it equal, or not, when last compared.
    holders: members that keep it. changes, hash: those in this file.
    writers: nodes that have written most of these changes, by the first half of the node id, with how many: rows of
        `mycomesh_area_writers`.
    """

    table: str
    area: str
    kept: bool
    equal_on: int
    behind: int
    holders: int
    changes: int
    hash: str
    writers: tuple[tuple[str, int], ...] = ()

    def row(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return (values whose change causes a write, figures)."""
        state = (self.table, self.area, int(self.kept), self.equal_on, self.behind, self.holders)
        return state, (self.changes, self.hash)


@dataclass(frozen=True, slots=True)
class MailboxState:
    """One row of `mycomesh_mailboxes`: what a gateway reads of another member, or, with member "", the gateway itself.

    state: running, waiting or starting for the gateway; current, waiting or behind for a member.
    behind: the tables that do not follow. position: up to here the member's changes were read. waiting, lag_s: the envelopes
        after it, and by how many seconds the newest is younger.
    bytes: read from the member, or appended by the gateway.
    """

    mailbox: str
    member: str
    state: str
    refused: int
    behind: str
    note: str
    base: str
    position: int
    waiting: int
    lag_s: float
    bytes: int

    def row(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return (values whose change causes a write, figures)."""
        return (
            (self.mailbox, self.member, self.state, self.refused, self.behind, self.note),
            (self.base, self.position, self.waiting, self.lag_s, self.bytes),
        )


class Trouble(Protocol):
    """The part of a `FileTrouble` that is written: the code of its notice, one line, since when (Unix milliseconds)."""

    @property
    def code(self) -> str:
        """database.locked, database.refused or disk.low."""
        ...

    @property
    def text(self) -> str:
        """One line for people."""
        ...

    @property
    def since_ms(self) -> int:
        """Unix time in milliseconds."""
        ...


@dataclass(frozen=True, slots=True)
class NodeState:
    """State of the node, from the mesh. `equal_on` has the number of linked peers with equal content, by folded table name."""

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
    trouble: Trouble | None = None  # why the file takes in no rows of other nodes
    readers: tuple[ReaderState, ...] = ()
    mailboxes: tuple[MailboxState, ...] = ()
    areas: tuple[AreaState, ...] = ()


# Rows of one state table by primary key: (values whose change causes a write, figures).
_Rows = dict[Any, tuple[tuple[Any, ...], tuple[Any, ...]]]


def _trouble(trouble: Trouble | None) -> _Rows:
    if trouble is None:
        return {}
    return {trouble.code: ((trouble.code, trouble.text, time_text(trouble.since_ms)), ())}


class StateTables:
    """Writes the state tables of one file."""

    def __init__(self, store: Store, registry: Registry, site: Site, scrub: Scrub) -> None:
        self._store = store
        self._registry = registry
        self._site = site
        self._scrub = scrub
        self._changes = -1  # `total_changes` of the connection at the last refresh
        self._peers: tuple[Any, ...] | None = None  # the state of the mesh at the last refresh
        # By state table and primary key: the values last written, and when.
        self._written: dict[str, dict[Any, tuple[tuple[Any, ...], int]]] = {}

    def refresh(self, state: NodeState, wall_ms: int) -> bool:
        """Write the rows that have changed, in one transaction; return whether there were any.

        Raises:
            DatabaseBusyError: another connection holds the write lock; nothing was changed.
        """
        material = (
            state.phase,
            tuple(peer.row()[0] for peer in state.peers),
            tuple(sorted(state.equal_on.items())),
            state.linked,
            self._found(),
            state.trouble,
            state.readers,
            tuple(each.row()[0] for each in state.mailboxes),
            tuple(each.row()[0] for each in state.areas),
        )
        if material == self._peers and int(self._store.db.total_changes()) == self._changes:
            return False
        rows: dict[str, _Rows] = {
            "mycomesh_status": {0: self._status(state)},
            "mycomesh_peers": {peer.node_id: peer.row() for peer in state.peers},
            "mycomesh_trouble": _trouble(state.trouble),
            "mycomesh_tables": self._tables(state),
        }
        if self._is_shown("mycomesh_readers", state.readers):
            rows["mycomesh_readers"] = {(each.cursor, each.table): each.row() for each in state.readers}
        if self._is_shown("mycomesh_mailboxes", state.mailboxes):
            rows["mycomesh_mailboxes"] = {(each.mailbox, each.member): each.row() for each in state.mailboxes}
        if self._is_shown("mycomesh_area_status", state.areas):
            rows["mycomesh_area_status"] = {(each.table, each.area): each.row() for each in state.areas}
            rows["mycomesh_area_writers"] = {
                (each.table, each.area, node): ((each.table, each.area, node), (changes,))
                for each in state.areas
                for node, changes in each.writers
            }
        changed = {name: self._changed(name, rows[name], wall_ms) for name in rows}
        gone = {name: self._written.get(name, {}).keys() - rows[name].keys() for name in rows}
        wrote = any(changed.values()) or any(gone.values()) or not self._written
        if wrote:
            self._write(rows, changed, gone, wall_ms)
        self._peers, self._changes = material, int(self._store.db.total_changes())
        return wrote

    def _status(self, state: NodeState) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        db = self._store.db
        pending = sum(
            db.execute(f"SELECT count(*) FROM {pending_name(table.table_id)}").fetchone()[0]
            for _, table in sorted(self._registry.tables.items())
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

    def _is_shown(self, name: str, rows: tuple[Any, ...]) -> bool:
        """Return whether a table that a file has once something is in it has to be there."""
        if rows or name in self._written:
            return True
        listing = "SELECT 1 FROM sqlite_schema WHERE name = ?"
        return not self._written and self._store.db.execute(listing, (name,)).fetchone() is not None

    def _found(self) -> int | None:
        """Return the number of rows that the last scrub found not captured, None before the first scrub."""
        return None if self._scrub.last is None else self._scrub.last.found

    def _tables(self, state: NodeState) -> _Rows:
        db = self._store.db
        found: _Rows = {}
        notes = self._registry.notes.by_name()
        for name, table in sorted(self._registry.tables.items()):
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
                    notes.get(name, ""),
                ),
                (),
            )
        for name, note in notes.items():
            if name not in self._registry.tables:
                found[name] = ((name, None, None, 0, 0, 0, state.linked, note), ())
        return found

    def _changed(self, name: str, rows: _Rows, wall_ms: int) -> list[Any]:
        """Return the keys of rows that differ from the written ones, or whose figures are old."""
        written = self._written.get(name, {})
        return [
            key
            for key, (material, figures) in rows.items()
            if key not in written
            or written[key][0] != material
            or (figures and wall_ms - written[key][1] >= FIGURES_MS)
        ]

    def _write(self, rows: dict[str, _Rows], changed: dict[str, list[Any]], gone: dict[str, Any], wall_ms: int) -> None:
        first = not self._written
        as_of = time_text(wall_ms)
        with self._store.transaction() as db:
            for name in _CREATE.keys() & rows.keys():
                db.execute(_CREATE[name])
            for name in rows:
                columns = _COLUMNS[name]
                if first or name == "mycomesh_status":
                    if first or changed[name]:
                        db.execute(f"DELETE FROM {name}")
                elif gone[name]:
                    keys = [each if isinstance(each, tuple) else (each,) for each in sorted(gone[name])]
                    named = " AND ".join(f"{column} = ?" for column in columns.split(", ")[: len(keys[0])])
                    db.executemany(f"DELETE FROM {name} WHERE {named}", keys)  # the first columns are the key
                placeholders = ", ".join("?" * (columns.count(",") + 2))
                values = [(*rows[name][each][0], *rows[name][each][1], as_of) for each in changed[name]]
                db.executemany(f"INSERT OR REPLACE INTO {name}({columns}, as_of) VALUES({placeholders})", values)
        for name, keys in changed.items():
            written = self._written.setdefault(name, {})
            for each in gone[name]:
                del written[each]
            written.update({each: (rows[name][each][0], wall_ms) for each in keys})
