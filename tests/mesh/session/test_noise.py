"""The handshake and its ciphers: published vectors, an independent implementation, and what a hostile line does."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from noise.connection import Keypair, NoiseConnection

from mycomesh.mesh import primitives
from mycomesh.mesh.errors import HandshakeError, LimitError
from mycomesh.mesh.session import noise
from mycomesh.mesh.session.noise import XXPSK0, CipherState, Handshake, Suite, Transport, respond

VECTORS = Path(__file__).parents[2] / "vectors"
PROLOGUE = b"mycomesh test"
PSK = bytes(range(32))
INITIATOR_STATIC = bytes(range(1, 33))
RESPONDER_STATIC = bytes(range(2, 34))

# The patterns of sections 7.5 and 9.4 that have no pre-message: enough to run published vectors of the same machinery.
PATTERNS = {
    "NN": (("e",), ("e", "ee")),
    "NX": (("e",), ("e", "ee", "s", "es")),
    "XN": (("e",), ("e", "ee"), ("s", "se")),
    "XX": (("e",), ("e", "ee", "s", "es"), ("s", "se")),
    "IN": (("e", "s"), ("e", "ee", "se")),
    "IX": (("e", "s"), ("e", "ee", "se", "s", "es")),
}
HASHES = {
    "BLAKE2s": hashlib.blake2s,
    "BLAKE2b": hashlib.blake2b,
    "SHA256": hashlib.sha256,
    "SHA512": hashlib.sha512,
}

# Every point of small order on Curve25519 and their non-canonical forms (the list that libsodium refuses).
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def suite(protocol_name: str) -> Suite:
    _, full_pattern, dh, cipher, hash_name = protocol_name.split("_")
    assert (dh, cipher) == ("25519", "ChaChaPoly")
    pattern, *modifiers = re.split("psk", full_pattern)
    messages = [list(tokens) for tokens in PATTERNS[pattern]]
    for modifier in modifiers:
        place = int(modifier)
        if place == 0:
            messages[0].insert(0, "psk")
        else:
            messages[place - 1].append("psk")
    return Suite(protocol_name.encode(), HASHES[hash_name], tuple(tuple(tokens) for tokens in messages))


def load(name: str) -> list[dict]:
    return json.loads((VECTORS / name).read_text())["vectors"]


FLYNN = load("noise-flynn.json")
ALL_VECTORS = FLYNN + load("noise-cacophony.json")


def fixed(data: bytes):
    """An entropy source that yields `data` and then fails."""
    rest = bytearray(data)

    def draw(count: int) -> bytes:
        assert len(rest) >= count, "more entropy was drawn than planned"
        taken = bytes(rest[:count])
        del rest[:count]
        return taken

    return draw


def pair(*, psk: bytes = PSK, suite: Suite = XXPSK0) -> tuple[Handshake, Handshake]:
    common = {"prologue": PROLOGUE, "psk": psk, "suite": suite}
    return (
        Handshake(True, static=INITIATOR_STATIC, entropy=os.urandom, **common),
        Handshake(False, static=RESPONDER_STATIC, entropy=os.urandom, **common),
    )


def finish(initiator: Handshake, responder: Handshake) -> tuple[Transport, Transport]:
    ends = [initiator, responder]
    turn = 0
    while not ends[0].finished:
        writer, reader = ends[turn % 2], ends[(turn + 1) % 2]
        reader.read_message(writer.write_message())
        turn += 1
    return initiator.split(), responder.split()


def messages(payloads: tuple[bytes, bytes, bytes] = (b"", b"", b"")) -> tuple[list[bytes], Handshake, Handshake]:
    """The three messages of one XXpsk0 handshake and both finished ends."""
    initiator, responder = pair()
    sent = []
    for writer, reader, payload in zip(
        (initiator, responder, initiator), (responder, initiator, responder), payloads, strict=True
    ):
        sent.append(writer.write_message(payload))
        assert reader.read_message(sent[-1]) == payload
    return sent, initiator, responder


# ---- published vectors


def test_vector_files_hold_very_suite_that_mesh_speaks():
    names = [vector["protocol_name"] for vector in ALL_VECTORS]
    assert names.count(XXPSK0.name.decode()) == 4
    assert suite(XXPSK0.name.decode()) == XXPSK0
    assert len(names) >= 120


@pytest.mark.parametrize("vector", ALL_VECTORS, ids=lambda vector: vector["protocol_name"])
def test_a_published_vector_is_reproduced_byte_for_byte(vector):
    hexed = {key: bytes.fromhex(value) for key, value in vector.items() if key not in ("protocol_name", "messages")}
    common = {
        "prologue": hexed.get("prologue", b""),
        "psk": hexed.get("preshared_key", bytes(32)),
        "suite": suite(vector["protocol_name"]),
    }
    ends = [
        Handshake(
            True,
            static=hexed.get("init_static", INITIATOR_STATIC),
            entropy=fixed(hexed["gen_init_ephemeral"]),
            **common,
        ),
        Handshake(
            False,
            static=hexed.get("resp_static", RESPONDER_STATIC),
            entropy=fixed(hexed["gen_resp_ephemeral"]),
            **common,
        ),
    ]
    links: list[Transport] = []
    transport_messages = 0
    for number, message in enumerate(vector["messages"]):
        payload, ciphertext = bytes.fromhex(message["payload"]), bytes.fromhex(message["ciphertext"])
        writer, reader = number % 2, (number + 1) % 2
        if not links:
            assert ends[writer].write_message(payload) == ciphertext
            assert ends[reader].read_message(ciphertext) == payload
            if ends[0].finished:
                assert (
                    ends[0].handshake_hash
                    == ends[1].handshake_hash
                    == hexed.get("handshake_hash", ends[0].handshake_hash)
                )
                links = [end.split() for end in ends]
            continue
        transport_messages += 1
        if vector in FLYNN:
            # Those vectors go on with the initiator whatever the length of the pattern was.
            writer, reader = (transport_messages + 1) % 2, transport_messages % 2
        assert links[writer].send.encrypt(payload) == ciphertext
        assert links[reader].receive.decrypt(ciphertext) == payload
    assert transport_messages >= 2


# ---- an independent implementation


def foreign(protocol_name: bytes, *, initiator: bool) -> NoiseConnection:
    connection = NoiseConnection.from_name(protocol_name)
    if initiator:
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    connection.set_prologue(PROLOGUE)
    if b"psk" in protocol_name:
        connection.set_psks(PSK)
    connection.set_keypair_from_private_bytes(Keypair.STATIC, RESPONDER_STATIC)
    connection.start_handshake()
    return connection


@pytest.mark.parametrize("we_initiate", [True, False])
@pytest.mark.parametrize("name", ["Noise_XXpsk0_25519_ChaChaPoly_BLAKE2s", "Noise_XX_25519_ChaChaPoly_BLAKE2s"])
def test_a_foreign_implementation_understands_us(name, we_initiate):
    ours = Handshake(
        we_initiate, prologue=PROLOGUE, psk=PSK, static=INITIATOR_STATIC, entropy=os.urandom, suite=suite(name)
    )
    theirs = foreign(name.encode(), initiator=not we_initiate)
    for number in range(3):
        payload = b"payload %d" % number
        if we_initiate == (number % 2 == 0):
            assert bytes(theirs.read_message(ours.write_message(payload))) == payload
        else:
            assert ours.read_message(bytes(theirs.write_message(payload))) == payload
    assert theirs.handshake_finished
    assert theirs.get_handshake_hash() == ours.handshake_hash
    assert ours.remote_static == primitives.static_public(RESPONDER_STATIC)
    link = ours.split()
    for number in range(1_000):
        payload = b"%d" % number * (number % 50)
        assert bytes(theirs.decrypt(link.send.encrypt(payload))) == payload
        assert link.receive.decrypt(bytes(theirs.encrypt(payload))) == payload
        if number % 100 == 99:
            link.send.rekey()
            theirs.rekey_inbound_cipher()
            link.receive.rekey()
            theirs.rekey_outbound_cipher()


# ---- the state machine


def test_both_ends_agree_on_hash_keys_and_identities():
    _, initiator, responder = messages((b"", b"certificate of the responder", b"certificate of the initiator"))
    assert initiator.handshake_hash == responder.handshake_hash
    assert initiator.remote_static == primitives.static_public(RESPONDER_STATIC)
    assert responder.remote_static == primitives.static_public(INITIATOR_STATIC)
    here, there = initiator.split(), responder.split()
    assert there.receive.decrypt(here.send.encrypt(b"one", b"ad"), b"ad") == b"one"
    assert here.receive.decrypt(there.send.encrypt(b"two")) == b"two"
    assert (here.send.nonce, here.receive.nonce) == (1, 1)


def test_no_static_key_crosses_the_line_in_clear():
    sent, _, _ = messages()
    for message in sent:
        assert primitives.static_public(INITIATOR_STATIC) not in message
        assert primitives.static_public(RESPONDER_STATIC) not in message


def test_same_entropy_gives_same_messages_and_other_entropy_others():
    def first(entropy):
        return Handshake(True, prologue=b"", psk=PSK, static=INITIATOR_STATIC, entropy=entropy).write_message()

    assert first(fixed(bytes(32))) == first(fixed(bytes(32)))
    assert first(fixed(bytes(32))) != first(fixed(b"\x01" * 32))


def test_writing_or_splitting_out_of_turn_is_our_mistake():
    initiator, responder = pair()
    with pytest.raises(AssertionError, match="the other end writes"):
        responder.write_message()
    with pytest.raises(AssertionError, match="before the last"):
        initiator.split()
    finish(initiator, responder)
    with pytest.raises(AssertionError, match="second time"):
        initiator.split()


def test_an_entropy_source_that_runs_dry_is_caught():
    handshake = Handshake(
        True, prologue=b"", psk=PSK, static=INITIATOR_STATIC, entropy=lambda count: b"\x07" * (count - 1)
    )
    with pytest.raises(AssertionError, match="31 of 32"):
        handshake.write_message()


def test_dead_handshake_stays_dead_and_has_dropped_its_keys():
    initiator, responder = pair()
    message = initiator.write_message()
    with pytest.raises(HandshakeError):
        responder.read_message(message[:-1])
    with pytest.raises(HandshakeError, match="already failed"):
        responder.read_message(message)
    with pytest.raises(HandshakeError, match="already failed"):
        responder.write_message()
    assert (responder._psk, responder._static, responder._ephemeral) == (b"", b"", b"")
    assert responder._symmetric._chaining_key == b""


def test_an_oversized_handshake_payload_is_refused_before_sending():
    initiator, _ = pair()
    with pytest.raises(LimitError, match="2048"):
        initiator.write_message(bytes(noise.HANDSHAKE_BYTES_MAX))
    fits = noise.HANDSHAKE_BYTES_MAX - 48
    initiator, responder = pair()
    assert responder.read_message(initiator.write_message(bytes(fits))) == bytes(fits)


# ---- respond(): several keys, silence for strangers


def test_respond_finds_key_that_first_message_was_made_with():
    other = bytes(32)
    for index in range(3):
        psks = [other, bytes([1]) * 32, bytes([2]) * 32]
        psks[index] = PSK
        initiator, _ = pair()
        responder, payload, found = respond(
            initiator.write_message(b"hello"), psks, prologue=PROLOGUE, static=RESPONDER_STATIC, entropy=os.urandom
        )
        assert (payload, found) == (b"hello", index)
        initiator.read_message(responder.write_message())
        responder.read_message(initiator.write_message())
        assert initiator.handshake_hash == responder.handshake_hash


@pytest.mark.parametrize("what", ["psk", "prologue", "no keys", "reflection"])
def test_respond_refuses_foreign_messages_without_drawing_entropy(what):
    message, _, _ = messages()
    psks = {"psk": [bytes(32)], "no keys": []}.get(what, [PSK])
    prologue = b"another mesh" if what == "prologue" else PROLOGUE
    first = message[0] if what != "reflection" else message[1]
    with pytest.raises(HandshakeError, match="not made with a key of this mesh"):
        respond(first, psks, prologue=prologue, static=RESPONDER_STATIC, entropy=fixed(b""))


def test_respond_bounds_the_keys_it_tries():
    with pytest.raises(AssertionError, match="at most 32"):
        respond(b"", [PSK] * 33, prologue=b"", static=RESPONDER_STATIC, entropy=os.urandom)


def test_replayed_first_message_gets_an_answer_of_no_use():
    sent, initiator, _ = messages()
    responder, _, _ = respond(sent[0], [PSK], prologue=PROLOGUE, static=RESPONDER_STATIC, entropy=os.urandom)
    assert responder.write_message() != sent[1]
    with pytest.raises(HandshakeError):
        responder.read_message(sent[2])
    assert initiator.finished


def test_a_reflected_first_message_is_refused():
    initiator, _ = pair()
    message = initiator.write_message()
    with pytest.raises(HandshakeError):
        initiator.read_message(message)


# ---- keys that a stranger chooses


@pytest.mark.parametrize("point", [*LOW_ORDER, bytes(31) + b"\x80"], ids=lambda point: point.hex()[:8])
def test_a_low_order_ephemeral_key_gets_no_answer(point):
    handshake = Handshake(True, prologue=PROLOGUE, psk=PSK, static=INITIATOR_STATIC, entropy=os.urandom)
    symmetric = handshake._symmetric
    symmetric.mix_key_and_hash(PSK)
    symmetric.mix_ephemeral(point)
    responder, _, _ = respond(
        point + symmetric.encrypt_and_hash(b""), [PSK], prologue=PROLOGUE, static=RESPONDER_STATIC, entropy=os.urandom
    )
    with pytest.raises(HandshakeError, match="low order"):
        responder.write_message()
    with pytest.raises(HandshakeError, match="already failed"):
        responder.write_message()


@pytest.mark.parametrize("length", [0, 1, 16, 31, 33, 64])
def test_public_keys_of_other_lengths_never_reach_the_curve(length):
    with pytest.raises(HandshakeError, match=f"{length} bytes instead of 32"):
        primitives.agree(INITIATOR_STATIC, bytes(length))


# ---- damage


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_truncation_of_a_handshake_message_is_refused(number):
    for length in range(len(_damaged(number)[1])):
        reader, message = _damaged(number)
        with pytest.raises(HandshakeError):
            reader.read_message(message[:length])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_one_flipped_bit_in_handshake_message_ends_handshake(number):
    length = len(_damaged(number)[1])
    for bit in range(0, length * 8, 7):  # 7 and 8 share no factor: every byte, every place in a byte
        reader, message = _damaged(number)
        spoilt = bytearray(message)
        spoilt[bit // 8] ^= 1 << bit % 8
        ended = False
        try:
            reader.read_message(bytes(spoilt))
            reader.write_message()
        except HandshakeError:
            ended = True
        except AssertionError:
            ended = False  # the damage was accepted and the handshake finished
        # The top bit of an X25519 key is ignored by the curve, yet it is hashed: the tag must still notice it.
        assert ended, f"bit {bit} of message {number + 1}"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_longer_handshake_message_is_refused(number):
    reader, message = _damaged(number)
    with pytest.raises(HandshakeError):
        reader.read_message(message + b"\0")
    reader, message = _damaged(number)
    with pytest.raises(HandshakeError, match="at most 2048"):
        reader.read_message(message + bytes(4_096))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), number=st.integers(0, 2))
def test_garbage_is_a_handshake_error(data, number):
    reader, _ = _damaged(number)
    with pytest.raises(HandshakeError):
        reader.read_message(data)


def _damaged(number: int) -> tuple[Handshake, bytes]:
    """The end that reads message `number`, and that message, which is still intact."""
    initiator, responder = pair()
    ends = [initiator, responder]
    for earlier in range(number):
        ends[(earlier + 1) % 2].read_message(ends[earlier % 2].write_message())
    return ends[(number + 1) % 2], ends[number % 2].write_message(b"pay")


# ---- transport


@pytest.fixture
def link() -> tuple[CipherState, CipherState]:
    return CipherState(PSK), CipherState(PSK)


def test_a_damaged_transport_message_leaves_the_cipher_unchanged(link):
    sender, receiver = link
    sealed = sender.encrypt(b"position 47.1 8.5")
    for length in range(len(sealed)):
        with pytest.raises(HandshakeError):
            receiver.decrypt(sealed[:length])
    for bit in range(len(sealed) * 8):
        spoilt = bytearray(sealed)
        spoilt[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HandshakeError):
            receiver.decrypt(bytes(spoilt))
    with pytest.raises(HandshakeError):
        receiver.decrypt(sealed + b"\0")
    assert receiver.nonce == 0
    assert receiver.decrypt(sealed) == b"position 47.1 8.5"


def test_replayed_reordered_dropped_and_reflected_messages_are_refused(link):
    sender, receiver = link
    first, second, third = (sender.encrypt(b"%d" % number) for number in range(3))
    with pytest.raises(HandshakeError):
        receiver.decrypt(second)
    assert receiver.decrypt(first) == b"0"
    with pytest.raises(HandshakeError):
        receiver.decrypt(first)
    with pytest.raises(HandshakeError):
        receiver.decrypt(third)
    assert receiver.nonce == 1
    initiator, responder = pair()
    here, _ = finish(initiator, responder)
    with pytest.raises(HandshakeError):
        here.receive.decrypt(here.send.encrypt(b"to you"))


def test_associated_data_is_authenticated(link):
    sender, receiver = link
    with pytest.raises(HandshakeError):
        receiver.decrypt(sender.encrypt(b"x", b"this"), b"that")


def test_sizes_above_the_limit_are_refused_before_encryption(link):
    sender, receiver = link
    sealed = sender.encrypt(bytes(noise.PLAINTEXT_BYTES_MAX))
    assert len(sealed) == noise.MESSAGE_BYTES_MAX
    assert receiver.decrypt(sealed) == bytes(noise.PLAINTEXT_BYTES_MAX)
    for length in (noise.PLAINTEXT_BYTES_MAX + 1, 65_536, 70_000):
        with pytest.raises(LimitError, match="split it"):
            sender.encrypt(bytes(length))
    with pytest.raises(HandshakeError, match="at most"):
        receiver.decrypt(bytes(noise.MESSAGE_BYTES_MAX + 1))
    assert (sender.nonce, receiver.nonce) == (1, 1)


def test_worn_out_key_is_refused_far_below_reserved_nonce(link):
    sender, receiver = link
    sender.nonce = receiver.nonce = noise.NONCE_MAX - 1
    last = sender.encrypt(b"last")
    assert receiver.decrypt(last) == b"last"
    with pytest.raises(LimitError, match="open another link"):
        sender.encrypt(b"one more")
    with pytest.raises(HandshakeError, match="open another link"):
        receiver.decrypt(last)
    assert sender.nonce == receiver.nonce == noise.NONCE_MAX < 2**64 - 1


def test_rekeying_changes_key_one_way_and_keeps_count(link):
    sender, receiver = link
    sender.encrypt(b"before")
    before = sender._key
    sender.rekey()
    assert sender._key != before
    assert sender.nonce == 1
    sealed = sender.encrypt(b"after")
    receiver.nonce = 1
    with pytest.raises(HandshakeError):
        receiver.decrypt(sealed)
    receiver.rekey()
    assert receiver.decrypt(sealed) == b"after"


def test_no_key_shows_in_a_repr():
    assert PSK.hex() not in repr(CipherState(PSK))
    assert repr(PSK)[2:-1] not in repr(pair()[0])


# ---- a hostile network between two honest ends


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_under_attack_both_ends_agree_or_neither_finishes(data):
    initiator, responder = pair()
    ends = [initiator, responder]
    wire: list[bytes] = []
    for number in range(3):
        writer, reader = ends[number % 2], ends[(number + 1) % 2]
        try:
            honest = writer.write_message(b"payload")
            wire.append(honest)
            action = data.draw(
                st.sampled_from(["deliver", "deliver", "deliver", "replay", "flip", "cut", "swap", "extend"])
            )
            reader.read_message(_attack(action, honest, wire, data))
        except HandshakeError:
            break
    if initiator.finished and responder.finished:
        assert initiator.handshake_hash == responder.handshake_hash
        here, there = initiator.split(), responder.split()
        assert there.receive.decrypt(here.send.encrypt(b"x")) == b"x"
    else:
        assert not responder.finished


def _attack(action: str, honest: bytes, wire: list[bytes], data) -> bytes:
    match action:
        case "deliver":
            return honest
        case "replay":
            return data.draw(st.sampled_from(wire))
        case "flip":
            place = data.draw(st.integers(0, len(honest) - 1))
            return honest[:place] + bytes([honest[place] ^ data.draw(st.integers(1, 255))]) + honest[place + 1 :]
        case "cut":
            return honest[: data.draw(st.integers(0, len(honest) - 1))]
        case "swap":
            place = data.draw(st.integers(0, len(honest)))
            return honest[place:] + honest[:place]
        case _:
            return honest + data.draw(st.binary(min_size=1, max_size=64))
