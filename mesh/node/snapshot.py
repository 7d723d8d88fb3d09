"""Views of a serving node's tables and peers: pure functions of what the replica, its exchange and the mesh report.

A `Snapshot` goes to people (`mycomesh status`), a `NodeState` into the state tables that any SQLite client can read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mycomesh.mesh.node.status import (
    AccountView,
    AreaView,
    BudgetView,
    LinkView,
    MailboxView,
    PeerView,
    ProgressView,
    ReaderView,
    ScrubView,
    TableView,
    TrafficView,
    TroubleView,
)
from mycomesh.sync.admin.state_tables import AreaState, MailboxState, PeerState, ReaderState
from mycomesh.sync.crdt.hlc import SITE_PREFIX
from mycomesh.sync.merge.records import time_text
from mycomesh.sync.sqlite.identifiers import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mycomesh.mesh.core import PeerStatus
    from mycomesh.mesh.links.link_table import LinkTable
    from mycomesh.sync.exchange.area_status import AreaStatus
    from mycomesh.sync.exchange.exchange import LinkStatus
    from mycomesh.sync.exchange.intake import FileTrouble
    from mycomesh.sync.feed.feed import Cursor
    from mycomesh.sync.replica import ReplicaStatus
    from mycomesh.sync.replication.scrub import Scrubbed

__all__ = [
    "AREAS_SHOWN_MAX",
    "Snapshot",
    "account_views",
    "area_states",
    "area_views",
    "areas_warning",
    "budget_view",
    "equal_on",
    "keep_warning",
    "mailbox_states",
    "peer_states",
    "peer_views",
    "reader_states",
    "reader_views",
    "scrub_view",
    "shown_areas",
    "table_views",
    "traffic_views",
    "trouble_view",
]

# Areas in a status: the SQL table has all of them.
AREAS_SHOWN_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The database and the mesh at one moment. `warning` is one line for the user, "" if nothing is wrong."""

    site: str
    pending: int
    tables: tuple[TableView, ...]
    peers: tuple[PeerView, ...]
    port: int
    clock_offset_ms: float | None = None
    warning: str = ""
    scrub: ScrubView | None = None
    lock_held_ms: float = 0.0
    trouble: TroubleView | None = None
    free_bytes: int | None = None
    accounts: tuple[AccountView, ...] = ()
    readers: tuple[ReaderView, ...] = ()
    metered: BudgetView | None = None
    areas: tuple[AreaView, ...] = ()
    traffic: tuple[TrafficView, ...] = ()


def area_views(areas: Iterable[AreaStatus]) -> tuple[AreaView, ...]:
    """Return the views of the areas, first those that too few members keep, then those that are not equal."""
    found = [
        AreaView(
            each.table,
            each.area,
            each.kept,
            each.entries,
            each.digest,
            sum(equal_ms is not None for _, equal_ms in each.peers),
            sum(equal_ms is None for _, equal_ms in each.peers),
            each.holders,
            each.wanted,
            each.writers,
            each.withheld,
        )
        for each in areas
    ]
    return tuple(sorted(found, key=lambda each: (each.holders >= each.wanted, not each.behind, each.table, each.area)))


def shown_areas(areas: Sequence[AreaView]) -> tuple[tuple[AreaView, ...], int]:
    """Return the first areas that a status has room for, and how many are left out."""
    return tuple(areas[:AREAS_SHOWN_MAX]), max(0, len(areas) - AREAS_SHOWN_MAX)


def areas_warning(areas: Iterable[AreaView]) -> str:
    """Return one line about areas that too few members keep, "" if enough keep each."""
    few = [each for each in areas if each.changes and each.holders < each.wanted]
    if not few:
        return ""
    first = few[0]
    more = f", and {len(few) - 1:,} more area(s) by too few" if len(few) > 1 else ""
    return (
        f"area {first.area} of {first.table} is kept by {first.holders} member(s), and {first.wanted} should{more}: add it to"
        " [keep] of another node, or lower 'copies' in [keep] of this one"
    )


def keep_warning(kept: Iterable[str], tables: Iterable[TableView]) -> str:
    """Return one line about a table that [keep] names (folded) and that nothing cuts, "" if all are cut."""
    cut = {fold(each.name): each.areas_by for each in tables}
    name = next((name for name in kept if not cut.get(name)), None)
    if name is None:
        return ""
    if name not in cut:
        return f"[keep] names {name}, and this file has no such table yet; mycomesh area lists those that are cut"
    return f"[keep] names {name}, which is not cut into areas, so all of it is kept; cut it with: mycomesh area {name} BY COLUMN"


def area_states(areas: Iterable[AreaStatus]) -> tuple[AreaState, ...]:
    """Return the areas as rows of the state tables."""
    return tuple(
        AreaState(
            each.table,
            each.area,
            each.kept,
            each.equal_on,
            each.behind,
            each.holders,
            each.changes,
            each.digest,
            each.writers,
        )
        for each in area_views(areas)
    )


def budget_view(links: LinkTable, statuses: Iterable[LinkStatus], wall_ms: int) -> BudgetView | None:
    """Return the budget of metered links and what they have carried; None without a budget."""
    if links.budget is None:
        return None
    metered = links.metered()
    tables_of = {status.peer: status.waiting for status in statuses if status.waiting}
    waiting = sum(
        (link.paced_ms is not None and link.session.outbox.queued > 0) or link.peer_info().node_id in tables_of
        for link in metered
    )
    spent = links.day.total(wall_ms)
    tables = tuple(sorted({name for names in tables_of.values() for name in names}))
    return BudgetView(len(metered), waiting, links.budget.bytes_s, links.budget.bytes_day, spent, tables)


def traffic_views(links: LinkTable) -> tuple[TrafficView, ...]:
    """Return the bytes and messages of each kind that this node's connections have carried, and circuits inside of them."""
    return tuple(
        TrafficView(name, inside, each.sent, each.sent_bytes, each.received, each.received_bytes)
        for inside, traffic in ((False, links.carried), (True, links.in_circuits))
        for name, each in traffic.kinds()
    )


def equal_on(links: Iterable[LinkStatus]) -> Counter[str]:
    """Return, for each table by its folded name, on how many linked peers it was equal when last compared."""
    return Counter(name for link in links for name, _ in link.equal_ms)


def table_views(status: ReplicaStatus, links: Sequence[LinkStatus]) -> tuple[TableView, ...]:
    """Return the views of a replica's tables."""
    equal = equal_on(links)
    compared = any(link.compared_ms_ago is not None for link in links)
    return tuple(
        TableView(
            table.name,
            table.rows,
            table.digest,
            table.conflicts,
            table.parked,
            table.note,
            equal[fold(table.name)] if compared and table.digest else None,
            time_text(table.horizon_ms) if table.horizon_ms else "",
            table.cut,
            table.refused,
            table.areas_by,
        )
        for table in status.tables
    )


def account_views(status: ReplicaStatus, peers: Iterable[PeerView]) -> tuple[AccountView, ...]:
    """Return the accounts of a replica by origin, with the names of the members."""
    members = {peer.node_id[: 2 * SITE_PREFIX]: (peer.node_id, peer.name) for peer in peers}
    return tuple(
        AccountView(
            *members.get(node, (node, "")),
            each.rows,
            each.bytes,
            each.conflicts,
            each.parked,
            since,
            status.stated.get(node, {}),
        )
        for node, each, since in status.accounts
    )


def reader_views(cursors: Iterable[Cursor], wall_ms: int) -> tuple[ReaderView, ...]:
    """Return the views of the cursors of the change feed."""
    return tuple(
        ReaderView(
            cursor.name,
            cursor.table,
            cursor.behind,
            None if cursor.oldest_ms is None else max(0, wall_ms - cursor.oldest_ms) / 1000,
            time_text(cursor.moved_ms),
            cursor.idle,
        )
        for cursor in cursors
    )


def mailbox_states(mailboxes: Iterable[MailboxView]) -> tuple[MailboxState, ...]:
    """Return a gateway, and what it reads of each member, as rows of the state tables."""
    found: dict[tuple[str, str], MailboxState] = {}
    for box in mailboxes:
        removes = f"may not remove its old envelopes: {box.removes_text}" if box.removes == "no" else ""
        note = "; ".join(text for text in (box.text, box.clock, removes) if text)
        own = MailboxState(box.url, "", box.state, 0, "", note, box.base, 0, 0, 0.0, box.bytes)
        found[box.url, ""] = own
        for each in box.streams:
            state = "behind" if each.behind else "waiting" if each.waiting else "current"
            row = (state, each.refused, ", ".join(each.behind), each.why, each.base)
            found.setdefault(
                (box.url, each.member),
                MailboxState(box.url, each.member, *row, each.position, each.waiting, each.lag_s, each.bytes),
            )
    return tuple(found.values())


def reader_states(cursors: Iterable[Cursor]) -> tuple[ReaderState, ...]:
    """Return the cursors of the change feed as rows of the state tables."""
    return tuple(
        ReaderState(
            cursor.name,
            cursor.table,
            cursor.behind,
            None if cursor.oldest_ms is None else time_text(cursor.oldest_ms),
            time_text(cursor.moved_ms),
            cursor.idle,
        )
        for cursor in cursors
    )


def peer_views(peers: Iterable[PeerStatus], links: Iterable[LinkStatus]) -> tuple[PeerView, ...]:
    """Return the views of the other members, with the progress of their links."""
    link_of = {link.peer: link for link in links}
    return tuple(_peer_view(peer, link_of.get(peer.node_id)) for peer in peers)


def scrub_view(scrubbed: Scrubbed | None, wall_ms: int) -> ScrubView | None:
    """Return the view of the last complete scrub, None before the first."""
    if scrubbed is None:
        return None
    return ScrubView(max(wall_ms - scrubbed.ended_ms, 0), scrubbed.found, scrubbed.tables)


def trouble_view(trouble: FileTrouble | None, wall_ms: int) -> TroubleView | None:
    """Return the view of why the file takes in no rows; None while it does."""
    return None if trouble is None else TroubleView(trouble.code, trouble.text, max(wall_ms - trouble.since_ms, 0))


def peer_states(peers: Iterable[PeerStatus], links: Iterable[LinkStatus], wall_ms: int) -> tuple[PeerState, ...]:
    """Return the other members as rows of the state tables."""
    link_of = {link.peer: link for link in links}
    return tuple(_peer_state(peer, link_of.get(peer.node_id), wall_ms) for peer in peers)


def _peer_state(peer: PeerStatus, link: LinkStatus | None, wall_ms: int) -> PeerState:
    return PeerState(
        peer.node_id.hex(),
        peer.name,
        ",".join(peer.roles),
        peer.state,
        None if link is None or link.compared_ms_ago is None else link.equal,
        "" if peer.address is None else str(peer.address),
        peer.rtt_ms,
        peer.offset_ms,
        peer.sent_bytes,
        peer.received_bytes,
        "" if peer.seen_ms_ago is None else time_text(wall_ms - peer.seen_ms_ago),
    )


def _peer_view(peer: PeerStatus, link: LinkStatus | None) -> PeerView:
    progress = None
    if link is not None and link.progress is not None:
        progress = ProgressView(
            link.progress.rows, link.progress.expected, link.progress.received_bytes, link.progress.left_ms
        )
    return PeerView(
        node_id=peer.node_id.hex(),
        name=peer.name,
        roles=peer.roles,
        state=peer.state,
        address="" if peer.address is None else str(peer.address),
        rtt_ms=peer.rtt_ms,
        offset_ms=peer.offset_ms,
        equal=None if link is None or link.compared_ms_ago is None else link.equal,
        seen_ms_ago=peer.seen_ms_ago,
        sent_bytes=peer.sent_bytes,
        received_bytes=peer.received_bytes,
        protocol=peer.protocol,
        catching_up=progress,
        links=tuple(
            LinkView(
                each.node_id.hex(), None if each.rtt_ms < 0 else each.rtt_ms, each.sent_bytes + each.received_bytes
            )
            for each in peer.neighbours
        ),
    )
