"""Bases in virtual time: nodes that never link, each with the two halves of a gateway over one directory."""

from __future__ import annotations

from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
from mycomesh.mesh.membership.roster import Roster
from mycomesh.mesh.node.courier import Courier
from mycomesh.mesh.node.gateway.ledger import Ledger
from mycomesh.mesh.node.gateway.reader import LiveReader
from mycomesh.mesh.node.gateway.writer import LiveWriter
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.sync.events import Notice
from tests.mesh.node.surroundings import WorldSurroundings
from tests.mesh.pipes import mesh_of
from tests.sync.exchanges import World


class Base:
    """One node and the halves of its gateway."""

    def __init__(self, world, node, identities, identity, mailbox):
        self.world, self.node = world, node
        roster = Roster(identity)
        for each in identities:
            roster.add(each.certificate)
        self.keys = EnvelopeKeys(identity.mesh_id, identity.secret, (identity.secret,))
        around = WorldSurroundings(world, node)
        self.courier = Courier(mailbox, roster, lambda: self.keys, world.virtual[node], around)
        self.identity = identity
        self.begin()

    def begin(self):
        """Start the gateway, as after a restart of its node."""
        self.courier.surroundings.replica = self.node.peer.replica
        self.ledger = Ledger("dir:/share")
        self.ledger.load(self.node.peer.replica)
        self.writer = LiveWriter(self.courier, self.ledger, self.identity.name)
        self.reader = LiveReader(self.courier, self.ledger)

    @property
    def live(self):
        return self.keys.live_stream_of(self.identity.node_id)

    @property
    def parcels(self):
        return self.keys.stream_of(self.identity.node_id)

    def write(self, script, *values):
        self.world.write(self.node, script, *values)

    def rows(self):
        return self.node.sql("SELECT id, v FROM t ORDER BY id")

    def stream_of(self, other):
        return self.reader.streams[other.live]


class Bases(World):
    """Nodes that never link, and a directory that all of them reach."""

    def __init__(self, peers, config=None):
        self.virtual = {}
        super().__init__(peers, config)
        for node in self.nodes:
            self.virtual[node] = VirtualLinks(lambda event, node=node: self.do(node, event))

    def share(self, folder):
        """Return one base a node, with gateways to a directory."""
        identities, _ = mesh_of(len(self.nodes))
        mailbox = DirectoryMailbox(folder)
        return [
            Base(self, node, identities, identity, mailbox)
            for node, identity in zip(self.nodes, identities, strict=True)
        ]

    def do(self, node, event):
        actions = node.exchange.handle(event, self.now, node.peer.wall_ms + self.now)
        others = self.virtual[node].take(actions) if node in self.virtual else actions
        node.notices += [action for action in others if isinstance(action, Notice)]
        self._rearm(node)
