"""Notifications to systemd: ready, stopping, status, and watchdog keep-alives.

A node whose SQL thread hangs sends no keep-alive, so systemd restarts it. Without systemd nothing is sent and no timer runs.

See sd_notify(3) and sd_watchdog_enabled(3).
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

KEEP_ALIVES = 3  # within systemd's timeout: on a busy machine one or two may come late


def notify_manager(state: str) -> None:
    """Send READY=1, STOPPING=1, WATCHDOG=1 or STATUS=... to systemd; do nothing unless systemd started the node."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    name = "\0" + address[1:] if address.startswith("@") else address
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    with datagrams, contextlib.suppress(OSError):  # the node serves its file even if systemd does not listen
        datagrams.sendto(state.encode(), name)


def watchdog_s() -> float | None:
    """Return the watchdog timeout that systemd has set, in seconds; None if it has set none."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isascii() or not text.isdigit() or int(text) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


class Watchdog:
    """Sends a keep-alive to systemd each time `check_alive` returns, where systemd has set a watchdog."""

    def __init__(self, check_alive: Callable[[], Awaitable[object]]) -> None:
        self._check_alive = check_alive
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start sending, if systemd has set a watchdog."""
        timeout_s = watchdog_s()
        if timeout_s is not None:
            self._task = asyncio.get_running_loop().create_task(self._keep_alive(timeout_s / KEEP_ALIVES))

    def stop(self) -> None:
        """Stop sending. Not an error if it was never started."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep_alive(self, every_s: float) -> None:
        while True:
            await self._check_alive()  # returns only once the SQL thread responds: systemd acts on the silence
            notify_manager("WATCHDOG=1")
            await asyncio.sleep(every_s)
