"""Capture is complete: every table shape, every way to write, through the stock shell, ends equal on another replica."""

from __future__ import annotations

import shutil

import apsw
import pytest

from tests.sync.peers import Peer, assert_equal, catch_up, content, converge, shell
from tests.sync.shapes import SHAPES

# ---- every way to write, as scripts that run one after another; each fits every shape


def scripts(way):
    """One script a step, every shape in each step."""
    steps = [way(shape) for shape in SHAPES]
    return [";\n".join(statement for step in column for statement in step) + ";" for column in zip(*steps, strict=True)]


def three(shape):
    return [shape.insert(0, "'a'", "1"), shape.insert(1, "'b'", "2"), shape.insert(2, "'c'", "3")]


def insert(shape):
    return [three(shape)]


def insert_many_at_once(shape):
    rows = ", ".join(f"({shape.keys[number]}, {number}, {number})" for number in range(4))
    return [[f"INSERT INTO {shape.t}({shape.columns('v', 'u')}) VALUES {rows}"]]


def insert_from_select(shape):
    return [
        [shape.insert(0, "'a'", "1")],
        [f"INSERT INTO {shape.t}({shape.columns('v')}) SELECT {shape.keys[3]}, v || 'x' FROM {shape.t}"],
    ]


def update_one_column(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = 'changed' WHERE {shape.where(1)}"]]


def update_every_row(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = v || '+', u = u + 100"]]


def update_to_the_same(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = v, u = u"]]


def update_the_type_only(shape):
    """1, 1.0 and '1': two of them compare equal, and a replica must hold the very value."""
    return [
        [shape.insert(0, "1"), shape.insert(1, "1.0"), shape.insert(2, "'1'")],
        [
            f"UPDATE {shape.t} SET v = 1.0 WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET v = 1 WHERE {shape.where(1)}",
            f"UPDATE {shape.t} SET v = x'31' WHERE {shape.where(2)}",
        ],
    ]


def update_case_only(shape):
    return [[shape.insert(0, "'a' COLLATE NOCASE")], [f"UPDATE {shape.t} SET v = 'A'"]]


def delete_one(shape):
    return [three(shape), [f"DELETE FROM {shape.t} WHERE {shape.where(1)}"]]


def delete_every_row(shape):
    return [three(shape), [f"DELETE FROM {shape.t}"]]


def delete_and_insert_again(shape):
    return [
        three(shape),
        [f"DELETE FROM {shape.t}", shape.insert(0, "'again'", "3")],
        [f"DELETE FROM {shape.t}"],
        [shape.insert(1, "'once more'", "1")],
    ]


def upsert(shape):
    target = f"({shape.columns()})" if shape.primary else "(u)"
    return [
        three(shape),
        [
            f"{shape.insert(0, repr('new'), '1')} ON CONFLICT{target} DO UPDATE SET v = v || excluded.v",
            f"{shape.insert(3, repr('else'), '2')} ON CONFLICT(u) DO UPDATE SET v = 'upserted'",
            f"{shape.insert(4, repr('none'), '3')} ON CONFLICT DO NOTHING",
        ],
    ]


def replace_through_unique(shape):
    """The evicted row fires no delete trigger, for recursive_triggers is off by default."""
    return [three(shape), [shape.insert(3, "'winner'", "2", how="REPLACE")]]


def replace_through_unique_recursive(shape):
    return [three(shape), ["PRAGMA recursive_triggers = 1", shape.insert(3, "'winner'", "2", how="REPLACE")]]


def replace_same_key(shape):
    return [three(shape), [shape.insert(0, "'replaced'", "9", how="REPLACE")]]


def replace_two_rows_at_once(shape):
    return [three(shape), [shape.insert(0, "'both'", "2", how="INSERT OR REPLACE")]]


def update_or_replace(shape):
    return [three(shape), [f"UPDATE OR REPLACE {shape.t} SET u = 3 WHERE {shape.where(0)}"]]


def update_or_replace_recursive(shape):
    return [
        three(shape),
        ["PRAGMA recursive_triggers = 1", f"UPDATE OR REPLACE {shape.t} SET u = 3 WHERE {shape.where(0)}"],
    ]


def insert_or_ignore(shape):
    return [three(shape), [shape.insert(3, "'ignored'", "2", how="INSERT OR IGNORE"), shape.insert(4, "'kept'", "5")]]


def change_keys(shape):
    return [three(shape), [f"UPDATE {shape.t} SET {shape.set_key(3)} WHERE {shape.where(0)}"]]


def move_keys_round(shape):
    """a -> d, b -> a, d -> b in one transaction: two rows swap their keys."""
    return [
        three(shape),
        [
            "BEGIN",
            f"UPDATE {shape.t} SET {shape.set_key(3)} WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET {shape.set_key(0)} WHERE {shape.where(1)}",
            f"UPDATE {shape.t} SET {shape.set_key(1)} WHERE {shape.where(3)}",
            "COMMIT",
        ],
    ]


def change_keys_with_replace(shape):
    return [three(shape), [f"UPDATE OR REPLACE {shape.t} SET {shape.set_key(1)}, v = 'moved' WHERE {shape.where(0)}"]]


def savepoints(shape):
    return [
        three(shape),
        [
            "BEGIN",
            "SAVEPOINT one",
            f"UPDATE {shape.t} SET v = 'undone'",
            shape.insert(3, "'undone'"),
            "ROLLBACK TO one",
            f"UPDATE {shape.t} SET v = 'kept' WHERE {shape.where(2)}",
            "RELEASE one",
            "COMMIT",
        ],
        ["BEGIN", f"DELETE FROM {shape.t}", "ROLLBACK"],
    ]


def returning(shape):
    return [
        [f"{shape.insert(0, '5')} RETURNING v", shape.insert(1, "6")],
        [f"UPDATE {shape.t} SET v = v + 1 RETURNING *", f"DELETE FROM {shape.t} WHERE v = 6 RETURNING v"],
    ]


def update_from(shape):
    return [three(shape), [f"UPDATE {shape.t} SET v = w.x FROM (SELECT 2 AS y, 'joined' AS x) AS w WHERE u = w.y"]]


def in_and_out_in_one_transaction(shape):
    return [
        [
            "BEGIN",
            *three(shape),
            f"DELETE FROM {shape.t} WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET v = 1",
            "COMMIT",
        ]
    ]


def odd_values(shape):
    return [
        [
            shape.insert(0, "-9223372036854775808"),
            shape.insert(1, "9e999"),
            shape.insert(2, "'a' || char(0) || 'b'"),
            shape.insert(3, "zeroblob(0)"),
            shape.insert(4, "NULL"),
        ],
        [
            f"UPDATE {shape.t} SET v = -9e999 WHERE {shape.where(0)}",
            f"UPDATE {shape.t} SET v = '' WHERE {shape.where(1)}",
            f"UPDATE {shape.t} SET v = x'00ff00' WHERE {shape.where(2)}",
            f"UPDATE {shape.t} SET v = 0.1 WHERE {shape.where(3)}",
            f"UPDATE {shape.t} SET v = -0.0 WHERE {shape.where(4)}",
        ],
    ]


WAYS = (
    insert, insert_many_at_once, insert_from_select, update_one_column, update_every_row, update_to_the_same,
    update_the_type_only, update_case_only, delete_one, delete_every_row, delete_and_insert_again, upsert,
    replace_through_unique, replace_through_unique_recursive, replace_same_key, replace_two_rows_at_once,
    update_or_replace, update_or_replace_recursive, insert_or_ignore, change_keys, move_keys_round,
    change_keys_with_replace, savepoints, returning, update_from, in_and_out_in_one_transaction, odd_values,
)  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Two replicas with every shape, and a plain file; made once, copied for each test."""
    folder = tmp_path_factory.mktemp("template")
    schema = ";\n".join(shape.ddl for shape in SHAPES) + ";"
    shell(folder / "plain.db", schema)
    first, second = (Peer(folder / f"{number}.db", number) for number in range(2))
    first.shell(schema)
    converge([first, second])
    assert_equal(first, second)
    assert len(second.tables()) == len(SHAPES)
    first.close()
    second.close()
    return folder


@pytest.fixture
def pair(template, tmp_path):
    for path in sorted(template.iterdir()):
        shutil.copy(path, tmp_path)
    peers = [Peer(tmp_path / f"{number}.db", number) for number in range(2)]
    yield peers
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("drain", ["after each step", "at the end"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_shape_written_in_this_way_ends_equal(pair, tmp_path, way, drain):
    first, second = pair
    for script in scripts(way):
        first.shell(script)
        shell(tmp_path / "plain.db", script)
        if drain == "after each step":
            second.take(first.drain(), first.node_id)
    second.take(first.drain(), first.node_id)
    assert_equal(first, second)
    plain = apsw.Connection(str(tmp_path / "plain.db"))
    assert first.tables() == content(plain)  # capture changed nothing for the application
    plain.close()


@pytest.mark.parametrize("way", [update_every_row, delete_and_insert_again, move_keys_round, odd_values], ids=str)
def test_every_shape_reaches_an_empty_file_by_a_round(pair, tmp_path, way):
    first, _ = pair
    for script in scripts(way):
        first.shell(script)
    late = Peer(tmp_path / "late.db", 7)
    catch_up(late, first)
    catch_up(late, first)  # the tables came with the first round
    assert_equal(first, late)
    late.close()
