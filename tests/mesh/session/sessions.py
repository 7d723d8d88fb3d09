"""Two ends of a session, joined in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.session.session import (
    Introduction,
    Keys,
    Phase,
    Received,
    Reply,
    Session,
)

MESH = bytes(16)
PSK = b"p" * 32
NOW = 1_000


@dataclass
class Doorman:
    """A gate that shows its name and admits everyone but those on its list."""

    name: bytes
    refuse: bytes | None = None
    seen: list[Introduction] = field(default_factory=list)

    def answer(self, psk: int) -> bytes:
        return self.name

    def admit(self, introduction: Introduction) -> bytes:
        self.seen.append(introduction)
        if introduction.payload == self.refuse:
            raise CertificateError("test", "not you")
        return self.name


def ends(*, psks=(PSK,), mesh=MESH, left_gate=None, right_gate=None, seed=1):
    """A session that calls, one that listens, and their gates."""
    rng = random.Random(seed)
    left_gate, right_gate = left_gate or Doorman(b"left"), right_gate or Doorman(b"right")
    left = Session(Keys(mesh, (PSK,), rng.randbytes(32)), left_gate, initiator=True, entropy=rng.randbytes)
    right = Session(Keys(MESH, psks, rng.randbytes(32)), right_gate, initiator=False, entropy=rng.randbytes)
    return left, right, left_gate, right_gate


def replies(steps):
    return b"".join(step.data for step in steps if isinstance(step, Reply))


def opened(seed=1):
    """Two sessions after their handshake."""
    left, right, _, _ = ends(seed=seed)
    answer = replies(right.receive(left.start(), NOW))
    right.receive(replies(left.receive(answer, NOW)), NOW)
    assert left.phase is right.phase is Phase.OPEN
    return left, right


def said(steps):
    """Steps by value: what was received as (payload, priority), whatever pieces it came in."""
    return [(step.payload, step.priority) if isinstance(step, Received) else step for step in steps]


def pump(left, right, now=NOW):
    """Carry bytes both ways until there are none; what each side received."""
    got = ([], [])
    while True:
        there, back = left.flush(), right.flush()
        if not there and not back:
            return got
        got[1].extend(right.receive(there, now))
        got[0].extend(left.receive(back, now))
