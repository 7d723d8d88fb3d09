"""Catch-up stream: everything that this replica covers and one peer does not, in bounded chunks.

There is no long read transaction. The stream reads on until one short transaction finds nothing that the replica covers and
the stream has not sent. Only then may the peer take the replica's vector (ADR 0003), with what is beyond it (`entries_ahead`).

Chunks contain the schema first, then urgent tables, then the others; within a table by site and clock. Each chunk names the
windows from which it was read, so that a stream which breaks off need not start again. On metered links a table with a budget
comes last, in chunks of its own, as its budget allows. Rows of a table with a score go before the others (`score_order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.exchange.entries_ahead import Ahead, EntriesAhead
from mycomesh.sync.exchange.score_order import ScoreOrder
from mycomesh.sync.merge import tombstones
from mycomesh.sync.replica import Replica
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX, FEED_ROWS_MAX, changes_in, read_range
from mycomesh.sync.storage.unit import Unit
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
    tables: their tables.
    urgent: whether it has rows of urgent tables alone.
    starved: tables whose budgets are spent; without a bundle the stream waits for them, or ends without them (`end`).
    vectors: at the end, the vectors that the peer may take, by table; with a bundle, the end follows it.
    collected: at the end, the clocks up to which tombstones may be missing in the stream, by table.
    published: batches of local writes that were drained on the way.
    windows: the windows that it was read from, (table, site, after, upto) each.
    ahead: the entries beyond the vectors that it has.
    """

    bundle: bytes | None = None
    rows: int = 0
    tables: tuple[str, ...] = ()
    urgent: bool = False
    starved: tuple[str, ...] = ()
    vectors: dict[str, Vector] = field(default_factory=dict)
    collected: dict[str, Vector] = field(default_factory=dict)
    published: list[bytes] = field(default_factory=list)
    windows: list[tuple[str, bytes, int, int]] = field(default_factory=list)
    ahead: list[Ahead] = field(default_factory=list)


class CatchUpStream:
    """The stream of some tables to one peer."""

    def __init__(
        self, replica: Replica, have: dict[str, Vector], room: Callable[[str], int | None] | None = None
    ) -> None:
        """Prepare a stream to a peer that covers the vectors `have`, by table.

        `room` returns how many bytes of a table with a budget may go, 0 for none for the moment; None if no budget holds.
        """
        self._replica = replica
        self._rank = replica.priority.rank
        self._room = room
        self._scores = {
            name: ScoreOrder(setting.score)
            for name in have
            if (setting := replica.priority.settings.of(name)) is not None and setting.score
        }
        self._bytes_max = FEED_BYTES_MAX  # of the next chunk
        self._sent = {name: vector.copy() for name, vector in have.items()}
        self._ahead = EntriesAhead(have)
        self._last: StreamChunk | None = None  # the end, once it is known and the chunk before it has gone

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
        if self._last is not None:
            return self._last
        chunk = StreamChunk()
        self._bytes_max = bytes_max
        chunk.published = self._replica.outbox.read_drained(wall_ms, lambda: self._read(chunk))
        for name, site, after, reached in chunk.windows:
            self._sent[name].add(site, after, reached)
        for ahead in chunk.ahead:
            self._ahead.record(ahead.section.table, ahead.read)
        if chunk.bundle is not None and chunk.vectors:
            self._last = StreamChunk(vectors=chunk.vectors, collected=chunk.collected)
        return chunk

    def leave(self, names: Iterable[str]) -> None:
        """Go on without these tables, whose budgets are spent."""
        for name in names:
            self._sent.pop(name, None)

    def _is_paced(self, name: str) -> bool:
        return self._room is not None and self._replica.priority.is_paced(name)

    def _order(self, name: str) -> tuple[bool, int, bool, str]:
        """Return a sort key: the schema before urgent tables, these in their order before the others, those with budgets last."""
        return name != SCHEMA_TABLE, self._rank(name), self._is_paced(name), name

    def _read(self, chunk: StreamChunk) -> None:
        sections: list[Section] = []
        size = 0
        for name in sorted(self._sent, key=self._order):
            if len(sections) == SECTIONS_MAX - 1:
                break  # and one for the seals of signed tables
            if sections and (self._rank(name) > self._rank(sections[-1].table) or self._is_alone(name)):
                break  # end the chunk here, so that urgent rows do not wait until other rows fill it
            unit = self._replica.registry.unit(name)
            bytes_max = self._bytes_max if unit is None else self._bytes_of(chunk, name, unit)
            if unit is None or not bytes_max:
                continue
            if self._send_by_score(chunk, name, unit, bytes_max):
                return
            section, weight, whole = self._read_table(chunk, unit, bytes_max - size, bytes_max)
            size += weight
            if section.groups or not whole:
                sections.append(section)
            if not whole:
                break
        if sections:
            self._finish(chunk, sections)
        elif not chunk.starved:
            self._read_ahead(chunk)

    def _is_alone(self, name: str) -> bool:
        """Return True if the rows of a table share no chunk with those before it."""
        return self._is_paced(name) or name in self._scores

    def _bytes_of(self, chunk: StreamChunk, name: str, unit: Unit) -> int:
        """Return how many bytes of a table may go; 0 if its budget is spent, which is noted if some are missing."""
        room = self._room(name) if self._room is not None and self._is_paced(name) else None
        if room == 0 and next(iter(unit.vouched.missing_from(self._sent[name])), None) is not None:
            chunk.starved = (*chunk.starved, name)
        return self._bytes_max if room is None else min(self._bytes_max, room)

    def _read_table(
        self, chunk: StreamChunk, unit: Unit, bytes_max: int, chunk_bytes: int
    ) -> tuple[Section, int, bool]:
        """Return the next changes of a table, their weight, and whether these are all that fit into the chunk's limits."""
        section, size, name = Section(unit.name, []), 0, unit.name
        rows_max = FACTS_MAX if name == SCHEMA_TABLE else FEED_ROWS_MAX
        for site, window in unit.vouched.missing_from(self._sent[name]):
            # Every write has its stamp, so the rows have the values that their entries own.
            limits = {"rows_max": rows_max - chunk.rows, "bytes_max": bytes_max - size, "chunk_bytes": chunk_bytes}
            groups, reached, rows, weight = read_range(unit.table, site, *window, **limits)
            chunk.windows.append((name, site, window[0], reached))
            groups = self._scores[name].rest(groups) if name in self._scores else groups
            if groups:
                section.groups += groups
                section.ranges.append((site, window[0], reached))
            chunk.rows += rows
            size += weight
            if reached != window[1] or chunk.rows >= rows_max or size >= bytes_max:
                return section, size, False
        return section, size, True

    def _send_by_score(self, chunk: StreamChunk, name: str, unit: Unit, bytes_max: int) -> bool:
        """Fill every second chunk of a table with the rows of the greatest scores; return whether there are any."""
        groups = self._scores[name].next(unit, self._sent[name], bytes_max) if name in self._scores else []
        if groups:
            chunk.rows += sum(len(group.hlcs) for group in groups)
            self._finish(chunk, [Section(name, [], groups)])
        return bool(groups)

    def _read_ahead(self, chunk: StreamChunk) -> None:
        """End the stream, with a chunk before the end if this replica has entries beyond its vectors."""
        size, sections, whole = 0, [], True
        for name in sorted(self._sent, key=self._order):
            unit = self._replica.registry.unit(name)
            if unit is None:
                continue
            rows_max = FACTS_MAX if name == SCHEMA_TABLE else FEED_ROWS_MAX
            ahead = self._ahead.read(unit, rows_max - chunk.rows, self._bytes_max - size, self._bytes_max)
            size += ahead.size
            chunk.rows += ahead.rows
            if ahead.rows:
                chunk.ahead.append(ahead)
                sections.append(ahead.section)
            whole = ahead.whole and len(sections) < SECTIONS_MAX - 1
            if not whole:
                break
        if sections:
            self._finish(chunk, sections)
        if whole:
            self._end(chunk)

    def _end(self, chunk: StreamChunk) -> None:
        units = {name: self._replica.registry.unit(name) for name in self._sent}
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
        chunk.tables = tuple(section.table for section in sections)
        chunk.urgent = all(self._replica.priority.is_urgent(section.table) for section in sections)
