"""Benchmarks of one link: the cost of framing, records and messages on top of the cipher.

Two cores are connected in memory. Their bytes are cut as sockets would cut them. The CPU time of each side counts by itself,
because in a mesh the sides are two machines.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from collections import deque
from typing import TYPE_CHECKING

import nacl.bindings

from mycomesh.mesh.core import MeshConfig, MeshCore
from mycomesh.mesh.events import (
    Address,
    AddressFound,
    Close,
    ConnOpened,
    ConnReceived,
    DeliverMessage,
    LinkUp,
    SendMessage,
    Write,
)
from mycomesh.mesh.membership.identity import Identity, create_mesh, make_identity
from mycomesh.mesh.session.noise import PLAINTEXT_BYTES_MAX
from mycomesh.tools.bench.files import BenchError

if TYPE_CHECKING:
    from mycomesh.mesh.events import Event

__all__ = ["handshake_ms", "link_throughput_ratio", "members"]

_ADDRESS = Address("127.0.0.1", 7447)
_CALLER = Address("127.0.0.1", 40_000)
MESSAGE_BYTES = 256 << 10  # the size of a catch-up's messages
READ_BYTES = 256 << 10  # the most that an event loop passes on at once
ROUND_MESSAGES = 100
ROUND_FRAMES = 400  # these have as many bytes


def members() -> tuple[Identity, Identity]:
    """Return two members of one mesh."""
    wall_ms = time.time_ns() // 1_000_000
    first, root_seed = create_mesh("bench", "here", entropy=os.urandom, wall_ms=wall_ms)
    second = make_identity(
        root_seed,
        mesh_name="bench",
        node_name="there",
        secret=first.secret,
        roles=("member",),
        entropy=os.urandom,
        not_before_s=wall_ms // 1000,
        lifetime_s=3600,
    )
    return first, second


def handshake_ms(first: Identity, second: Identity) -> float:
    """Return half of the CPU time that two cores use from the first byte until both have the link."""
    return sum(_Pair(first, second).cpu_s) * 1000 / 2


def link_throughput_ratio(rounds: int) -> float:
    """Return the slower side's bytes per second in messages of a catch-up, relative to libsodium's in frames of 64 KiB.

    It is the median of several rounds of both, because the speed of a shared machine varies from one second to the next.
    """
    pair = _Pair(*members())
    payload = os.urandom(MESSAGE_BYTES)  # random bytes, so that their memory is allocated as in a real catch-up
    data, nonce, key = bytes(PLAINTEXT_BYTES_MAX), bytes(12), bytes(32)
    ratios = []
    for turn in range(rounds + 1):
        pair.cpu_s = [0.0, 0.0]
        for _ in range(ROUND_MESSAGES):
            pair.send(payload)
        started = time.process_time()
        for _ in range(ROUND_FRAMES):
            nacl.bindings.crypto_aead_chacha20poly1305_ietf_encrypt(data, b"", nonce, key)
        raw = ROUND_FRAMES * PLAINTEXT_BYTES_MAX / (time.process_time() - started)
        if turn:  # the window opens during the first round
            ratios.append(ROUND_MESSAGES * MESSAGE_BYTES / max(pair.cpu_s) / raw)
    return statistics.median(ratios)


class _Pair:
    """Two cores with a link between them; `cpu_s` is the CPU time of each."""

    def __init__(self, caller: Identity, answerer: Identity) -> None:
        self._cores = tuple(
            MeshCore(each, entropy=os.urandom, rng=random.Random(os.urandom(16)), config=MeshConfig())
            for each in (caller, answerer)
        )
        self.cpu_s = [0.0, 0.0]
        self._links = self._delivered = 0
        self._events: deque[tuple[int, Event]] = deque()
        self._cores[0].handle(AddressFound(_ADDRESS), 0, 0)
        self._events.append((1, ConnOpened(1, _CALLER, dialled=False)))
        self._events.append((0, ConnOpened(1, _ADDRESS, dialled=True)))
        self._run()
        if self._links != 2:
            raise BenchError("a handshake of members failed")

    def send(self, payload: bytes) -> None:
        """Send one message from the first core to the second."""
        self._events.append((0, SendMessage(1, payload, 2)))
        before = self._delivered
        self._run()
        if self._delivered != before + 1:
            raise BenchError("a message was lost on a link")

    def _run(self) -> None:
        wall_ms = time.time_ns() // 1_000_000
        while self._events:
            side, event = self._events.popleft()
            started = time.process_time()
            actions = self._cores[side].handle(event, time.monotonic_ns() // 1_000_000, wall_ms)
            self.cpu_s[side] += time.process_time() - started
            for action in actions:
                match action:
                    case Write(_, data):
                        pieces = (data[at : at + READ_BYTES] for at in range(0, len(data), READ_BYTES))
                        self._events.extend((1 - side, ConnReceived(1, piece)) for piece in pieces)
                    case LinkUp():
                        self._links += 1
                    case DeliverMessage():
                        self._delivered += 1
                    case Close(_, reason):
                        raise BenchError(f"a link of members failed: {reason}")
                    case _:
                        pass
