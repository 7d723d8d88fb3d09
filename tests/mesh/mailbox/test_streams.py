"""Streams: what a member has signed for one place is read there, and nothing else is."""

import json
import random
import struct
from pathlib import Path

import pytest

from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.mailbox.envelope import BATCHES_MAX, Contents, EnvelopeKeys, open_envelope, seal
from mycomesh.mesh.mailbox.mailbox import Listed
from mycomesh.mesh.mailbox.streams import GATHER_BYTES, POSITION_SHIFT, Kind, StreamWriter, open_signed
from mycomesh.mesh.membership.roster import Roster
from mycomesh.mesh.messages import Batch
from tests.mesh.pipes import WALL_MS, mesh_of

(ALPHA, BRAVO, CHARLIE), _ = mesh_of(3)
KEYS = EnvelopeKeys(ALPHA.mesh_id, ALPHA.secret, (ALPHA.secret,))
FLOOR = WALL_MS << POSITION_SHIFT


def reader():
    roster = Roster(BRAVO)
    return lambda raw: roster.verify(raw, WALL_MS)


def written(payloads, kind=Kind.LIVE, previous=0, identity=ALPHA):
    """Return the envelopes of messages, by position."""
    writer, stored = StreamWriter(identity, kind, previous), {}
    for payload in payloads:
        writer.put(payload)
    while (envelope := writer.next_envelope(KEYS, FLOOR)) is not None:
        stored[envelope[0]] = envelope[1]
        writer.on_appended(envelope[0])
    return stored


def opened(position, data, kind=Kind.LIVE, identity=ALPHA):
    return open_signed(KEYS, reader(), Listed(kind.stream(KEYS, identity.node_id), position, len(data)), data)


@pytest.mark.parametrize("kind", Kind)
def test_messages_are_read_where_they_were_written(kind):
    stored = written([b"one", b"two", bytes(GATHER_BYTES), b"three"], kind, previous=7)
    read = [opened(position, data, kind) for position, data in stored.items()]
    assert [each.previous for each in read] == [7, *list(stored)[:-1]]
    assert [each.position for each in read] == list(stored)
    assert [payload for each in read for payload in each.payloads] == [b"one", b"two", bytes(GATHER_BYTES), b"three"]
    assert {each.author.node_id for each in read} == {ALPHA.node_id}
    assert {each.kind for each in read} == {kind}


def test_the_golden_envelope_has_these_bytes():
    golden = json.loads((Path(__file__).parents[2] / "vectors" / "mailbox_live.json").read_text())
    ((position, data),) = written(
        [bytes.fromhex(each) for each in golden["payloads"]], previous=golden["previous"]
    ).items()
    stream = Kind.LIVE.stream(KEYS, ALPHA.node_id)
    batch = open_envelope(KEYS, stream, position, data).batches[1]
    seen = {
        "stream": stream.hex(),
        "position": position,
        "signature": batch.signature.hex(),
        "signed": (struct.pack(">QQHH", position, golden["previous"], 1, 2) + batch.signed).hex(),
        "envelope": data.hex(),
    }
    assert seen == {name: golden[name] for name in seen}


def test_messages_are_gathered_up_to_the_limits():
    assert [len(opened(*each).payloads) for each in written([b"x"] * (BATCHES_MAX + 1)).items()] == [BATCHES_MAX, 1]
    half = bytes(GATHER_BYTES // 2)
    assert [len(opened(*each).payloads) for each in written([half, half, b"x"]).items()] == [2, 1]


def test_an_envelope_that_was_not_stored_comes_again():
    writer = StreamWriter(ALPHA, Kind.LIVE, 0)
    writer.put(b"one")
    first = writer.next_envelope(KEYS, FLOOR)
    writer.put(b"two")
    position, data = writer.next_envelope(KEYS, FLOOR)
    assert position == first[0]
    assert opened(position, data).payloads == (b"one", b"two")
    assert not writer.is_full
    writer.on_appended(position)
    assert (writer.queued, writer.next_envelope(KEYS, FLOOR)) == (0, None)


def test_positions_never_go_back_with_the_clock():
    writer = StreamWriter(ALPHA, Kind.LIVE, FLOOR + 50)
    writer.put(b"one")
    assert writer.next_envelope(KEYS, FLOOR)[0] == FLOOR + 51


def test_the_two_streams_of_a_member_differ():
    streams = {kind: kind.stream(KEYS, ALPHA.node_id) for kind in Kind}
    assert streams[Kind.PARCEL] != streams[Kind.LIVE] == streams[Kind.STATEMENT]


def resealed(change, at=None, kind=Kind.LIVE, stream_of=ALPHA):
    """Let a former member, who knows the secret, seal changed contents again."""
    ((position, data),) = written([b"one", b"two", b"three"]).items()
    stream = Kind.LIVE.stream(KEYS, ALPHA.node_id)
    contents = open_envelope(KEYS, stream, position, data)
    place = position if at is None else at
    target = kind.stream(KEYS, stream_of.node_id)
    return place, seal(KEYS, target, place, change(contents)), kind, stream_of


def with_batches(change):
    return lambda contents: Contents(contents.previous, contents.certificates, change(contents.batches))


@pytest.mark.parametrize(
    "forgery",
    [
        resealed(with_batches(lambda batches: batches[:2])),
        resealed(with_batches(lambda batches: (*batches[:1], *batches[2:]))),
        resealed(with_batches(lambda batches: (batches[1], batches[0], batches[2]))),
        resealed(with_batches(lambda batches: (*batches, batches[0]))),
        resealed(lambda contents: Contents(1, contents.certificates, contents.batches)),
        resealed(lambda contents: contents, at=FLOOR + 9),
        resealed(lambda contents: contents, kind=Kind.PARCEL),
        resealed(lambda contents: contents, stream_of=BRAVO),
        resealed(lambda contents: Contents(0, (CHARLIE.certificate.raw,), contents.batches)),
        resealed(lambda contents: Contents(0, (), contents.batches)),
        resealed(
            with_batches(
                lambda batches: tuple(
                    Batch(each.origin, 3, each.direct, each.signature, each.payload) for each in batches
                )
            )
        ),
    ],
)
def test_what_was_not_signed_for_its_place_is_refused(forgery):
    position, data, kind, stream_of = forgery
    with pytest.raises(DecodeError):
        opened(position, data, kind, stream_of)


def test_a_certificate_that_is_refused_is_an_error():
    ((position, data),) = written([b"one"]).items()

    def refuse(_raw):
        raise CertificateError("revoked", "the member was revoked")

    with pytest.raises(CertificateError):
        open_signed(KEYS, refuse, Listed(Kind.LIVE.stream(KEYS, ALPHA.node_id), position, len(data)), data)


def test_damaged_envelopes_never_open():
    rng = random.Random(1)
    ((position, data),) = written([b"one"]).items()
    for _ in range(200):
        at = rng.randrange(len(data))
        with pytest.raises(DecodeError):
            opened(position, data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :])
