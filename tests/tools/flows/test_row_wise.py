"""Which statements make one result of each row at most, so that they may run for many at once."""

from __future__ import annotations

import pytest

from mycomesh.tools.flows.row_wise import names_table, row_wise


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id AS drone FROM new",
        "select id from NEW where battery < 20",
        "INSERT INTO alerts SELECT id, name, at FROM new",
        "INSERT OR IGNORE INTO alerts SELECT n._key, n.id FROM new AS n WHERE n.id NOT IN (SELECT id FROM old ORDER BY id)",
        "SELECT 'GROUP BY; LIMIT' AS a -- ORDER BY\n, \"order\" FROM new /* JOIN b */",
        'SELECT new.id, (SELECT name FROM zones z WHERE z.id = new.zone) FROM "new"',
        "SELECT id, (SELECT x FROM old WHERE old.id = new.id ORDER BY at DESC LIMIT 1) FROM new",
        "SELECT id FROM new WHERE id IN (WITH a AS (SELECT 1) SELECT * FROM a UNION SELECT 2) AND n IN (VALUES(1), (2))",
        "SELECT abs(-9 - battery) AS what FROM new WHERE true ON CONFLICT DO NOTHING",
    ],
)
def test_one_row_makes_one_result(sql):
    assert row_wise(sql, "new") is not None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT DISTINCT id FROM new",
        "SELECT id FROM new ORDER BY id",
        "SELECT id FROM new LIMIT 1",
        "SELECT name FROM new GROUP BY name",
        "SELECT a.id FROM new a, new b",
        "SELECT id FROM new JOIN zones USING (zone)",
        "SELECT new.id, value FROM new, json_each(battery)",
        "SELECT id FROM zones WHERE id IN (SELECT id FROM new)",
        "SELECT id FROM zones, new",
        "SELECT id, (SELECT count(*) FROM new) FROM new",
        "SELECT id FROM new UNION ALL SELECT id FROM new",
        "WITH x AS (SELECT * FROM new) SELECT id FROM x",
        "SELECT row_number() OVER () FROM new",
        "SELECT abs(sum(id) OVER ()) FROM new",
        "SELECT abs(count(*) FILTER (WHERE id > (SELECT 1))) FROM new",
        "SELECT id, (WITH new AS (SELECT 1) SELECT * FROM new) FROM new",
        "SELECT (1), (2) FROM new LIMIT (SELECT 1)",
        "INSERT INTO alerts VALUES(1)",
        "SELECT FROM new",
        "SELECT id FROM news",
        "SELECT id FROM 'new'",
    ],
)
def test_others_may_not(sql):
    assert row_wise(sql, "new") is None


def test_the_list_of_columns_ends_before_from():
    sql = "SELECT id AS a, ')' AS b /* c */ FROM new"
    assert sql[: row_wise(sql, "new").list_end] == "SELECT id AS a, ')' AS b"
    assert row_wise("SELECT *, 1 FROM new", "new").star
    assert row_wise("SELECT new.* FROM new", "new").star
    assert not row_wise("SELECT id * 2, (SELECT count(*) FROM old) FROM new", "new").star


def test_columns_of_a_table_are_no_mention_of_it():
    assert not names_table("SELECT drones.id, main.drones FROM new", "drones")
    assert names_table("SELECT id FROM [Drones]", "drones")
