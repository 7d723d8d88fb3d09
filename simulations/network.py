"""The virtual network: TCP-like streams between hosts, partitions, and address hints like those of mDNS.

A host is an index and an `Endpoint` to call. TCP hides the loss, reordering and duplication of packets, so they appear here as
delays (retransmission) and resets.

Invariants: a stream delivers bytes in order and unchanged, in segments of any size, or ends. Bytes that a cut stops arrive
after it heals (retransmission), or never if the stream ends first. A closed end receives nothing more.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mycomesh.mesh.events import Address
from mycomesh.simulations.world import MS, SECOND, World

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PORT", "Conditions", "Endpoint", "Network", "address_of"]

PORT = 4747
PACKET_BYTES = 1_448  # TCP payload of an Ethernet frame with timestamps: the unit of loss
PIECE_US = SECOND // 4  # a write that takes longer to transmit arrives in pieces
READ_BYTES_MAX = 65_536  # one read of a socket, as asyncio does it
HIGH_WATER_BYTES = 262_144  # unsent bytes above which a sender waits: a kernel's send buffer and asyncio's 64 KiB
LOW_WATER_BYTES = 65_536  # and below which it may send again
RETRANSMIT_US = 200 * MS  # Linux's smallest retransmission timeout
RETRANSMIT_MAX_US = 60 * SECOND  # limit of its backoff in cuts as long as those of scenarios
DOUBLINGS_MAX = 6  # of the timeout: more losses of one packet in a row would be a cut
DIAL_TIMEOUT_US = 5 * SECOND  # an unanswered dial fails after this, as the daemon's does
HINT_US = (20 * MS, 1_500 * MS)  # mDNS: probes, random answer delay and aggregation


@dataclass(frozen=True, slots=True)
class Conditions:
    """The quality of every path of a network. Times in microseconds, probabilities from 0 to 1."""

    delay_us: int = 800  # one way, the fixed part: a Wi-Fi hop
    jitter_us: int = 1_200  # mean of the exponential part: contention and queues
    bandwidth_bytes_s: int = 2_000_000  # of one stream: a shared 802.11n cell
    loss: float = 0.0  # of one packet
    reset: float = 0.0  # probability that a write finds the stream broken (middleboxes, crashed adapters)
    cut: float = 0.05  # probability that a segment is split in two at a random byte
    range_m: float | None = None  # radio range; None if all hosts reach each other

    def __post_init__(self) -> None:
        for name in ("loss", "reset", "cut"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be a probability, 0 <= {name} < 1, not {getattr(self, name)}")
        if self.delay_us < 0 or self.jitter_us < 0 or self.bandwidth_bytes_s <= 0:
            raise ValueError("delay and jitter must not be negative, and bandwidth must be positive")


class Endpoint(Protocol):
    """The interface that the network calls: the shell of one node."""

    def on_opened(self, conn: int, address: Address, *, dialled: bool) -> None:
        """Handle a new stream."""

    def on_received(self, conn: int, data: bytes) -> None:
        """Handle bytes of a stream."""

    def on_closed(self, conn: int) -> None:
        """Handle a stream that the other side ended, or that broke."""

    def on_drained(self, conn: int) -> None:
        """Handle a send queue that fell below `LOW_WATER_BYTES`."""

    def on_dial_failed(self, address: Address) -> None:
        """Handle a dial without an answer, or to a closed port."""

    def on_hint(self, address: Address, instance: str) -> None:
        """Handle a service record of another host."""


class Direction:
    """One direction of a stream: bytes from host `source` to host `target`, which knows its end as `conn`."""

    __slots__ = (
        "alive",
        "blocked_us",
        "busy_us",
        "conn",
        "due_us",
        "full",
        "queue",
        "queued",
        "reverse",
        "source",
        "target",
    )

    def __init__(self, source: int, target: int, conn: int) -> None:
        self.source = source
        self.target = target
        self.conn = conn
        self.reverse: Direction = self
        self.queue: deque[tuple[int, bytes | None]] = deque()  # (arrival, bytes), None is the end of the stream
        self.queued = 0
        self.full = False
        self.busy_us = 0  # when the last queued byte leaves
        self.due_us = 0  # when the last queued byte arrives; a later one cannot arrive before
        self.blocked_us = -1  # the time of the cut; -1 while the direction is open
        self.alive = True  # the receiving end is open


class Network:
    """All hosts, all streams, and the cuts between them."""

    def __init__(self, world: World, conditions: Conditions) -> None:
        self.conditions = conditions
        self.faults: Counter[str] = Counter()  # how often each kind of fault took effect
        self.bytes_sent = 0
        self.received: Counter[int] = Counter()  # bytes sent to each host
        self._world = world
        self._rng = world.stream("network")
        self._endpoints: dict[int, Endpoint] = {}  # of the hosts that are up
        self._sends: dict[int, dict[int, Direction]] = {}  # by host and its own conn: the outgoing direction
        self._conns = 0
        self._reachability = Reachability(conditions.range_m)
        self._hinted: dict[int, dict[int, None]] = {}

    # ---- hosts

    def attach(self, index: int, endpoint: Endpoint) -> None:
        """Add a host that is up, listens, announces itself and browses."""
        assert index not in self._endpoints, "the host is attached already"
        self._endpoints[index] = endpoint
        self._sends[index] = {}
        self._hinted[index] = {}
        self._announce()

    def detach(self, index: int, *, silent: bool) -> None:
        """Remove a host. Its kernel ends the streams, unless the end is `silent`, as in a power cut."""
        del self._endpoints[index], self._hinted[index]
        for conn in list(self._sends[index]):
            out = self._sends[index].pop(conn)
            out.reverse.alive = False
            if not silent:
                self._push(out, None)

    # ---- calls by nodes

    def dial(self, index: int, address: Address) -> None:
        """Open a stream; the endpoint gets `on_opened` or `on_dial_failed`."""
        target = index_of(address)
        if target is None or not self._reachability.connects(index, target):
            self.faults["dial_unanswered"] += 1
            self._world.after(DIAL_TIMEOUT_US, self._on_dial_failure, index, self._endpoints[index], address)
            return
        self._world.after(self._delay_us(0), self._syn, index, self._endpoints[index], target, address)

    def write(self, index: int, conn: int, data: bytes) -> None:
        """Append bytes to the stream; drop them if the stream has ended, as a closed socket does."""
        out = self._sends[index].get(conn)
        if out is None:
            return
        self.bytes_sent += len(data)
        self.received[out.target] += len(data)
        conditions = self.conditions
        if conditions.reset and self._rng.random() < conditions.reset:
            self.faults["reset"] += 1
            self._break(out)
            return
        if conditions.cut and len(data) > 1 and self._rng.random() < conditions.cut:
            at = self._rng.randrange(1, len(data))
            self._push(out, data[:at])
            self._push(out, data[at:])
            return
        # The receiver of a slow stream sees every packet, so a frame that takes seconds is not a silence of seconds.
        piece = max(PACKET_BYTES, conditions.bandwidth_bytes_s * PIECE_US // SECOND)
        for at in range(0, len(data), piece):
            self._push(out, data[at : at + piece])

    def close(self, index: int, conn: int) -> None:
        """Flush and end the stream; this side receives nothing more from it."""
        out = self._sends[index].pop(conn, None)
        if out is not None:
            out.reverse.alive = False
            self._push(out, None)

    # ---- calls by scenarios

    def split(self, groups: Iterable[Iterable[int]]) -> None:
        """Partition the network into groups; a host in none of them is alone."""
        self.faults["split"] += 1
        self._reachability.groups = {index: number for number, group in enumerate(groups) for index in group}
        self._on_reachability_changed()

    def separate(self, bases: Iterable[Iterable[int]]) -> None:
        """Keep these groups of hosts apart for good, also when all faults end."""
        self._reachability.bases = {index: number for number, base in enumerate(bases) for index in base}

    def heal(self) -> None:
        """End all splits, cuts and switched-off radios; ranges stay."""
        self._reachability.groups = {}
        self._reachability.cuts = {}
        self._reachability.radios_off = {}
        self._on_reachability_changed()

    def calm(self, *, lasting_range: bool = False) -> None:
        """Heal, and stop loss and resets from now on, and range limits unless they last."""
        self.conditions = replace(self.conditions, loss=0.0, reset=0.0)
        if not lasting_range:
            self.conditions = replace(self.conditions, range_m=None)
            self._reachability.range_m = None
        self.heal()

    def cut(self, source: int, target: int, *, one_way: bool = True) -> None:
        """Stop all packets from `source` to `target`, and in the other direction unless `one_way`."""
        self.faults["cut_one_way" if one_way else "cut"] += 1
        self._reachability.cuts[source, target] = None
        if not one_way:
            self._reachability.cuts[target, source] = None
        self._on_reachability_changed()

    def radio(self, index: int, *, on: bool) -> None:
        """Switch one host's radio on or off."""
        if on:
            self._reachability.radios_off.pop(index, None)
        else:
            self.faults["radio_off"] += 1
            self._reachability.radios_off[index] = None
        self._on_reachability_changed()

    def move(self, positions: dict[int, tuple[float, float]]) -> None:
        """Set positions in metres; with a radio range, this changes who reaches whom."""
        self._reachability.positions.update(positions)
        self._on_reachability_changed()

    def reset_any(self) -> None:
        """Break one random stream."""
        directions = [out for index in self._endpoints for out in self._sends[index].values()]
        if directions:
            self.faults["reset"] += 1
            self._break(directions[self._rng.randrange(len(directions))])

    def reachable(self, source: int, target: int) -> bool:
        """Return whether a packet from `source` reaches `target`."""
        return self._reachability.reaches(source, target)

    # ---- dialling

    def _syn(self, index: int, endpoint: Endpoint, target: int, address: Address) -> None:
        back_us = self._delay_us(0)
        if not self._reachability.connects(index, target):
            self.faults["dial_unanswered"] += 1
            self._world.after(DIAL_TIMEOUT_US, self._on_dial_failure, index, endpoint, address)
            return
        answering = self._endpoints.get(target)
        if answering is None:
            self.faults["dial_refused"] += 1
            self._world.after(back_us, self._on_dial_failure, index, endpoint, address)
            return
        if self._endpoints.get(index) is not endpoint:
            return
        self._conns += 2
        out = Direction(index, target, self._conns)
        back = Direction(target, index, self._conns - 1)
        out.reverse, back.reverse = back, out
        self._sends[target][out.conn] = back
        self._sends[index][back.conn] = out
        # The dialler learns about the stream one hop later. Its end exists at once, so the acceptor's first bytes queue there.
        back.due_us = self._world.now_us + back_us
        self._world.at(back.due_us, self._on_dial_success, index, endpoint, back.conn, address)
        answering.on_opened(out.conn, Address(address_of(index).host, 49_152 + self._conns % 16_384), dialled=False)

    def _on_dial_success(self, index: int, endpoint: Endpoint, conn: int, address: Address) -> None:
        if self._endpoints.get(index) is endpoint and conn in self._sends[index]:
            endpoint.on_opened(conn, address, dialled=True)

    def _on_dial_failure(self, index: int, endpoint: Endpoint, address: Address) -> None:
        if self._endpoints.get(index) is endpoint:
            endpoint.on_dial_failed(address)

    # ---- streams

    def _delay_us(self, size: int) -> int:
        conditions = self.conditions
        delay = conditions.delay_us
        if conditions.jitter_us:
            delay += int(self._rng.expovariate(1.0) * conditions.jitter_us)
        if conditions.loss:
            packets = 1 + size // PACKET_BYTES
            lost = self._rng.random() > (1 - conditions.loss) ** packets
            doublings = 0
            while lost and doublings < DOUBLINGS_MAX:
                self.faults["loss"] += 1
                delay += RETRANSMIT_US << doublings
                doublings += 1
                lost = self._rng.random() < conditions.loss
        return delay

    def _push(self, out: Direction, data: bytes | None) -> None:
        """Queue a segment, or the end of the stream (None)."""
        now = self._world.now_us
        size = len(data) if data is not None else 0
        out.busy_us = max(now, out.busy_us) + size * SECOND // self.conditions.bandwidth_bytes_s
        out.due_us = max(out.due_us, out.busy_us + self._delay_us(size))
        out.queue.append((out.due_us, data))
        out.queued += size
        out.full = out.full or out.queued > HIGH_WATER_BYTES
        if out.blocked_us < 0 and not self._reachability.reaches(out.source, out.target):
            out.blocked_us = now
        if out.blocked_us < 0:
            self._world.at(out.due_us, self._arrive, out)
        else:
            self.faults["held"] += 1

    def _arrive(self, out: Direction) -> None:
        """Deliver the bytes that are due in one direction, unless it is cut."""
        now = self._world.now_us
        if out.blocked_us >= 0:
            return
        parts: list[bytes] = []
        size = 0
        ended = False
        while out.queue and out.queue[0][0] <= now and not ended and size < READ_BYTES_MAX:
            data = out.queue.popleft()[1]
            if data is None:
                ended = True
            else:
                parts.append(data)
                size += len(data)
        if out.queue and out.queue[0][0] <= now and not ended:
            self._world.at(now, self._arrive, out)
        out.queued -= size
        endpoint = self._endpoints.get(out.target)
        if endpoint is not None and parts:
            if out.alive:
                endpoint.on_received(out.conn, parts[0] if len(parts) == 1 else b"".join(parts))
            else:
                self._refuse(out)
        if ended:
            self._on_stream_end(out)
        elif size:
            self._notify_drained(out)

    def _on_stream_end(self, out: Direction) -> None:
        """Tell the receiving end that the stream has ended."""
        out.queue.clear()
        endpoint = self._endpoints.get(out.target)
        known = self._sends.get(out.target, {}).pop(out.conn, None)
        if endpoint is not None and known is not None:
            out.alive = False
            endpoint.on_closed(out.conn)

    def _refuse(self, out: Direction) -> None:
        """Answer bytes for a closed end with a reset, as a kernel does (RFC 9293, section 3.5.2)."""
        if out.reverse.conn in self._sends.get(out.source, {}) and self._reachability.reaches(out.target, out.source):
            self._world.after(self._delay_us(0), self._on_stream_end, out.reverse)

    def _notify_drained(self, out: Direction) -> None:
        """Tell a sender whose queue was full, once, that it may send again."""
        if not out.full or out.queued > LOW_WATER_BYTES:
            return
        out.full = False
        conn = out.reverse.conn
        endpoint = self._endpoints.get(out.source)
        if endpoint is not None and conn in self._sends[out.source]:
            endpoint.on_drained(conn)

    def _break(self, out: Direction) -> None:
        """Reset a stream: queued bytes are lost, and each end learns about it when a packet can reach it."""
        for direction in (out, out.reverse):
            direction.queue.clear()
            direction.queued = 0
            self._push(direction, None)

    # ---- cuts

    def _on_reachability_changed(self) -> None:
        """Block or release every stream, and let hosts that reach each other discover each other."""
        now = self._world.now_us
        for index in self._sends:
            for out in list(self._sends[index].values()):
                open_ = self._reachability.reaches(out.source, out.target)
                if open_ and out.blocked_us >= 0:
                    self._release(out, now)
                elif not open_ and out.blocked_us < 0:
                    out.blocked_us = now
        self._announce()

    def _release(self, out: Direction, now: int) -> None:
        """Reopen a direction; the sender's next retransmission, backed off during the cut, gets through."""
        waited = min(now - out.blocked_us, RETRANSMIT_MAX_US)
        out.blocked_us = -1
        if not out.queue:
            return
        at = now + RETRANSMIT_US + int(self._rng.random() * waited)
        out.queue = deque((max(at, due), data) for due, data in out.queue)
        out.due_us = max(out.due_us, at)
        for due in dict.fromkeys(due for due, _ in out.queue):
            self._world.at(due, self._arrive, out)

    # ---- discovery

    def _announce(self) -> None:
        """Plan hints between hosts that reach each other and have had none, after mDNS's delay."""
        bases = self._reachability.bases
        near: dict[int | None, list[int]] = {}  # by base: 1,000 bases have a million pairs that never reach each other
        for host in self._endpoints:
            near.setdefault(bases.get(host), []).append(host)
        for listener, hinted in self._hinted.items():
            others = near[bases.get(listener)]
            if len(hinted) >= len(others) - 1 and all(other in hinted for other in others if other != listener):
                continue
            for other in others:
                if other != listener and other not in hinted and self._reachability.reaches(other, listener):
                    hinted[other] = None
                    delay = self._rng.randint(*HINT_US)
                    self._world.after(delay, self._hint, listener, self._endpoints[listener], other)

    def _hint(self, listener: int, endpoint: Endpoint, other: int) -> None:
        if self._endpoints.get(listener) is not endpoint:
            return
        if other in self._endpoints and self._reachability.reaches(other, listener):
            endpoint.on_hint(address_of(other), f"node{other}")
        else:
            self._hinted[listener].pop(other, None)


class Reachability:
    """Which hosts reach which: groups of a split, cuts, radios that are off, and distance."""

    __slots__ = ("bases", "cuts", "groups", "positions", "radios_off", "range_m")

    def __init__(self, range_m: float | None) -> None:
        self.range_m = range_m
        self.bases: dict[int, int] = {}  # no packet ever passes between two of them
        self.groups: dict[int, int] = {}
        self.cuts: dict[tuple[int, int], None] = {}
        self.radios_off: dict[int, None] = {}
        self.positions: dict[int, tuple[float, float]] = {}

    def reaches(self, source: int, target: int) -> bool:
        """Return whether a packet from `source` reaches `target`."""
        if self.radios_off and (source in self.radios_off or target in self.radios_off):
            return False
        if self.bases and self.bases.get(source) != self.bases.get(target):
            return False
        if self.groups and self.groups.get(source, -1 - source) != self.groups.get(target, -1 - target):
            return False
        if self.cuts and (source, target) in self.cuts:
            return False
        return self.range_m is None or self._near(source, target, self.range_m)

    def connects(self, one: int, other: int) -> bool:
        """Return whether packets pass in both directions."""
        return self.reaches(one, other) and self.reaches(other, one)

    def _near(self, source: int, target: int, range_m: float) -> bool:
        here = self.positions.get(source)
        there = self.positions.get(target)
        if here is None or there is None:
            return True
        across, along = here[0] - there[0], here[1] - there[1]
        return across * across + along * along <= range_m * range_m


def address_of(index: int) -> Address:
    """Return the address of a host, in 10.0.0.0/8."""
    return Address(f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}", PORT)


def index_of(address: Address) -> int | None:
    """Return the host with this address, None if there can be none."""
    parts = address.host.split(".")
    if len(parts) != 4 or address.port != PORT or parts[0] != "10" or not all(part.isdecimal() for part in parts):
        return None
    return int(parts[1]) << 16 | int(parts[2]) << 8 | int(parts[3])
