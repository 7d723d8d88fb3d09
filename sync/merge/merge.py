"""Merge: one received section into the change log and the user's table.

Owns the effect of remote changes on rows. What always holds: a change that cannot be shown (its row is deleted, not born
yet, or refused by a constraint) is held, never dropped, and never blocks the others; whatever a user wrote and lost to a
write that had not seen it is in `mycomesh_conflicts`. It must not know links; the caller owns the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from mycomesh.sync import codec
from mycomesh.sync.crdt.lattice import EXISTENCE, Entry, join, visible
from mycomesh.sync.merge import keep_both, records
from mycomesh.sync.merge.bulk_insert import filter_group, insert_new_rows
from mycomesh.sync.merge.conflicts import Change, record_conflicts, record_hidden, same
from mycomesh.sync.merge.counters import totals
from mycomesh.sync.merge.dropped_columns import without_columns
from mycomesh.sync.merge.row_keys import keys_of
from mycomesh.sync.merge.unique_claims import later_claims
from mycomesh.sync.sqlite.table_spec import KeyKind
from mycomesh.sync.storage.change_log import Leaf, pack_mask
from mycomesh.sync.storage.row_view import RowView, prior_from_wire, shrink
from mycomesh.sync.storage.statements import blame
from mycomesh.sync.storage.table import Row, Table
from mycomesh.sync.wire.bundle import Group, Kind, Section

__all__ = ["Merged", "RowBudget", "materialize", "merge_section", "park_row"]

_SAVEPOINT = "mycomesh_merge"


@dataclass(slots=True)
class Merged:
    """What a section changed: changes that were news, those of them that were covered here, conflicts, rows parked."""

    changes: int = 0
    repaired: int = 0
    conflicts: int = 0
    parked: int = 0

    def add(self, other: Merged) -> None:
        """Count what another section changed."""
        self.changes += other.changes
        self.repaired += other.repaired
        self.conflicts += other.conflicts
        self.parked += other.parked


class RowBudget:
    """How many changes one transaction may look at row by row, and what it had to leave, in groups that fill one each."""

    __slots__ = ("_free", "_most", "left")

    def __init__(self, most: int) -> None:
        self.left: list[Group] = []
        self._most = self._free = most

    def take(self, group: Group) -> Group | None:
        """Return what there is room for, and keeps the rest."""
        count = len(group.hlcs)
        taken = min(self._free, count)
        self._free -= taken
        for start in range(taken, count, self._most):
            self.left.append(filter_group(group, [start <= at < start + self._most for at in range(count)]))
        return filter_group(group, [at < taken for at in range(count)]) if taken else None


def merge_section(
    table: Table, section: Section, wall_ms: int, *, repair: bool = False, budget: RowBudget | None = None
) -> Merged:
    """Merge the groups of one section, then covers its ranges; inside a transaction.

    `repair` takes changes although they are covered: the Merkle comparison has shown that they were lost here. With `room`,
    what is left in it is for another transaction; for sections without ranges.

    Raises:
        DecodeError: a key or a value that cannot belong to this table; the caller undoes the transaction.
    """
    merged = Merged()
    for sent in section.groups:
        group = without_columns(sent, table.dropped)
        if group is None:
            continue
        covered = _covered(table, group)
        fresh = _part(group, covered, known=False)
        if fresh is not None:
            site_number = table.store.site_number_or_new(fresh.site)
            keys = keys_of(table, fresh)
            done, rest = insert_new_rows(table, fresh, site_number, keys)
            merged.changes += done
            if rest is not None and budget is not None:
                rest = budget.take(rest)
            if rest is not None:
                keys = keys if rest is fresh else keys_of(table, rest)
                _merge_rows(table, rest, site_number, keys, wall_ms, merged)
        known = _part(group, covered, known=True) if repair else None
        if known is not None:
            before = merged.changes
            _merge_rows(table, known, table.store.site_number_or_new(known.site), keys_of(table, known), None, merged)
            merged.repaired += merged.changes - before
    table.log.flush()
    for site, after, upto in section.ranges:
        table.cover(site, after, upto)
    return merged


def _covered(table: Table, group: Group) -> Sequence[bool]:
    """Return which changes of a group this replica covers, empty for none; covered and absent means superseded."""
    coverage = table.coverage
    if group.hlcs[0] > coverage.top(group.site):
        return ()
    return [coverage.covers(group.site, hlc) for hlc in group.hlcs]


def _part(group: Group, covered: Sequence[bool], *, known: bool) -> Group | None:
    """Return the changes of a group that are covered, or those that are not; None if there are none."""
    if not any(covered):
        return None if known else group
    flags = [each is known for each in covered]
    return filter_group(group, flags) if any(flags) else None


# ---- the general case: each row against its entries


def _merge_rows(
    table: Table, group: Group, site_number: int, keys: list[Any], wall_ms: int | None, merged: Merged
) -> None:
    table.learn(group.columns)
    mask = table.mask_of(group.columns)
    if group.kind is not Kind.UPDATE:
        mask |= EXISTENCE
    dead = group.kind is Kind.DELETE
    rows = table.locate_many(keys)
    views: list[RowView | None] = [None] * len(rows)
    if len(set(rows)) == len(rows):  # else each row is read again after the change before it
        views = list(RowView.read_many(table, rows))
    displaced = table.displaced
    for number, hlc in enumerate(group.hlcs):
        prior = prior_from_wire(table, group.priors[number]) if group.priors is not None else None
        values = dict(zip(group.columns, group.rows[number], strict=True))
        change = Change(site_number, hlc, keys[number], mask, dead, values, prior)
        view = views[number] if displaced == table.displaced else None
        view = view or RowView.read(table, table.locate(change.key))
        _merge_change(table, view, change, wall_ms, merged)


def _merge_change(table: Table, view: RowView, change: Change, wall_ms: int | None, merged: Merged) -> None:
    """Join one change into its row, then brings the user's table and the held values in line."""
    stamp = (change.hlc, table.store.site(change.site_number))
    if wall_ms is None and _resolve_same_stamp(table, view, change):
        merged.changes += 1
        view = RowView.read(table, table.locate(change.key))
    outcome = join(view.entries, stamp, change.mask)
    if table.spec.id_column and not _survives_legacy_delete(table, change, stamp):
        return
    if view.entries and wall_ms is not None:  # a repair tells of nothing that is news
        merged.conflicts += record_conflicts(table, view, change, outcome.gained, outcome.masks, wall_ms)
    gained = outcome.gained
    if not gained:
        return
    merged.changes += 1
    # A plain update of a row that is shown: what the other entries own stays as it is.
    plain = view.plain and not gained & EXISTENCE and change.mask & ~table.known_mask == 0 and not table.converting
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
        names = {name for entry in after for name in table.columns_of(entry.mask & ~EXISTENCE)}
    target = {name: value for name, value in owned.items() if name in names}
    target |= {name: change.values[name] for name in table.columns_of(gained & ~EXISTENCE)}
    merged.parked += materialize(table, view, alive, target, reinserted=gained & EXISTENCE != 0)


def _resolve_same_stamp(table: Table, view: RowView, change: Change) -> bool:
    """Take what a repair brings of a stamp that has other values here, where they are the greater by their encoding.

    A file may have been changed behind the log's back in a way that nothing shows any more: a cell went from 1.0 to 1, which
    SQLite calls equal, in an update of its neighbour, and the entry was digested anew. Both sides keep the same one so.
    """
    leaf = next((leaf for leaf in view.leaves if leaf[:2] == (change.site_number, change.hlc)), None)
    if leaf is None or change.dead:
        return False
    entry = view.entries[view.leaves.index(leaf)]
    values = view.values(leaf, entry.mask)
    greater = {
        name: change.values[name]
        for name in values.keys() & change.values.keys()
        if codec.encode(change.values[name]) > codec.encode(values[name])
    }
    if not greater:
        return False
    lost = {name: values[name] for name in sorted(greater) if values[name] != greater[name]}
    stamp = (change.hlc, table.store.site(change.site_number))
    if lost:
        loser = records.Loser(change.key, lost, stamp, dead=False)
        records.record_conflict(
            table, loser, stamp, change.values, table.store.clock.last >> 16, reason=records.TWO_VALUES
        )
    values |= greater
    digest = table.digest(change.site_number, change.hlc, entry.mask, change.key, list(values.values()))
    table.log.replace(leaf, (*leaf[:4], digest, leaf[5]))
    materialize(table, view, view.visible, view.owned() | greater, reinserted=False)
    table.log.flush()
    return True


def _survives_legacy_delete(table: Table, change: Change, stamp: tuple[int, bytes]) -> bool:
    """Apply the end of a row that went by its id to the births of that id; false for a birth that came to its end so."""
    if change.dead and change.key[:1] == b"\x01":
        for row in keep_both.rows_wanting(table, keep_both.legacy_id(change.key)):
            view = RowView.read(table, row)
            key = table.key(row, view.leaves)
            masks = join(view.entries, stamp, EXISTENCE).masks
            left = [entry._replace(mask=mask) for entry, mask in zip(view.entries, masks, strict=True) if mask]
            if visible(left):
                continue
            owned = view.owned()
            names = {name for entry in left for name in table.columns_of(entry.mask & ~EXISTENCE)}
            shrink(view, masks, key)
            materialize(table, view, False, {name: owned[name] for name in names}, reinserted=False)
        return True
    born = change.mask & EXISTENCE and not change.dead
    return not born or keep_both.deleted_up_to(table, change.values.get(table.spec.id_column)) < stamp


def _write_entry(table: Table, view: RowView, change: Change, gained: int) -> None:
    """Write the incoming entry, joined with what its stamp already owned."""
    earlier: Leaf | None = next((leaf for leaf in view.leaves if leaf[:2] == (change.site_number, change.hlc)), None)
    mask = gained
    values = {name: change.values[name] for name in table.columns_of(gained & ~EXISTENCE)}
    if earlier is not None:
        own = view.entries[view.leaves.index(earlier)].mask
        values |= view.values(earlier, own & ~EXISTENCE)
        mask |= own
    cells = [values[name] for name in table.columns_of(mask & ~EXISTENCE)]
    dead = change.dead
    digest = table.digest(change.site_number, change.hlc, mask, change.key, cells, dead=dead)
    leaf = (change.site_number, change.hlc, view.row, pack_mask(mask, dead=dead), digest, change.prior)
    if earlier is None:
        table.log.add(leaf)
    else:
        table.log.replace(earlier, leaf)


def materialize(table: Table, view: RowView, alive: bool, target: dict[str, Any], *, reinserted: bool) -> bool:
    """Make the user's table show `target` (or nothing), and holds what it cannot show.

    Returns true if the row had to be parked: it is on record, and tried again when something changes.
    """
    row = view.row
    cells = {name: value for name, value in target.items() if name in table.known}
    if table.counters:
        cells |= totals(table, target)
    reason = ""
    assignment: keep_both.IdAssignment | None = None
    write = _write_under_assigned_id if table.spec.id_column and alive else _write
    try:
        row, assignment, alive = write(table, view, alive, cells, reinserted=reinserted)
    except apsw.ConstraintError as error:
        blame(table, error)
        reason = str(error)
        if _displace(table, view.row, (view.present or {}) | cells):
            try:
                row, assignment, alive = write(table, view, alive, cells, reinserted=reinserted)
                reason = ""
            except apsw.ConstraintError as error_left:
                blame(table, error_left)
                reason = str(error_left)
    if reason and view.present is not None:
        # Half a row would depend on the order of arrival: a refused row is not shown at all, on any replica.
        target = view.owned() | target
        table.delete(row)
        row = _rename_to_key(table, view, row)
    reassigned = assignment is not None and assignment.id != assignment.wanted
    converted = _converted_columns(table, row, cells) if table.converting and alive and not reason else frozenset()
    if reason or not alive or not view.plain or reassigned or converted or not cells.keys() >= target.keys():
        extra = table.counters | converted | ({table.spec.id_column} if reassigned else set())
        _hold(view, row, target, extra, all_of_it=bool(reason) or not alive)
    if table.spec.id_column and (assignment is not None or not alive):
        keep_both.record_assignment(table, view.row, row, None if reason else assignment)
    if view.row != row or (not reason and not view.plain):
        records.unpark(table, view.row)
    if reason:
        key = table.key(view.row, view.leaves) if view.leaves else view.row
        records.park(table, row, key, reason, target | cells, table.store.clock.last >> 16)
    return bool(reason)


def _converted_columns(table: Table, row: Row, cells: dict[str, Any]) -> frozenset[str]:
    """Return the columns that do not keep what was written into them: the mesh knows them under another affinity."""
    present = table.read(row) or {}
    return frozenset(
        name for name in table.converting & cells.keys() if name in present and not same(present[name], cells[name])
    )


def _write_under_assigned_id(
    table: Table, view: RowView, _alive: bool, cells: dict[str, Any], *, reinserted: bool
) -> tuple[Row, keep_both.IdAssignment | None, bool]:
    """Show a row under the id that it gets; a constraint that refuses the row leaves every other where it was."""
    db = table.store.db
    table.log.flush()  # what is undone must not be what was to be written anyway
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        assignment = keep_both.assign_id(table, view, cells)
        if assignment is not None:
            cells = cells | {table.spec.id_column: assignment.id}
        # Without the write that says its id a row has no place yet.
        alive = assignment is not None or view.present is not None
        return _write(table, view, alive, cells, reinserted=reinserted)[0], assignment, alive
    except apsw.ConstraintError:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        raise
    finally:
        db.execute(f"RELEASE {_SAVEPOINT}")


def _write(
    table: Table, view: RowView, alive: bool, cells: dict[str, Any], *, reinserted: bool
) -> tuple[Row, keep_both.IdAssignment | None, bool]:
    """Write the user's row; constraint errors pass through, with no effect.

    Returns the row's name afterwards, the place that it got if that was to be found, and whether it is seen.
    """
    return _write_row(table, view, alive, cells, reinserted=reinserted), None, alive


def _write_row(table: Table, view: RowView, alive: bool, cells: dict[str, Any], *, reinserted: bool) -> Row:
    row = view.row
    if not alive:
        if view.present is None:
            return row
        table.delete(row)
        return _rename_to_key(table, view, row)
    if view.present is None:
        return _insert(table, row, cells)
    if reinserted and any(name not in cells for name in table.known):
        return _reinsert(table, row, cells)
    changed = {name: value for name, value in cells.items() if not same(view.present[name], value)}
    table.update(row, changed)
    if table.spec.id_column in changed:
        new_id: int = changed[table.spec.id_column]
        table.log.rehome(row, new_id)
        return new_id
    return row


def _displace(table: Table, row: Row, values: dict[str, Any]) -> bool:
    """Parks the rows that keep this one out, if every one of them claimed its place later; returns whether any was."""
    claimants = later_claims(table, row, values)
    for claimant, index in claimants.items():
        park_row(table, claimant, f"UNIQUE {index}: another row claimed these values first")
    return bool(claimants)


def park_row(table: Table, row: Row, reason: str) -> None:
    """Parks a row that is shown; inside a transaction in which every captured write has its stamp."""
    view = RowView.read(table, row)
    key = table.key(row, view.leaves)
    target = view.owned()
    table.delete(row)
    parked = _rename_to_key(table, view, row)
    table.displaced += 1
    _hold(view, parked, target, frozenset(), all_of_it=True)
    records.park(table, parked, key, reason, target, table.store.clock.last >> 16)


def _reinsert(table: Table, row: Row, values: dict[str, Any]) -> Row:
    """Replace a row so that columns which no entry owns go back to their defaults; all or nothing."""
    db = table.store.db
    db.execute(f"SAVEPOINT {_SAVEPOINT}")
    try:
        table.delete(row)
        row = _insert(table, row, values)
    except apsw.ConstraintError:
        db.execute(f"ROLLBACK TO {_SAVEPOINT}")
        raise
    finally:
        db.execute(f"RELEASE {_SAVEPOINT}")
    return row


def _insert(table: Table, row: Row, values: dict[str, Any]) -> Row:
    """Insert a row under its identity; returns its name, which for a row known by its birth is its rowid."""
    if table.where_values(row) is not None and (isinstance(row, bytes) or table.spec.kind is KeyKind.ROWID):
        # A later write may own the key's spelling ('a' became 'A'): the identity stands in until that arrives.
        identity = [row] if isinstance(row, int) else codec.decode(row, bytes_max=len(row))
        values = {column.folded: value for column, value in zip(table.spec.key, identity, strict=False)} | values
    rowid = table.insert(values)
    if isinstance(row, bytes) and row[:1] == b"\x00":
        table.log.rehome(row, rowid)
        return rowid
    return row


def _rename_to_key(table: Table, view: RowView, row: Row) -> Row:
    """A row known by its birth has no rowid any more: its entries go by the birth itself."""
    if isinstance(row, int) and table.spec.kind is not KeyKind.ROWID:
        key: bytes = table.key(row, view.leaves)
        table.log.rehome(row, key)
        return key
    return row


def _hold(view: RowView, row: Row, target: dict[str, Any], extra: frozenset[str], *, all_of_it: bool) -> None:
    """Hold, for each entry of the row, the values that the user's table does not show: all of those in `veiled`.

    `row` is what the row that was viewed is called by now.
    """
    table = view.table
    hidden = {name: value for name, value in target.items() if all_of_it or name not in table.known or name in extra}
    if not hidden and not table.holds_any():
        return
    before = {leaf[:2]: view.held(leaf) for leaf in view.leaves}
    for leaf in table.log.leaves(row):
        entry = table.log.entry(leaf)
        names = table.columns_of(entry.mask & ~EXISTENCE)
        values = {name: hidden[name] for name in names if name in hidden}
        known = before.get(leaf[:2], {})
        if values.keys() != known.keys() or any(not same(value, known[name]) for name, value in values.items()):
            table.hold(leaf[0], leaf[1], values)
