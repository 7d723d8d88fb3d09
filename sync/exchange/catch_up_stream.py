"""A catch-up stream: everything that this replica covers and one peer does not, in bounded chunks.

Owns the cursor. There is no long read transaction: a stream reads on until, within one short transaction, nothing is left
that the replica covers and the stream has not sent; only then is the replica's vector the peer's to adopt (ADR 0003). What
always holds: chunks go schema first, then what is urgent, by site and clock, and each says which windows it was read from. It
must not know links.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.replica import Replica
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX, FEED_ROWS_MAX, changes_in
from mycomesh.sync.wire.bundle import Bundle, Section

__all__ = ["FACTS_MAX", "CatchUpStream", "StreamChunk"]

# Facts in one chunk: each may have the receiver make a table, half a millisecond of its write lock (ADR 0012).
FACTS_MAX = 16


@dataclass(slots=True)
class StreamChunk:
    """One step: a bundle, or None with the vectors of a complete stream; and local batches drained on the way.

    `collected` tells for each table of a complete stream up to where its tombstones may be missing.
    """

    bundle: bytes | None = None
    rows: int = 0
    vectors: dict[str, Vector] = field(default_factory=dict)
    collected: dict[str, Vector] = field(default_factory=dict)
    published: list[bytes] = field(default_factory=list)


class CatchUpStream:
    """One peer's catch-up on some tables."""

    def __init__(self, replica: Replica, have: dict[str, Vector]) -> None:
        """`have` is what the peer covers, by table; it is moved on as chunks are made."""
        self._replica = replica
        self._urgent = replica.urgency.of
        self._sent = {name: vector.copy() for name, vector in have.items()}

    def estimate(self) -> int:
        """Return about how many changes the stream will hold."""
        tables = self._replica.tables
        return sum(
            changes_in(tables[name], site, window)
            for name, sent in sorted(self._sent.items())
            if name in tables
            for site, window in tables[name].vector.missing_from(sent)
        )

    def next(self, wall_ms: int) -> StreamChunk:
        """Return the next step; raises `DatabaseBusyError` with nothing lost."""
        chunk = StreamChunk()
        chunk.published = self._replica.settled(wall_ms, lambda: self._read(chunk))
        return chunk

    def _order(self, name: str) -> tuple[bool, bool, str]:
        return name != SCHEMA_TABLE, not self._urgent(name), name

    def _read(self, chunk: StreamChunk) -> None:
        sections: list[Section] = []
        size = 0
        for name in sorted(self._sent, key=self._order):
            if sections and not self._urgent(name) and self._urgent(sections[-1].table):
                break  # what is urgent does not wait for a whole chunk of what is not
            section = Section(name, [])
            rows_max = FACTS_MAX if name == SCHEMA_TABLE else FEED_ROWS_MAX
            for site, window in self._replica.vector(name).missing_from(self._sent[name]):
                part, reached, rows, weight = self._replica.read(
                    name, site, window, rows_max=rows_max - chunk.rows, bytes_max=FEED_BYTES_MAX - size
                )
                self._sent[name].add(site, window[0], reached)
                if part is not None:
                    section.groups += part.groups
                    section.ranges.append((site, window[0], reached))
                chunk.rows += rows
                size += weight
                if reached != window[1] or chunk.rows >= rows_max or size >= FEED_BYTES_MAX:
                    chunk.bundle = Bundle([*sections, section]).encode()
                    return
            if section.groups:
                sections.append(section)
        if sections:
            chunk.bundle = Bundle(sections).encode()
            return
        chunk.vectors = {name: self._replica.vector(name) for name in self._sent}
        chunk.collected = {name: self._replica.collected(name) for name in self._sent}
