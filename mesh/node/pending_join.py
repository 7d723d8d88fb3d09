"""The join that a home waits for: it looks for members until one admits this node, and stores the identity that it brings."""

from __future__ import annotations

import asyncio
import os
import random
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import Close, Enrolled, Notice
from mycomesh.mesh.joiner import Joiner
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.node.errors import JoinRefusedError
from mycomesh.mesh.node.journal import Journal
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.run_loop import run_to_end
from mycomesh.mesh.node.shell import MeshShell

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from mycomesh.mesh.node.config import NodeConfig
    from mycomesh.mesh.node.home import Home
    from mycomesh.mesh.node.keystore import PendingJoin

__all__ = ["enrol", "join_mesh"]


def enrol(home: Home, config: NodeConfig, *, seconds_max: float) -> Identity | None:
    """Try the pending join for `seconds_max`; return the identity that it brought, or None. The caller has locked the home.

    Raises:
        JoinRefusedError: a reachable member did not accept the code. The code is kept, since another member may accept it.
    """
    store = Keystore(home)
    join = store.pending_join()
    assert join is not None, "the caller has just stored it"
    journal = Journal("warning")
    refused: list[Notice] = []

    def on_notice(notice: Notice) -> None:
        journal.write(notice)
        if notice.event == "join.unanswered":
            refused.append(notice)

    identity = run_to_end(_within(join_mesh(store, join, config, on_notice), seconds_max))
    if identity is not None:
        store.complete_join(identity)
    elif refused:
        raise JoinRefusedError(
            "a reachable member did not accept the code: it is used up or expired, or another node created it; get a new one"
            " with 'mycomesh invite', or run 'mycomesh up', which keeps trying"
        )
    return identity


async def join_mesh(
    store: Keystore, join: PendingJoin, config: NodeConfig, on_notice: Callable[[Notice], None]
) -> Identity:
    """Look for members until one admits this node; return the identity, which is not stored yet."""
    enrolled: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_action(action: Any) -> None:
        match action:
            case Enrolled(identity):
                if not enrolled.done():
                    enrolled.set_result(identity)
            case Notice():
                on_notice(action)
            case Close(conn, reason):
                on_notice(Notice("conn.closed", f"connection {conn} closed: {reason}", {"conn": conn}, "debug"))
            case _:
                raise AssertionError(f"a joiner returned {type(action).__name__}")

    joiner = Joiner(
        join.code,
        join.candidate,
        entropy=os.urandom,
        rng=random.Random(os.urandom(16)),
        config=MeshConfig(versions=config.protocol),
    )
    shell = MeshShell(joiner, config, join.code.mesh_id, on_action)
    try:
        await shell.start(store.addresses())
        return Identity.decode(await enrolled)
    finally:
        await shell.close()


async def _within(work: Coroutine[Any, Any, Identity], seconds_max: float) -> Identity | None:
    try:
        async with asyncio.timeout(seconds_max):
            return await work
    except TimeoutError:
        return None
