"""Cut: removes rows older than the table's horizon, without tombstones, and keeps older rows from coming in (ADR 55).

A row is as old as a column says, or as the stamp of its insert. The judgement is about the joined row: an update of the column
counts too, but at least from when it was written. Otherwise a row that it has put below the horizon would go where the update is
known and return from where it is not. A row whose column holds no time stays. Updates without their insert go by their stamps.

Invariant: which rows are left depends on their entries and the horizon alone, not on when a replica cuts. A cut shows no delete
to readers of the feed, and runs no trigger of the application; indexes of the node's own connection follow it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mycomesh.sync.crdt.hlc import UNSET_MS, hlc_from_ms, is_early, ms_from_hlc
from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge.merge import materialize
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.sqlite.identifiers import quoted
from mycomesh.sync.sqlite.raw_text import bind_value, is_raw, placeholder, raw_select, restore
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.row_time import maybe_before, time_ms
from mycomesh.sync.sqlite.table_spec import KeyKind, Row, encode_key
from mycomesh.sync.storage.batch_join import join_numbers
from mycomesh.sync.storage.change_log import StoredEntry
from mycomesh.sync.storage.horizon import Horizon
from mycomesh.sync.storage.insert_runs import InsertRun
from mycomesh.sync.storage.row_view import RowView, shrink
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind, filtered

__all__ = [
    "CUT_ROWS_MAX",
    "HIDDEN",
    "READ_ROWS_MAX",
    "Place",
    "admitted",
    "cut",
    "look",
    "note_written",
    "younger",
]

# Rows that one transaction removes, and of these the ones that are read one by one, some 50 us each.
CUT_ROWS_MAX = 1_024
READ_ROWS_MAX = 192
# Rows that one step looks at without the lock, and rows that are not shown, which are read one by one.
LOOKED_AT_MAX = 8_192
HELD_MAX = 256
SITES_MAX = 512  # writers of one step: a look at one without older rows takes some 20 us
_SAVEPOINT = "mycomesh_cut"


# ---- what comes in


def admitted(table: Table, group: Group) -> Group | None:
    """Return a received group without what is older than the horizon and is of unknown rows, None if no change is left.

    Changes of a row that is here in part are let in: another write may make the row younger.
    """
    horizon = table.coverage.horizon
    if horizon is None or not horizon.bound_ms or group.kind is Kind.DELETE:
        return group
    times = _times(table, horizon, group)
    old = [at is not None and at < horizon.bound_ms for at in times]
    if not any(old):
        note_written(table, [group])
        return group
    keys = keys_of(table, group)
    rows = table.locate_many(keys)
    known = table.log.rows_with_entries(list(itertools.compress(rows, old)))
    for number, (row, at) in enumerate(zip(rows, times, strict=True)):
        if not old[number]:
            continue
        if row in known:
            old[number] = False
        elif at is not None and at < horizon.ms:
            horizon.figures.refused += 1
            horizon.changed = True
        elif table.areas is None or horizon.is_elsewhere(group.site, group.hlcs[number]):
            horizon.drop(group.site, group.hlcs[number])
        else:  # from a node that perhaps does not keep the area, and relies on this one
            old[number] = False
    if all(old):
        return None
    kept = filtered(group, [not goes for goes in old])
    note_written(table, [kept])
    return kept


def note_written(table: Table, groups: Iterable[Group]) -> None:
    """Note the rows that these changes may have put below the horizon; they are in the table, or will be."""
    horizon = table.coverage.horizon
    if horizon is None or not horizon.rule.by:
        return
    oldest_ms = horizon.looked.oldest_ms
    bound_ms = horizon.bound_ms if oldest_ms is None else max(horizon.bound_ms, oldest_ms)
    for group in groups:
        if horizon.rule.by not in group.columns:
            continue
        place, keys = group.columns.index(horizon.rule.by), None
        for number, values in enumerate(group.rows):
            if not maybe_before(values[place], bound_ms):
                continue
            at = _time_of(table, values[place])
            if at is not None and group.kind is Kind.UPDATE:
                at = max(at, ms_from_hlc(group.hlcs[number]))
            if at is not None and at < bound_ms:
                horizon.looked.oldest_ms = None if oldest_ms is None else min(horizon.looked.oldest_ms or at, at)
                if at < horizon.bound_ms:
                    keys = keys_of(table, group) if keys is None else keys
                    horizon.suspect(keys[number])


def _times(table: Table, horizon: Horizon, group: Group) -> list[int | None]:
    """Return the times of changes that may be below the horizon, None for all others.

    An update counts from its stamp, and one of the column of time from its time if that is later.
    """
    bound_ms, stamped = horizon.bound_ms, not horizon.rule.by or group.kind is Kind.UPDATE
    if stamped and not is_early(group.hlcs[0]) and ms_from_hlc(group.hlcs[0]) >= bound_ms:
        return [None] * len(group.hlcs)
    stamps = [_stamp_time(horizon, group.site, hlc) for hlc in group.hlcs] if stamped else []
    if horizon.rule.by not in group.columns:
        return stamps or [None] * len(group.hlcs)
    place = group.columns.index(horizon.rule.by)
    if not stamped:
        return [_time_of(table, row[place]) if maybe_before(row[place], bound_ms) else None for row in group.rows]
    return [
        stamp if stamp is None else max(stamp, _time_of(table, row[place]) or stamp)
        for stamp, row in zip(stamps, group.rows, strict=True)
    ]


def _time_of(table: Table, value: Any) -> int | None:
    """Return the time in a value, None if it holds no time."""
    found: int | None = table.store.db.execute(f"SELECT {time_ms('?1')}", (bind_value(value),)).fetchone()[0]
    return None if is_raw(value) else found


def _stamp_time(horizon: Horizon, site: bytes, hlc: int) -> int | None:
    """Return the time of an insert; None for a row from before the mesh of which nobody has said since when it counts.

    A clock that was not set stamps no time either.
    """
    if is_early(hlc):
        return horizon.adopted_ms(site)
    return ms if (ms := ms_from_hlc(hlc)) >= UNSET_MS else None


# ---- looking for rows


@dataclass(frozen=True, slots=True)
class Place:
    """Where a look at a table goes on: behind a row, or behind an entry (site number, hlc), of rows that are not shown too."""

    row: tuple[Any, ...] | None = None
    stamp: tuple[int, int] | None = None


HIDDEN = Place(stamp=(-1, 0))  # the rows that the table does not show


@dataclass(frozen=True, slots=True)
class Looked:
    """The outcome of one step: names of rows that may go; the next place, None at the end; figures of the rows that stay."""

    rows: list[Row]
    following: Place | None
    oldest_ms: int | None = None
    untimed: int = 0


def look(table: Table, place: Place) -> Looked:
    """Look at the next rows of a table; outside of a transaction, `cut` judges them again."""
    horizon = _horizon(table)
    if not horizon.rule.by:
        return _look_at_stamps(table, horizon, place.stamp or (-1, 0))
    if place.stamp is not None:
        return _look_at_held(table, place.stamp)
    found = _look_at_rows(table, horizon, place.row) if table.spec.rowid else _look_at_keys(table, horizon, place.row)
    return found if found.following is not None else Looked(found.rows, HIDDEN, found.oldest_ms, found.untimed)


def _horizon(table: Table) -> Horizon:
    horizon = table.coverage.horizon
    assert horizon is not None, "the table has a rule"
    return horizon


def _time_sql(table: Table, horizon: Horizon) -> str:
    """Return SQL for the time of a row `t`."""
    column = next(column for column in table.spec.columns if column.folded == horizon.rule.by)
    return time_ms(f"t.{quoted(column.name)}")


def _look_at_rows(table: Table, horizon: Horizon, after: tuple[Any, ...] | None) -> Looked:
    spec, db, bound_ms = table.spec, table.store.db, horizon.bound_ms
    rowid = f"t.{quoted(spec.rowid)}"
    keys = ", ".join(raw_select(f"t.{quoted(item.name)}") for item in spec.key) if spec.kind is KeyKind.KEYED else "0"
    source = f"FROM {quoted(spec.name)} t WHERE {rowid} > ? ORDER BY {rowid} LIMIT {LOOKED_AT_MAX}"
    first = -(1 << 63) if after is None else after[0]
    figures = (
        "SELECT max(r), count(*), coalesce(sum(at < ?), 0), min(CASE WHEN at >= ? THEN at END), coalesce(sum(at IS NULL), 0)"
        f" FROM (SELECT {rowid} AS r, {_time_sql(table, horizon)} AS at {source})"
    )
    last, count, old, oldest, untimed = db.execute(figures, (bound_ms, bound_ms, first)).fetchone()
    rows: list[Row] = []
    if old:
        listing = (
            f"SELECT {rowid}, {keys} FROM {quoted(spec.name)} t WHERE {rowid} > ? AND {rowid} <= ?"
            f" AND {_time_sql(table, horizon)} < ? ORDER BY {rowid}"
        )
        rows = [_name(table, record) for record in db.execute(listing, (first, last, bound_ms))]
    return Looked(rows, Place((last,)) if count == LOOKED_AT_MAX else None, oldest, untimed)


def _name(table: Table, record: Sequence[Any]) -> Row:
    """Return the name of a row from its rowid and its key as `raw_select` gives it."""
    if table.spec.kind is not KeyKind.KEYED:
        return int(record[0])
    key = restore(record[1:])
    return int(record[0]) if None in key else encode_key(table.spec, key)


def _look_at_keys(table: Table, horizon: Horizon, after: tuple[Any, ...] | None) -> Looked:
    """Look at the rows of a table WITHOUT ROWID."""
    spec = table.spec
    names = [f"t.{quoted(item.name)}" for item in sorted(spec.key, key=lambda column: column.key)]
    keys = ", ".join(raw_select(f"t.{quoted(item.name)}") for item in spec.key)
    order = ", ".join(names)
    ordered = ", ".join(map(raw_select, names))
    start = "" if after is None else f"WHERE ({order}) > ({', '.join(map(placeholder, after))})"
    listing = (
        f"SELECT {_time_sql(table, horizon)}, {ordered}, {keys} FROM {quoted(spec.name)} t {start}"
        f" ORDER BY {order} LIMIT {LOOKED_AT_MAX}"
    )
    records = table.store.db.execute(listing, tuple(map(bind_value, after or ()))).fetchall()
    split = 1 + 2 * len(names)
    times = [record[0] for record in records]
    old = [at is not None and at < horizon.bound_ms for at in times]
    rows: list[Row] = [encode_key(spec, restore(record[split:])) for record in itertools.compress(records, old)]
    kept = [at for at in times if at is not None and at >= horizon.bound_ms]
    following = Place(restore(records[-1][1:split])) if len(records) == LOOKED_AT_MAX else None
    return Looked(rows, following, min(kept, default=None), times.count(None))


def _look_at_held(table: Table, after: tuple[int, int]) -> Looked:
    """Look at rows that the table does not show: parked ones, and updates without their insert. Their values are held."""
    listing = (
        "SELECT place, hlc FROM mycomesh_held WHERE id = ? AND (place, hlc) > (?, ?) ORDER BY place, hlc"
        f" LIMIT {HELD_MAX}"
    )
    stamps = table.store.db.execute(listing, (table.table_id, *after)).fetchall()
    rows = dict.fromkeys(table.log.rows_of(stamps).values())
    views = [RowView.read(table, row) for row in rows]
    following = Place(stamp=stamps[-1]) if len(stamps) == HELD_MAX else None
    return Looked([view.row for view in views if view.present is None and _is_expired(view)], following)


def _look_at_stamps(table: Table, horizon: Horizon, after: tuple[int, int]) -> Looked:
    """Look at the rows of entries older than the horizon, site by site."""
    store, bound = table.store, hlc_from_ms(horizon.bound_ms)
    number, hlc = (0, 0) if after[0] < 0 else after
    end = min(number + SITES_MAX, len(store.sites))  # a table that is cut has one for each area and writer
    while number < end:
        adopted_ms = horizon.adopted_ms(store.site(number))
        if adopted_ms is None or adopted_ms >= horizon.bound_ms:  # else it may be an early site
            hlc = max(hlc, hlc_from_ms(UNSET_MS) - 1)
        own = [entry for entry in table.log.scan_site(number, hlc, LOOKED_AT_MAX // 4) if entry[1] < bound]
        if own:
            rows = list(dict.fromkeys(entry[2] for entry in own))
            whole = len(own) == LOOKED_AT_MAX // 4
            return Looked(rows, Place(stamp=(number, own[-1][1]) if whole else (number + 1, 0)))
        number, hlc = number + 1, 0
    return Looked([], Place(stamp=(number, 0)) if number < len(store.sites) else None)


# ---- judging one row


def _is_expired(view: RowView, bound_ms: int | None = None) -> bool:
    """Return True if a row is older than a horizon, by default that of this file."""
    horizon = _horizon(view.table)
    bound_ms = horizon.bound_ms if bound_ms is None else bound_ms
    if view.visible:
        at = _time_of_view(view, horizon)
        return at is not None and at < bound_ms
    if any(entry.dead for entry in view.entries):  # the tombstone goes as it would without a horizon
        return False
    return bool(view.stored) and _time_of_parts(view, horizon) < bound_ms


def younger(table: Table, stamps: Sequence[tuple[int, int]], wall_ms: int) -> list[tuple[int, int]]:
    """Return those entries (site number, hlc) whose rows will not have gone with time by then; all of a table without a rule."""
    horizon = table.coverage.horizon
    if horizon is None:
        return list(stamps)
    bound_ms = max(horizon.bound_ms, wall_ms - horizon.rule.age_ms)
    rows = table.log.rows_of(stamps)
    old = {row for row in dict.fromkeys(rows.values()) if _is_expired(RowView.read(table, row), bound_ms)}
    return [stamp for stamp in stamps if rows.get(stamp) not in old]


def _time_of_parts(view: RowView, horizon: Horizon) -> int:
    """Return the time of a row without its insert: the last of its stamps, or the time that an update has written if later."""
    newest, by = ms_from_hlc(view.hlc), horizon.rule.by
    if not by or not any(entry.mask & 1 << view.table.columns.bits[by] for entry in view.entries):
        return newest
    at = _time_of(view.table, view.owned().get(by))
    return newest if at is None else max(newest, at)


def _time_of_view(view: RowView, horizon: Horizon) -> int | None:
    if not horizon.rule.by:
        born = max(entry.stamp for entry in view.entries if entry.mask & EXISTENCE and not entry.dead)
        return _stamp_time(horizon, born[1], born[0])
    owned = view.owned()
    value = owned[horizon.rule.by] if horizon.rule.by in owned else (view.present or {}).get(horizon.rule.by)
    at = _time_of(view.table, value)
    bit = 1 << view.table.columns.bits[horizon.rule.by]
    moved = [entry.stamp[0] for entry in view.entries if entry.mask & bit and not entry.mask & EXISTENCE]
    return at if at is None else max(at, *map(ms_from_hlc, moved), at)


# ---- removing rows


def cut(table: Table, rows: Sequence[Row]) -> tuple[int, list[Row]]:
    """Remove those of some rows, all different, that are older than the horizon. Runs inside a transaction.

    Returns how many have gone, and the rows that another transaction has to look at.
    """
    store, observed = table.store, table.store.on_write
    store.on_write = None  # for readers of the feed a cut is no delete
    try:
        gone, left = _cut(table, _horizon(table), rows)
    finally:
        store.on_write = observed
    if observed is not None and gone:
        forget = "UPDATE mycomesh_touched SET id = 0, row = NULL WHERE id = ? AND row = ?"
        store.db.executemany(forget, [(table.table_id, row) for row in gone])
    horizon = _horizon(table)
    horizon.figures.cut += len(gone)
    horizon.changed |= bool(gone)
    return len(gone), left


def _cut(table: Table, horizon: Horizon, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    fast, slow = ([], list(rows)) if not _is_plain(table) else _sorted_out(table, horizon, rows)
    gone = _cut_fast(table, horizon, fast, slow) if fast else []
    for row in slow[:READ_ROWS_MAX]:
        view = RowView.read(table, row)
        if not view.stored or not _is_expired(view):
            continue
        if not _note_dropped(table, horizon, [stored[:2] for stored in view.stored]):
            continue
        key = table.key(row, view.stored) if view.visible else row
        shrink(view, [0] * len(view.stored), key)
        table.log.flush()
        materialize(table, view, False, {}, reinserted=True)
        table.log.flush()
        gone.append(row)
    return gone, slow[READ_ROWS_MAX:]


def _is_plain(table: Table) -> bool:
    return not table.spec.id_column and not table.columns.counters


def _sorted_out(table: Table, horizon: Horizon, rows: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows that are shown and expired as far as the table itself tells, and those that have to be read."""
    spec, db = table.spec, table.store.db
    named = [row for row in rows if isinstance(row, bytes if spec.kind is KeyKind.KEYED else int)]
    if spec.kind is KeyKind.KEYED:
        named = [row for row in named if row[:1] != b"\x00"]  # type: ignore[index]
    if not horizon.rule.by:
        shown = set(named)
    elif spec.kind is KeyKind.KEYED:
        condition = f"{_time_sql(table, horizon)} < {horizon.bound_ms}"
        try:
            found = [
                db.execute(f"SELECT 1 FROM {quoted(spec.name)} t WHERE {where[0]} AND {condition}", where[1]).fetchone()
                for where in map(table.rows.condition, named)
                if where is not None
            ]
        except UnicodeDecodeError:
            found = [None] * len(named)
        shown = {row for row, there in zip(named, found, strict=True) if there is not None}
    else:
        rowid = quoted(spec.rowid)
        condition = f"{_time_sql(table, horizon)} < {horizon.bound_ms}"
        numbers = [row for row in named if isinstance(row, int)]
        listing = join_numbers(db, f"t.{rowid}", quoted(spec.name), rowid, numbers, condition)
        shown = {row for (row,) in listing}
    return [row for row in rows if row in shown], [row for row in rows if row not in shown]


def _cut_fast(table: Table, horizon: Horizon, rows: list[Row], slow: list[Row]) -> list[Row]:
    """Remove rows that are shown, many at a time; move those that need a closer look to `slow`."""
    stored_entries, parts = table.log.entries_in_order(rows)
    held = table.held.among(stored_entries)
    aside = {stored[2] for stored in stored_entries if stored[3] == 0 or stored[:2] in held}
    if horizon.rule.by:
        aside |= _moved(table, horizon, stored_entries)
    else:
        aside |= _younger(table, horizon, rows, stored_entries, parts)
    aside |= _unseen_rows(table, horizon, rows, stored_entries, parts)
    going = [row for row in rows if row not in aside] if aside else rows
    db = table.store.db
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        table.rows.delete_many(going)
    except REFUSALS:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        aside, going = set(rows), []
    db.execute(f"RELEASE {_SAVEPOINT}")
    slow += [row for row in rows if row in aside]
    if not going:
        return []
    removed = [stored for stored in stored_entries if stored[2] not in aside]
    table.log.remove_plain(removed)
    taken = []
    for run, places in parts:
        numbers = [rows[at] - run.row for at in places if rows[at] not in aside]  # type: ignore[operator]
        if numbers:
            taken.append((run, (numbers, 0, [0] * len(numbers))))
            horizon_top = run.hlc + numbers[-1]
            if horizon.bound_ms > horizon.ms:
                horizon.drop(table.store.site(run.site_number), horizon_top)
    table.log.reshape(taken)
    if horizon.bound_ms > horizon.ms:
        for stored in removed:
            horizon.drop(table.store.site(stored[0]), stored[1])
    table.log.flush()
    return going


def _moved(table: Table, horizon: Horizon, stored_entries: Sequence[StoredEntry]) -> set[Row]:
    """Return the rows whose time an update has written that is not older than the horizon."""
    bit, bound = 1 << table.columns.bits[horizon.rule.by], hlc_from_ms(horizon.bound_ms)
    found = set()
    for stored in stored_entries:
        if stored[1] >= bound:
            mask = table.log.entry(stored).mask
            if mask & bit and not mask & EXISTENCE:
                found.add(stored[2])
    return found


def _younger(
    table: Table,
    horizon: Horizon,
    rows: list[Row],
    stored_entries: Sequence[StoredEntry],
    parts: Sequence[tuple[InsertRun, Sequence[int]]],
) -> set[Row]:
    """Return the rows whose insert is not older than the horizon, or not here."""
    born: set[Row] = set()
    site = table.store.site
    for stored in stored_entries:
        entry = table.log.entry(stored)
        if entry.mask & EXISTENCE and not entry.dead:
            at = _stamp_time(horizon, site(stored[0]), stored[1])
            if at is not None and at < horizon.bound_ms:
                born.add(stored[2])
    for run, places in parts:
        for at_row in places:
            at = _stamp_time(horizon, site(run.site_number), run.hlc + rows[at_row] - run.row)  # type: ignore[operator]
            if at is not None and at < horizon.bound_ms:
                born.add(rows[at_row])
    return {row for row in rows if row not in born}


def _unseen_rows(
    table: Table,
    horizon: Horizon,
    rows: list[Row],
    stored_entries: Sequence[StoredEntry],
    parts: Sequence[tuple[InsertRun, Sequence[int]]],
) -> set[Row]:
    """Return the rows that only this file may have, while its pin is later than the mesh's horizon."""
    if horizon.bound_ms <= horizon.ms:
        return set()
    found = {stored[2] for stored in stored_entries if _is_unseen(table, horizon, stored[0], stored[1])}
    for run, places in parts:
        if _is_unseen(table, horizon, run.site_number, run.hlc + run.n - 1):
            found.update(rows[at] for at in places)
    return found


def _is_unseen(table: Table, horizon: Horizon, site_number: int, hlc: int) -> bool:
    """Return True if no peer is known to have an entry, which the pin therefore leaves."""
    unseen = not horizon.is_elsewhere(table.store.site(site_number), hlc)
    horizon.pin.waiting |= unseen
    return unseen


def _note_dropped(table: Table, horizon: Horizon, stamps: Sequence[tuple[int, int]]) -> bool:
    """Note the changes that go by the pin; return False if one of them may be nowhere else."""
    if horizon.bound_ms <= horizon.ms:
        return True
    if any(_is_unseen(table, horizon, *stamp) for stamp in stamps):
        return False
    for site_number, hlc in stamps:
        horizon.drop(table.store.site(site_number), hlc)
    return True
