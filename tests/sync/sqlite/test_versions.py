"""The SQLite that a definition needs."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.sqlite.versions import OLDER, SINCE, newest_need, parse_version


def test_every_function_of_this_sqlite_is_classified():
    """A later SQLite has functions that are in neither list: look up the version in sqlite.org/changes.html, and add them."""
    db = apsw.Connection(":memory:")
    names = {name for (name,) in db.execute("SELECT DISTINCT name FROM pragma_function_list")}
    assert sorted(names - OLDER - SINCE.keys()) == []
    assert not OLDER & SINCE.keys()


@pytest.mark.parametrize(
    ("sql", "version", "why"),
    [
        (
            "CREATE TABLE f2(id INTEGER PRIMARY KEY, d BLOB CHECK(json_valid(d, 8)))",
            (3, 45),
            "json_valid() with 2 arguments",
        ),
        ("CREATE TABLE t(d CHECK(json_valid(d)))", (0, 0), ""),
        ("CREATE TABLE t(d CHECK(1+json_pretty(d) IS NOT concat(d, 'x')))", (3, 46), "json_pretty()"),
        ('CREATE TABLE t(d CHECK("unistr" (d)))', (3, 50), "unistr()"),
        ("CREATE INDEX i ON t(d ->> '$.a')", (3, 38), "the operator ->"),
        ("CREATE INDEX i ON t(a) WHERE octet_length(a) > 1", (3, 43), "octet_length()"),
        ("CREATE INDEX i ON t(iif(a, 1, 2))", (3, 32), "iif()"),
        ("CREATE INDEX i ON t(iif(a, (1, 2)))", (3, 48), "iif() with 2 arguments"),
        ("g AS (unixepoch(d))", (3, 38), "unixepoch()"),
        ("CREATE TABLE t(d DEFAULT 1_000)", (3, 46), "the number 1_000"),
        ("CREATE TABLE t(d TEXT) STRICT", (3, 37), "STRICT"),
        ("CREATE TABLE t(a CHECK(a IS NOT DISTINCT FROM 1))", (3, 39), "IS DISTINCT FROM"),
        ("CREATE TABLE t(a, concat TEXT, b CHECK(b IN ('json_pretty(a)'))) -- jsonb(a)", (0, 0), ""),
        ("CREATE TABLE concat(a REFERENCES median(b))", (0, 0), ""),
        ("CREATE INDEX i ON percentile(a)", (0, 0), ""),
        ("CREATE TABLE t1_2(a_1 DEFAULT 'x -> y', b CHECK(b <> '1_0'))", (0, 0), ""),
    ],
)
def test_the_newest_need_of_a_text(sql, version, why):
    assert newest_need(sql) == (version, why)


@pytest.mark.parametrize(
    ("text", "version"), [("3.45", (3, 45)), ("3.45.1", (3, 45)), ("3", None), ("3.1", None), ("", None)]
)
def test_versions_are_read(text, version):
    assert parse_version(text) == version


# Nesting below and above STACK_MAX is at the end.
@pytest.mark.parametrize(
    ("sql", "needed"),
    [
        ("SELECT group_concat(a, ',' ORDER BY b) FROM t", (3, 44)),
        ("SELECT group_concat(a) OVER (ORDER BY b) FROM t", (0, 0)),
        ("SELECT max(1, (SELECT a FROM t ORDER BY a LIMIT 1)) FROM (SELECT a FROM t ORDER BY 1)", (0, 0)),
        ("SELECT 1 FROM t FULL OUTER JOIN u", (3, 39)),
        ("SELECT RAISE(ABORT, 'a' || NEW.b)", (3, 47)),
        ("SELECT RAISE(ABORT, 'a'), RAISE(IGNORE)", (0, 0)),
        ("SELECT " + "max(1, " * 17 + "1" + ")" * 17, (3, 47)),
        ("SELECT " + "(" * 90 + "1" + ")" * 90, (3, 47)),
        ("SELECT " + "max(1, " * 8 + "1" + ")" * 8, (0, 0)),
        ("SELECT 1" + " + 1" * 500 + " AND 1" * 100, (0, 0)),
    ],
)
def test_syntax_of_views_has_its_version(sql, needed):
    assert newest_need(f"CREATE VIEW v AS {sql}")[0] == needed
