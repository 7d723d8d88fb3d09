"""Relay of certificates: which of them go to which peers, and when.

A peer says which certificates it has when it asks for the others, and gets these. From then on it gets what is new, unless it has
sent that itself. News is collected for a moment: one message carries many, and a peer may bring them meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.membership.roster import digest_of
from mycomesh.mesh.messages import Certificates
from mycomesh.mesh.results import Result, Send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["PIECE_BYTES", "CertificateRelay", "pieces"]

PIECE_BYTES = 48 << 10  # records in one message: they fit one frame, so urgent messages need not wait long
GATHER_MS = 50
GATHER_SLOW_MS = 4_000  # beside a peer that reaches most members first; by then the links of all are known
# How long a node remembers which certificates a peer has: while a mesh forms. Of a thousand members with 250 links it would be
# 20 MB, so no longer than a newcomer takes to learn the list of them once there are as many as this.
KNOWN_MS = 60_000
KNOWN_LARGE_MS = 5_000
KNOWN_DIGESTS_MAX = 16_384


class CertificateRelay:
    """The certificates that one node is about to relay, and those that its peers have."""

    __slots__ = ("_due_ms", "_gets_news", "_known", "_pending")

    def __init__(self, gets_news: Callable[[bytes, bytes, bytes], bool]) -> None:
        """Take a function of (peer, node, certificate): whether that peer gets it from its node, or from others."""
        self._gets_news = gets_news
        # Link -> (when, digests of certificates that the peer has). No entry: the peer has not asked yet.
        self._known: dict[int, tuple[int, dict[bytes, None]]] = {}
        self._pending: dict[bytes, tuple[bytes, int]] = {}  # node -> (certificate, link that brought it)
        self._due_ms: int | None = None

    @property
    def deadline(self) -> int | None:
        """When `on_timer` has work, None if never."""
        return self._due_ms

    def on_link_down(self, link: int) -> None:
        """Forget what the peer of a link has."""
        self._known.pop(link, None)

    def on_have(self, link: int, digests: Iterable[bytes], missing: Iterable[bytes], now_ms: int) -> list[Result]:
        """Record which certificates a peer has; return the messages that send it the `missing` ones."""
        self._known[link] = (now_ms, dict.fromkeys(digests))
        return self._send(link, list(missing))

    def on_received(self, link: int, raws: Iterable[bytes]) -> None:
        """Record that a peer has certificates, because it has sent them."""
        known = self._known.get(link)
        if known is not None:
            known[1].update(dict.fromkeys(map(digest_of, raws)))

    def add(self, node_id: bytes, raw: bytes, link: int, now_ms: int, *, slow: bool) -> None:
        """Relay a certificate that is new, which a link has brought; `slow` if others bring it to most members."""
        self._pending[node_id] = (raw, link)
        due_ms = now_ms + (GATHER_SLOW_MS if slow else GATHER_MS)
        self._due_ms = due_ms if self._due_ms is None else min(self._due_ms, due_ms)

    def spread(self, raw: bytes, links: Iterable[int]) -> list[Result]:
        """Return the messages that send a certificate which this node has made to the peers that may lack it, at once."""
        return [result for link in links if self._lacks(link, raw) for result in self._send(link, [raw])]

    def ahead_of(self, node_id: bytes, links: Iterable[int]) -> list[Result]:
        """Return the messages that relay a node's certificate at once on these links, before something that it has signed."""
        raw, source = self._pending.get(node_id, (b"", -1))
        results: list[Result] = []
        for link in links if raw else ():
            results += self._send(link, [raw] if link != source and self._lacks(link, raw) else [])
        return results

    def on_timer(self, links: Iterable[tuple[int, bytes]], now_ms: int) -> list[Result]:
        """Relay what waits if it is due, with one message for each peer."""
        if self._due_ms is None or now_ms < self._due_ms:
            return []
        results: list[Result] = []
        for link, peer in links:
            raws = [
                raw
                for node_id, (raw, source) in self._pending.items()
                if source != link and self._lacks(link, raw) and not self._gets_news(peer, node_id, raw)
            ]
            results += self._send(link, raws)
        self._pending.clear()
        self._due_ms = None
        return results

    def forget_old(self, now_ms: int) -> None:
        """Forget which certificates peers have that have got the others long ago: each of them may lack what comes."""
        kept_ms = (
            KNOWN_MS if sum(len(each) for _, each in self._known.values()) <= KNOWN_DIGESTS_MAX else KNOWN_LARGE_MS
        )
        for said_ms, digests in self._known.values():
            if digests and now_ms - said_ms > kept_ms:
                digests.clear()

    def _lacks(self, link: int, raw: bytes) -> bool:
        known = self._known.get(link)
        return known is not None and digest_of(raw) not in known[1]

    def _send(self, link: int, raws: list[bytes]) -> list[Result]:
        self.on_received(link, raws)  # it has them then
        return [Send(link, Certificates(piece), 0) for piece in pieces(raws)]


def pieces(records: Iterable[bytes]) -> list[tuple[bytes, ...]]:
    """Split a list of records, so that each message stays small."""
    found: list[tuple[bytes, ...]] = []
    piece: list[bytes] = []
    size = 0
    for record in records:
        if piece and size + len(record) > PIECE_BYTES:
            found.append(tuple(piece))
            piece, size = [], 0
        piece.append(record)
        size += len(record)
    if piece:
        found.append(tuple(piece))
    return found
