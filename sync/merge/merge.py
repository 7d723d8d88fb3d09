"""Merge of received changes, row by row, into the change log and the user's table.

Each change is joined into the entries of its row (`lattice`); then `materialize` makes the user's row show what the entries own.
A value that the table cannot show is held: the row is deleted, not inserted yet or refused by SQLite, or the file lacks the
column. Received inserts of unknown rows take a faster path (`bulk_insert`); `section_merge` chooses.

Invariant: a change that cannot be made visible is held, never dropped, and never blocks other changes. A value that loses to a
write which had not seen it is recorded in `mycomesh_conflicts`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE, Entry, join, visible
from mycomesh.sync.merge import keep_both, records
from mycomesh.sync.merge.conflicts import Apart, Change, losses_of, record_conflicts, record_hidden, same
from mycomesh.sync.merge.counters import totals
from mycomesh.sync.merge.merged import Merged
from mycomesh.sync.merge.registers import learn_columns
from mycomesh.sync.merge.restored import note_restored
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.merge.unique_claims import later_claims
from mycomesh.sync.merge.work_budget import (
    CELLS_A_UNIT,
    CONFLICT_WEIGHT,
    EDIT_WEIGHT,
    ENTRY_WEIGHT,
    ID_WEIGHT,
    PARK_WEIGHT,
    PRIOR_BYTES,
    TRANSACTION_WEIGHT_MAX,
    WorkBudget,
    bytes_weight,
)
from mycomesh.sync.sqlite.refusals import REFUSALS
from mycomesh.sync.sqlite.table_spec import KeyKind, Row
from mycomesh.sync.storage.change_log import StoredEntry, pack_mask
from mycomesh.sync.storage.row_view import RowView, prior_from_wire, shrink
from mycomesh.sync.storage.table import Table
from mycomesh.sync.wire.bundle import Group, Kind

__all__ = ["materialize", "merge_rows", "park_row"]

_SAVEPOINT = "mycomesh_merge"


def merge_rows(
    table: Table,
    group: Group,
    site_number: int,
    wall_ms: int | None,
    merged: Merged,
    budget: WorkBudget,
    *,
    apart: Apart | None = None,
) -> tuple[int, Apart | None]:
    """Merge changes one by one until the budget is spent. Runs inside a transaction.

    A repair passes None for `wall_ms`: most of its conflicts were recorded when the changes first arrived.

    The conflicts of a change whose values are more than one transaction may write are recorded in a transaction of their own,
    after another one has found them.

    Returns how many were merged, and the conflicts of the next one if they are found: pass them as `apart` then.
    """
    learn_columns(table, group, budget)
    keys = keys_of(table, group)
    if apart is not None and not apart.recorded and wall_ms is not None:
        # Without the row, whose large values would be read once more.
        made = apart.record(table, table.log.entries_of_row(table.locate(keys[0])), wall_ms)
        if made is not None:
            merged.conflicts += made
            budget.spend(TRANSACTION_WEIGHT_MAX)
            return 0, apart
        apart = None
    mask = table.columns.mask_of(group.columns)
    if group.kind is not Kind.UPDATE:
        mask |= EXISTENCE
    dead = group.kind is Kind.DELETE
    rows = table.locate_many(keys)
    views: list[RowView | None] = [None] * len(rows)
    if apart is not None and not apart.is_of(table.log.entries_of_row(rows[0])):
        apart = None  # another write has come in between
    if apart is not None:
        views[0] = _view_without(table, rows[0], (group.hlcs[0], group.site), mask)
    # Views read in advance are valid only if no earlier change of the group touches the same row.
    elif len(set(rows)) == len(rows):
        ahead = RowView.read_ahead(table, rows[: budget.room // _least_weight(table, group.columns) + 1])
        views[: len(ahead)] = ahead
    stale = False
    for number, hlc in enumerate(group.hlcs):
        if budget.spent:
            return number, None
        prior = prior_from_wire(table, group.priors[number]) if group.priors is not None else None
        values = dict(zip(group.columns, group.rows[number], strict=True))
        change = Change(site_number, hlc, keys[number], mask, dead, values, prior)
        # Merging a row may have displaced others, so views that were read before that are stale.
        view = None if stale else views[number]
        view = view or RowView.read(table, table.locate(change.key))
        views[number] = None  # its values may be large
        before = merged.conflicts, merged.parked
        weight = _weight(view, change)
        apart = None if number else apart
        large = (weight > TRANSACTION_WEIGHT_MAX and not table.spec.id_column) or apart is not None
        if large and wall_ms is not None and apart is None:
            outcome = join(view.entries, (hlc, table.store.site(site_number)), mask)
            losses = losses_of(table, view, change, outcome.gained, outcome.masks)
            if losses:
                budget.spend(weight)
                return number, Apart(view.stored, losses)
        displaced = _merge_change(table, view, change, wall_ms, merged, recorded=large and wall_ms is not None)
        stale |= displaced
        budget.spend(weight)
        if displaced:  # at most one row for each index
            budget.spend(PARK_WEIGHT * max(1, len(table.spec.unique)))
        conflicts, parked = merged.conflicts - before[0], merged.parked - before[1]
        budget.spend(PARK_WEIGHT * parked + ((CONFLICT_WEIGHT * conflicts + len(change.values)) if conflicts else 0))
    return len(group.hlcs), None


def _view_without(table: Table, row: Row, stamp: tuple[int, bytes], mask: int) -> RowView | None:
    """Return the view of a row without the values that a change overwrites or loses to; None if the change needs some of them."""
    entries = [table.log.entry(stored) for stored in table.log.entries_of_row(row)]
    gained = join(entries, stamp, mask).gained
    if mask & EXISTENCE or gained not in (0, mask) or table.columns.counters:
        return None
    return RowView.read(table, row, unread=table.columns.local_names.intersection(table.columns.names_of(mask)))


def _least_weight(table: Table, columns: Collection[str]) -> int:
    """Return the weight of merging a change of these columns into a row, without its bytes and entries."""
    weight = EDIT_WEIGHT + (ID_WEIGHT if table.spec.id_column else 0)
    return weight + (len(columns) + len(table.columns.local)) // CELLS_A_UNIT


def _weight(view: RowView, change: Change) -> int:
    """Return the weight of merging one change into its row, without what it is refused for."""
    weight = _least_weight(view.table, change.values)
    weight += ENTRY_WEIGHT * len(view.stored) + len(change.prior or b"") // PRIOR_BYTES
    weight += bytes_weight(change.values.values())
    return weight if view.present is None else weight + bytes_weight(view.present.values())


def _merge_change(
    table: Table, view: RowView, change: Change, wall_ms: int | None, merged: Merged, *, recorded: bool
) -> bool:
    """Join one change into its row, then update the user's table and the held values to match.

    A repair passes None for `wall_ms`. `recorded`: the conflicts are on record. Returns True if the row displaced another one.
    """
    columns = table.columns
    stamp = (change.hlc, table.store.site(change.site_number))
    displaced = False
    if wall_ms is None:
        if not _claims_stamp(table, view, change):
            return False
        resolved, displaced = _resolve_same_stamp(table, view, change)
        if resolved:
            merged.changes += 1
            view = RowView.read(table, table.locate(change.key))
    outcome = join(view.entries, stamp, change.mask)
    if table.spec.id_column and not _survives_legacy_delete(table, change, stamp):
        return displaced
    if view.entries and not recorded:  # a repair too: it may bring what the sender of a round has withheld
        made_ms = wall_ms or table.store.clock.last >> 16
        merged.conflicts += record_conflicts(table, view, change, outcome.gained, outcome.masks, made_ms)
    gained = outcome.gained
    if not gained:
        return displaced
    merged.changes += 1
    # A plain update of a visible row: cells that other entries own do not change, so only the gained cells are written.
    plain = view.plain and not gained & EXISTENCE and change.mask & ~columns.local_mask == 0 and not columns.converting
    # Values are read before `shrink` removes the entries that own them.
    owned = {} if plain else view.owned()
    shrink(view, outcome.masks, change.key)
    _write_entry(table, view, change, gained)
    if plain:
        alive, names = True, set(change.values)
    else:
        left = [entry._replace(mask=mask) for entry, mask in zip(view.entries, outcome.masks, strict=True) if mask]
        mine = [entry for entry in left if entry.stamp == stamp]
        entry = Entry(stamp, gained | (mine[0].mask if mine else 0), change.dead)
        after = [entry, *(entry for entry in left if entry.stamp != stamp)]
        alive = visible(after)
        if not alive and wall_ms is not None:
            merged.conflicts += record_hidden(table, change, after, owned, wall_ms)
        names = {name for entry in after for name in columns.names_of(entry.mask & ~EXISTENCE)}
    target = {name: value for name, value in owned.items() if name in names}
    target |= {name: change.values[name] for name in columns.names_of(gained & ~EXISTENCE)}
    parked, displaced_last = materialize(table, view, alive, target, reinserted=gained & EXISTENCE != 0)
    names_gained = columns.names_of(gained & ~EXISTENCE)
    if not table.store.conflict_room.empty:
        note_restored(table, change.key, names_gained, change.hlc, _large_values(table, names_gained, change))
    merged.parked += parked
    return displaced or displaced_last


def _large_values(table: Table, gained: Sequence[str], change: Change) -> dict[str, Any]:
    """Return the large values of a change that its row shows as they are."""
    columns = table.columns
    own = columns.local_names.intersection(gained) - columns.converting - columns.counters
    large = {name: change.values[name] for name in own if bytes_weight((change.values[name],)) > EDIT_WEIGHT}
    return large if large and not table.spec.id_column else {}


def _claims_stamp(table: Table, view: RowView, change: Change) -> bool:
    """Return False if another row keeps the stamp of a change; else that row loses its entry.

    Only a member that lies stamps two rows alike. The one with the greater key has the stamp on every replica.
    """
    row = table.log.row_of(change.site_number, change.hlc)
    if row is None or row == view.row:
        return True
    other = RowView.read(table, row)
    key = table.key(row, other.stored)
    if codec.encode(key) > codec.encode(change.key):
        return False
    loses = (change.hlc, table.store.site(change.site_number))
    masks = [0 if entry.stamp == loses else entry.mask for entry in other.entries]
    left = [entry for entry, mask in zip(other.entries, masks, strict=True) if mask]
    names = {name for entry in left for name in table.columns.names_of(entry.mask & ~EXISTENCE)}
    target = {name: value for name, value in other.owned().items() if name in names}
    shrink(other, masks, key)
    table.log.flush()
    materialize(table, other, visible(left), target, reinserted=True)  # its cells go back to what is left of them
    return True


def _resolve_same_stamp(table: Table, view: RowView, change: Change) -> tuple[bool, bool]:
    """Resolve two values of one stamp in a repair: keep the one whose encoding is greater.

    A cell can change without a log record, for example from 1.0 to 1, which SQLite calls equal. If an update of another column
    then computes the digest of its entry again, the two replicas have different values of one write. The rule makes both sides
    of the repair keep the same one.

    Returns whether anything changed, and whether the row displaced another one.
    """
    stored = next((stored for stored in view.stored if stored[:2] == (change.site_number, change.hlc)), None)
    if stored is None or change.dead:
        return False, False
    entry = view.entries[view.stored.index(stored)]
    values = view.values(stored, entry.mask)
    greater = {
        name: change.values[name]
        for name in values.keys() & change.values.keys()
        if codec.encode(change.values[name]) > codec.encode(values[name])
        or (table.seals is not None and codec.encode(change.values[name]) != codec.encode(values[name]))
    }
    if not greater:
        return False, False
    lost = {name: values[name] for name in sorted(greater) if values[name] != greater[name]}
    stamp = (change.hlc, table.store.site(change.site_number))
    if lost:
        loser = records.Loser(change.key, lost, stamp, dead=False)
        records.record_conflict(
            table, loser, stamp, change.values, table.store.clock.last >> 16, reason=records.TWO_VALUES
        )
    values |= greater
    digest = table.digests.entry(change.site_number, change.hlc, entry.mask, change.key, list(values.values()))
    table.log.replace(stored, (*stored[:4], digest, stored[5]))
    _, displaced = materialize(table, view, view.visible, view.owned() | greater, reinserted=False)
    table.log.flush()
    return True, displaced


def _survives_legacy_delete(table: Table, change: Change, stamp: tuple[int, bytes]) -> bool:
    """Apply deletes by id in a table that keeps both rows; return False for an insert that such a delete has ended.

    Before the table kept both rows, an id identified a row. A delete from that time ends every earlier insert of its id, and the
    order of arrival must not matter: a delete is applied to the inserts that are here, and a late insert is checked against the
    deletes that are here.
    """
    if change.dead and change.key[:1] == b"\x01":
        for row in keep_both.rows_wanting(table, keep_both.legacy_id(change.key)):
            view = RowView.read(table, row)
            key = table.key(row, view.stored)
            masks = join(view.entries, stamp, EXISTENCE).masks
            left = [entry._replace(mask=mask) for entry, mask in zip(view.entries, masks, strict=True) if mask]
            if visible(left):
                continue
            owned = view.owned()
            names = {name for entry in left for name in table.columns.names_of(entry.mask & ~EXISTENCE)}
            shrink(view, masks, key)
            materialize(table, view, False, {name: owned[name] for name in names}, reinserted=False)
        return True
    is_insert = change.mask & EXISTENCE and not change.dead
    return not is_insert or keep_both.deleted_up_to(table, change.values.get(table.spec.id_column)) < stamp


def _write_entry(table: Table, view: RowView, change: Change, gained: int) -> None:
    """Write the entry of the change, joined with the cells that its stamp already owns."""
    columns = table.columns
    earlier: StoredEntry | None = next(
        (stored for stored in view.stored if stored[:2] == (change.site_number, change.hlc)), None
    )
    mask = gained
    values = {name: change.values[name] for name in columns.names_of(gained & ~EXISTENCE)}
    if earlier is not None:
        own = view.entries[view.stored.index(earlier)].mask
        values |= view.values(earlier, own & ~EXISTENCE)
        mask |= own
    cells = [values[name] for name in columns.names_of(mask & ~EXISTENCE)]
    dead = change.dead
    digest = table.digests.entry(change.site_number, change.hlc, mask, change.key, cells, dead=dead)
    stored = (change.site_number, change.hlc, view.row, pack_mask(mask, dead=dead), digest, change.prior)
    if earlier is None:
        table.log.add(stored)
    else:
        table.log.replace(earlier, stored)


def materialize(
    table: Table, view: RowView, alive: bool, target: dict[str, Any], *, reinserted: bool
) -> tuple[bool, bool]:
    """Write the row's values into the user's table, and hold the values that the table cannot show.

    Args:
        table: the table of the row.
        view: the row as it was read before the change; its entries in the log have been updated since.
        alive: the row should be visible. If False, it is removed from the user's table.
        target: the values by column that the row's entries own.
        reinserted: the row was inserted again, so columns that no entry owns go back to their defaults.

    Returns:
        Whether SQLite refused the row, which is then parked and tried again when something changes; and whether the
        row displaced another one, of which earlier views are stale.
    """
    columns = table.columns
    row = view.row
    cells = {name: value for name, value in target.items() if name in columns.local_names}
    if columns.counters:
        cells |= totals(table, target)
    reason = ""
    displaced = False
    assignment: keep_both.IdAssignment | None = None
    write = _write_under_assigned_id if table.spec.id_column and alive else _write
    try:
        row, assignment, alive = write(table, view, alive, cells, reinserted=reinserted)
    except REFUSALS as error:
        reason = str(error)
        # The earlier claim on UNIQUE values wins on every replica: rows with later claims are parked, then this one fits.
        displaced = _displace(table, view.row, (view.present or {}) | cells)
        if displaced:
            try:
                row, assignment, alive = write(table, view, alive, cells, reinserted=reinserted)
                reason = ""
            except REFUSALS as error_left:
                reason = str(error_left)
    if reason and view.present is not None:
        # The old values of a refused row would depend on the order of arrival. So no replica shows any of the row.
        target = view.owned() | target
        table.rows.delete(row)
        row = _rename_to_key(table, view, row)
    reassigned = assignment is not None and assignment.id != assignment.wanted
    converted = _converted_columns(table, row, cells) if columns.converting and alive and not reason else frozenset()
    if reason or not alive or not view.plain or reassigned or converted or not cells.keys() >= target.keys():
        extra = columns.counters | converted | ({table.spec.id_column} if reassigned else set())
        _hold(view, row, target, extra, all_of_it=bool(reason) or not alive)
    if table.spec.id_column and (assignment is not None or not alive):
        keep_both.record_assignment(table, view.row, row, None if reason else assignment)
        if view.present is not None and not reason:
            keep_both.record_changed_id(table, view.row, row)
    if view.row != row or (not reason and not view.plain):
        records.unpark(table, view.row)
    if reason:
        key = table.key(view.row, view.stored) if view.stored else view.row
        records.park(table, row, key, reason, target | cells, table.store.clock.last >> 16)
    return bool(reason), displaced or (assignment is not None and assignment.displaced)


def _converted_columns(table: Table, row: Row, cells: dict[str, Any]) -> frozenset[str]:
    """Return the columns that changed the value written into them: other nodes give them another affinity."""
    present = table.rows.read(row) or {}
    return frozenset(
        name
        for name in table.columns.converting & cells.keys()
        if name in present and not same(present[name], cells[name])
    )


def _write_under_assigned_id(
    table: Table, view: RowView, _alive: bool, cells: dict[str, Any], *, reinserted: bool
) -> tuple[Row, keep_both.IdAssignment | None, bool]:
    """Write a row under the id that is assigned to it; if SQLite refuses the row, no other row changes its id.

    Returns as `_write` does.
    """
    db = table.store.db
    table.log.flush()  # otherwise a rollback to the savepoint would undo earlier writes of the change log too
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        assignment = keep_both.assign_id(table, view, cells)
        if assignment is not None:
            cells = cells | {table.spec.id_column: assignment.id}
        # Until the write of its id arrives, a row cannot be visible, unless it is already.
        alive = assignment is not None or view.present is not None
        return _write(table, view, alive, cells, reinserted=reinserted)[0], assignment, alive
    except REFUSALS:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        raise
    finally:
        db.execute(f"RELEASE {_SAVEPOINT}")


def _write(
    table: Table, view: RowView, alive: bool, cells: dict[str, Any], *, reinserted: bool
) -> tuple[Row, keep_both.IdAssignment | None, bool]:
    """Write the user's row; `REFUSALS` pass through, with no effect.

    Returns the row's name after the write, the id assigned to it (None if no id was to be assigned), and whether it is visible.
    """
    return _write_row(table, view, alive, cells, reinserted=reinserted), None, alive


def _write_row(table: Table, view: RowView, alive: bool, cells: dict[str, Any], *, reinserted: bool) -> Row:
    row = view.row
    if not alive:
        if view.present is None:
            return row
        table.rows.delete(row)
        return _rename_to_key(table, view, row)
    if view.present is None:
        return _insert(table, row, cells)
    if reinserted and any(name not in cells for name in table.columns.local):
        return _reinsert(table, row, cells)
    changed = {name: value for name, value in cells.items() if not same(view.present[name], value)}
    table.rows.update(row, changed)
    if table.spec.id_column in changed:
        new_id: int = changed[table.spec.id_column]
        table.log.rename_row(row, new_id)
        return new_id
    return row


def _displace(table: Table, row: Row, values: dict[str, Any]) -> bool:
    """Park the rows that keep this one out, if each of them has a later claim; return whether any was parked."""
    claimants = later_claims(table, row, values)
    for claimant, index in claimants.items():
        park_row(table, claimant, f"UNIQUE {index}: another row claimed these values first")
    return bool(claimants)


def park_row(table: Table, row: Row, reason: str) -> None:
    """Park a visible row. Runs inside a transaction in which every captured write has its stamp."""
    view = RowView.read(table, row)
    key = table.key(row, view.stored)
    target = view.owned()
    table.rows.delete(row)
    parked = _rename_to_key(table, view, row)
    _hold(view, parked, target, frozenset(), all_of_it=True)
    records.park(table, parked, key, reason, target, table.store.clock.last >> 16)


def _reinsert(table: Table, row: Row, values: dict[str, Any]) -> Row:
    """Delete and insert a row, so that columns which no entry owns go back to their defaults; all or nothing."""
    db = table.store.db
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        table.rows.delete(row)
        row = _insert(table, row, values)
    except REFUSALS:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        raise
    finally:
        db.execute(f"RELEASE {_SAVEPOINT}")
    return row


def _insert(table: Table, row: Row, values: dict[str, Any]) -> Row:
    """Insert a row under its identity; return its name, which is its rowid if its insert identifies it.

    A row that already had a rowid keeps it, unless its id has changed.
    """
    if table.rows.condition(row) is not None and (isinstance(row, bytes) or table.spec.kind is KeyKind.ROWID):
        # A later write may own the spelling of the key ('a' became 'A'). Until that write arrives, the row gets the identity.
        identity = [row] if isinstance(row, int) else codec.decode(row, bytes_max=len(row))
        values = {column.folded: value for column, value in zip(table.spec.key, identity, strict=False)} | values
    if (isinstance(row, bytes) and row[:1] != b"\x00") or table.spec.kind is KeyKind.ROWID:
        table.rows.insert(values)
        return row
    # Its entries go by the rowid: SQLite would choose another one, and the change log would have no entries of the row.
    kept = row if isinstance(row, int) and table.spec.id_column not in values else None
    rowid = table.rows.insert(values, rowid=kept)
    if rowid != row:
        table.log.rename_row(row, rowid)
    return rowid


def _rename_to_key(table: Table, view: RowView, row: Row) -> Row:
    """Rename a deleted row whose insert identifies it: it has no rowid, so its entries get the key of the insert."""
    if isinstance(row, int) and table.spec.kind is not KeyKind.ROWID:
        key: bytes = table.key(row, view.stored)
        table.log.rename_row(row, key)
        return key
    return row


def _hold(view: RowView, row: Row, target: dict[str, Any], extra: frozenset[str], *, all_of_it: bool) -> None:
    """Hold, for each entry of the row, the values that the user's table does not show.

    Args:
        view: the row as it was read before the change.
        row: the name of the row after the change.
        target: the values that the entries own.
        extra: columns of the table whose values are held too, because the table shows other values for them.
        all_of_it: hold every value.
    """
    table, columns = view.table, view.table.columns
    hidden = {
        name: value for name, value in target.items() if all_of_it or name not in columns.local_names or name in extra
    }
    if not hidden and not table.held.any():
        return
    before = {stored[:2]: view.held(stored) for stored in view.stored}
    for stored in table.log.entries_of_row(row):
        entry = table.log.entry(stored)
        names = columns.names_of(entry.mask & ~EXISTENCE)
        values = {name: hidden[name] for name in names if name in hidden}
        known = before.get(stored[:2], {})
        if values.keys() != known.keys() or any(not same(value, known[name]) for name, value in values.items()):
            table.held.write(stored[0], stored[1], values)
