"""Shares a flow with other members: a row of `mycomesh_flows`, a signed table, that nodes run whose config.toml accepts it."""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import ConfigError, NodeError
from mycomesh.tools.flows.accepted import CREATE, ROWS_MAX, TABLE, Shared, shared_flow
from mycomesh.tools.flows.settings import check_cycles, load_all, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["share", "unshare"]

BUSY_MS = 30_000
TRIES, TRY_S = 40, 0.1  # until the node has taken in a table that was made a moment ago


def share(home: Home, name: str, section: Mapping[str, Any]) -> None:
    """Write the row of a flow.

    Raises:
        ConfigError: its section is wrong, or asks for what no member may.
        NodeError: no node runs, or the table cannot be signed.
    """
    host = str(section.get("run", "")).partition("//")[2].partition("/")[0]
    flow = shared_flow(Shared(name, "", section), (host,), ".")
    with _file(home) as db:
        db.execute(CREATE)
        check_cycles(flow, [*_shared(db, name), *(each for each in load_all(home) if each.name != name)])
        _sign(home)
        text = json.dumps(section, ensure_ascii=False)
        db.execute(
            f"INSERT INTO {TABLE} VALUES(?, ?) ON CONFLICT(name) DO UPDATE SET section = excluded.section", (name, text)
        )


def _shared(db: apsw.Connection, name: str) -> Iterator[FlowSettings]:
    """Yield the other flows that are shared: a node may run all, or different nodes some."""
    rows = db.execute(f"SELECT name, section FROM {TABLE} WHERE name IS NOT ? ORDER BY name LIMIT {ROWS_MAX}", (name,))
    for other, section in rows:
        with contextlib.suppress(ConfigError, ValueError, TypeError, AttributeError, RecursionError):  # no flow
            yield parse(str(other), json.loads(section))


def unshare(home: Home, name: str) -> bool:
    """Delete the row of a flow; return whether there was one."""
    with contextlib.suppress(NodeError, apsw.SQLError), _file(home) as db:
        db.execute(f"DELETE FROM {TABLE} WHERE name = ?", (name,))
        return db.changes() > 0
    return False


@contextlib.contextmanager
def _file(home: Home) -> Iterator[apsw.Connection]:
    db = apsw.Connection(ask(home, "status", brief=True)["file"], apsw.SQLITE_OPEN_READWRITE)
    try:
        db.set_busy_timeout(BUSY_MS)
        yield db
    finally:
        db.close()


def _sign(home: Home) -> None:
    """Let the table be signed, so that its rows prove their author."""
    for number in range(TRIES):
        try:
            if ask(home, "policy", table=TABLE)["policy"] != "signed":
                ask(home, "policy", table=TABLE, policy="signed")
        except NodeError:
            if number == TRIES - 1:
                raise
            time.sleep(TRY_S)
        else:
            return
