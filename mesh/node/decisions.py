"""What people decide about tables, asked over the control socket.

Owns the form of these requests and answers. What always holds: a request that is refused has changed nothing. It must not
know the sockets or how a decision takes effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh.node.errors import NodeError

if TYPE_CHECKING:
    from mesh.node.serving import ServingNode

__all__ = ["answer"]


async def answer(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request and return its result.

    Raises:
        NodeError: the request lacks a word or has a wrong one.
        SyncError: the replica refuses it.
    """
    match request.get("do"):
        case "counter":
            table, column = _text(request, "table"), _text(request, "column")
            await node.consult(lambda replica: replica.count(table, column))
            return {}
        case other:
            raise AssertionError(f"{other!r} is no decision")


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if type(value) is not str:
        raise NodeError(f"a request needs text for {name!r}; use one version of node and command")
    return value
