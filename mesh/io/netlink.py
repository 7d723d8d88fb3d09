"""News of the machine's own interfaces: a cable plugged in, an address given, a radio back in range.

Owns one rtnetlink socket (rtnetlink(7)). What always holds: a burst of changes is told once, after it has settled. It must
not know what a change means for the mesh.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

__all__ = ["Netlink"]

# One plugged cable makes a handful of messages (carrier, link-local address, DHCP) within a few hundred milliseconds.
SETTLE_S = 0.25
_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV6_IFADDR = 0x100
_READ_BYTES = 65_536


class Netlink:
    """Calls `on_changed` when links or addresses of this machine have changed; silent where the kernel does not allow it."""

    def __init__(self, on_changed: Callable[[], None]) -> None:
        self._on_changed = on_changed
        self._sock: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to listen; without rtnetlink (another kernel, a sandbox) re-browsing alone finds changes, later."""
        try:
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        except (OSError, AttributeError):
            return
        try:
            sock.setblocking(False)
            sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError:
            sock.close()
            return
        self._sock = sock
        asyncio.get_running_loop().add_reader(sock, self._on_readable)

    def close(self) -> None:
        """Stops listening."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            asyncio.get_running_loop().remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _on_readable(self) -> None:
        assert self._sock is not None
        try:
            while self._sock.recv(_READ_BYTES):
                pass
        except BlockingIOError:
            pass
        except OSError:
            pass  # ENOBUFS: more news than fits, which is news all the same
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE_S, self._on_settled)

    def _on_settled(self) -> None:
        self._timer = None
        self._on_changed()
