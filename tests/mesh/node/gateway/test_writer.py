"""Writing the two streams: runs bring what the mailbox lacks, parcels come when they must, and old envelopes go."""

import asyncio

import pytest

from mycomesh.mesh.mailbox.envelope import POSITION_MAX
from mycomesh.mesh.mailbox.mailbox import Listed, MailboxError
from mycomesh.mesh.node import recording
from mycomesh.mesh.node.courier import REMOVE_MS
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.gateway import writer as module
from mycomesh.mesh.node.gateway.reader import GAP_MS
from mycomesh.mesh.node.gateway.writer import PARCEL_MS
from tests.mesh.node.gateway.conftest import settle
from tests.mesh.node.gateway.test_reader import append, lose, read


def listed(base, stream=None):
    found = base.courier.mailbox.list_after(base.keys.mesh, stream or base.live, 0)
    return [each.position for each in found]


def look(base):
    asyncio.run(base.writer.look())
    return base.writer.needs_parcel


def test_an_unchanged_file_appends_nothing(three):
    alpha = three[0]
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    before = listed(alpha)
    for _ in range(3):
        assert not asyncio.run(alpha.writer.write())
    assert listed(alpha) == before


def restart(base, *, stored=True):
    """Start a gateway again, after an orderly end or without one."""
    if stored:
        base.ledger.store(base.node.peer.replica)
    base.node.reopen()
    base.begin()
    look(base)


def test_a_restart_appends_nothing_of_others(three):
    """The mailbox has what they have brought, whether this node has appended something since or not."""
    alpha, bravo, charlie = three
    for number in range(3):
        append(alpha, f"INSERT INTO t VALUES('a{number}', 1)")
        read(bravo)
        restart(bravo)
        assert not asyncio.run(bravo.writer.write())
        append(bravo, f"INSERT INTO t VALUES('b{number}', hex(randomblob(2000)))")
        read(alpha)
    assert bravo.writer.written.size < 6_000  # the last row alone, and what its reader must have from others
    read(charlie)
    assert charlie.rows() == bravo.rows() == alpha.rows()


def test_a_kill_repeats_what_was_read_last(three):
    alpha, bravo, charlie = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    bravo.ledger.store(bravo.node.peer.replica)
    append(alpha, "INSERT INTO t VALUES('large', hex(randomblob(9000)))")
    read(bravo)
    bravo.ledger.store(bravo.node.peer.replica)
    append(alpha, "INSERT INTO t VALUES('last', 1)")
    read(bravo)
    restart(bravo, stored=False)
    assert asyncio.run(bravo.writer.write())
    assert bravo.writer.written.size < 2_000
    read(charlie)
    assert charlie.rows() == bravo.rows() == alpha.rows()


def test_a_withdrawn_base_leaves_its_rows(three):
    """Its streams are gone, and what they brought is in no envelope; a base that comes later gets it from the others."""
    alpha, bravo, charlie = three
    append(alpha, "INSERT INTO t VALUES('of alpha', 1)")
    read(bravo)
    assert bravo.ledger.news
    restart(bravo)
    assert bravo.ledger.news  # a statement has to cover them
    for stream in (alpha.live, alpha.parcels):
        for position in listed(alpha, stream):
            alpha.courier.mailbox.remove(alpha.keys.mesh, Listed(stream, position, 0))
    assert not asyncio.run(bravo.writer.write())
    assert asyncio.run(bravo.writer.state({}, ()))
    charlie.ledger.passed.clear()
    read(charlie)
    charlie.world.run(GAP_MS + 1)
    read(charlie)
    assert charlie.reader.wanted() == (bravo.live,)
    asyncio.run(bravo.writer.pack())
    charlie.world.run(PARCEL_MS)
    read(charlie)
    assert charlie.rows() == bravo.rows() == [("first", 1), ("of alpha", 1)]


def test_another_mailbox_gets_everything(three, tmp_path):
    """Another stick under the same name: nothing of this node is there, so nothing of others counts."""
    alpha, bravo, charlie = three
    append(alpha, "INSERT INTO t VALUES('of alpha', 1)")
    read(bravo)
    (tmp_path / "share").rename(tmp_path / "away")
    (tmp_path / "share").mkdir()
    restart(bravo)
    assert bravo.writer.needs_parcel
    asyncio.run(bravo.writer.pack())
    charlie.ledger.passed.clear()
    read(charlie)
    assert charlie.rows() == bravo.rows()
    append(bravo, "INSERT INTO t VALUES('meanwhile', 1)")
    (tmp_path / "share").rename(tmp_path / "other")
    (tmp_path / "away").rename(tmp_path / "share")
    restart(bravo)
    assert bravo.writer.needs_parcel  # the first stick lacks what the second has
    asyncio.run(bravo.writer.pack())
    charlie.ledger.passed.clear()
    charlie.begin()
    charlie.ledger.passed.clear()
    read(charlie)
    assert charlie.rows() == bravo.rows()


def test_a_restored_file_appends_from_its_own_past(three):
    alpha, bravo, charlie = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    read(bravo)
    bravo.ledger.store(bravo.node.peer.replica)
    old = {name: bravo.node.peer.replica.store.meta(name) for name in metas(bravo)}
    append(bravo, "INSERT INTO t VALUES('b', 1)")
    append(alpha, "INSERT INTO t VALUES('c', 1)")
    read(bravo, charlie)
    bravo.ledger.store(bravo.node.peer.replica)
    with bravo.node.peer.replica.store.transaction():
        for name, value in old.items():
            bravo.node.peer.replica.store.meta_set(name, value)
    restart(bravo, stored=False)
    read(bravo)
    before = bravo.writer.written.size
    asyncio.run(bravo.writer.write())
    assert bravo.writer.written.size - before < 2_000
    append(bravo, "INSERT INTO t VALUES('d', 1)")
    charlie.ledger.passed.clear()
    read(charlie)
    assert charlie.rows() == bravo.rows()


def metas(base):
    listing = "SELECT name FROM mycomesh_meta WHERE name >= 'mailbox' AND name < 'mailboy' ORDER BY name"
    return [name for (name,) in base.node.sql(listing)]


def test_a_long_statement_leaves_tables_for_the_next(three, monkeypatch):
    alpha = three[0]
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    monkeypatch.setattr(module, "VECTORS_BYTES", 0)
    tables = len(alpha.node.peer.replica.digest_pairs())
    alpha.begin()
    look(alpha)
    said = [asyncio.run(alpha.writer.state({}, ())) for _ in range(tables)]
    assert said == [False] * (tables - 1) + [True]


def test_a_failed_statement_is_said_again(three, monkeypatch):
    alpha = three[0]
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    with monkeypatch.context() as patched:
        patched.setattr(alpha.courier.mailbox, "append", full)
        with pytest.raises(MailboxError):
            asyncio.run(alpha.writer.state({}, ()))
    asyncio.run(alpha.writer.state({}, ()))
    read(three[1])
    assert three[1].stream_of(alpha).doubts == {}
    assert len(alpha.writer._said) == len(alpha.node.peer.replica.digest_pairs())


def full(*_args):
    raise MailboxError("the disk is full")


def test_a_run_that_broke_off_is_repeated(three, monkeypatch):
    alpha, bravo, _ = three
    alpha.write("INSERT INTO t SELECT 'r' || value, randomblob(9000) FROM json_each('[1,2,3,4,5,6,7,8,9]')")
    monkeypatch.setattr("mycomesh.mesh.mailbox.streams.GATHER_BYTES", 20_000)
    mailbox, calls = alpha.courier.mailbox, []

    def append_once(*args):
        calls.append(args)
        if len(calls) == 2:
            raise MailboxError("disk full")
        return type(mailbox).append(mailbox, *args)

    monkeypatch.setattr(mailbox, "append", append_once, raising=False)
    alpha.write("INSERT INTO t SELECT 'q' || value, randomblob(90000) FROM json_each('[1,2,3,4,5,6,7,8,9]')")
    with pytest.raises(MailboxError):
        asyncio.run(alpha.writer.write())
    read(bravo)
    assert bravo.rows() == [("first", 1)]
    assert asyncio.run(alpha.writer.write())
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_a_position_that_the_storage_has_taken_is_passed(three):
    alpha = three[0]
    alpha.ledger.on_own(alpha.ledger.own + (1 << 40))  # its clock was ahead, so that time alone does not move positions
    mailbox = alpha.courier.mailbox
    mailbox.append(alpha.keys.mesh, alpha.live, alpha.ledger.own + 1, b"invented")
    alpha.write("INSERT INTO t VALUES('a', 1)")
    with pytest.raises(NodeError, match="another program"):
        asyncio.run(alpha.writer.write())
    assert asyncio.run(alpha.writer.write())
    mailbox.append(alpha.keys.mesh, alpha.live, alpha.ledger.own + 1, b"invented")
    with pytest.raises(NodeError, match="another program"):
        asyncio.run(alpha.writer.state({}, ()))
    asyncio.run(alpha.writer.state({}, ()))


@pytest.mark.parametrize("names", [1, 70])
def test_invented_positions_far_ahead_are_not_gone_on_from(three, names):
    alpha, bravo, _ = three
    for stream in (alpha.live, alpha.parcels):
        for number in range(names):
            alpha.courier.mailbox.append(alpha.keys.mesh, stream, POSITION_MAX - number, b"invented")
    look(alpha)
    assert alpha.writer.last < POSITION_MAX >> 1
    asyncio.run(alpha.writer.pack())
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    for _ in range(3):
        read(bravo)
    assert bravo.rows() == alpha.rows()
    stream = bravo.stream_of(alpha)
    assert stream.lag_ms(bravo.ledger.passed[alpha.live]) < 86_400_000


def test_own_positions_far_ahead_are_gone_on_from(three):
    alpha, bravo, _ = three
    alpha.ledger.on_own(alpha.ledger.own + (1 << 50))  # its clock was ahead
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    last = alpha.ledger.own
    asyncio.run(alpha.writer.pack())
    alpha.begin()
    alpha.ledger.on_own(0)  # as if its file had been lost
    look(alpha)
    assert alpha.writer.last == last
    asyncio.run(alpha.writer.pack())
    append(alpha, "INSERT INTO t VALUES('b', 1)")
    bravo.world.run(GAP_MS)
    read(bravo)
    bravo.world.run(GAP_MS)
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_lost_envelopes_lead_to_a_parcel(three):
    alpha = three[0]
    assert not look(alpha)
    position = append(alpha, "INSERT INTO t VALUES('a', 1)")
    append(alpha, "INSERT INTO t VALUES('b', 1)")
    assert not look(alpha)
    lose(alpha, position)
    assert look(alpha)
    asyncio.run(alpha.writer.pack())
    assert not look(alpha)
    alpha.courier.mailbox.remove(alpha.keys.mesh, Listed(alpha.parcels, listed(alpha, alpha.parcels)[0], 0))
    assert look(alpha)


def test_a_stream_may_lose_its_end_meanwhile(three):
    alpha = three[0]
    position = append(alpha, "INSERT INTO t VALUES('a', 1)")
    alpha.ledger.store(alpha.node.peer.replica)
    alpha.begin()
    assert not look(alpha)
    lose(alpha, position)
    alpha.begin()
    assert look(alpha)
    asyncio.run(alpha.writer.pack())
    read(three[1])
    append(alpha, "INSERT INTO t VALUES('b', 1)")
    read(three[1])
    assert three[1].rows() == [("first", 1)]  # a hole, until its time is over
    three[1].world.run(module.PARCEL_MS)
    read(three[1])
    assert three[1].rows() == alpha.rows()


def test_an_emptied_mailbox_is_filled_again(three):
    alpha, bravo, charlie = three
    for each in three:
        for stream in (each.live, each.parcels):
            for position in listed(each, stream):
                each.courier.mailbox.remove(each.keys.mesh, Listed(stream, position, 0))
    alpha.write("INSERT INTO t VALUES('a', 1)")
    assert look(alpha)
    asyncio.run(alpha.writer.pack())
    asyncio.run(alpha.writer.state({}, ()))
    charlie.ledger.passed.clear()
    read(bravo, charlie)
    bravo.world.run(PARCEL_MS)
    read(bravo)
    assert bravo.rows() == charlie.rows() == alpha.rows()


def test_a_large_live_stream_leads_to_a_parcel(three, monkeypatch):
    alpha = three[0]
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    assert not alpha.writer.needs_parcel
    monkeypatch.setattr(module, "LIVE_BYTES", 100)
    append(alpha, "INSERT INTO t VALUES('b', hex(zeroblob(5000)))")
    append(alpha, "INSERT INTO t VALUES('c', hex(randomblob(5000)))")
    assert alpha.writer.needs_parcel
    asyncio.run(alpha.writer.pack())
    assert not alpha.writer.needs_parcel
    monkeypatch.setattr(module, "LIVE_COUNT", 0)
    append(alpha, "INSERT INTO t VALUES('d', 1)")
    assert alpha.writer.needs_parcel


def test_parcels_that_readers_ask_for_keep_a_distance(three):
    alpha = three[0]
    alpha.world.run(PARCEL_MS)
    alpha.writer.request_parcel()
    assert alpha.writer.needs_parcel
    asyncio.run(alpha.writer.pack())
    alpha.writer.request_parcel()
    assert not alpha.writer.needs_parcel
    assert alpha.writer.next_deadline() == alpha.world.now + PARCEL_MS
    alpha.world.run(PARCEL_MS)
    assert alpha.writer.needs_parcel


def test_envelopes_go_once_all_have_read_them(three):
    alpha, bravo, _ = three
    before = listed(alpha)
    first = append(alpha, "INSERT INTO t VALUES('a', 1)")
    second = append(alpha, "INSERT INTO t VALUES('b', 1)")
    asyncio.run(alpha.writer.prune((second, second)))
    assert listed(alpha) == [*before, first, second]  # they are after the parcel
    asyncio.run(alpha.writer.pack())
    third = append(alpha, "INSERT INTO t VALUES('c', 1)")
    for receipts in ((), (third, 0)):
        asyncio.run(alpha.writer.prune(receipts))
        assert listed(alpha) == [*before, first, second, third]
    asyncio.run(alpha.writer.prune((first, third)))
    assert listed(alpha) == [second, third]
    asyncio.run(alpha.writer.prune((third, third)))
    assert listed(alpha) == [third]
    read(bravo)  # the others have said that they read them, and this one has not
    bravo.world.run(PARCEL_MS)
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_a_storage_without_removal_costs_nothing_more(three, monkeypatch):
    """Neither a parcel that is packed again and again, nor a gateway that waits: what is old stays where it is."""
    alpha, bravo, _ = three
    removal, mailbox = alpha.courier.removal, alpha.courier.mailbox
    assert (removal.state, removal.why) == ("unknown", "")
    removed = []

    def denied(_mesh, listed):
        removed.append(listed)
        raise MailboxError("access denied")

    append(alpha, "INSERT INTO t VALUES('a', 1)")
    with monkeypatch.context() as patched:
        patched.setattr(mailbox, "remove", denied)
        for number in range(3):
            asyncio.run(alpha.writer.pack())
            assert not alpha.writer.needs_parcel
            last = append(alpha, f"INSERT INTO t VALUES('b{number}', 1)")
            asyncio.run(alpha.writer.prune((last, last)))
        assert (removal.state, removal.why) == ("no", "access denied")
        assert len(removed) == 1  # the next try comes later
        alpha.world.run(REMOVE_MS)
        asyncio.run(alpha.writer.prune((last, last)))
        assert len(removed) == 2
    bravo.ledger.passed.clear()
    read(bravo)
    assert bravo.rows() == alpha.rows()
    alpha.world.run(REMOVE_MS)
    asyncio.run(alpha.writer.prune((last, last)))
    asyncio.run(alpha.writer.pack())
    assert (removal.state, removal.why) == ("yes", "")
    assert len(listed(alpha, alpha.parcels)) == 1


@pytest.mark.parametrize("limit", ["age", "size"])
def test_old_envelopes_go_by_age_and_by_size(three, monkeypatch, limit):
    alpha, bravo, _ = three
    append(alpha, "INSERT INTO t VALUES('a', 1)")
    asyncio.run(alpha.writer.pack())
    last = append(alpha, "INSERT INTO t VALUES('b', 1)")
    if limit == "age":
        monkeypatch.setattr(module, "KEEP_MS", 0)
        alpha.world.run(5)
    else:
        monkeypatch.setattr(module, "KEEP_BYTES", 0)
    asyncio.run(alpha.writer.prune((0, 0)))
    assert listed(alpha) == [last]
    asyncio.run(settle(bravo))
    bravo.world.run(module.PARCEL_MS)
    read(bravo)
    assert bravo.rows() == alpha.rows()


def test_a_run_leaves_out_what_is_being_read(three, monkeypatch):
    """Between the rows of a run and its vectors, this node has changes beyond its vector; its own run needs and names them."""
    alpha, bravo, charlie = three
    alpha.write("INSERT INTO t VALUES('large', ?)", "x" * 10_000)
    assert asyncio.run(alpha.writer.write())
    settled, sizes = recording._settle, []

    async def interrupted(*words):
        if not sizes:
            sizes.append(bravo.writer.written.size)
            bravo.write("UPDATE t SET v = 'more' WHERE id = 'large'")
            assert await bravo.writer.write()
        return await settled(*words)

    monkeypatch.setattr(recording, "_settle", interrupted)
    asyncio.run(settle(bravo))
    assert bravo.writer.written.size - sizes[0] < 5_000
    monkeypatch.undo()
    asyncio.run(settle(charlie))
    asyncio.run(settle(alpha))
    assert alpha.rows() == bravo.rows() == charlie.rows() == [("first", 1), ("large", "more")]


def test_a_parcel_after_a_restart_keeps_the_site(three):
    """The reader of a recording claims to cover what comes later in the parcel, also of this node's own site."""
    alpha = three[0]
    site = alpha.node.peer.replica.site
    alpha.node.reopen()
    alpha.begin()
    asyncio.run(alpha.writer.pack())
    assert alpha.node.peer.replica.site == site
    assert "site.renewed" not in alpha.node.noticed()
