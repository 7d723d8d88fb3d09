"""Carries out requests about tables while no node serves the file: opens the replica for one request and closes it again.

Locks on home and file keep a node from starting meanwhile.

Invariants: only tables that a node has replicated change; a decision has its stamp when the file is closed, so the next
`mycomesh up` sends it to peers.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.authority import NodeAuthority
from mycomesh.mesh.node.clock_notes import ClockNotes
from mycomesh.mesh.node.control import decisions
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import FileLock
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.shell import clock
from mycomesh.mesh.node.watch import written_ms
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.errors import DatabaseError, ForeignFileError, SyncError
from mycomesh.sync.replica import ConflictLimits, Hooks, Replica, ReplicaConfig
from mycomesh.sync.replication.rights import Rights
from mycomesh.sync.wire.interest import Interest, interest_name, interest_of

if TYPE_CHECKING:
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = ["decide"]

_KNOWN = "SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_replicated'"
_STATED = "SELECT sql FROM mycomesh_schema WHERE name = ?"
REPLICATED = "SELECT name FROM mycomesh_replicated ORDER BY name"


def decide(home: Home, file: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one of the requests of `decisions` on a file of this home; return its result.

    Raises:
        NodeError: no node has served the file, a node serves it now, or the home belongs to no mesh; nothing was changed.
    """
    run = decisions.prepare(request, {})
    with home.locked():
        identity = Keystore(home).identity()
        if identity is None:
            raise NodeError(f"this home belongs to no mesh ({home.state}); give the node's own --home")
        lock = FileLock.acquire(file)
        try:
            clock_notes = ClockNotes(home.state / "clocks")
            last_ms = written_ms(file)
            replica = Replica.open(
                str(file),
                node_id=identity.node_id,
                mesh_key=identity.digest_key,
                entropy=os.urandom,
                config=_as_served(file, identity.node_id),
                recalled=clock_notes.clocks(),
                hooks=Hooks(authority=NodeAuthority(identity)),
            )
            try:
                rights = identity.certificate.table_rights
                replica.set_rights(Rights(identity.node_id, ((identity.node_id, rights),)))
                replica.outbox.record_last_write(last_ms)
                _drain(replica)  # writes before the decision get earlier stamps
                result = run(replica)
                _drain(replica)
                clock_notes.record(*replica.noted)
            finally:
                replica.close()
        except SyncError as error:
            raise NodeError.of(error) from error
        finally:
            lock.release()
    return result


def _drain(replica: Replica) -> None:
    more = True
    while more:
        _, more = replica.drain(clock()[1])


def _as_served(file: Path, node_id: bytes) -> ReplicaConfig:
    """Return a configuration for the tables that a node has replicated, whatever patterns it was started with.

    The areas that it keeps are those that it has stated.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if db.execute(_KNOWN).fetchone() is None:
                raise ForeignFileError(f"{file}: no node has served this file yet; check the path")
            names = [name for (name,) in db.execute(REPLICATED)]
            fact = db.execute(_STATED, (interest_name(node_id[:SITE_PREFIX]),)).fetchone()
    except sqlite3.Error as error:
        raise DatabaseError(f"{file}: cannot be read: {error}; check the path") from error
    # Each pattern matches only its own name. An empty list would mean every table, so use a pattern that matches none.
    # The node's own limits on the record of conflicts are not known here, so none of it is removed.
    limits = ConflictLimits(records=1 << 62, size=1 << 62, age_days=36_500)
    stated = interest_of(fact[0]) if fact is not None and isinstance(fact[0], str) else None
    interest = Interest({}) if stated is None else stated[0]
    return ReplicaConfig(only=tuple(map(glob.escape, names)) or ("",), conflicts=limits, interest=interest)
