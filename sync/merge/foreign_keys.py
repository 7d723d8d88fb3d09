"""Foreign keys that follow a row whose id has changed: the children that this node's programs wrote for it.

In a table that keeps both rows of one id, a row gets another id when it meets an earlier row of its id. A program that wrote a
child before that meant the row that had the id in this file. So each node updates, as local writes, the children that its own
programs wrote until then. Children of other nodes are theirs to update. ADR 0009.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.merge.keep_both import ChangedId, changed_ids, forget_changed_ids
from mycomesh.sync.merge.merge import materialize
from mycomesh.sync.merge.own_writes import log_row
from mycomesh.sync.sqlite.identifiers import fold, quoted
from mycomesh.sync.sqlite.raw_text import raw_select, restore
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_key
from mycomesh.sync.storage.row_view import RowView
from mycomesh.sync.storage.table import Table

__all__ = ["ChildPass"]

# Rows of a child table that are read for each row that may be written: 0.1 us a row without an index on the foreign key.
_READ_FOR_EACH = 64
_SAVEPOINT = "mycomesh_child"


@dataclass(slots=True)
class ChildPass:
    """Progress over the children of one table: which ids are followed, and the last row that was looked at.

    `until` is the last of the ids, so that an id which changes during the pass gets a pass of its own.
    """

    until: int = -1
    column: tuple[str, str] = ("", "")  # canonical names of the child table and of its foreign key
    parked: bool = False
    after: Row | None = None

    def step(self, table: Table, tables: Iterable[Table], budget: int) -> int:
        """Look at children of a table; return how many rows were tried, `budget` if some are left."""
        changes = changed_ids(table)
        if self.until < 0:
            self.until = max((change.number for change in changes), default=0)
        changes = [change for change in changes if change.number <= self.until]
        references = [item for item in _references(table, tables) if item[0] >= self.column] if changes else []
        for column, child in references:
            if column != self.column:
                self.column, self.parked, self.after = column, False, None
            budget_left = self._step_column(child, changes, budget)
            if not budget_left:
                return budget
        forget_changed_ids(table, self.until)
        return 0

    def _step_column(self, child: Table, changes: list[ChangedId], budget: int) -> int:
        """Look at the visible children, then at the parked ones; return the budget that is left, 0 if rows may be left."""
        name = self.column[1]
        if not self.parked:
            rows, after, more = _visible_children(child, name, changes, self.after, budget)
            stay = sum(not _follow(child, row, name, changes) for row in rows)
            self.after = after if child.spec.rowid else int(self.after or 0) + stay
            if more:
                return 0
            self.parked, self.after = True, None
        start, parameters = ("", ()) if self.after is None else ("AND row > ?", (self.after,))
        listing = f"SELECT row FROM mycomesh_parked WHERE id = ? {start} ORDER BY row LIMIT ?"
        found = child.store.db.execute(listing, (child.table_id, *parameters, budget)).fetchall()
        for (row,) in found:
            self.after = row
            _follow(child, row, name, changes)
        child.log.flush()
        return budget - len(found)


def _references(parent: Table, tables: Iterable[Table]) -> list[tuple[tuple[str, str], Table]]:
    """Return the foreign keys that refer to the id of a table: ((child table, column), child), in order.

    A foreign key that is in the key of its own row stays: the row would become another one.
    """
    here, wanted = fold(parent.spec.name), parent.spec.id_column
    found: dict[tuple[str, str], Table] = {}
    listing = 'SELECT "table", "from", "to" FROM pragma_foreign_key_list(?) ORDER BY id, seq'
    for child in tables:
        keys = {column.folded for column in child.spec.key} | {child.spec.id_column}
        for target, own, referred in parent.store.db.execute(listing, (child.spec.name,)).fetchall():
            column = child.spec.to_canonical(own)
            if (
                fold(target) == here
                and (referred is None or parent.spec.to_canonical(referred) == wanted)
                and column in child.columns.local_names
                and column not in keys
            ):
                found[child.spec.folded, column] = child
    return sorted(found.items(), key=lambda item: item[0])


def _visible_children(
    child: Table, column: str, changes: list[ChangedId], after: Row | None, budget: int
) -> tuple[list[Row], Row | None, bool]:
    """Return the children that refer to an id which has changed, the last row that was looked at, and whether rows are left.

    In a table WITHOUT ROWID, `after` is the number of children that stay: the others refer to it no more.
    """
    spec, db = child.spec, child.store.db
    named = quoted(next(item.name for item in spec.columns if item.folded == column))
    wanted = f"t.{named} IN ({', '.join(str(was) for was in sorted({change.was for change in changes}))})"
    keys = ", ".join(raw_select(f"t.{quoted(item.name)}") for item in spec.key) if spec.kind is KeyKind.KEYED else "0"
    if not spec.rowid:
        order = ", ".join(f"t.{quoted(item.name)}" for item in spec.key)
        listing = f"SELECT 0, {keys} FROM {quoted(spec.name)} t WHERE {wanted} ORDER BY {order} LIMIT ? OFFSET ?"
        records = db.execute(listing, (budget, after or 0)).fetchall()
        return [_row(child, record) for record in records], after, len(records) == budget
    rowid = f"t.{quoted(spec.rowid)}"
    first = -(1 << 63) if after is None else int(after) + 1
    bound = f"SELECT {rowid} FROM {quoted(spec.name)} t WHERE {rowid} >= ? ORDER BY {rowid} LIMIT 1 OFFSET ?"
    end = db.execute(bound, (first, budget * _READ_FOR_EACH)).fetchone()
    last = (1 << 63) - 1 if end is None else end[0]
    listing = (
        f"SELECT {rowid}, {keys} FROM {quoted(spec.name)} t WHERE {rowid} BETWEEN ? AND ? AND {wanted}"
        f" ORDER BY {rowid} LIMIT ?"
    )
    records = db.execute(listing, (first, last, budget)).fetchall()
    more = end is not None or len(records) == budget
    return [_row(child, record) for record in records], records[-1][0] if len(records) == budget else last, more


def _row(child: Table, record: tuple[Any, ...]) -> Row:
    if child.spec.kind is not KeyKind.KEYED:
        return int(record[0])
    key = tuple(restore(record[1:]))
    return int(record[0]) if None in key else encode_key(child.spec, key)


def _follow(child: Table, row: Row, column: str, changes: list[ChangedId]) -> bool:
    """Let one child refer to the id that its parent has by now, if a program of this node wrote it for that parent.

    Returns False if it stays as it is.
    """
    view = RowView.read(child, row)
    target = view.owned()
    bit = 1 << child.columns.bits[column]
    owner = next((entry for entry in view.entries if entry.mask & bit and not entry.dead), None)
    own = child.store.meta("site")[:SITE_PREFIX]
    if owner is None or owner.stamp[1][:SITE_PREFIX] != own or not view.visible:
        return False
    followed = _current(target[column], owner.stamp[0], changes)
    if followed == target[column]:
        return False
    db = child.store.db
    child.log.flush()  # otherwise a rollback to the savepoint would undo earlier writes of the change log too
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    refused = False
    try:
        if view.present is None:
            refused, _ = materialize(child, view, alive=True, target=target | {column: followed}, reinserted=False)
            child.log.flush()
        else:
            child.rows.update(row, {column: followed})
    except REFUSALS:
        refused = True
    if refused:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
    db.execute(f"RELEASE {_SAVEPOINT}")
    if not refused:
        log_row(child, child.locate(view.key))
    return not refused


def _current(value: Any, hlc: int, changes: Iterable[ChangedId]) -> Any:
    """Return the id of the row that a child meant which has had this value since `hlc`."""
    for change in changes:  # in the order in which they happened
        if value == change.was and hlc <= change.upto:
            value, hlc = change.id, 0  # from here on the value goes with the row
    return value
