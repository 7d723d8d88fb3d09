"""The attacks that are measured leave a node as it was: the sample of `python -m tests.sync.attack_costs`, without its clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sync import attack_costs, lock_holds
from tests.sync.attackers import DDL, Liar, chained
from tests.sync.exchanges import World
from tests.sync.scale import sweep


@pytest.mark.parametrize(
    "name", sweep(["groups_of_many_column_sets", "refused_beside_3000_parked_rows", "one_row_in_500_edits"], 1)
)
def test_costly_batches_take_many_short_transactions(name):
    file, bundle = lock_holds.CASES[name]()
    file.take(bundle)
    assert len(file.holds) > 10
    assert file.app.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    file.close()


@pytest.mark.slow
@pytest.mark.parametrize("name", sweep(attack_costs.ROUNDS, 3))
def test_rounds_of_a_liar_leave_nothing_behind(tmp_path, name):
    world = World.made(Path(tmp_path), 2)
    world.write(world.nodes[0], DDL)
    chained(world)
    for number in range(2):
        attack_costs.ROUNDS[name](Liar(world, world.nodes[0], link=9_001 + number))
    world.run(5_000)
    world.write(world.nodes[0], "INSERT INTO t VALUES(1, 'one')")
    world.write(world.nodes[1], "INSERT INTO t VALUES(2, 'two')")
    world.run(30_000)
    for node in world.nodes:
        assert node.sql("SELECT v FROM t WHERE id < 3 ORDER BY id") == [("one",), ("two",)]
        assert node.sql("PRAGMA integrity_check") == [("ok",)]
    world.close()


def test_attacks_above_their_goal_are_named_with_reason():
    assert attack_costs.BEYOND.keys() <= lock_holds.CASES.keys() | attack_costs.ROUNDS.keys()
