"""Each claim of the demo could be false, and the flights that it replays are those of the notice."""

from __future__ import annotations

import contextlib
import importlib.resources
import sqlite3

import pytest

from mycomesh.tools import demo
from mycomesh.tools.cli import main
from mycomesh.tools.data import quadcopter, wildfire
from mycomesh.tools.demo import Proof, prove


def database(place, name, *statements):
    file = place / f"{name}.db"
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("CREATE TABLE drones(drone_id, altitude)")
        for statement in statements:
            db.execute(statement)
    return file


def test_equal_tables_are_proven_equal_in_any_row_order(tmp_path):
    left = database(tmp_path, "left", "INSERT INTO drones VALUES (1, 2), (3, 4)")
    right = database(tmp_path, "right", "INSERT INTO drones VALUES (3, 4), (1, 2)")
    assert prove([left, right], ("drones",)) == [Proof("drones", 2, equal=True)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO drones VALUES (1, 2)",
        "INSERT INTO drones VALUES (1, 2), (1, 2), (3, 4)",
        "INSERT INTO drones VALUES (1, 2), (3, 4.0)",
        "INSERT INTO drones VALUES (1, 2), (3, '4')",
        "INSERT INTO drones VALUES (1, 2), (3, NULL)",
    ],
)
def test_any_difference_is_found_even_in_the_last_file(tmp_path, statement):
    same = "INSERT INTO drones VALUES (1, 2), (3, 4)"
    files = [database(tmp_path, "a", same), database(tmp_path, "b", same), database(tmp_path, "c", statement)]
    assert prove(files, ("drones",)) == [Proof("drones", 2, equal=False)]


def test_unequal_databases_end_with_not_converged(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo._Play, "run", lambda _self: False)
    assert main(["demo", "--keep", str(tmp_path)]) == 3
    assert "Kept in" in capsys.readouterr().out


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--keep", str(tmp_path / "file" / "below")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mycomesh demo: cannot create")
    assert error.count("\n") == 1


def test_the_quadcopter_flew_eleven_sorties():
    flight = quadcopter()
    assert len(flight) == 1790
    assert {row.sortie for row in flight} == set(range(1, 12))
    assert [row.at for row in flight] == sorted(row.at for row in flight)
    assert all(-35.3 < row.latitude < -35.1 and 149.0 < row.longitude < 149.1 for row in flight)
    assert flight[0].at == "2015-07-18 05:11:24"


def test_the_fire_fighting_aircraft_are_forty_five():
    reports = wildfire()
    assert len(reports) == 9955
    assert len({each.icao24 for each in reports}) == 45
    assert [each.at for each in reports] == sorted(each.at for each in reports)
    assert reports[-1].at.startswith("2020-09-14")


def test_every_file_of_data_is_named_by_the_notice():
    place = importlib.resources.files("mycomesh.tools.data")
    notice = (place / "NOTICE.md").read_text()
    packed = [each.name for each in place.iterdir() if each.name.endswith(".gz")]
    assert len(packed) == 2
    assert all(f"## {name}" in notice for name in packed)
    assert "CC BY-SA 3.0" in notice
    assert "Permission is hereby granted" in notice
