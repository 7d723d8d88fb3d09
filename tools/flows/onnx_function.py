"""A flow's model: a page of rows is one call of onnxruntime in the worker, and its outputs are rows.

Where a page fails, its rows go in singly, so that the one at fault is known. The model is looked for again after each commit of
another program, so that a rollout or a rollback takes effect with the next page.
"""

from __future__ import annotations

import base64
import json
import tempfile
from typing import TYPE_CHECKING, Any

from mycomesh.sync.merge.records import value_of
from mycomesh.tools.flows.keys import dot_of
from mycomesh.tools.flows.launch import ERROR
from mycomesh.tools.flows.rows_function import RowsFunction
from mycomesh.tools.flows.sql_function import NotReadyError
from mycomesh.tools.flows.worker import TOO_LONG, Failure, Worker
from mycomesh.tools.models import store
from mycomesh.tools.models.tensors import Plan, Signature, TensorError, length_of, plan, request, results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import apsw

    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["ModelWorker", "OnnxFunction"]


CALL_ROWS = 1_024  # as pages have


class ModelWorker:
    """A worker with one version of a model. Not thread-safe."""

    def __init__(
        self, db: Any, name: str, directory: str, timeout_s: float, memory_mib: int, only: int | None = None
    ) -> None:
        """Take MODEL or MODEL@VERSION; `only` is a version too."""
        self._db = db
        self._name, _, version = name.partition("@")
        self._only = int(version) if version else only
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- `close` closes it
        words = ["onnx", str(self._file.fileno())]
        self._worker = Worker(words, directory, timeout_s, memory_mib, (self._file.fileno(),))
        self.version: store.Version | None = None
        self.note = ""
        self._refused: set[str] = set()  # digests of higher versions whose bytes are wrong or not here
        self.signature = Signature((), (), {})
        self._rows_max = CALL_ROWS

    def close(self) -> None:
        """End the worker."""
        self._worker.close()
        self._file.close()

    @property
    def pid(self) -> int:
        """The process that runs, 0 if none does."""
        return self._worker.pid

    def load(self) -> bool:
        """Take the version that this node uses by now; return whether it is another one.

        Raises:
            NotReadyError: no version is here, or the runtime cannot run it.
        """
        before = self.version
        try:
            chosen = self._choose()
        except store.ModelError as error:
            self.version = None
            raise NotReadyError(str(error)) from error
        self.note = chosen.note
        if _same(chosen.version, before):
            return False
        self._worker.close()
        self.version = None
        answer = self.ask([{"describe": 1}])[0]
        if isinstance(answer, str):
            raise NotReadyError(f"{chosen.version.title}: {answer}")
        self.version, self.signature = chosen.version, Signature.of(answer)
        return True

    def _choose(self) -> store.Chosen:
        """Return the version to use; its bytes are in the file if it is another one than before."""
        wanted = store.usable(self._db, self._name, self.node(), only=self._only)
        note = ""
        for each in wanted if self.version is not None else ():
            if _same(each, self.version):
                return store.Chosen(each, note)
            here, total = store.parts_here(self._db, each)
            if here >= total and each.sha256 not in self._refused:
                break
            note = note or f"{each.title} is not used: {here} of {total} parts are here, or they do not have its digest"
        chosen = store.choose(self._db, self._name, self.node(), self._file, only=self._only)
        self._refused = {each.sha256 for each in wanted if each.version > chosen.version.version}
        return chosen

    def node(self) -> str:
        """Return the name of this node, "" before it has served the file."""
        found: Any = self._db.execute("SELECT node FROM mycomesh_status").fetchone()
        return str(found[0]) if found else ""

    def ask(self, requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | str]:
        """Return the answer to each request, or why it is missing."""
        lines = [json.dumps(each, default=_plain).encode() + b"\n" for each in requests]
        made: list[dict[str, Any] | str] = []
        for answer in self._worker.answers(lines):
            if isinstance(answer, Failure):
                made.append(answer.why)
                continue
            found = json.loads(answer, object_hook=_blob)
            made.append(str(found[ERROR]).removeprefix("ValueError: ") if ERROR in found else found)
        return made

    def results(self, made: Plan, rows: Sequence[Mapping[str, Any]]) -> Sequence[dict[str, Any] | str]:
        """Return the result of each row of one call; if that fails, of calls with one row each.

        Where the answers are too long for one line of the worker, there are fewer rows in a call from then on.
        """
        if len(rows) > self._rows_max:
            parts = range(0, len(rows), self._rows_max)
            return [each for start in parts for each in self.results(made, rows[start : start + self._rows_max])]
        if len(rows) > 1:
            try:
                (answer,) = self.ask([request(made, rows)])
            except (TensorError, TypeError, ValueError, OverflowError):
                answer = ""
            if not isinstance(answer, str):
                return results(made, rows, answer)
            if answer.startswith(TOO_LONG):
                self._rows_max = len(rows) // 2
                return self.results(made, rows)
        singly: list[dict[str, Any] | str] = []
        asked = []
        for row in rows:
            try:
                asked.append(request(made, [row]))
                singly.append({})
            except (TensorError, TypeError, ValueError, OverflowError) as error:
                singly.append(str(error))
        answers = iter(self.ask(asked))
        for number, row in enumerate(rows):
            if not isinstance(singly[number], str):
                answer = next(answers)
                singly[number] = answer if isinstance(answer, str) else results(made, [row], answer)[0]
        return singly


class OnnxFunction(RowsFunction):
    """The model of one flow."""

    depends_on_others = True

    def __init__(self, db: apsw.Connection, settings: FlowSettings) -> None:
        super().__init__(db, settings)
        self._worker.close()
        self._model = ModelWorker(
            db,
            settings.function.call,
            settings.function.directory,
            settings.function.timeout_s,
            settings.function.memory_mib,
        )
        self._seen = -1  # SQLite's number of the last commit of another program
        self._plan: Plan | None = None
        self._columns: tuple[str, ...] = ()
        self._noted: set[str] = set()  # sites whose first change with this version is written down

    @property
    def note(self) -> str:
        """The version in use, and why it is not a higher one."""
        version = self._model.version
        return "" if version is None else "; ".join(filter(None, (version.title, self._model.note)))

    def close(self) -> None:
        """End the worker."""
        self._model.close()

    def forget(self) -> None:
        """Read the shapes of the tables again."""
        super().forget()
        self._plan = None

    def make_ready(self) -> None:
        """Load the model, or another version of it; raises `NotReadyError`."""
        ((seen,),) = self._db.execute("PRAGMA data_version")
        if seen == self._seen and self._model.version is not None:
            return
        if self._model.load():
            self._plan = None
            self._noted.clear()
            try:
                store.create(self._db)
            except store.ModelError as error:
                raise NotReadyError(str(error)) from error
        self._seen = seen

    def prepare(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Run the model for these changes."""
        self._answers.clear()
        if not changes:
            return
        self.make_ready()
        inputs = [self._inputs(change) for change in changes]
        answers = iter(self._run([row for found in inputs if not isinstance(found, str) for row in found]))
        for change, found in zip(changes, inputs, strict=True):
            made = [found] if isinstance(found, str) else [next(answers) for _ in found]
            why = next((each for each in made if isinstance(each, str)), None)
            self._answers[change["id"]] = [each for each in made if isinstance(each, dict)] if why is None else why

    def _inputs(self, change: Mapping[str, Any]) -> list[dict[str, Any]] | str:
        """Return the rows that go in for a change, or why there are none."""
        if self._settings.select:
            return self.selected(change)
        values = {name: _value(value) for name, value in change["values"].items()}
        return [values | {"_id": dot_of(change["id"]), "_node": change["who"], "_at": change["at"]}]

    def _run(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | str]:
        """Return the result of each row, or why it has none."""
        if not rows:
            return []
        made = self._planned(tuple(rows[0]))
        found: list[dict[str, Any] | str] = [""] * len(rows)
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(length_of(made, row), []).append(number)
        for numbers in groups.values():
            page = [rows[number] for number in numbers]
            for number, result in zip(numbers, self._model.results(made, page), strict=True):
                found[number] = result
        return found

    def _planned(self, columns: tuple[str, ...]) -> Plan:
        if self._plan is None or columns != self._columns:
            into = tuple(name for name, *_ in self._shape(self._settings.into))
            try:
                self._plan = plan(self._model.signature, self._settings.function.tensors, columns, into)
            except TensorError as error:
                assert self._model.version is not None
                raise NotReadyError(f"{self._model.version.title}: {error}") from error
            self._columns = columns
        return self._plan

    def run(self, columns: tuple[str, ...], changes: Sequence[Mapping[str, Any]]) -> None:
        """Insert the results of these changes, and write down which version has made them."""
        super().run(columns, changes)
        version = self._model.version
        for change in changes:
            _, site, first = dot_of(change["id"]).rsplit("/", 2)
            if site not in self._noted and version is not None and first.isdigit():
                self._noted.add(site)
                self._note_use(site, int(first), version)

    def _note_use(self, site: str, first: int, version: store.Version) -> None:
        """Write down that changes of a site from one on went through a version, if the one before was another."""
        flow, node = self._settings.name, self._model.node()
        listing = (
            "SELECT sha256 FROM mycomesh_model_uses WHERE flow = ? AND site = ? AND node = ? AND first <= ?"
            " ORDER BY first DESC LIMIT 1"
        )
        before: Any = self._db.execute(listing, (flow, site, node, first)).fetchone()
        if before is None or before[0] != version.sha256:
            self._db.execute(
                "INSERT OR REPLACE INTO mycomesh_model_uses(flow, site, first, node, name, version, sha256)"
                " VALUES(?, ?, ?, ?, ?, ?, ?)",
                (flow, site, first, node, version.name, version.version, version.sha256),
            )


def _same(one: store.Version, other: store.Version | None) -> bool:
    return other is not None and (one.version, one.sha256) == (other.version, other.sha256)


def _value(plain: Any) -> Any:
    """Return a value of a row as SQLite has it."""
    if type(plain) is not dict:
        return plain
    value = value_of(plain)
    return value[0] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()}


def _blob(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["base64"]) if value.keys() == {"base64"} else value
