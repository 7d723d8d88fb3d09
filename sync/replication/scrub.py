"""The scrub: every row compared with its entries, a few at a time, so that what bypassed the triggers is found and captured.

A table rebuilt without its triggers, a file edited with triggers off or put back from elsewhere leaves rows that are not as
the change log says. Steps read within one short read transaction each, and take the write lock only where a row is suspect.

Owns the position of the pass. What always holds: a row that is logged for a second look is not changed by that, whoever
wrote it meanwhile. It must not know when a step is due.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync import codec
from mycomesh.sync.capture import table_scan
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Row

__all__ = ["Scrub", "Scrubbed"]

_META_KEY = "scrub"
# Rows of one step where the application writes so fast that they are compared under the write lock: some milliseconds.
LOCKED_ROWS_MAX = 64


@dataclass(slots=True)
class Scrubbed:
    """What a pass has come to: rows compared, those logged for a second look, the tables they are in, whether it ended.

    `ended_ms` is the Unix time of its end.
    """

    rows: int = 0
    found: int = 0
    tables: tuple[str, ...] = ()
    done: bool = False
    ended_ms: int = 0


class Scrub:
    """One pass after another over all tables of one file, in the order of their names."""

    def __init__(self, store: Store, catalog: Catalog, outbox: Outbox) -> None:
        self._store = store
        self._catalog = catalog
        self._outbox = outbox
        self._table = ""
        self._cursor = table_scan.START
        self._so_far = Scrubbed()
        self._last: Scrubbed | None = None
        self._loaded = False

    @property
    def last(self) -> Scrubbed | None:
        """What the last pass that came to its end has found, None before the first."""
        self._load()
        return self._last

    def restart(self) -> None:
        """Begins a pass, whatever another one had come to."""
        self._load()
        self._table, self._cursor, self._so_far = "", table_scan.START, Scrubbed()

    def step(self, wall_ms: int, limit: int) -> tuple[Scrubbed, list[bytes]]:
        """Compare up to `limit` rows; returns what this pass has come to, and batches to publish.

        Suspect rows are stamped by the drain that follows. After a step that is `done`, the next begins another pass.

        Raises:
            DatabaseBusyError: another program holds the write lock; the step is made again by the next call.
        """
        self._load()
        names = [name for name in sorted(self._catalog.tables) if name != SCHEMA_TABLE and name >= self._table]
        if not names:
            ended, self._so_far = self._so_far, Scrubbed()
            self._table, self._cursor, ended.done, ended.ended_ms = "", table_scan.START, True, wall_ms
            self._last = ended
            return ended, []
        if names[0] != self._table:
            self._table, self._cursor = names[0], table_scan.START
        table = self._catalog.tables[self._table]
        rows: list[Row] = []
        cursor = self._cursor
        compared = 0

        def compare(count: int) -> None:
            nonlocal cursor, compared
            if self._catalog.tables.get(self._table) is not table:
                return
            suspects, cursor = table_scan.suspects(table, self._cursor, count)
            rows.extend(suspects)
            compared = count

        published = self._outbox.read_drained(
            wall_ms, lambda: compare(limit), locked=lambda: compare(min(limit, LOCKED_ROWS_MAX))
        )
        if self._catalog.tables.get(self._table) is not table:
            return self._so_far, published  # its definition changed meanwhile: what was compared is void
        so_far = self._so_far
        if rows:
            with self._store.transaction():
                if not self._catalog.stands():
                    return so_far, published  # they are compared again
                table_scan.log_rows(table, rows)
            so_far.found += len(rows)
            so_far.tables = tuple(sorted({*so_far.tables, table.spec.name}))
            self._outbox.invalidate()
        so_far.rows += compared if cursor.phase == self._cursor.phase == 0 else 0
        self._cursor = cursor
        if cursor.ended:
            self._table, self._cursor = f"{self._table}\0", table_scan.START  # the least name after it
        return so_far, published

    def save(self) -> None:
        """Write the position into the file, where the next run of the node goes on, and what the last pass has found."""
        last = None if self._last is None else [*_plain(self._last), self._last.ended_ms]
        fact = [self._table, self._cursor.phase, self._cursor.after, *_plain(self._so_far), last]
        with self._store.transaction():
            self._store.meta_set(_META_KEY, codec.encode(fact))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        fact = self._store.meta(_META_KEY)
        if fact is not None:
            self._table, phase, after, rows, found, tables, last = codec.decode(fact, bytes_max=len(fact))
            self._cursor = table_scan.ScanCursor(phase, after)
            self._so_far = Scrubbed(rows, found, tuple(tables))
            self._last = None if last is None else Scrubbed(last[0], last[1], tuple(last[2]), True, last[3])


def _plain(scrubbed: Scrubbed) -> list[object]:
    return [scrubbed.rows, scrubbed.found, list(scrubbed.tables)]
