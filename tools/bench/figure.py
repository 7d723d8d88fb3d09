"""The catalogue of benchmark figures: each one's name, unit, baseline and goal.

Invariant: every measured figure is in the catalogue, so the table explains every name that `--json` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["CATALOGUE", "Figure", "Kind", "measured"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of figure. The value should be at most `goal`, or at least `goal` if `more` is set."""

    name: str
    suite: str
    unit: str
    what: str
    baseline: str = ""
    goal: float | None = None
    more: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value of one kind."""

    kind: Kind
    value: float

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None for a figure without a goal."""
        if self.kind.goal is None:
            return None
        return self.value >= self.kind.goal if self.kind.more else self.value <= self.kind.goal

    def plain(self) -> dict[str, Any]:
        """Return the JSON form: value, unit, and for a ratio its baseline."""
        result: dict[str, Any] = {"value": round(self.value, 4), "unit": self.kind.unit}
        return {**result, "baseline": self.kind.baseline} if self.kind.baseline else result


_PLAIN = "the same job on a plain SQLite file, CPU time"

CATALOGUE = {
    kind.name: kind
    for kind in (
        Kind("capture_insert_bulk", "capture", "ratio", "100k inserts in one transaction", _PLAIN, 2.0),
        Kind("capture_insert_bulk_id", "capture", "ratio", "the same with an INTEGER PRIMARY KEY", _PLAIN, 2.0),
        Kind("capture_insert_bulk_name", "capture", "ratio", "the same with a TEXT PRIMARY KEY", _PLAIN, 2.0),
        Kind("capture_insert_single", "capture", "ratio", "2k transactions of one insert", _PLAIN, 1.5),
        Kind("capture_update_bulk", "capture", "ratio", "one column of 100k rows updated", _PLAIN, 3.5),
        Kind("capture_update_bulk_tag", "capture", "ratio", "the same beside a UNIQUE column", _PLAIN, 3.5),
        Kind("drain_rows_per_s", "pipeline", "rows/s", "inserts stamped, one core", goal=150_000, more=True),
        Kind("merge_rows_per_s", "pipeline", "rows/s", "inserts merged, one core", goal=120_000, more=True),
        Kind("drain_update_rows_per_s", "pipeline", "rows/s", "one-column updates stamped, one core"),
        Kind("merge_update_rows_per_s", "pipeline", "rows/s", "one-column updates merged, one core"),
        Kind("drain_counter_rows_per_s", "pipeline", "rows/s", "the same updates of a counter stamped, one core"),
        Kind("merge_counter_rows_per_s", "pipeline", "rows/s", "the same updates of a counter merged, one core"),
        Kind("insert_us_per_row", "edits", "us", "an insert written, stamped and merged, CPU time", goal=10),
        Kind("update_us_per_row", "edits", "us", "the same of an update of one column", goal=15),
        Kind("update_again_us_per_row", "edits", "us", "the same of a second update of that column", goal=15),
        Kind("delete_us_per_row", "edits", "us", "the same of a delete", goal=12),
        Kind(
            "update_key_ratio", "edits", "ratio", "an update of a table with a TEXT key", "one with an integer key", 3
        ),
        Kind("count_ratio", "edits", "ratio", "a count of a counter", "an update of a plain column", 1.5),
        Kind("conflict_ratio", "edits", "ratio", "an update of a row that another node updates", "a plain update", 3),
        Kind("parked_ratio", "edits", "ratio", "an insert that UNIQUE refuses", "an insert that it takes", 3),
        Kind("wire_bytes_per_row", "pipeline", "bytes", "a five-column insert in a batch"),
        Kind(
            "pipeline_ratio",
            "pipeline",
            "ratio",
            "added cost of capture, drain and merge of 100k rows",
            "SELECT -> CBOR -> INSERT, CPU time",
            4.0,
        ),
        Kind("file_ratio", "file", "ratio", "file of 100k five-column rows", "the plain file", 1.8),
        Kind("file_used_ratio", "file", "ratio", "the same without the pages that SQLite will reuse", "the plain file"),
        Kind("open_1m_rows_s", "open", "s", "open a file of a million rows, until its digests are ready", goal=2.0),
        Kind(
            "lock_held_ms",
            "bulk",
            "ms",
            "longest time that a node held the write lock while it takes in, serves, merges, drains and scrubs 1M rows",
            goal=50,
        ),
        Kind(
            "lock_max_ms",
            "bulk",
            "ms",
            "longest wait of a stock client for the write lock while nodes take in, serve, merge, drain and scrub 1M rows",
            goal=50,
        ),
        Kind(
            "bulk_1m_rss_mb",
            "bulk",
            "MB",
            "peak growth of the larger of both nodes while a transaction of 1M updates is captured and merged",
            goal=64,
        ),
        Kind(
            "equal_bytes_per_table",
            "rounds",
            "bytes",
            "bytes that a replica sends to an equal one, for each table",
            goal=64,
        ),
        *(
            Kind(
                f"heal_bytes_ratio_{name}",
                "rounds",
                "ratio",
                f"{shared} shared rows, 1k new on each side, 1k updated: all bytes until both are equal",
                "the new values, encoded",
                1.15,
            )
            for name, shared in (("10k", "10k"), ("100k", "100k"), ("1m", "a million"))
        ),
        Kind("heal_round_trips", "rounds", "trips", "the most of these, from the opening of the link", goal=2),
        Kind(
            "digest_us_per_row",
            "upkeep",
            "us",
            "CPU to maintain the digests, for each inserted row of a large batch",
            goal=3,
        ),
        Kind("digest_us_per_update", "upkeep", "us", "the same, for each update of one column (two entries)", goal=3),
        Kind(
            "repair_bytes_d1",
            "repair",
            "bytes",
            "to find 1 lost entry of a million, without its row, the median of three draws",
            goal=1_400,
        ),
        Kind("repair_bytes_d100", "repair", "bytes", "to find 100 of a million", goal=3_000),
        Kind("repair_bytes_d1000", "repair", "bytes", "to find 1,000 of a million", goal=25_000),
        Kind("repair_bytes_d10000", "repair", "bytes", "to find 10,000 of a million", goal=250_000),
        Kind("repair_round_trips", "repair", "trips", "the most of these, until the rows arrive", goal=4),
        Kind("handshake_ms", "crypto", "ms", "CPU of one side until the link is up, certificates checked", goal=5.0),
        Kind(
            "transport_ratio",
            "crypto",
            "ratio",
            "bytes sealed a second, 16 KiB frames",
            "libsodium's ChaCha20-Poly1305",
            0.5,
            more=True,
        ),
        Kind(
            "link_throughput_ratio",
            "crypto",
            "ratio",
            "bytes a second of a link's slower side, messages of a catch-up",
            "libsodium's ChaCha20-Poly1305, 64 KiB frames",
            0.5,
            more=True,
        ),
        Kind(
            "plug_in_s", "plug", "s", "from plugging in a drone with an empty file until it equals the others", goal=2.0
        ),
        Kind(
            "adopt_rows_per_cpu_s",
            "adopt",
            "rows/s",
            "500k existing rows taken in beside 20 writes a second, for each second of CPU, with the start",
            goal=60_000,
            more=True,
        ),
        Kind("adopt_packed_percent", "adopt", "%", "of these rows, packed in the change log", goal=99, more=True),
        Kind("adopt_status_ms", "adopt", "ms", "the longest answer of `status` meanwhile", goal=1_000),
        Kind("adopt_wait_ms", "adopt", "ms", "the longest wait of a write meanwhile", goal=50),
        Kind("adopt_file_ratio", "adopt", "ratio", "the file afterwards", "the file before", 1.3),
        Kind("retain_us_per_row", "retain", "us", "CPU to remove a row of a million that are too old", goal=20),
        Kind("retain_lock_ms", "retain", "ms", "longest hold of the write lock meanwhile, CPU time", goal=25),
        Kind(
            "retain_freed_percent",
            "retain",
            "%",
            "of the file given back afterwards, with auto_vacuum = INCREMENTAL",
            goal=90,
            more=True,
        ),
        Kind(
            "area_bytes_ratio",
            "areas",
            "ratio",
            "all that a drone of 20 receives until it has the rows of its area",
            "these rows, encoded",
            1.2,
        ),
        Kind("area_file_growth", "areas", "ratio", "the file of a drone of 20", "of a drone of 5", 1.05),
        Kind("area_rss_growth", "areas", "ratio", "resident memory of a drone of 20", "of a drone of 5", 1.05),
        Kind("area_fetched_growth", "areas", "ratio", "what a drone of 20 receives at first", "a drone of 5", 1.2),
        Kind("area_idle_bytes_per_s", "areas", "bytes", "received a second by a drone of 20 at rest"),
        Kind("area_writing_bytes_per_s", "areas", "bytes", "the same while each drone writes two rows a second"),
        Kind(
            "area_whole_bytes_ratio",
            "areas",
            "ratio",
            "what a drone of 20 receives at first if it keeps all rows",
            "only its own",
            more=True,
        ),
        Kind("area_whole_file_ratio", "areas", "ratio", "the file of that drone", "with its own rows", more=True),
        *(
            Kind(
                f"drones_{count}_ratio",
                "drones",
                "ratio",
                f"all that a drone of a simulated fleet of {count} receives until 20 s after it has the rows of its area",
                "these rows, encoded",
                1.2 if count <= 20 else None,
            )
            for count in (5, 10, 20, 40)
        ),
        *(
            kind
            for count in (5, 10, 20, 40)
            for kind in (
                Kind(f"drones_{count}_idle", "drones", "bytes", f"received a second by a drone of {count} at rest"),
                Kind(
                    f"drones_{count}_writing",
                    "drones",
                    "bytes",
                    f"the same while each of {count} writes two rows a second",
                ),
            )
        ),
        Kind(
            "spread_rows_per_s",
            "spread",
            "rows/s",
            "a transaction of 100k rows, from its BEGIN until the other node's file has them",
            goal=120_000,
            more=True,
        ),
        Kind("spread_here_us", "spread", "us", "CPU a row of that in the node that sends"),
        Kind("spread_there_us", "spread", "us", "CPU a row of that in the node that receives"),
        Kind(
            "mailbox_bytes",
            "mailbox",
            "ratio",
            "a parcel with 100k rows on a stick",
            "the bytes of the same first catch-up over a link",
            1.2,
        ),
        Kind(
            "mailbox_rows_per_s",
            "mailbox",
            "rows/s",
            "an empty node imports that parcel, by its CPU time",
            goal=50_000,
            more=True,
        ),
        Kind(
            "mailbox_nats_rows_per_s",
            "mailbox",
            "rows/s",
            "the same from a leaf of JetStream",
            goal=50_000,
            more=True,
        ),
        Kind("mailbox_s3_rows_per_s", "mailbox", "rows/s", "the same from a bucket", goal=50_000, more=True),
        Kind(
            "mailbox_sync_rows_per_s",
            "mailbox",
            "rows/s",
            "an empty gateway fills itself from a directory, by the clock",
            goal=50_000,
            more=True,
        ),
        Kind("mailbox_far_ms", "mailbox", "ms", "append at a leaf until listed at another leaf, p50", goal=50),
        Kind(
            "mailbox_nats_mb",
            "mailbox",
            "MB",
            "an idle client of JetStream, beyond a node's modules, before it gives back what it read",
        ),
        Kind(
            "mailbox_s3_mb",
            "mailbox",
            "MB",
            "an idle client of a bucket, beyond a node's modules, before it gives back what it read",
        ),
        Kind(
            "gateway_dir_ms",
            "mailbox",
            "ms",
            "a lone write, commit until visible in the other base, by a directory, p50",
            goal=2000,
        ),
        Kind("gateway_dir_busy_ms", "mailbox", "ms", "the slowest of 20 writes a second, likewise", goal=2000),
        Kind(
            "gateway_nats_ms",
            "mailbox",
            "ms",
            "a lone write, commit until visible in the other base, by leaves on the loopback, p50",
            goal=50,
        ),
        Kind("gateway_nats_busy_ms", "mailbox", "ms", "the slowest of 20 writes a second, likewise"),
        Kind(
            "gateway_dir_mb",
            "mailbox",
            "MB",
            "resident memory of an idle gateway of a directory, beyond an idle node",
            goal=8,
        ),
        Kind("gateway_dir_cpu_percent", "mailbox", "%", "CPU of that, beyond an idle node", goal=0.1),
        Kind(
            "gateway_nats_mb",
            "mailbox",
            "MB",
            "resident memory of an idle gateway of a leaf, beyond an idle node",
            goal=8,
        ),
        Kind("gateway_nats_cpu_percent", "mailbox", "%", "CPU of that, beyond an idle node", goal=0.1),
        Kind(
            "gateway_s3_mb",
            "mailbox",
            "MB",
            "resident memory of an idle gateway of a bucket, beyond an idle node",
            goal=8,
        ),
        Kind("gateway_s3_cpu_percent", "mailbox", "%", "CPU of that, beyond an idle node", goal=0.1),
        Kind("start_ms", "node", "ms", "`mycomesh up` until it serves an empty file", goal=300),
        Kind("start_cpu_ms", "node", "ms", "CPU of that", goal=300),
        Kind("catch_up_rows_per_s", "node", "rows/s", "an empty peer catches up, loopback", goal=80_000, more=True),
        Kind("catch_up_rss_mb", "node", "MB", "peak growth of the larger of both nodes meanwhile", goal=40),
        Kind("latency_p50_ms", "node", "ms", "a single write, commit on A to visible on B, loopback", goal=5),
        Kind("latency_p99_ms", "node", "ms", "the same, the slowest of a hundred", goal=30),
        Kind("idle_rss_mb", "node", "MB", "resident memory of a node at rest with 100k rows", goal=38),
        Kind("idle_cpu_percent", "node", "%", "of one core, the same node, linked", goal=0.08),
        Kind("idle_link_bytes_per_s", "node", "bytes", "both ways with headers, its link at rest", goal=150),
        Kind("rejoin_ms", "node", "ms", "from `rejoin` until a row that was written meanwhile is here", goal=50),
        Kind("status_ms", "node", "ms", "`mycomesh status --json`", goal=150),
        Kind("feed_changes_per_s", "feed", "rows/s", "changes of a table read into Python", goal=60_000, more=True),
        Kind(
            "feed_polling_ratio",
            "feed",
            "ratio",
            "1,000 changes of a million rows by SELECT ... WHERE at > ?",
            "the same changes by the feed, CPU time",
            5.0,
            more=True,
        ),
        Kind("web_page_kb", "web", "kB", "page, scripts, style and land map of the console, compressed", goal=250),
        Kind("web_idle_rss_mb", "web", "MB", "resident memory of a console that nobody looks at"),
        Kind("web_100_clients_mb", "web", "MB", "what 100 streams of events add to it", goal=30),
        Kind(
            "web_moving_cpu_percent",
            "web",
            "%",
            "of a core, in the console while 10,000 points move once a second",
            goal=10,
        ),
        Kind(
            "web_frames_per_s",
            "web",
            "frames/s",
            "the same points while the map is dragged, drawn in software",
            goal=15,
            more=True,
        ),
        Kind("web_pixel_p50_ms", "web", "ms", "a program's commit to the moved point on the screen", goal=100),
        Kind(
            "web_peer_pixel_p50_ms",
            "web",
            "ms",
            "a commit on one node to the moved point on the screen beside another",
            goal=100,
        ),
        Kind("feed_latency_p50_ms", "feed", "ms", "a program's commit to the change in a reader's hands", goal=3),
        Kind("feed_latency_p99_ms", "feed", "ms", "the same, the slowest of a hundred"),
        Kind(
            "bridge_rows_per_s",
            "bridges",
            "rows/s",
            "rows out to NATS, a second of CPU of the busiest process (node, bridge, server)",
            goal=15_000,
            more=True,
        ),
        Kind("bridge_rows_per_s_wall", "bridges", "rows/s", "the same by the clock, beside whatever else runs"),
        Kind(
            "bridge_polling_ratio",
            "bridges",
            "ratio",
            "a program that selects new rows and publishes each, its CPU and the server's for a row",
            "the busiest process of the bridge",
            3.0,
            more=True,
        ),
        Kind(
            "flow_rows_per_s",
            "flows",
            "rows/s",
            "rows through the SQL of a flow, CPU of its process or the node",
            goal=50_000,
            more=True,
        ),
        Kind("flow_rows_per_s_all", "flows", "rows/s", "the same, CPU of both together", more=True),
        Kind(
            "flow_by_hand_ratio",
            "flows",
            "",
            "the CPU of both over that of one INSERT by hand and its capture",
            goal=1.5,
        ),
        Kind("flow_latency_p50_ms", "flows", "ms", "a program's commit to the result in the file", goal=10),
        Kind(
            "model_batch_ratio",
            "models",
            "",
            "a page of rows through a worker with a network of 280,000 weights; the bare runtime on the same rows is 1",
            goal=1.3,
        ),
        Kind("model_us_per_row", "models", "us", "the same, microseconds of a row"),
        Kind("model_small_ratio", "models", "", "the same with the bundled model of 100 weights"),
        Kind("model_small_us_per_row", "models", "us", "the same, microseconds of a row"),
        Kind("bridge_latency_p50_ms", "bridges", "ms", "a program's commit to the message at the broker", goal=5),
        Kind(
            "bridge_rss_mb", "bridges", "MB", "memory of a bridge beyond a program that has the client alone", goal=15
        ),
        Kind(
            "vehicle_rows_per_s", "vehicles", "rows/s", "positions of MAVLink, for each second of the busiest process"
        ),
        Kind("vehicle_messages_per_s", "vehicles", "messages/s", "messages of MAVLink, for each second of the bridge"),
        Kind("vehicle_dropped", "vehicles", "messages", "dropped of 80,000 from 50 vehicles at 2,000 a second", goal=0),
        Kind("vehicle_start_mb", "vehicles", "MB", "memory of a bridge of MAVLink before the first message"),
        Kind(
            "vehicle_rss_mb",
            "vehicles",
            "MB",
            "memory of it after all, beyond a program with the dialect alone",
            goal=15,
        ),
        Kind("layout_ms", "screens", "ms", "CPU to place 200 nodes on the map after a link has changed", goal=50),
        Kind("redraw_ms", "screens", "ms", "CPU to draw them, 200 x 60 characters", goal=50),
        Kind("world_50_cpu_s", "worlds", "s", "CPU of 50 simulated nodes, 10 virtual minutes with a split", goal=30),
        Kind("world_50_event_ms", "worlds", "ms", "CPU for each event of it"),
        Kind("world_200_cpu_s", "worlds", "s", "CPU of 200 simulated nodes, a virtual minute with a split", goal=180),
        Kind("world_200_event_ms", "worlds", "ms", "CPU for each event of it (flat if equal to the one at 50 nodes)"),
    )
}


def measured(**values: float) -> dict[str, Figure]:
    """Return figures by name; every name must be in the catalogue."""
    return {name: Figure(CATALOGUE[name], value) for name, value in values.items()}
