"""Positions and vectors that a gateway keeps of its mailbox: how far it has read each stream, and what others can read there.

Two vectors a table. `inside` covers what is in the mailbox, from this node or another. `stated` covers what a reader has that has
followed this node's live stream to its end. The next run brings what this node covers beyond `inside`, and names what `inside`
has got beyond `stated`, which a reader must have from elsewhere.

The ledger is in the served file, so that a restored backup takes the positions back with the rows. It is written some seconds
late: an older one repeats changes, and loses none. Records of their own hold the part of `inside` beyond `stated`. They count
only beside the position with which they were written: an older version of this program writes positions, and leaves them.

Invariant: a record of `inside` counts only while this node covers it. So the node's next parcel brings all of it, whatever the
mailbox has lost since.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from mycomesh.sync import codec
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.wire import messages as wire

if TYPE_CHECKING:
    from mycomesh.sync.replica import Replica

__all__ = ["Ledger"]

_STORED_BYTES = 1 << 20
_KEY = "mailbox"
_BEYOND = "mailbox-inside"  # what `inside` has beyond `stated`


class Ledger:
    """The ledger of one mailbox. `own` is the last position of this node's live stream, 0 for none."""

    def __init__(self, url: str) -> None:
        place = blake2b(url.encode(), digest_size=8).hexdigest()
        self._key, self._beyond = f"{_KEY} {place}", f"{_BEYOND} {place}"
        self.own = 0
        self.passed: dict[bytes, int] = {}  # stream -> every envelope up to here was taken in, or is not needed
        self.stated: dict[str, Vector] = {}
        self.reading: dict[str, Vector] = {}  # what is in the mailbox, and comes into the file at the moment
        self.news = False  # something was taken in that no statement of this node covers
        self._inside: dict[str, Vector] = {}
        self._digests: dict[str, bytes] = {}  # of the vectors in `inside`
        self._recorded: dict[str, None] = {}  # tables whose record of `inside` in the file is not empty
        self._changed: dict[str, None] = {}  # tables to store
        self._passed_changed = False
        self._discarded: tuple[str, ...] = ()  # the records in the file that are void: beginnings of their names

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
        inside = self._inside.setdefault(table, Vector())
        if vector.missing_from(inside):
            inside.merge(vector)
            self._digests.pop(table, None)
            self._changed[table] = None

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

    def on_news(self) -> None:
        """Note that something was taken in, which the next statement covers."""
        self.news = self._passed_changed = True

    def on_said(self) -> None:
        """Note that a statement covers what was taken in."""
        self.news, self._passed_changed = False, True

    def forget(self) -> None:
        """Begin with a mailbox that holds nothing of this node. Positions go on, since readers remember theirs."""
        self.stated, self._inside, self._digests, self._recorded = {}, {}, {}, {}
        self._discarded, self._passed_changed = (f"{self._key} ", f"{self._beyond} "), True

    # ---- in the file

    def load(self, replica: Replica) -> None:
        """Read what the file has; begin at the start of what it lacks, or what was edited by hand."""
        try:
            own, *passed = codec.decode(replica.store.meta(self._key) or b"\x81\x00", bytes_max=_STORED_BYTES)
            self.own, self.passed = int(own), {bytes(stream): int(position) for stream, position in passed}
        except (DecodeError, TypeError, ValueError):
            self.own, self.passed = 0, {}
        is_valid, self.news = _stamp(replica.store.meta(self._beyond), self.own)
        self._discarded = () if is_valid else (f"{self._beyond} ",)
        for unit in replica.registry.units():  # a table, or one area of it
            for name, vector in _vectors(replica.store.meta(f"{self._key} {unit.name}")):
                self.on_stated(name, vector)
            for name, vector in _vectors(replica.store.meta(f"{self._beyond} {unit.name}")) if is_valid else ():
                self._recorded[name] = None
                if not vector.missing_from(replica.vector(name)):
                    self.on_read(name, vector)
        self._changed, self._passed_changed = {}, False

    def store(self, replica: Replica) -> None:
        """Write what has changed, in one transaction."""
        store = replica.store
        with store.transaction():
            for prefix in self._discarded:
                store.meta_forget(prefix)
            for table in self._changed:
                stated, beyond = self.stated.get(table), self._beyond_stated(table)
                if stated is not None:
                    store.meta_set(f"{self._key} {table}", _encoded(table, stated))
                if beyond.count or table in self._recorded:
                    store.meta_set(f"{self._beyond} {table}", _encoded(table, beyond))
                    self._recorded[table] = None
            streams = [[stream, position] for stream, position in sorted(self.passed.items())]
            store.meta_set(self._key, codec.encode([self.own, *streams]))
            store.meta_set(self._beyond, codec.encode([self.own, int(self.news)]))
        self._changed, self._passed_changed, self._discarded = {}, False, ()

    def _beyond_stated(self, table: str) -> Vector:
        beyond = Vector()
        for site, (after, upto) in self.inside(table).missing_from(self.stated.get(table, Vector())):
            beyond.add(site, after, upto)
        return beyond


def _encoded(table: str, vector: Vector) -> bytes:
    return wire.encode(wire.Vectors(((table, vector),)))


def _vectors(stored: object) -> tuple[tuple[str, Vector], ...]:
    """Return the vectors in a record, nothing for a record that was never written or was edited by hand."""
    if not isinstance(stored, bytes):
        return ()
    try:
        message = wire.decode(stored)
    except DecodeError:
        return ()
    return message.vectors if isinstance(message, wire.Vectors) else ()


def _stamp(stored: object, own: int) -> tuple[bool, bool]:
    """Return whether the records of `inside` belong to this position, and whether a statement is due."""
    try:
        position, news = codec.decode(stored, bytes_max=_STORED_BYTES) if isinstance(stored, bytes) else (None, 0)
    except (DecodeError, TypeError, ValueError):
        return False, False
    is_valid = isinstance(position, int) and position == own
    return is_valid, is_valid and news == 1
