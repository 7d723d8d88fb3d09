"""The metrics: an independent parser reads them, and the server answers what asks for them and nobody else."""

from __future__ import annotations

import re
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families

from mycomesh.mesh.node.control.metrics import exposition
from mycomesh.mesh.node.status import TroubleView
from tests.mesh.node.control.readings import PEER, STATUS, read


def test_another_program_reads_every_figure():
    found = read(exposition(STATUS))
    assert found["mycomesh_serving",] == 1
    assert found["mycomesh_uptime_seconds",] == 1.5
    assert found["mycomesh_pending_writes",] == 3
    assert found["mycomesh_clock_offset_seconds",] == -0.25
    assert found["mycomesh_certificate_expiry_timestamp_seconds",] == 1_900_000_000
    assert (found["mycomesh_scrub_found_rows",], found["mycomesh_scrub_age_seconds",]) == (4, 2.5)
    assert found["mycomesh_write_lock_held_seconds_max",] == 0.0125
    assert found["mycomesh_peers", ("state", "linked")] == 1
    assert found["mycomesh_peers", ("state", "down")] == 1
    assert found["mycomesh_table_rows", ("table", "drones")] == 7
    assert found["mycomesh_table_conflicts", ("table", "drones")] == 2
    labels = (("node_id", "aa"), ("peer", PEER.name))
    assert found["mycomesh_peer_rtt_seconds", *labels] == 0.0025
    assert found["mycomesh_peer_received_bytes_total", *labels] == 200
    assert [key[0] for key in found if ("node_id", "bb") in key] == ["mycomesh_peer_unseen_seconds"]
    assert found["mycomesh_peer_unseen_seconds", ("node_id", "bb"), ("peer", "charlie")] == 0.01
    assert found["mycomesh_revoked",] == 0
    for field, count in (("rows", 70), ("bytes", 9_000), ("conflicts", 3), ("parked", 2)):
        assert found[f"mycomesh_origin_{field}_total", *labels] == count
    assert found["mycomesh_origin_rows_total", ("node_id", "cc"), ("peer", "")] == 1
    assert found["mycomesh_reader_behind_rows", ("cursor", "pager"), ("table", "alerts")] == 5
    assert found["mycomesh_reader_behind_seconds", ("cursor", "pager"), ("table", "alerts")] == 2.5
    assert found["mycomesh_reader_behind_seconds", ("cursor", "old"), ("table", "t")] == 0


def test_names_and_units_are_as_prometheus_wants_them():
    families = list(text_string_to_metric_families(exposition(STATUS)))
    assert families
    for family in families:
        assert re.fullmatch(r"mycomesh_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("gauge", "counter")


def test_what_is_not_known_is_left_out():
    found = read(exposition(replace(STATUS, clock_offset_ms=None, not_after_s=0, peers=(), tables=())))
    assert not [name for name, *_ in found if "offset" in name or "expiry" in name or "_table_" in name]


def test_a_full_disk_and_a_lock_are_figures():
    trouble = TroubleView("disk.low", "the disk is full except for 0.1 MB", 43_000)
    text = exposition(replace(STATUS, trouble=trouble, free_bytes=100_000))
    assert read(text)
    assert "\nmycomesh_database_writable 0\n" in text
    assert '\nmycomesh_database_trouble_seconds{code="disk.low"} 43\n' in text
    assert "\nmycomesh_disk_free_bytes 100000\n" in text
    assert "\nmycomesh_database_writable 1\n" in exposition(STATUS)
