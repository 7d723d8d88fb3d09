"""Prometheus metrics: a node's status in the text exposition format, version 0.0.4.

Invariant: an unknown figure is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mycomesh.mesh.node.status import PeerView, Status

__all__ = ["exposition"]

PREFIX = "mycomesh_"

Sample = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    kind: str  # gauge or counter
    help: str
    samples: tuple[Sample, ...]


def exposition(status: Status) -> str:
    """Return all metrics of a node, each after its `# HELP` and `# TYPE` lines. Units are seconds and bytes."""
    lines: list[str] = []
    for metric in _metrics(status):
        if metric.samples:
            name = PREFIX + metric.name
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
            lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in metric.samples]
    return "\n".join([*lines, ""])


def _metrics(status: Status) -> Iterator[_Metric]:
    node = {"version": status.version, "mesh": status.mesh, "node": status.node, "phase": status.phase}
    yield _Metric("info", "gauge", "Version, mesh, node and phase as labels; always 1.", ((node, 1.0),))
    yield _Metric("serving", "gauge", "1 while the node serves its file.", (({}, float(status.phase == "serving")),))
    yield _Metric("revoked", "gauge", "1 if this node knows that it was revoked.", (({}, float(status.revoked)),))
    yield _Metric("uptime_seconds", "gauge", "Time since the process started.", (({}, status.uptime_ms / 1000),))
    yield _Metric("pending_writes", "gauge", "Captured writes that have no stamp yet.", (({}, float(status.pending)),))
    longest: tuple[Sample, ...] = (({}, status.lock_held_ms / 1000),)
    yield _Metric(
        "write_lock_held_seconds_max", "gauge", "Longest time that the node has had the file locked.", longest
    )
    yield from _of_file(status)
    offset: tuple[Sample, ...] = () if status.clock_offset_ms is None else (({}, status.clock_offset_ms / 1000),)
    yield _Metric("clock_offset_seconds", "gauge", "Mesh time minus this node's clock.", offset)
    if status.not_after_s:
        text = "Unix time at which this node's certificate expires."
        yield _Metric("certificate_expiry_timestamp_seconds", "gauge", text, (({}, float(status.not_after_s)),))
    if status.scrub is not None:
        found = float(status.scrub.found)
        yield _Metric("scrub_found_rows", "gauge", "Uncaptured rows that the last scrub found.", (({}, found),))
        ago = status.scrub.ended_ms_ago / 1000
        yield _Metric("scrub_age_seconds", "gauge", "Time since the last scrub completed.", (({}, ago),))
    states = ("linked", "reachable", "down")
    counted = tuple(({"state": state}, float(sum(peer.state == state for peer in status.peers))) for state in states)
    yield _Metric("peers", "gauge", "Other members of the mesh, by state.", counted)
    unseen = tuple(
        ({"peer": peer.name, "node_id": peer.node_id}, peer.seen_ms_ago / 1000)
        for peer in status.peers
        if peer.seen_ms_ago is not None
    )
    yield _Metric("peer_unseen_seconds", "gauge", "Time since another member was last heard of.", unseen)
    yield from _of_tables(status)
    yield from _of_areas(status)
    yield from _of_origins(status)
    yield from _of_readers(status)
    yield from _of_children(status)
    yield from _of_mailboxes(status)
    yield from _of_traffic(status)
    yield from _of_peers([peer for peer in status.peers if peer.state == "linked"])


def _of_file(status: Status) -> Iterator[_Metric]:
    text = (
        "1 while the database takes in rows of other nodes; 0 while it is locked, the disk is full or below the floor."
    )
    if status.phase == "serving":
        yield _Metric("database_writable", "gauge", text, (({}, float(status.trouble is None)),))
    if status.trouble is not None:
        since: tuple[Sample, ...] = (({"code": status.trouble.code}, status.trouble.since_ms_ago / 1000),)
        yield _Metric(
            "database_trouble_seconds", "gauge", "How long the database has taken in nothing, by cause.", since
        )
    free: tuple[Sample, ...] = () if status.free_bytes is None else (({}, float(status.free_bytes)),)
    yield _Metric("disk_free_bytes", "gauge", "Free space on the disk of the database.", free)
    spent: tuple[Sample, ...] = () if status.metered is None else (({}, float(status.metered.spent_bytes)),)
    yield _Metric("metered_day_bytes", "gauge", "Bytes of metered links in the last 24 hours.", spent)


def _of_tables(status: Status) -> Iterator[_Metric]:
    fields = (
        ("rows", "Rows of a table."),
        ("conflicts", "Recorded conflicts of a table: overwritten values that are kept."),
        ("parked", "Parked rows of a table: rows of peers that a constraint refuses."),
    )
    for field, text in fields:
        samples = tuple(({"table": table.name}, float(getattr(table, field))) for table in status.tables)
        yield _Metric(f"table_{field}", "gauge", text, samples)
    kept = [({"table": table.name}, table) for table in status.tables if table.horizon]
    if kept:
        ends = tuple((labels, datetime.fromisoformat(table.horizon).timestamp()) for labels, table in kept)
        yield _Metric("table_horizon_seconds", "gauge", "Unix time before which rows of a table are gone.", ends)
        cut = tuple((labels, float(table.cut)) for labels, table in kept)
        yield _Metric("table_cut_rows_total", "counter", "Rows that have gone because of their age.", cut)
        refused = tuple((labels, float(table.refused)) for labels, table in kept)
        yield _Metric("table_refused_rows_total", "counter", "Rows of peers that came when they were too old.", refused)


def _of_areas(status: Status) -> Iterator[_Metric]:
    named = [({"table": area.table, "area": area.area}, area) for area in status.areas]
    changes = tuple((labels, float(area.changes)) for labels, area in named)
    yield _Metric("area_changes", "gauge", "Changes of an area in this file.", changes)
    holders = tuple((labels, float(area.holders)) for labels, area in named)
    yield _Metric("area_holders", "gauge", "Members that keep an area, this node included.", holders)
    lacking = tuple((labels, float(max(0, area.wanted - area.holders))) for labels, area in named if area.changes)
    yield _Metric("area_holders_lacking", "gauge", "How many more members should keep an area.", lacking)
    behind = tuple((labels, float(area.behind)) for labels, area in named if area.kept)
    yield _Metric("area_peers_behind", "gauge", "Linked peers that keep an area and do not have it equal.", behind)


def _of_origins(status: Status) -> Iterator[_Metric]:
    fields = (
        ("rows", "Changes of another node's writes that were news here."),
        ("bytes", "Bytes of these changes, as they came."),
        ("conflicts", "Conflicts that they were recorded in."),
        ("parked", "Rows that a constraint refused when they came."),
    )
    for field, text in fields:
        samples = tuple(
            ({"peer": each.name, "node_id": each.node_id}, float(getattr(each, field))) for each in status.accounts
        )
        yield _Metric(f"origin_{field}_total", "counter", text, samples)


def _of_readers(status: Status) -> Iterator[_Metric]:
    named = [({"cursor": reader.cursor, "table": reader.table}, reader) for reader in status.readers]
    behind = tuple((labels, float(reader.behind)) for labels, reader in named)
    yield _Metric("reader_behind_rows", "gauge", "Changes that a reader of the change feed has not passed.", behind)
    late = tuple((labels, reader.behind_s or 0.0) for labels, reader in named)
    yield _Metric("reader_behind_seconds", "gauge", "Age of the first change that a reader has not passed.", late)


def _of_children(status: Status) -> Iterator[_Metric]:
    named = [({"kind": child.kind, "name": child.name}, child) for child in status.children]
    running = tuple((labels, float(child.state == "running")) for labels, child in named)
    yield _Metric("child_running", "gauge", "1 while the process of a section of config.toml does its work.", running)
    starts = tuple((labels, float(child.starts)) for labels, child in named)
    yield _Metric("child_starts_total", "counter", "How often the process was started.", starts)
    figures = tuple(
        ({**labels, "figure": name}, float(value)) for labels, child in named for name, value in child.figures.items()
    )
    yield _Metric("child_figure", "gauge", "A figure that the process reports of itself.", figures)


def _of_mailboxes(status: Status) -> Iterator[_Metric]:
    boxes = [({"mailbox": box.url}, box) for box in status.mailboxes]
    running = tuple((labels, float(box.state == "running")) for labels, box in boxes)
    yield _Metric("mailbox_running", "gauge", "1 while a gateway can use its mailbox.", running)
    appended = tuple((labels, float(box.bytes)) for labels, box in boxes)
    yield _Metric("mailbox_appended_bytes_total", "counter", "Bytes that a gateway has appended.", appended)
    kept = tuple((labels, float(box.kept_bytes)) for labels, box in boxes)
    yield _Metric("mailbox_kept_bytes", "gauge", "Bytes of this node in its mailbox.", kept)
    streams = {(box.url, each.member): each for box in status.mailboxes for each in box.streams}
    named = [({"mailbox": url, "peer": member}, each) for (url, member), each in streams.items()]
    for field, kind, text in (
        ("waiting", "gauge", "Envelopes of another member that were not taken in yet."),
        ("lag_s", "gauge", "By how much the newest of them is younger than the position."),
        ("refused", "counter", "Envelopes of another member that were refused."),
        ("bytes", "counter", "Bytes read of another member."),
    ):
        name = {"waiting": "waiting_envelopes", "lag_s": "lag_seconds"}.get(field, f"{field}_total")
        samples = tuple((labels, float(getattr(each, field))) for labels, each in named)
        yield _Metric(f"mailbox_{'read_' if field == 'bytes' else ''}{name}", kind, text, samples)
    behind = tuple((labels, float(len(each.behind))) for labels, each in named)
    yield _Metric("mailbox_tables_behind", "gauge", "Tables that do not follow another member's changes.", behind)
    proved = tuple((labels, each.proved_s_ago) for labels, each in named if each.proved_s_ago is not None)
    yield _Metric("mailbox_equal_age_seconds", "gauge", "Time since both were last proved equal.", proved)


def _of_traffic(status: Status) -> Iterator[_Metric]:
    named = [({"kind": each.kind, "way": "circuit" if each.in_circuits else "link"}, each) for each in status.traffic]
    for field, text in (
        ("sent_bytes", "Bytes of messages of one kind that were sent, before encryption."),
        ("received_bytes", "Bytes of messages of one kind that arrived."),
        ("sent", "Messages of one kind that were sent."),
        ("received", "Messages of one kind that arrived."),
    ):
        name = field if field.endswith("bytes") else f"{field}_messages"
        samples = tuple((labels, float(getattr(each, field))) for labels, each in named)
        yield _Metric(f"traffic_{name}_total", "counter", text, samples)


def _of_peers(peers: Iterable[PeerView]) -> Iterator[_Metric]:
    named = [({"peer": peer.name, "node_id": peer.node_id}, peer) for peer in peers]
    rtts = tuple((labels, peer.rtt_ms / 1000) for labels, peer in named if peer.rtt_ms is not None)
    yield _Metric("peer_rtt_seconds", "gauge", "Round-trip time to a linked peer.", rtts)
    equal = tuple((labels, float(peer.equal)) for labels, peer in named if peer.equal is not None)
    yield _Metric("peer_equal", "gauge", "1 if a linked peer's tables were equal when last compared.", equal)
    sent = tuple((labels, float(peer.sent_bytes)) for labels, peer in named)
    yield _Metric("peer_sent_bytes_total", "counter", "Bytes sent to a linked peer since the link opened.", sent)
    received = tuple((labels, float(peer.received_bytes)) for labels, peer in named)
    yield _Metric(
        "peer_received_bytes_total", "counter", "Bytes received from a linked peer since the link opened.", received
    )


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
