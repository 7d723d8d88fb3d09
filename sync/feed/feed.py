"""The change feed of one file: named cursors of readers, and pages of changes beyond them.

A cursor is a row of `mycomesh_cursors` in the served file. It moves in the transaction of the reader's own effect, where that
writes to the file, or by `move`. A program may set `position` with plain SQL, so that it is read again for each page.

The feed is conflated: a reader sees the last value of each cell, and never one that was superseded before it looked. Deletes are
visible while their tombstones live; cursors hold their collection back, unless they have not moved for `IDLE_DAYS`.

The internal tables are created with the first cursor. Without one, nothing is recorded.

design.md section 9.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import apsw

from mycomesh.sync.admin.provenance import rows_named
from mycomesh.sync.crdt.hlc import hlc_from_ms, ms_from_hlc
from mycomesh.sync.errors import DecodeError, FeedError, NoTableError
from mycomesh.sync.feed import touched
from mycomesh.sync.feed.change import Change
from mycomesh.sync.feed.dead_letters import DeadLetter, DeadLetters
from mycomesh.sync.feed.letters_sql import FLOW, RECEIVER
from mycomesh.sync.feed.position import Position
from mycomesh.sync.feed.reader import PAGE_BYTES_MAX, PAGE_ROWS_MAX, Page, read_page
from mycomesh.sync.feed.touched import Touched
from mycomesh.sync.feed.windows import SetPage, read_windows
from mycomesh.sync.replication.outbox import Outbox
from mycomesh.sync.schema.catalog import SCHEMA_TABLE
from mycomesh.sync.schema.names import unknown_table
from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.raw_text import is_raw, raw_select, restore
from mycomesh.sync.storage.collector import CollectorPause
from mycomesh.sync.storage.log_reader import changes_in
from mycomesh.sync.storage.store import Store
from mycomesh.sync.storage.table import Table

__all__ = ["CURSORS_MAX", "IDLE_DAYS", "NAME_MAX", "Cursor", "Feed"]

IDLE_DAYS = 30
CURSORS_MAX = 1_000
NAME_MAX = 128  # characters
_DAY_MS = 86_400_000
_CREATE = (
    "CREATE TABLE IF NOT EXISTS mycomesh_cursors("
    "name TEXT, table_name TEXT, area TEXT, position BLOB, moved_ms INTEGER, seen BLOB, PRIMARY KEY(name, table_name, area))"
    " WITHOUT ROWID"
)
_CURSORS = (
    "SELECT name, table_name, area, CASE WHEN typeof(position) = 'blob' THEN position END AS position,"
    f" CASE WHEN typeof(moved_ms) = 'integer' THEN moved_ms ELSE {1 << 62} END AS moved_ms,"
    " CASE WHEN typeof(moved_ms) = 'integer' AND typeof(seen) = 'blob' THEN seen END AS seen FROM mycomesh_cursors"
    " WHERE typeof(name) = 'text' AND typeof(table_name) = 'text'"
)
_WHOLE = ""  # the one area of a table so far


@dataclass(frozen=True, slots=True)
class Cursor:
    """One cursor, for people.

    name: the reader.
    table: the table's name in this file, or its name on the mesh where the file has it no more.
    canonical: the table's name on the mesh.
    behind: about how many changes it has not passed.
    oldest_ms: when the first of them was written, in Unix milliseconds; None without any.
    moved_ms: when it last moved, in Unix milliseconds.
    idle: it has not moved for so long that it holds nothing back.
    """

    name: str
    table: str
    behind: int
    oldest_ms: int | None
    moved_ms: int
    idle: bool
    canonical: str


class Feed:
    """The readers of one file. Not thread-safe: the replica's thread owns it."""

    def __init__(self, store: Store, registry: Registry, outbox: Outbox, idle_days: int = IDLE_DAYS) -> None:
        self._store = store
        self._registry = registry
        self._outbox = outbox
        self._idle_ms = idle_days * _DAY_MS
        self._touched = Touched(store, registry)
        store.enlist(self._touched)
        store.enlist(self)
        self._pause = CollectorPause()
        self.letters = DeadLetters(store)
        self.active = False
        self._idle: set[tuple[str, str]] = set()  # cursors of which `tidy` has returned that they hold nothing back
        self.on_commit: Callable[[], None] | None = None  # called after each commit of this replica

    def open(self) -> None:
        """Follow the cursors that the file has."""
        self._activate(active=bool(self._rows("LIMIT 1")))

    def committed(self) -> None:
        """Wake the readers that wait for changes."""
        if self.on_commit is not None:
            self.on_commit()

    def rolled_back(self) -> None:
        """Keep the state: a transaction of the feed that fails is repeated by its caller."""

    def _activate(self, *, active: bool) -> None:
        if active != self.active:
            self.active = active
            self._touched.observe(active=active)

    def _rows(self, rest: str = "", *values: str) -> list[tuple[str, str, bytes | None, int, bytes | None]]:
        """Return (name, canonical name of the table, position, when it moved, the position then) of cursors.

        A program may have written anything. A row without names does not count; one without a time has just moved (`_tidy`).
        """
        names = f"{raw_select('name')}, {raw_select('table_name')}"
        listing = f"SELECT position, moved_ms, seen, {names} FROM ({_CURSORS}) {rest}"
        try:
            rows = self._store.db.execute(listing, values).fetchall()
        except apsw.SQLError:  # there is no such table
            return []
        named = [(restore(row[3:]), row) for row in rows]
        return [(*names, *row[:3]) for names, row in named if not any(map(is_raw, names))]

    def table(self, name: str) -> Table:
        """Return the replicated table of that name in this file.

        Raises:
            NoTableError: there is no such table.
        """
        tables = [table for canonical, table in sorted(self._registry.tables.items()) if canonical != SCHEMA_TABLE]
        for table in tables:
            if fold(table.spec.name) == fold(name):
                return table
        known = [table.spec.name for table in tables]
        raise NoTableError(unknown_table(self._store.db, self._store.path, name, known))

    # ---- cursors

    def create(self, name: str, table_name: str, wall_ms: int, *, from_now: bool = False) -> tuple[list[bytes], bool]:
        """Create a cursor that begins with the rows that are there, or with the next change.

        Returns (batches to publish, whether it is new); an existing cursor stays as it is.

        Raises:
            FeedError: no such table, a name that cannot be used, or too many cursors.
        """
        if not name or len(name) > NAME_MAX or not name.isprintable():
            raise FeedError(f"a cursor cannot be called {name!r}: give 1 to {NAME_MAX} printable characters")
        canonical = self.table(table_name).spec.folded
        if self._find(name, canonical) is not None:
            return [], False
        if len(self._rows()) >= CURSORS_MAX:
            raise FeedError(
                f"{self._store.path} has {CURSORS_MAX:,} cursors; delete some from the table mycomesh_cursors"
            )

        def write() -> None:
            self._store.db.execute(_CREATE)
            self._store.db.execute(touched.CREATE)
            self._activate(active=True)
            position = self.start(table_name, from_now=from_now).encode()
            self._store.db.execute(
                "INSERT INTO mycomesh_cursors VALUES(?, ?, ?, ?, ?, ?)",
                (name, canonical, _WHOLE, position, wall_ms, position),
            )

        return self._outbox.write_drained(wall_ms, write), True

    def start(self, table_name: str, *, from_now: bool) -> Position:
        """Return the position of a new reader; inside a transaction in which everything is stamped."""
        table = self.table(table_name)
        covered = table.coverage.staged.copy()
        last = self._touched.last() if self.active else 0
        return Position(covered, last) if from_now else Position(touched=last, start=covered)

    def _find(self, name: str, canonical: str) -> tuple[str, str, bytes | None, int, bytes | None] | None:
        found = self._rows("WHERE name = ? AND table_name = ? AND area = ''", name, canonical)
        return found[0] if found else None

    def position(self, name: str, table_name: str) -> Position:
        """Return where a cursor is.

        Raises:
            FeedError: there is no such cursor, or a program wrote something else into it.
        """
        found = self._find(name, self.table(table_name).spec.folded)
        if found is None:
            raise FeedError(f"no cursor {name!r} for {table_name}; the table mycomesh_cursors lists them")
        return self._decode(name, found[1], found[2])

    def _decode(self, name: str, canonical: str, position: object) -> Position:
        decoded = self._decoded(canonical, position)
        if decoded is None:
            raise FeedError(f"cursor {name!r} holds no position; delete it from the table mycomesh_cursors")
        return decoded

    def move(self, name: str, table_name: str, position: Position, wall_ms: int) -> None:
        """Move a cursor forward by what this position has seen.

        Raises:
            FeedError: there is no such cursor.
            DatabaseError: the file takes no writes now.
        """
        with self._store.transaction():
            moved = self.position(name, table_name)
            moved.merge(position)
            data = moved.encode()
            self._store.db.execute(
                "UPDATE mycomesh_cursors SET position = ?, moved_ms = ?, seen = ?"
                " WHERE name = ? AND table_name = ? AND area = ''",
                (data, wall_ms, data, name, self.table(table_name).spec.folded),
            )
            self._prune(wall_ms)

    def tidy(self, wall_ms: int) -> list[Cursor]:
        """Note when programs have moved cursors by SQL, and forget what no reader waits for.

        Returns the cursors that hold nothing back any more, each once.
        """
        if not self.active:
            return []
        if not self._rows("LIMIT 1"):  # a program has removed them by SQL
            self._activate(active=False)
            return []
        self._tidy(wall_ms)
        idle = {(row[0], row[1]) for row in self._rows("ORDER BY name, table_name") if self._is_idle(row, wall_ms)}
        fresh, self._idle = idle - self._idle, idle
        return (
            [each for each in self.cursors(wall_ms) if each.idle and (each.name, each.canonical) in fresh]
            if fresh
            else []
        )

    def _tidy(self, wall_ms: int) -> None:
        moved = [
            (name, canonical) for name, canonical, position, _, seen in self._rows("ORDER BY 1, 2") if position != seen
        ]
        if not moved and not self._touched.has_old():
            return
        with self._store.transaction() as db:
            db.executemany(
                "UPDATE mycomesh_cursors SET moved_ms = ?, seen = position WHERE name = ? AND table_name = ?",
                [(wall_ms, *cursor) for cursor in moved],
            )
            self._prune(wall_ms)

    def rewind(self, name: str, since_ms: int) -> int:
        """Let a reader see the changes of all its tables again that were written from a time on; return how many cursors moved.

        A row that has changed since is seen as it is by now, and a reader that is open goes on where it is.

        Raises:
            FeedError: there is no such cursor.
        """
        if not self._rows("WHERE name = ?", name):
            raise FeedError(f"no cursor {name!r}; the table mycomesh_cursors lists them")
        with self._store.transaction() as db:
            rows = self._rows("WHERE name = ?", name)
            for _, canonical, data, *_ in rows:
                position = self._decode(name, canonical, data)
                position.start = None
                for seen in position.seen.items():
                    position.seen.cut(seen[0], hlc_from_ms(since_ms) - 1)
                db.execute(
                    "UPDATE mycomesh_cursors SET position = ? WHERE name = ? AND table_name = ? AND area = ''",
                    (position.encode(), name, canonical),
                )
        return len(rows)

    def drop(self, name: str) -> int:
        """Remove a cursor of every table; return how many there were."""
        if not self._rows("WHERE name = ?", name):
            return 0
        with self._store.transaction() as db:
            db.execute("DELETE FROM mycomesh_cursors WHERE name = ?", (name,))
            dropped = int(db.changes())
            left = bool(self._rows("LIMIT 1"))
            if not left:
                self._touched.prune(self._touched.last())
        self._activate(active=left)
        return dropped

    def _prune(self, wall_ms: int) -> None:
        """Forget touched rows that every cursor has passed; if there are too many, let all cursors start again."""
        if not self.active or not self._touched.has_old():
            return
        live = [(row, self._decoded(row[1], row[2])) for row in self._rows()]
        if self._touched.overflowing:
            self._touched.overflowing = False
            for (name, canonical, *_), _ in live:
                again = Position(touched=self._touched.last()).encode()
                self._store.db.execute(
                    "UPDATE mycomesh_cursors SET position = ?, seen = ? WHERE name = ? AND table_name = ?",
                    (again, again, name, canonical),
                )
            self._touched.prune(self._touched.last())
            return
        waiting = [
            position.touched for row, position in live if position is not None and not self._is_idle(row, wall_ms)
        ]
        self._touched.prune(min(waiting, default=self._touched.last()))

    def _decoded(self, canonical: str, data: object) -> Position | None:
        try:
            position = Position.decode(data) if isinstance(data, bytes) else None
        except DecodeError:
            return None
        table = self._registry.tables.get(canonical)
        return position if table is None or position is None else _followed(table, position)

    def _is_idle(self, row: tuple[str, str, bytes | None, int, bytes | None], wall_ms: int) -> bool:
        _, _, position, moved_ms, seen = row
        return position == seen and wall_ms - moved_ms > self._idle_ms

    # ---- reading

    def read(
        self,
        table_name: str,
        position: Position | Callable[[], Position],
        wall_ms: int,
        *,
        rows_max: int = PAGE_ROWS_MAX,
        bytes_max: int = PAGE_BYTES_MAX,
    ) -> tuple[Page, list[bytes]]:
        """Return the next page beyond a position, and batches to publish; a function is asked for it in the transaction.

        Raises:
            FeedError: there is no such table.
            DatabaseError: the file cannot be read now.
        """
        pages: list[Page] = []

        def read() -> None:
            table = self.table(table_name)
            at = _followed(table, position() if callable(position) else position)
            if table.areas is not None and table.areas.moving:  # its changes are getting other sites
                pages[:] = [Page([], at, at.copy(), [], more=False)]
                return
            pages[:] = [
                read_page(table, self._touched if self.active else None, at, rows_max=rows_max, bytes_max=bytes_max)
            ]

        # A page is thousands of values that all stay: the collector would look at each again and again.
        self._pause.begin()
        try:
            published = self._outbox.read_drained(wall_ms, read)
        finally:
            self._pause.end()
        return pages[0], published

    def read_set(
        self, table_name: str, position: Position, wall_ms: int, *, rows_max: int
    ) -> tuple[SetPage | None, list[bytes]]:
        """Return the next page as windows of the log, and batches to publish; None where `read` has to read it.

        Raises as `read`.
        """
        pages: list[SetPage | None] = []

        def read() -> None:
            touched = self._touched if self.active else None
            table = self.table(table_name)
            if table.areas is not None and table.areas.moving:
                pages[:] = [None]
                return
            pages[:] = [read_windows(table, touched, _followed(table, position), rows_max=rows_max)]

        published = self._outbox.read_drained(wall_ms, read)
        return pages[0], published

    # ---- dead letters

    def set_aside(self, name: str, change: Change, why: str, tries: int, wall_ms: int) -> None:
        """Keep a change that a reader could not deal with as a dead letter."""
        with self._store.transaction():
            self.letters.add(name, change, why, tries, wall_ms)

    def drop_letter(self, number: int) -> DeadLetter:
        """Forget a dead letter; raises `FeedError` if there is no such one."""
        letter = self.letters.get(number)
        with self._store.transaction():
            self.letters.remove(number)
        return letter

    def retry_letter(self, number: int) -> DeadLetter:
        """Let the readers of the table see the row of a dead letter again, and forget the letter.

        Raises:
            FeedError: there is no such letter, its table is gone, or no reader is left to see it.
        """
        letter = self.letters.get(number)
        # A message from outside, which its bridge writes again, or a change that its flow alone takes in again.
        if letter.reader.endswith(RECEIVER) or letter.reader.startswith(FLOW):
            with self._store.transaction():
                self.letters.request(number)
            return letter
        table = self.table(letter.table)
        if not self.active:
            raise FeedError(f"no cursor is left that could read {letter.table} again; drop the letter instead")
        rows = list(rows_named(table, letter.row))
        with self._store.transaction():
            known = table.log.rows_with_entries(rows)
            row = next((row for row in rows if row in known), rows[0] if rows else None)
            if row is not None:
                self._touched.repeat(table, row, letter.row)
            self.letters.remove(number)
        return letter

    # ---- what readers hold back, and how far they are

    def oldest_unread(self, canonical: str, wall_ms: int) -> int | None:
        """Return the clock up to which every cursor of a table has seen its deletes, None if no cursor waits."""
        if not self.active:
            return None
        table = self._registry.tables[canonical]
        bounds = []
        for row in self._rows("WHERE table_name = ?", canonical):
            position = self._decoded(canonical, row[2])
            if position is None or self._is_idle(row, wall_ms):
                continue
            seen = position.seen.copy()
            if position.start is not None:
                seen.merge(position.start)  # deletes of before the start are never shown
            bounds += [after for _, (after, _) in table.coverage.vector.missing_from(seen)]
        return min(bounds, default=None)

    def cursors(self, wall_ms: int) -> list[Cursor]:
        """Return every cursor, by name and table."""
        found = []
        for row in self._rows("ORDER BY name, table_name"):
            name, canonical, data, moved_ms, _ = row
            position, table = self._decoded(canonical, data), self._registry.tables.get(canonical)
            behind, oldest = 0, None
            if position is not None and table is not None:
                missing = table.coverage.vector.missing_from(position.seen)
                behind = sum(changes_in(table, site, window) for site, window in missing)
                clocks = [self._first(table, site, window) for site, window in missing]
                oldest = min([clock for clock in clocks if clock is not None], default=None)
            shown = canonical if table is None else table.spec.name
            oldest_ms = None if oldest is None else ms_from_hlc(oldest)
            found.append(Cursor(name, shown, behind, oldest_ms, moved_ms, self._is_idle(row, wall_ms), canonical))
        return found

    def _first(self, table: Table, site: bytes, window: tuple[int, int]) -> int | None:
        """Return the least clock of the site's entries in a window."""
        site_number = table.store.site_number(site)
        if site_number is None:
            return None
        after, upto = window
        plain = self._store.db.execute(
            f"SELECT min(hlc) FROM {table.log.name} WHERE place = ? AND hlc > ? AND hlc <= ?",
            (site_number, after, upto),
        ).fetchone()[0]
        run = next(iter(table.log.runs.after(site_number, after, upto)), None)
        clocks = [clock for clock in (plain, None if run is None else max(run.hlc, after + 1)) if clock is not None]
        return min(clocks, default=None)


def _followed(table: Table, position: Position) -> Position:
    """Return a position in the table as it is: entries have other sites since it was cut with its rows."""
    if table.areas is not None and table.areas.moved is not None and not table.areas.moving:
        position.follow_cut(table.areas)
    return position
