"""On how many nodes what was written here is, asked over the control socket (`mycomesh wait`).

Owns the form of the question and of its answer. What always holds: a mark that was taken once does not move, so writes that
come later, here or elsewhere, keep nobody waiting. It must not know how peers are asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.status import Mark

if TYPE_CHECKING:
    from mycomesh.mesh.node.serving import ServingNode

__all__ = ["WAIT_MS_MAX", "answer"]

WAIT_MS_MAX = 5_000  # of one request: a client that went away is not waited for longer


async def answer(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """Return on how many nodes (`replicas`) everything up to `mark` is; without a mark one of this moment is taken.

    With `want` and `wait_ms` the answer waits until there are so many, or so long. `linked`: peers that can be asked.
    """
    want, wait_ms = _number(request, "want"), min(_number(request, "wait_ms"), WAIT_MS_MAX)
    mark = await node.mark() if request.get("mark") is None else _mark(request["mark"])
    replicas, linked = await node.reached(mark, want=want, wait_ms=wait_ms)
    return {"replicas": replicas, "linked": linked, "mark": mark.plain()}


def _number(request: dict[str, Any], name: str) -> int:
    value = request.get(name, 0)
    if type(value) is not int or value < 0:
        raise NodeError(f"a request needs a whole number for {name!r}; use one version of node and command")
    return value


def _mark(value: Any) -> Mark:
    try:
        tables = {str(name): int(hlc) for name, hlc in value["tables"].items()}
        return Mark(bytes.fromhex(value["site"]), tables)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise NodeError("a request has a mark that no node made; use one version of node and command") from error
