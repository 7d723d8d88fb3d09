"""Which connections there are, and which of them is the link to a member.

Owns that question alone. What always holds: a member has one link; whoever has pending what he is on a connection that we
dialled, and has not said anything there yet, is remembered until he does. Must not know: what is said on a link.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.mesh.address import is_circuit
from mycomesh.mesh.links.authentication import MemberGate

if TYPE_CHECKING:
    from mycomesh.mesh.links.authentication import MemberHello
    from mycomesh.mesh.links.link import Link

__all__ = ["LinkTable"]


@dataclass(slots=True)
class LinkTable:
    """Every connection by its number, and the links by their members' node ids."""

    conns: dict[int, Link] = field(default_factory=dict)
    members: dict[bytes, Link] = field(default_factory=dict)
    _pending: dict[bytes, Link] = field(default_factory=dict)  # who has our message 3 and has not said anything yet

    def record_pending(self, node_id: bytes, link: Link) -> None:
        """This member, whom we dialled, knows who we are: its first word makes the link."""
        self._pending[node_id] = link

    def admit(self, node_id: bytes, link: Link) -> list[Link]:
        """From here on this connection is the link to that member; returns those whose place it takes."""
        rivals = (self.members.get(node_id), self._pending.pop(node_id, None))
        self.members[node_id] = link
        return [rival for rival in rivals if rival is not None and rival is not link]

    def remove(self, link: Link) -> bytes | None:
        """The connection is gone; returns the node id of the member that has no link any more."""
        del self.conns[link.conn]
        for key in [key for key, pending in self._pending.items() if pending is link]:
            del self._pending[key]
        node_id = link.hello.certificate.node_id if link.hello is not None else None
        if node_id is None or self.members.get(node_id) is not link:
            return None
        del self.members[node_id]
        return node_id

    def competing_link(self, node_id: bytes) -> tuple[Link, MemberHello] | None:
        """The connection that is the link to this member, or may become it, and what the member showed there.

        A circuit is none: it stands back for any other connection.
        """
        links = (self.members.get(node_id), self._pending.get(node_id))
        link = next((each for each in links if each is not None and not is_circuit(each.address.host)), None)
        if link is None:
            return None
        assert isinstance(link.gate, MemberGate)
        assert link.gate.hello is not None
        return link, link.gate.hello

    def accepts(self, hello: MemberHello, *, than: bytes) -> bool:
        """Whether a connection that a member has dialled becomes its link; of two between us, that of the lower node id.

        `than` is our own node id.
        """
        rival = self.competing_link(hello.certificate.node_id)
        if rival is None or rival[1].boot != hello.boot or not rival[0].dialled:
            return True  # the peer has restarted, or has dialled once more because the first is dead to it
        return hello.certificate.node_id < than

    def is_only_link(self, link: Link) -> bool:
        """Whether this connection is the link to its member, and no other of ours is about to be."""
        node_id = link.hello.certificate.node_id if link.hello is not None else b""
        return self.members.get(node_id) is link and node_id not in self._pending

    def droppable_members(self) -> list[bytes]:
        """The members that may be let go when there are enough links: not relays nor those behind them."""
        return [
            node_id
            for node_id, link in self.members.items()
            if not is_circuit(link.address.host)
            and link.hello is not None
            and "relay" not in link.hello.certificate.roles
        ]

    def count_pending_dials(self) -> int:
        """How many connections that we have dialled are no links yet."""
        return sum(link.dialled and link.hello is None for link in self.conns.values())
