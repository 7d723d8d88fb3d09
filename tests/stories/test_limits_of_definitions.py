"""Limits on definitions, values and requests of members: each is tried below, at and above its value."""

from __future__ import annotations

import math

import apsw
import pytest

from mycomesh.sync.crdt.hlc import EARLY_MS_MAX, hlc_from_ms, is_early
from mycomesh.sync.exchange import exchange, repair_schedule, serve
from mycomesh.sync.exchange.flow_control import TokenBucket
from mycomesh.sync.schema import policy
from mycomesh.sync.schema.policy import COLUMN_CHARS_MAX, GENERATED_MAX, KEEP_BOTH_ROWS_MAX, Policies
from mycomesh.sync.sqlite import definitions, trial
from mycomesh.sync.sqlite.definitions import SCRATCH_BYTES_MAX, SCRATCH_DEPTH_MAX, SCRATCH_OPERATIONS_MAX, scratch
from mycomesh.sync.sqlite.table_spec import COLUMNS_READ_MAX, SQL_MAX, UnsupportedTable, read_table
from mycomesh.sync.sqlite.trial import ROW_WORK_MAX, refusal_of
from mycomesh.sync.storage import large_rows
from mycomesh.sync.storage.large_rows import CHANGE_BYTES_MAX, oversized, portions
from mycomesh.sync.wire import messages as wire
from tests.sync.peers import Peer


def around(limit):
    return pytest.mark.parametrize(("value", "fits"), [(limit - 1, True), (limit, True), (limit + 1, False)])


def refused(sql):
    try:
        with scratch(sql):
            return ""
    except apsw.Error as error:
        return str(error)


@pytest.fixture
def file(tmp_path):
    peer = Peer(tmp_path / "one.db", 0)
    yield peer
    peer.close()


# ---- stamps


@pytest.mark.parametrize(
    ("value", "early"), [(EARLY_MS_MAX - 1, True), (EARLY_MS_MAX, False), (EARLY_MS_MAX + 1, False)]
)
def test_stamps_from_before_the_mesh(value, early):
    assert is_early(hlc_from_ms(value)) is early
    assert is_early(hlc_from_ms(value) | 0xFFFF) is early


# ---- definitions


@around(SQL_MAX)
def test_characters_of_a_definition(value, fits):
    db = apsw.Connection(":memory:")
    sql = "CREATE TABLE t(a /* */)"
    db.execute(sql.replace("/* */", "/*" + "x" * (value - len(sql) + 1) + "*/"))
    (text,) = db.execute("SELECT sql FROM sqlite_schema").fetchone()
    assert len(text) == value
    if fits:
        assert read_table(db, "t").sql == text
    else:
        with pytest.raises(UnsupportedTable, match=f"the limit is {SQL_MAX}"):
            read_table(db, "t")


@around(COLUMNS_READ_MAX)
def test_columns_of_a_replicated_table(value, fits):
    db = apsw.Connection(":memory:")
    columns = ", ".join(f"c{number}" for number in range(value - 2))
    db.execute(f"CREATE TABLE t(k TEXT PRIMARY KEY, {columns})")  # the key counts twice
    if fits:
        assert len(read_table(db, "t").columns) == value - 1
    else:
        with pytest.raises(UnsupportedTable, match=f"the limit is {COLUMNS_READ_MAX}"):
            read_table(db, "t")


@around(SCRATCH_DEPTH_MAX)
def test_depth_of_an_expression(value, fits):
    deep = "a" + " + 1" * (value - 1)
    assert ("maximum depth" not in refused(f"CREATE TABLE t(a, CHECK({deep}))")) is fits


@around(SCRATCH_BYTES_MAX)
def test_bytes_of_a_definition_on_the_scratch_connection(value, fits):
    sql = "CREATE TABLE t(a)"
    assert (refused(sql + " " * (value - len(sql))) == "") is fits


def test_operations_of_a_statement_on_the_scratch_connection(monkeypatch):
    assert SCRATCH_OPERATIONS_MAX == 100_000
    few = tuple((limit, 2_000 if limit == apsw.SQLITE_LIMIT_VDBE_OP else value) for limit, value in definitions._LIMITS)
    monkeypatch.setattr(definitions, "_LIMITS", few)

    def operations(count):
        sql = "INSERT INTO t(a) VALUES" + ", ".join(["(1)"] * count)
        with scratch("CREATE TABLE t(a, " + ", ".join(f"CHECK(a IS NOT {n})" for n in range(100)) + ")") as db:
            try:
                return len(db.execute(f"EXPLAIN {sql}").fetchall())
            except apsw.Error:
                return None

    counted = [operations(count) for count in range(1, 1_000, 100)]
    assert counted[0] < 2_000
    assert counted[-1] is None  # SQLite doubles the room for operations, up to the limit
    assert all(each is None or each <= 2_000 for each in counted)


def largest_value():
    """Return the largest value that the expression of a made-up row may make."""

    def fits(size):
        refusal_of.cache_clear()
        return refusal_of(f"CREATE TABLE t(a, CHECK(length(zeroblob({size}))))") == ""

    low, high = 1, 1 << 20
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    assert [fits(low - 1), fits(low), fits(low + 1)] == [True, True, False]
    return low


def test_work_that_expressions_of_a_row_may_do(monkeypatch):
    most = largest_value()
    assert most <= math.isqrt(ROW_WORK_MAX)  # as if there were one call
    monkeypatch.setattr(trial, "ROW_WORK_MAX", 4 * ROW_WORK_MAX)
    assert abs(largest_value() - 2 * most) < 100  # bytes of the row itself
    refusal_of.cache_clear()


# ---- policies


def stated(*facts):
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE mycomesh_schema(name TEXT PRIMARY KEY, kind TEXT, sql TEXT) WITHOUT ROWID")
    db.executemany("INSERT INTO mycomesh_schema VALUES(?, ?, ?)", facts)
    return Policies.read(db, "mycomesh_schema")


@pytest.mark.parametrize("count", [GENERATED_MAX - 1, GENERATED_MAX, GENERATED_MAX + 1])
def test_generated_columns_that_facts_name(count):
    facts = [policy.generated_fact("t", f"g{number:04}", "x AS (1)") for number in range(count)]
    assert len(stated(*facts).generated["t"]) == min(count, GENERATED_MAX)


@around(COLUMN_CHARS_MAX)
def test_characters_of_a_name_in_a_fact(value, fits):
    renamed = stated(policy.name_fact(("t", "a"), "x" * value)).renames
    assert (("t", "a") in renamed) is fits
    db = apsw.Connection(":memory:")
    db.execute(f"CREATE TABLE t(id INTEGER PRIMARY KEY, {'c' * value} INTEGER)")
    spec = read_table(db, "t")
    assert (policy.counter_refusal(spec, "c" * value) == "") is fits


@around(KEEP_BOTH_ROWS_MAX)
def test_rows_of_a_table_that_may_keep_both(value, fits):
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY)")
    assert (policy.keep_both_refusal(read_table(db, "t"), value) == "") is fits


# ---- values


def test_bytes_of_a_change_that_is_sent(file, monkeypatch):
    assert CHANGE_BYTES_MAX == 20 << 20
    monkeypatch.setattr(large_rows, "CHANGE_BYTES_MAX", 100)
    file.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v, w)")
    file.drain()
    table = file.replica.tables["t"]
    for size in (99, 100, 101):
        assert (oversized(table, {"id": 1, "v": b"x" * size, "w": None}) == 0) is (size <= 100)
    mask = table.columns.mask_of(["v", "w"])
    for size in (49, 50, 51):
        assert len(portions(table, mask, {"v": b"x" * 50, "w": b"x" * size})) == (1 if size <= 50 else 2)


# ---- requests


@pytest.mark.parametrize(
    "burst",
    [exchange.REQUESTS_MAX, repair_schedule.REQUESTS_MAX, serve.REPEATS_MAX],
    ids=["rounds", "repairs", "repeats"],
)
def test_a_burst_of_requests_is_taken_and_no_more(burst):
    bucket = TokenBucket(burst, 1_000)
    assert [bucket.take(5) for _ in range(burst + 1)] == [True] * burst + [False]
    assert [bucket.take(1_006) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_requests_for_audits_beyond_the_burst_end_link(attacked, more):
    _, _, liar = attacked
    for number in range(64 + more):
        liar.say(wire.AuditRequest("t", bytes(16), number, number + 1))
    assert ("requests audits too often" in liar.dropped()) is (more > 0)
    assert exchange.REQUESTS_MAX == 64


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_requests_for_repairs_beyond_the_burst_end_link(attacked, more):
    _, node, liar = attacked
    for number in range(repair_schedule.REQUESTS_MAX + more):
        liar.say(wire.RepairRequest("t", number.to_bytes(10, "big")))
        links = node.exchange._repairs._links
        assert liar.link not in links or len(links[liar.link].repairs) <= repair_schedule.REPAIRS_MAX
    assert ("requests repairs too often" in liar.dropped()) is (more > 0)
