"""Whose turn it is: the rank of nodes."""

from __future__ import annotations

import asyncio

from mycomesh.tools.succession import rank
from mycomesh.tools.turn import Turn


def test_ranks_spread_bridges_over_nodes():
    nodes = [f"{number:032x}" for number in range(8)]
    first = [max(nodes, key=lambda node: rank(f"bridge{number}", node)) for number in range(200)]
    counts = [first.count(node) for node in nodes]
    assert min(counts) > 5
    assert rank("a", nodes[0]) == rank("a", nodes[0])


def test_a_node_that_leaves_moves_only_its_own_bridges():
    nodes = [f"{number:032x}" for number in range(8)]
    names = [f"bridge{number}" for number in range(200)]
    before = {name: max(nodes, key=lambda node: rank(name, node)) for name in names}
    after = {name: max(nodes[1:], key=lambda node: rank(name, node)) for name in names}
    assert [name for name in names if before[name] != after[name] and before[name] != nodes[0]] == []


def test_a_turn_wakes_those_that_wait_for_it():
    async def story():
        turn = Turn()
        waiting = asyncio.ensure_future(turn.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        turn.set(active=True, holder="alpha")
        await waiting
        ending = asyncio.ensure_future(turn.wait_for_end())
        await asyncio.sleep(0)
        turn.set(active=False, holder="bravo")
        turn.set(active=True, holder="alpha")  # a turn that ended for a moment has ended
        await ending
        assert (turn.active, turn.holder) == (True, "alpha")

    asyncio.run(story())
