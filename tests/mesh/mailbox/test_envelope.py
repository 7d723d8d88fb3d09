"""Envelopes: pinned by golden bytes, opened by members alone, and only where they belong."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError, LimitError
from mycomesh.mesh.mailbox import envelope
from mycomesh.mesh.mailbox.envelope import (
    BATCHES_MAX,
    CERTIFICATES_MAX,
    ENVELOPE_BYTES_MAX,
    POSITION_MAX,
    Contents,
    EnvelopeKeys,
    open_envelope,
    seal,
)
from mycomesh.mesh.messages import Batch, encode

GOLDEN = json.loads((Path(__file__).parents[2] / "vectors" / "mailbox.json").read_text())
KEYS = EnvelopeKeys(bytes(range(16)), b"\x01" * 32, (b"\x02" * 32, b"\x01" * 32))
STREAM = KEYS.stream_of(bytes(range(16, 32)))
BATCH = Batch(bytes(16), 2, True, bytes(64), b"a known value in clear")
CONTENTS = Contents(6, (b"certificate",), (BATCH, replace(BATCH, payload=b"another")))


def sealed_raw(plaintext, *, position=7):
    """Seal any plaintext as a member with a modified program could."""
    secret = KEYS.secrets[0]
    head = envelope._HEAD.pack(1, KEYS.mesh, STREAM, position, envelope._tag(secret)) + bytes(16)
    return head + envelope.aead_seal(envelope.derive(secret, b"mailbox key", head), 0, head, plaintext)


def test_sealing_gives_the_golden_bytes():
    assert KEYS.mesh.hex() == GOLDEN["mesh"]
    assert STREAM.hex() == GOLDEN["stream"]
    assert seal(KEYS, STREAM, 7, CONTENTS).hex() == GOLDEN["envelope"]
    assert open_envelope(KEYS, STREAM, 7, bytes.fromhex(GOLDEN["envelope"])) == CONTENTS


def test_every_changed_byte_is_refused():
    data = seal(KEYS, STREAM, 7, CONTENTS)
    for at in range(len(data)):
        forged = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        with pytest.raises(DecodeError):
            open_envelope(KEYS, STREAM, 7, forged)
    for size in range(len(data)):
        with pytest.raises(DecodeError):
            open_envelope(KEYS, STREAM, 7, data[:size])


def test_an_envelope_opens_at_its_own_place_alone():
    data = seal(KEYS, STREAM, 7, CONTENTS)
    with pytest.raises(DecodeError, match="another mesh, stream or position"):
        open_envelope(KEYS, STREAM, 8, data)
    with pytest.raises(DecodeError, match="another mesh, stream or position"):
        open_envelope(KEYS, KEYS.stream_of(bytes(16)), 7, data)
    with pytest.raises(DecodeError, match="another mesh, stream or position"):
        open_envelope(replace(KEYS, mesh_id=bytes(16)), STREAM, 7, data)


def test_earlier_secrets_open_and_later_ones_do_not():
    old = replace(KEYS, secrets=(b"\x01" * 32,))
    assert open_envelope(KEYS, STREAM, 7, seal(old, STREAM, 7, CONTENTS)) == CONTENTS
    with pytest.raises(DecodeError, match="secret that this node does not know"):
        open_envelope(old, STREAM, 7, seal(KEYS, STREAM, 7, CONTENTS))


def test_an_envelope_shows_nothing_in_clear():
    data = seal(KEYS, STREAM, 7, CONTENTS)
    for known in (b"known value", KEYS.mesh_id, bytes(range(16, 32)), *KEYS.secrets):
        assert known not in data


def test_different_contents_never_share_a_key():
    salts = {seal(KEYS, STREAM, 7, replace(CONTENTS, previous=each))[41:57] for each in range(7)}
    assert len(salts) == 7
    assert seal(KEYS, STREAM, 7, CONTENTS) == seal(KEYS, STREAM, 7, CONTENTS)


def test_batches_beyond_the_limit_are_refused_by_both_ends():
    most = replace(CONTENTS, batches=(BATCH,) * BATCHES_MAX)
    assert open_envelope(KEYS, STREAM, 7, seal(KEYS, STREAM, 7, most)) == most
    for count in (0, BATCHES_MAX + 1):
        with pytest.raises(LimitError):
            seal(KEYS, STREAM, 7, replace(CONTENTS, batches=(BATCH,) * count))
        with pytest.raises(DecodeError, match="beyond the limits"):
            open_envelope(KEYS, STREAM, 7, sealed_raw(wire.encode((1, 0, (), (encode(BATCH),) * count))))


def test_certificates_beyond_the_limit_are_refused_by_both_ends():
    most = replace(CONTENTS, certificates=(b"c",) * CERTIFICATES_MAX)
    assert open_envelope(KEYS, STREAM, 7, seal(KEYS, STREAM, 7, most)) == most
    over = (b"c",) * (CERTIFICATES_MAX + 1)
    with pytest.raises(LimitError):
        seal(KEYS, STREAM, 7, replace(CONTENTS, certificates=over))
    with pytest.raises(DecodeError, match="beyond the limits"):
        open_envelope(KEYS, STREAM, 7, sealed_raw(wire.encode((1, 0, over, (encode(BATCH),)))))


def test_an_envelope_beyond_the_limit_is_refused():
    large = replace(CONTENTS, batches=(replace(BATCH, payload=bytes(ENVELOPE_BYTES_MAX // 2)),) * 2)
    with pytest.raises(LimitError):
        seal(KEYS, STREAM, 7, large)
    with pytest.raises(DecodeError, match="which none can have"):
        open_envelope(KEYS, STREAM, 7, bytes(ENVELOPE_BYTES_MAX + 1))


def test_positions_end_at_the_limit():
    assert open_envelope(KEYS, STREAM, POSITION_MAX, seal(KEYS, STREAM, POSITION_MAX, CONTENTS)) == CONTENTS
    for position in (POSITION_MAX + 1, 6, 0):
        with pytest.raises(LimitError):
            seal(KEYS, STREAM, position, CONTENTS)


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        wire.encode((2, 0, (), (encode(BATCH),))),
        wire.encode((1, 7, (), (encode(BATCH),))),
        wire.encode((1, -1, (), (encode(BATCH),))),
        wire.encode((1, 0, (1,), (encode(BATCH),))),
        wire.encode((1, 0, (bytes(20_000),), (encode(BATCH),))),
        wire.encode((1, 0, (), (1,))),
        wire.encode((1, 0, (), (b"\x01\x03opaque",))),
        wire.encode((1, 0, (), (encode(BATCH)[:40],))),
    ],
)
def test_contents_against_the_specification_are_refused(plaintext):
    with pytest.raises(DecodeError):
        open_envelope(KEYS, STREAM, 7, sealed_raw(plaintext))
