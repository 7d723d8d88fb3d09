"""Models on rows: columns to tensors and back, pages and single rows, rollouts, and what does not fit, in one line each."""

from __future__ import annotations

import base64
import struct

import apsw
import pytest

pytest.importorskip("onnxruntime")
from mycomesh.tools.flows.onnx_function import ModelWorker
from mycomesh.tools.flows.sql_function import NotReadyError
from mycomesh.tools.flows.writer import Batch
from mycomesh.tools.models import store
from mycomesh.tools.models.onnx_file import (
    FLOAT,
    INT64,
    STRING,
    Value,
    constant,
    file_of_path,
    model,
    node,
)

TABLES = (
    "CREATE TABLE drones(id TEXT PRIMARY KEY, x, y); CREATE TABLE alerts(key TEXT PRIMARY KEY, id TEXT, z, w);"
    "CREATE TABLE IF NOT EXISTS mycomesh_status(node); INSERT INTO mycomesh_status VALUES('n1')"
)
ADD = model(
    [node("Add", ["x", "y"], "z")], [Value("x", FLOAT, ["n"]), Value("y", FLOAT, ["n"])], [Value("z", FLOAT, ["n"])]
)


def times(number):
    return model(
        [node("Mul", ["x", "c"], "z")],
        [Value("x", FLOAT, ["n"])],
        [Value("z", FLOAT, ["n"])],
        [constant("c", [1], [number])],
    )


@pytest.fixture
def flow(writer, tmp_path):
    """Return a function that opens a writer with a model of those bytes."""

    def make(content=ADD, **section):
        opened = writer("onnx: m", sql=TABLES, **section)
        if content:
            put(tmp_path, content)
        return opened

    return make


def put(tmp_path, content, **more):
    db = apsw.Connection(str(tmp_path / "f.db"))
    return store.add(db, "m", content, **({"card": "", "nodes": "*", "version": None} | more))


def write(flow, *changes):
    return flow.write(Batch(len(changes), list(changes), list(range(len(changes)))), b"\x01", lambda _: b"\x01")


def letters(rows):
    return [why for (why,) in rows("SELECT why FROM mycomesh_dead_letters ORDER BY seq")]


def test_page_of_rows_is_one_call(flow, change, rows, monkeypatch):
    calls = []
    ask = ModelWorker.ask
    monkeypatch.setattr(ModelWorker, "ask", lambda self, asked: calls.append(len(asked)) or ask(self, asked))
    write(flow(), *(change(n, id=f"d{n}", x=n, y=0.5) for n in range(50)))
    assert calls == [1, 1]  # what the model is, and all rows
    assert rows("SELECT id, z, w FROM alerts ORDER BY z LIMIT 2") == [("d0", 0.5, None), ("d1", 1.5, None)]
    assert rows("SELECT count(*), count(DISTINCT key) FROM alerts") == [(50, 50)]


def test_row_that_does_not_fit_fails_alone(flow, change, rows):
    write(
        flow(),
        change(1, id="a", x=1, y=1),
        change(2, id="b", x=None, y=1),
        change(3, id="c", x="high", y=1),
        change(4, id="d", x={"base64": "AAAA"}, y=1),
        change(5, id="e", x=1e300, y=-1),
    )
    assert rows("SELECT id, z FROM alerts ORDER BY id") == [("a", 2.0), ("e", float("inf"))]
    why = letters(rows)
    assert why[0] == "x is NULL, and the model takes numbers"
    assert why[1] == "x is 'high', and the model takes numbers"
    assert "a blob of 3 bytes" in why[2]


def test_columns_fill_one_tensor_and_back(flow, change, rows):
    pair = Value("p", FLOAT, ["n", 2])
    twice = model([node("Add", ["p", "p"], "q")], [pair], [Value("q", FLOAT, ["n", 2])])
    write(flow(twice, inputs={"p": ["x", "y"]}, outputs={"q": ["z", "w"]}), change(1, id="a", x=1, y=2))
    assert rows("SELECT z, w FROM alerts") == [(2.0, 4.0)]


def test_the_model_itself_may_name_columns(flow, change, rows):
    pair = Value("p", FLOAT, ["n", 2])
    named = {"columns.p": "x, y", "columns.q": "z, w"}
    twice = model([node("Add", ["p", "p"], "q")], [pair], [Value("q", FLOAT, ["n", 2])], metadata=named)
    write(flow(twice), change(1, id="a", x=1, y=2))
    assert rows("SELECT z, w FROM alerts") == [(2.0, 4.0)]


def test_blobs_are_tensors_of_any_length(flow, change, rows):
    twice = model([node("Add", ["x", "x"], "z")], [Value("x", FLOAT, ["n", "any"])], [Value("z", FLOAT, ["n", "any"])])
    blob = [{"base64": base64.b64encode(struct.pack(f"<{n}f", *range(n))).decode()} for n in (3, 4, 3)]
    opened = flow(twice)
    write(
        opened,
        *(change(n, id=f"d{n}", x=each, y=0) for n, each in enumerate(blob)),
        change(9, id="odd", x={"base64": "AAA="}, y=0),
    )
    found = rows("SELECT z FROM alerts ORDER BY id")
    assert found[:2] == [(struct.pack("<3f", 0, 2, 4),), (struct.pack("<4f", 0, 2, 4, 6),)]
    assert found[2] == found[0]
    assert "a blob of 2 bytes is no tensor(float)" in letters(rows)[0]


def test_answers_beyond_a_line_go_in_parts(flow, change, rows, monkeypatch):
    calls = []
    ask = ModelWorker.ask
    monkeypatch.setattr(ModelWorker, "ask", lambda self, asked: calls.append(asked[0].get("rows")) or ask(self, asked))
    wide = model(
        [node("MatMul", ["x", "c"], "z")],
        [Value("x", FLOAT, ["n", 1])],
        [Value("z", FLOAT, ["n", 2_000])],
        [constant("c", [1, 2_000], [1.0] * 2_000)],
    )
    opened = flow(wide)
    for page in range(2):
        opened.read_position()
        write(opened, *(change(1_000 * page + n, id=f"{page}-{n}", x=n, y=0) for n in range(600)))
    assert calls == [None, 600, 300, 300, 300, 300]
    assert rows("SELECT count(*), min(length(z)), max(length(z)) FROM alerts") == [(1_200, 8_000, 8_000)]


def test_model_of_single_rows_takes_pages(flow, change, rows):
    single = model([node("Add", ["x", "x"], "z")], [Value("x", FLOAT, [1, 1])], [Value("z", FLOAT, [1, 1])])
    write(flow(single), *(change(n, id=f"d{n}", x=n, y=0) for n in range(5)))
    assert [z for (z,) in rows("SELECT z FROM alerts ORDER BY z")] == [0.0, 2.0, 4.0, 6.0, 8.0]


def test_numbers_texts_and_constants_have_their_types(flow, change, rows):
    content = model(
        [node("Add", ["x", "k"], "z"), node("Identity", ["y"], "w")],
        [Value("x", INT64, ["n"]), Value("k", INT64, []), Value("y", STRING, ["n"])],
        [Value("z", INT64, ["n"]), Value("w", STRING, ["n"])],
    )
    opened = flow(content, inputs={"k": 5})
    write(opened, change(1, id="a", x=2**40, y="é"), change(2, id="b", x=7.0, y="b"), change(3, id="c", x=7.5, y="c"))
    assert rows("SELECT z, w FROM alerts ORDER BY id") == [(2**40 + 5, "é"), (12, "b")]
    assert letters(rows) == ["a number does not fit tensor(int64) of the input 'x'"]


def test_select_makes_the_rows_of_the_model(flow, change, rows):
    opened = flow(on="SELECT id || '!' AS id, x + 1 AS x, y FROM drones WHERE x > 0")
    write(opened, change(1, id="a", x=1, y=1), change(2, id="b", x=0, y=1))
    assert rows("SELECT id, z FROM alerts") == [("a!", 3.0)]


def test_rollout_takes_effect_with_the_next_page(flow, change, rows, tmp_path):
    opened = flow(times(2), keep=["id"])
    write(opened, change(1, id="a", x=1, y=0))
    put(tmp_path, times(3), nodes="other*")
    opened.read_position()
    write(opened, change(2, id="b", x=1, y=0))
    made = put(tmp_path, times(5))
    write(opened, change(3, id="c", x=1, y=0))
    db = apsw.Connection(str(tmp_path / "f.db"))
    assert [store.rollback(db, "m")[1].version for _ in range(2)] == [2, 1]
    write(opened, change(4, id="d", x=1, y=0))
    assert rows("SELECT id, z FROM alerts ORDER BY id") == [("a", 2.0), ("b", 2.0), ("c", 5.0), ("d", 2.0)]
    assert rows("SELECT first, version FROM mycomesh_model_uses ORDER BY first") == [(1, 1), (3, 3), (4, 1)]
    assert rows("SELECT flow, node, sha256 FROM mycomesh_model_uses WHERE first = 3") == [("low", "n1", made.sha256)]
    assert opened.function.note.startswith("m version 1")


def test_version_that_is_not_complete_is_waited_for(flow, change, rows, tmp_path):
    opened = flow(times(2))
    write(opened, change(1, id="a", x=1, y=0))
    made = put(tmp_path, times(3))
    rows("UPDATE mycomesh_model_parts SET sha256 = 'later' WHERE sha256 = '" + made.sha256 + "'")
    write(opened, change(2, id="b", x=1, y=0))
    assert "0 of 1 parts are here" in opened.function.note
    rows(f"UPDATE mycomesh_model_parts SET sha256 = '{made.sha256}' WHERE sha256 = 'later'")
    write(opened, change(3, id="c", x=1, y=0))
    assert rows("SELECT z FROM alerts ORDER BY id") == [(2.0,), (2.0,), (3.0,)]


@pytest.mark.parametrize(
    ("content", "section", "line"),
    [
        (None, {}, "there is no model 'm' in this file; add it: mycomesh model add m FILE.onnx"),
        (b"no model", {}, "the runtime refuses the model: "),
        (ADD, {"inputs": {"x": "volts"}}, "input 'x' needs a column 'volts', and there are id, x, y"),
        (ADD, {"inputs": {"q": "x"}}, "the model has no 'q' among its inputs: 'x', 'y'"),
        (ADD, {"outputs": {"z": "what"}}, "no column 'what' for the output 'z'"),
        (ADD, {"outputs": {"q": "z"}}, "no 'q' among its outputs: 'z'"),
        (ADD, {"keep": ["z"]}, "keep: 'z' has to be a column of the row and of the table"),
        (ADD, {"inputs": {"x": ["x", "y"]}}, "takes 1 numbers of a row, and has 2 columns"),
    ],
    ids=["no model", "no onnx", "no column", "no input", "no result", "no output", "nothing to keep", "width"],
)
def test_the_flow_waits_for_what_is_missing(flow, change, content, section, line):
    opened = flow(content, **section)
    with pytest.raises(NotReadyError) as raised:
        write(opened, change(1, id="a", x=1, y=1))
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_extra_is_one_line(flow, change, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NotReadyError, match=r"the extra 'onnx' is missing; install it: pip install 'mycomesh\[onnx\]'"):
        write(flow(), change(1, id="a", x=1, y=1))


def test_a_model_reads_no_file_of_this_machine(flow, change, rows, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("a key")
    thief = model(
        [node("Cast", ["s"], "f", to=FLOAT), node("Add", ["x", "f"], "z")],
        [Value("x", FLOAT, ["n"])],
        [Value("z", FLOAT, ["n"])],
        [file_of_path("s", [1], "secret.txt")],
    )
    with pytest.raises(NotReadyError, match="the runtime refuses the model"):
        write(flow(thief, directory=str(tmp_path)), change(1, id="a", x=1, y=1))
    assert rows("SELECT z FROM alerts") == []


def test_model_with_too_much_memory_fails_alone(flow, change, rows):
    huge = model(
        [node("Expand", ["x", "shape"], "wide"), node("ReduceMax", ["wide"], "z", keepdims=0)],
        [Value("x", FLOAT, ["n"])],
        [Value("z", FLOAT, [])],
        [constant("shape", [2], [1 << 30, 1], INT64)],
    )
    write(flow(huge), change(1, id="a", x=1, y=1))
    assert len(letters(rows)) == 1
    assert rows("SELECT count(*) FROM alerts") == [(0,)]


def test_sample_shows_results_and_writes_nothing(flow, rows):
    opened = flow()
    rows("INSERT INTO drones VALUES('a', 1, 2), ('b', 'x', 2)")
    assert [each for _, each in opened.sample(5)] == ["x is 'x', and the model takes numbers", [{"z": 3.0, "id": "a"}]]
    assert rows("SELECT count(*) FROM alerts") == [(0,)]
