"""Scrub: compare every row with the change log, a few rows at a time, to find and capture writes that bypassed the triggers.

Rows differ from the change log where a table was rebuilt without its triggers, or the file was edited with triggers off or
restored from elsewhere. Each step reads in one short read transaction. It takes the write lock only if a row differs, to log
that row in the pending log; the next drain then reads its state of that moment and stamps it like any local write.
"""

from __future__ import annotations

from dataclasses import dataclass

from mycomesh.sync import codec
from mycomesh.sync.capture import table_scan
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.schema.catalog import SCHEMA_TABLE, Catalog
from mycomesh.sync.sqlite.table_spec import Row
from mycomesh.sync.storage.store import Store

__all__ = ["Scrub", "Scrubbed"]

_META_KEY = "scrub"
# Rows of a step under the write lock, which is needed where the application writes all the time: a few milliseconds.
LOCKED_ROWS_MAX = 64


@dataclass(slots=True)
class Scrubbed:
    """Progress of one pass."""

    rows: int = 0  # compared
    found: int = 0  # that differed from the change log and were logged for the drain
    tables: tuple[str, ...] = ()  # with such rows, by their names in this file
    done: bool = False
    ended_ms: int = 0  # Unix time of the end


class Scrub:
    """Passes over all tables of one file, by name. A pass continues where the last run of the node saved it."""

    def __init__(self, store: Store, catalog: Catalog, outbox: Outbox) -> None:
        self._store = store
        self._catalog = catalog
        self._registry = catalog.registry
        self._outbox = outbox
        self._table = ""
        self._cursor = table_scan.START
        self._so_far = Scrubbed()
        self._last: Scrubbed | None = None
        self._loaded = False

    @property
    def last(self) -> Scrubbed | None:
        """The last complete pass, None before the first."""
        self._load()
        return self._last

    def restart(self) -> None:
        """Begin a pass and discard the progress of the present one."""
        self._load()
        self._table, self._cursor, self._so_far = "", table_scan.START, Scrubbed()

    def step(self, wall_ms: int, limit: int) -> tuple[Scrubbed, list[bytes]]:
        """Compare up to `limit` rows; return the progress of this pass, and batches to publish.

        The next drain stamps the rows that differ. After a step that is `done`, the next one begins another pass.

        Raises:
            DatabaseBusyError: another program holds the write lock; the next call repeats the step.
        """
        self._load()
        names = [name for name in sorted(self._registry.tables) if name != SCHEMA_TABLE and name >= self._table]
        if not names:
            ended, self._so_far = self._so_far, Scrubbed()
            self._table, self._cursor, ended.done, ended.ended_ms = "", table_scan.START, True, wall_ms
            self._last = ended
            return ended, []
        if names[0] != self._table:
            self._table, self._cursor = names[0], table_scan.START
        table = self._registry.tables[self._table]
        rows: list[Row] = []
        cursor = self._cursor
        compared = 0

        def compare(count: int) -> None:
            nonlocal cursor, compared
            if self._registry.tables.get(self._table) is not table:
                return
            suspects, cursor = table_scan.suspects(table, self._cursor, count)
            rows.extend(suspects)
            compared = count

        published = self._outbox.read_drained(
            wall_ms, lambda: compare(limit), locked=lambda: compare(min(limit, LOCKED_ROWS_MAX))
        )
        if self._registry.tables.get(self._table) is not table:
            return self._so_far, published  # its definition has changed, so the comparison is void
        so_far = self._so_far
        if rows:
            with self._store.transaction():
                if not self._catalog.is_readable():
                    return so_far, published  # the schema has changed: the next step compares them again
                table_scan.log_rows(table, rows)
            so_far.found += len(rows)
            so_far.tables = tuple(sorted({*so_far.tables, table.spec.name}))
            self._outbox.invalidate()
        so_far.rows += compared if cursor.phase == self._cursor.phase == 0 else 0
        self._cursor = cursor
        if cursor.ended:
            self._table, self._cursor = (
                f"{self._table}\0",
                table_scan.START,
            )  # sorts after this table and before any other
        return so_far, published

    def save(self) -> None:
        """Write the progress of this pass and the result of the last one into the file, for the next run of the node."""
        last = None if self._last is None else [*_plain(self._last), self._last.ended_ms]
        saved = [self._table, self._cursor.phase, self._cursor.after, *_plain(self._so_far), last]
        with self._store.transaction():
            self._store.meta_set(_META_KEY, codec.encode(saved))

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        saved = self._store.meta(_META_KEY)
        if saved is not None:
            self._table, phase, after, rows, found, tables, last = codec.decode(saved, bytes_max=len(saved))
            self._cursor = table_scan.ScanCursor(phase, after)
            self._so_far = Scrubbed(rows, found, tuple(tables))
            self._last = None if last is None else Scrubbed(last[0], last[1], tuple(last[2]), True, last[3])


def _plain(scrubbed: Scrubbed) -> list[object]:
    return [scrubbed.rows, scrubbed.found, list(scrubbed.tables)]
