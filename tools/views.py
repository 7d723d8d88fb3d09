"""Prints the peers and tables of a node's status for people. Pure views of the values in `mesh.node.status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.journal import printable
from mycomesh.tools.render import byte_count, duration, print_table, say, short_hash, signed_ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.node.status import (
        AccountView,
        AreaView,
        BudgetView,
        MailboxView,
        PeerView,
        ReaderView,
        TableView,
    )

__all__ = [
    "area_note",
    "cut_by",
    "equality",
    "linked_of",
    "retained",
    "show_accounts",
    "show_areas",
    "show_budget",
    "show_mailboxes",
    "show_peers",
    "show_readers",
    "show_tables",
]

AREAS_SHOWN = 50  # in a table for people


def show_peers(peers: Sequence[PeerView]) -> None:
    """Print the members as a table."""
    print_table(
        ("PEER", "STATE", "EQUAL", "ADDRESS", "RTT", "OFFSET", "SENT", "RECEIVED"), [_row(peer) for peer in peers]
    )


def show_tables(tables: Sequence[TableView], linked: int) -> None:
    """Print the tables as a table; `linked` is the number of peers that could be equal."""
    rows = [
        (
            table.name,
            str(table.rows),
            short_hash(table.digest) or "-",
            "-" if table.equal_on is None else f"{table.equal_on} of {linked}",
            str(table.conflicts),
            str(table.parked),
            "; ".join(filter(None, (cut_by(table), retained(table), table.note))),
        )
        for table in tables
    ]
    print_table(("TABLE", "ROWS", "HASH", "EQUAL ON", "CONFLICTS", "PARKED", "NOTE"), rows)


def retained(table: TableView) -> str:
    """Return since when a table has rows, and how many have gone or come too late; "" if its rows stay."""
    if not table.horizon:
        return ""
    late = f", {table.refused} came too late" if table.refused else ""
    return f"rows since {table.horizon[:19]}Z, {table.cut} older are gone{late}"


def cut_by(table: TableView) -> str:
    """Return how a table is cut into areas, "" if it is not."""
    return f"cut by {table.areas_by}" if table.areas_by else ""


def show_areas(areas: Sequence[AreaView], more: int, linked: int) -> None:
    """Print the areas of tables that are cut, those first of which something is amiss; `more` is how many are left out."""
    rows = [
        (
            area.table,
            area.area,
            str(area.changes),
            short_hash(area.digest),
            f"{area.equal_on} of {area.equal_on + area.behind}" if linked and area.kept else "-",
            f"{area.holders} of {area.wanted}",
            area_note(area),
        )
        for area in areas[:AREAS_SHOWN]
    ]
    print_table(("TABLE", "AREA", "CHANGES", "HASH", "EQUAL ON", "HOLDERS", "NOTE"), rows)
    hidden = len(areas) - len(rows) + more
    if hidden:
        print(f"and {hidden} more area(s): 'mycomesh area TABLE' lists them")


def area_note(area: AreaView) -> str:
    """Return what is to be known of an area, "" for nothing."""
    if area.withheld:
        return "no right to write: stays here"
    if not area.kept:
        return "not kept: goes once others have it" if area.changes else "not kept"
    return "too few keep it" if area.changes and area.holders < area.wanted else ""


def show_accounts(accounts: Sequence[AccountView]) -> None:
    """Print what each other node's writes have brought, the most bytes first, and the definitions that it has stated."""
    rows = []
    for each in sorted(accounts, key=lambda each: (-each.bytes, each.node_id)):
        who = each.name or each.node_id or "others"
        stated = ", ".join(f"{count} {kind}" for kind, count in sorted(each.stated.items())) or "-"
        figures = str(each.rows), byte_count(each.bytes), str(each.conflicts), str(each.parked)
        rows.append((who, *figures, each.since, stated))
    print_table(("ORIGIN", "ROWS", "BYTES", "CONFLICTS", "PARKED", "SINCE", "DEFINITIONS"), rows)


def show_budget(budget: BudgetView) -> None:
    """Print the budget of metered links in one line."""
    limits = [
        *([] if budget.bytes_s is None else [f"{byte_count(budget.bytes_s)}/s each"]),
        *([] if budget.bytes_day is None else [f"{byte_count(budget.bytes_day)} in 24 h"]),
    ]
    waits = f", {budget.waiting} of them waiting" if budget.waiting else ""
    own = f" (for its own budget: {printable(', '.join(budget.tables))})" if budget.tables else ""
    print(
        f"metered links: {budget.links}{waits}{own}; {byte_count(budget.spent_bytes)} in the last 24 h; limits:"
        f" {', '.join(limits) or 'those of single tables'}"
    )


def show_readers(readers: Sequence[ReaderView]) -> None:
    """Print the cursors of the change feed."""
    rows = [
        (
            each.cursor,
            each.table,
            str(each.behind),
            "-" if each.behind_s is None else duration(round(1000 * each.behind_s)),
            each.moved_at,
            "idle: holds no deletes back" if each.idle else "",
        )
        for each in readers
    ]
    print_table(("CURSOR", "TABLE", "BEHIND", "FOR", "MOVED", "NOTE"), rows)


def show_mailboxes(mailboxes: Sequence[MailboxView]) -> None:
    """Print a gateway's mailbox, and how far each other member was read in it."""
    for box in mailboxes:
        base = f"base {box.base}, " if box.base else ""
        text = f": {box.text}" if box.text else ""
        removes = f": {box.removes_text}" if box.removes_text else ""
        say(
            f"mailbox {box.url}: {base}{box.state}{text}; {byte_count(box.bytes)} appended, {byte_count(box.kept_bytes)} kept"
        )
        say(f"  removes its own old envelopes, and no others: {box.removes}{removes}")
        if box.clock:
            say(f"  clock: {box.clock}")
        rows = [
            (
                each.member,
                each.base or "-",
                str(each.waiting),
                duration(round(1000 * each.lag_s)) if each.waiting else "-",
                byte_count(each.bytes),
                str(each.refused),
                "-" if each.proved_s_ago is None else f"{duration(round(1000 * each.proved_s_ago))} ago",
                f"behind: {', '.join(each.behind)}: {each.why}" if each.behind else each.why,
            )
            for each in box.streams
        ]
        if rows:
            print_table(("FROM", "BASE", "WAITING", "LAG", "BYTES", "REFUSED", "EQUAL", "NOTE"), rows)


def linked_of(peers: Sequence[PeerView]) -> int:
    """Return how many of the peers are linked."""
    return sum(peer.state == "linked" for peer in peers)


def equality(peer: PeerView) -> str:
    """Return whether the peer is equal, and while rows arrive from it, how far the catch-up is."""
    if peer.catching_up is None:
        return "-" if peer.equal is None else "yes" if peer.equal else "no"
    rows, expected, left_ms = peer.catching_up.rows, peer.catching_up.expected, peer.catching_up.left_ms
    share = f" of {expected}" if expected else ""
    left = "" if left_ms is None else f", {duration(left_ms)} left"
    return f"no: {rows}{share} rows, {byte_count(peer.catching_up.received_bytes)}{left}"


def _row(peer: PeerView) -> tuple[str, ...]:
    equal = equality(peer)
    rtt = "-" if peer.rtt_ms is None else f"{peer.rtt_ms:.1f} ms"
    plain = peer.state == "linked" or peer.seen_ms_ago is None  # a linked peer was always seen within the last second
    state = peer.state if plain else f"{peer.state} ({duration(peer.seen_ms_ago)} ago)"
    if peer.protocol and peer.state != "linked":
        state = f"{state}, speaks only protocol {peer.protocol}"
    traffic = (byte_count(peer.sent_bytes), byte_count(peer.received_bytes))
    return (peer.name, state, equal, peer.address or "-", rtt, signed_ms(peer.offset_ms), *traffic)
