"""Gives the entries of a table that was cut with its rows the sites of their areas, some in each transaction.

A drain does this while nothing waits for a stamp, so a row has the values that its entries own. The table has no unit until all
have moved (`Registry.unit`): no peer compares it, and no change of it is merged. After a crash the next drain goes on from the
last commit.

An entry whose new site is one that has entries to move, or is of another area, is left out: only a member that makes up sites
can bring that about, with its own entries, and the move has to come to its end.

Invariant: the other entries of a row have the stamps, masks and values from before, and the site of its area (tests/stories).
"""

from __future__ import annotations

from collections.abc import Iterable

from mycomesh.sync.crdt.lattice import EXISTENCE
from mycomesh.sync.merge import records
from mycomesh.sync.storage.areas import Areas
from mycomesh.sync.storage.moved_rows import key_area
from mycomesh.sync.storage.row_view import RowView, decode_prior, encode_prior
from mycomesh.sync.storage.table import Table, insert_key, insert_stamp

__all__ = ["STEP_ENTRIES", "are_moving", "move_some"]

# Entries of one transaction, whose rows are read one by one: some 40 ms.
STEP_ENTRIES = 500


def are_moving(tables: Iterable[Table]) -> bool:
    """Return True if entries of some table are still to move."""
    return any(table.areas is not None and table.areas.moving for table in tables)


def move_some(table: Table, room: int) -> int:
    """Move up to `room` entries of a table, and a few more of the same rows; return how many. Inside a transaction."""
    areas = table.areas
    if areas is None or areas.moved is None or not areas.moved.sources:
        return 0
    moved, done = areas.moved, 0
    sources = frozenset(moved.sources)
    while moved.sources and done < room:
        found = table.log.scan_site(moved.sources[0], -1, room - done)
        rows = list(dict.fromkeys(entry[2] for entry in found))
        for view in RowView.each(table, rows):
            done += _move_row(areas, view, sources)
        table.log.flush()
        if not found:
            del moved.sources[0]
    moved.entries += done
    moved.write(table.store, table.table_id)
    return done


def _move_row(areas: Areas, view: RowView, sources: frozenset[int]) -> int:
    """Give the entries of a row the sites of its area; return how many had others."""
    table, moved = view.table, areas.moved
    assert moved is not None
    store, key = table.store, view.key
    area = key_area(table.spec, moved.column, key)
    if type(key) is bytes and key[:1] == b"\x00":
        site, hlc = insert_stamp(key)
        key = insert_key(areas.own_site(site, area), hlc)
    name = key if isinstance(view.row, bytes) else view.row
    going = [at for at, stored in enumerate(view.stored) if stored[0] in sources]
    held = [view.held(view.stored[at]) for at in going]
    for at in going:
        table.log.remove(view.stored[at])
    table.log.flush()
    for at, own in zip(going, held, strict=True):
        stored, entry = view.stored[at], view.entries[at]
        site = areas.own_site(store.site(stored[0]), area)
        if own:
            table.held.write(*stored[:2], {})
        if store.site_number(site) in sources or not areas.learn(site, area):
            continue  # its writer has made up two sites for this; a scrub finds the value, and stamps it here
        number = store.site_number_or_new(site)
        values = list(view.values(stored, entry.mask & ~EXISTENCE).values())
        digest = table.digests.entry(number, stored[1], entry.mask, key, values, dead=entry.dead)
        table.log.add((number, stored[1], name, stored[3], digest, _moved_prior(areas, area, stored[5])))
        if own:
            table.log.flush()
            table.held.write(number, stored[1], own)
    if name != view.row:
        records.rename_parked(table, view.row, name, key)
    return len(going)


def _moved_prior(areas: Areas, area: str, prior: bytes | None) -> bytes | None:
    """Return a prior whose sites are those of the area."""
    if prior is None:
        return None
    store = areas.store
    parts = []
    for mask, number, hlc in decode_prior(prior):
        if areas.of(number) is None:
            number = store.site_number_or_new(areas.own_site(store.site(number), area))  # noqa: PLW2901
        parts.append((mask, number, hlc))
    return encode_prior(parts)
