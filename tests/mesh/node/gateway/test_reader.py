"""Reading live streams: each run is taken in whole and in order, holes are found, and parcels fill them."""

import asyncio

import pytest

from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.mailbox.streams import POSITION_SHIFT
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.revocations import Revocation
from mycomesh.mesh.node import courier as courier_module
from mycomesh.mesh.node.gateway import reader as module
from mycomesh.mesh.node.gateway.reader import GAP_LOOKS, GAP_MS, LOOK_MS, REFUSED_MS, Stream
from mycomesh.mesh.node.recording import AUDIT, UNKNOWN
from tests.mesh.node.gateway.conftest import settle
from tests.mesh.pipes import WALL_MS, mesh_of

_, ROOT_SEED = mesh_of(3)


def append(base, script, *values):
    """Write, and append what that has changed; return the position of the run."""
    base.write(script, *values)
    assert asyncio.run(base.writer.write())
    return base.ledger.own


def read(*bases):
    for each in bases:
        asyncio.run(settle(each))


def lose(base, position):
    base.courier.mailbox.remove(base.keys.mesh, Listed(base.live, position, 0))


def test_changes_of_every_base_reach_the_others(three):
    alpha, bravo, charlie = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    append(bravo, "INSERT INTO t VALUES('b', 2)")
    read(*three)
    append(charlie, "UPDATE t SET v = 3 WHERE id = 'a'")
    append(charlie, "DELETE FROM t WHERE id = 'b'")
    read(*three)
    assert [each.rows() for each in three] == [[("a", 3), ("first", 1)]] * 3
    assert not asyncio.run(alpha.writer.write())  # what came from others is there already
    assert [stream.why for each in three for stream in each.reader.streams.values()] == [""] * 9


def test_a_run_that_is_read_twice_opens_no_link(three, monkeypatch):
    alpha, bravo, _ = three
    position = append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    bravo.ledger.passed[alpha.live] = position - 1
    monkeypatch.setattr(bravo.courier.links, "open", None)
    read(bravo)
    assert bravo.ledger.passed[alpha.live] == position


def test_a_hole_waits_and_is_filled_by_a_parcel(three):
    alpha, bravo, _ = three
    lost = append(alpha, "INSERT INTO t VALUES('lost', 1)")
    append(alpha, "INSERT INTO t VALUES('after', 2)")
    lose(alpha, lost)
    read(bravo)
    assert bravo.rows() == [("first", 1)]
    assert bravo.stream_of(alpha).why == "an envelope is missing"
    assert bravo.reader.wanted() == ()
    bravo.world.run(GAP_MS + 1)
    read(bravo)
    assert bravo.reader.wanted() == (alpha.live,)
    asyncio.run(bravo.writer.state({}, bravo.reader.wanted()))
    bravo.reader.on_asked((alpha.live,))
    assert bravo.reader.wanted() == ()
    read(alpha)
    assert alpha.reader.parcel_wanted
    asyncio.run(alpha.writer.pack())
    bravo.world.run(LOOK_MS)
    read(bravo)
    assert bravo.rows() == alpha.rows()
    assert bravo.stream_of(alpha).parcel_from is None
    append(alpha, "INSERT INTO t VALUES('more', 3)")
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_requests_beyond_a_hole_are_heard(three):
    alpha, bravo, _ = three
    for one in (alpha, bravo):
        lost = append(one, f"INSERT INTO t VALUES('lost by {one.identity.name}', 1)")
        append(one, f"INSERT INTO t VALUES('of {one.identity.name}', 1)")
        lose(one, lost)
    read(alpha, bravo)
    alpha.world.run(GAP_MS + 1)
    for one, other in ((alpha, bravo), (bravo, alpha)):
        read(one)
        assert one.reader.wanted() == (other.live,)
        asyncio.run(one.writer.state({}, one.reader.wanted()))
    read(alpha)
    assert alpha.reader.parcel_wanted
    alpha.reader.parcel_wanted = False
    read(alpha)
    assert not alpha.reader.parcel_wanted  # each request counts once
    asyncio.run(alpha.writer.pack())
    bravo.world.run(LOOK_MS)
    read(bravo)
    assert set(bravo.rows()) > set(alpha.rows()) - {("lost by n0", 1)}


def test_a_parcel_that_is_sought_is_not_asked_for(three, monkeypatch):
    """The writing loop runs beside a search, which takes as long as the storage does."""
    alpha, bravo, _ = three
    position = append(alpha, "INSERT INTO t VALUES('a', 1)")
    del bravo.ledger.passed[alpha.live]
    wanted, storage = [], bravo.courier.surroundings.storage

    async def looked_at(call, *args):
        wanted.append(bravo.reader.wanted())
        return await storage(call, *args)

    monkeypatch.setattr(bravo.courier.surroundings, "storage", looked_at)
    read(bravo)
    assert bravo.ledger.passed[alpha.live] == position
    assert bravo.stream_of(alpha).taken
    assert set(wanted) == {()}


def test_a_hole_may_fill_for_several_long_looks(three):
    """Among many bases a look takes minutes, and what is missing may be in a stream that it reads last."""
    alpha, bravo, _ = three
    lost = append(alpha, "INSERT INTO t VALUES('lost', 1)")
    append(alpha, "INSERT INTO t VALUES('after', 2)")
    lose(alpha, lost)
    storage = bravo.courier.surroundings.storage

    async def slow(call, *args):
        if call == bravo.courier.mailbox.streams:
            bravo.world.run(GAP_MS)
        return await storage(call, *args)

    bravo.courier.surroundings.storage = slow
    for _ in range(GAP_LOOKS):
        read(bravo)
        assert bravo.reader.wanted() == ()
    read(bravo)
    assert bravo.reader.wanted() == (alpha.live,)


def test_a_look_at_all_streams_lists_none_alone(three, monkeypatch):
    alpha, bravo, charlie = three
    listings, mailbox = [], bravo.courier.mailbox
    list_after = mailbox.list_after

    def list_all(mesh, after):
        listings.append(after)
        found = {stream: list_after(mesh, stream, position) for stream, position in after.items()}
        return {stream: listed for stream, listed in found.items() if listed}

    for one in (alpha, charlie):
        append(one, f"INSERT INTO t VALUES('of {one.identity.name}', 1)")
    monkeypatch.setattr(mailbox, "list_all", list_all, raising=False)
    monkeypatch.setattr(mailbox, "list_after", None)
    read(bravo)
    assert len(bravo.rows()) == 3
    assert len(listings) == 2  # the second finds nothing
    assert listings[1] == {each.live: bravo.ledger.passed[each.live] for each in three}
    assert [bravo.stream_of(each).waiting for each in three] == [0, 0, 0]


def test_a_run_waits_for_definitions_without_a_link(three, monkeypatch):
    """With a link it would wait some seconds in vain, in each stream that is read before the one with the definition."""
    alpha, bravo, charlie = three
    position = append(alpha, "CREATE TABLE u(id INTEGER PRIMARY KEY)")
    read(bravo)
    append(bravo, "INSERT INTO u VALUES(1)")
    data = alpha.courier.mailbox.get(alpha.keys.mesh, Listed(alpha.live, position, 0))
    lose(alpha, position)
    with monkeypatch.context() as patch:
        patch.setattr(charlie.courier.links, "open", None)
        read(charlie)
    assert charlie.stream_of(bravo).why == UNKNOWN
    alpha.courier.mailbox.append(alpha.keys.mesh, alpha.live, position, data)
    read(charlie)
    assert charlie.node.sql("SELECT id FROM u") == [(1,)]


def test_an_envelope_that_comes_late_fills_its_hole(three):
    alpha, bravo, _ = three
    late = append(alpha, "INSERT INTO t VALUES('late', 1)")
    append(alpha, "INSERT INTO t VALUES('after', 2)")
    mailbox, listed = alpha.courier.mailbox, Listed(alpha.live, late, 0)
    data = mailbox.get(alpha.keys.mesh, listed)
    lose(alpha, late)
    read(bravo)
    mailbox.append(alpha.keys.mesh, alpha.live, late, data)
    read(bravo)
    assert bravo.rows() == alpha.rows()
    assert bravo.stream_of(alpha).stuck_since_ms is None


def test_a_run_waits_for_what_others_have_brought(three):
    alpha, bravo, charlie = three
    position = append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    append(bravo, "UPDATE t SET v = 2 WHERE id = 'a'")
    data = alpha.courier.mailbox.get(alpha.keys.mesh, Listed(alpha.live, position, 0))
    lose(alpha, position)
    read(charlie)
    assert charlie.rows() == [("first", 1)]
    assert charlie.stream_of(bravo).why == "what others have brought of t is not here yet"
    alpha.courier.mailbox.append(alpha.keys.mesh, alpha.live, position, data)
    read(charlie)
    assert charlie.rows() == bravo.rows()


def test_a_table_that_lacks_something_holds_up_no_other(three):
    alpha, bravo, charlie = three
    alpha.write("CREATE TABLE other(id INTEGER PRIMARY KEY)")
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(*three)
    lost = append(alpha, "INSERT INTO t VALUES('lost', 1)")
    read(bravo)
    lose(alpha, lost)
    append(bravo, "UPDATE t SET v = 2 WHERE id = 'lost'")
    append(bravo, "INSERT INTO other VALUES(7)")
    read(charlie)
    charlie.world.run(GAP_MS + 1)
    read(charlie)
    assert charlie.node.sql("SELECT id FROM other") == [(7,)]
    assert list(charlie.stream_of(bravo).behind) == ["t"]
    assert charlie.reader.wanted() == (bravo.live,)
    asyncio.run(bravo.writer.pack())
    charlie.world.run(LOOK_MS)
    read(charlie)
    assert charlie.stream_of(bravo).behind == {}
    assert ("lost", 2) in charlie.rows()


def test_a_statement_proves_equal_tables(three):
    alpha, bravo, _ = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    asyncio.run(alpha.writer.state({bravo.live: 5}, ()))
    read(bravo)
    stream = bravo.stream_of(alpha)
    assert (stream.base, stream.receipt) == ("n0", 5)
    assert stream.proved_ms is not None
    assert bravo.reader.receipts_of_own() == (5, 0)


def test_an_equal_statement_lets_tables_follow_again(three, monkeypatch):
    """Without a look at the vectors in it, which have an entry for each base."""
    alpha, bravo, _ = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    bravo.stream_of(alpha).behind = {"t": "of a hole"}
    asyncio.run(alpha.writer.state({}, ()))
    decoded, decode = [], module.wire.decode
    monkeypatch.setattr(module.wire, "decode", lambda data: decoded.append(decode(data)) or decoded[-1])
    read(bravo)
    assert bravo.stream_of(alpha).behind == {}
    assert [type(each).__name__ for each in decoded] == ["Digests"]


def test_a_statement_finds_what_no_run_has_brought(three):
    alpha, bravo, _ = three
    lost = append(alpha, "INSERT INTO t VALUES('lost', 1)")
    bravo.ledger.on_passed(alpha.live, lost)  # as if it had been read, before a backup was restored by hand
    asyncio.run(alpha.writer.state({}, ()))
    read(bravo)
    assert list(bravo.stream_of(alpha).doubts) == ["t"]
    bravo.world.run(GAP_MS + 1)
    read(bravo)
    assert bravo.reader.wanted() == (alpha.live,)
    asyncio.run(alpha.writer.pack())
    bravo.world.run(LOOK_MS)
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_a_later_statement_keeps_earlier_doubts(three):
    """Each has the vectors of what changed since the one before."""
    alpha, bravo, _ = three
    alpha.write("CREATE TABLE other(id INTEGER PRIMARY KEY)")
    append(alpha, "INSERT INTO other VALUES(1)")
    read(bravo)
    lost = append(alpha, "INSERT INTO t VALUES('lost', 1)")
    asyncio.run(alpha.writer.state({}, ()))
    append(alpha, "INSERT INTO other VALUES(7)")
    asyncio.run(alpha.writer.state({}, ()))
    bravo.ledger.on_passed(alpha.live, lost)  # as if it had been read
    read(bravo)
    assert list(bravo.stream_of(alpha).doubts) == ["t"]
    bravo.world.run(GAP_MS + 1)
    read(bravo)
    assert bravo.reader.wanted() == (alpha.live,)


def test_collected_deletes_are_left_to_a_link(three, monkeypatch):
    alpha, bravo, _ = three

    async def audited(*_args):
        return {"t": AUDIT}

    monkeypatch.setattr(module, "replay", audited)
    position = append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    assert bravo.stream_of(alpha).behind == {"t": AUDIT}
    assert bravo.ledger.passed[alpha.live] == position


def test_remembered_refusals_are_bounded(three, monkeypatch):
    alpha, bravo, _ = three
    read(bravo)
    monkeypatch.setattr(module, "REFUSED_MAX", 8)
    mailbox, before = alpha.courier.mailbox, bravo.stream_of(alpha).refused
    first = bravo.ledger.passed[alpha.live]
    for count, size in ((7, 7), (8, 8), (9, 8)):
        mailbox.append(alpha.keys.mesh, alpha.live, first + count, b"no envelope")
        for number in range(1, count):
            mailbox.append(alpha.keys.mesh, alpha.live, first + number, b"no envelope")
        read(bravo)
        assert len(bravo.stream_of(alpha).unopened) == size
        assert bravo.stream_of(alpha).refused == before + count
    assert "which none can have" in bravo.stream_of(alpha).why
    assert bravo.rows() == [("first", 1)]
    assert bravo.reader.retry_ms is not None
    assert REFUSED_MS > 0


def test_a_refusal_is_said_beside_later_runs(three):
    """A run that fills a hole is read after the refusal of an envelope ahead of it, which nothing has passed yet."""
    alpha, bravo, _ = three
    late = append(alpha, "INSERT INTO t VALUES('late', 1)")
    mailbox = alpha.courier.mailbox
    data = mailbox.get(alpha.keys.mesh, Listed(alpha.live, late, 0))
    lose(alpha, late)
    mailbox.append(alpha.keys.mesh, alpha.live, late + 1, b"no envelope")
    read(bravo)
    mailbox.append(alpha.keys.mesh, alpha.live, late, data)
    read(bravo)
    assert bravo.rows() == alpha.rows()
    assert (bravo.stream_of(alpha).why, bravo.stream_of(alpha).refused) == ("", 1)
    assert "which none can have" in bravo.stream_of(alpha).note


def test_a_look_reads_little_in_vain(three, monkeypatch):
    """A storage that invents envelopes holds up its own stream alone, and costs a bounded number of bytes a look."""
    alpha, bravo, _ = three
    read(bravo)
    monkeypatch.setattr(module, "REFUSED_LOOK_BYTES", 4 * module.REFUSED_LOOK_LEAST)
    mailbox, first = alpha.courier.mailbox, bravo.ledger.passed[alpha.live]
    for number in range(1, 8):
        mailbox.append(alpha.keys.mesh, alpha.live, first + number, b"invented")
    alpha.world.run(1_000)
    append(alpha, "INSERT INTO t VALUES('behind them', 1)")
    for refused in (4, 7):
        read(bravo)
        assert bravo.stream_of(alpha).refused == refused
    assert bravo.rows() == alpha.rows()


def test_a_parcel_is_sought_among_few_inventions(three, monkeypatch):
    alpha, bravo, _ = three
    asyncio.run(alpha.writer.pack())
    keys, mailbox = alpha.keys, alpha.courier.mailbox
    for number in range(1, 4):
        mailbox.append(keys.mesh, alpha.parcels, number, b"invented")
    monkeypatch.setattr(courier_module, "REFUSED_MAX", 4)
    assert asyncio.run(bravo.courier.newest(alpha.parcels)) is not None
    monkeypatch.setattr(courier_module, "REFUSED_MAX", 3)
    with pytest.raises(DecodeError, match="which none can have"):
        asyncio.run(bravo.courier.newest(alpha.parcels))


def test_a_closed_stream_holds_up_no_other(three, monkeypatch):
    alpha, bravo, charlie = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    append(bravo, "INSERT INTO t VALUES('b', 1)")
    mailbox, list_after = charlie.courier.mailbox, charlie.courier.mailbox.list_after

    def closed(mesh, stream, position):
        if stream == min(alpha.live, bravo.live):
            raise MailboxError("permission denied")
        return list_after(mesh, stream, position)

    monkeypatch.setattr(mailbox, "list_after", closed)
    with pytest.raises(MailboxError, match="permission denied"):
        read(charlie)
    assert len(charlie.rows()) == 2
    monkeypatch.setattr(module, "FAILED_STREAMS", 1)
    monkeypatch.setattr(mailbox, "list_after", list_after)
    read(charlie)
    assert len(charlie.rows()) == 3


def test_a_restored_file_reads_its_own_stream(three):
    alpha, bravo, _ = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    own = alpha.ledger.passed.pop(alpha.live)
    read(alpha)
    assert alpha.ledger.passed[alpha.live] == own


def test_nothing_of_a_revoked_gateway_is_fetched(three, monkeypatch):
    alpha, bravo, charlie = three
    append(charlie, "INSERT INTO t VALUES('before', 1)")
    read(bravo)
    append(charlie, "INSERT INTO t VALUES('after', 1)")
    asyncio.run(charlie.writer.state({bravo.live: 5}, ()))
    roster = bravo.courier.roster
    authority = Authority.of(
        alpha.identity.certificate, alpha.identity.root_public, alpha.identity.node_seed, ROOT_SEED
    )
    revocation = Revocation.issue(charlie.identity.certificate, authority, at_s=WALL_MS // 1_000)
    roster.revocations.add_revocation(revocation.raw)
    roster.drop(charlie.identity.node_id)
    append(alpha, "INSERT INTO t VALUES('of alpha', 1)")
    fetched, get = [], bravo.courier.mailbox.get
    monkeypatch.setattr(bravo.courier.mailbox, "get", lambda mesh, each: fetched.append(each.stream) or get(mesh, each))
    read(bravo)
    assert set(fetched) == {alpha.live}
    assert bravo.rows() == [("before", 1), ("first", 1), ("of alpha", 1)]
    stream = bravo.stream_of(charlie)
    assert (stream.member, stream.why) == (
        "n2",
        "n2 was revoked: nothing of it is read, and its streams may be removed",
    )
    assert charlie.parcels not in bravo.reader.streams
    assert len(bravo.reader.receipts_of_own()) == 1  # its last receipt keeps nothing in the mailbox
    assert bravo.reader.retry_ms is None
    bravo.begin()
    fetched.clear()
    bravo.ledger.passed.clear()
    read(bravo)
    assert set(fetched) <= {alpha.live, alpha.parcels, bravo.live, bravo.parcels}


def test_a_restart_fetches_nothing_again(three, monkeypatch):
    """Neither changes that were read nor parcels, also not to learn whose they are."""
    alpha, bravo, _ = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    bravo.ledger.store(bravo.node.peer.replica)
    append(alpha, "INSERT INTO t VALUES('while it was down', 1)")
    bravo.node.reopen()
    bravo.begin()
    fetched, get = [], bravo.courier.mailbox.get
    monkeypatch.setattr(bravo.courier.mailbox, "get", lambda mesh, each: fetched.append(each) or get(mesh, each))
    asyncio.run(bravo.writer.look())
    read(bravo)
    assert bravo.rows() == alpha.rows()
    assert {each.position for each in fetched} == {alpha.ledger.own}


def test_a_stream_without_a_position_has_no_lag():
    """Positions are Unix times: the first one would be some 57 years behind."""
    stream = Stream(waiting=1, newest=1_800_000_000_000 << POSITION_SHIFT)
    assert stream.lag_ms(0) == 0
    assert stream.lag_ms((1_800_000_000_000 - 5) << POSITION_SHIFT) == 5


@pytest.mark.parametrize("last", [0, 1])
def test_a_new_base_fetches_one_parcel(three, monkeypatch, last):
    """Of the other it fetches the end alone, since the newest one has all that it brings."""
    alpha, bravo, charlie = three
    rows = "INSERT INTO t SELECT 'r' || value, hex(randomblob(20000)) FROM json_each('[1,2,3,4,5,6,7,8,9]')"
    append(alpha, rows)
    read(bravo)
    for each in (bravo, alpha) if last == 0 else (alpha, bravo):
        asyncio.run(each.writer.pack())
        each.world.run(1_000)
    mailbox, fetched = charlie.courier.mailbox, {}
    get = mailbox.get

    def counted(mesh, each):
        fetched[each.stream] = fetched.get(each.stream, 0) + each.size
        return get(mesh, each)

    charlie.begin()
    monkeypatch.setattr(mailbox, "get", counted)
    read(charlie)
    assert charlie.rows() == alpha.rows()
    newest, other = (alpha, bravo) if last == 0 else (bravo, alpha)
    sizes = {each: sum(one.size for one in mailbox.list_after(each.keys.mesh, each.parcels, 0)) for each in three}
    end = mailbox.list_after(other.keys.mesh, other.parcels, 0)[-1].size
    assert sizes[newest] <= fetched[newest.parcels] < 1.1 * sizes[newest]
    assert fetched[other.parcels] == end < 2_000 < sizes[other] / 50
    assert charlie.stream_of(newest).size >= sizes[newest]
    assert charlie.stream_of(other).size < 50_000
