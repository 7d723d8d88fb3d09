"""Limits on the record of conflicts: `mycomesh_conflicts` keeps so many records, so many bytes, and each for so long.

Records without a value (a delete that lost) go first, then restored ones, then the oldest: a value that is gone cannot be
restored. No row has more than `ROW_RECORDS_MAX` records, so one contested row does not push out the others.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.hlc import time_text

__all__ = ["KEPT", "ROW_RECORDS_MAX", "ConflictLimits", "ConflictRoom"]

KEPT = "both rows are kept, this one as"  # the reason of a record without a loss
# A person looks at a few losing values of one row. They are counted at each ROW_CHECK-th record.
ROW_RECORDS_MAX = 64
ROW_CHECK = 16
# Once a limit is exceeded, a sixteenth of the record is removed, so that the whole record is rarely read.
SLACK = 16
RECORD_BYTES = 256  # of a record beside its values, with its share of the index
_SIZE = "2 * octet_length(lost) + coalesce(octet_length(won), 0) + coalesce(octet_length(row), 0)"


@dataclass(frozen=True, slots=True)
class ConflictLimits:
    """Limits on the record of conflicts.

    records: number of records.
    size: bytes in the file. A losing value counts twice, because an index holds it too.
    age_days: days until a record is removed.
    """

    records: int = 10_000
    size: int = 64 << 20
    age_days: int = 365


class ConflictRoom:
    """Keeps `mycomesh_conflicts` of one file within its limits."""

    def __init__(self, db: Any, limits: ConflictLimits) -> None:
        self.limits = limits
        self._db = db
        # Records and bytes as they were counted last, and those added since; None until counted. Records that another program
        # deletes are noticed when a limit seems to be exceeded.
        self._filled: tuple[int, int] | None = None
        self._expired: tuple[int, ConflictLimits] | None = None  # the time of the last `expire`, and the limits then

    @property
    def empty(self) -> bool:
        """True if there are no records."""
        return self._count()[0] == 0

    @property
    def left(self) -> tuple[int, int]:
        """How many records and bytes can be added before others go."""
        records, size = self._count()
        return max(self.limits.records - records, 0), max(self.limits.size - size, 0)

    def committed(self) -> None:
        """Keep the counts of the transaction."""

    def rolled_back(self) -> None:
        """Count again when needed."""
        self._filled = self._expired = None

    def on_records(self, numbers: range, size: int, wall_ms: int) -> None:
        """Make room after records were added: `numbers` are their seqs, `size` are the bytes of all their values."""
        if self._filled is None:
            self._count()
        else:
            records, before = self._filled
            self._filled = records + len(numbers), before + RECORD_BYTES * len(numbers) + size
        for number in numbers[-numbers.start % ROW_CHECK :: ROW_CHECK]:
            self._trim_row(number)
        self.expire(wall_ms)
        if self._is_full(*self._count()):
            self._filled = None
            if self._is_full(*self._count()):
                self._trim()

    def expire(self, wall_ms: int) -> None:
        """Remove the records that are too old; inside a transaction."""
        if self._expired == (wall_ms, self.limits):  # the records made since are of this very time
            return
        self._expired = wall_ms, self.limits
        try:
            bound = time_text(wall_ms - dt.timedelta(days=self.limits.age_days) // dt.timedelta(milliseconds=1))
        except OverflowError:
            return
        oldest = self._db.execute("SELECT seen_at FROM mycomesh_conflicts ORDER BY seq LIMIT 1").fetchone()
        if oldest is not None and oldest[0] < bound:
            self._db.execute("DELETE FROM mycomesh_conflicts WHERE seen_at < ?", (bound,))
            self._filled = None

    def _count(self) -> tuple[int, int]:
        if self._filled is None:
            count = f"SELECT count(*), coalesce(sum({_SIZE} + {RECORD_BYTES}), 0) FROM mycomesh_conflicts"
            records, size = self._db.execute(count).fetchone()
            self._filled = int(records), int(size)
        return self._filled

    def _is_full(self, records: int, size: int) -> bool:
        return records > self.limits.records or size > self.limits.size

    def _trim(self) -> None:
        records, size = self._count()
        records_left = self.limits.records - self.limits.records // SLACK
        size_left = self.limits.size - self.limits.size // SLACK
        listing = (
            f"SELECT seq, {_SIZE} + {RECORD_BYTES} FROM mycomesh_conflicts"
            f" ORDER BY lost <> '{{}}' AND reason NOT LIKE '{KEPT}%', restored_at IS NULL, seq"
        )
        gone = []
        for number, freed in self._db.execute(listing):
            if records <= records_left and size <= size_left:
                break
            records, size = records - 1, size - freed
            gone.append((number,))
        self._db.executemany("DELETE FROM mycomesh_conflicts WHERE seq = ?", gone)
        self._filled = records, size

    def _trim_row(self, number: int) -> None:
        row = "(table_name, row_key) = (SELECT table_name, row_key FROM mycomesh_conflicts WHERE seq = ?1)"
        before = self._db.total_changes()
        self._db.execute(
            f"DELETE FROM mycomesh_conflicts WHERE {row} AND seq <= (SELECT seq FROM mycomesh_conflicts WHERE {row}"
            f" ORDER BY seq DESC LIMIT 1 OFFSET {ROW_RECORDS_MAX})",
            (number,),
        )
        if self._db.total_changes() != before:
            self._filled = None
