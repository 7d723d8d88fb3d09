"""Catch-up stream: everything that this replica covers and one peer does not, in bounded chunks.

There is no long read transaction. The stream reads on until one short transaction finds nothing that the replica covers and
the stream has not sent. Only then may the peer take the replica's vector (ADR 0003).

Chunks contain the schema first, then urgent tables, then the others; within a table by site and clock. Each chunk names the
windows from which it was read, so that a stream which breaks off need not start again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.merge import tombstones
from mycomesh.sync.replica import Replica
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX, FEED_ROWS_MAX, changes_in, read_range
from mycomesh.sync.wire.bundle import SECTIONS_MAX, Bundle, Section

__all__ = ["FACTS_MAX", "ROUND_RANGES_MAX", "CatchUpStream", "StreamChunk", "fitting"]

# Schema facts in one chunk. For each the receiver may create a table; it makes seven in a transaction (ADR 0012).
FACTS_MAX = 14
# Ranges in the vectors of one round, whose Done must fit `PARTS_BYTES_MAX`: a thousand tables of 64 sites.
ROUND_RANGES_MAX = 65_536


def fitting(replica: Replica, names: Iterable[str]) -> list[str]:
    """Return the first of these tables that one round has room for, the schema before others; at least one."""
    found: list[str] = []
    ranges = 0
    for name in sorted(names, key=lambda name: (name != SCHEMA_TABLE, name)):
        unit = replica.registry.unit(name)
        ranges += 0 if unit is None else unit.vector.count
        if found and ranges > ROUND_RANGES_MAX:
            break
        found.append(name)
    return sorted(found)


@dataclass(slots=True)
class StreamChunk:
    """One chunk, or the end of the stream, which has no bundle.

    bundle: an encoded bundle.
    rows: how many changes it has.
    urgent: whether it has rows of urgent tables alone.
    vectors: at the end, the vectors that the peer may take, by table.
    collected: at the end, the clocks up to which tombstones may be missing in the stream, by table.
    published: batches of local writes that were drained on the way.
    windows: the windows that it was read from, (table, site, after, upto) each.
    """

    bundle: bytes | None = None
    rows: int = 0
    urgent: bool = False
    vectors: dict[str, Vector] = field(default_factory=dict)
    collected: dict[str, Vector] = field(default_factory=dict)
    published: list[bytes] = field(default_factory=list)
    windows: list[tuple[str, bytes, int, int]] = field(default_factory=list)


class CatchUpStream:
    """The stream of some tables to one peer."""

    def __init__(self, replica: Replica, have: dict[str, Vector]) -> None:
        """Prepare a stream to a peer that covers the vectors `have`, by table."""
        self._replica = replica
        self._rank = replica.priority.rank
        self._bytes_max = FEED_BYTES_MAX  # of the next chunk
        self._sent = {name: vector.copy() for name, vector in have.items()}

    def estimate(self) -> int:
        """Return about how many changes the stream will have."""
        units = ((self._replica.registry.unit(name), sent) for name, sent in sorted(self._sent.items()))
        return sum(
            changes_in(unit.table, site, window)
            for unit, sent in units
            if unit is not None
            for site, window in unit.vouched.missing_from(sent)
        )

    def next(self, wall_ms: int, bytes_max: int = FEED_BYTES_MAX) -> StreamChunk:
        """Return the next chunk, of at most so many bytes or one row; after a `DatabaseError` the same call can be repeated."""
        chunk = StreamChunk()
        self._bytes_max = bytes_max
        chunk.published = self._replica.outbox.read_drained(wall_ms, lambda: self._read(chunk))
        for name, site, after, reached in chunk.windows:
            self._sent[name].add(site, after, reached)
        return chunk

    def _order(self, name: str) -> tuple[bool, int, str]:
        """Return a sort key: the schema before urgent tables, these in their order before the others."""
        return name != SCHEMA_TABLE, self._rank(name), name

    def _read(self, chunk: StreamChunk) -> None:
        sections: list[Section] = []
        registry = self._replica.registry
        size = 0
        for name in sorted(self._sent, key=self._order):
            if len(sections) == SECTIONS_MAX - 1:
                break  # and one for the seals of signed tables
            if sections and self._rank(name) > self._rank(sections[-1].table):
                break  # end the chunk here, so that urgent rows do not wait until other rows fill it
            section = Section(name, [])
            rows_max = FACTS_MAX if name == SCHEMA_TABLE else FEED_ROWS_MAX
            unit = registry.unit(name)
            if unit is None:
                continue
            for site, window in unit.vouched.missing_from(self._sent[name]):
                # Every write has its stamp, so the rows have the values that their entries own.
                groups, reached, rows, weight = read_range(
                    unit.table,
                    site,
                    window[0],
                    window[1],
                    rows_max=rows_max - chunk.rows,
                    bytes_max=self._bytes_max - size,
                )
                chunk.windows.append((name, site, window[0], reached))
                if groups:
                    section.groups += groups
                    section.ranges.append((site, window[0], reached))
                chunk.rows += rows
                size += weight
                if reached != window[1] or chunk.rows >= rows_max or size >= self._bytes_max:
                    self._finish(chunk, [*sections, section])
                    return
            if section.groups:
                sections.append(section)
        if sections:
            self._finish(chunk, sections)
            return
        units = {name: registry.unit(name) for name in self._sent}
        chunk.vectors = {name: Vector() if unit is None else unit.vouched for name, unit in units.items()}
        chunk.collected = {
            name: Vector() if unit is None else tombstones.watermarks(unit) for name, unit in units.items()
        }

    def _finish(self, chunk: StreamChunk, sections: list[Section]) -> None:
        """Encode the sections of a chunk, those of signed tables with the proofs of their changes."""
        signers: dict[bytes, None] = {}
        for section in sections:
            table = self._replica.tables.get(section.table)
            seals = None if table is None else table.seals  # no area is of a signed table
            if seals is not None:
                signers |= dict.fromkeys(seals.attach(section))
        chunk.bundle = Bundle(sections, list(signers)).encode()
        chunk.urgent = all(self._replica.priority.is_urgent(section.table) for section in sections)
