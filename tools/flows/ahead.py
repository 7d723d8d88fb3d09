"""Which changes go in first: of those that wait, the ones with the greatest value in a column, whenever they were written.

A cursor moves on in the order of the clocks alone. So changes that are done ahead of it are noted in `mycomesh_flow_ahead`, in
the transaction of their results, until the cursor has passed them: none is lost, and none runs twice.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from mycomesh.sync.crdt.hlc import ms_from_hlc, time_text
from mycomesh.sync.errors import DecodeError
from mycomesh.sync.feed.position import Position
from mycomesh.sync.merge.records import key_text
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.tools.flows.keys import dot_of
from mycomesh.tools.flows.set_function import UnfitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import apsw

    from mycomesh.tools.flows.set_function import Bounds, Join, LogSet, SetFunction
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["AHEAD_ROWS", "Ahead"]

AHEAD_ROWS = 256  # of one transaction: a more important change waits for so many at most
_CREATE = (
    "CREATE TABLE IF NOT EXISTS mycomesh_flow_ahead(flow TEXT, site TEXT, hlc INTEGER, PRIMARY KEY(flow, site, hlc))"
    " WITHOUT ROWID"
)


class Ahead:
    """The changes of one flow that are done ahead of its cursor. Not thread-safe."""

    def __init__(self, db: apsw.Connection, settings: FlowSettings, sets: SetFunction) -> None:
        self._db = db
        self._flow = settings.name
        self._score = f"t.{quoted(settings.priority)}"
        self._sets = sets
        db.execute(_CREATE)

    def forget_passed(self, position: bytes | None) -> None:
        """Forget the changes that the cursor has passed by itself, as after a turn of another node."""
        try:
            seen = Position.decode(position or b"").seen
        except DecodeError:
            return
        passed = [(self._flow, *stamp) for stamp in self._noted() if seen.covers(bytes.fromhex(stamp[0]), stamp[1])]
        with self._db:
            self._db.executemany("DELETE FROM mycomesh_flow_ahead WHERE flow = ? AND site = ? AND hlc = ?", passed)

    def _noted(self) -> list[tuple[str, int]]:
        listing = "SELECT site, hlc FROM mycomesh_flow_ahead WHERE flow = ? ORDER BY site, hlc"
        found: list[Any] = self._db.execute(listing, (self._flow,)).fetchall()
        return found

    def are_waiting(self, changes: Sequence[Mapping[str, Any]]) -> list[bool]:
        """Return of each change whether it is still to be done."""
        noted = set(self._noted())
        return [_stamp(change["id"]) not in noted for change in changes]

    def choose(self, page: LogSet, columns: Sequence[str], own: str) -> tuple[list[dict[str, Any]], bool]:
        """Return up to `AHEAD_ROWS` changes of sites that begin with `own`, and whether no others of the page wait.

        The greatest go first, compared as SQLite does; of equal ones the oldest.

        Raises:
            UnfitError: these changes have to go in in their order.
            apsw.Error: the table has no such column.
        """
        found: list[tuple[Any, ...]] = []
        windows = [window for window in page.windows if window[0].startswith(own)]
        try:
            for number, (site, place, after, reached, *_) in enumerate(windows):
                for join, bounds in self._sets.stretches(page, place, after, reached):
                    listing = (
                        f"SELECT {self._score}, {join.hlc} {join.source} AND NOT EXISTS (SELECT 1 FROM mycomesh_flow_ahead a"
                        f" WHERE a.flow = ?4 AND a.site = ?5 AND a.hlc = {join.hlc}) ORDER BY 1 DESC, 2 LIMIT ?6"
                    )
                    rows: Any = self._db.execute(listing, (*bounds, self._flow, site, AHEAD_ROWS + 1))
                    found += [(_rank(score), -hlc, -number, join, bounds) for score, hlc in rows]
            found.sort(key=lambda each: each[:3], reverse=True)
            chosen = [
                self._change(page, columns, windows[-number], join, join.narrow(bounds, -hlc), -hlc)
                for _, hlc, number, join, bounds in found[:AHEAD_ROWS]
            ]
        except UnicodeDecodeError as error:
            raise UnfitError from error
        return chosen, len(found) <= AHEAD_ROWS

    def _change(
        self, page: LogSet, columns: Sequence[str], window: Sequence[Any], join: Join, bounds: Bounds, hlc: int
    ) -> dict[str, Any]:
        """Return a change as the feed has it, but for its columns and its key."""
        values = ", ".join([join.hlc, join.row, *(f"t.{quoted(name)}" for name in columns)])
        found: Any = self._db.execute(f"SELECT {values} {join.source}", bounds).fetchone()
        row, cells = found[1], found[2:]
        site, who = window[0], window[5]
        return {
            "id": f"{page.table}/{site}/{hlc}",
            "table": page.table,
            "op": "insert",
            "row": f"{site}@{hlc}" if page.keyless else key_text(row),
            "who": who or site,
            "at": time_text(ms_from_hlc(hlc)),
            "key": {},
            "values": {name: _plain(cell) for name, cell in zip(columns, cells, strict=True)},
            "columns": [],
        }

    def note(self, changes: Sequence[Mapping[str, Any]]) -> None:
        """Note that changes are done; in the transaction of their results."""
        stamps = [(self._flow, *_stamp(change["id"])) for change in changes]
        self._db.executemany("INSERT OR IGNORE INTO mycomesh_flow_ahead VALUES(?, ?, ?)", stamps)

    def forget(self, page: LogSet) -> None:
        """Forget the changes of a page, which the cursor passes in this transaction."""
        self._db.executemany(
            "DELETE FROM mycomesh_flow_ahead WHERE flow = ? AND site = ? AND hlc > ? AND hlc <= ?",
            [(self._flow, site, after, reached) for site, _, after, reached, *_ in page.windows],
        )


def _stamp(change_id: str) -> tuple[str, int]:
    _, site, hlc = dot_of(change_id).rsplit("/", 2)
    return site, int(hlc)


def _rank(value: Any) -> tuple[int, Any]:
    """Return what orders values of any type as SQLite does: NULL, numbers, text, blobs."""
    if value is None:
        return 0, 0
    if isinstance(value, int | float):
        return 1, value
    return (2, value.encode()) if isinstance(value, str) else (3, value)


def _plain(cell: Any) -> Any:
    return {"base64": base64.b64encode(cell).decode()} if isinstance(cell, bytes) else cell
