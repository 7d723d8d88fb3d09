"""Exchanges under a virtual clock: events in, actions out, links that carry messages in order after a delay."""

from __future__ import annotations

import heapq
import itertools
import random

from mycomesh.sync.events import (
    BatchReceived,
    CommitSeen,
    DropLink,
    LinkClosed,
    LinkOpened,
    MessageReceived,
    Notice,
    Publish,
    Send,
    TimerFired,
)
from mycomesh.sync.exchange.exchange import Exchange, ExchangeConfig
from tests.sync.peers import Peer

DELAY_MS = 5
EVENTS_MAX = 50_000  # a conversation that does not end fails the test instead of hanging it


class Node:
    """One exchange and its file."""

    def __init__(self, peer, config=None):
        self.number = peer.number
        self.peer = peer
        self.config = config or ExchangeConfig()
        self.begin()
        self.notices = []
        self.dropped = []  # (link, reason)
        self.sent = []  # (virtual ms, link, message bytes)
        self.deferrable = []  # (virtual ms, message bytes) of those that may wait for a heartbeat
        self.wake_at = None

    def begin(self):
        """A fresh exchange, as after a restart of the process; its links are gone."""
        self.exchange = Exchange(self.peer.replica, rng=random.Random(self.peer.number), config=self.config)

    def reopen(self):
        self.peer.close()
        self.peer.open()
        self.begin()

    def sql(self, script, *values):
        return self.peer.sql(script, *values)

    def noticed(self):
        return [notice.event for notice in self.notices]


class World:
    """Nodes and links. A published batch goes to direct neighbours; `relay` false leaves everything to rounds."""

    def __init__(self, peers, config=None):
        self.now = 1_000
        self.publishing = True
        self._heap = []
        self._serial = itertools.count()
        self._numbers = itertools.count(1)
        self.links = {}  # link number -> (node, other link number); a link has one number on each side
        self.nodes = [Node(peer, config) for peer in peers]
        for node in self.nodes:
            self.do(node, CommitSeen())

    @classmethod
    def made(cls, folder, count, config=None):
        """A world of new files."""
        return cls([Peer(folder / f"{number}.db", number) for number in range(count)], config)

    def close(self):
        for node in self.nodes:
            node.peer.close()

    # ---- what a test does

    def do(self, node, event):
        """Hands one event to a node, and carries out what it answers."""
        actions = node.exchange.handle(event, self.now, node.peer.wall_ms + self.now)
        for action in actions:
            match action:
                case Publish(payload):
                    self._publish(node, payload)
                case Send(link, payload):
                    node.sent.append((self.now, link, payload))
                    if action.deferrable:
                        node.deferrable.append((self.now, payload))
                    self._carry(link, payload)
                case DropLink(link, reason):
                    node.dropped.append((link, reason))
                    self.cut(link)
                case Notice():
                    node.notices.append(action)
        self._rearm(node)

    def write(self, node, script, *values):
        """An application's commit, noticed at once."""
        node.sql(script, *values)
        self.do(node, CommitSeen())

    def link(self, one, two):
        """Connects two nodes; returns the link's number at `one`."""
        here, there = next(self._numbers), next(self._numbers)
        self.links[here] = (one, there)
        self.links[there] = (two, here)
        self.do(one, LinkOpened(here, two.peer.node_id))
        self.do(two, LinkOpened(there, one.peer.node_id))
        return here

    def cut(self, link):
        """Both ends lose the link, and what is under way on it."""
        if link in self.links:
            node, other = self.links.pop(link)
            peer, _ = self.links.pop(other)
            self.do(node, LinkClosed(link))
            self.do(peer, LinkClosed(other))

    def run(self, ms):
        """Lets virtual time pass."""
        end = self.now + ms
        for _ in range(EVENTS_MAX):
            if not self._heap or self._heap[0][0] > end:
                self.now = end
                return
            self.now, _, act = heapq.heappop(self._heap)
            act()
        raise AssertionError(f"still busy after {EVENTS_MAX} events")

    def equal(self):
        digests = [node.peer.digests() for node in self.nodes]
        return all(other == digests[0] for other in digests)

    # ---- inside

    def _at(self, when, act):
        heapq.heappush(self._heap, (when, next(self._serial), act))

    def _publish(self, node, payload):
        if not self.publishing:
            return
        for link, (owner, other) in sorted(self.links.items()):
            if owner is node:
                self._deliver(link, BatchReceived(other, node.peer.node_id, payload))

    def _carry(self, link, payload):
        if link in self.links:
            self._deliver(link, MessageReceived(self.links[link][1], payload))

    def _deliver(self, link, event):
        def arrive():
            if link in self.links:
                self.do(self.links[self.links[link][1]][0], event)

        self._at(self.now + DELAY_MS, arrive)

    def _rearm(self, node):
        due = node.exchange.next_deadline()
        if due is None or (node.wake_at is not None and self.now <= node.wake_at <= due):
            return
        node.wake_at = max(due, self.now)

        def wake(at=node.wake_at):
            if node.wake_at != at:
                return  # an earlier deadline took its place
            node.wake_at = None
            if (node.exchange.next_deadline() or at) <= self.now:
                self.do(node, TimerFired())
            else:
                self._rearm(node)

        self._at(node.wake_at, wake)


class BusyFile:
    """Another program that holds the write lock of a node's file."""

    def __init__(self, node):
        node.peer.replica.store.db.set_busy_timeout(1)
        node.sql("BEGIN IMMEDIATE")
        self._node = node

    def release(self):
        self._node.sql("COMMIT")


__all__ = ["DELAY_MS", "BusyFile", "Node", "World"]
