"""A member, or the storage, that lies in a mailbox: others are read as before, and what is fetched in vain is bounded."""

from __future__ import annotations

import asyncio

import pytest

from mycomesh.mesh.mailbox.envelope import POSITION_MAX
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.mailbox.streams import Kind, StreamWriter
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.revocations import Revocation
from mycomesh.mesh.node.gateway import reader as module
from mycomesh.mesh.node.gateway import statement
from mycomesh.mesh.node.gateway.gateway import BEHIND_SHOWN_MAX, STREAMS_SHOWN_MAX, Gateway, Place
from mycomesh.mesh.node.gateway.reader import HEED_MS, WANT_MS, WANT_MS_LONGEST
from mycomesh.mesh.node.gateway.statement import Statement
from mycomesh.mesh.node.gateway.writer import _Delta
from mycomesh.mesh.node.recording import record
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.wire import messages as wire
from tests.mesh.node.gateway.conftest import settle
from tests.mesh.pipes import WALL_MS, mesh_of


def append(base, script):
    base.write(script)
    assert asyncio.run(base.writer.write())


def read(*bases):
    for each in bases:
        asyncio.run(settle(each))


def said(base, messages, *, kind=Kind.LIVE, previous=None, position=0):
    """Append messages as the base's own altered program could; return the position."""
    before = base.writer.last if previous is None else previous
    made = StreamWriter(base.identity, kind, before)
    for each in messages:
        made.put(each if isinstance(each, bytes) else wire.encode(each))
    at, data = made.next_envelope(base.keys, position or before + 1)
    assert base.courier.mailbox.append(base.keys.mesh, kind.stream(base.keys, base.identity.node_id), at, data)
    return at


def fetched_by(base, monkeypatch):
    found, get = [], base.courier.mailbox.get
    monkeypatch.setattr(base.courier.mailbox, "get", lambda mesh, each: found.append(each) or get(mesh, each))
    return found


def test_a_run_without_end_is_fetched_once(three, monkeypatch):
    alpha, bravo, liar = three
    read(*three)
    at = liar.writer.last
    for _ in range(30):
        at = said(liar, [wire.Vectors(()), bytes(wire.encode(wire.Ack(1)))], previous=at)
    read(bravo)
    fetched = fetched_by(bravo, monkeypatch)
    read(bravo)
    at = said(liar, [wire.Ack(1)], previous=at)
    read(bravo)
    assert [each.position for each in fetched] == [at]
    append(alpha, "INSERT INTO t VALUES('honest', 1)")
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_the_end_of_a_run_may_come_later(three):
    """A reader keeps the beginning of a run until its end comes, however it is cut."""
    alpha, bravo, _ = three
    alpha.write("INSERT INTO t VALUES('late', 1)")
    messages = []
    delta = _Delta(alpha.courier, alpha.ledger, alpha.writer._begin(Kind.LIVE))
    delta.run.put = messages.append
    asyncio.run(record(alpha.courier.surroundings, alpha.courier.links, delta.choose, delta.take))
    assert len(messages) == 3
    for each in messages:
        assert bravo.rows() == [("first", 1)]
        alpha.writer._live.append((said(alpha, [each]), 1))
        read(bravo)
    assert bravo.rows() == [("first", 1), ("late", 1)]


def test_invented_streams_hide_no_member(three, monkeypatch):
    alpha, bravo, _ = three
    monkeypatch.setattr(module, "STREAMS_MAX", 8)
    monkeypatch.setattr(module, "SOUGHT_MAX", 2)
    monkeypatch.setattr("mycomesh.mesh.mailbox.directory.STREAMS_MAX", 8)
    for number in range(8):
        bravo.courier.mailbox.append(alpha.keys.mesh, number.to_bytes(8, "big"), 1, b"invented")
    append(alpha, "INSERT INTO t VALUES('honest', 1)")
    read(bravo)
    assert bravo.rows() == alpha.rows(), "a stream that it follows"
    bravo.begin()
    bravo.ledger.passed.clear()
    append(alpha, "INSERT INTO t VALUES('more', 1)")
    for _ in range(4):
        read(bravo)
    assert bravo.rows() == alpha.rows(), "a stream that it has not met"
    assert len(bravo.reader.streams) <= 8


def test_streams_that_cannot_be_listed_come_last(three, monkeypatch):
    """Four folders that are files, or closed, are no reason to read no other, whatever their names."""
    alpha, bravo, _ = three
    folder = bravo.courier.mailbox._path / "mycomesh" / alpha.keys.mesh.hex()
    for number in range(6):
        (folder / number.to_bytes(8, "big").hex()).write_bytes(b"no folder")
    append(alpha, "INSERT INTO t VALUES('honest', 1)")
    for _ in range(2):
        with pytest.raises(MailboxError, match="Not a directory"):
            read(bravo)
    assert bravo.rows() == alpha.rows()


def test_a_revoked_gateway_is_fetched_no_more(three, monkeypatch):
    alpha, bravo, thief = three
    append(thief, "INSERT INTO t VALUES('before', 1)")
    read(bravo)
    append(thief, "INSERT INTO t VALUES('after', 1)")
    root = Authority.of(alpha.identity.certificate, alpha.identity.root_public, b"", mesh_of(3)[1])
    revocation = Revocation.issue(thief.identity.certificate, root, at_s=WALL_MS // 1_000)
    bravo.courier.roster.revocations.add_revocation(revocation.raw)
    fetched = fetched_by(bravo, monkeypatch)
    for _ in range(3):
        read(bravo)
        bravo.world.run(module.REFUSED_MS + 1)
    assert fetched == []
    assert ("after", 1) not in bravo.rows()


def test_a_member_has_few_parcels_by_asking(three):
    """A parcel costs as much as all rows: who asks at each chance gets some in the first hours, and then one a day."""
    alpha, _, liar = three
    granted, at = [], liar.writer.last
    for minute in range(0, 2 * 1_440, 5):
        words = statement.encode(Statement("", (), (alpha.live,)))
        at = said(liar, [words, wire.Digests(())], kind=Kind.STATEMENT, previous=at)
        read(alpha)
        if alpha.reader.parcel_wanted:
            granted.append(minute)
            alpha.reader.parcel_wanted = False
        alpha.world.now += 300_000
    assert granted[:3] == [0, 5, 10]
    assert len(granted) <= 12
    assert HEED_MS < WANT_MS < WANT_MS_LONGEST


def test_an_honest_request_is_granted_each_time(three):
    """A reader that needs parcels again and again waits twice as long each time, and is never refused."""
    alpha, bravo, _ = three
    stream, at = module.Stream(), bravo.writer.last
    bravo.reader.streams[alpha.live] = stream
    for _ in range(6):
        at = said(
            bravo,
            [statement.encode(Statement("", (), (alpha.live,))), wire.Digests(())],
            kind=Kind.STATEMENT,
            previous=at,
        )
        read(alpha)
        assert alpha.reader.parcel_wanted
        alpha.reader.parcel_wanted = False
        bravo.reader.on_asked([alpha.live])
        alpha.world.now = stream.want_at_ms


def test_made_up_tables_fall_behind_in_small_number(three, monkeypatch):
    """Vectors of tables that nobody has make no status long, and are remembered up to a limit."""
    alpha, bravo, liar = three
    monkeypatch.setattr("mycomesh.mesh.node.recording.UNKNOWN_MAX", 100)
    window = Vector({bytes(16): [(0, 1 << 40)]})
    claims = tuple((f"made up {number:04}", window) for number in range(2_000))
    words = statement.encode(Statement("", (), ()))
    at = said(liar, [words, wire.Vectors(claims)], kind=Kind.STATEMENT)
    said(liar, [wire.Vectors(claims), wire.Done(claims, ())], previous=at)
    for _ in range(4):
        read(bravo)
        bravo.world.run(module.GAP_MS + 1)
    assert bravo.ledger.passed[liar.live] > at
    assert len(bravo.reader.streams[liar.live].behind) == 100
    append(alpha, "INSERT INTO t VALUES('honest', 1)")
    read(bravo)
    assert bravo.rows() == alpha.rows()
    gateway = Gateway(bravo.courier, Place("dir:/share"), None)
    gateway._reader = bravo.reader
    (view,) = [each for each in gateway.view().streams if each.behind]
    assert len(view.behind) == BEHIND_SHOWN_MAX + 1
    assert view.behind[-1] == "36 more"


@pytest.mark.parametrize("count", [STREAMS_SHOWN_MAX, STREAMS_SHOWN_MAX + 1])
def test_few_streams_of_nobody_are_shown(three, count):
    """A status, and the table for SQL, name all members and some of what a storage has invented."""
    alpha, bravo, charlie = three
    for number in range(count):
        bravo.courier.mailbox.append(alpha.keys.mesh, number.to_bytes(8, "big"), 1, b"invented")
    read(bravo)
    gateway = Gateway(bravo.courier, Place("dir:/share"), None)
    gateway._reader = bravo.reader
    shown = [each.member for each in gateway.view().streams]
    assert len([name for name in shown if name.startswith("stream ")]) == STREAMS_SHOWN_MAX
    assert {alpha.identity.name, charlie.identity.name} <= set(shown)


@pytest.mark.parametrize("position", [POSITION_MAX, POSITION_MAX - 1, 1 << 62])
def test_positions_at_the_end_end_one_stream_alone(three, position):
    alpha, bravo, liar = three
    append(alpha, "INSERT INTO t VALUES('before', 1)")
    said(
        liar,
        [statement.encode(Statement("", ((bravo.live, POSITION_MAX),), ())), wire.Digests(())],
        kind=Kind.STATEMENT,
        position=position,
    )
    read(*three)
    append(bravo, "INSERT INTO t VALUES('honest', 1)")
    asyncio.run(bravo.writer.pack())
    asyncio.run(bravo.writer.state(bravo.reader.receipts(), ()))
    asyncio.run(bravo.writer.prune(bravo.reader.receipts_of_own()))
    bravo.ledger.store(bravo.node.peer.replica)
    read(alpha)
    assert alpha.rows() == bravo.rows()
    assert 0 <= alpha.reader.streams[liar.live].lag_ms(1 << 8) < 1 << 63


def test_an_envelope_under_later_positions_brings_nothing(three):
    """The storage repeats an envelope under other names: each is refused, for its place is sealed in it."""
    alpha, bravo, _ = three
    append(alpha, "INSERT INTO t VALUES('once', 1)")
    mailbox, at = alpha.courier.mailbox, alpha.writer.last
    data = mailbox.get(alpha.keys.mesh, Listed(alpha.live, at, 0))
    read(bravo)
    taken = bravo.stream_of(alpha).taken
    for later in (99, 100, 1 << 40):
        mailbox.append(alpha.keys.mesh, alpha.live, at + later, data)
    mailbox.append(alpha.keys.mesh, bravo.live, bravo.writer.last + 1, data)
    read(bravo)
    assert (bravo.stream_of(alpha).refused, bravo.stream_of(alpha).taken) == (3, taken)
    append(alpha, "INSERT INTO t VALUES('more', 1)")
    bravo.world.run(module.REFUSED_MS + 1)
    read(bravo)
    assert bravo.rows() == alpha.rows()
