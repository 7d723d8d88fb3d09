"""Readers of the change feed end equal to the tables, whatever dies; and the checks see it when they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mycomesh.simulations.oracle import text_of
from mycomesh.simulations.runner import run
from mycomesh.simulations.scenarios import build
from tests.sync.scale import sweep


@pytest.mark.slow
@pytest.mark.parametrize("seed", sweep([2, 5], 1))
def test_readers_end_equal_to_the_tables(seed):
    read = []

    def inspect(cluster):
        read.extend((reader.inside, reader.read) for host in cluster.hosts for reader in host.readers)

    result = run(build("readers", seed=seed, nodes=4, duration_s=30), seed, inspect=inspect)
    assert result.ok, result.violations
    assert len(read) == 8
    assert {inside for inside, _ in read} == {True, False}
    assert all(count > 30 for _, count in read), "a reader that has read nothing shows nothing"


def small(**changes):
    return replace(build("two-nodes", seed=1, duration_s=5), readers=2, **changes)


def test_readers_change_no_file_of_runs_without_them():
    tables = []

    def inspect(cluster):
        db = cluster.hosts[0].application.db
        names = "SELECT name FROM sqlite_schema WHERE name IN ('reports', 'mirror', 'mycomesh_cursors')"
        tables.extend(db.execute(names).fetchall())

    assert run(replace(small(), readers=0), 1, inspect=inspect).ok
    assert tables == []


@pytest.mark.parametrize("harm", ["lost", "kept", "twice"])
def test_a_copy_that_differs_is_a_violation(harm):
    found = []

    def inspect(cluster):
        for host in cluster.hosts:
            for reader in host.readers:
                assert reader.violations({}, {}) == []
                if not reader.inside:
                    copy = reader._copies["drones"]
                    name = next(iter(copy))
                    if harm == "lost":
                        del copy[name]
                    elif harm == "kept":
                        copy["gone"] = f'{{"timestamp": "{text_of(999_999)}"}}'
                    else:
                        copy["again"] = copy[name]
                    found.extend([reader.violations({}, {}), reader.violations({999_999}, {})])

    assert run(small(), 1, inspect=inspect).ok
    plain, excused = found
    expected = {"lost": "has 0 rows too many and 1 too few", "kept": "has 1 rows too many and 0 too few"}
    assert expected.get(harm, "has 1 rows too many") in plain[0]
    assert (excused == []) is (harm == "kept"), "only what a restored file lost may be in a copy alone"
