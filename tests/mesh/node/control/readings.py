"""A status with every figure, and a reader of what Prometheus reads."""

from __future__ import annotations

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from mycomesh.mesh.node.status import (
    SCHEMA,
    AccountView,
    AreaView,
    ChildView,
    MailboxView,
    PeerView,
    ReaderView,
    ScrubView,
    Status,
    StreamView,
    TableView,
    TrafficView,
)

PEER = PeerView("aa", 'bra"vo\\\n', ("member",), "linked", "192.0.2.1:1", 2.5, None, True, 10, 100, 200)
STREAM = StreamView("bravo", "south", "aa", 9, 3, 1.5, 700, 4, 1, 2, "a hole", ("drones",), 60.0)
STATUS = Status(
    schema=SCHEMA,
    version="1",
    phase="serving",
    mesh="fleet",
    mesh_id="00",
    node="alpha",
    node_id="01",
    pid=1,
    uptime_ms=1_500,
    file="fleet.db",
    port=1,
    site="02",
    pending=3,
    hint="",
    clock_offset_ms=-250.0,
    peers=(PEER, replace(PEER, node_id="bb", name="charlie", state="down")),
    tables=(TableView("drones", 7, "00", 2, 1, "", None, "2026-11-24T00:00:00+00:00", 5, 3),),
    areas=(
        AreaView("drones", "7", True, 12, "00", 1, 1, 1, 2, (("ab" * 8, 12),)),
        AreaView("drones", "8", False, 0, "00", 0, 0, 2, 2),
    ),
    not_after_s=1_900_000_000,
    traffic=(TrafficView("Digests", False, 1, 90, 2, 180), TrafficView("rest", True, 0, 500, 0, 600)),
    scrub=ScrubView(2_500, 4, ("drones",)),
    lock_held_ms=12.5,
    accounts=(AccountView("aa", 'bra"vo\\\n', 70, 9_000, 3, 2, "2026-12-01"), AccountView("cc", "", 1, 8, 0, 0, "")),
    readers=(
        ReaderView("pager", "alerts", 5, 2.5, "2026-12-01", False),
        ReaderView("old", "t", 0, None, "2026-01-01", True),
    ),
    children=(ChildView("bridge", "ground", "running", "", 7, 2, {"sent": 12}),),
    mailboxes=(MailboxView("dir:/share", "north", "running", "", 5, 900, 1, 800, (STREAM,)),),
)


def read(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
