"""Notices that report what a merge or the opening of the file brought."""

from __future__ import annotations

from collections.abc import Sequence

from mycomesh.sync.exchange.link_status import Progress
from mycomesh.sync.exchange.turn import Turn
from mycomesh.sync.replication.applied import Applied
from mycomesh.sync.storage.large_rows import KEY_BYTES_MAX
from mycomesh.sync.wire.units import shown_unit

__all__ = [
    "notify_adopted",
    "notify_applied",
    "notify_audited",
    "notify_doubted",
    "notify_forbidden",
    "notify_kept",
    "notify_new_site",
    "notify_progress",
    "notify_refused",
    "notify_restored",
    "notify_withheld",
]


def notify_restored(recreated: Sequence[str], rebuilt: Sequence[str], turn: Turn) -> None:
    """Report internal tables that were recreated, and user tables that are captured again."""
    if recreated:
        text = f"{', '.join(recreated)} had been dropped or altered: recreated; now looking for rows written meanwhile"
        turn.notify("database.mended", text, {"tables": list(recreated)}, "warning")
    if rebuilt:
        names = sorted(set(rebuilt))
        text = f"{', '.join(names)} rebuilt, or without triggers: captured again; now comparing row by row"
        turn.notify("capture.restored", text, {"tables": names})


def notify_applied(applied: Applied, site: bytes, turn: Turn) -> None:
    """Report conflicts, parked rows and a new site."""
    conflicts, parked = applied.merged.conflicts, applied.merged.parked
    if conflicts:
        text = f"{conflicts} conflicting write(s); see mycomesh_conflicts"
        turn.notify("merge.conflict", text, {"count": conflicts})
    if parked:
        text = f"parked {parked} row(s) that a constraint refuses; see mycomesh_parked"
        turn.notify("merge.parked", text, {"count": parked})
    for node in applied.full:
        text = (
            f"so many rows of {node.hex()} are parked that its further inserts into these tables are left out, until some fit:"
            " see mycomesh_parked"
        )
        turn.notify("parked.full", text, {"node": node.hex()}, "warning")
    if applied.merged.large_keys:
        count, limit = applied.merged.large_keys, f"{KEY_BYTES_MAX >> 10} KiB"
        text = f"left out {count} change(s) of rows whose primary key takes more than {limit}"
        turn.notify("rows.large_key", text, {"count": count}, "warning")
    if applied.unsigned:
        text = f"left out {applied.unsigned} change(s) of signed tables that their writers have not signed"
        turn.notify("rows.unsigned", text, {"count": applied.unsigned}, "warning")
    if applied.renewed:
        notify_new_site(site, turn)


def notify_new_site(site: bytes, turn: Turn) -> None:
    """Report that the file continues under a new site."""
    text = (
        "the file is older than what peers have from it (a restored backup?); it continues under the new site"
        f" {site.hex()}"
    )
    turn.notify("site.renewed", text, {"site": site.hex()}, "warning")
    turn.changed = True


def notify_withheld(tables: Sequence[str], turn: Turn) -> None:
    """Report tables that this node wrote without the right to."""
    tables = [shown_unit(name) for name in tables]
    text = f"this node may not write {', '.join(tables)}: its rows stay here, because other nodes refuse them"
    turn.notify("write.withheld", text, {"tables": tables}, "warning")


def notify_forbidden(origin: bytes, tables: Sequence[str], turn: Turn) -> None:
    """Report tables of a live batch that its origin may not write."""
    node_id, tables = origin.hex(), [shown_unit(name) for name in tables]
    text = f"ignored rows from {node_id[:8]} in tables that it may not write: {', '.join(tables)}"
    turn.notify("batch.forbidden", text, {"node_id": node_id, "tables": tables}, "warning")


def notify_adopted(tables: Sequence[str], turn: Turn) -> None:
    """Report tables whose rows are doubled if another node has a copy of this file, and one of the two was changed."""
    if tables:
        names = sorted(set(tables))
        text = (
            f"{', '.join(names)}: rows without a primary key from before the mesh; if another node has a copy of this"
            " file too, and one of the two was changed, they are there twice (give one of the two nodes a path where no file"
            " exists)"
        )
        turn.notify("capture.adopted", text, {"tables": names})


def notify_audited(peer: bytes, rows: int, turn: Turn) -> None:
    """Report rows that an audit removed, and the member that reported them as deleted."""
    node_id = peer.hex()
    text = f"removed {rows} row(s) that member {node_id[:8]} reports as deleted; they are in mycomesh_conflicts"
    turn.notify("round.audited", text, {"rows": rows, "node_id": node_id})
    turn.changed = True


def notify_kept(peer: bytes, rows: int, turn: Turn) -> None:
    """Report rows that were written again because a person has decided against a member's report."""
    node_id = peer.hex()
    text = f"wrote {rows} row(s) again that member {node_id[:8]} reports as deleted; they spread like any write"
    turn.notify("round.kept", text, {"rows": rows, "node_id": node_id})
    turn.changed = True


def notify_doubted(peer: bytes, table: str, count: int, turn: Turn) -> None:
    """Report that rows stay although a member reports them as deleted."""
    node_id = peer.hex()
    text = (
        f"member {node_id[:8]} reports {count} change(s) of {table} as deleted that this node has: the rows stay until another"
        f" member reports the same, or until 'mycomesh accept-drop {table}'; if that member is wrong: 'mycomesh keep-rows"
        f" {table}'"
    )
    turn.notify("round.doubted", text, {"node_id": node_id, "table": table, "changes": count}, "warning")


def notify_refused(peer: bytes, changes: int, why: str, turn: Turn) -> None:
    """Report changes of a round that were not taken; `changes` is 0 if all of a chunk was not."""
    node_id = peer.hex()
    text = f"refused {f'{changes} ' if changes else ''}changes from {node_id[:8]}: {why}"
    turn.notify("round.refused", text, ({"changes": changes} if changes else {}) | {"node_id": node_id}, "warning")


def notify_progress(peer: bytes, progress: Progress, turn: Turn) -> None:
    """Report how far a round has come."""
    share = f" of about {progress.expected:,}" if progress.expected else ""
    left = "" if progress.left_ms is None else f", {progress.left_ms / 1000:.0f} s left"
    size = f"{progress.received_bytes / 1e6:.1f} MB"
    text = f"catching up with {peer.hex()[:8]}: {progress.rows:,}{share} rows, {size}{left}"
    detail = {"rows": progress.rows, "expected": progress.expected, "bytes": progress.received_bytes}
    turn.notify("round.progress", text, detail | {"node_id": peer.hex()})
