"""Who links to whom: signed, versioned link-state records of every member, and what follows from them.

Owns the newest record of each node, this node's own record, and reachability. What always holds: a record is kept
only after its author's signature was checked; a node's newer record replaces its older one and never the other way
round; an edge counts only while the newest records of both of its ends name it, so a dead node drops out as soon as
its neighbours say so, and its record stays for people to see. Must not know: sessions, batches, addresses.

A node that meets a newer record of itself than its own (it restarted with a clock that went back) speaks with a
sequence beyond it, as SWIM's members refute (Das et al. 2002, section 4.2).
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
    from collections.abc import Iterable

    from mycomesh.mesh.membership.identity import Identity

__all__ = ["NEIGHBOURS_MAX", "NODES_MAX", "LinkState", "Neighbour", "Topology"]

NODES_MAX = 1_024  # records kept: a large mesh; at 300 bytes each a third of a megabyte
NEIGHBOURS_MAX = 64  # in one record: four times a full mesh of 16
RECORD_BYTES_MAX = 4_096  # 64 neighbours of 40 bytes, signature and head
SPACING_MS = 1_000  # between two records of one node: a flapping radio cannot flood the mesh
# And so much for each node of a large mesh: every record goes to everybody, so what a node hears a second stays the same.
SPACING_NODE_MS = 20
WALK_MS = 250  # how old the count of reachable nodes may be: while a mesh forms, every record would change it
WALK_NODE_MS = 5  # and so much for each node: each count takes longer, and one more or less decides nothing
BURST_RECORDS = 4  # of one node that are taken closer together: what was held up somewhere on the way
REFRESH_MS = 120_000  # a record is repeated so often, with its byte counts; it heals what was lost on the way
REFRESH_NODE_MS = 5_000  # and in a large mesh as much more rarely: 300 bytes in 5 s leave room on a radio of 4 kB/s
RTT_MS_MAX = 600_000  # more is no measurement
SEQUENCE_MAX = 2**63 - 1

_VERSION = 1
_HEAD = bytes((0x84, _VERSION, 0x50))  # of a record's body in CBOR: an array of 4, the version, 16 bytes
_DOMAIN = b"link-state"
_SIGNATURE_BYTES = 64
_ID_BYTES = 16
_NODE_AT = _SIGNATURE_BYTES + len(_HEAD)
_SEQUENCE_AT = _NODE_AT + _ID_BYTES


@dataclass(frozen=True, slots=True, order=True)
class Neighbour:
    """One end of a link as its node sees it: whom, how far (-1: not measured), how much since it stands."""

    node_id: bytes
    rtt_ms: int
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class LinkState:
    """What one node says about its links; `sequence` grows with each record and over restarts."""

    node_id: bytes
    sequence: int
    neighbours: tuple[Neighbour, ...]

    def encode(self) -> bytes:
        """The bytes under the signature."""
        rows = [(each.node_id, each.rtt_ms, each.sent_bytes, each.received_bytes) for each in self.neighbours]
        return wire.encode((_VERSION, self.node_id, self.sequence, rows))

    @classmethod
    def decode(cls, body: bytes) -> LinkState:
        """What `encode` wrote, or DecodeError. The signature is the caller's to check: he knows the author's key."""
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
    """A record as it was received, to be passed on unchanged, and when; `rate_ms` as `pace.paced` counts them."""

    state: LinkState
    raw: bytes
    received_ms: int
    rate_ms: int = 0

    @property
    def sequence(self) -> bytes:
        """The sequence as the record has it; where that is 9 bytes of canonical CBOR, their order is that of the numbers."""
        return self.raw[_SEQUENCE_AT : _SEQUENCE_AT + 9] if self.raw[_SEQUENCE_AT] == 0x1B else b""


class Topology:
    """The map of the mesh as this node knows it."""

    __slots__ = (
        "_adjacent",
        "_by_raw",
        "_changed",
        "_count",
        "_identity",
        "_published_ms",
        "_reachable",
        "_records",
        "_sequence",
        "_walked_ms",
    )

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._records: dict[bytes, _Record] = {}
        self._by_raw: dict[bytes, LinkState] = {}  # most of what a flood brings is here already
        self._adjacent: dict[bytes, dict[bytes, None]] = {}  # whom each node names
        self._reachable: dict[bytes, int] | None = None  # node -> hops; None: to be computed
        self._count = 1
        self._walked_ms: int | None = None
        self._sequence = 0
        self._changed = True
        self._published_ms: int | None = None

    # ---- our own record

    def on_links_changed(self) -> None:
        """Our links are not what our record says: tell the mesh when it is time."""
        self._changed = True

    def deadline(self) -> int:
        """When `tell` is due."""
        if self._published_ms is None:
            return 0
        return self._published_ms + (self.spacing_ms() if self._changed else self.refresh_ms())

    def spacing_ms(self) -> int:
        """How far apart records of one node are, at the least."""
        return self._spaced(SPACING_MS, SPACING_NODE_MS)

    def refresh_ms(self) -> int:
        """How often a record that has not changed is repeated."""
        return self._spaced(REFRESH_MS, REFRESH_NODE_MS)

    def make_record(self, neighbours: Iterable[Neighbour], now_ms: int, wall_ms: int) -> bytes:
        """Make and keep our next record; send the answer on every link."""
        # The wall clock makes sequences grow over restarts without anything stored; where it went back, `add` corrects.
        self._sequence = max(self._sequence + 1, min(max(wall_ms, 0), SEQUENCE_MAX // 2))
        nearest = sorted(neighbours)[:NEIGHBOURS_MAX]
        state = LinkState(self._identity.node_id, self._sequence, tuple(nearest))
        body = state.encode()
        raw = self._identity.sign(_DOMAIN, body) + body
        self._keep(_Record(state, raw, now_ms))
        self._changed = False
        self._published_ms = now_ms
        return raw

    # ---- records of others

    def peek(self, raw: bytes) -> tuple[bytes, LinkState | None]:
        """Of whom an unverified record is, and what it claims if that would be news. DecodeError if it is malformed.

        Of a record that is no news, the head alone is read: most of what a flood brings is known or older.
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
        """Keep a record if its author signed it, there is room and it has not told too many; whether to pass it on."""
        before = self._records.get(state.node_id)
        previous_ms = None if before is None else before.rate_ms
        rate_ms = admit_at_rate(previous_ms, now_ms, every_ms=SPACING_MS, at_once=BURST_RECORDS)
        if rate_ms is None:
            # A member that floods the mesh with records of itself is heard as often as any other, and nobody checks more.
            return False
        if not verify(node_key, _DOMAIN, raw[_SIGNATURE_BYTES:], raw[:_SIGNATURE_BYTES]):
            raise DecodeError("link-state was not signed by the node that it names")
        if state.node_id == self._identity.node_id:
            # Only we sign for us: this is from an earlier life. Everyone keeps it until we go beyond it.
            self._sequence = max(self._sequence, state.sequence)
            self._changed = True
            return False
        if len(self._records) >= NODES_MAX and state.node_id not in self._records:
            return False
        self._keep(_Record(state, raw, now_ms, rate_ms))
        return True

    def forget(self, node_id: bytes) -> None:
        """Drop a node that is no member any more."""
        known = self._records.pop(node_id, None)
        if known is not None:
            self._by_raw.pop(known.raw, None)
            self._adjacent.pop(node_id, None)
            self._reachable = None

    def versions(self) -> tuple[tuple[bytes, int], ...]:
        """The newest sequence of every node, to compare with a peer's."""
        return tuple((node_id, known.state.sequence) for node_id, known in self._records.items())

    def newer_than(self, versions: Iterable[tuple[bytes, int]]) -> list[bytes]:
        """The records that someone who holds `versions` lacks."""
        theirs = dict(versions)
        return [known.raw for node_id, known in self._records.items() if known.state.sequence > theirs.get(node_id, -1)]

    # ---- what follows

    def are_linked(self, left: bytes, right: bytes) -> bool:
        """Whether both ends say that there is a link between them."""
        return right in self._adjacent.get(left, ()) and left in self._adjacent.get(right, ())

    def hops(self, node_id: bytes) -> int | None:
        """How many links away a node is (0: ourselves), None where no path is known."""
        if self._reachable is None:
            self._reachable = self._walk()
        return self._reachable.get(node_id)

    def reachable_count(self, now_ms: int) -> int:
        """How many nodes can be reached, ourselves included, or could `WALK_MS` ago; longer ago in a large mesh."""
        every_ms = self._spaced(WALK_MS, WALK_NODE_MS)
        if self._reachable is None and (self._walked_ms is None or now_ms - self._walked_ms >= every_ms):
            self._walked_ms = now_ms
            self._reachable = self._walk()
        if self._reachable is not None:
            self._count = len(self._reachable)
        return self._count

    def degree(self, node_id: bytes) -> int:
        """How many neighbours a node claims."""
        return len(self._adjacent.get(node_id, ()))

    def state(self, node_id: bytes) -> LinkState | None:
        """The newest record of a node."""
        known = self._records.get(node_id)
        return None if known is None else known.state

    def received_ms(self, node_id: bytes) -> int | None:
        """When the newest record of a node came."""
        known = self._records.get(node_id)
        return None if known is None else known.received_ms

    def states(self) -> tuple[LinkState, ...]:
        """Every record, by node id: what draws the picture of the mesh."""
        return tuple(self._records[node_id].state for node_id in sorted(self._records))

    def _spaced(self, least_ms: int, node_ms: int) -> int:
        """How far apart things are that happen more rarely the larger the mesh is."""
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

    def _walk(self) -> dict[bytes, int]:
        """Breadth first from ourselves over edges that both ends name."""
        adjacent = self._adjacent
        hops = {self._identity.node_id: 0}
        front = [self._identity.node_id]
        away = 0
        while front:
            away += 1
            following: list[bytes] = []
            for node_id in front:
                for each in adjacent.get(node_id, ()):
                    # `node_id` names the edge; whether the other end names it too is what remains of `linked`.
                    if each not in hops and node_id in adjacent.get(each, ()):
                        hops[each] = away
                        following.append(each)
            front = following
        return hops


def _neighbour(row: Any) -> Neighbour:
    if type(row) is not list or [type(field) for field in row] != [bytes, int, int, int]:
        raise DecodeError("neighbour of a link-state is not [node id, rtt, sent, received]")
    node_id, rtt_ms, sent_bytes, received_bytes = row
    if len(node_id) != _ID_BYTES or not -1 <= rtt_ms <= RTT_MS_MAX or min(sent_bytes, received_bytes) < 0:
        raise DecodeError("neighbour of a link-state is out of its limits")
    return Neighbour(node_id, rtt_ms, sent_bytes, received_bytes)
