"""Results, the cursor and dead letters of a flow in one transaction of the served file.

The flow is an ordinary client of the file: the node captures its rows as those of any program. The cursor moves only from where
this process left it. So a process that a restarted node has replaced rolls back, and no change runs twice.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.judge import JUDGED_MAX, Judge
from mycomesh.sync.crdt.hlc import time_text
from mycomesh.sync.feed.letters_sql import ADD_LETTER, CREATE_LETTERS, why_line
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.tools.flows.cycles import cycle, written_by_triggers
from mycomesh.tools.flows.set_function import LogSet, SetFunction, UnfitError
from mycomesh.tools.flows.settings import comes_back, cursor_of
from mycomesh.tools.flows.sql_function import FunctionError, SqlFunction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mycomesh.tools.flows.ahead import Ahead
    from mycomesh.tools.flows.clock import StatementClock
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["Batch", "MovedError", "Writer", "forget"]

BUSY_S = 30
SHOW_MS = 200  # that the file may be busy when the state is written
HELD_S_MAX = 0.5  # of a transaction, if each statement in it is shorter
LONG_S = 0.1  # of a transaction, after which
REST_S = 0.12  # other programs can write: SQLite looks each 0.1 s at the latest whether they may
CHUNK = 64  # changes between two looks at how long a transaction has been
HEAP_MIB = 512  # of SQLite in the process of one flow
_TABLES = f"""
CREATE TABLE IF NOT EXISTS mycomesh_flow_states(
    name TEXT PRIMARY KEY, state TEXT, text TEXT, inputs INTEGER, failed INTEGER, at TEXT, older INTEGER DEFAULT 0);
{CREATE_LETTERS}
"""
_MOVE = "UPDATE mycomesh_cursors SET position = ? WHERE name = ? AND table_name = ? AND area = '' AND position = ?"


# A row's own fault; a full disk or a locked file is not.
_OF_A_ROW = (apsw.ConstraintError, apsw.MismatchError, apsw.TooBigError, apsw.SQLError, ValueError, OverflowError)


class _LostError(Exception):
    """SQLite rolled the whole transaction back, as it does for an INSERT that is interrupted: `known` changes are the cause."""

    def __init__(self, known: Mapping[int, str]) -> None:
        super().__init__()
        self.known = known


class MovedError(Exception):
    """Another process has moved the cursor: what this one was about to write has to be read again."""


@dataclass(slots=True)
class Batch:
    """Changes of one page that the flow takes in, their places in the page, and how many changes the page has."""

    count: int
    changes: list[Mapping[str, Any]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)


class Writer:
    """Writes for one flow. Used from one thread at a time."""

    def __init__(self, file: str, settings: FlowSettings, others: Sequence[FlowSettings] = ()) -> None:
        """Take the flow, and those before it, with which it must not make a cycle."""
        self._settings = settings
        self._others = others
        self._db = apsw.Connection(file, apsw.SQLITE_OPEN_READWRITE)
        self._db.set_busy_timeout(1000 * BUSY_S)
        self._db.execute(f"PRAGMA hard_heap_limit = {HEAP_MIB << 20}")
        self._db.execute(_TABLES)
        self._position: bytes | None = None
        self._began_s = 0.0  # of the last transaction
        self._schema_version = -1
        self.function = _function(self._db, settings)
        self._sets = (
            SetFunction(self._db, settings, self.function)
            if settings.function.kind == "sql" and not settings.priority
            else None
        )
        self._ahead = _ahead(self._db, settings, self.function)
        self._fits: bool | None = None  # whether the statement may run for many changes at once; None: to be found out
        self.judge = Judge()
        self.figures: dict[str, float] = {"inputs": 0, "failed": 0}

    def close(self) -> None:
        """Close the file."""
        self.function.close()
        self._db.close()

    def columns(self) -> tuple[str, ...] | None:
        """Return the columns of the input table, None while a table of the flow does not exist."""
        self._refresh()
        return self.function.columns()

    def missing(self) -> str:
        """Say which table of the flow does not exist, "" if both do."""
        return self.function.missing()

    def check(self) -> None:
        """Compile the SQL against the tables; raises `FunctionError`."""
        columns = self.columns()
        if columns is not None:
            self.function.statement(columns)
            if self._fits is None:
                path = cycle(self._settings, self._others, lambda table: written_by_triggers(self._db, table))
                if path:
                    raise FunctionError(comes_back(self._settings, path, " and triggers"))
                self._fits = self._sets is not None and self._sets.fits(columns)

    @property
    def takes_sets(self) -> bool:
        """Whether the statement may run for many changes at once, by the tables as they were last checked or written."""
        return bool(self._fits)

    def note_wait(self) -> bool:
        """Note that the flow is older than a table of it, so that every row of that counts; return whether it is."""
        name = self._settings.name
        if self.columns() is None:
            self._db.execute(
                "INSERT INTO mycomesh_flow_states(name, older) VALUES(?, 1) ON CONFLICT(name) DO UPDATE SET older = 1",
                (name,),
            )
        found: Any = self._db.execute("SELECT 1 FROM mycomesh_flow_states WHERE name = ? AND older", (name,)).fetchone()
        return found is not None

    def read_position(self) -> bool:
        """Take the cursor as it is by now as the place to go on from; return whether there is one."""
        self._position = None
        with contextlib.suppress(apsw.SQLError):  # no table yet
            select = "SELECT position FROM mycomesh_cursors WHERE name = ? AND table_name = ? AND area = ''"
            found: Any = self._db.execute(select, (self._settings.cursor, fold(self._settings.table))).fetchone()
            self._position = found[0] if found else None
        if self._ahead is not None:
            self._ahead.forget_passed(self._position)
        return self._position is not None

    def write(self, batch: Batch, place: bytes, place_after: Callable[[int], bytes]) -> int:
        """Write the results of a batch, and move the cursor to `place`; return how many changes of the page are done with.

        These are fewer than all only where too many have failed; `place_after` then says where the cursor goes.

        Raises:
            MovedError: another process has moved the cursor.
            FunctionError: the SQL fits the tables no more.
            apsw.BusyError: another program has the file.
        """
        self.check()
        if self._ahead is not None:
            waiting = self._ahead.are_waiting(batch.changes)
            batch.changes = list(itertools.compress(batch.changes, waiting))
            batch.places = list(itertools.compress(batch.places, waiting))
        return self._write(batch, place, place_after)

    def write_first(self, page: LogSet, own: str, place: bytes) -> bool | None:
        """Write the results of the most important changes of a page of sites that begin with `own`; raises as `write`.

        Returns whether none of the page is left, so that the cursor has moved to `place`; None if the page has to go in as rows.
        """
        assert self._ahead is not None, "the flow has a priority"
        self.check()
        ahead, columns = self._ahead, self.columns()
        try:
            with self._db:
                chosen, last = ahead.choose(page, columns or (), own)
        except UnfitError:
            return None
        except apsw.SQLError as error:
            raise FunctionError(f"priority: {error}") from error
        here = self._position or b""

        def beside(done: int) -> bool:
            """Note the first changes, or move the cursor behind the last; return whether it moves."""
            moves = last and done == len(chosen)
            if moves:
                ahead.forget(page)
            else:
                ahead.note(chosen[:done])
            return moves

        batch = Batch(len(chosen), list(chosen), list(range(len(chosen))))
        done = self._write(batch, place if last else here, lambda _: here, beside)
        return last and done == len(chosen)

    def _write(
        self,
        batch: Batch,
        place: bytes,
        place_after: Callable[[int], bytes],
        beside: Callable[[int], object] = lambda _: None,
    ) -> int:
        """Write a batch, with what belongs to the first changes beside it; raises as `write`."""
        self.function.prepare(batch.changes)
        known: dict[int, str] = {}  # number of a change -> why SQLite rolled everything back for it
        together = True
        while True:
            try:
                done, failed, judge = self._try(batch, place, place_after, known if not together else None, beside)
            except _LostError as lost:
                known |= lost.known
                together = False
            else:
                break
        self.judge = judge
        self.figures["failed"] += failed
        self.figures["inputs"] += sum(each < done for each in batch.places)
        return done

    def write_set(self, page: LogSet, own: str, place: bytes) -> float | None:
        """Write the results of a page of sites that begin with `own`, and move the cursor; raises as `write`.

        Returns the seconds that the statements took, None if nothing is written and the page has to go in row by row.
        """
        self.check()
        columns = self.columns()
        if columns is None or self._sets is None or not self.takes_sets:
            return None
        try:
            with self._transaction():
                with self._clock.running(min(self.function.seconds, HELD_S_MAX)):
                    count = self._sets.run(page, columns, own)
                self._move(place)
                took_s = self._held_s
        except (UnfitError, apsw.InterruptError, apsw.NoMemError, *_OF_A_ROW):
            return None
        self._position = place
        for _ in range(min(count, JUDGED_MAX)):
            self.judge.add(failed=False)
        self.figures["inputs"] += count
        return took_s

    def _move(self, place: bytes) -> None:
        self._db.execute(_MOVE, (place, self._settings.cursor, fold(self._settings.table), self._position))
        if self._db.changes() != 1:
            raise MovedError

    def _try(
        self,
        batch: Batch,
        place: bytes,
        place_after: Callable[[int], bytes],
        known: Mapping[int, str] | None,
        beside: Callable[[int], object],
    ) -> tuple[int, int, Judge]:
        """Write in one transaction, singly if there are `known` failures; return how many are done with and how many failed."""
        judge = copy.deepcopy(self.judge)
        with self._transaction():
            done, failed = self._write_together(batch, judge) if known is None else None, 0
            if done is None:
                done, failed = self._write_singly(batch, judge, known or {})
            if done < batch.count:
                place = place_after(done)
            beside(done)
            self._move(place)
        self._position = place
        return done, failed, judge

    @contextlib.contextmanager
    def _transaction(self) -> Any:
        self._db.execute("BEGIN IMMEDIATE")
        self._began_s = time.monotonic()
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if self._held_s > LONG_S:
                time.sleep(REST_S)

    @property
    def _held_s(self) -> float:
        """How long the transaction has been."""
        return time.monotonic() - self._began_s

    def retry(self) -> None:
        """Run the function again for the dead letters that `mycomesh dead --retry` names."""
        reader = self._settings.cursor
        listing = "SELECT seq, body FROM mycomesh_dead_letters WHERE reader = ? AND tries = 0 ORDER BY seq"
        letters: list[Any] = self._db.execute(listing, (reader,)).fetchall()
        for number, body in letters:
            change = json.loads(body)
            self.function.prepare([change])
            known: dict[int, str] = {}
            done = False
            while not done:
                with contextlib.suppress(_LostError), self._transaction():
                    try:
                        why = known.get(number) or self._failure(number, change)
                    except _LostError as lost:
                        known |= lost.known
                        raise
                    self._db.execute("DELETE FROM mycomesh_dead_letters WHERE seq = ? AND ?", (number, not why))
                    self._db.execute(
                        "UPDATE mycomesh_dead_letters SET tries = 1, why = ? WHERE seq = ?",
                        (why_line(why), number),
                    )
                    done = True

    def sample(self, count: int) -> list[tuple[dict[str, Any], list[dict[str, Any]] | str]]:
        """Run the function for the latest rows and write nothing; return each row with its results, or why it fails."""
        columns = self.columns()
        if columns is None:
            raise FunctionError(self.missing())
        self.function.statement(columns)
        listing = f"SELECT {', '.join(map(quoted, columns))} FROM {quoted(self._settings.table)}"
        found: list[Any] = self._db.execute(f"{listing} ORDER BY rowid DESC LIMIT ?", (count,)).fetchall()
        made: list[tuple[dict[str, Any], list[dict[str, Any]] | str]] = []
        for number, row in enumerate(found):
            values = dict(zip(columns, row, strict=True))
            change = {"id": f"sample/{0:032x}/{number}", "values": values, "who": "", "at": ""}
            self._db.execute("BEGIN")
            try:
                with self._clock.running(self.function.seconds):
                    made.append((values, self.function.sample(change)))
            except (apsw.Error, ValueError) as error:
                made.append((values, self._why(error)))
            finally:
                if self._db.in_transaction:  # SQLite rolls it back if it interrupts the INSERT
                    self._db.execute("ROLLBACK")
        return made

    def _write_together(self, batch: Batch, judge: Judge) -> int | None:
        """Run the function for all, or as many as there is time for; return how many changes of the page are done with.

        It returns None, and leaves nothing, if the function fails for any.
        """
        changes = batch.changes
        self._db.execute("SAVEPOINT flow_all")
        done = 0
        try:
            with self._clock.running(self.function.seconds):
                for columns, part in _parts(changes):
                    if done and self._held_s > HELD_S_MAX:
                        break
                    self._run(columns, part)
                    done += len(part)
        except (apsw.InterruptError, apsw.NoMemError, *_OF_A_ROW) as error:
            if not self._db.in_transaction:
                raise _LostError({}) from error
            self._db.execute("ROLLBACK TO flow_all")
            return None
        self._db.execute("RELEASE flow_all")
        for _ in range(done):
            judge.add(failed=False)
        return batch.count if done == len(changes) else batch.places[done]

    def _run(self, columns: tuple[str, ...], changes: Sequence[Mapping[str, Any]]) -> None:
        self.function.run(columns, changes)

    def _write_singly(self, batch: Batch, judge: Judge, known: Mapping[int, str]) -> tuple[int, int]:
        """Run the function for each; a change for which it fails becomes a dead letter.

        Returns how many changes of the page are done with, and how many failed.
        """
        failed = 0
        for number, (place, change) in enumerate(zip(batch.places, batch.changes, strict=True)):
            why = known.get(number) or self._failure(number, change)
            judge.add(failed=bool(why))
            if why:
                failed += 1
                at = time_text(time.time_ns() // 1_000_000)
                letter = (change["table"], change["row"], json.dumps(change, ensure_ascii=False), why_line(why))
                self._db.execute(ADD_LETTER, (self._settings.cursor, change["id"], *letter, 1, at, at))
            if judge.stops or (self._held_s > HELD_S_MAX and change is not batch.changes[-1]):
                return place + 1, failed
        return batch.count, failed

    def _failure(self, number: int, change: Mapping[str, Any]) -> str:
        """Return why the function fails for a change, "" if it does not."""
        self._db.execute("SAVEPOINT flow_one")
        why = ""
        try:
            with self._clock.running(self.function.seconds):
                self._run(tuple(change["values"]), [change])
        except (apsw.InterruptError, apsw.NoMemError, MemoryError, *_OF_A_ROW) as error:
            why = self._why(error)
        if not self._db.in_transaction:
            raise _LostError({number: why})
        if why:
            self._db.execute("ROLLBACK TO flow_one")
        self._db.execute("RELEASE flow_one")
        return why

    def _why(self, error: Exception) -> str:
        """Return why a statement has failed, in one line."""
        match error:
            case apsw.InterruptError():
                return f"took longer than {self.function.seconds:g} s"
            case apsw.NoMemError() | MemoryError():
                return f"took more than {HEAP_MIB} MiB of memory"
        return str(error) or type(error).__name__

    @property
    def _clock(self) -> StatementClock:
        return self.function.clock

    def _refresh(self) -> None:
        version: Any = self._db.execute("PRAGMA schema_version").fetchone()
        if version[0] != self._schema_version:
            self._schema_version = version[0]
            self.function.forget()
            if self._sets is not None:
                self._sets.forget()
            self._fits = None

    def show(self, state: str, text: str) -> None:
        """Write the state for SQL; a file that is busy has the one before."""
        at = time_text(time.time_ns() // 1_000_000)
        counts = (int(self.figures["inputs"]), int(self.figures["failed"]))
        with contextlib.suppress(apsw.BusyError):
            self._db.set_busy_timeout(SHOW_MS)
            try:
                self._db.execute(
                    "INSERT INTO mycomesh_flow_states VALUES(?, ?, ?, ?, ?, ?, 0) ON CONFLICT(name) DO UPDATE SET"
                    " (state, text, inputs, failed, at) ="
                    " (excluded.state, excluded.text, excluded.inputs, excluded.failed, excluded.at)",
                    (self._settings.name, state, text, *counts, at),
                )
            finally:
                self._db.set_busy_timeout(1000 * BUSY_S)


def _parts(changes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, ...], Sequence[Mapping[str, Any]]]]:
    """Yield the changes in pieces with equal columns, and the columns."""
    start = 0
    for number in range(1, len(changes) + 1):  # runs for each change
        first = changes[start]["values"].keys()
        if number == len(changes) or number - start == CHUNK or changes[number]["values"].keys() != first:
            yield tuple(first), changes[start:number]
            start = number


def forget(file: str, flow: str) -> None:
    """Remove the state of a flow that is no more, and its dead letters."""
    with contextlib.closing(apsw.Connection(file, apsw.SQLITE_OPEN_READWRITE)) as db, db:
        db.set_busy_timeout(1000 * BUSY_S)
        db.execute(_TABLES)
        db.execute("DELETE FROM mycomesh_flow_states WHERE name = ?", (flow,))
        db.execute("DELETE FROM mycomesh_dead_letters WHERE reader = ?", (cursor_of(flow),))
        with contextlib.suppress(apsw.SQLError):  # no flow has a priority
            db.execute("DELETE FROM mycomesh_flow_ahead WHERE flow = ?", (flow,))


def _ahead(db: apsw.Connection, settings: FlowSettings, function: SqlFunction) -> Ahead | None:
    if not settings.priority:
        return None
    from mycomesh.tools.flows.ahead import Ahead  # noqa: PLC0415 -- few flows have a priority

    return Ahead(db, settings, SetFunction(db, settings, function))


def _function(db: apsw.Connection, settings: FlowSettings) -> SqlFunction:
    if settings.function.kind == "sql":
        return SqlFunction(db, settings)
    if settings.function.kind == "onnx":
        from mycomesh.tools.flows.onnx_function import OnnxFunction  # noqa: PLC0415 -- SQL needs no worker

        return OnnxFunction(db, settings)
    if settings.function.kind == "http":
        from mycomesh.tools.flows.http_function import HttpFunction  # noqa: PLC0415

        return HttpFunction(db, settings)
    from mycomesh.tools.flows.rows_function import RowsFunction  # noqa: PLC0415

    return RowsFunction(db, settings)
