"""Messages on their way in: each batch is committed to the file, then acknowledged to the outside system.

A message that makes no row becomes a dead letter and is acknowledged too. The flow stops when 20 of the last 50 failed; then the
messages behind them stay with the outside system.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import apsw

from mycomesh.mesh.node.judge import FlowStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mycomesh.tools.bridges.scheme import Arrival, Scheme
    from mycomesh.tools.bridges.writer import Writer
    from mycomesh.tools.turn import Turn

__all__ = ["receive"]

BUSY_PAUSE_S = 1


async def receive(scheme: Scheme, writer: Writer, turn: Turn | None, on_subscribed: Callable[[], None]) -> None:
    """Receive until the connection is lost; with `turn`, only while it is this node's.

    `on_subscribed` is called once messages come: before it, a system without sessions has nobody to keep them for.

    Raises:
        LinkError, SchemeError: of the scheme.
        FlowStoppedError: too many messages failed.
    """
    if turn is not None:
        await turn.wait()
    await scheme.subscribe(writer.offsets())
    on_subscribed()
    while turn is None or turn.active:
        arrivals = await scheme.receive()
        done = await asyncio.to_thread(_write, writer, arrivals)
        while done is None:  # a program keeps the write lock; what came stays unacknowledged
            await asyncio.sleep(BUSY_PAUSE_S)
            done = await asyncio.to_thread(_write, writer, arrivals)
        await scheme.acknowledge(arrivals[:done])
        if writer.judge.stops:
            raise FlowStoppedError(f"{writer.judge.text} messages that came in failed")


def _write(writer: Writer, arrivals: Sequence[Arrival]) -> int | None:
    try:
        return writer.write(arrivals)
    except apsw.BusyError:
        return None
