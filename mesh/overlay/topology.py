"""Link-state database: signed, versioned records of every member's links, and the reachability computed from them.

An edge counts only while the newest records of both of its ends name it. So a dead node becomes unreachable as soon as its
neighbours report it; its own record stays for the status. A node may receive a newer record of itself than its own, if it
restarted with a clock that went back. It then continues with a sequence above that one, as SWIM's members refute a suspicion.

Invariants: a record is kept only after its author's signature was checked, and a record never replaces a newer one.

Das, Gupta, Motivala: SWIM (2002), section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.membership.identity import verify
from mycomesh.mesh.rate_limit import admit_at_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mycomesh.mesh.membership.identity import Identity

__all__ = ["NEIGHBOURS_MAX", "NODES_MAX", "LinkState", "Neighbour", "Topology", "chosen_relay"]

NODES_MAX = 1_024  # records kept: a large mesh, and a third of a megabyte at 300 bytes each
NEIGHBOURS_MAX = 64  # in one record: four times a full mesh of 16
RECORD_BYTES_MAX = 4_096  # 64 neighbours of 40 bytes, signature and head
SPACING_MS = 1_000  # between two records of one node: a flapping radio cannot flood the mesh
# And this long for each node of a large mesh. Every record goes to every node, so the records that one receives per second stay
# the same.
SPACING_NODE_MS = 20
# A node whose links keep changing reports them this often, after so many records in a row: each record goes to every node. Links
# that are gone are reported sooner, because others rely on them.
FIRST_MS = 500  # from the first link to the first record, which has the links that come up with it
FIRST_PARTIAL_MS = 2_500  # of a node that keeps parts: it has few links, and seeks them in turn
RECORD_EVERY_MS = 10_000
RECORDS_AT_ONCE = 4
RECORDS_OF_LOSS_AT_ONCE = 16
WALK_MS = 250  # how old the count of reachable nodes may be: while a mesh forms, every record changes it
WALK_NODE_MS = 5  # and this much for each node: a count takes longer there, and one node more or less decides nothing
BURST_RECORDS = 4  # of one node, accepted at once: some link on the way may have delayed them
REFRESH_MS = 120_000  # a record is repeated this often, with new byte counts, in case an earlier one was lost
REFRESH_NODE_MS = 5_000  # or this long for each node: 300 bytes in 5 s leave room on a radio of 4 kB/s
RTT_MS_MAX = 600_000  # more is not a measurement
SEQUENCE_MAX = 2**63 - 1

_NEVER = 1 << 62
_VERSION = 1
_HEAD = bytes((0x84, _VERSION, 0x50))  # of a record's body in CBOR: an array of 4, the version, 16 bytes
_DOMAIN = b"link-state"
_SIGNATURE_BYTES = 64
_ID_BYTES = 16
_NODE_AT = _SIGNATURE_BYTES + len(_HEAD)
_SEQUENCE_AT = _NODE_AT + _ID_BYTES


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """One link as one of its ends reports it: the peer, the round trip (-1: not measured), bytes since the link is up.

    A circuit has no bytes: they are those of the links that carry it.
    """

    node_id: bytes
    rtt_ms: int
    sent_bytes: int
    received_bytes: int

    @property
    def is_circuit(self) -> bool:
        """True if other links carry this one."""
        return not self.sent_bytes and not self.received_bytes


@dataclass(frozen=True, slots=True)
class LinkState:
    """One node's report of its links. `sequence` grows with each record, across restarts too."""

    node_id: bytes
    sequence: int
    neighbours: tuple[Neighbour, ...]

    def encode(self) -> bytes:
        """Return the bytes that the signature covers."""
        rows = [(each.node_id, each.rtt_ms, each.sent_bytes, each.received_bytes) for each in self.neighbours]
        return wire.encode((_VERSION, self.node_id, self.sequence, rows))

    @classmethod
    def decode(cls, body: bytes) -> LinkState:
        """Decode a record body. The caller, who knows the author's key, checks the signature.

        Raises:
            DecodeError: the body is malformed or exceeds a limit.
        """
        node_id, sequence, rows = wire.decode_record(
            body, what="link-state", version=_VERSION, kinds=(bytes, int, list), bytes_max=RECORD_BYTES_MAX
        )
        if len(node_id) != _ID_BYTES or not 0 <= sequence <= SEQUENCE_MAX or len(rows) > NEIGHBOURS_MAX:
            raise DecodeError("link-state is out of its limits")
        neighbours = tuple(_neighbour(row) for row in rows)
        if any(left.node_id >= right.node_id for left, right in pairwise(neighbours)):
            raise DecodeError("neighbours of a link-state are not in order")
        return cls(node_id, sequence, neighbours)


@dataclass(slots=True)
class _Record:
    """A record as received, for relaying it unchanged, and when it came. `rate_ms` is the author's token bucket."""

    state: LinkState
    raw: bytes
    received_ms: int
    rate_ms: int = 0

    @property
    def sequence(self) -> bytes:
        """The encoded sequence if it has 9 bytes, else empty. Such encodings compare like the numbers (canonical CBOR)."""
        return self.raw[_SEQUENCE_AT : _SEQUENCE_AT + 9] if self.raw[_SEQUENCE_AT] == 0x1B else b""


class Topology:
    """The link-states that this node knows."""

    __slots__ = (
        "_adjacent",
        "_by_raw",
        "_changed",
        "_count",
        "_fewer",
        "_first_ms",
        "_identity",
        "_over_ms",
        "_published_ms",
        "_reachable",
        "_records",
        "_sequence",
        "_walked_ms",
        "version",
    )

    def __init__(self, identity: Identity, *, partial: bool = False) -> None:
        """Take this node's identity, and whether it keeps parts."""
        self._identity = identity
        self._first_ms = FIRST_PARTIAL_MS if partial else FIRST_MS
        self._records: dict[bytes, _Record] = {}
        self._by_raw: dict[bytes, LinkState] = {}  # most records of a flood are known already
        self._adjacent: dict[bytes, dict[bytes, None]] = {}  # the neighbours that each node reports
        self.version = 0  # increases when an edge has come or gone
        self._reachable: dict[bytes, int] | None = None  # node -> hops; None: to be computed
        self._count = 1
        self._walked_ms: int | None = None
        self._sequence = 0
        self._changed = False
        self._fewer = False  # a link is gone since our last record
        self._published_ms: int | None = None
        self._over_ms = 0  # token bucket of our records

    # ---- our own record

    def on_links_changed(self, now_ms: int, *, fewer: bool = False) -> None:
        """Note that our links differ from our record, so that the next record is due sooner; `fewer`: some link is gone."""
        if self._published_ms is None and not self._changed:
            self._published_ms = now_ms + self._first_ms - self.spacing_ms()
        self._changed = True
        self._fewer = self._fewer or fewer

    def deadline(self) -> int:
        """Return when `make_record` is due."""
        if self._published_ms is None:
            return _NEVER  # nobody asks for the links of a node that has none
        if not self._changed:
            return self._published_ms + self.refresh_ms()
        at_once = RECORDS_OF_LOSS_AT_ONCE if self._fewer else RECORDS_AT_ONCE
        return max(self._published_ms + self.spacing_ms(), self._over_ms - RECORD_EVERY_MS * (at_once - 1))

    def spacing_ms(self) -> int:
        """Return the least time between two records of one node."""
        return self._spaced(SPACING_MS, SPACING_NODE_MS)

    def refresh_ms(self) -> int:
        """Return how often an unchanged record is repeated."""
        return self._spaced(REFRESH_MS, REFRESH_NODE_MS)

    def make_record(self, neighbours: Iterable[Neighbour], now_ms: int, wall_ms: int) -> bytes:
        """Make our next record and keep it; return it signed, for sending on every link."""
        # By the wall clock, sequences grow across restarts without anything stored. If the clock went back, `add` corrects that.
        self._sequence = max(self._sequence + 1, min(max(wall_ms, 0), SEQUENCE_MAX // 2))
        nearest = sorted(neighbours)[:NEIGHBOURS_MAX]
        state = LinkState(self._identity.node_id, self._sequence, tuple(nearest))
        body = state.encode()
        raw = self._identity.sign(_DOMAIN, body) + body
        self._keep(_Record(state, raw, now_ms))
        self._changed = self._fewer = False
        self._published_ms = now_ms
        self._over_ms = max(self._over_ms, now_ms) + RECORD_EVERY_MS
        return raw

    # ---- records of others

    def peek(self, raw: bytes) -> tuple[bytes, LinkState | None]:
        """Return the claimed author of an unverified record, and its contents if the record is newer than the known one.

        For other records it reads only the head: most records of a flood are known or older.

        Raises:
            DecodeError: the record is malformed.
        """
        same = self._by_raw.get(raw)
        if same is not None:
            return same.node_id, None
        if not _SIGNATURE_BYTES < len(raw) <= RECORD_BYTES_MAX:
            raise DecodeError(f"link-state of {len(raw)} bytes")
        if raw.startswith(_HEAD, _SIGNATURE_BYTES):
            node_id = raw[_NODE_AT:_SEQUENCE_AT]
            known = self._records.get(node_id)
            if known is not None and raw[_SEQUENCE_AT : _SEQUENCE_AT + 9] <= known.sequence:
                return node_id, None
        state = LinkState.decode(raw[_SIGNATURE_BYTES:])
        known = self._records.get(state.node_id)
        return state.node_id, state if known is None or known.state.sequence < state.sequence else None

    def add(self, state: LinkState, raw: bytes, node_key: bytes, now_ms: int) -> bool:
        """Keep a newer record; return True if it should be relayed. An author that exceeds its rate is ignored.

        Raises:
            DecodeError: the author did not sign the record.
        """
        before = self._records.get(state.node_id)
        previous_ms = None if before is None else before.rate_ms
        rate_ms = admit_at_rate(previous_ms, now_ms, every_ms=SPACING_MS, at_once=BURST_RECORDS)
        if rate_ms is None:
            # A member that floods the mesh with its records is relayed as often as any other, and costs no more signature checks.
            return False
        if not verify(node_key, _DOMAIN, raw[_SIGNATURE_BYTES:], raw[:_SIGNATURE_BYTES]):
            raise DecodeError("link-state is not signed by the node that it names")
        if state.node_id == self._identity.node_id:
            # Only this node signs its records, so this one is from before a restart. All nodes keep it until we exceed its
            # sequence.
            self._sequence = max(self._sequence, state.sequence)
            self._changed = True
            return False
        if len(self._records) >= NODES_MAX and state.node_id not in self._records:
            return False
        self._keep(_Record(state, raw, now_ms, rate_ms))
        return True

    def forget(self, node_id: bytes) -> None:
        """Remove the record of a node that is not a member any more."""
        known = self._records.pop(node_id, None)
        if known is not None:
            self._by_raw.pop(known.raw, None)
            self._adjacent.pop(node_id, None)
            self._reachable = None
            self.version += 1

    def versions(self) -> tuple[tuple[bytes, int], ...]:
        """Return (node id, newest sequence) of every node, for comparing with a peer's."""
        return tuple((node_id, known.state.sequence) for node_id, known in self._records.items())

    def newer_than(self, versions: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """Return the records that a peer with `versions` lacks."""
        theirs = dict(versions)
        return [known.raw for node_id, known in self._records.items() if known.state.sequence > theirs.get(node_id, -1)]

    # ---- the graph

    def are_linked(self, left: bytes, right: bytes) -> bool:
        """Return True if both nodes report a link to each other."""
        return right in self._adjacent.get(left, ()) and left in self._adjacent.get(right, ())

    def hops(self, node_id: bytes) -> int | None:
        """Return the number of links to a node (0: this node), None if it is not reachable."""
        if self._reachable is None:
            self._reachable = self._walk()
        return self._reachable.get(node_id)

    def reachable_count(self, now_ms: int) -> int:
        """Return the number of reachable nodes, this node included. It may be `WALK_MS` old, and older in a large mesh."""
        every_ms = self._spaced(WALK_MS, WALK_NODE_MS)
        if self._reachable is None and (self._walked_ms is None or now_ms - self._walked_ms >= every_ms):
            self._walked_ms = now_ms
            self._reachable = self._walk()
        if self._reachable is not None:
            self._count = len(self._reachable)
        return self._count

    def relays(self, author: bytes, peer: bytes) -> list[bytes]:
        """Return the nodes between an author and a node two links away from it."""
        adjacent = self._adjacent
        theirs = adjacent.get(peer)
        if not theirs:
            return []
        return [each for each in adjacent.get(author, ()) if each in theirs and peer in adjacent.get(each, ())]

    def degree(self, node_id: bytes) -> int:
        """Return the number of neighbours that a node reports."""
        return len(self._adjacent.get(node_id, ()))

    def neighbours(self, node_id: bytes) -> Iterable[bytes]:
        """Return the neighbours that a node reports."""
        return self._adjacent.get(node_id, ())

    def state(self, node_id: bytes) -> LinkState | None:
        """Return the newest record of a node."""
        known = self._records.get(node_id)
        return None if known is None else known.state

    def received_ms(self, node_id: bytes) -> int | None:
        """Return when the newest record of a node arrived."""
        known = self._records.get(node_id)
        return None if known is None else known.received_ms

    def states(self) -> tuple[LinkState, ...]:
        """Return every record, ordered by node id."""
        return tuple(self._records[node_id].state for node_id in sorted(self._records))

    def _spaced(self, least_ms: int, node_ms: int) -> int:
        """Return an interval that grows with the size of the mesh."""
        return max(least_ms, node_ms * len(self._records))

    def _keep(self, known: _Record) -> None:
        node_id = known.state.node_id
        before = self._records.get(node_id)
        if before is not None:
            self._by_raw.pop(before.raw, None)
        self._records[node_id] = known
        self._by_raw[known.raw] = known.state
        adjacent = dict.fromkeys(each.node_id for each in known.state.neighbours)
        if self._adjacent.get(node_id) != adjacent:
            self._adjacent[node_id] = adjacent
            self._reachable = None
            self.version += 1

    def first_hop(self, wanted: Callable[[bytes], bool]) -> bytes | None:
        """Return the neighbour that begins a shortest way to the nearest other node that is wanted; None if none is reachable."""
        own, adjacent = self._identity.node_id, self._adjacent
        first: dict[bytes, bytes] = {own: own}
        front = [own]
        while front:
            following: list[bytes] = []
            for node_id in front:
                for each in adjacent.get(node_id, ()):
                    if each not in first and node_id in adjacent.get(each, ()):
                        first[each] = each if node_id == own else first[node_id]
                        if wanted(each):
                            return first[each]
                        following.append(each)
            front = following
        return None

    def _walk(self) -> dict[bytes, int]:
        """Return the hops to each reachable node: breadth first from this node, over edges that both ends name."""
        adjacent = self._adjacent
        hops = {self._identity.node_id: 0}
        front = [self._identity.node_id]
        away = 0
        while front:
            away += 1
            following: list[bytes] = []
            for node_id in front:
                for each in adjacent.get(node_id, ()):
                    # `node_id` names this edge. Check that the other end names it too, as `are_linked` does.
                    if each not in hops and node_id in adjacent.get(each, ()):
                        hops[each] = away
                        following.append(each)
            front = following
        return hops


def chosen_relay(relays: Iterable[bytes], raw: bytes) -> bytes:
    """Return which of several nodes relays a record to a node that all are linked with.

    Each record chooses another, so that no node can hold all of them back.
    """
    number = int.from_bytes(raw[:_ID_BYTES], "big")
    return min(relays, key=lambda node_id: int.from_bytes(node_id, "big") ^ number)


def _neighbour(row: Any) -> Neighbour:
    if type(row) is not list or [type(field) for field in row] != [bytes, int, int, int]:
        raise DecodeError("neighbour of a link-state is not [node id, rtt, sent, received]")
    node_id, rtt_ms, sent_bytes, received_bytes = row
    if len(node_id) != _ID_BYTES or not -1 <= rtt_ms <= RTT_MS_MAX or min(sent_bytes, received_bytes) < 0:
        raise DecodeError("neighbour of a link-state is out of its limits")
    return Neighbour(node_id, rtt_ms, sent_bytes, received_bytes)
