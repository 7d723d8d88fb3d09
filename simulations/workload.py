"""The simulated applications: plain SQL on a stock connection, at seeded random times.

Each statement uses only features of stock SQLite, so any program could run it. The clock is the one exception: the connection
overrides `julianday`, because the capture triggers read the wall clock through it and a simulation has its own.

Invariant: the oracle records a transaction only after its commit.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import apsw

from mycomesh.simulations.bounds import RATE, ROWS
from mycomesh.simulations.oracle import Oracle, Written, text_of, tokens_in

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["CUT", "REPORTS", "RETAINED", "SCHEMA", "TABLES", "Application", "Rates", "set_clock"]

CUT = "drones"  # the table that is cut into areas by `drone_id`, where a scenario says so
MOVED = 0.1  # the share of telemetry that moves a row to another area instead, in such a table
TABLES = ("alerts", "callsigns", "drones", "missions")
SCHEMA = """
CREATE TABLE IF NOT EXISTS drones(drone_id, latitude, longitude, altitude, timestamp);
CREATE TABLE IF NOT EXISTS missions(id INTEGER PRIMARY KEY, birth TEXT, target TEXT, state TEXT, note TEXT);
CREATE TABLE IF NOT EXISTS alerts(id TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS callsigns(id TEXT PRIMARY KEY, birth TEXT, callsign TEXT UNIQUE);
"""
KEYED = SCHEMA.replace("drone_id,", "drone_id INTEGER,").replace(
    "altitude, timestamp)", "altitude, timestamp, PRIMARY KEY(drone_id, timestamp))"
)
STOCK = """
CREATE TABLE IF NOT EXISTS stock(item TEXT PRIMARY KEY, n INTEGER NOT NULL DEFAULT 0);
"""
NUMBERED = """
CREATE TABLE IF NOT EXISTS tickets(id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT);
"""
REPORTS = ("reports", "mirror")  # tables of readers of the change feed, which are not replicated
ITEMS = 4  # rows of counters
RETAINED = "drones"  # the table whose rows go with time where a scenario says so
EXTRAS = 4  # columns that applications add to a table of five, and tables that they create
UNIX_EPOCH_JULIAN_DAY = 2_440_587.5
DAY_MS = 86_400_000
BUSY_MS = 1_000  # as a patient stock client; in one thread nothing else writes at the same time
BULK_ROWS = 200  # rows of one bulk load
TRIM_ROWS = 5  # telemetry rows of one clean-up
COLUMNS = ("target", "state", "note")


@dataclass(frozen=True, slots=True)
class Rates:
    """The rates of one node's transactions, per virtual second."""

    telemetry: float = 1.0  # INSERT into a table without a key
    edit: float = 0.2  # UPDATE of one column of a shared row
    insert: float = 0.05  # INSERT of a shared row, which may have been deleted before
    delete: float = 0.02  # DELETE of a shared row
    alert: float = 0.02  # INSERT of a row that no other node writes
    trim: float = 0.01  # DELETE of this node's oldest telemetry
    rename: float = 0.0  # UPSERT into a table with a UNIQUE column: collisions are parked
    burst: float = 0.01  # several of the above in one transaction
    bulk: float = 0.0  # INSERT of 200 rows in one transaction
    count: float = 0.0  # UPDATE n = n + ? of a counter that all nodes change
    replace: float = 0.0  # INSERT OR REPLACE of a shared row, which may evict another by its UNIQUE column
    schema: float = 0.0  # ALTER TABLE ADD COLUMN, or CREATE TABLE and an INSERT into it
    migrate: float = 0.0  # DROP or RENAME of a column or a table, which the node's operator runs through the node
    number: float = 0.0  # INSERT into a table with own ids: no two nodes may number two rows alike
    rows: int = 40  # size of the shared key space

    def __post_init__(self) -> None:
        for name in KINDS:
            RATE.read(getattr(self, name), name)
        ROWS.read(self.rows, "rows")

    def scaled(self, total: float) -> Rates:
        """Return the same mixture at `total` transactions a second; if all rates are 0, they stay 0."""
        current = self.total
        return replace(self, **{kind: getattr(self, kind) * total / current for kind in KINDS}) if current else self

    @property
    def total(self) -> float:
        """The transactions of one node per second."""
        return float(sum(getattr(self, kind) for kind in KINDS))


KINDS = (
    "telemetry",
    "edit",
    "insert",
    "delete",
    "alert",
    "trim",
    "rename",
    "burst",
    "bulk",
    "count",
    "replace",
    "schema",
    "migrate",
    "number",
)


class Application:
    """One program that uses one file: its connection and its random choices."""

    def __init__(  # noqa: PLR0913  (what differs between the programs of a scenario)
        self,
        node: int,
        rates: Rates,
        rng: random.Random,
        oracle: Oracle,
        areas: int = 0,
        home: int | None = None,
        *,
        keyed: bool = False,
        writes: tuple[str, ...] | None = None,
    ) -> None:
        """Take the number of areas to which it writes telemetry (0: in its own name), or the one area to which it does.

        With `keyed` its rows have a primary key. Of `writes`, if not None, are the areas that other nodes take from it.
        """
        self._writes = writes
        self._keyed = keyed
        self.node = node
        self._home = node if home is None else home
        self._areas = areas
        self.rates = rates
        self.commits = 0
        self.counting = (
            False  # whether the node knows that the column is a counter: before that, an increment is a plain write
        )
        self.numbering = False  # whether the node gives out ids of its own in `tickets`
        self.session = 0  # counts the starts of this program: the plans of earlier ones are void
        self._rng = rng
        self._oracle = oracle
        self._staged: list[Callable[[], None]] = []
        self._weights = [getattr(rates, kind) for kind in KINDS]
        self._db: apsw.Connection | None = None

    @property
    def running(self) -> bool:
        """True while the program runs."""
        return self._db is not None

    @property
    def db(self) -> apsw.Connection:
        """The open connection."""
        assert self._db is not None, "the application is not running"
        return self._db

    def open(self, path: str, wall_ms: Callable[[], int], *, schema: bool) -> None:
        """Connect as a stock client would; with `schema`, create the tables."""
        self.session += 1
        self._db = apsw.Connection(path)
        self._db.set_busy_timeout(BUSY_MS)
        set_clock(self._db, wall_ms)
        self._db.execute("PRAGMA journal_mode = WAL").fetchall()
        self._db.execute("PRAGMA synchronous = NORMAL").fetchall()
        if schema:
            self._db.execute(KEYED if self._keyed else SCHEMA).fetchall()
            if self.rates.count:
                self._db.execute(STOCK).fetchall()
            if self.rates.number:
                self._db.execute(NUMBERED).fetchall()

    def fill(self) -> None:
        """Insert the rows of counters, at the one node that declares them."""
        self.db.executemany(
            "INSERT OR IGNORE INTO stock(item) VALUES (?)", [(f"item {item}",) for item in range(ITEMS)]
        )

    def close(self) -> None:
        """Disconnect."""
        self.db.close()
        self._db = None

    def pause_us(self) -> int:
        """Return the virtual microseconds until the next transaction (a Poisson process)."""
        return int(self._rng.expovariate(self.rates.total) * 1_000_000)

    def act(self, now_us: int) -> str:
        """Run one transaction; return its kind. Do nothing while tables are still missing here.

        For the kind `migrate` do nothing either: the operator lets the node run `migration()`.

        Raises:
            apsw.Error: the transaction failed and was rolled back; the node must never be the reason.
        """
        kind = self._rng.choices(KINDS, self._weights)[0]
        if kind == "migrate":
            return kind
        steps = self._rng.randint(2, 8) if kind == "burst" else 1
        self.db.execute("BEGIN IMMEDIATE")
        try:
            for _ in range(steps):
                step = self._rng.choice(("telemetry", "edit", "insert", "delete")) if kind == "burst" else kind
                self._step(step, now_us)
            self.db.execute("COMMIT")
        except apsw.Error as error:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
            self._staged.clear()
            if isinstance(error, apsw.SQLError) and not all(self._exists(table) for table in TABLES):
                return "waiting for tables"
            raise
        for record in self._staged:
            record()
        self._staged.clear()
        self.commits += 1
        return kind

    # ---- the statements

    def _step(self, kind: str, now_us: int) -> None:
        if kind == "bulk":
            for _ in range(BULK_ROWS):
                self._telemetry(now_us)
            return
        steps = {
            "telemetry": self._telemetry,
            "edit": self._edit,
            "insert": self._insert,
            "delete": self._delete,
            "alert": self._alert,
            "trim": self._trim,
            "rename": self._rename,
            "count": self._count,
            "replace": self._replace,
            "schema": self._change_schema,
            "number": self._number,
        }
        steps[kind](now_us)

    def _telemetry(self, now_us: int) -> None:
        area = self._home
        if self._areas:
            area = self._rng.randrange(self._areas)
            if self._rng.random() < MOVED and self._move(area):
                return
        stamp = self._stage_write("drones", str(self.node), "timestamp", now_us, None)
        if not self._may_write(area):
            self._staged.append(lambda: self._record_refused(tokens_in(stamp), area, inserted=True))
        position = (40 + self._rng.random(), -74 - self._rng.random(), self._rng.randint(0, 500))
        self.db.execute(
            "INSERT INTO drones(drone_id, latitude, longitude, altitude, timestamp) VALUES (?, ?, ?, ?, ?)",
            (area, *position, stamp),
        )

    def _move(self, area: int) -> bool:
        """Give the oldest row of some area to another one; two nodes that move one row at a time make two of it."""
        other = self._rng.randrange(self._areas)
        listing = "SELECT rowid, timestamp FROM drones WHERE drone_id = ? ORDER BY rowid LIMIT 1"
        found = self.db.execute(listing, (other,)).fetchone()
        if found is None or other == area:
            return False
        self._oracle.duplicable.update(dict.fromkeys(tokens_in(found[1])))
        for each in (area, other):
            if not self._may_write(each):
                self._record_refused(tokens_in(found[1]), each)
        self.db.execute("UPDATE OR IGNORE drones SET drone_id = ? WHERE rowid = ?", (area, found[0]))
        return True

    def _edit(self, now_us: int) -> None:
        key = self._rng.randint(1, self.rates.rows)
        column = self._rng.choice((*COLUMNS, *self._extras()))
        found = self.db.execute(f'SELECT "{column}" FROM missions WHERE id = ?', (key,)).fetchone()
        if found is None:
            self._insert_mission(key, now_us)
            return
        value = self._stage_write("missions", str(key), column, now_us, found[0])
        self.db.execute(f'UPDATE missions SET "{column}" = ? WHERE id = ?', (value, key))

    def _insert(self, now_us: int) -> None:
        key = self._rng.randint(1, self.rates.rows)
        if self.db.execute("SELECT 1 FROM missions WHERE id = ?", (key,)).fetchone() is None:
            self._insert_mission(key, now_us)

    def _insert_mission(self, key: int, now_us: int) -> None:
        cells = [self._stage_write("missions", str(key), column, now_us, None) for column in ("birth", *COLUMNS)]
        self.db.execute("INSERT INTO missions(id, birth, target, state, note) VALUES (?, ?, ?, ?, ?)", (key, *cells))

    def _delete(self, now_us: int) -> None:
        key = self._rng.randint(1, self.rates.rows)
        found = self.db.execute("SELECT * FROM missions WHERE id = ?", (key,)).fetchone()
        if found is not None:
            self._stage_delete(found, now_us)
            self.db.execute("DELETE FROM missions WHERE id = ?", (key,))

    def _alert(self, now_us: int) -> None:
        key = f"{self.node}-{self._oracle.token()}"
        body = self._stage_write("alerts", key, "body", now_us, None)
        self.db.execute("INSERT INTO alerts(id, body) VALUES (?, ?)", (key, body))

    def _trim(self, now_us: int) -> None:
        oldest = self.db.execute(
            "SELECT rowid, timestamp FROM drones WHERE drone_id = ? ORDER BY rowid LIMIT ?", (self.node, TRIM_ROWS)
        ).fetchall()
        for rowid, stamp in oldest:
            deleted = self._stage_delete((stamp,), now_us)
            if not self._may_write(self.node):
                self._staged.append(functools.partial(self._record_refused, [deleted], self.node))
            self.db.execute("DELETE FROM drones WHERE rowid = ?", (rowid,))

    def _rename(self, now_us: int) -> None:
        key = f"unit {self._rng.randint(1, self.rates.rows)}"
        taken = f"call {self._rng.randint(1, self.rates.rows)}"
        found = self.db.execute("SELECT birth FROM callsigns WHERE id = ?", (key,)).fetchone()
        holder = self.db.execute("SELECT id FROM callsigns WHERE callsign = ?", (taken,)).fetchone()
        if found is None and holder is None:
            birth = self._stage_write("callsigns", key, "birth", now_us, None)
            self.db.execute("INSERT INTO callsigns(id, birth, callsign) VALUES (?, ?, ?)", (key, birth, taken))
        elif found is not None and holder is None:
            birth = self._stage_write("callsigns", key, "birth", now_us, found[0])
            self.db.execute("UPDATE callsigns SET birth = ?, callsign = ? WHERE id = ?", (birth, taken, key))

    def _count(self, now_us: int) -> None:
        del now_us  # only the sum matters, not the time
        item, by = f"item {self._rng.randrange(ITEMS)}", self._rng.randint(-9, 9)
        if self.counting and self.db.execute("SELECT 1 FROM stock WHERE item = ?", (item,)).fetchone() is not None:
            self.db.execute("UPDATE stock SET n = n + ? WHERE item = ?", (by, item))
            self._staged.append(lambda: self._oracle.record_count(item, by))

    def _number(self, now_us: int) -> None:
        if self.numbering:
            token = self._oracle.token()
            self.db.execute("INSERT INTO tickets(body) VALUES (?)", (text_of(token),))
            written = Written("tickets", str(self.db.last_insert_rowid()), "body", self.node, now_us)
            self._staged.append(lambda: self._oracle.record_write(token, written, None))

    def _replace(self, now_us: int) -> None:
        if self._rng.random() < 0.5:  # replaces the whole row, whatever its values
            key = self._rng.randint(1, self.rates.rows)
            self._stage_delete(self.db.execute("SELECT * FROM missions WHERE id = ?", (key,)).fetchone() or (), now_us)
            cells = [self._stage_write("missions", str(key), column, now_us, None) for column in ("birth", *COLUMNS)]
            self.db.execute(
                "REPLACE INTO missions(id, birth, target, state, note) VALUES (?, ?, ?, ?, ?)", (key, *cells)
            )
            return
        unit = f"unit {self._rng.randint(1, self.rates.rows)}"
        taken = f"call {self._rng.randint(1, self.rates.rows)}"
        for row in self.db.execute(
            "SELECT birth FROM callsigns WHERE id = ? OR callsign = ?", (unit, taken)
        ).fetchall():
            self._stage_delete(row, now_us)
        birth = self._stage_write("callsigns", unit, "birth", now_us, None)
        self.db.execute("REPLACE INTO callsigns(id, birth, callsign) VALUES (?, ?, ?)", (unit, birth, taken))

    def _change_schema(self, now_us: int) -> None:
        number = self._rng.randrange(EXTRAS)
        if self._rng.random() < 0.5:
            if f"extra{number}" not in self._extras():
                self.db.execute(f"ALTER TABLE missions ADD COLUMN extra{number} TEXT")
            return
        self.db.execute(f"CREATE TABLE IF NOT EXISTS journal{number}(id TEXT PRIMARY KEY, body TEXT)")
        key = f"{self.node}-{self._oracle.token()}"
        body = self._stage_write(f"journal{number}", key, "body", now_us, None)
        self.db.execute(f"INSERT INTO journal{number}(id, body) VALUES (?, ?)", (key, body))

    def migration(self) -> str:
        """Return a migration script for the file's present schema. It drops no value that applications wrote."""
        free = self._rng.randrange(EXTRAS)
        columns = {name for (name,) in self.db.execute("SELECT name FROM pragma_table_info('missions')")}
        extras = self._extras()
        journals = [f"journal{number}" for number in range(EXTRAS) if self._exists(f"journal{number}")]
        scripts = []
        if columns:
            spare = (
                "DROP COLUMN spare" if "spare" in columns else "ADD COLUMN spare; UPDATE missions SET spare = id % 3"
            )
            scripts.append(f"ALTER TABLE missions {spare}")
        if extras and f"extra{free}" not in extras:
            scripts.append(f'ALTER TABLE missions RENAME COLUMN "{self._rng.choice(extras)}" TO extra{free}')
        if journals and f"journal{free}" not in journals:
            scripts.append(f"ALTER TABLE {self._rng.choice(journals)} RENAME TO journal{free}")
        scripts.append("DROP TABLE scratch" if self._exists("scratch") else "CREATE TABLE scratch(a PRIMARY KEY, b)")
        return self._rng.choice(scripts)

    def _extras(self) -> tuple[str, ...]:
        """Return the columns that applications have added, as far as this file has them."""
        if not self.rates.schema:
            return ()
        query = "SELECT name FROM pragma_table_info('missions') WHERE name LIKE 'extra%' ORDER BY name"
        return tuple(name for (name,) in self.db.execute(query))

    # ---- records for the oracle, which run after the commit

    def _stage_write(self, table: str, key: str, column: str, now_us: int, over: str | None) -> str:
        token = self._oracle.token()
        written = Written(table, key, column, self.node, now_us)
        self._staged.append(lambda: self._oracle.record_write(token, written, over))
        return text_of(token)

    def _stage_delete(self, values: tuple[object, ...], now_us: int) -> int:
        token = self._oracle.token()
        self._staged.append(lambda: self._oracle.record_delete(token, self.node, now_us, values))
        return token

    def _may_write(self, area: int) -> bool:
        return self._writes is None or str(area) in self._writes

    def _record_refused(self, tokens: list[int], area: int, *, inserted: bool = False) -> None:
        """Record writes to an area that others do not take from this node; `inserted` if none of them may ever be there."""
        self._oracle.unequal[self.node, str(area)] = None
        self._oracle.excused.update(dict.fromkeys(tokens))
        if inserted:
            self._oracle.refused.update(dict.fromkeys(tokens))

    def _exists(self, table: str) -> bool:
        query = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
        return self.db.execute(query, (table,)).fetchone() is not None


def set_clock(db: apsw.Connection, wall_ms: Callable[[], int]) -> None:
    """Give a connection the simulation's wall clock, where its SQL asks SQLite for the time."""

    def julianday(*_none: object) -> float:
        return UNIX_EPOCH_JULIAN_DAY + wall_ms() / DAY_MS

    db.create_scalar_function("julianday", julianday, 0)  # without arguments: only capture reads the present time so
