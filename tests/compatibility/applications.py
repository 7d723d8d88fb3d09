"""Applications beside a node: what each writes or reads with its own command line arrives, or is refused in one line."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING

from tests.compatibility.migrations import MIGRATIONS
from tests.compatibility.rows import FOLDER, PYTHON
from tests.compatibility.trial import Outcome, TrialError, ran
from tests.integration.machines import Machine, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["TRIALS"]


def _feature(number: int) -> dict[str, object]:
    point = {"type": "Point", "coordinates": [number / 10, 50]}
    return {"type": "Feature", "properties": {"name": f"p{number}"}, "geometry": point}


POINTS = json.dumps({"type": "FeatureCollection", "features": [_feature(number) for number in range(40)]})
BAG = """
import sys
from pathlib import Path
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
store = get_typestore(Stores.ROS2_HUMBLE)
text = store.types['std_msgs/msg/String']
with Writer(Path(sys.argv[1]), version=9, storage_plugin=StoragePlugin.SQLITE3) as bag:
    connection = bag.add_connection('/chatter', text.__msgtype__, typestore=store)
    for number in range(100):
        bag.write(connection, number, store.serialize_cdr(text(f'hello {number}'), text.__msgtype__))
    print('open', flush=True)
    sys.stdin.readline()
"""
REPLACE = """
import sqlite3, sys, pandas
with sqlite3.connect(sys.argv[1]) as db:
    pandas.DataFrame({'id': range(int(sys.argv[2])), 'v': 'x'}).to_sql('frame', db, if_exists='replace', index=False)
"""

TURSO = """
import sys, turso
db = turso.connect(sys.argv[1])
print(db.execute(f"PRAGMA journal_mode = '{sys.argv[2]}'").fetchall()[0][0])
if sys.argv[2] == 'mvcc':
    db.execute('CREATE TABLE kept(id INTEGER PRIMARY KEY, v)')
    db.execute("INSERT INTO kept VALUES(1, 'by Turso')")
db.commit()
db.close()
"""
CIPHER = """
import sys
from sqlcipher3 import dbapi2
db = dbapi2.connect(sys.argv[1])
db.execute("PRAGMA key = 'secret'")
db.execute('CREATE TABLE t(v)')
db.commit()
db.close()
"""


def _count(one: Machine, table: str, wanted: int) -> None:
    try:
        eventually(lambda: one.sql(f"SELECT count(*) FROM {table}") == f"{wanted}\n", table)
    except AssertionError as error:
        raise TrialError(
            f"{one.name} has {one.sql(f'SELECT count(*) FROM {table}')}rows of {table}, not {wanted}"
        ) from error


def _installed(package: str) -> str:
    return ran(PYTHON, "-c", f"import importlib.metadata as m; print(m.version({package!r}))")


def _gdal(first: Machine, second: Machine) -> Outcome:
    points = first.dir / "points.geojson"
    points.write_text(POINTS)
    environ = {"OGR_SQLITE_SYNCHRONOUS": "NORMAL"}
    ran("ogr2ogr", "-f", "SQLite", "-update", first.file, points, "-nln", "points", **environ)
    _count(second, "points", 40)
    ran("ogr2ogr", "-f", "SQLite", "-append", second.file, points, "-nln", "points", **environ)
    _count(first, "points", 80)
    listed = ran("ogrinfo", "-ro", "-so", second.file, "points")
    if "Feature Count: 80" not in listed:
        raise TrialError(f"ogrinfo does not count 80 features: {listed[-200:]}")
    return Outcome(
        ran("ogr2ogr", "--version").split(",")[0].removeprefix("GDAL "),
        "-",
        "a layer made and appended on both; 80 features on both",
    )


def _sqlite_utils(first: Machine, second: Machine) -> Outcome:
    program = FOLDER / "python" / "bin" / "sqlite-utils"
    rows = json.dumps([{"id": n, "name": f"n{n}"} for n in range(30)])
    ran(program, "insert", first.file, "things", "-", "--pk", "id", text=rows)
    _count(second, "things", 30)
    more = json.dumps([{"id": n, "name": "again", "size": n} for n in range(20, 40)])
    ran(program, "upsert", second.file, "things", "-", "--pk", "id", "--alter", text=more)
    _count(first, "things WHERE name = 'again' AND size = id", 20)
    return Outcome(_installed("sqlite-utils"), "5 s", "insert, and upsert with a new column on the other node; equal")


def _replace(first: Machine, second: Machine) -> Outcome:
    for file, rows, other in ((first.file, 50, second), (second.file, 7, first)):
        ran(PYTHON, "-c", REPLACE, file, rows)
        _count(other, "frame", rows)
    return Outcome(_installed("pandas"), "5 s", "the new content of either node is on both")


def _datasette(first: Machine, second: Machine) -> Outcome:
    second.sql(
        "CREATE TABLE IF NOT EXISTS shown(id INTEGER PRIMARY KEY, v); INSERT INTO shown(v) VALUES('from the other node')"
    )
    _count(first, "shown", 1)
    answer = ran(
        FOLDER / "python" / "bin" / "datasette", "--get", f"/{first.file.stem}/shown.json?_shape=array", first.file
    )
    if json.loads(answer)[0]["v"] != "from the other node":
        raise TrialError(f"datasette shows {answer[:200]}")
    return Outcome(_installed("datasette"), "-", "shows rows of the other node; not tried: plugins that write")


def _browser(first: Machine, second: Machine) -> Outcome:
    """Run a script in DB Browser without a screen; with --quit it would discard what the script has written."""
    home = first.dir / "browser"
    home.mkdir(mode=0o700, exist_ok=True)
    script = home / "script.sql"
    script.write_text(
        "CREATE TABLE browsed(id INTEGER PRIMARY KEY, v);"
        + "".join(f"INSERT INTO browsed VALUES({number}, 'by DB Browser');" for number in range(50))
        + "UPDATE browsed SET v = 'changed' WHERE id < 10; DELETE FROM browsed WHERE id = 49;"
    )
    places = {"QT_QPA_PLATFORM": "offscreen", "HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    command = ["/usr/bin/sqlitebrowser", "-s", str(script), str(first.file)]
    with subprocess.Popen(
        command, env=os.environ | places, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as program:
        try:
            _count(second, "browsed", 49)
            second.sql("INSERT INTO browsed VALUES(60, 'of the other')")
            _count(first, "browsed", 50)
        finally:
            program.terminate()
    version = ran("dpkg-query", "-W", "-f", "${Version}", "sqlitebrowser")
    return Outcome(
        version, "5 s", "a script's table and 49 rows arrive; the other node writes while it has the file open"
    )


def _rosbags(first: Machine, second: Machine) -> Outcome:
    folder = first.dir / "bag"
    with subprocess.Popen(
        [PYTHON, "-c", BAG, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stdin is not None
        assert recorder.stdout is not None
        if recorder.stdout.readline() != "open\n":
            raise TrialError("the recorder ended before it had written")
        (bag,) = folder.glob("*.db3")
        other = Machine(first.dir, "robot")
        other.done("init")
        other.file = bag
        refused = other.run("up", str(bag), "--no-multicast", "--port", "0")
        recorder.stdin.write("\n")
    if refused.returncode != 1 or "database.busy" not in refused.stderr or recorder.returncode:
        raise TrialError(f"an open bag: {refused.stderr}, the recorder ended with {recorder.returncode}")
    served = shutil.copy(bag, second.dir / "bag.db")
    other.up()
    try:
        _count(other, "messages", 100)
        with closing(sqlite3.connect(served)) as db:
            before = db.execute("SELECT * FROM messages ORDER BY id").fetchall()
        if other.sql("SELECT count(DISTINCT data) FROM messages") != f"{len({row[-1] for row in before})}\n":
            raise TrialError("the served bag has other messages")
    finally:
        other.terminate()
    return Outcome(
        _installed("rosbags"),
        "-",
        "a closed bag is served whole; one that is recorded is refused in one line (database.busy)",
    )


def _refused(first: Machine, name: str, file: Path, told: str) -> Machine:
    """Return a node that has refused to serve a file, in one line that says what the file is."""
    node = Machine(first.dir, name)
    node.done("init")
    node.file = file
    refused = node.run("up", str(file), "--no-multicast", "--port", "0")
    if refused.returncode != 1 or told not in refused.stderr or len(refused.stderr.splitlines()) != 1:
        raise TrialError(f"a file of {name}: {refused.stderr}")
    return node


def _turso(first: Machine, _second: Machine) -> Outcome:
    file = first.dir / "turso.db"
    ran(PYTHON, "-c", TURSO, file, "mvcc")
    node = _refused(first, "turso", file, "in Turso's MVCC mode")
    ran(PYTHON, "-c", TURSO, file, "wal")
    node.up()
    try:
        _count(node, "kept", 1)
    finally:
        node.terminate()
    return Outcome(_installed("pyturso"), "-", "a file in MVCC mode is refused by name; switched to WAL it is served")


def _sqlcipher(first: Machine, _second: Machine) -> Outcome:
    file = first.dir / "cipher.db"
    ran(PYTHON, "-c", CIPHER, file)
    _refused(first, "cipher", file, "an encrypted one (SQLCipher and others)")
    return Outcome(_installed("sqlcipher3"), "-", "an encrypted file is refused, and the line says that it may be one")


def _litestream(first: Machine, second: Machine) -> Outcome:
    for number, each in enumerate((first, second)):
        each.sql(
            "CREATE TABLE _litestream_seq(id INTEGER PRIMARY KEY, seq INTEGER); CREATE TABLE _litestream_lock(id INTEGER);"
            f" INSERT INTO _litestream_seq VALUES(1, {number})"
        )
    first.sql("CREATE TABLE beside(v); INSERT INTO beside VALUES(1)")
    _count(second, "beside", 1)
    if [each.sql("SELECT seq FROM _litestream_seq") for each in (first, second)] != ["0\n", "1\n"]:
        raise TrialError("the state of one Litestream came to another")
    if "Litestream" not in first.run("status").stdout:
        raise TrialError("status does not name Litestream")
    for each in (first, second):  # the trials that follow compare both files
        each.sql("DROP TABLE _litestream_seq; DROP TABLE _litestream_lock")
    return Outcome(
        "its tables", "-", "`_litestream_seq` and `_litestream_lock` stay on their node, and `status` says so"
    )


def _immutable(first: Machine, second: Machine) -> Outcome:
    first.sql("CREATE TABLE atrest(id INTEGER PRIMARY KEY, v); INSERT INTO atrest(v) VALUES('x'), ('y')")
    _count(second, "atrest", 2)
    for each in (first, second):
        uri, query = f"file:{each.file}?immutable=1", "SELECT count(*) FROM atrest"
        for _ in range(100):  # at rest, at most once a minute
            seen = subprocess.run(["sqlite3", uri, query], capture_output=True, text=True, check=False).stdout
            if seen == "2\n":
                break
            time.sleep(1)
        else:
            raise TrialError(f"{each.name} shows {seen!r} to a reader without the -wal")
    return Outcome(ran("sqlite3", "--version").split()[0], "-", "sees the rows of both nodes once the file is at rest")


TRIALS: dict[str, Callable[[Machine, Machine], Outcome]] = {
    "GDAL ogr2ogr": _gdal,
    "sqlite-utils command": _sqlite_utils,
    "pandas to_sql replace": _replace,
    "Datasette": _datasette,
    "DB Browser for SQLite": _browser,
    "rosbags": _rosbags,
    "Turso": _turso,
    "SQLCipher": _sqlcipher,
    "Litestream": _litestream,
    "reader with immutable=1": _immutable,
    **MIGRATIONS,
}
