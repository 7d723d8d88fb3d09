"""Whether there is a place for one more connection of a stranger.

Owns the places for whoever has not shown a certificate yet, and the rate at which one host may ask for them. What always
holds: no host takes more than its share of the places or of the handshakes, places are kept for hosts where members were
met, and what is remembered of hosts is bounded. Must not know: sessions, members.
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

SOURCES_MAX = 1_024  # hosts whose handshakes are counted: a flood of more than these is held by the places alone


class ConnectionLimits:
    """One node's door. Ask `refuses` once for each connection that was not dialled from here."""

    __slots__ = ("_config", "_sources")

    def __init__(self, config: MeshConfig) -> None:
        self._config = config
        self._sources: OrderedDict[str, int] = OrderedDict()  # its handshakes so far, as `pace.paced` counts

    def refuses(self, links: Iterable[Link], host: str, now_ms: int, *, known: bool) -> bool:
        """Whether one more stranger of this host stays outside; `known` hosts have places of their own."""
        config = self._config
        strangers = [link for link in links if not link.dialled and link.hello is None]
        if len(strangers) >= config.strangers_max - (0 if known else config.strangers_reserved):
            return True
        if is_loopback(host):
            return False
        group = host_group(host)
        if sum(host_group(link.address.host) == group for link in strangers) >= config.strangers_per_host_max:
            return True
        return not self._admit_handshake(group, now_ms)

    def _admit_handshake(self, group: str, now_ms: int) -> bool:
        """Count one handshake of a source, if it has not had too many."""
        every_ms, at_once = self._config.handshake_every_ms, self._config.handshakes_at_once
        over_ms = admit_at_rate(self._sources.get(group), now_ms, every_ms=every_ms, at_once=at_once)
        if over_ms is None:
            return False
        self._sources[group] = over_ms
        self._sources.move_to_end(group)
        if len(self._sources) > SOURCES_MAX:
            self._sources.popitem(last=False)
        return True
