"""Repair of one table between two peers with equal vectors and different digests (design.md section 6, step 3).

The side with the lower site sends a small sketch of its entry digests. The other side subtracts its own sketch. If the
difference does not peel, it estimates the size and replies with a larger sketch. Once a difference peels, both sides know
which entries are missing where, and they exchange whole rows (ADR 0004 has the figures).

Work is done in bounded steps, so live traffic never waits for a scan. Invariant: a repair merges what both sides have of the
damaged rows, and never drops a value.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mycomesh.sync.crdt.sketch import CELLS_FIRST, CELLS_MAX, ID_BYTES, Peeled, Sketch, cells_after, id_of
from mycomesh.sync.merge.keep_both import has_other_key_form
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.replica import Replica
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.log_reader import FEED_BYTES_MAX, read_rows
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire import messages as wire
from mycomesh.sync.wire.bundle import Bundle, Section

__all__ = ["RepairSession", "decode_ids", "encode_ids", "read_bundles", "rows_beyond"]

# Entries that one step scans: about 12 ms.
STEP_ENTRIES = 10_000
# Rows in one `RepairRows`: a transaction of some milliseconds on the other side.
SEND_ROWS_MAX = 256


class _Phase(enum.Enum):
    SKETCH = "sketch"  # scanning entries into our sketch
    FIND = "find"  # scanning for the rows of wanted entries
    SEND = "send"  # sending those rows
    DONE = "done"


@dataclass(slots=True)
class RepairSession:
    """One side of the repair of one table over one link."""

    table: str
    vector: bytes
    cells: int = CELLS_FIRST
    theirs: Sketch | None = None
    wanted: frozenset[int] | None = None  # ids of the entries whose rows the peer lacks; empty means every row
    phase: _Phase = _Phase.SKETCH
    cursor: tuple[int, int] = (-1, 0)
    mine: Sketch | None = None
    rows: list[int | bytes] = field(default_factory=list)
    final: bool = False  # the peer sends nothing back

    @classmethod
    def for_sketch(cls, table: str, vector: bytes, theirs: Sketch) -> RepairSession:
        """Return the session that answers a sketch of the peer, the first one or a larger one."""
        return cls(table, vector, theirs.cells, theirs)

    @classmethod
    def for_request(cls, table: str, wanted: frozenset[int]) -> RepairSession:
        """Return the session that sends the rows which the peer requested."""
        return cls(table, b"", wanted=wanted, phase=_Phase.FIND)

    @classmethod
    def for_rows(cls, table: str, rows: list[Row]) -> RepairSession:
        """Return the session that sends some rows which the peer did not request."""
        return cls(table, b"", phase=_Phase.SEND, rows=rows, final=True)

    @property
    def done(self) -> bool:
        """True when this side has nothing more to do."""
        return self.phase is _Phase.DONE

    @property
    def sending(self) -> bool:
        """True when the next step sends rows, which needs room in the window of the link."""
        return self.phase is _Phase.SEND

    def step(self, replica: Replica) -> list[wire.Message]:
        """Take one bounded step, in a transaction where all local writes are stamped; return the messages to send."""
        match self.phase:
            case _Phase.SKETCH:
                return self._scan(replica)
            case _Phase.FIND:
                self._find(replica)
                return []
            case _Phase.SEND:
                return self._send_rows(replica)
            case _Phase.DONE:
                return []

    def _scan(self, replica: Replica) -> list[wire.Message]:
        if self.mine is None:
            self.mine = Sketch(self.cells)
        entries = _entries(replica, self.table, self.cursor)
        self.mine.add(entry[3] for entry in entries if entry[3])  # a tombstone has digest 0 and counts in no digest
        if len(entries) == STEP_ENTRIES:
            self.cursor = entries[-1][:2]
            return []
        if self.theirs is None:
            self.phase = _Phase.DONE
            return [wire.TableSketch(self.table, self.vector, self.mine.encode())]
        difference = self.mine.subtract(self.theirs)
        estimate = difference.estimate()
        peeled = difference.peel()
        if peeled is not None:
            return self._on_peeled(peeled)
        return self._enlarge(estimate)

    def _on_peeled(self, peeled: Peeled) -> list[wire.Message]:
        self.wanted = frozenset(peeled.first)
        self.cursor = (-1, 0)
        self.phase = _Phase.FIND if self.wanted else _Phase.DONE
        return [wire.RepairRequest(self.table, encode_ids(peeled.second))] if peeled.second else []

    def _enlarge(self, estimate: int) -> list[wire.Message]:
        """Start again with more cells; exchange every row instead where the sketch would be as large as the table."""
        cells = cells_after(self.cells, estimate)
        if cells > CELLS_MAX:
            self.wanted = frozenset()
            self.cursor = (-1, 0)
            self.phase = _Phase.FIND
            return [wire.RepairRequest(self.table, b"")]
        self.cells, self.theirs, self.mine, self.cursor = cells, None, None, (-1, 0)
        return []

    def _find(self, replica: Replica) -> None:
        entries = _entries(replica, self.table, self.cursor)
        wanted = self.wanted
        self.rows += dict.fromkeys(entry[2] for entry in entries if not wanted or id_of(entry[3]) in wanted)
        if len(entries) == STEP_ENTRIES:
            self.cursor = entries[-1][:2]
            return
        self.rows = list(dict.fromkeys(self.rows))
        self.phase = _Phase.SEND if self.rows else _Phase.DONE

    def _send_rows(self, replica: Replica) -> list[wire.Message]:
        bundles, count = read_bundles(replica, self.table, self.rows[:SEND_ROWS_MAX], bytes_max=FEED_BYTES_MAX)
        self.rows = self.rows[count:]
        if not self.rows:
            self.phase = _Phase.DONE
        return [wire.RepairRows(bundle, final=self.final) for bundle in bundles]


def _entries(replica: Replica, name: str, after: tuple[int, int]) -> list[tuple[int, int, Row, int]]:
    """Return the next (site number, hlc, row, digest) of a table's entries after a stamp; empty at the end."""
    unit = replica.registry.unit(name)
    return [] if unit is None else unit.scan(after[0], after[1], STEP_ENTRIES)


def read_bundles(replica: Replica, name: str, rows: Sequence[Row], *, bytes_max: int) -> tuple[list[bytes], int]:
    """Return bundles of all entries of the first of some rows, and how many rows that are; the caller has drained."""
    table = replica.registry.table_of(name)
    if table is None:
        return [], len(rows)
    parts, count = read_rows(table, rows, bytes_max=bytes_max)
    return [_encode(table, Section(name, [], groups)) for groups in parts], count


def _encode(table: Table, section: Section) -> bytes:
    """Return a bundle of a section, with the proofs of its changes if the table is signed."""
    signers = [] if table.seals is None else table.seals.attach(section)
    return Bundle([section], signers).encode()


def _read_same_rows(replica: Replica, section: Section) -> Iterator[Section]:
    """Yield sections with all entries here of the rows in a section; the caller has drained."""
    table = replica.registry.table_of(section.table)
    if table is None or has_other_key_form(table, section):
        return
    keys = [key for group in section.groups for key in keys_of(table, group)]
    rows = list(dict.fromkeys(table.locate_many(keys)))
    while rows:
        parts, count = read_rows(table, rows, bytes_max=FEED_BYTES_MAX)
        rows = rows[count:]
        yield from (Section(section.table, [], groups) for groups in parts)


def rows_beyond(replica: Replica, bundle: bytes) -> list[bytes]:
    """Return bundles with the entries of a bundle's rows that this replica has and the bundle lacks.

    If a peer sends an entry that we have superseded, the peer has lost the later write or the tombstone that superseded it.
    """
    replies = []
    for section in Bundle.decode(bundle).sections:
        sent = {(group.site, hlc) for group in section.groups for hlc in group.hlcs}
        for reply in _read_same_rows(replica, section):
            groups = [group for group in reply.groups if any((group.site, hlc) not in sent for hlc in group.hlcs)]
            table = replica.registry.table_of(section.table)
            if groups and table is not None:
                replies.append(_encode(table, Section(section.table, [], groups)))
    return replies


def encode_ids(ids: Sequence[int]) -> bytes:
    """Return the wire form of entry ids: 5 bytes each, big-endian."""
    return b"".join(each.to_bytes(ID_BYTES, "big") for each in ids)


def decode_ids(data: bytes) -> frozenset[int]:
    """Return the entry ids in the bytes of a `RepairRequest`."""
    return frozenset(int.from_bytes(data[at : at + ID_BYTES], "big") for at in range(0, len(data), ID_BYTES))
