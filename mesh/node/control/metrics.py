"""The state of a node as Prometheus reads it: the text exposition format, version 0.0.4.

Owns names, types and help texts of the metrics. What always holds: a figure that is not known is left out. It must not know
how the figures come about, nor who asks for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    what: str
    samples: tuple[Sample, ...]


def exposition(status: Status) -> str:
    """Return every metric of a node as lines, `# HELP` and `# TYPE` before each; seconds and bytes as units."""
    lines: list[str] = []
    for metric in _metrics(status):
        if metric.samples:
            name = PREFIX + metric.name
            lines += [f"# HELP {name} {metric.what}", f"# TYPE {name} {metric.kind}"]
            lines += [f"{name}{_labels(labels)} {value:.17g}" for labels, value in metric.samples]
    return "\n".join([*lines, ""])


def _metrics(status: Status) -> Iterator[_Metric]:
    node = {"version": status.version, "mesh": status.mesh, "node": status.node, "phase": status.phase}
    yield _Metric("info", "gauge", "What this node is; always 1.", ((node, 1.0),))
    yield _Metric("serving", "gauge", "1 while the file is served.", (({}, float(status.phase == "serving")),))
    yield _Metric("uptime_seconds", "gauge", "Since the process began.", (({}, status.uptime_ms / 1000),))
    yield _Metric("pending_writes", "gauge", "Captured writes without a stamp yet.", (({}, float(status.pending)),))
    held: tuple[Sample, ...] = (({}, status.lock_held_ms / 1000),)
    yield _Metric("write_lock_held_seconds_max", "gauge", "The longest hold of the file's write lock so far.", held)
    offset: tuple[Sample, ...] = () if status.clock_offset_ms is None else (({}, status.clock_offset_ms / 1000),)
    yield _Metric("clock_offset_seconds", "gauge", "Mesh time minus this node's clock.", offset)
    if status.not_after_s:
        what = "Unix time at which this node's certificate expires."
        yield _Metric("certificate_expiry_timestamp_seconds", "gauge", what, (({}, float(status.not_after_s)),))
    if status.scrub is not None:
        found = float(status.scrub.found)
        yield _Metric("scrub_found_rows", "gauge", "Rows that the last scrub found not captured.", (({}, found),))
        ago = status.scrub.ended_ms_ago / 1000
        yield _Metric("scrub_age_seconds", "gauge", "Since the last scrub came to its end.", (({}, ago),))
    states = ("linked", "reachable", "down")
    counted = tuple(({"state": state}, float(sum(peer.state == state for peer in status.peers))) for state in states)
    yield _Metric("peers", "gauge", "Other members by state.", counted)
    yield from _of_tables(status)
    yield from _of_peers([peer for peer in status.peers if peer.state == "linked"])


def _of_tables(status: Status) -> Iterator[_Metric]:
    fields = (
        ("rows", "Rows of a table."),
        ("conflicts", "Writes of a table that lost to others and are kept."),
        ("parked", "Rows of peers that a table refuses."),
    )
    for field, what in fields:
        samples = tuple(({"table": table.name}, float(getattr(table, field))) for table in status.tables)
        yield _Metric(f"table_{field}", "gauge", what, samples)


def _of_peers(peers: Iterable[PeerView]) -> Iterator[_Metric]:
    named = [({"peer": peer.name, "node_id": peer.node_id}, peer) for peer in peers]
    rtts = tuple((labels, peer.rtt_ms / 1000) for labels, peer in named if peer.rtt_ms is not None)
    yield _Metric("peer_rtt_seconds", "gauge", "Round trip to a linked peer.", rtts)
    equal = tuple((labels, float(peer.equal)) for labels, peer in named if peer.equal is not None)
    yield _Metric("peer_equal", "gauge", "1 if a linked peer's tables were equal when last compared.", equal)
    sent = tuple((labels, float(peer.sent_bytes)) for labels, peer in named)
    yield _Metric("peer_sent_bytes_total", "counter", "To a linked peer since its link stands.", sent)
    received = tuple((labels, float(peer.received_bytes)) for labels, peer in named)
    yield _Metric("peer_received_bytes_total", "counter", "From a linked peer since its link stands.", received)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(value)}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
