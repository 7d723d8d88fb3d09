"""Simulated readers of the change feed: programs with a cursor each, which die at any time and end equal to the tables.

A reader `outside` keeps its copy of the tables in a store of its own, and acknowledges what it has done by a call to the node.
A reader `inside` keeps its copy in the served file, and moves its cursor in the same transaction by plain SQL. Both wait for
commits of their node; nothing polls.

The copies know no stamps: at the end they must hold the rows that the tables hold.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from mycomesh.simulations.oracle import tokens_in
from mycomesh.simulations.world import MS
from mycomesh.sync.errors import FeedError
from mycomesh.sync.merge.records import values_text
from mycomesh.sync.schema.facts import SCHEMA_TABLE

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection

    import apsw

    from mycomesh.simulations.shell import Shell
    from mycomesh.simulations.workload import Application
    from mycomesh.simulations.world import World
    from mycomesh.sync.crdt.version_vector import Vector
    from mycomesh.sync.feed.change import Change
    from mycomesh.sync.feed.feed import Feed
    from mycomesh.sync.feed.position import Position
    from mycomesh.sync.feed.reader import Page

__all__ = ["FeedReader"]

WAKE_US = (1 * MS, 400 * MS)  # from a commit to the reader's next look: the time that its work takes
RESTART_US = (100 * MS, 3_000 * MS)  # of a reader that died
DEATH = 0.05  # chance of kill -9 at one page
PARTS = 0.3  # chance that a reader acknowledges a part of a page
PAGES = (1, 5, 40, 1_024)  # sizes of pages
_CREATE = """
CREATE TABLE IF NOT EXISTS reports(reader, id, PRIMARY KEY(reader, id));
CREATE TABLE IF NOT EXISTS mirror(reader, "table", row, body, PRIMARY KEY(reader, "table", row));
"""
_MOVE = "UPDATE mycomesh_cursors SET position = ? WHERE name = ? AND table_name = ?"


class FeedReader:
    """One program that follows all tables of one node."""

    def __init__(
        self,
        number: int,
        application: Application,
        running: Callable[[], Shell | None],
        world: World,
        *,
        inside: bool,
    ) -> None:
        """Take the program beside the node, and a function that returns the node itself."""
        self.name = f"{'inside' if inside else 'outside'}-{number}"
        self.inside = inside
        self._application = application
        self._running = running
        self.failures: list[str] = []
        self.calm = False  # it lives on, and handles whole pages
        self.read = 0
        self._world = world
        self._rng: random.Random = world.stream(f"reader/{number}")
        self._copies: dict[str, dict[str, str]] = {}
        self._shell: Shell | None = None
        self._positions: dict[str, Position] = {}  # of this run of the program, by table
        # By table and site: the greatest clock that this run has seen, and what the node covered then.
        self._tops: dict[str, dict[bytes, tuple[int, Vector]]] = {}
        self._planned = False

    # ---- life

    def wake(self) -> None:
        """Look at the feed after a while; a look that is planned covers all commits before it."""
        if not self._planned:
            self._planned = True
            self._world.after(self._rng.randint(*WAKE_US), self._look)

    def _look(self) -> None:
        self._planned = False
        shell = self._running()
        if shell is None or not shell.up or not self._application.running:
            return  # the start of the node wakes it
        if shell is not self._shell:
            self._begin(shell)
        for table in sorted(shell.replica.tables):
            if table != SCHEMA_TABLE and shell.up and not self._follow(shell, table):
                self._begin(None)
                self._planned = True
                self._world.after(self._rng.randint(*RESTART_US), self._look)
                return

    def _begin(self, shell: Shell | None) -> None:
        """Begin a run of the program: it knows only what its cursors hold."""
        self._shell, self._positions, self._tops = shell, {}, {}

    def _follow(self, shell: Shell, table: str) -> bool:
        """Read one page of a table and handle it; return False if the reader dies."""
        pages: list[Page] = []
        name = shell.replica.tables[table].spec.name

        def request(feed: Feed, wall_ms: int) -> list[bytes]:
            published: list[bytes] = []
            if table not in self._positions:
                published += feed.create(self.name, name, wall_ms)[0]
                self._positions[table] = feed.position(self.name, name)
                self._tops[table] = {}
            size = PAGES[-1] if self.calm else self._rng.choice(PAGES)
            page, more = feed.read(name, self._positions[table], wall_ms, rows_max=size)
            pages.append(page)
            return published + more

        try:
            shell.run_on_feed(request)
        except FeedError as error:
            self.failures.append(f"{self._at()}: {error}")
            return True
        (page,) = pages
        self._check_order(shell, table, page)
        self._positions[table] = page.position
        if page.more:
            self.wake()
        return not page.changes or not shell.up or self._handle(shell, table, page)

    def _handle(self, shell: Shell, table: str, page: Page) -> bool:
        self.read += len(page.changes)
        count = len(page.changes)
        if not self.calm and self._rng.random() < PARTS:
            count = self._rng.randint(0, count)
        dies = not self.calm and self._rng.random() < DEATH
        position = page.after(count)
        if self.inside:
            self._write_inside(table, page.changes[:count], position, commit=not dies)
        else:
            _apply(self._copies.setdefault(table, {}), page.changes[:count])
            if not dies:
                name = shell.replica.tables[table].spec.name
                shell.run_on_feed(lambda feed, wall_ms: feed.move(self.name, name, position, wall_ms))
        if count < len(page.changes) and not dies:  # it asks for the rest again, as a program that starts again does
            return False
        return not dies

    def _write_inside(self, table: str, changes: list[Change], position: Position, *, commit: bool) -> None:
        db = self._application.db
        db.execute("BEGIN IMMEDIATE")
        db.execute(_CREATE)
        before = db.total_changes()
        db.executemany("INSERT OR IGNORE INTO reports VALUES(?, ?)", [(self.name, change.id) for change in changes])
        fresh = db.total_changes() - before
        if fresh != len(changes):
            self.failures.append(f"{self._at()}: {len(changes) - fresh} changes of {table} were seen twice")
        for change in changes:
            values = (self.name, table, change.row)
            if change.values is None:
                db.execute('DELETE FROM mirror WHERE reader = ? AND "table" = ? AND row = ?', values)
            else:
                db.execute("INSERT OR REPLACE INTO mirror VALUES(?, ?, ?, ?)", (*values, _body(change.values)))
        db.execute(_MOVE, (position.encode(), self.name, table))
        db.execute("COMMIT" if commit else "ROLLBACK")
        shell = self._running()
        if commit and shell is not None:
            shell.on_commit()

    # ---- checks

    def _check_order(self, shell: Shell, table: str, page: Page) -> None:
        """Note changes that come after a later one of their site, unless they came to the node after that one was shown."""
        tops, here = self._tops[table], dict[bytes, int]()
        for change in page.changes:
            if change.touched:
                continue
            top = tops.get(change.site)
            late = top is not None and change.hlc <= top[0] and top[1].covers(change.site, change.hlc)
            if late or change.hlc <= here.get(change.site, 0):
                self.failures.append(f"{self._at()}: {change.id} came after a later change of its site")
            here[change.site] = change.hlc
        covered = shell.replica.tables[table].coverage.vector.copy()
        for site, hlc in here.items():
            if site not in tops or hlc > tops[site][0]:
                tops[site] = hlc, covered

    def violations(self, excused: Collection[int], undone: Collection[int]) -> list[str]:
        """Return what is wrong at the end, one line each.

        No restored file takes back what a reader outside has done: it may keep rows of writes that the file lost (`excused`), and
        lack the values that were replaced or deleted by such writes (`undone`).
        """
        found = list(self.failures)
        shell = self._running()
        if shell is None or not shell.up:
            return found
        for table in sorted(shell.replica.tables):
            if table == SCHEMA_TABLE:
                continue
            there = sorted(_rows(self._application.db, shell.replica.tables[table].spec.name))
            copied = sorted(self._copy(table))
            if there == copied:
                continue
            extra, missing = _less(copied, there), _less(there, copied)
            if not self.inside:
                lost = [row for row in extra if any(token in excused for token in tokens_in(row))]
                extra = [row for row in extra if row not in lost]
                missing = [row for row in missing if not any(token in undone for token in tokens_in(row))][len(lost) :]
            if extra or missing:
                found.append(
                    f"{self._at()}: its copy of {table} has {len(extra)} rows too many and {len(missing)} too few,"
                    f" e.g. {(missing or extra)[0]}"
                )
        return found

    def _copy(self, table: str) -> list[str]:
        if not self.inside:
            return list(self._copies.get(table, {}).values())
        db = self._application.db
        if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'mirror'").fetchone() is None:
            return []
        listing = 'SELECT body FROM mirror WHERE reader = ? AND "table" = ? ORDER BY row'
        return [body for (body,) in db.execute(listing, (self.name, table))]

    def _at(self) -> str:
        return f"node {self._application.node}: reader {self.name}"


def _apply(copy: dict[str, str], changes: list[Change]) -> None:
    for change in changes:
        if change.values is None:
            copy.pop(change.row, None)
        else:
            copy[change.row] = _body(change.values)


def _body(values: dict[str, Any]) -> str:
    return values_text(dict(sorted(values.items())))


def _rows(db: apsw.Connection, table: str) -> list[str]:
    names = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?) ORDER BY name", (table,))]
    columns = ", ".join(f'"{name}"' for name in names)
    return [_body(dict(zip(names, row, strict=True))) for row in db.execute(f'SELECT {columns} FROM "{table}"')]


def _less(rows: list[str], others: list[str]) -> list[str]:
    """Return the rows that `others` lacks, as many of each as are lacking."""
    return list((Counter(rows) - Counter(others)).elements())
