"""Decisions about a file that no node serves: the replica is opened for one request, and closed again.

Owns the locks that keep a node from starting meanwhile. What always holds: only tables that a node has replicated are
touched, and what was decided has its stamp when the file is closed, so the next `up` tells it. It must not know commands.
"""

from __future__ import annotations

import contextlib
import glob
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.clock_notes import ClockNotes
from mycomesh.mesh.node.control import decisions
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import FileLock
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.shell import clock
from mycomesh.mesh.node.watch import written_ms
from mycomesh.sync.errors import DatabaseError, ForeignFileError, SyncError
from mycomesh.sync.replica import Replica, ReplicaConfig

if TYPE_CHECKING:
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = ["decide"]

_KNOWN = "SELECT 1 FROM sqlite_schema WHERE name = 'mycomesh_replicated'"
REPLICATED = "SELECT name FROM mycomesh_replicated ORDER BY name"


def decide(home: Home, file: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one of the requests of `decisions` on a file of this home.

    Raises:
        NodeError: no node has served the file, one serves it now, or the home belongs to no mesh; nothing was changed.
    """
    work = decisions.prepared(request, {})
    with home.locked():
        identity = Keystore(home).identity()
        if identity is None:
            raise NodeError(f"this home belongs to no mesh ({home.state}); give the node's own --home")
        lock = FileLock.acquire(file)
        try:
            recall = ClockNotes(home.state / "clocks")
            last_ms = written_ms(file)
            replica = Replica.open(
                str(file),
                node_id=identity.node_id,
                mesh_key=identity.digest_key,
                entropy=os.urandom,
                config=_as_served(file),
                recalled=recall.clocks(),
            )
            try:
                replica.found(last_ms)
                _drain(replica)  # what was written before a decision is stamped before it
                done = work(replica)
                _drain(replica)
                recall.record(*replica.noted)
            finally:
                replica.close()
        except SyncError as error:
            raise NodeError.of(error) from error
        finally:
            lock.release()
    return done


def _drain(replica: Replica) -> None:
    more = True
    while more:
        _, more = replica.drain(clock()[1])


def _as_served(file: Path) -> ReplicaConfig:
    """The tables that a node has replicated, whatever patterns it was started with."""
    try:
        with contextlib.closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if db.execute(_KNOWN).fetchone() is None:
                raise ForeignFileError(f"{file}: no node has served this file yet; check the path")
            names = [name for (name,) in db.execute(REPLICATED)]
    except sqlite3.Error as error:
        raise DatabaseError(f"{file}: cannot be read: {error}; check the path") from error
    # Patterns that match nothing but their own name; none at all would mean every table.
    return ReplicaConfig(only=tuple(map(glob.escape, names)) or ("",))
