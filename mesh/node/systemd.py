"""What the service manager is told: ready, stopping, and that the node is alive (systemd's sd_notify(3), sd_watchdog_enabled(3)).

Owns the datagrams. What always holds: without a manager nothing is sent and no timer runs; a node whose file no longer answers
falls silent, so that the manager starts it again. It must not know what the node does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Watchdog", "notify_manager", "watchdog_s"]

BEATS = 3  # signs of life within the manager's patience: one or two may come late on a busy machine


def notify_manager(state: str) -> None:
    """Tell systemd READY=1, STOPPING=1, WATCHDOG=1 or STATUS=..., where it started us; else do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    messenger = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with messenger, contextlib.suppress(OSError):  # a manager that does not listen is no reason to stop
        messenger.sendto(state.encode(), name)


def watchdog_s() -> float | None:
    """Return within how many seconds the manager wants a sign of life, None if it does not."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


class Watchdog:
    """Asks the node whether it is alive, and passes that on, while the manager wants to know."""

    def __init__(self, alive: Callable[[], Awaitable[object]]) -> None:
        self._alive = alive
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if the manager has asked for it."""
        patience_s = watchdog_s()
        if patience_s is not None:
            self._task = asyncio.get_running_loop().create_task(self._beat(patience_s / BEATS))

    def stop(self) -> None:
        """End; not an error when it never began."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _beat(self, every_s: float) -> None:
        while True:
            await self._alive()  # waits as long as the file is busy: silence is what the manager acts on
            notify_manager("WATCHDOG=1")
            await asyncio.sleep(every_s)
