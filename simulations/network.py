"""The virtual network: streams like TCP between hosts, what cuts them, and address hints like those of mDNS.

Owns every byte on its way. What always holds: a stream delivers bytes in order and unchanged, cut anywhere, or
ends; what a cut holds back arrives after it heals (retransmission) or never (the stream ended first); a closed end
hears nothing more. Must not know sessions, tables or nodes: a host is an index and a `Host` to call. Loss,
reordering and duplication of packets are what TCP hides: here they are delay (retransmission) and resets.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from mycomesh.mesh.events import Address
from mycomesh.simulations.world import MS, SECOND, World

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PORT", "Conditions", "Host", "Network", "address_of"]

PORT = 4747
PACKET_BYTES = 1_448  # TCP payload of an Ethernet frame with timestamps: the unit that loss strikes
PIECE_US = SECOND // 4  # a write that a stream takes longer for arrives in pieces
READ_BYTES_MAX = 65_536  # one read of a socket, as asyncio does it
HIGH_WATER_BYTES = 262_144  # unsent bytes above which a sender waits: a kernel's send buffer and asyncio's 64 KiB
LOW_WATER_BYTES = 65_536  # and below which it hears that there is room again
RETRANSMIT_US = 200 * MS  # Linux's smallest retransmission timeout
RETRANSMIT_MAX_US = 60 * SECOND  # its backoff stays near this for the cuts that scenarios make
DOUBLINGS_MAX = 6  # one packet lost more often in a row than this is a cut, not loss
DIAL_TIMEOUT_US = 5 * SECOND  # an unanswered dial fails after this, as the daemon's does
HINT_US = (20 * MS, 1_500 * MS)  # mDNS: probes, random answer delay and aggregation


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every path of a network is like. Times in microseconds, probabilities from 0 to 1."""

    delay_us: int = 800  # one way, the fixed part: a Wi-Fi hop
    jitter_us: int = 1_200  # mean of the exponential part: contention and queues
    bandwidth_bytes_s: int = 2_000_000  # of one stream: a shared 802.11n cell
    loss: float = 0.0  # of one packet
    reset: float = 0.0  # that a write finds the stream broken (middleboxes, crashed adapters)
    cut: float = 0.05  # that a segment is cut in two at any byte
    range_m: float | None = None  # radio range; None where everybody hears everybody

    def __post_init__(self) -> None:
        for name in ("loss", "reset", "cut"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a probability: 0 <= {name} < 1, not {getattr(self, name)}")
        if self.delay_us < 0 or self.jitter_us < 0 or self.bandwidth_bytes_s <= 0:
            raise ValueError("delay and jitter may not be negative, bandwidth must be positive")


class Host(Protocol):
    """What the network calls: the shell of one node."""

    def on_opened(self, conn: int, address: Address, *, dialled: bool) -> None:
        """A stream stands."""

    def on_received(self, conn: int, data: bytes) -> None:
        """Bytes of a stream arrived."""

    def on_closed(self, conn: int) -> None:
        """A stream ended at the other side, or broke."""

    def on_drained(self, conn: int) -> None:
        """The send queue fell below its low-water mark."""

    def on_dial_failed(self, address: Address) -> None:
        """Nobody answered, or the port is closed."""

    def on_hint(self, address: Address, instance: str) -> None:
        """A service record of another host was heard."""


class Direction:
    """One way of one stream: bytes from host `source` to host `target`, whose end is called `conn` there."""

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
        self.busy_us = 0  # when the last queued byte has left
        self.due_us = 0  # when the last queued byte arrives: order is kept
        self.blocked_us = -1  # since when the way is cut; -1 while it is open
        self.alive = True  # the receiving end still listens


class Network:
    """All hosts, all streams, and the cuts between them."""

    def __init__(self, world: World, conditions: Conditions) -> None:
        self.conditions = conditions
        self.faults: Counter[str] = Counter()  # how often each kind of trouble really struck
        self.bytes_sent = 0
        self._world = world
        self._rng = world.stream("network")
        self._hosts: dict[int, Host] = {}  # those that are up
        self._sends: dict[int, dict[int, Direction]] = {}  # by host, by its own conn: the way out
        self._conns = 0
        self._reach = Reach(conditions.range_m)
        self._heard: dict[int, dict[int, None]] = {}

    # ---- hosts

    def attach(self, index: int, host: Host) -> None:
        """The host is up: it listens, announces itself and browses."""
        assert index not in self._hosts, "a host is attached once"
        self._hosts[index] = host
        self._sends[index] = {}
        self._heard[index] = {}
        self._announce()

    def detach(self, index: int, *, silent: bool) -> None:
        """The host is gone; a `silent` one (power cut) tells nobody, a dead process lets its kernel say so."""
        del self._hosts[index], self._heard[index]
        for conn in list(self._sends[index]):
            out = self._sends[index].pop(conn)
            out.reverse.alive = False
            if not silent:
                self._push(out, None)

    # ---- what nodes do

    def dial(self, index: int, address: Address) -> None:
        """Open a stream; the host hears `on_opened` or `on_dial_failed`."""
        target = index_of(address)
        if target is None or not self._reach.both(index, target):
            self.faults["dial_unanswered"] += 1
            self._world.after(DIAL_TIMEOUT_US, self._dial_failed, index, self._hosts[index], address)
            return
        self._world.after(self._delay_us(0), self._syn, index, self._hosts[index], target, address)

    def write(self, index: int, conn: int, data: bytes) -> None:
        """Append bytes to the stream; a stream that is gone swallows them, as a dead socket does."""
        out = self._sends[index].get(conn)
        if out is None:
            return
        self.bytes_sent += len(data)
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
        # The receiver of a slow stream hears every packet: a frame of seconds is no silence of seconds.
        piece = max(PACKET_BYTES, conditions.bandwidth_bytes_s * PIECE_US // SECOND)
        for at in range(0, len(data), piece):
            self._push(out, data[at : at + piece])

    def close(self, index: int, conn: int) -> None:
        """Flush and end the stream; this side hears nothing more of it."""
        out = self._sends[index].pop(conn, None)
        if out is not None:
            out.reverse.alive = False
            self._push(out, None)

    # ---- what scenarios do

    def split(self, groups: Iterable[Iterable[int]]) -> None:
        """Cut the network into groups; a host named in none of them is in a group of its own."""
        self.faults["split"] += 1
        self._reach.groups = {index: number for number, group in enumerate(groups) for index in group}
        self._changed()

    def heal(self) -> None:
        """Take every split, one-way cut and dead radio away; ranges stay."""
        self._reach.groups = {}
        self._reach.cuts = {}
        self._reach.silent = {}
        self._changed()

    def calm(self) -> None:
        """Heal, and be a good network from here on: no loss, no resets, everybody in range."""
        self.conditions = replace(self.conditions, loss=0.0, reset=0.0, range_m=None)
        self._reach.range_m = None
        self.heal()

    def cut(self, source: int, target: int, *, one_way: bool = True) -> None:
        """Nothing of `source` reaches `target` any more (nor the other way round, unless `one_way`)."""
        self.faults["cut_one_way" if one_way else "cut"] += 1
        self._reach.cuts[source, target] = None
        if not one_way:
            self._reach.cuts[target, source] = None
        self._changed()

    def radio(self, index: int, *, on: bool) -> None:
        """Switch one host's radio."""
        if on:
            self._reach.silent.pop(index, None)
        else:
            self.faults["radio_off"] += 1
            self._reach.silent[index] = None
        self._changed()

    def move(self, positions: dict[int, tuple[float, float]]) -> None:
        """Hosts stand here now (metres); with a radio range, links come and go."""
        self._reach.positions.update(positions)
        self._changed()

    def reset_one(self) -> None:
        """Break one stream, any."""
        ways = [way for index in self._hosts for way in self._sends[index].values()]
        if ways:
            self.faults["reset"] += 1
            self._break(ways[self._rng.randrange(len(ways))])

    def reachable(self, source: int, target: int) -> bool:
        """Whether a packet of `source` reaches `target`."""
        return self._reach.one(source, target)

    # ---- dialling

    def _syn(self, index: int, host: Host, target: int, address: Address) -> None:
        back_us = self._delay_us(0)
        if not self._reach.both(index, target):
            self.faults["dial_unanswered"] += 1
            self._world.after(DIAL_TIMEOUT_US, self._dial_failed, index, host, address)
            return
        answering = self._hosts.get(target)
        if answering is None:
            self.faults["dial_refused"] += 1
            self._world.after(back_us, self._dial_failed, index, host, address)
            return
        if self._hosts.get(index) is not host:
            return
        self._conns += 2
        out = Direction(index, target, self._conns)
        back = Direction(target, index, self._conns - 1)
        out.reverse, back.reverse = back, out
        self._sends[target][out.conn] = back
        self._sends[index][back.conn] = out
        # The dialler hears of it one hop later; its end exists at once so that the acceptor's first bytes queue behind.
        back.due_us = self._world.now_us + back_us
        self._world.at(back.due_us, self._dialled, index, host, back.conn, address)
        answering.on_opened(out.conn, Address(address_of(index).host, 49_152 + self._conns % 16_384), dialled=False)

    def _dialled(self, index: int, host: Host, conn: int, address: Address) -> None:
        if self._hosts.get(index) is host and conn in self._sends[index]:
            host.on_opened(conn, address, dialled=True)

    def _dial_failed(self, index: int, host: Host, address: Address) -> None:
        if self._hosts.get(index) is host:
            host.on_dial_failed(address)

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
        if out.blocked_us < 0 and not self._reach.one(out.source, out.target):
            out.blocked_us = now
        if out.blocked_us < 0:
            self._world.at(out.due_us, self._arrive, out)
        else:
            self.faults["held"] += 1

    def _arrive(self, out: Direction) -> None:
        """Deliver what is due on one way; a cut keeps it where it is."""
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
        host = self._hosts.get(out.target)
        if host is not None and parts:
            if out.alive:
                host.on_received(out.conn, parts[0] if len(parts) == 1 else b"".join(parts))
            else:
                self._refuse(out)
        if ended:
            self._ended(out)
        elif size:
            self._drained(out)

    def _ended(self, out: Direction) -> None:
        """The receiving end learns that the stream is over."""
        out.queue.clear()
        host = self._hosts.get(out.target)
        known = self._sends.get(out.target, {}).pop(out.conn, None)
        if host is not None and known is not None:
            out.alive = False
            host.on_closed(out.conn)

    def _refuse(self, out: Direction) -> None:
        """Bytes came for an end that is gone: the kernel answers with a reset (RFC 9293, section 3.5.2)."""
        if out.reverse.conn in self._sends.get(out.source, {}) and self._reach.one(out.target, out.source):
            self._world.after(self._delay_us(0), self._ended, out.reverse)

    def _drained(self, out: Direction) -> None:
        """Acknowledgements made room: tell the sender once, when it had been full."""
        if not out.full or out.queued > LOW_WATER_BYTES:
            return
        out.full = False
        conn = out.reverse.conn
        host = self._hosts.get(out.source)
        if host is not None and conn in self._sends[out.source]:
            host.on_drained(conn)

    def _break(self, out: Direction) -> None:
        """A reset: what is queued is lost, both ends hear of it (each when a packet can reach it)."""
        for way in (out, out.reverse):
            way.queue.clear()
            way.queued = 0
            self._push(way, None)

    # ---- cuts

    def _changed(self) -> None:
        """Reachability moved: hold or release every stream, and let hosts in reach hear each other."""
        now = self._world.now_us
        for index in self._sends:
            for out in list(self._sends[index].values()):
                open_ = self._reach.one(out.source, out.target)
                if open_ and out.blocked_us >= 0:
                    self._release(out, now)
                elif not open_ and out.blocked_us < 0:
                    out.blocked_us = now
        self._announce()

    def _release(self, out: Direction, now: int) -> None:
        """The way is open again: the sender's next retransmission, backed off while it was cut, gets through."""
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
        """Hosts in reach that have not heard each other do, after mDNS's delay."""
        everyone = len(self._hosts)
        for listener, heard in self._heard.items():
            if len(heard) >= everyone - 1 and all(other in heard for other in self._hosts if other != listener):
                continue
            for other in self._hosts:
                if other != listener and other not in heard and self._reach.one(other, listener):
                    heard[other] = None
                    delay = self._rng.randint(*HINT_US)
                    self._world.after(delay, self._hint, listener, self._hosts[listener], other)

    def _hint(self, listener: int, host: Host, other: int) -> None:
        if self._hosts.get(listener) is not host:
            return
        if other in self._hosts and self._reach.one(other, listener):
            host.on_hint(address_of(other), f"node{other}")
        else:
            self._heard[listener].pop(other, None)


class Reach:
    """Who can hear whom: groups of a split, one-way cuts, radios that are off, and distance."""

    __slots__ = ("cuts", "groups", "positions", "range_m", "silent")

    def __init__(self, range_m: float | None) -> None:
        self.range_m = range_m
        self.groups: dict[int, int] = {}
        self.cuts: dict[tuple[int, int], None] = {}
        self.silent: dict[int, None] = {}
        self.positions: dict[int, tuple[float, float]] = {}

    def one(self, source: int, target: int) -> bool:
        """Whether a packet of `source` reaches `target`."""
        if self.silent and (source in self.silent or target in self.silent):
            return False
        if self.groups and self.groups.get(source, -1 - source) != self.groups.get(target, -1 - target):
            return False
        if self.cuts and (source, target) in self.cuts:
            return False
        return self.range_m is None or self._near(source, target, self.range_m)

    def both(self, one: int, other: int) -> bool:
        """Whether a conversation is possible."""
        return self.one(one, other) and self.one(other, one)

    def _near(self, source: int, target: int, range_m: float) -> bool:
        here = self.positions.get(source)
        there = self.positions.get(target)
        if here is None or there is None:
            return True
        across, along = here[0] - there[0], here[1] - there[1]
        return across * across + along * along <= range_m * range_m


def address_of(index: int) -> Address:
    """The address of a host: one in 10.0.0.0/8."""
    return Address(f"10.{index >> 16 & 255}.{index >> 8 & 255}.{index & 255}", PORT)


def index_of(address: Address) -> int | None:
    """The host behind an address, None where there is none."""
    parts = address.host.split(".")
    if len(parts) != 4 or address.port != PORT or parts[0] != "10" or not all(part.isdecimal() for part in parts):
        return None
    return int(parts[1]) << 16 | int(parts[2]) << 8 | int(parts[3])
