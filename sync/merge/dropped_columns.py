"""Removes dropped columns from the change log and from received changes.

Replicas compare digests of entries. A dropped column is visible on no replica, so it must not count there: each entry gives it
up, and every replica that knows of the drop computes the same digest again.

Digests are computed from the values that the entries own. So `drop_columns` has to run before anything else is written to the
table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from mycomesh.sync.merge.counters import share_column
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import pack_mask, unpack_mask
from mycomesh.sync.storage.insert_runs import InsertRun
from mycomesh.sync.storage.row_codec import encode_rows
from mycomesh.sync.storage.row_view import RowView, shrink
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["drop_columns", "without_columns"]

_STEP = 1_000  # rows in memory at once


def drop_columns(table: Table, columns: Collection[str]) -> None:
    """Take these columns from every entry of the table, with the shares of counters among them.

    Runs inside a transaction in which every captured write has its stamp.
    """
    mask = table.columns.mask_of(
        [name for name in table.columns.bits if name in columns or share_column(name) in columns]
    )
    if not mask:
        return
    table.log.flush()
    for run in list(table.log.runs.all()):
        owned, _ = unpack_mask(run.mask)
        if owned & mask:
            _drop_from_run(table, run, owned & ~mask)
    for rows in _rows(table):
        for view in RowView.each(table, rows):
            if any(entry.mask & mask for entry in view.entries):
                shrink(view, [entry.mask & ~mask for entry in view.entries], table.key(view.row, view.stored))
    table.log.flush()


def _drop_from_run(table: Table, run: InsertRun, mask: int) -> None:
    rows = range(run.row, run.row + run.n)
    names = table.columns.names_of(mask)
    present = table.rows.cells_between(rows[0], rows[-1], names)
    gone = [None] * len(names)  # for a row that vanished without a log record
    values = encode_rows([present.get(row, gone) for row in rows])
    keys = rows if table.spec.kind is KeyKind.ROWID else None
    digests = table.digests.many(run.site_number, mask, range(run.hlc, run.hlc + run.n), keys, values)
    table.log.remask(run, pack_mask(mask), digests)


def _rows(table: Table) -> Iterator[list[Row]]:
    """Yield every row that has a plain entry."""
    start = ""
    after: tuple[Any, ...] = ()
    while True:
        listing = f"SELECT DISTINCT row FROM {table.log.name} {start} ORDER BY row LIMIT {_STEP}"
        rows = [row for (row,) in table.store.db.execute(listing, after).fetchall()]
        if not rows:
            return
        yield rows
        table.log.flush()
        start, after = "WHERE row > ?", (rows[-1],)


def without_columns(group: Group, columns: Collection[str]) -> Group | None:
    """Return the group without these columns, None if its changes own nothing else."""
    gone = {name for name in group.columns if name in columns or share_column(name) in columns}
    if not gone:
        return group
    positions = [position for position, name in enumerate(group.columns) if name not in gone]
    # An insert or a delete without columns still owns the row's existence.
    if not positions and group.kind is Kind.UPDATE:
        return None
    priors = group.priors
    if priors is not None:
        priors = [
            [
                (None if names is None else left, site, hlc)
                for names, site, hlc in parts
                if (left := tuple(name for name in names or () if name not in gone)) or names is None
            ]
            for parts in priors
        ]
    return Group(
        group.site,
        group.kind,
        tuple(group.columns[position] for position in positions),
        group.hlcs,
        group.keys,
        [[row[position] for position in positions] for row in group.rows],
        priors,
    )
