"""Python functions and commands in worker processes: results, and functions that raise, hang, leak or answer nonsense."""

from __future__ import annotations

import os

import pytest

from mycomesh.tools.flows import rows_function, worker
from mycomesh.tools.flows.clock import StatementClock
from mycomesh.tools.flows.launch import RESULTS_MAX
from mycomesh.tools.flows.sql_function import FunctionError
from mycomesh.tools.flows.worker import ANSWER_BYTES_MAX, ERRORS_BYTES
from mycomesh.tools.flows.writer import Batch

MODULE = """
import asyncio, os, signal, sys, time

def low(row):
    print("what a function prints is no answer")
    if row["battery"] < 20:
        return {"drone": row["id"], "what": f"low by {row['_node']}"}

def each(row):
    return [{"drone": row["id"], "what": n} for n in range(row["battery"])]

async def slow(row):
    await asyncio.sleep(0.2)
    return {"drone": row["id"]}

def blob(row):
    return {"drone": row["id"], "what": row["battery"] + b"\\xff"}

held = []
def leak(row):
    held.append(bytearray(50 << 20))
    return {"drone": row["id"]}

def bad(row):
    match row["battery"]:
        case 1: raise KeyError("volt")
        case 2: time.sleep(60)
        case 3: return bytearray(2 << 30)
        case 4: return "nonsense"
        case 5: os._exit(7)
        case 6: return {"volt": 1}
        case 7: return [{"what": 1}] * 10_001
        case 8: return {"what": object()}
        case 9: raise ValueError("one\\n\\x1b[31mtwo" + "x" * 5_000_000)
        case 10: return {"what": 10**30}
        case 11:
            class Odd(Exception):
                def __str__(self): raise KeyError
            raise Odd
        case 12:
            while True: sys.stderr.write("noise " * 10_000)
        case 13: sys.exit(0)
        case 14:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        case 15: os.closerange(0, 100)
        case 16: return (row for _ in iter(int, 1))
        case 17: raise asyncio.CancelledError
    return {"drone": row["id"]}
"""


@pytest.fixture
def flow(writer, tmp_path, monkeypatch):
    """Return a function that opens a writer with a function of a module, or with a command."""
    monkeypatch.setattr(rows_function, "PAUSES_S", (0.01,))
    (tmp_path / "crew.py").write_text(MODULE)
    return lambda run, **section: writer(run, directory=str(tmp_path), **section)


def write(flow, *changes):
    batch = Batch(len(changes), list(changes), list(range(len(changes))))
    return flow.write(batch, b"\x01", lambda count: bytes([count]))


def test_rows_go_in_and_rows_come_out(flow, change, rows):
    low = flow("python:crew:low")
    low.check()
    changes = [change(1, id="d1", battery=5), change(2, id="d2", battery=50)]
    write(low, *changes)
    write(low, *changes)
    assert rows("SELECT drone, what, length(key) FROM alerts") == [("d1", "low by alpha", 32)]


def test_one_row_makes_several(flow, change, rows):
    write(flow("python:crew:each", on="SELECT id, battery + 1 AS battery FROM drones"), change(1, id="d1", battery=2))
    assert rows("SELECT drone, what FROM alerts ORDER BY what") == [("d1", "0"), ("d1", "1"), ("d1", "2")]


def test_async_functions_wait_for_each_other(flow, change, rows):
    write(flow("python:crew:slow", timeout_s=5), *[change(n, id=f"d{n}", battery=0) for n in range(100)])
    assert rows("SELECT count(DISTINCT drone) FROM alerts") == [(100,)]


def test_blobs_go_in_and_out(flow, change, rows):
    write(flow("python:crew:blob"), change(1, id="d1", battery={"base64": "AA=="}))
    assert rows("SELECT hex(what) FROM alerts") == [("00FF",)]


@pytest.mark.parametrize(
    ("battery", "why"),
    [
        (1, "KeyError: 'volt'"),
        pytest.param(2, "took longer than 3 s", marks=pytest.mark.slow),
        (3, "ended with 1: MemoryError"),
        (4, "answered with something else than rows"),
        (5, "ended with 7"),
        (6, "alerts has no column 'volt'"),
        (7, f"made more than {RESULTS_MAX:,} rows of one"),
        (8, "TypeError: a value of a row may be text, a number, bytes or None, not object"),
        (9, "ValueError: one ?[31mtwoxxx"),
        (10, "a number of 100 bits is beyond 64 bits"),
        (11, "Odd"),
        pytest.param(12, "took longer than 3 s", marks=pytest.mark.slow),
        (13, "ended with 0"),
        pytest.param(14, "took longer than 3 s", marks=pytest.mark.slow),
        (15, "ended with 1"),
        (16, f"made more than {RESULTS_MAX:,} rows of one"),
        (17, "ended with 1"),
    ],
)
def test_a_bad_row_fails_alone(flow, change, rows, battery, why):
    bad = flow("python:crew:bad", timeout_s=3)
    assert write(bad, *[change(n, id=f"d{n}", battery=battery * (n == 2)) for n in range(1, 5)]) == 4
    assert [row[0] for row in rows("SELECT drone FROM alerts ORDER BY drone")] == ["d1", "d3", "d4"]
    ((row, said),) = rows("SELECT row, why FROM mycomesh_dead_letters")
    assert row == "d2"
    assert said.startswith(why)
    assert "\n" not in said


def test_commands_read_and_write_lines(flow, change, rows):
    write(flow("""exec: sed -u 's/.*"id": "\\([^"]*\\)".*/{"drone": "\\1"}/'"""), change(1, id="d1", battery=1))
    assert rows("SELECT drone FROM alerts") == [("d1",)]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("nowhere", "ended with 127: /bin/sh: 1: nowhere: not found"),
        ("while read -r x; do echo nonsense; done", "answered with a line that is no JSON"),
        ("while read -r x; do printf 'null\\nnull\\n'; done", "answered with more lines than it got"),
        (f"head -c {ANSWER_BYTES_MAX + 1} /dev/zero; sleep 9", "answered with a line of more than"),
    ],
)
def test_a_bad_command_is_one_line(flow, change, rows, command, why):
    write(flow(f"exec: {command}", timeout_s=3), change(1, id="d1", battery=1))
    ((said,),) = rows("SELECT why FROM mycomesh_dead_letters")
    assert said.startswith(why)


def test_what_a_function_prints_takes_no_room(flow, change, rows, tmp_path):
    """The end of its standard error says why it ended; the rest is read and dropped."""
    (tmp_path / "crew.py").write_text(
        "import sys\ndef f(row):\n    print('noise ' * 100_000)\n    if row['battery']: sys.exit('enough')\n    return {}\n"
    )
    loud = flow("python:crew:f")
    write(loud, *[change(n, id=f"d{n}", battery=int(n == 2)) for n in range(1, 4)])
    why = [why for (why,) in rows("SELECT why FROM mycomesh_dead_letters ORDER BY row")]
    assert why == ["answered with something else than rows: {}", "ended with 1: enough", *why[:1]]
    assert len(loud.function._worker._said) <= ERRORS_BYTES


def test_a_command_that_reads_nothing_costs_nothing(flow, change, rows, monkeypatch):
    written, write_as_before = [], os.write
    monkeypatch.setattr(worker.os, "write", lambda *given: written.append(given) or write_as_before(*given))
    write(flow("exec: exec 0<&-; sleep 0.5; echo null", timeout_s=3), change(1, id="d1", battery=1))
    assert len(written) <= 2, "not again and again"
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(0,)]


@pytest.mark.parametrize(
    ("on", "why"),
    [
        ("SELECT abs(-9223372036854775807 - battery) FROM drones", "on: integer overflow"),
        (
            "SELECT drones.* FROM drones, pragma_function_list a, pragma_function_list",
            "on: makes more than 10,000 rows of one",
        ),
        (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM drones, n",
            "on: took longer than 1 s",
        ),
        ("SELECT hex(zeroblob(2000000000)) FROM drones", "on: "),
    ],
)
def test_a_select_before_a_function_fails_its_row_alone(flow, change, rows, monkeypatch, on, why):
    if "longer" in why:
        monkeypatch.setattr(StatementClock, "_is_late", lambda self: self._until_s > 0)
    write(flow("exec: cat", on=on, timeout_s=1), change(1, id="d1", battery=1))
    ((said,),) = rows("SELECT why FROM mycomesh_dead_letters")
    assert said.startswith(why)


def test_a_function_that_leaks_goes_on(flow, change, rows):
    leak = flow("python:crew:leak", memory_mib=256)
    assert write(leak, *[change(n, id=f"d{n}", battery=0) for n in range(20)]) == 20, "1 GB in all"
    assert rows("SELECT count(*) FROM alerts") == [(20,)]
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(0,)]


def test_a_function_that_failed_once_is_tried_again(flow, change, rows, tmp_path):
    (tmp_path / "crew.py").write_text(
        "import pathlib\n"
        "def f(row):\n"
        "    flag = pathlib.Path('flag')\n"
        "    if not flag.exists():\n"
        "        flag.touch()\n"
        "        raise OSError('away')\n"
        "    return {'drone': row['id']}\n"
    )
    write(flow("python:crew:f"), change(1, id="d1", battery=1))
    assert rows("SELECT drone FROM alerts") == [("d1",)]


def test_results_of_several_nodes_need_a_key(flow):
    bad = flow("python:crew:low", sql="CREATE TABLE drones(id); CREATE TABLE alerts(a)", where="everywhere")
    with pytest.raises(FunctionError, match="alerts needs a primary key"):
        bad.check()


def test_a_sample_shows_results_and_failures(flow, rows):
    bad = flow("python:crew:bad")
    rows("INSERT INTO drones VALUES('d1', 0), ('d2', 1)")
    assert [results for _, results in bad.sample(2)] == ["KeyError: 'volt'", [{"drone": "d1"}]]


def test_a_worker_killed_between_calls_costs_nothing(flow, change, rows):
    low = flow("python:crew:low")
    for number in range(5):
        write(low, change(number, id=f"d{number}", battery=1))
        low.function._worker._process.kill()
    assert rows("SELECT count(*) FROM alerts") == [(5,)]
    assert rows("SELECT count(*) FROM mycomesh_dead_letters") == [(0,)]
