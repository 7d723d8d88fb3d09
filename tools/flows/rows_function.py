"""A flow's Python function or command: called in a worker before the transaction, and its results inserted in it.

The file is not locked while the function runs. A call that raises is tried again with pauses, and then its row has failed.
"""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.tools.bridges.bodies import BodyError, sql_value
from mycomesh.tools.flows.keys import dot_of
from mycomesh.tools.flows.launch import ERROR, RESULTS_MAX
from mycomesh.tools.flows.sql_function import FunctionError, SqlFunction
from mycomesh.tools.flows.worker import Failure, Worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["RowsFunction"]

PAUSES_S = (0.1, 0.5)  # before a row is tried again


class RowError(ValueError):
    """The function has failed for a row; the text is one line."""


class RowsFunction(SqlFunction):
    """The function of one flow that is no SQL."""

    def __init__(self, db: apsw.Connection, settings: FlowSettings) -> None:
        super().__init__(db, settings)
        words = [settings.function.kind, settings.function.call]
        if settings.function.kind == "python":
            words.append(settings.function.directory)
        if settings.function.kind == "http":
            words += [settings.function.credentials, settings.function.ca]
        self._worker = Worker(
            words, settings.function.directory, settings.function.timeout_s, settings.function.memory_mib
        )
        self._answers: dict[str, list[dict[str, Any]] | str] = {}  # id of a change -> results, or why there are none
        self._inserts: dict[tuple[str, ...], str] = {}

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def forget(self) -> None:
        """Read the shapes of the tables again."""
        super().forget()
        self._inserts.clear()

    def prepare(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Call the function for these changes."""
        self._answers.clear()
        waiting, pauses = list(changes), iter(PAUSES_S)
        while waiting:
            again = self._call(waiting)
            pause_s = next(pauses, None) if again else None
            if pause_s is None:
                return
            time.sleep(pause_s)
            waiting = again

    def _call(self, changes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Call the function once for each; return the changes for which another try may help."""
        inputs = [self._lines(change) for change in changes]
        answers = iter(self._worker.answers([line for lines in inputs if not isinstance(lines, str) for line in lines]))
        again = []
        for change, lines in zip(changes, inputs, strict=True):
            found: list[dict[str, Any]] | str = lines if isinstance(lines, str) else []
            retry = False
            for answer in [] if isinstance(lines, str) else [next(answers) for _ in lines]:
                if isinstance(answer, Failure):
                    found, retry = answer.why, answer.again
                else:
                    found, retry = _results(answer, found)
                if isinstance(found, str):
                    break
            if retry:
                again.append(change)
            self._answers[change["id"]] = found
        return again

    def _lines(self, change: Mapping[str, Any]) -> list[bytes] | str:
        """Return the lines that go into the function for a change, or why there are none."""
        if self._settings.select:
            selected = self.selected(change)
            return selected if isinstance(selected, str) else [*map(_line, selected)]
        more = {"_id": dot_of(change["id"]), "_node": change["who"], "_at": change["at"]}
        return [_line({**change["values"], **more})]

    def selected(self, change: Mapping[str, Any]) -> list[dict[str, Any]] | str:
        """Return the rows that the SELECT of `on` makes of a change, or why it fails."""
        columns = tuple(change["values"])
        text = self._with_new(columns, "SELECT * FROM new")
        try:
            with self.clock.running(self.seconds):
                (bound,) = self.load(columns, [change])
                cursor = self._db.execute(text, bound)
                found = [
                    dict(zip([each[0] for each in cursor.get_description()], row, strict=True))
                    for row in itertools.islice(cursor, RESULTS_MAX + 1)
                ]
                cursor.close(force=True)
        except apsw.InterruptError:
            return f"on: took longer than {self.seconds:g} s"
        except (apsw.NoMemError, MemoryError):
            return "on: took more memory than there is for it"
        except (apsw.SQLError, apsw.TooBigError, apsw.MismatchError, ValueError) as error:
            return f"on: {error}"
        if len(found) > RESULTS_MAX:
            return f"on: makes more than {RESULTS_MAX:,} rows of one"
        return found

    def statement(self, columns: tuple[str, ...]) -> str:
        """Check the table of the results; there is no statement for rows that come in."""
        if not self._inserts:
            self._shape_of_results()
            if self._settings.select and self._settings.author:
                self._check(self._with_new(columns, "SELECT * FROM new"))
        return ""

    def run(self, columns: tuple[str, ...], changes: Sequence[Mapping[str, Any]]) -> None:
        """Insert the results of these changes; raises `RowError` where the function has failed."""
        self.statement(columns)
        names: tuple[str, ...] = ()
        group: list[tuple[Any, ...]] = []
        for change in changes:  # runs for each change
            found = self._answers[change["id"]]
            if isinstance(found, str):
                raise RowError(found)
            for number, row in enumerate(found, 1):
                if tuple(row) != names:
                    self._insert(names, group)
                    names, group = tuple(row), []
                derived = (self.derive(self._settings.name, dot_of(change["id"]), number),)
                group.append((*map(sql_value, row.values()), *(derived if self._derives(names) else ())))
        self._insert(names, group)

    def _insert(self, names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        if rows:
            if names not in self._inserts:
                self._inserts[names] = self._insertion(names)
            self._db.executemany(self._inserts[names], rows)

    def _derives(self, names: tuple[str, ...]) -> bool:
        if names not in self._inserts:
            self._inserts[names] = self._insertion(names)
        return self._inserts[names].startswith("/* derived */")

    def _insertion(self, names: tuple[str, ...]) -> str:
        into = self._settings.into
        columns, key = self._shape_of_results()
        strange = next((name for name in names if fold(name) not in columns), None)
        if strange is not None:
            raise RowError(f"{into} has no column {strange!r}, which the function makes")
        missing = [name for name in key if fold(name) not in {fold(each) for each in names}]
        if missing and len(key) > 1:
            raise RowError(f"the function must make the key of {into}, {', '.join(key)}")
        made = [*names, *missing]
        mark = "/* derived */ " if missing else ""
        listing = f"{', '.join(map(quoted, made))}) VALUES({', '.join('?' * len(made))})"
        return (
            f"{mark}INSERT INTO main.{quoted(into)}({listing}{self._on_repetition(names, key, derived=bool(missing))}"
        )

    def _shape_of_results(self) -> tuple[frozenset[str], list[str]]:
        """Return the columns of the results, folded, and those of the key."""
        shape, settings = self._shape(self._settings.into), self._settings
        key = [(name, kind) for name, kind, place in shape if place]
        if not key and settings.where != "here":
            raise FunctionError(f"{settings.into} needs a primary key, since several nodes write its rows")
        self._choose_key(key)
        return frozenset(fold(name) for name, *_ in shape), [name for name, _ in key]

    def sample(self, change: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the results of one change; raises `RowError` where the function fails."""
        self.prepare([change])
        found = self._answers[change["id"]]
        if isinstance(found, str):
            raise RowError(found)
        return found


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, default=_plain).encode() + b"\n"


def _plain(value: Any) -> Any:
    import base64  # noqa: PLC0415 -- rows with blobs alone need it

    return {"base64": base64.b64encode(value).decode()}


def _results(answer: bytes, before: list[dict[str, Any]] | str) -> tuple[list[dict[str, Any]] | str, bool]:
    """Return the rows of an answer behind those before it, or why there are none and whether another try may help."""
    try:
        plain = json.loads(answer)
    except ValueError:
        return f"answered with a line that is no JSON: {answer[:80]!r}", False
    if isinstance(plain, dict) and ERROR in plain:
        return str(plain[ERROR]), True
    rows = [] if plain is None else plain if isinstance(plain, list) else [plain]
    if not all(isinstance(row, dict) and row for row in rows):
        return f"answered with something else than rows: {answer[:80].decode(errors='replace')}", False
    assert not isinstance(before, str)
    if len(before) + len(rows) > RESULTS_MAX:
        return f"made more than {RESULTS_MAX:,} rows of one", False
    try:
        for row in rows:
            for value in row.values():
                sql_value(value)
    except BodyError as error:
        return str(error), False
    return [*before, *rows], False
