"""Fuzz targets: one function for each parser, which takes hostile input and asserts what must hold for any input.

A parser raises only the package's own errors, accepts nothing that its author did not sign, and knows one encoding of a value.
`replica_targets` has those that reach a file, `map_targets` those of maps and indexes, `flow_targets` those of
shared flows.
"""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import strategies as st

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.errors import CertificateError, DecodeError, EnrolmentError, MeshError
from mycomesh.mesh.events import Address
from mycomesh.mesh.mailbox.mailbox import Listed
from mycomesh.mesh.mailbox.streams import Kind as StreamKind
from mycomesh.mesh.mailbox.streams import Opened as OpenedEnvelope
from mycomesh.mesh.membership import enrolment
from mycomesh.mesh.membership.certificate import Certificate, issue
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.enrolment import Candidate, JoinCode
from mycomesh.mesh.membership.identity import make_identity
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.membership.purges import Purge
from mycomesh.mesh.membership.renewal import read_certificate, renew
from mycomesh.mesh.membership.revocations import Epoch, Revocation
from mycomesh.mesh.messages import (
    Addresses,
    App,
    Batch,
    Certificates,
    CertificatesHave,
    EpochHave,
    Epochs,
    Graft,
    IHave,
    LinkStates,
    LinkStatesHave,
    Ping,
    Pong,
    Prune,
    Purges,
    Revocations,
    RevocationsHave,
    decode,
    encode,
    signed_part,
)
from mycomesh.mesh.node.authority import NodeAuthority
from mycomesh.mesh.node.gateway import statement
from mycomesh.mesh.node.gateway.reader import LiveRun
from mycomesh.mesh.overlay.overlay import Overlay
from mycomesh.mesh.overlay.topology import LinkState, Neighbour
from mycomesh.mesh.relay.circuit_frame import CircuitFrame, FrameKind
from mycomesh.mesh.session.records import PARTIAL_BYTES_MAX, End, RecordReader, RecordWriter, Whole
from mycomesh.mesh.session.session import EARLY_BYTES_MAX, Keys, Opened, Phase, Received, Reply, Session
from mycomesh.sync.crdt.version_vector import Vector
from mycomesh.sync.errors import DecodeError as SyncDecodeError
from mycomesh.sync.wire import messages as sync_message
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from mycomesh.sync.wire.seals import Seal, leaves, tokens_of
from tests.fuzz import flow_targets, map_targets, replica_targets
from tests.fuzz.bytes import cuts, damaged, hostile
from tests.fuzz.registry import TARGETS, fuzz_test, target
from tests.mesh.pipes import WALL_MS, mesh_of

__all__ = ["TARGETS", "flow_targets", "fuzz_test", "map_targets", "replica_targets"]

NOW_MS = 1_000
(FIRST, SECOND, THIRD), ROOT_SEED = mesh_of(3)


def _assert_one_line(error, reason="given"):
    """Assert that a refusal is one line, and that it has a reason where reasons have names."""
    assert str(error)
    assert "\n" not in str(error)
    assert reason


# ---- frames: the handshake, sealed frames, records inside them


class _Gate:
    """Admits every peer that completes the handshake: the certificates target fuzzes the real gate's checks."""

    def answer(self, psk):
        return b"hello"

    def admit(self, introduction):
        return b"hello"


def _session(number, *, initiator):
    rng = random.Random(number)
    return Session(
        Keys(bytes(16), (bytes(32),), rng.randbytes(32)), _Gate(), initiator=initiator, entropy=rng.randbytes
    )


def _replies(steps):
    return b"".join(step.data for step in steps if isinstance(step, Reply))


def _opened():
    left, right = _session(1, initiator=True), _session(2, initiator=False)
    first = left.start()
    answer = _replies(right.receive(first, NOW_MS))
    third = _replies(left.receive(answer, NOW_MS))
    right.receive(third, NOW_MS)
    return left, right, (first, answer, third)


HANDSHAKE = _opened()[2]
SAID = [b"a small message", b"x" * 3_000, b"an alert", b"", b"y" * 70_000]
STREAM_SAMPLES = (
    HANDSHAKE[0],
    HANDSHAKE[0] + HANDSHAKE[2],
    HANDSHAKE[1],
    b"\xff\xff" + bytes(3_000),
    b"\x08\x01" + bytes(2_100),
)


def _records():
    outbox = RecordWriter()
    for number, payload in enumerate(SAID):
        outbox.push(payload, number % 4)
    outbox.push_credit(99)
    frames = []
    while frame := outbox.pack():
        frames.append(frame)
    return tuple(frames)


RECORDS = (*_records(), b"\x09\x00\x03bye", b"\x08\x00\x04\x00\x00\x00\x01", b"\x00\x00\x01x" * 20)


@st.composite
def _stream(draw):
    left, right, _ = _opened()
    for number, payload in enumerate(SAID):
        left.send(payload, number % 4)
    return right, draw(damaged((left.flush(),)).flatmap(cuts))


@target(hostile(STREAM_SAMPLES).flatmap(cuts), st.booleans(), st.lists(hostile(RECORDS), max_size=3), _stream())
def frames(pieces, initiator, records, stream):
    """Check that no recorded or invented stream opens a session, and that a link yields sealed data in order or ends."""
    session = _session(7, initiator=initiator)
    if initiator:
        session.start()
    for piece in pieces:
        steps = session.receive(piece, NOW_MS)
        assert not any(isinstance(step, Opened | Received) for step in steps), "a recorded or made-up handshake opened"
    assert session.phase is Phase.CLOSED or sum(map(len, pieces)) <= EARLY_BYTES_MAX

    inbox = RecordReader()
    try:
        found = [item for each in records for item in inbox.take(each)]
    except DecodeError:
        found = []
    assert all(isinstance(item, Whole | End | int) for item in found)
    assert sum(len(item.payload) for item in found if isinstance(item, Whole)) <= sum(map(len, records))
    assert inbox._partial_bytes <= PARTIAL_BYTES_MAX

    receiver, damaged_pieces = stream
    received = {stream: [] for stream in range(4)}
    for piece in damaged_pieces:
        for step in receiver.receive(piece, NOW_MS):
            if isinstance(step, Received):
                received[step.priority].append(step.payload)
    for priority, payloads in received.items():
        assert payloads == [payload for number, payload in enumerate(SAID) if number % 4 == priority][: len(payloads)]


# ---- messages: of the mesh, what the overlay does with them, and of the tables


def _batch(identity, payload, *, direct):
    signature = identity.sign(b"batch", signed_part(1, payload, direct=direct))
    return Batch(identity.node_id, 1, direct, signature, payload)


def _link_state():
    state = LinkState(THIRD.node_id, 7, (Neighbour(bytes(16), 3, 10, 20), Neighbour(b"\xff" * 16, -1, 0, 2**40)))
    body = state.encode()
    return THIRD.sign(b"link-state", body) + body


ROOT = Authority.of(FIRST.certificate, FIRST.root_public, FIRST.node_seed, ROOT_SEED)
REVOCATION = Revocation.issue(THIRD.certificate, ROOT, at_s=WALL_MS // 1_000)
PURGE = Purge.issue(THIRD.node_id, 1, ROOT, at_s=WALL_MS // 1_000)
EPOCH = Epoch.issue(1, bytes(32), THIRD.node_id, ROOT, at_s=WALL_MS // 1_000)
MESSAGES = tuple(
    encode(each)
    for each in (
        Ping(7),
        Pong(7, WALL_MS),
        App(b"opaque"),
        App(b"opaque", optional=True),
        _batch(SECOND, b"a batch", direct=True),
        _batch(THIRD, b"of somebody unknown", direct=False),
        IHave(bytes(16), (b"1" * 16, b"2" * 16)),
        Graft(bytes(16), (b"1" * 16,)),
        Prune(SECOND.node_id),
        LinkStatesHave(((THIRD.node_id, 7),)),
        LinkStates((_link_state(),)),
        CertificatesHave((b"12345678",)),
        Certificates((THIRD.certificate.raw,)),
        RevocationsHave((b"12345678",)),
        Revocations((REVOCATION.raw,)),
        EpochHave(bytes(8)),
        Epochs((EPOCH.raw,)),
        Purges((PURGE.raw,)),
        Addresses(((THIRD.node_id, Address("fe80::1%eth0", 7447)), (bytes(16), Address("10.0.0.1", 1)))),
    )
)
ROUTE = (bytes(16), b"\x01" * 16, b"\x02" * 16)
CIRCUIT_FRAMES = (
    CircuitFrame(FrameKind.OPEN, 1, ROUTE, 1).encode(),
    CircuitFrame(FrameKind.DATA, 1, ROUTE[::-1], 2, b"sealed").encode(),
    CircuitFrame(FrameKind.CLOSE, 7, ROUTE, 2).encode(),
)
SYNC_MESSAGES = (
    sync_message.encode(sync_message.Digests((("drones", bytes(range(8)), bytes(range(16))),))),
    sync_message.encode(sync_message.Ack(3)),
    sync_message.encode(sync_message.Part(sync_message.CoverageReply(bytes(16), (("drones", 7),)))),
    sync_message.encode(sync_message.Chunk(b"a bundle")),
    sync_message.encode(sync_message.RepairRequest("drones", b"d" * 10)),
)


@target(st.lists(hostile(MESSAGES), min_size=1, max_size=4), hostile(SYNC_MESSAGES), hostile(CIRCUIT_FRAMES))
def messages(datas, sync_data, circuit_data):
    """Check that a message has one encoding, and that any message of a member causes results or the end of its link."""
    rng = random.Random(1)
    overlay = Overlay(Membership(FIRST, None, rng.randbytes), MeshConfig(), rng, lambda _: [])
    overlay.on_link_up(1, SECOND.certificate, 9, WALL_MS)
    for number, data in enumerate(datas):
        try:
            message = decode(data)
        except DecodeError:
            continue
        if message is None:
            continue
        assert encode(message) == data
        if not isinstance(message, Ping | Pong | App | Addresses):
            try:
                overlay.on_message(1, message, NOW_MS + number, WALL_MS)
            except MeshError:
                continue
    overlay.on_timer(NOW_MS + 1_000, WALL_MS)
    assert len(overlay.roster) <= 3
    try:
        frame = CircuitFrame.decode(circuit_data)
    except DecodeError as error:
        _assert_one_line(error)
    else:
        assert frame.encode() == circuit_data
        assert frame.refusal().refusal().route == frame.route
    try:
        sync_message.decode(sync_data)
    except SyncDecodeError as error:
        _assert_one_line(error)


RUN = (
    sync_message.encode(sync_message.Vectors((("drones", Vector({bytes(16): [(0, 9)]})),))),
    sync_message.encode(sync_message.Chunk(b"a bundle")),
    sync_message.encode(sync_message.Part(sync_message.Done((("drones", Vector({bytes(16): [(0, 9)]})),)))),
    sync_message.encode(sync_message.Done((("drones", Vector({bytes(16): [(9, 12)]})),))),
    statement.encode(statement.Statement("north", ((b"s" * 8, 7),), (b"t" * 8,))),
)


@target(st.lists(st.lists(hostile(RUN), min_size=1, max_size=6), min_size=1, max_size=3))
def mailbox_runs(envelopes):
    """Check that whatever a member puts into its stream is a run, an unfinished one, or refused in one line."""
    listed = Listed(bytes(8), 1, 100)
    run = None
    for payloads in envelopes:
        opened = OpenedEnvelope(SECOND.certificate, StreamKind.LIVE, 1, 0, tuple(payloads))
        run = run or LiveRun(opened, [listed], 100)
        try:
            done = run.feed(opened)
            assert done is None or isinstance(done, sync_message.Done)
        except SyncDecodeError as error:
            _assert_one_line(error)
            run = None
        try:
            assert statement.encode(statement.decode(payloads[0])) == payloads[0]
        except SyncDecodeError as error:
            _assert_one_line(error)


# ---- seals of signed tables


SEALED_SITE = SECOND.node_id[:8] + bytes(8)
SEALING = NodeAuthority(SECOND)


def _sealed():
    """Return a genuine bundle: two changes of one member, and its seal."""
    group = Group(SEALED_SITE, Kind.INSERT, ("id", "note"), [5, 7], None, [[1, "x" * 40], [2, None]], None)
    tokens = tokens_of(group.columns, group.hlcs, group.rows, {7: {"gone": b"\x01"}})
    made = b"".join(leaves(group.kind, [1, 2], tokens.values()))
    seal = Seal(SEALED_SITE, (5, 7), made, b"", {7: {"gone": b"\x01"}})
    seal = replace(seal, signature=SEALING.sign(seal.signed_part("t")))
    return Bundle([Section("t", [(SEALED_SITE, 0, 7)], [group], [seal])], [SEALING.certificate])


@target(hostile((_sealed().encode(),)))
def seals(data):
    """Check that hostile bytes are refused in one line, and that no change is proven that its writer has not signed."""
    try:
        bundle = Bundle.decode(data)
    except SyncDecodeError as error:
        _assert_one_line(error)
        return
    assert Bundle.decode(bundle.encode()) == bundle
    genuine = _sealed().sections[0].seals[0]
    for certificate in bundle.signers:
        assert SEALING.admitted(certificate) in (None, (SECOND.node_id, SECOND.certificate.node_key))
    for seal in (seal for section in bundle.sections for seal in section.seals):
        for table in (section.table for section in bundle.sections if seal in section.seals):
            if SEALING.verify(SECOND.certificate.node_key, seal.signed_part(table), seal.signature):
                assert (table, seal.site, seal.core) == ("t", genuine.site, genuine.core)


# ---- certificates


def _issued(root_seed, **more):
    fields = {
        "name": "drone-7",
        "node_key": SECOND.certificate.node_key,
        "static_key": SECOND.certificate.static_key,
        "roles": ("member",),
        "not_before_s": WALL_MS // 1_000,
        "not_after_s": WALL_MS // 1_000 + 3_600,
        "serial": bytes(16),
    }
    return issue(root_seed, **fields | more).raw


ROOT_PUBLIC = primitives.signing_pair(ROOT_SEED)[0]
GENUINE = (FIRST.certificate.raw, SECOND.certificate.raw, _issued(ROOT_SEED))
OF_OTHERS = (_issued(bytes(32)), _issued(bytes(32), roles=("admin",)))
ADMIN = make_identity(
    ROOT_SEED,
    mesh_name="test",
    node_name="admin",
    secret=FIRST.secret,
    roles=("member", "admin"),
    entropy=random.Random(3).randbytes,
    not_before_s=WALL_MS // 1_000,
    lifetime_s=365 * 86_400,
)
ADMIN_AUTHORITY = Authority.of(ADMIN.certificate, ROOT_PUBLIC, ADMIN.node_seed, None)
RENEWED = renew(SECOND.certificate, ADMIN_AUTHORITY, at_s=WALL_MS // 1_000 + 60, serial=bytes(range(16))).raw
BODIES = tuple(wire.decode(raw, bytes_max=2_048)[1] for raw in GENUINE)


@target(hostile((*GENUINE, *OF_OTHERS)), hostile((RENEWED, *GENUINE)), hostile(BODIES), st.integers(-(2**60), 2**60))
def certificates(raw, renewed, body, wall_ms):
    """Only what the root has signed is a certificate; whatever the root signs is one, or is refused by name."""
    for when_ms in (WALL_MS, wall_ms):
        try:
            judged = Certificate.decode_verified(raw, root_public=ROOT_PUBLIC, wall_ms=when_ms, newest_seen_s=0)
        except CertificateError as error:
            _assert_one_line(error, error.reason)
        else:
            assert raw in GENUINE
            assert judged.raw == raw
    try:
        read = read_certificate(renewed, root_public=ROOT_PUBLIC)
    except MeshError as error:
        _assert_one_line(error)
    else:
        assert renewed in (RENEWED, *GENUINE)
        assert read.raw == renewed
    signed = wire.encode((1, body, primitives.sign(primitives.signing_pair(ROOT_SEED)[1], b"certificate", body)))
    try:
        certificate = Certificate.decode_signed(signed, root_public=ROOT_PUBLIC)
    except CertificateError as error:
        _assert_one_line(error)
    else:
        assert certificate.raw == signed
        assert certificate.name.isprintable()


# ---- join codes, and what follows them


CODE = JoinCode(FIRST.mesh_id, bytes(range(16)))
CANDIDATE = Candidate.fresh("bravo", entropy=random.Random(2).randbytes)
TRANSCRIPT = bytes(32)
OFFER = enrolment.offer_encode(FIRST)
REQUEST = enrolment.request_encode(CANDIDATE, transcript=TRANSCRIPT)
TICKET = enrolment.ticket_encode(SECOND)
_LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZilou-_ \n\u00df\u0131\ufb03\x00"


@st.composite
def _typed(draw):
    """Draw a mistyped join code."""
    text = list(str(CODE))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text) - 1))
        text[at] = draw(st.sampled_from([*_LETTERS, "", text[at] * 2, text[at].lower()]))
    return "".join(text)


@target(_typed() | st.text(_LETTERS, max_size=90) | st.text(max_size=90), hostile((OFFER, REQUEST, TICKET)))
def join_codes(text, data):
    """Check that a mistake never makes another valid code, and that no damaged step of joining is accepted."""
    try:
        parsed = JoinCode.parse(text)
    except EnrolmentError as error:
        _assert_one_line(error)
    else:
        assert parsed == CODE
        assert JoinCode.parse(str(parsed)) == parsed
    for genuine, read in (
        (OFFER, lambda: enrolment.offer_decode(data, code=CODE, remote_static=FIRST.static_public, wall_ms=WALL_MS)),
        (
            REQUEST,
            lambda: enrolment.request_decode(data, transcript=TRANSCRIPT, remote_static=CANDIDATE.static_public),
        ),
        (b"", lambda: enrolment.accept_grant(data, candidate=CANDIDATE, code=CODE, wall_ms=WALL_MS)),
    ):
        try:
            read()
        except EnrolmentError as error:
            _assert_one_line(error)
        else:
            assert data == genuine
    try:
        identity = enrolment.ticket_decode(data)
    except EnrolmentError as error:
        _assert_one_line(error)
    else:
        # The mesh's name and secret are not signed: the file is the operator's own, and a wrong secret opens no link.
        assert identity.certificate == SECOND.certificate
