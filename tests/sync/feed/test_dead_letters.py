"""Dead letters: what is kept of a change that a reader could not deal with, and how it comes again."""

from __future__ import annotations

import json

import pytest

from mycomesh.sync.errors import FeedError
from mycomesh.sync.feed import dead_letters, letters_sql


@pytest.fixture
def node(pair):
    one, _ = pair
    one.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v); CREATE TABLE b(v); INSERT INTO t VALUES(1, 'a'), (2, 'b')")
    one.drain()
    for table in "tb":
        one.published += one.replica.feed.create("reader", table, one.wall_ms)[0]
    return one


def read(node, table="t"):
    feed = node.replica.feed
    page, _ = feed.read(table, lambda: feed.position("reader", table), node.wall_ms)
    feed.move("reader", table, page.position, node.wall_ms)
    return page.changes


def test_a_change_set_aside_keeps_its_line_and_reason(node):
    change, _ = read(node)
    feed = node.replica.feed
    feed.set_aside("reader", change, "no route to host", 3, 1_000)
    feed.set_aside("reader", change, "still none", 1, 2_000)
    (letter,) = feed.letters.all()
    assert (letter.reader, letter.id, letter.table, letter.row, letter.tries) == ("reader", change.id, "t", "1", 4)
    assert letter.why == "still none"
    assert json.loads(letter.body)["values"] == {"id": 1, "v": "a"}
    assert letter.first_at < letter.last_at
    assert feed.drop_letter(letter.number).id == change.id
    assert feed.letters.all() == []
    with pytest.raises(FeedError, match="no dead letter 1; 'mycomesh dead' lists them"):
        feed.drop_letter(letter.number)


@pytest.mark.parametrize("table", ["t", "b"])
def test_a_retried_letter_comes_again_as_its_row_is(node, table):
    node.sql("INSERT INTO b VALUES('x')")
    node.drain()
    change = read(node, table)[0]
    feed = node.replica.feed
    feed.set_aside("reader", change, "why", 3, 1_000)
    node.sql(f"UPDATE {table} SET v = 'new'")
    node.drain()
    read(node, table)
    (letter,) = feed.letters.all()
    feed.retry_letter(letter.number)
    (again,) = read(node, table)
    assert (again.row, again.op, again.values["v"]) == (change.row, "insert", "new")
    assert again.id != change.id
    assert read(node, table) == []
    assert feed.letters.all() == []


def test_retried_letter_of_deleted_row_is_a_delete(node):
    change = read(node)[0]
    feed = node.replica.feed
    feed.set_aside("reader", change, "why", 3, 1_000)
    node.sql("DELETE FROM t WHERE id = 1")
    node.drain()
    read(node)
    feed.retry_letter(1)
    assert [(again.op, again.row) for again in read(node)] == [("delete", "1")]


def test_letters_are_bounded_by_number_and_bytes(node, monkeypatch):
    change = read(node)[0]
    letters, count = node.replica.feed, 5
    monkeypatch.setattr(dead_letters, "LETTERS_MAX", count)
    for number in range(8):
        letters.set_aside(f"reader {number}", change, "why", 1, 1_000)
        assert len(letters.letters.all()) == min(number + 1, count)
    assert [letter.reader for letter in letters.letters.all()] == [f"reader {number}" for number in range(3, 8)]
    monkeypatch.setattr(dead_letters, "LETTERS_BYTES_MAX", 2 * len(change.to_json()))
    letters.set_aside("last", change, "x" * 2 * letters_sql.WHY_CHARS_MAX, 1, 1_000)
    assert [letter.reader for letter in letters.letters.all()] == ["reader 7", "last"]
    assert len(letters.letters.all()[1].why) == letters_sql.WHY_CHARS_MAX


def test_without_a_cursor_nothing_can_be_retried(node):
    change = read(node)[0]
    feed = node.replica.feed
    feed.set_aside("reader", change, "why", 1, 1_000)
    feed.drop("reader")
    with pytest.raises(FeedError, match="no cursor is left that could read t again"):
        feed.retry_letter(1)


def test_a_reason_is_one_line_for_a_terminal():
    assert letters_sql.why_line(" one\n\ttwo \x1b[31m" + 3 * letters_sql.WHY_CHARS_MAX * "\n") == "one two ?[31m"
