"""A second gateway of a base: it leaves to the first what both have, and appends what the first does not, in a bounded time."""

import asyncio

from mycomesh.mesh.node.gateway.deputy import BEFORE_MAX, GRACE_MS, LOOK_MS, Deputy
from tests.mesh.node.gateway.test_reader import append, read


def deputy_of(base):
    return Deputy(base.courier, base.ledger)


def leaves(deputy, before=1):
    return asyncio.run(deputy.leaves(before))


def grace(base):
    return 2 * base.courier.mailbox.pace.spacing_ms + GRACE_MS


def test_the_first_gateway_leaves_nothing(three):
    deputy = deputy_of(three[0])
    three[0].write("INSERT INTO t VALUES('a', 1)")
    assert not leaves(deputy, 0)
    assert deputy.next_deadline() is None


def test_appended_changes_are_left_without_end(three):
    """Under steady writes there is always something that the mailbox lacks, and never the same."""
    alpha, bravo, _ = three
    deputy = deputy_of(bravo)
    for number in range(4):
        bravo.write(f"INSERT INTO t VALUES('b{number}', 1)")
        assert leaves(deputy)
        assert deputy.next_deadline() > bravo.world.now
        bravo.ledger.on_read("t", bravo.node.peer.replica.vector("t"))  # a run of the first brought it
        bravo.write(f"INSERT INTO t VALUES('c{number}', 1)")
        bravo.world.run(grace(bravo))
        assert leaves(deputy)  # what is there by now is noted from now on
        assert not deputy.look_wanted
        bravo.ledger.on_read("t", bravo.node.peer.replica.vector("t"))
        assert leaves(deputy)
        assert deputy.next_deadline() is None
    append(alpha, "INSERT INTO t VALUES('of another base', 1)")
    read(bravo)
    assert leaves(deputy)
    assert deputy.next_deadline() is None


def test_changes_that_the_first_lacks_are_appended(three):
    _, bravo, charlie = three
    deputy = deputy_of(bravo)
    bravo.write("INSERT INTO t VALUES('b', 1)")
    begun = bravo.world.now
    assert leaves(deputy)
    assert deputy.next_deadline() == begun + grace(bravo)
    bravo.world.run(grace(bravo))
    assert leaves(deputy)
    assert deputy.look_wanted
    bravo.world.run(LOOK_MS)
    assert not leaves(deputy)
    assert asyncio.run(bravo.writer.write())
    read(charlie)
    assert charlie.rows() == bravo.rows()
    assert leaves(deputy)
    assert deputy.next_deadline() is None


def test_a_last_look_may_find_them(three):
    bravo = three[1]
    deputy = deputy_of(bravo)
    bravo.write("INSERT INTO t VALUES('b', 1)")
    assert leaves(deputy)
    bravo.world.run(grace(bravo))
    assert leaves(deputy)
    bravo.ledger.on_read("t", bravo.node.peer.replica.vector("t"))
    bravo.world.run(LOOK_MS)
    assert leaves(deputy)


def test_no_change_waits_for_many_gateways(three):
    bravo = three[1]
    deputy = deputy_of(bravo)
    bravo.write("INSERT INTO t VALUES('b', 1)")
    begun = bravo.world.now
    assert leaves(deputy, 100)
    assert deputy.next_deadline() == begun + BEFORE_MAX * grace(bravo)
