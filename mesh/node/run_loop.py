"""Runs a coroutine of a node on an event loop of its own; errors that a user can cause come as `NodeError`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from mycomesh.mesh.errors import MeshError
from mycomesh.mesh.io.transport import TransportError
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.uv_loop import event_loop
from mycomesh.sync.errors import SyncError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

__all__ = ["as_node_errors", "run_to_end"]

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run on a new event loop; raise errors that a user can cause as `NodeError`."""
    with asyncio.Runner(loop_factory=event_loop) as runner, as_node_errors():
        return runner.run(work)


@contextlib.contextmanager
def as_node_errors() -> Iterator[None]:
    """Turn each error that a part of the node raises on purpose into a `NodeError`."""
    try:
        yield
    except (MeshError, SyncError, TransportError) as error:
        raise NodeError.of(error) from error
