"""The courier's checks of what lies in a mailbox: who signed it, for what, where, and whether all of it is there."""

import asyncio

import pytest

from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.envelope import EnvelopeKeys
from mycomesh.mesh.mailbox.mailbox import Listed
from mycomesh.mesh.mailbox.streams import Kind, StreamWriter
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.revocations import Revocation
from mycomesh.mesh.membership.roster import Roster
from mycomesh.mesh.node import courier
from mycomesh.mesh.node.courier import Courier, TakenIn
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.sync.wire import messages as wire
from tests.mesh.node.surroundings import StillSurroundings
from tests.mesh.pipes import WALL_MS, mesh_of

(ALPHA, BRAVO, CHARLIE), ROOT_SEED = mesh_of(3)
KEYS = EnvelopeKeys(ALPHA.mesh_id, ALPHA.secret, (ALPHA.secret,))
DIGESTS, DONE = wire.encode(wire.Digests(())), wire.encode(wire.Done((), ()))
STREAM = KEYS.stream_of(ALPHA.node_id)


@pytest.fixture
def mailbox(tmp_path):
    return DirectoryMailbox(tmp_path)


def reading(mailbox):
    roster = Roster(BRAVO)
    roster.add(ALPHA.certificate)
    roster.add(CHARLIE.certificate)
    return Courier(mailbox, roster, lambda: KEYS, VirtualLinks(lambda _: None), StillSurroundings(NoTables()))


class NoTables:
    """A replica that lacks nothing."""

    inbox = type("Inbox", (), {"renew_site_if_behind": staticmethod(lambda _: False)})


def put(mailbox, position, payloads, *, previous=0, by=ALPHA, kind=Kind.PARCEL):
    writer = StreamWriter(by, kind, previous)
    for payload in payloads:
        writer.put(payload)
    at, data = writer.next_envelope(KEYS, position)
    assert at == position
    assert mailbox.append(KEYS.mesh, kind.stream(KEYS, by.node_id), position, data)
    return kind.stream(KEYS, by.node_id)


def newest(mailbox, stream=STREAM):
    return asyncio.run(reading(mailbox).newest(stream))


def test_the_newest_complete_parcel_is_read(mailbox):
    put(mailbox, 10, [DIGESTS])
    put(mailbox, 11, [DONE], previous=10)
    put(mailbox, 20, [DIGESTS])  # its end never reached the stick
    parcel = newest(mailbox)
    assert (parcel.author, [each.position for each in parcel.envelopes]) == (ALPHA.certificate, [10, 11])
    put(mailbox, 21, [DONE], previous=20)
    assert [each.position for each in newest(mailbox).envelopes] == [20, 21]


def test_a_parcel_with_a_hole_is_refused(mailbox):
    put(mailbox, 10, [DIGESTS])
    put(mailbox, 12, [DONE], previous=11)
    with pytest.raises(DecodeError, match="no complete parcel"):
        newest(mailbox)


def test_the_end_may_be_in_several_envelopes(mailbox):
    done = wire.Done((), ())
    put(mailbox, 10, [DIGESTS, wire.encode(wire.Part(done))])
    put(mailbox, 11, [DONE], previous=10)
    assert newest(mailbox).done == done


def test_live_changes_are_no_parcel(mailbox):
    stream = put(mailbox, 10, [DONE], kind=Kind.LIVE)
    assert newest(mailbox, stream) is None
    assert newest(mailbox) is None


def test_a_parcel_of_a_revoked_member_is_refused(mailbox):
    put(mailbox, 10, [DIGESTS, DONE])
    reader = reading(mailbox)
    authority = Authority.of(ALPHA.certificate, ALPHA.root_public, ALPHA.node_seed, ROOT_SEED)
    revocation = Revocation.issue(ALPHA.certificate, authority, at_s=WALL_MS // 1_000)
    reader.roster.revocations.add_revocation(revocation.raw)
    with pytest.raises(CertificateError):
        asyncio.run(reader.newest(STREAM))
    assert [each.state for each in asyncio.run(reader.take_in())] == ["refused"]


def test_a_parcel_teaches_its_author_before_its_rows(mailbox):
    put(mailbox, 10, [DIGESTS, DONE])
    reader = reading(mailbox)
    assert asyncio.run(reader.take_in()) == [TakenIn("n0", "read")]
    assert set(reader.surroundings.learnt) == {ALPHA.certificate.raw}


def test_own_streams_are_not_taken_in(mailbox):
    put(mailbox, 10, [DIGESTS, DONE], by=BRAVO)
    put(mailbox, 11, [DONE], by=BRAVO, kind=Kind.LIVE)
    assert asyncio.run(reading(mailbox).take_in()) == []


def opened(mailbox):
    """Count the envelopes that a courier fetches."""
    fetched, get = [], mailbox.get
    mailbox.get = lambda mesh, listed: fetched.append(listed.position) or get(mesh, listed)
    return fetched


def test_a_covered_parcel_is_read_by_its_end(mailbox):
    put(mailbox, 10, [DIGESTS])
    put(mailbox, 11, [DIGESTS], previous=10)
    put(mailbox, 12, [DIGESTS, DONE], previous=11)
    fetched = opened(mailbox)
    parcel, left = asyncio.run(reading(mailbox).take_parcel(STREAM))
    assert (parcel.author, parcel.position, left) == (ALPHA.certificate, 12, {})
    assert fetched == [12]
    assert asyncio.run(reading(mailbox).take_parcel(STREAM, needed=13)) is None


def test_a_long_end_is_read_backwards(mailbox):
    done = wire.Done((), ())
    put(mailbox, 10, [DIGESTS])
    put(mailbox, 11, [DIGESTS, wire.encode(wire.Part(done))], previous=10)
    put(mailbox, 12, [wire.encode(wire.Part(done))], previous=11)
    put(mailbox, 13, [DONE], previous=12)
    fetched = opened(mailbox)
    assert asyncio.run(reading(mailbox).end_of(STREAM)).done == done
    assert fetched == [13, 12, 11]
    mailbox.remove(KEYS.mesh, Listed(STREAM, 11, 0))
    assert asyncio.run(reading(mailbox).end_of(STREAM)) is None  # it would show a part of the vectors
    mailbox.remove(KEYS.mesh, Listed(STREAM, 10, 0))
    assert asyncio.run(reading(mailbox).end_of(STREAM)) is None


@pytest.mark.parametrize("missing", [10, 11])
def test_rows_without_an_envelope_take_no_vectors(mailbox, monkeypatch, missing):
    put(mailbox, 10, [DIGESTS])
    put(mailbox, 11, [wire.encode(wire.Chunk(b"rows"))], previous=10)
    put(mailbox, 12, [wire.encode(wire.Chunk(b"more"))], previous=11)
    put(mailbox, 13, [DONE], previous=12)
    read = []

    async def replayed(_surroundings, _links, _author, _done, chunks):
        read.append([wire.decode(each).bundle async for each in chunks()])
        return {}

    monkeypatch.setattr(courier, "replay", replayed)
    asyncio.run(reading(mailbox).take_parcel(STREAM))
    assert read == [[b"rows", b"more"]]
    mailbox.remove(KEYS.mesh, Listed(STREAM, missing, 0))
    with pytest.raises(DecodeError, match="no complete parcel"):
        asyncio.run(reading(mailbox).take_parcel(STREAM))
    assert len(read) == 1


def test_an_older_whole_parcel_is_found_behind_another(mailbox):
    put(mailbox, 10, [DIGESTS])
    put(mailbox, 11, [DONE], previous=10)
    put(mailbox, 20, [DIGESTS])  # its end is not there yet
    parcel, _ = asyncio.run(reading(mailbox).take_parcel(STREAM))
    assert [each.position for each in parcel.envelopes] == [10, 11]
    mailbox.append(KEYS.mesh, STREAM, 30, b"invented")
    assert asyncio.run(reading(mailbox).take_parcel(STREAM))[0].position == 11
