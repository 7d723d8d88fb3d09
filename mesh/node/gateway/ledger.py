"""Positions and vectors that a gateway keeps of its mailbox: how far it has read each stream, and what others can read there.

Two vectors a table. `inside` covers what is in the mailbox, from this node or another. `stated` covers what a reader has that has
followed this node's live stream to its end. The next run brings what this node covers beyond `inside`, and names what `inside`
has got beyond `stated`, which a reader must have from elsewhere.

The ledger is in the served file, so that a restored backup takes the positions back with the rows. It is written some seconds
late: an older one repeats changes, and loses none.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.sync import codec
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire import messages as wire

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.sync.replica import Replica

__all__ = ["Ledger"]

_STORED_BYTES = 1 << 20
_KEY = "mailbox"


class Ledger:
    """The ledger of one mailbox. `own` is the last position of this node's live stream, 0 for none."""

    def __init__(self, url: str) -> None:
        self._key = f"{_KEY} {blake2b(url.encode(), digest_size=8).hexdigest()}"
        self.own = 0
        self.passed: dict[bytes, int] = {}  # stream -> every envelope up to here was taken in, or is not needed
        self.stated: dict[str, Vector] = {}
        self.reading: dict[str, Vector] = {}  # what is in the mailbox, and comes into the file at the moment
        self._inside: dict[str, Vector] = {}
        self._digests: dict[str, bytes] = {}  # of the vectors in `inside`
        self._changed: dict[str, None] = {}  # tables to store
        self._passed_changed = False

    @property
    def is_changed(self) -> bool:
        """True if the file lacks something of this."""
        return self._passed_changed or bool(self._changed)

    def inside(self, table: str) -> Vector:
        """Return what is in the mailbox of a table; do not change it."""
        return self._inside.get(table) or Vector()

    def held(self, table: str) -> Vector:
        """Return a copy of what is in the mailbox of a table, also of what this node has only in part so far."""
        found = self.inside(table).copy()
        found.merge(self.reading.get(table, Vector()))
        return found

    def holds(self, table: str, digest: bytes) -> bool:
        """Return whether the vector with this digest is what the mailbox holds of a table."""
        if table not in self._digests:
            self._digests[table] = self.inside(table).digest()
        return self._digests[table] == digest

    def on_read(self, table: str, vector: Vector) -> None:
        """Note that the mailbox holds this, and that this node has it."""
        self._inside.setdefault(table, Vector()).merge(vector)
        self._digests.pop(table, None)

    def on_stated(self, table: str, vector: Vector) -> None:
        """Note that this node's live stream has brought its readers to this vector."""
        self.stated[table] = vector
        self._changed[table] = None
        self.on_read(table, vector)

    def on_own(self, position: int) -> None:
        """Note the last position of this node's live stream."""
        self.own = position
        self._passed_changed = True

    def on_passed(self, stream: bytes, position: int) -> None:
        """Note that a stream was read up to here."""
        self.passed[stream] = position
        self._passed_changed = True

    def forget(self) -> None:
        """Begin with a mailbox that holds nothing of this node. Positions go on, since readers remember theirs."""
        self.stated, self._inside, self._digests = {}, {}, {}

    # ---- in the file

    def load(self, replica: Replica) -> None:
        """Read what the file has; begin at the start of what it lacks, or what was edited by hand."""
        try:
            own, *passed = codec.decode(replica.store.meta(self._key) or b"\x81\x00", bytes_max=_STORED_BYTES)
            self.own, self.passed = int(own), {bytes(stream): int(position) for stream, position in passed}
        except (DecodeError, TypeError, ValueError):
            self.own, self.passed = 0, {}
        for unit in replica.registry.units():  # a table, or one area of it
            stored = replica.store.meta(f"{self._key} {unit.name}")
            if isinstance(stored, bytes):
                try:
                    message = wire.decode(stored)
                except DecodeError:
                    continue
                if isinstance(message, wire.Vectors):
                    for name, vector in message.vectors:
                        self.on_stated(name, vector)
        self._changed, self._passed_changed = {}, False

    def store(self, replica: Replica) -> None:
        """Write what has changed, in one transaction."""
        with replica.store.transaction():
            for table in self._changed:
                replica.store.meta_set(f"{self._key} {table}", _encoded(table, self.stated))
            streams = [[stream, position] for stream, position in sorted(self.passed.items())]
            replica.store.meta_set(self._key, codec.encode([self.own, *streams]))
        self._changed, self._passed_changed = {}, False


def _encoded(table: str, vectors: Mapping[str, Vector]) -> bytes:
    return wire.encode(wire.Vectors(((table, vectors[table]),)))
