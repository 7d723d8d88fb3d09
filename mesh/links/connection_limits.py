"""Limits on unauthenticated incoming connections: slots in total and per host, and handshakes per host and second.

Some slots are reserved for hosts where members were seen before, so that a flood does not lock members out. Invariants: no host
takes more than its share of slots or handshakes, and the table of hosts is bounded.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from mycomesh.mesh.address import host_group, is_loopback
from mycomesh.mesh.rate_limit import admit_at_rate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mycomesh.mesh.config import MeshConfig
    from mycomesh.mesh.links.link import Link

__all__ = ["SOURCES_MAX", "ConnectionLimits"]

SOURCES_MAX = 1_024  # hosts whose handshakes are counted; only the slots limit a flood from more hosts


class ConnectionLimits:
    """The limits of one node. Call `refuses` once for each connection that this node did not dial."""

    __slots__ = ("_config", "_sources")

    def __init__(self, config: MeshConfig) -> None:
        self._config = config
        self._sources: OrderedDict[str, int] = OrderedDict()  # host group -> its token bucket (`admit_at_rate`)

    def refuses(self, links: Iterable[Link], host: str, now_ms: int, *, known: bool) -> bool:
        """Return True if one more unauthenticated connection from this host exceeds a limit.

        `known` hosts, where a member was seen, may use the reserved slots too.
        """
        config = self._config
        unauthenticated = [link for link in links if not link.dialled and link.hello is None]
        if len(unauthenticated) >= config.strangers_max - (0 if known else config.strangers_reserved):
            return True
        if is_loopback(host):
            return False
        group = host_group(host)
        if sum(host_group(link.address.host) == group for link in unauthenticated) >= config.strangers_per_host_max:
            return True
        return not self._admit_handshake(group, now_ms)

    def _admit_handshake(self, group: str, now_ms: int) -> bool:
        """Count one handshake of a host group; return False if it exceeds the rate."""
        every_ms, at_once = self._config.handshake_every_ms, self._config.handshakes_at_once
        over_ms = admit_at_rate(self._sources.get(group), now_ms, every_ms=every_ms, at_once=at_once)
        if over_ms is None:
            return False
        self._sources[group] = over_ms
        self._sources.move_to_end(group)
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return True
