"""Bodies of messages in each format."""

from __future__ import annotations

import json

import cbor2
import pytest

from mycomesh.tools.bridges.bodies import DEPTH_MAX, BodyError, columns_of, sql_value, writer_of

CHANGE = {
    "id": "t/00/6553600",
    "table": "t",
    "op": "update",
    "row": "1",
    "who": "alpha",
    "key": {"id": 1},
    "values": {"id": 1, "name": "é", "raw": {"base64": "AP8="}},
}


@pytest.mark.parametrize("kind", ["row", "debezium", "cbor"])
def test_columns_come_back_as_they_went(kind):
    values, deletes = columns_of(writer_of(kind)(CHANGE), kind)
    assert not deletes
    assert {name: sql_value(value) for name, value in values.items()} == {"id": 1, "name": "é", "raw": b"\x00\xff"}


def test_debezium_names_operation_source_and_key():
    envelope = json.loads(writer_of("debezium")(CHANGE))
    assert (envelope["op"], envelope["before"], envelope["source"]["ts_ms"]) == ("u", None, 100)
    gone = writer_of("debezium")({**CHANGE, "op": "delete", "values": None})
    assert columns_of(gone, "debezium") == ({"id": 1}, True)
    assert writer_of("row")({**CHANGE, "values": None}) is None


@pytest.mark.parametrize("kind", ["row", "debezium"])
def test_infinity_is_written_as_json(kind):
    values = {"id": 1, "name": "é", "up": float("inf"), "down": float("-inf")}
    body = writer_of(kind)({**CHANGE, "values": values})
    assert b"Infinity" not in body
    assert columns_of(body, kind) == (values, False)


@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (b"{", "row", "no JSON"),
        (b'{"a": NaN}', "row", "NaN is no number"),
        (b"[1]", "row", "the body is an array"),
        (b"null", "row", "the body is null"),
        (b"\xff" * 3, "cbor", "no CBOR"),
        (b"[" * 100_000, "row", "no JSON"),
        (b'{"a": 1}', "debezium", "no envelope"),
        (b"\x81" * (DEPTH_MAX + 1) + b"\xa0", "cbor", "no CBOR"),
        (cbor2.dumps({1: 2}), "cbor", "where an object"),
    ],
)
def test_a_body_without_a_row_is_refused(body, kind, said):
    with pytest.raises(BodyError, match=said):
        columns_of(body, kind)


@pytest.mark.parametrize(
    ("value", "stored"), [(True, 1), (1.5, 1.5), (None, None), ([1, "a"], '[1,"a"]'), ({"a": 1}, '{"a":1}')]
)
def test_values_of_json_become_values_of_sql(value, stored):
    assert sql_value(value) == stored


def laughs(depth):
    """Return the body of a list whose items name the item before them twice."""
    items = [b"\xd8\x1c\x82\x01\x02", *(b"\xd8\x1c\x82" + 2 * bytes([0xD8, 0x1D, n]) for n in range(depth - 1))]
    return b"\xa1\x61a" + bytes([0x80 + depth]) + b"".join(items)


def test_cbor_that_repeats_itself_is_refused():
    repeated = b"\x79\x07\xd0" + b"x" * 2_000 + b"\xd8\x19\x00" * 9
    for body in (laughs(20), b"\xa1\x61a\xd9\x01\x00\x8a" + repeated):
        with pytest.raises(BodyError, match="repeats parts of itself"):
            columns_of(body, "cbor")
    honest = {"text": "x" * 300, "list": [[1] * 50, ["a"] * 50, {"k": []}], "map": {"a": 1}, "raw": b"y" * 300}
    assert columns_of(cbor2.dumps(honest), "cbor") == (honest, False)


@pytest.mark.parametrize("value", [1 << 63, {"base64": "!"}, {1, 2}])
def test_a_value_that_cannot_be_stored_is_refused(value):
    with pytest.raises(BodyError):
        sql_value(value)
