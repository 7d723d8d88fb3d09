"""The limit on decisions: beyond it a replica takes no more of members that have stated many, and in the end none."""

from __future__ import annotations

import pytest

from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import BatchRefusedError
from mycomesh.sync.replication import decision_limit
from mycomesh.sync.schema import policy
from mycomesh.sync.schema.facts import SCHEMA_TABLE
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.peers import WALL_MS, Peer

HLC = WALL_MS << 16
LIAR, HONEST = bytes([99]) * 16, bytes([98]) * 16


@pytest.fixture
def peer(tmp_path, monkeypatch):
    monkeypatch.setattr(decision_limit, "DECISIONS_MAX", 10)
    monkeypatch.setattr(decision_limit, "DECISIONS_OF_ALL_MAX", 14)
    monkeypatch.setattr(decision_limit, "MEMBER_DECISIONS", 4)
    peer = Peer(tmp_path / "a.db", 0)
    peer.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x INTEGER)")
    peer.drain()
    yield peer
    peer.close()


def facts(first, count, member=LIAR, kind="policy", sql="keep-both"):
    """One bundle: so many statements about tables that nobody has."""
    hlcs = [HLC + number for number in range(first, first + count)]
    rows = [[kind, f'{kind}:["made up {member[0]} {hlc}"]', sql] for hlc in hlcs]
    group = Group(member, Kind.INSERT, ("kind", "name", "sql"), hlcs, None, rows, None)
    return Bundle([Section(SCHEMA_TABLE, [(member, hlcs[0] - 1, hlcs[-1])], [group])]).encode()


def stated(peer):
    return peer.sql("SELECT count(*) FROM mycomesh_schema WHERE kind NOT IN ('table', 'index')")[0][0]


@pytest.mark.parametrize("kind", ["policy", "retain", "interest", "dropped", "made up"])
def test_a_member_with_many_decisions_states_no_more(peer, kind):
    before = stated(peer)
    peer.take([facts(0, 10 - before, kind=kind)], origin=LIAR)
    with pytest.raises(BatchRefusedError, match="takes no more of a member with 4"):
        peer.take([facts(20, 1, kind=kind)], origin=LIAR)
    peer.take([facts(0, 3, HONEST)], origin=HONEST)
    assert stated(peer) == 13
    with pytest.raises(BatchRefusedError):
        peer.take([facts(30, 2, HONEST)], origin=HONEST)
    peer.take([facts(40, 1, HONEST)], origin=HONEST)
    assert stated(peer) == 14
    with pytest.raises(BatchRefusedError):
        peer.take([facts(50, 1, bytes([97]) * 16)], origin=bytes([97]) * 16)


def test_a_round_brings_what_fits_of_others(peer):
    before = stated(peer)
    peer.take([facts(0, 10 - before)], origin=LIAR)
    both = Bundle.decode(facts(20, 2))
    other = Bundle.decode(facts(20, 2, HONEST))
    both.sections[0].ranges += other.sections[0].ranges
    both.sections[0].groups += other.sections[0].groups
    applied = peer.replica.apply(both.encode(), WALL_MS + 1, sender=LIAR)
    assert applied.crowded == 2
    assert stated(peer) == 12
    claimed = Vector({site: [(0, HLC + 21)] for site in (LIAR, HONEST)})
    peer.replica.inbox.take_vectors({SCHEMA_TABLE: claimed}, {SCHEMA_TABLE: claimed}, WALL_MS + 1)
    covered = peer.replica.vector(SCHEMA_TABLE)
    assert covered.top(HONEST) == HLC + 21
    assert covered.top(LIAR) < HLC + 20, "what was left out comes again once there is room"


def test_definitions_and_deletes_go_on(peer):
    peer.take([facts(0, 10 - stated(peer))], origin=LIAR)
    table = Group(
        LIAR, Kind.INSERT, ("kind", "name", "sql"), [HLC + 90], None, [["table", "made", "CREATE TABLE made(a)"]], None
    )
    peer.take([Bundle([Section(SCHEMA_TABLE, [(LIAR, HLC + 89, HLC + 90)], [table])]).encode()], origin=LIAR)
    assert "made" in peer.tables()
    peer.replica.decisions.declare_counter("t", "x")
    peer.drain()
    assert peer.replica.tables["t"].columns.counters == {"x"}, "of this node's own user"


def test_definitions_of_a_member_do_not_count(peer):
    peer.take([facts(0, 10 - stated(peer))], origin=LIAR)
    for number in range(6):
        hlc = HLC + 90 + number
        row = [["table", f"made{number}", f"CREATE TABLE made{number}(a)"]]
        group = Group(HONEST, Kind.INSERT, ("kind", "name", "sql"), [hlc], None, row, None)
        peer.take([Bundle([Section(SCHEMA_TABLE, [(HONEST, hlc - 1, hlc)], [group])]).encode()], origin=HONEST)
    peer.take([facts(99, 1, HONEST)], origin=HONEST)
    assert stated(peer) == 11


def test_names_of_decisions_are_parsed_once(peer, monkeypatch):
    """Each pass over the schema reads all decisions, while it keeps the write lock."""
    monkeypatch.undo()
    peer.take([facts(0, 500)], origin=LIAR)
    before = policy._parsed_subject.cache_info().misses
    peer.sql("CREATE TABLE later(a)")
    peer.drain()
    assert policy._parsed_subject.cache_info().misses <= before + 1
    long = policy.REMEMBERED_CHARS * "x"
    kept = policy._parsed_subject.cache_info().currsize
    assert policy._subject(f'policy:["{long}"]', "policy") == (long,)
    assert policy._parsed_subject.cache_info().currsize == kept
