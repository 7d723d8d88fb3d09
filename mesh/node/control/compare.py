"""The request behind `mycomesh verify`: compares this node with its linked peers.

Invariant: `converged` is true only if every linked peer answered after the request and has the same contents as this node.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.shell import clock
from mycomesh.sync.sqlite.identifiers import fold

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from mycomesh.mesh.node.serving import ServingNode
    from mycomesh.sync.exchange.area_status import AreaStatus

__all__ = ["answer"]

ANSWERS_S_MAX = 5.0  # a peer in a long transaction answers after it


async def answer(node: ServingNode) -> dict[str, Any]:
    """Return the comparison as plain JSON values.

    tables: name, rows, hash, conflicts, parked, and for each linked peer whether its table is equal and for how long (ms).
        A table that this node does not serve has no hash and no peers: there is nothing to compare.
    areas: of tables that are cut, those that this node keeps: table, area, changes, hash, holders, and for each linked peer that
        keeps it whether it is equal and for how long.
    peers: name, node id, state, and whether the peer answered.
    converged: at least one member is linked, and every linked member is equal.
    """
    started_ms = clock()[0]
    snapshot, links, areas = await node.compare(ANSWERS_S_MAX)
    waited_ms = clock()[0] - started_ms
    names = {peer.node_id: peer.name for peer in snapshot.peers}
    states = {link.peer.hex(): link for link in links}
    answered = {
        node_id: link
        for node_id, link in states.items()
        if link.compared_ms_ago is not None and link.compared_ms_ago <= waited_ms
    }
    tables = []
    for table in snapshot.tables:
        peers_of_table = []
        for node_id, link in sorted(answered.items()) if table.digest else ():
            since = dict(link.equal_ms).get(fold(table.name))
            peers_of_table.append(
                {"peer": names.get(node_id, node_id[:8]), "equal": since is not None, "equal_ms": since}
            )
        tables.append(
            {
                "name": table.name,
                "rows": table.rows,
                "hash": table.digest,
                "conflicts": table.conflicts,
                "parked": table.parked,
                "note": table.note,
                "peers": peers_of_table,
            }
        )
    peers = [
        {
            "name": peer.name,
            "node_id": peer.node_id,
            "state": peer.state,
            "answered": peer.node_id in answered,
            "equal": answered[peer.node_id].equal if peer.node_id in answered else None,
        }
        for peer in snapshot.peers
    ]
    converged = bool(states) and len(answered) == len(states) and all(link.equal for link in answered.values())
    compared = [_area(each, names, answered) for each in areas if each.kept]
    return {"converged": converged and not snapshot.pending, "tables": tables, "areas": compared, "peers": peers}


def _area(area: AreaStatus, names: Mapping[str, str], answered: Container[str]) -> dict[str, Any]:
    peers = [(peer.hex(), equal_ms) for peer, equal_ms in area.peers if peer.hex() in answered]
    return {
        "table": area.table,
        "area": area.area,
        "changes": area.entries,
        "hash": area.digest,
        "holders": area.holders,
        "peers": [
            {"peer": names.get(node_id, node_id[:8]), "equal": equal_ms is not None, "equal_ms": equal_ms}
            for node_id, equal_ms in peers
        ],
    }
