"""How many rows may go on the word of one member, of a second one, and of a person."""

from __future__ import annotations

from array import array

import pytest

from mycomesh.sync.errors import PolicyError
from mycomesh.sync.replication import drop_guard
from mycomesh.sync.replication.drop_guard import ALONE_ROWS_MAX, CLAIMED_STAMPS_MAX, CLAIMS_MAX, rows_allowed
from mycomesh.sync.storage.conflict_room import ConflictLimits
from tests.sync.peers import Peer

ONE, TWO = b"1" * 16, b"2" * 16
FILL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {}) INSERT INTO t SELECT i, 'x' FROM n"


@pytest.fixture
def filled(tmp_path):
    made = []

    def make(rows):
        peer = Peer(tmp_path / "a.db", 0)
        made.append(peer)
        peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x); CREATE TABLE u(id INTEGER PRIMARY KEY)")
        peer.sql(FILL.format(rows))
        peer.drain()
        return peer.replica

    yield make
    for peer in made:
        peer.close()


def stamps(first, count):
    return array("q", [number for at in range(first, first + count) for number in (3, at)])


def note(replica):
    return replica.registry.notes.by_name().get("t", "")


@pytest.mark.parametrize(("rows", "allowed"), [(99, 0), (100, 1), (199, 1), (200, 2)])
def test_one_member_may_drop_one_in_a_hundred(filled, rows, allowed):
    replica = filled(rows)
    assert rows_allowed(replica.tables["t"]) == allowed
    guard = replica.drop_guard
    refused = guard.judge("t", ONE, stamps(0, allowed + 1))
    assert (list(refused.stamps), refused.doubted) == ([], allowed + 1)
    assert note(replica).startswith(f"member 31313131 reports {allowed + 1} change(s) as deleted")
    taken = guard.judge("t", ONE, stamps(0, allowed))
    assert (taken.stamps, taken.doubted) == (stamps(0, allowed), 0)
    assert note(replica) == ""
    # Nor may it drop the rest one round after the other.
    assert guard.judge("t", ONE, stamps(allowed, 1)).doubted == 1


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_one_member_may_drop_a_thousand_at_most(filled, monkeypatch, over):
    monkeypatch.setattr(drop_guard, "ALONE_SHARE", 1)
    replica = filled(ALONE_ROWS_MAX + 5)
    verdict = replica.drop_guard.judge("t", ONE, stamps(0, ALONE_ROWS_MAX + over))
    assert (verdict.doubted > 0) is (over > 0)


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_one_members_dropped_rows_stay_within_the_record(filled, room):
    replica = filled(200)
    replica.store.conflict_room.limits = ConflictLimits(records=room)
    assert rows_allowed(replica.tables["t"]) == min(room, 2)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_one_members_dropped_bytes_stay_within_the_record(filled, over):
    replica = filled(200)
    replica.store.conflict_room.limits = ConflictLimits(size=4_000)
    assert (replica.drop_guard.judge("t", ONE, stamps(0, 1), 1_000 + over).doubted > 0) is (over > 0)


def test_a_second_member_confirms_what_both_report(filled):
    replica = filled(50)
    guard = replica.drop_guard
    guard.judge("t", ONE, stamps(0, 10))
    some = guard.judge("t", TWO, stamps(5, 10))
    assert (some.stamps, some.doubted) == (stamps(5, 5), 5)
    assert guard.judge("t", ONE, stamps(0, 10)).stamps == stamps(5, 5)
    assert guard.judge("t", ONE, stamps(6, 3)).doubted == 0
    guard.settle("t", ONE)
    guard.settle("t", TWO)
    assert guard.waiting() == []
    assert note(replica) == ""
    assert guard.judge("t", ONE, stamps(0, 10)).doubted == 10  # its own claim is no second word


def test_a_person_accepts_what_was_claimed_and_no_more(filled):
    replica = filled(50)
    guard = replica.drop_guard
    with pytest.raises(PolicyError, match="no member reports rows of 't' as deleted"):
        guard.accept("t")
    guard.judge("t", ONE, stamps(0, 10))
    assert guard.accept("T") == 10
    assert guard.is_decided("t", ONE)
    assert guard.judge("t", ONE, stamps(0, 11)).doubted == 11
    assert guard.judge("t", TWO, stamps(20, 10)).doubted == 10
    assert guard.judge("t", ONE, stamps(0, 10)).stamps == stamps(0, 10)
    guard.settle("t", ONE)
    assert guard.judge("t", ONE, stamps(0, 10)).doubted == 10


@pytest.mark.parametrize(("count", "confirmed"), [(CLAIMED_STAMPS_MAX, 3), (CLAIMED_STAMPS_MAX + 1, 0)])
def test_claim_that_is_too_long_to_keep_confirms_nothing(filled, count, confirmed):
    replica = filled(50)
    replica.drop_guard.judge("t", ONE, stamps(0, count))
    assert len(replica.drop_guard.judge("t", TWO, stamps(0, 3)).stamps) == 2 * confirmed


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_only_so_many_claims_are_kept(filled, over):
    replica = filled(50)
    for number in range(CLAIMS_MAX + over):
        replica.drop_guard.judge("t", bytes([number]) * 16, stamps(number, 2))
    first = bool(replica.drop_guard.claimed_by(bytes(16)))
    assert first is (over <= 0)


@pytest.mark.parametrize("peers", [(), (ONE,), (ONE, ONE), (ONE, TWO), (ONE, TWO, b"3" * 16)])
def test_no_words_drop_rows_that_nobody_has_had(filled, peers):
    """One peer that says so is not enough: it may have repeated the digest that it was sent."""
    seen = len(set(peers)) > 1
    replica = filled(10)
    table = replica.tables["t"]
    number = table.store.site_number(replica.site)
    own = array("q", [each for place, hlc, _, _ in table.log.scan(-1, 0, 100) for each in (place, hlc)])
    assert set(own[::2]) == {number}
    for peer in peers:
        replica.inbox.confirm_equal(["t"], peer)
    assert replica.drop_guard.judge("t", ONE, own).doubted == 10
    second = replica.drop_guard.judge("t", TWO, own)
    assert (len(second.stamps) // 2, second.doubted) == ((10, 0) if seen else (0, 10))


def test_a_person_keeps_rows_against_a_claim(filled):
    replica = filled(50)
    guard = replica.drop_guard
    guard.judge("t", ONE, stamps(0, 10))
    assert guard.refuse("T") == 10
    assert guard.is_decided("t", ONE)
    kept = guard.judge("t", ONE, stamps(0, 10))
    assert (list(kept.stamps), kept.doubted, kept.kept) == ([], 10, stamps(0, 10))
    assert note(replica) == ""
    assert guard.judge("t", ONE, stamps(0, 10)).kept == array("q")  # a decision counts once
    assert guard.refuse("t") == 10
    assert guard.judge("t", ONE, stamps(0, 11)).kept == array("q")  # and for no larger claim
    guard.refuse("t")
    guard.accept("t")  # the later decision counts
    assert guard.judge("t", ONE, stamps(0, 11)).stamps == stamps(0, 11)
