"""The courier's checks of what lies in a mailbox: who signed it, for what, where, and whether all of it is there."""

import asyncio

import pytest

from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.envelope import Contents, EnvelopeKeys, seal
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.revocations import Revocation
from mycomesh.mesh.membership.roster import Roster
from mycomesh.mesh.messages import Batch, signed_part
from mycomesh.mesh.node import courier
from mycomesh.mesh.node.courier import PASSES_MAX, Courier, TakenIn
from mycomesh.mesh.node.virtual_links import VirtualLinks
from mycomesh.sync.events import MessageReceived, Send
from mycomesh.sync.wire import messages as wire
from tests.mesh.pipes import WALL_MS, mesh_of

(ALPHA, BRAVO, CHARLIE), ROOT_SEED = mesh_of(3)
KEYS = EnvelopeKeys(ALPHA.mesh_id, ALPHA.secret, (ALPHA.secret,))
DIGESTS, DONE = wire.encode(wire.Digests(())), wire.encode(wire.Done((), ()))


@pytest.fixture(autouse=True)
def fixed_clock(monkeypatch):
    monkeypatch.setattr(courier, "clock", lambda: (0, WALL_MS))
    monkeypatch.setattr(courier, "QUIET_S", 0.01)


@pytest.fixture
def mailbox(tmp_path):
    return DirectoryMailbox(tmp_path)


def reading(links=None):
    roster = Roster(BRAVO)
    roster.add(ALPHA.certificate)
    roster.add(CHARLIE.certificate)
    return Courier(BRAVO, roster, (BRAVO.secret,), links or VirtualLinks(lambda _: None))


def put(mailbox, position, payloads, *, previous=0, by=ALPHA, domain=b"parcel", stream_of=ALPHA, certificate=None):
    batches = tuple(
        Batch(by.node_id, 2, False, by.sign(domain, signed_part(2, payload, direct=False)), payload)
        for payload in payloads
    )
    stream = KEYS.stream_of(stream_of.node_id)
    contents = Contents(previous, ((certificate or by.certificate).raw,), batches)
    assert mailbox.append(KEYS.mesh, stream, position, seal(KEYS, stream, position, contents))
    return stream


def test_the_newest_complete_parcel_is_read(mailbox):
    stream = put(mailbox, 10, [DIGESTS])
    put(mailbox, 11, [DONE], previous=10)
    put(mailbox, 20, [DIGESTS])  # its end never reached the stick
    author, parcel = reading()._newest(mailbox, stream)
    assert (author, [each.position for each in parcel]) == (ALPHA.certificate, [10, 11])
    put(mailbox, 21, [DONE], previous=20)
    assert [each.position for each in reading()._newest(mailbox, stream)[1]] == [20, 21]


def test_a_parcel_with_a_hole_is_refused(mailbox):
    put(mailbox, 10, [DIGESTS])
    stream = put(mailbox, 12, [DONE], previous=11)
    with pytest.raises(DecodeError, match="no complete parcel"):
        reading()._newest(mailbox, stream)


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [
        ({"domain": b"batch"}, "not signed by n0"),  # a live batch cannot pass for a parcel
        ({"by": CHARLIE, "certificate": ALPHA.certificate}, "not signed by n0"),
        ({"by": CHARLIE}, "stream of another member"),
    ],
)
def test_what_its_member_has_not_signed_is_refused(mailbox, forgery, reason):
    stream = put(mailbox, 10, [DIGESTS, DONE], **forgery)
    with pytest.raises(DecodeError, match=reason):
        reading()._newest(mailbox, stream)


def test_a_parcel_of_a_revoked_member_is_refused(mailbox):
    stream = put(mailbox, 10, [DIGESTS, DONE])
    reader = reading()
    authority = Authority.of(ALPHA.certificate, ALPHA.root_public, ALPHA.node_seed, ROOT_SEED)
    revocation = Revocation.issue(ALPHA.certificate, authority, at_s=WALL_MS // 1_000)
    reader._roster.revocations.add_revocation(revocation.raw)
    with pytest.raises(CertificateError):
        reader._newest(mailbox, stream)


def test_tables_that_some_member_may_not_read_stay_home(monkeypatch):
    reader = reading()
    monkeypatch.setattr(Roster, "restricted_rights", lambda _: ((CHARLIE.node_id, (("secret*", "-"), ("*", "r"))),))
    assert reader._readable(["drones", "secrets"]) == (["drones"], ("secrets",))


def test_a_reader_that_never_has_enough_is_ended(mailbox):
    put(mailbox, 10, [DIGESTS, DONE])
    links = VirtualLinks(lambda event: asking(links, event))
    passes = []

    def asking(links, event):
        if isinstance(event, MessageReceived) and event.payload == DIGESTS:
            passes.append(event)
            links.take([Send(event.link, wire.encode(wire.Vectors(())))])

    taken = asyncio.run(reading(links).take_in(mailbox))
    assert taken == [TakenIn("n0", "partly", "some tables are not here yet; run it again")]
    assert len(passes) == PASSES_MAX


def test_own_parcels_are_not_taken_in(mailbox):
    put(mailbox, 10, [DIGESTS, DONE], by=BRAVO, stream_of=BRAVO)
    assert asyncio.run(reading().take_in(mailbox)) == []
