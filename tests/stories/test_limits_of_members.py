"""Limits on what a member may send to the mesh: each is tried below, at and above its value."""

from __future__ import annotations

import random
import socket

import pytest

from mycomesh.mesh import messages, wire
from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.errors import CertificateError, DecodeError, EnrolmentError
from mycomesh.mesh.events import Address
from mycomesh.mesh.links import authentication
from mycomesh.mesh.links.authentication import _PORT_MAX, MemberHello
from mycomesh.mesh.membership import certificate, enrolment, revocations, roster
from mycomesh.mesh.membership.certificate import _TIME_S_MAX, GRANTS_MAX, PATTERN_BYTES_MAX, issue, rights_fault
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.enrolment import CODE_TEXT_MAX, USES_MAX, Invitation, JoinCode
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.membership.revocations import EPOCH_NUMBER_MAX, REVOCATIONS_MAX, Epoch, Revocation
from mycomesh.mesh.membership.roster import MEMBERS_MAX
from mycomesh.mesh.messages import (
    ADDRESSES_BYTES_MAX,
    PRIORITY_MAX,
    RECORDS_BYTES_MAX,
    Addresses,
    Batch,
    CertificatesHave,
    LinkStates,
    Revocations,
    decode,
    encode,
)
from mycomesh.mesh.node.control import client
from mycomesh.mesh.overlay.overlay import (
    UNCERTIFIED_BYTES_MAX,
    UNCERTIFIED_MAX,
    UNKNOWN_MAX,
    UNKNOWN_MS,
    Overlay,
)
from mycomesh.mesh.overlay.topology import RECORD_BYTES_MAX, SEQUENCE_MAX, LinkState, Topology
from mycomesh.mesh.relay.circuit_frame import DATA_BYTES_MAX, NUMBER_MAX, CircuitFrame, FrameKind
from mycomesh.mesh.results import Send
from mycomesh.mesh.session.noise import PSKS_MAX, Handshake, respond
from mycomesh.mesh.versions import VERSION_MAX
from tests.mesh.pipes import WALL_MS, mesh_of

(FIRST, SECOND, THIRD), ROOT_SEED = mesh_of(3)
ROOT = Authority.of(FIRST.certificate, FIRST.root_public, FIRST.node_seed, ROOT_SEED)
SITES = (bytes(16), b"\x01" * 16, b"\x02" * 16)


def refuses(call, *errors):
    """Whether the call raises one of these errors."""
    try:
        call()
    except errors:
        return True
    return False


def around(limit):
    return pytest.mark.parametrize(("value", "fits"), [(limit - 1, True), (limit, True), (limit + 1, False)])


# ---- certificates, codes, decrees


@around(GRANTS_MAX)
def test_grants_of_a_certificate(value, fits):
    assert (rights_fault(("member",), (("t", "rw"),) * value) == "") is fits


@around(PATTERN_BYTES_MAX)
@pytest.mark.parametrize("letter", ["t", "\u00e9"])
def test_bytes_of_a_table_pattern(letter, value, fits):
    pattern = letter * (value // len(letter.encode())) + "t" * (value % len(letter.encode()))
    assert (rights_fault(("member",), ((pattern, "rw"),)) == "") is fits


@around(_TIME_S_MAX)
def test_time_at_which_a_certificate_ends(value, fits):
    assert certificate._TIME_S_MAX == _TIME_S_MAX

    def made():
        issue(
            ROOT_SEED,
            name="drone",
            node_key=SECOND.certificate.node_key,
            static_key=SECOND.certificate.static_key,
            roles=("member",),
            not_before_s=1,
            not_after_s=value,
            serial=bytes(16),
        )

    assert refuses(made, CertificateError) is not fits


@around(CODE_TEXT_MAX)
def test_characters_of_a_typed_join_code(value, fits):
    code = str(JoinCode(FIRST.mesh_id, bytes(16)))
    text = code + " " * (value - len(code))
    assert refuses(lambda: JoinCode.parse(text), EnrolmentError) is not fits


@around(USES_MAX)
def test_uses_of_an_invitation(value, fits):
    def invited():
        return enrolment.invite(entropy=random.Random(1).randbytes, expires_ms=9, uses=value)

    assert refuses(invited, EnrolmentError) is not fits
    stored = wire.encode((1, bytes(16), 9, value, ("member",), enrolment.GRANTS_ALL))
    assert refuses(lambda: Invitation.decode(stored), DecodeError) is not fits


@around(EPOCH_NUMBER_MAX)
def test_number_of_an_epoch(value, fits):
    def read():
        Epoch.decode(Epoch.issue(value, bytes(32), THIRD.node_id, ROOT, at_s=9).raw, root_public=ROOT.root_public)

    assert refuses(read, CertificateError) is not fits


def test_revocations_that_a_node_keeps(monkeypatch):
    assert REVOCATIONS_MAX >= MEMBERS_MAX
    monkeypatch.setattr(revocations, "REVOCATIONS_MAX", 2)
    kept = Membership(FIRST, None, random.Random(1).randbytes).roster.revocations
    members, _ = mesh_of(5)
    news = [
        kept.add_revocation(Revocation.issue(each.certificate, ROOT, at_s=9).raw) is not None for each in members[1:4]
    ]
    assert news == [True, True, False]
    assert len(kept.encoded_revocations()) == 2


def test_certificates_that_a_node_keeps(monkeypatch):
    assert MEMBERS_MAX == 1_024
    monkeypatch.setattr(roster, "MEMBERS_MAX", 3)
    kept = Membership(FIRST, None, random.Random(1).randbytes).roster
    members, _ = mesh_of(5)
    assert [kept.add(each.certificate) for each in members[1:4]] == [True, True, False]


# ---- handshakes


@around(PSKS_MAX)
def test_secrets_tried_on_one_first_message(value, fits):
    rng = random.Random(1)
    secrets = [rng.randbytes(32) for _ in range(value)]
    caller = Handshake(True, prologue=b"", psk=secrets[-1], static=rng.randbytes(32), entropy=rng.randbytes)
    message = caller.write_message(b"")

    def answered():
        assert respond(message, secrets, prologue=b"", static=rng.randbytes(32), entropy=rng.randbytes)[2] == value - 1

    assert refuses(answered, AssertionError) is not fits


@pytest.mark.parametrize(("value", "fits"), [(-1, False), (0, True), (_PORT_MAX, True), (_PORT_MAX + 1, False)])
def test_port_in_an_introduction(value, fits):
    hello = MemberHello(
        SECOND.certificate, bytes(authentication.BOOT_BYTES), value, authentication.Versions(1, VERSION_MAX)
    )
    assert _PORT_MAX == 65_535

    class Said:
        payload = hello.encode()
        remote_static = SECOND.static_public

    gate = authentication.MemberGate.__new__(authentication.MemberGate)
    gate._roster = Membership(FIRST, None, random.Random(1).randbytes).roster
    gate.wall_ms, gate._refusal_reason = WALL_MS, lambda _: ""
    assert refuses(lambda: gate._admit_member(Said()), DecodeError) is not fits


# ---- messages


@around(PRIORITY_MAX)
def test_priority_of_a_batch(value, fits):
    def sent():
        return decode(encode(Batch(bytes(16), value, False, bytes(64), b"x")))

    assert refuses(sent, AssertionError) is not fits
    if fits:
        assert sent().priority == value


@around(RECORDS_BYTES_MAX)
def test_bytes_of_all_records_of_a_message(value, fits):
    records = wire.encode([b"x" * (value - 6)])
    assert len(records) == value
    with pytest.raises(DecodeError) as caught:  # one record is too long, which is seen only if all together are not
        decode(encode(Revocations(()))[:2] + records)
    assert (f"longer than {messages.RECORD_BYTES_MAX}" in str(caught.value)) is fits


def test_bytes_of_all_addresses_of_a_message():
    most = [(bytes(16), Address("h" * messages.HOST_CHARS_MAX, messages.PORT_MAX))] * messages.ADDRESSES_MAX
    data = encode(Addresses(tuple(most)))
    assert len(data) - 2 <= ADDRESSES_BYTES_MAX
    assert decode(data) == Addresses(tuple(most))
    for size, fits in ((ADDRESSES_BYTES_MAX - 1, True), (ADDRESSES_BYTES_MAX, True), (ADDRESSES_BYTES_MAX + 1, False)):
        text = wire.encode(["h" * (size - 4)])
        assert len(text) == size
        assert (
            refuses(lambda text=text: wire.decode(text, bytes_max=ADDRESSES_BYTES_MAX, depth_max=2), DecodeError)
            is not fits
        )
        assert refuses(lambda text=text: decode(data[:2] + text), DecodeError)


@around(SEQUENCE_MAX)
def test_sequence_number_of_a_link_state(value, fits):
    body = LinkState(SECOND.node_id, value, ()).encode()
    assert refuses(lambda: LinkState.decode(body), DecodeError) is not fits


@around(RECORD_BYTES_MAX)
def test_bytes_of_a_link_state_record(value, fits):
    topology = Topology.__new__(Topology)
    topology._by_raw, topology._records = {}, {}
    body = LinkState(SECOND.node_id, 7, ()).encode()
    with pytest.raises(DecodeError) as caught:
        topology.peek(bytes(64) + body + bytes(value - 64 - len(body)))
    assert (f"of {value} bytes" not in str(caught.value)) is fits


@around(DATA_BYTES_MAX)
def test_bytes_of_a_circuit_frame(value, fits):
    raw = CircuitFrame(FrameKind.DATA, 1, SITES, 1, bytes(value)).encode()
    assert refuses(lambda: CircuitFrame.decode(raw), DecodeError) is not fits


@around(NUMBER_MAX)
def test_number_of_a_circuit(value, fits):
    def sent():
        assert CircuitFrame.decode(CircuitFrame(FrameKind.OPEN, value, SITES, 1).encode()).number == value

    assert refuses(sent, OverflowError) is not fits


# ---- batches without a certificate


def waiting(sizes):
    rng = random.Random(1)
    overlay = Overlay(Membership(FIRST, None, rng.randbytes), MeshConfig(), rng, lambda _: [])
    overlay.on_link_up(1, SECOND.certificate, 9, WALL_MS)
    for size in sizes:
        overlay.on_message(1, Batch(rng.randbytes(16), 1, False, bytes(64), bytes(size)), 9, WALL_MS)
    return [len(batch.payload) for _, batch in overlay._uncertified.values()]


@pytest.mark.parametrize("count", [UNCERTIFIED_MAX - 1, UNCERTIFIED_MAX, UNCERTIFIED_MAX + 1])
def test_batches_that_wait_for_a_certificate(count):
    assert waiting(range(count)) == list(range(count))[-UNCERTIFIED_MAX:]


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_bytes_that_wait_for_a_certificate(more):
    assert waiting([UNCERTIFIED_BYTES_MAX + more]) == ([UNCERTIFIED_BYTES_MAX + more] if more <= 0 else [])
    half = UNCERTIFIED_BYTES_MAX // 2
    assert waiting([half, half + more]) == ([half, half + more] if more <= 0 else [half + more])


@around(UNKNOWN_MAX)
def test_authors_whose_certificates_are_requested(value, fits):
    rng = random.Random(1)
    overlay = Overlay(Membership(FIRST, None, rng.randbytes), MeshConfig(), rng, lambda _: [])
    overlay.on_link_up(1, SECOND.certificate, 0, WALL_MS)
    authors = [number.to_bytes(16, "big") for number in range(1, value + 1)]
    records = [bytes(64) + LinkState(author, 7, ()).encode() for author in authors]
    overlay.on_message(1, LinkStates(tuple(records)), 0, WALL_MS)
    assert (list(overlay._unknown) == authors) is fits
    assert len(overlay._unknown) <= UNKNOWN_MAX
    asked = [each for each in overlay.on_timer(UNKNOWN_MS, WALL_MS) if isinstance(each, Send)]
    assert Send(1, CertificatesHave(overlay.roster.digests()), 0) in asked
    assert not overlay._unknown


# ---- the control socket


def test_bytes_of_an_answer_of_the_node(monkeypatch):
    monkeypatch.setattr(client, "CHUNK_BYTES", 10)
    limit = 1_000
    assert client.RESPONSE_BYTES_MAX == 16 << 20
    for sent, whole in ((limit - 1, True), (limit, True), (limit + 11, False)):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"x" * (sent - 1) + b"\n")
            got = client._Lines(ours).readline(limit)
        assert got.endswith(b"\n") is whole
        assert len(got) <= limit + client.CHUNK_BYTES
