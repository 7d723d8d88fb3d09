"""The connections of a node, and which of them is the link to each member.

A dialled connection on which the member has authenticated, but sent no frame yet, is pending: the member may still choose another
connection. Invariant: a member has at most one link.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mycomesh.mesh.address import directness, is_circuit
from mycomesh.mesh.link_budget import Budget, DayCount, LinkBudget
from mycomesh.mesh.links.authentication import MemberGate
from mycomesh.mesh.links.traffic import Traffic

if TYPE_CHECKING:
    from mycomesh.mesh.config import KindOf
    from mycomesh.mesh.events import Address
    from mycomesh.mesh.links.authentication import MemberHello
    from mycomesh.mesh.links.link import Link

__all__ = ["LinkTable"]


@dataclass(slots=True)
class LinkTable:
    """Every connection by its number, and the links by their members' 16-byte node ids.

    `budget` is that of metered links, None for none; `day` counts the bytes of all of them.
    """

    kind_of: KindOf
    budget: Budget | None = None
    day: DayCount = field(default_factory=DayCount)
    conns: dict[int, Link] = field(default_factory=dict)
    members: dict[bytes, Link] = field(default_factory=dict)
    _pending: dict[bytes, Link] = field(default_factory=dict)  # dialled, authenticated, no frame received yet
    carried: Traffic = field(init=False)  # of connections of the shell
    in_circuits: Traffic = field(init=False)  # part of it

    def __post_init__(self) -> None:
        self.carried, self.in_circuits = Traffic(self.kind_of), Traffic(self.kind_of)

    def traffic_of(self, address: Address) -> Traffic:
        """Return what counts the traffic of a connection with this address."""
        return self.in_circuits if is_circuit(address.host) else self.carried

    def meter(self, link: Link, interface: str, now_ms: int) -> None:
        """Give a connection over this interface the budget of metered links, if it is one."""
        circuit = is_circuit(link.address.host)  # its bytes count where they pass: on the link with the relay
        if self.budget is not None and not circuit and self.budget.covers(interface):
            link.budget = LinkBudget(self.budget, self.day, now_ms)
            link.session.paced = True

    def metered(self) -> list[Link]:
        """Return the links that have a budget."""
        return [link for link in self.members.values() if link.budget is not None]

    def record_pending(self, node_id: bytes, link: Link) -> None:
        """Record that the handshake with this member, which we dialled, is done. Its first frame will make this the link."""
        self._pending[node_id] = link

    def admit(self, node_id: bytes, link: Link) -> list[Link]:
        """Make this connection the link to that member; return the connections that it replaces."""
        rivals = (self.members.get(node_id), self._pending.pop(node_id, None))
        self.members[node_id] = link
        return [rival for rival in rivals if rival is not None and rival is not link]

    def remove(self, link: Link) -> bytes | None:
        """Remove a connection; return the node id of its member if that was the link, else None."""
        del self.conns[link.conn]
        for key in [key for key, pending in self._pending.items() if pending is link]:
            del self._pending[key]
        node_id = link.hello.certificate.node_id if link.hello is not None else None
        if node_id is None or self.members.get(node_id) is not link:
            return None
        del self.members[node_id]
        return node_id

    def competing_link(self, node_id: bytes, host: str) -> tuple[Link, MemberHello] | None:
        """Return the connection that is the link to this member or is pending, and the hello that the member presented there.

        A connection from or to `host` may replace a circuit, and one over a NATS server if it is direct: these do not compete.
        """
        links = (self.members.get(node_id), self._pending.get(node_id))
        least = max(directness(host), 1)
        link = next((each for each in links if each is not None and directness(each.address.host) >= least), None)
        if link is None:
            return None
        assert isinstance(link.gate, MemberGate)
        assert link.gate.hello is not None
        return link, link.gate.hello

    def accepts(self, hello: MemberHello, host: str, *, own_id: bytes) -> bool:
        """Return True if a connection that a member has dialled from `host` becomes its link.

        If both sides have dialled, the connection dialled by the lower node id stays; a circuit never replaces
        a direct link. `own_id` is our node id.
        """
        rival = self.competing_link(hello.certificate.node_id, host)
        if rival is None or rival[1].boot != hello.boot:
            return True  # the peer has restarted
        if directness(rival[0].address.host) > directness(host):
            return False
        if not rival[0].dialled:
            return True  # the peer has dialled again because it lost the first connection
        return hello.certificate.node_id < own_id

    def is_only_link(self, link: Link) -> bool:
        """Return True if this connection is the link to its member, and no other one is pending."""
        node_id = link.hello.certificate.node_id if link.hello is not None else b""
        return self.members.get(node_id) is link and node_id not in self._pending

    def droppable_members(self) -> list[bytes]:
        """Return the members whose links may be dropped if there are too many: not relays, not members without a direct link."""
        return [
            node_id
            for node_id, link in self.members.items()
            if directness(link.address.host) == 2
            and link.hello is not None
            and "relay" not in link.hello.certificate.roles
        ]

    def by_directness(self) -> tuple[list[bytes], list[bytes]]:
        """Return the members with a direct link, and those with a circuit."""
        direct: list[bytes] = []
        circuits: list[bytes] = []
        for node_id, link in self.members.items():
            (circuits if is_circuit(link.address.host) else direct).append(node_id)
        return direct, circuits

    def count_pending_dials(self) -> int:
        """Return how many connections that we dialled are not links yet."""
        return sum(link.dialled and link.hello is None for link in self.conns.values())
