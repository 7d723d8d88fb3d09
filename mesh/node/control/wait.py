"""The request behind `mycomesh wait`: counts the nodes that have this node's writes up to a position.

The first request fixes the position and later ones repeat it, so writes after the first request do not prolong the wait. On the
socket the position is called `mark`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.status import WritePosition

if TYPE_CHECKING:
    from mycomesh.mesh.node.serving import ServingNode

__all__ = ["WAIT_MS_MAX", "answer"]

WAIT_MS_MAX = 5_000  # for one request, so that the wait for a client that left ends soon


async def answer(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """Return how many nodes have each write up to `mark` (`replicas`), and how many peers are linked (`linked`).

    `least` is the area that is on fewer nodes than all tables, "" if none is: only nodes that keep an area have its writes.

    A request without a mark means the current position. Wait for `want` replicas, at most `wait_ms` milliseconds.
    """
    want, wait_ms = _number(request, "want"), min(_number(request, "wait_ms"), WAIT_MS_MAX)
    position = await node.write_position() if request.get("mark") is None else _position(request["mark"])
    replicas, linked, least = await node.count_replicas(position, want=want, wait_ms=wait_ms)
    return {"replicas": replicas, "linked": linked, "least": least, "mark": position.to_json()}


def _number(request: dict[str, Any], name: str) -> int:
    value = request.get(name, 0)
    if type(value) is not int or value < 0:
        raise NodeError(f"a request needs a whole number for {name!r}; use the same version for node and command")
    return value


def _position(value: Any) -> WritePosition:
    try:
        tables = {str(name): int(hlc) for name, hlc in value["tables"].items()}
        return WritePosition(bytes.fromhex(value["site"]), tables)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NodeError(
            "the request's 'mark' is not one that a node returned; use the same version for node and command"
        ) from error
