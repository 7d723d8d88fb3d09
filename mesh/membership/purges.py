"""Purge orders: the root decides that what a revoked member has written since a time is dropped on every node (ADR 46).

Only the root signs them. An admin may revoke a member, which can join again; what a purge drops may be gone for good.

Invariant: an order is never taken back, and one that reaches further back replaces another one. So the same orders have the same
effect on every node, whenever they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.membership.decree import Authority, Decree
from mycomesh.mesh.primitives import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PURGES_MAX", "PURGE_BYTES_MAX", "Purge", "Purges"]

PURGES_MAX = 512  # one a node; each was decided by a person who had read a count of rows
PURGE_BYTES_MAX = 512  # id, time, signature and heads, and a certificate that then is refused by name
SINCE_MS_MAX = 1 << 47  # the clock of a stamp has no later time

_VERSION = 1
_DOMAIN = b"purge"
_BODY = (bytes, int)


@dataclass(frozen=True, slots=True)
class Purge:
    """The order to drop what a node has written from `since_ms` on (Unix milliseconds), decided at `at_s`."""

    node_id: bytes
    since_ms: int
    at_s: int
    raw: bytes

    @property
    def since(self) -> str:
        """The time in words, in UTC."""
        if not self.since_ms:
            return "the beginning"
        return datetime.fromtimestamp(self.since_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")

    @classmethod
    def decode(cls, raw: bytes, *, root_public: bytes) -> Purge:
        """Return the order in `raw`; CertificateError unless the root has signed it."""
        if len(raw) > PURGE_BYTES_MAX:
            raise CertificateError("too-long", f"a purge has {len(raw)} bytes, at most {PURGE_BYTES_MAX} are allowed")
        decree = Decree.decode(raw, domain=_DOMAIN, root_public=root_public)
        if decree.issuer:
            raise CertificateError("issuer", "a purge is signed by an admin, and only the root can decide it")
        try:
            node_id, since_ms = wire.decode_record(
                decree.body, what="purge", version=_VERSION, kinds=_BODY, bytes_max=PURGE_BYTES_MAX
            )
        except DecodeError as error:
            raise CertificateError("malformed", str(error)) from None
        if len(node_id) != ID_BYTES or not 0 <= since_ms <= SINCE_MS_MAX:
            raise CertificateError("malformed", "a purge names no node, or a time out of range")
        return cls(node_id, since_ms, decree.at_s, raw)

    @classmethod
    def issue(cls, node_id: bytes, since_ms: int, authority: Authority, *, at_s: int) -> Purge:
        """Sign an order; CertificateError unless the authority is the root's."""
        body = wire.encode((_VERSION, node_id, since_ms))
        return cls.decode(authority.decree(_DOMAIN, body, at_s), root_public=authority.root_public)


class Purges:
    """The orders that one node knows, one for each node id: the one that reaches furthest back."""

    __slots__ = ("_by_node", "_root_public")

    def __init__(self, root_public: bytes) -> None:
        self._root_public = root_public
        self._by_node: dict[bytes, Purge] = {}

    def add(self, raw: bytes) -> Purge | None:
        """Record an order; return it if it is news. CertificateError unless the root has signed it."""
        if any(each.raw == raw for each in self._by_node.values()):
            return None
        made = Purge.decode(raw, root_public=self._root_public)
        known = self._by_node.get(made.node_id)
        if known is not None and (known.since_ms, known.at_s, known.raw) <= (made.since_ms, made.at_s, made.raw):
            return None
        if known is None and len(self._by_node) >= PURGES_MAX:
            return None
        self._by_node[made.node_id] = made
        return made

    def of(self, node_id: bytes) -> Purge | None:
        """Return the order about a node, or None."""
        return self._by_node.get(node_id)

    def orders(self, revoked: Iterable[bytes]) -> tuple[tuple[bytes, int], ...]:
        """Return (node id, Unix milliseconds) of the orders about nodes that are revoked, by node id."""
        nodes = dict.fromkeys(revoked)
        return tuple(sorted((each.node_id, each.since_ms) for each in self._by_node.values() if each.node_id in nodes))

    def encoded(self) -> tuple[bytes, ...]:
        """Return all orders in the form that members exchange."""
        return tuple(each.raw for each in self._by_node.values())
