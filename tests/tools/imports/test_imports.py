"""`mycomesh import`: the rows of each kind of file, repeated and cut off imports, and what is said of a bad file."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

from mycomesh.tools import exits
from mycomesh.tools.commands.importing import READERS
from mycomesh.tools.imports import table_writer, text_files
from mycomesh.tools.manual import MANUAL
from tests.integration.machines import MYCOMESH, ROOT, Machine
from tests.tools.imports.made import GPS_FIELDS, flown, ulog
from tests.tools.test_manual import fault, said
from tests.tools.vehicles.recorded import flight

NMEA = """\
$GPGGA,123518.00,4807.038,N,01131.000,E,0,00,,,M,,M,,*5E
$GPGGA,123519.00,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*69
$GPRMC,123519.00,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*44
$GPRMC,123520.00,A,4807.040,N,01131.000,E,022.4,084.4,230394,003.1,W*00
$GPGGA,123521.00,4807.042,N,01131.000,E,1,08,0.9,545.9,M,46.9,M,,*61
"""


@pytest.fixture
def place(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "fleet.db")) as db:
        db.execute("CREATE TABLE drones(id TEXT PRIMARY KEY, lat REAL, lon REAL)")
    return tmp_path


def imported(place, name, data, table="t", *options, code=exits.DONE):
    """Import bytes under a file name; return what it says."""
    path = place / name
    if data is not None:
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    got, out, err = said(place / "home", "import", str(path), table, "--file", str(place / "fleet.db"), *options)
    assert (got, out) == (code, out), err
    return out + err


def select(place, sql):
    with contextlib.closing(sqlite3.connect(place / "fleet.db")) as db:
        return db.execute(sql).fetchall()


def checksummed(lines):
    def one(line):
        body = line.partition("*")[0][1:]
        total = 0
        for char in body.encode():
            total ^= char
        return f"${body}*{total:02X}\n"

    return "".join(map(one, lines.splitlines()))


def test_telemetry_becomes_positions_or_messages(place):
    assert imported(place, "f.tlog", flight()) == "f.tlog: 115 rows into t\n"
    assert imported(place, "g.tlog", flight()) == "g.tlog: 0 rows into t, 115 were there\n"
    [(at, lat, fix)] = select(place, "SELECT min(at), round(avg(lat), 2), min(fix) FROM t")
    assert (at // 1_000, lat, fix) == (1437196281, -35.21, 3)
    text = imported(place, "f.tlog", None, "m", "--messages", "all")
    assert len(text.splitlines()) == 9
    tables = [
        name for (name,) in select(place, "SELECT name FROM sqlite_master WHERE name GLOB 'm_*' AND type = 'table'")
    ]
    assert sum(select(place, f"SELECT count(*) FROM {name}")[0][0] for name in tables) == 844
    assert "m_attitude" in imported(place, "f.tlog", None, "m", "--messages", "ATTITUDE,HEARTBEAT")
    assert select(place, "SELECT count(*), typeof(pitch) FROM m_attitude") == [(114, "real")]


def test_damaged_telemetry_is_passed_over_and_counted(place):
    data = flight()
    broken = data[:5_000] + bytes(100) + data[5_100:-7]
    text = imported(place, "f.tlog", broken)
    assert "damaged bytes passed over, the first at byte" in text
    assert 105 <= select(place, "SELECT count(*) FROM t")[0][0] < 115
    text = imported(place, "g.tlog", os.urandom(20_000), code=exits.FAILED)
    assert text.endswith("no MAVLink telemetry in its first bytes; is it a .tlog? [import.file]\n")
    assert "the file is empty" in imported(place, "h.tlog", b"", code=exits.FAILED)


def test_dataflash_becomes_positions_with_fix(place):
    assert imported(place, "f.bin", flown(50)) == "f.bin: 48 rows into t\n"
    assert select(place, "SELECT n, vehicle, lat, climb_mps FROM t ORDER BY n LIMIT 1") == [
        (4, "gps0", -34.9999998, 0.5)
    ]
    assert imported(place, "f.bin", None, "f", "--messages", "GPS") == "f.bin: 50 rows into f_gps\n"
    assert "no position with a 3D fix" in imported(place, "g.bin", flown(20, fix=2))
    assert "no DataFlash log begins so" in imported(place, "h.bin", b"x" * 900, code=exits.FAILED)


def test_ulog_is_keyed_by_number_and_not_by_time(place):
    repeated = [(5_000, 0, 0, 0, 0, 0.0, 0, 0)] + [
        (9_000_000 - at % 3, 1_700_000_000_000_000 + 9_000_000, 473_000_000, 85_000_000 + at, 500_000, 3.0, 3, 9)
        for at in range(10)
    ]
    second = [(7, 0, 473_000_000, 85_000_000, 400_000, 1.0, 3, 7)]
    battery = [("uint64_t", "timestamp"), ("float", "voltage_v")]
    data = ulog(
        [
            ("vehicle_gps_position", 0, GPS_FIELDS, repeated),
            ("vehicle_gps_position", 1, GPS_FIELDS, second),
            ("battery_status", 0, battery, [(5, 12.5), (5, float("nan"))]),
        ]
    )
    assert imported(place, "f.ulg", data) == "f.ulg: 11 rows into t\n"
    assert select(place, "SELECT vehicle, count(*), min(at) FROM t GROUP BY 1") == [
        ("gps0", 10, 1_700_000_008_999),
        ("gps1", 1, 1_700_000_000_000),
    ]
    assert "11 were there" in imported(place, "f.ulg", None)
    imported(place, "f.ulg", None, "u", "--messages", "battery_status")
    assert select(place, "SELECT n, instance, timestamp, voltage_v FROM u_battery_status ORDER BY n") == [
        (0, 0, 5, 12.5),
        (1, 0, 5, None),
    ]
    assert "whole .ulg" in imported(place, "g.ulg", data[:10], code=exits.FAILED)


def test_nmea_sentences_of_one_time_are_one_position(place):
    assert imported(place, "f.nmea", checksummed(NMEA)) == "f.nmea: 3 rows into t\n"
    assert select(place, "SELECT at, lat, alt_m, speed_mps, satellites FROM t ORDER BY n") == [
        (764426119000, 48.1173, 545.4, 11.524, 8),
        (764426120000, pytest.approx(48.1173333), None, 11.524, None),
        (764426121000, pytest.approx(48.1173667), 545.9, None, 8),
    ]
    text = imported(place, "g.nmea", checksummed(NMEA).replace("022.4", "022.5", 1), "g")
    assert "1 damaged line passed over, the first at line 3" in text
    assert "no NMEA sentence in 2 lines" in imported(place, "h.nmea", "hello\nworld\n", code=exits.FAILED)


def test_csv_columns_take_types_of_their_values(place):
    data = "\ufeffname;count;height;code;none\nalpha;1;1;007;\nbeta;-2;2.5e1;42;\n"
    assert imported(place, "f.csv", data) == "f.csv: 2 rows into t\n"
    assert select(place, "SELECT name, count, height, code, none FROM t ORDER BY n") == [
        ("alpha", 1, 1.0, "007", None),
        ("beta", -2, 25.0, "42", None),
    ]
    assert imported(place, "f.csv.gz", gzip.compress(data.encode()), "z") == "f.csv.gz: 2 rows into z\n"
    imported(place, "f.csv", None, "k", "--key", "name")
    assert select(place, "SELECT name FROM pragma_table_info('k') WHERE pk") == [("name",)]


def test_rows_enter_existing_table_by_its_key(place):
    assert imported(place, "f.csv", "id,lat,lon\nd1,1,2\nd2,3,4\n", "drones") == "f.csv: 2 rows into drones\n"
    assert "0 rows into drones, 2 were there" in imported(place, "f.csv", None, "drones")
    assert "has no column 'height'" in imported(place, "g.csv", "id,height\nd1,1\n", "drones", code=exits.FAILED)
    assert "would double its rows" in imported(place, "h.csv", "lat,lon\n1,2\n", "drones", code=exits.FAILED)
    assert "no value for 'id'" in imported(place, "i.csv", "id,lat\n,1\n", "drones", code=exits.FAILED)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("f.csv", "a,b\n1,2\n3\n", "line 3: 1 values for 2 columns"),
        ("f.csv", "a,a\n1,2\n", "line 1: two columns are named 'a'"),
        ("f.csv", "", "line 1: the first line must name every column"),
        ("f.csv", 'a,b\n1,"2\n', "line 2: unexpected end of data"),
        ("f.csv", b"a,b\n1,\xff\n", "not UTF-8 text"),
        ("f.csv", "n,b\n1,2\n", "name the columns that are the rows' key with --key"),
        ("f.csv.gz", b"a,b\n", "the compressed file is damaged"),
        ("f.json", '[{"a": 1}, 2]', "object 2: it is not an object"),
        ("f.json", '[{"a": NaN}]', "object 1: not JSON: NaN is not JSON"),
        ("f.jsonl", '{"a": 1}\n{"a": \n', "object 2: not JSON"),
        ("f.json", "[" * 100_000, "object 1: it is nested too deeply"),
        ("f.geojson", '{"type": "FeatureCollection", "features": [{"type": "Point"}]}', "feature 1: it is not a Feature"),
        (
            "f.geojson",
            '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [600000, 5]}}',
            "feature 1: 600000, 5 is no longitude and latitude",
        ),
    ],
)  # fmt: skip
def test_bad_line_is_named_and_nothing_is_imported(place, name, data, message):
    text = imported(place, name, data, code=exits.FAILED)
    assert message in text
    assert len(text.splitlines()) == 1
    assert select(place, "SELECT count(*) FROM sqlite_master WHERE name = 't'") == [(0,)]


def feature(properties, geometry):
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def test_geojson_features_become_rows(place):
    features = [
        feature({"name": "a", "tags": ["x"]}, {"type": "Point", "coordinates": [8.5, 47.25, 400]}) | {"id": 7},
        feature(None, {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}),
        feature({"name": "c"}, None),
    ]
    assert imported(place, "f.geojson", json.dumps({"type": "FeatureCollection", "features": features})).startswith(
        "f.geojson: 3 rows"
    )
    assert select(place, "SELECT id, name, tags, lat, lon, alt_m, geometry FROM t ORDER BY n") == [
        (7, "a", '["x"]', 47.25, 8.5, 400.0, '{"type":"Point","coordinates":[8.5,47.25,400]}'),
        (None, None, None, None, None, None, '{"type":"LineString","coordinates":[[0,0],[1,1]]}'),
        (None, "c", None, None, None, None, None),
    ]


def test_columns_and_fields_have_limits(place, monkeypatch):
    monkeypatch.setattr(text_files, "COLUMNS_MAX", 3)
    imported(place, "f.csv", "a,b,c\n1,2,3\n")
    assert "4 columns; the most is 3" in imported(place, "g.csv", "a,b,c,d\n1,2,3,4\n", "u", code=exits.FAILED)
    monkeypatch.setattr(text_files, "FIELD_CHARS_MAX", 8)
    imported(place, "h.csv", "a\n12345678\n", "v")
    assert "field larger than field limit" in imported(place, "i.csv", "a\n123456789\n", "w", code=exits.FAILED)


def test_usage_errors_name_what_is_wrong(place):
    assert "there is one of .tlog" in imported(place, "f.xls", "x", code=exits.USAGE)
    assert "decompress it first" in imported(place, "f.tlog.gz", "x", code=exits.USAGE)
    assert "there is no file" in imported(place, "absent.csv", None, code=exits.USAGE)
    assert "choose another table" in imported(place, "f.csv", "a\n1\n", "mycomesh_meta", code=exits.FAILED)
    code, _, err = said(place / "home", "import", str(place / "f.csv"), "t")
    assert (code, err.rstrip().endswith("[node.none]")) == (exits.NO_NODE, True)
    assert set(READERS) == {".tlog", ".bin", ".ulg", ".csv", ".json", ".jsonl", ".geojson", ".nmea"}


def test_json_has_shape_of_manual(place):
    answer = json.loads(imported(place, "f.tlog", flight() + b"tail", "t", "--json"))
    assert not fault(answer, MANUAL["import"].shape)
    assert (answer["tables"], answer["skipped"]) == ([{"name": "t", "new": 115, "there": 0}], 4)


@pytest.mark.slow
def test_killed_import_goes_on_and_doubles_nothing(place):
    path = place / "f.csv"
    path.write_text("a,b\n" + "".join(f"{at},x{at}\n" for at in range(40_000)))
    command = [*MYCOMESH, "import", str(path), "t", "--file", str(place / "fleet.db")]
    rng, kills = random.Random(7), 0
    for _ in range(6):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.3 + rng.random() * 0.4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "rows into t" in done.stderr
    assert kills
    assert select(place, "SELECT count(*), count(DISTINCT a), sum(a) FROM t") == [
        (40_000, 40_000, 40_000 * 39_999 // 2)
    ]


def test_other_writer_gets_lock_during_import(place, monkeypatch):
    waits, stop = [], threading.Event()

    def write():
        with contextlib.closing(sqlite3.connect(place / "fleet.db", timeout=5, isolation_level=None)) as db:
            while not stop.is_set():
                begin = time.monotonic()
                db.execute("INSERT INTO drones VALUES(hex(randomblob(8)), 0, 0)")
                waits.append(time.monotonic() - begin)
                time.sleep(0.005)

    monkeypatch.setattr(table_writer, "HOLD_S", 0.005)
    thread = threading.Thread(target=write)
    thread.start()
    imported(place, "f.csv", "a,b\n" + "".join(f"{at},x{at}\n" for at in range(20_000)))
    stop.set()
    thread.join()
    assert select(place, "SELECT count(*) FROM t") == [(20_000,)]
    assert len(waits) > 3


@pytest.mark.slow
def test_import_through_node_reaches_its_peer(tmp_path):
    first, second = (Machine(tmp_path, name) for name in ("first", "second"))
    try:
        first.done("init")
        first.up("--port", "0")
        code = first.done("invite").strip()
        second.done("join", code, "--no-multicast", "--peer", first.address)
        second.up("--port", "0", "--peer", first.address)
        (tmp_path / "f.tlog").write_bytes(flight())
        done = first.run("import", str(tmp_path / "f.tlog"), "track")
        assert (done.returncode, done.stderr) == (0, "f.tlog: 115 rows into track\n")
        second.shows("SELECT count(*), round(avg(lat), 2) FROM track", "115|-35.21\n")
    finally:
        for machine in (first, second):
            if machine.process is not None and machine.process.poll() is None:
                machine.terminate()
