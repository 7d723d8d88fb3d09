"""Messages into rows: one transaction with what they are recognised by, and dead letters for the rest."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import apsw
import cbor2
import pytest

from mycomesh.mesh.node.readers import FAILED_MAX, JUDGED_MAX
from mycomesh.tools.bridges import writer as module
from mycomesh.tools.bridges.scheme import Arrival
from mycomesh.tools.bridges.writer import BODY_BYTES_MAX, SEEN_MAX

KEYED = "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, at INTEGER)"


def arrival(body, **more):
    return Arrival("in", body if isinstance(body, bytes) else json.dumps(body).encode(), **more)


def rows(tmp_path, select="SELECT * FROM t"):
    return apsw.Connection(str(tmp_path / "f.db")).execute(select).fetchall()


def whys(tmp_path):
    return [why for (why,) in rows(tmp_path, "SELECT why FROM mycomesh_dead_letters ORDER BY seq")]


def test_a_message_is_written_once(writer, tmp_path):
    into = writer("CREATE TABLE t(name TEXT)")
    into.write([arrival({"name": "a"}, id="m1"), arrival({"name": "b"}, id="m2")])
    into.write([arrival({"name": "a"}, id="m1")])
    writer().write([arrival({"name": "b"}, id="m2")])
    assert rows(tmp_path) == [("a",), ("b",)]


def test_positions_of_a_stream_move_with_the_rows(writer, tmp_path):
    into = writer("CREATE TABLE t(name TEXT)")
    into.write([arrival({"name": "a"}, source="p", offset=4), arrival({"name": "b"}, source="q", offset=1)])
    again = writer()
    assert again.offsets() == {"p": 4, "q": 1}
    again.write([arrival({"name": "a"}, source="p", offset=4), arrival({"name": "c"}, source="p", offset=5)])
    again.follow({"p": 3, "q": 9})
    assert writer().offsets() == {"p": 5, "q": 9}
    assert rows(tmp_path) == [("a",), ("b",), ("c",)]


def test_an_older_message_does_not_overwrite(writer, tmp_path):
    into = writer(KEYED, time="at")
    into.write([arrival({"id": 1, "name": "new", "at": 9}), arrival({"id": 1, "name": "old", "at": 5})])
    assert rows(tmp_path) == [(1, "new", 9)]


def test_keys_that_a_message_lacks_keep_their_value(writer, tmp_path):
    into = writer(KEYED)
    into.write([arrival({"id": 1, "name": "a", "at": 1}), arrival({"id": 1, "at": 2})])
    assert rows(tmp_path) == [(1, "a", 2)]


def test_an_empty_body_deletes_the_row(writer, tmp_path):
    into = writer("CREATE TABLE t(id TEXT PRIMARY KEY, name TEXT)", in_={"in/{id}": "t"})
    into.write([Arrival("in/x", b'{"name": "a"}'), Arrival("in/y", b'{"name": "b"}'), Arrival("in/x", b"")])
    assert rows(tmp_path) == [("y", "b")]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"nope", "the body is no JSON"),
        ({"id": 1, "wat": 2}, "add it, or set extra"),
        ({"id": "one"}, "is INTEGER, and the value is 'one'"),
        ({"id": 1, "at": "nan"}, "is INTEGER, and the value is 'nan'"),
        ({"id": 1, "at": "1_000"}, "is INTEGER, and the value is '1_000'"),
        (b'{"id": 1, "name": "\\ud800"}', "half a character"),
        (b'{"id": 1, "name": ["\\ud800"]}', "half a character"),
        ({"id": 1, "name": None, "at": "x"}, "column 'at'"),
        ({}, "the message has none of the columns"),
        (b"", "no value for 'id'"),
    ],
)
def test_a_message_that_makes_no_row_is_set_aside(writer, tmp_path, body, said):
    into = writer(KEYED)
    assert into.write([arrival(body, id="m1"), arrival({"id": 2, "name": "fine"}, id="m2")]) == 2
    assert rows(tmp_path) == [(2, "fine", None)]
    (why,) = whys(tmp_path)
    assert said in why


def test_a_constraint_refuses_one_row_alone(writer, tmp_path):
    into = writer("CREATE TABLE t(id TEXT PRIMARY KEY, n INTEGER CHECK(n < 5)) STRICT")
    into.write([arrival({"id": "a", "n": 9}), arrival({"id": "b", "n": 1.5}), arrival({"id": "c", "n": 1})])
    assert rows(tmp_path) == [("c", 1)]
    assert len(whys(tmp_path)) == 2


def test_a_failing_trigger_refuses_one_row_alone(writer, tmp_path):
    trigger = "CREATE TRIGGER log AFTER INSERT ON t WHEN new.id = 1 BEGIN SELECT json('{'); END"
    into = writer(f"{KEYED}; {trigger}")
    assert into.write([arrival({"id": 1}), arrival({"id": 2})]) == 2
    assert rows(tmp_path) == [(2, None, None)]
    (why,) = whys(tmp_path)
    assert "t refuses the row: malformed JSON" in why


def test_a_row_with_a_blob_key_is_an_echo(writer):
    into = writer("CREATE TABLE t(id BLOB PRIMARY KEY, n INTEGER)", out={"t": "out"})
    key = {"base64": "AP8="}
    into.write([arrival({"id": key, "n": 9_007_199_254_740_993})])
    assert into.is_echo({"table": "t", "key": {"id": key}, "values": {"id": key, "n": 9_007_199_254_740_993}})


def test_echoes_wait_for_a_commit_of_another_program(writer, tmp_path):
    into = writer(KEYED, out={"t": "out"})
    into.write([arrival({"id": 1})])
    other = apsw.Connection(str(tmp_path / "f.db"))
    other.execute("BEGIN EXCLUSIVE")
    change = {"table": "t", "key": {"id": 1}, "values": {"id": 1, "name": None, "at": None}}
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(into.is_echo, change)
        with pytest.raises(TimeoutError):
            found.result(0.1)
        other.execute("COMMIT")
        assert found.result()


def test_echoes_are_found_while_a_thread_writes(writer, tmp_path):
    apsw.Connection(str(tmp_path / "f.db")).execute("PRAGMA journal_mode = WAL")
    into = writer("CREATE TABLE t(id INTEGER PRIMARY KEY)", out={"t": "out"})
    change = {"table": "t", "key": {"id": 1}, "values": {"id": 1}}
    with ThreadPoolExecutor(1) as threads:
        written = threads.submit(
            lambda: [into.write([arrival({"id": 20 * n + m}) for m in range(20)]) for n in range(50)]
        )
        while not written.done():
            into.is_echo(change)
    assert written.result() == [20] * 50
    assert into.is_echo(change)


def test_unknown_keys_are_dropped_where_the_section_says_so(writer, tmp_path):
    into = writer(KEYED, extra="ignore")
    into.write([arrival({"id": 1, "wat": 2})])
    assert rows(tmp_path) == [(1, None, None)]


def test_messages_of_the_own_mesh_are_left_alone(writer, tmp_path):
    into = writer(KEYED)
    into.write([arrival({"id": 1}, headers={"mesh-id": "t/own/1"})])
    assert rows(tmp_path) == []
    assert into.figures.values["echoes"] == 1


def test_a_row_that_came_in_is_an_echo(writer):
    into = writer(KEYED, out={"t": "out"})
    into.write([arrival({"id": 1, "name": "a"})])
    change = {"table": "t", "key": {"id": 1}, "values": {"id": 1, "name": "a", "at": None}}
    changed = {**change, "values": {"id": 1, "name": "b", "at": None}}
    assert into.is_echo(change)
    assert not into.is_echo(changed)
    assert not into.is_echo(change)  # it was another value meanwhile, which the outside has seen


@pytest.mark.parametrize("failed", [FAILED_MAX - 1, FAILED_MAX])
def test_the_flow_stops_when_too_many_fail(writer, failed):
    assert FAILED_MAX < JUDGED_MAX
    into = writer(KEYED)
    good = [arrival({"id": number}) for number in range(JUDGED_MAX)]
    assert into.write([*good, *[arrival(b"bad")] * failed, *good]) == len(good) + failed + (
        len(good) if failed < FAILED_MAX else 0
    )
    assert into.judge.stops == (failed >= FAILED_MAX)


def test_only_the_latest_ids_are_kept(writer, tmp_path, monkeypatch):
    assert SEEN_MAX > 100_000
    monkeypatch.setattr(module, "SEEN_MAX", 3)
    monkeypatch.setattr(module, "PRUNE_EVERY", 1)
    into = writer(KEYED)
    for number in range(6):
        into.write([arrival({"id": number}, id=f"m{number}")])
    assert rows(tmp_path, "SELECT id FROM mycomesh_bridge_seen ORDER BY seq") == [("m3",), ("m4",), ("m5",)]


def test_a_failed_commit_leaves_everything_for_the_next_try(writer, tmp_path):
    into = writer(KEYED)
    other = apsw.Connection(str(tmp_path / "f.db"))
    other.execute("BEGIN IMMEDIATE")
    into._db.set_busy_timeout(0)
    with pytest.raises(apsw.BusyError):
        into.write([arrival({"id": 1}, id="m1")])
    other.execute("ROLLBACK")
    assert into.write([arrival({"id": 1}, id="m1")]) == 1
    assert rows(tmp_path) == [(1, None, None)]


def test_a_letter_is_written_again_on_request(writer, tmp_path):
    into = writer(KEYED, format="cbor")
    into.write([arrival(b"\xff\xfe", id="m1"), arrival(cbor2.dumps({"id": 1, "wat": 1}), id="m2")])
    db = apsw.Connection(str(tmp_path / "f.db"))
    db.execute("ALTER TABLE t ADD COLUMN wat; UPDATE mycomesh_dead_letters SET tries = 0")
    assert into.retry() == 2
    assert rows(tmp_path) == [(1, None, None, 1)]
    ((left, tries),) = rows(tmp_path, "SELECT id, tries FROM mycomesh_dead_letters")
    assert (left, tries, into.retry()) == ("m1", 1, 0)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_dead_letter_keeps_a_long_body(writer, tmp_path, over):
    into = writer(KEYED)
    into.write([arrival(b"x" * (BODY_BYTES_MAX + over))])
    ((body,),) = rows(tmp_path, "SELECT body FROM mycomesh_dead_letters")
    assert len(json.loads(body)["body"]) == BODY_BYTES_MAX + min(over, 0)


def test_the_state_is_there_for_sql(writer, tmp_path):
    into = writer(KEYED)
    into.write([arrival({"id": 1}), arrival(b"bad")])
    into.show("running", "")
    select = "SELECT name, state, sent, received, refused, duplicates FROM mycomesh_bridges"
    assert rows(tmp_path, select) == [("ground", "running", 0, 1, 1, 0)]


def test_a_number_of_many_digits_stops_no_others(writer, tmp_path):
    into = writer(KEYED, format="cbor")
    assert into.write([arrival(cbor2.dumps({"id": 1, "at": 1 << 500_000})), arrival(cbor2.dumps({"id": 2}))]) == 2
    assert rows(tmp_path, "SELECT id FROM t") == [(2,)]
    assert whys(tmp_path) == ["a number of 500001 bits is beyond 64 bits"]


def test_generated_columns_do_not_hide_an_echo(writer):
    into = writer(
        "CREATE TABLE t(id INTEGER PRIMARY KEY, twice AS (id * 2), name TEXT)", in_={"in": "t"}, out={"t": "out"}
    )
    into.write([arrival({"id": 1, "name": "a"})])
    change = {"table": "t", "key": {"id": 1}, "values": {"id": 1, "name": "a"}}
    assert into.is_echo(change)
    assert not into.is_echo({**change, "values": {"id": 1, "name": "b"}})
