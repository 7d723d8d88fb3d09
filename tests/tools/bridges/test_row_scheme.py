"""Rows that wait for their commit: the latest of a thing, each of a track, limits, and drops that are counted."""

from __future__ import annotations

import asyncio
import sqlite3

import pytest

from mycomesh.tools.bridges import row_scheme
from mycomesh.tools.bridges.mavlink import MavlinkScheme
from mycomesh.tools.bridges.receivers import SbsScheme
from mycomesh.tools.bridges.row_scheme import EVERY_MS_MAX, WAITING_MAX, Collector, schema_of
from mycomesh.tools.bridges.scheme import LinkError, Options, SchemeError
from mycomesh.tools.vehicles.rows import KEYS, TYPES, Row


def vehicle(sysid, **values):
    return Row("vehicles", {"source": "a", "sysid": sysid, "compid": 1, **values})


def taken(collector, most=500):
    return [arrival.values for arrival in asyncio.run(collector.take(most))]


def test_latest_row_of_a_thing_replaces_earlier_ones():
    collector = Collector()
    for lat in range(5):
        collector.put("vehicles", vehicle(1, lat=lat))
        collector.put("vehicles", vehicle(2, lat=lat))
        collector.put("track", Row("track", {"boot_ms": lat}))
    found = taken(collector)
    assert [values["lat"] for values in found[:2]] == [4, 4]
    assert [values["boot_ms"] for values in found[2:]] == [0, 1, 2, 3, 4]


def test_rows_beyond_the_limit_are_dropped_and_counted():
    collector = Collector()
    for number in range(WAITING_MAX + 3):
        collector.put("track", Row("track", {"boot_ms": number}))
    for number in range(WAITING_MAX + 2):
        collector.put("vehicles", vehicle(number))
    collector.put("vehicles", vehicle(0, lat=7))
    assert collector.dropped == 5
    found = []
    while collector._each or collector._latest:
        found += taken(collector, 5_000)
    assert len(found) == 2 * WAITING_MAX
    assert found[0]["lat"] == 7


def test_rows_that_wait_go_before_an_error():
    collector = Collector()
    collector.put("track", Row("track", {"boot_ms": 1}))
    collector.fail("unplugged")
    assert taken(collector) == [{"boot_ms": 1}]
    with pytest.raises(LinkError, match="unplugged"):
        taken(collector)


def test_scheme_counts_what_it_drops(monkeypatch):
    monkeypatch.setattr(row_scheme, "WAITING_MAX", 2)
    counted = []

    async def run():
        options = Options(
            "sbs://localhost", "air", incoming=("aircraft",), count=lambda name, more: counted.append((name, more))
        )
        scheme = SbsScheme(options)
        scheme.put(Row("aircraft", {"icao24": str(number)}) for number in range(5))
        scheme.put([Row("ships", {"mmsi": 1})])
        scheme.count_drops(7)
        return await scheme.receive()

    assert [arrival.values["icao24"] for arrival in asyncio.run(run())] == ["0", "1"]
    assert counted == [("dropped", 3), ("dropped", 7)]


@pytest.mark.parametrize(
    ("url", "topics", "more", "said"),
    [
        ("mavlink://udpin:0.0.0.0:14550", ("drones",), {}, "no topic 'drones'; its topics are vehicles, track, texts"),
        ("mavlink://udpin:0.0.0.0:1455x", (), {}, "write mavlink://udpin:0.0.0.0:14550 or mavlink://udpout:HOST:14550 or mavlink://tcp"),
        ("mavlink://udpin:0.0.0.0:99999", (), {}, "not an address"),
        ("mavlink:///dev/ttyACM0?baud=57601", (), {}, "no serial line has baud=57601"),
        ("mavlink://udpin:0.0.0.0:14550", (), {"every_ms": EVERY_MS_MAX + 1}, "every_ms must be 0..60,000"),
    ],
)  # fmt: skip
def test_wrong_sections_are_refused_in_one_line(url, topics, more, said):
    with pytest.raises(SchemeError) as refused:
        MavlinkScheme.check(Options(url, "fc", incoming=topics, more=more))
    assert said in str(refused.value)
    MavlinkScheme.check(Options("mavlink:///dev/ttyACM0", "fc", incoming=("track",), more={"every_ms": EVERY_MS_MAX}))


def test_schemas_make_tables_for_all_their_rows():
    db = sqlite3.connect(":memory:")
    for kind, sql in schema_of({kind: kind for kind in TYPES}).items():
        db.execute(sql.replace("{table}", f'"t {kind}"'))
        columns = db.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (f"t {kind}",)).fetchall()
        assert [name for (name,) in columns] == list(TYPES[kind])
        assert set(KEYS[kind]) <= set(TYPES[kind])
    db.close()
