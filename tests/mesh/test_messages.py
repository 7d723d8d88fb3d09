"""Messages: one encoding each, pinned by golden bytes, and nothing else accepted."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.mesh import messages as limits
from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.events import Address
from mycomesh.mesh.messages import (
    ADDRESSES_MAX,
    APP_BYTES_MAX,
    IDS_MAX,
    Addresses,
    App,
    Batch,
    Certificates,
    CertificatesHave,
    Graft,
    IHave,
    LinkStates,
    LinkStatesHave,
    Ping,
    Pong,
    Prune,
    Purges,
    Wants,
    decode,
    decode_pieces,
    encode,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "messages.json").read_text())["messages"]
TREE = bytes(range(16))
SAMPLES = {
    "ping": Ping(0x01020304),
    "pong": Pong(0x01020304, 1_760_000_000_000),
    "pong before 1970": Pong(1, -1),
    "app": App(b"opaque"),
    "app empty": App(b""),
    "app optional": App(b"opaque", True),
    "batch": Batch(TREE, 2, False, bytes(range(64)), b"payload"),
    "batch direct": Batch(TREE, 0, True, bytes(range(64)), b""),
    "ihave": IHave(TREE, (bytes(16), b"\xff" * 16)),
    "graft": Graft(TREE, (b"\x01" * 16,)),
    "graft without ids": Graft(TREE, ()),
    "prune": Prune(TREE),
    "link states have": LinkStatesHave(((TREE, 7), (bytes(16), 2**63 - 1))),
    "link states": LinkStates((b"one", b"two")),
    "certificates have": CertificatesHave((b"12345678",)),
    "certificates": Certificates((b"raw",)),
    "purges": Purges((b"one", b"two")),
    "wants": Wants((("telemetry", ("12", "7")), ("tasks", ()))),
    "addresses": Addresses(((TREE, Address("10.0.0.1", 4747)), (bytes(16), Address("fe80::1%eth0", 1)))),
}


def test_golden_vectors_name_every_sample():
    assert sorted(VECTORS) == sorted(SAMPLES)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_encoding_is_that_of_the_golden_vector(name):
    golden = bytes.fromhex(VECTORS[name])
    assert encode(SAMPLES[name]) == golden
    assert decode(golden) == SAMPLES[name]


ids = st.lists(st.binary(min_size=16, max_size=16), max_size=8).map(tuple)
tree = st.binary(min_size=16, max_size=16)
raws = st.lists(st.binary(min_size=1, max_size=50), max_size=5).map(tuple)
names = st.text(st.characters(blacklist_categories=["Cs"]), max_size=9)
hosts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
messages = st.one_of(
    st.builds(Ping, st.integers(0, 2**32 - 1)),
    st.builds(Pong, st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1)),
    st.builds(App, st.binary(max_size=200), st.booleans()),
    st.builds(
        Batch, tree, st.integers(0, 3), st.booleans(), st.binary(min_size=64, max_size=64), st.binary(max_size=200)
    ),
    st.builds(IHave, tree, ids),
    st.builds(Graft, tree, ids),
    st.builds(Prune, tree),
    st.builds(LinkStatesHave, st.lists(st.tuples(tree, st.integers(0, 2**64 - 1)), max_size=5).map(tuple)),
    st.builds(LinkStates, raws),
    st.builds(CertificatesHave, st.lists(st.binary(min_size=8, max_size=8), max_size=5).map(tuple)),
    st.builds(Certificates, raws),
    st.builds(Wants, st.lists(st.tuples(names, st.lists(names, max_size=4).map(tuple)), max_size=4).map(tuple)),
    st.builds(
        Addresses, st.lists(st.tuples(tree, st.builds(Address, hosts, st.integers(1, 65_535))), max_size=5).map(tuple)
    ),
)


@given(messages)
def test_every_message_survives_the_wire(message):
    assert decode(encode(message)) == message


@given(messages, st.data())
def test_any_change_of_bytes_is_another_message_or_error(message, data):
    raw = bytearray(encode(message))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(raw))
    except DecodeError:
        return
    assert changed is None or encode(changed) == bytes(raw) != encode(message)


@given(st.binary(max_size=400))
def test_junk_is_a_message_or_a_decode_error(junk):
    try:
        message = decode(junk)
    except DecodeError:
        return
    assert message is None or encode(message) == junk


@given(st.integers(1, 12), st.binary(max_size=300))
def test_junk_behind_every_known_type(kind, junk):
    raw = bytes((1, kind)) + junk
    try:
        message = decode(raw)
    except DecodeError:
        return
    assert message is not None
    assert encode(message) == raw


def test_unknown_type_below_128_is_ignored_and_above_closes():
    assert decode(b"\x01\x7fwhatever") is None
    with pytest.raises(DecodeError, match="is mandatory"):
        decode(b"\x01\x80whatever")


def test_message_of_another_version_than_its_link_is_refused():
    with pytest.raises(DecodeError, match="version 2 on a link of version 1"):
        decode(b"\x02\x01\0\0\0\0")
    with pytest.raises(DecodeError, match="version 1 on a link of version 2"):
        decode_pieces((b"\x01\x03opaque",), 2)


@pytest.mark.parametrize("name", list(SAMPLES))
def test_only_first_byte_tells_version_2_from_version_1(name):
    message = SAMPLES[name]
    assert encode(message, 2) == b"\x02" + encode(message)[1:]
    assert decode(encode(message, 2), 2) == decode_pieces((encode(message, 2),), 2) == message


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\x01\x05" + TREE + bytes(16 * (IDS_MAX + 1)), "at most 1024"),
        (b"\x01\x05" + TREE + bytes(17), "1 bytes longer"),
        (encode(Addresses(((TREE, Address("h", 1)),) * (ADDRESSES_MAX + 1))), "at most 256"),
        (b"\x01\x04" + bytes(16 + 64) + b"\x08", "unknown flags"),
        (b"\x01\x03" + bytes(APP_BYTES_MAX + 1), "at most"),
    ],
)
def test_limits_of_a_message(raw, why):
    with pytest.raises(DecodeError, match=why):
        decode(raw)


def test_id_of_batch_depends_on_origin_and_payload_alone():
    batch = Batch(TREE, 2, False, bytes(64), b"payload")
    assert batch.id == Batch(TREE, 1, True, b"\x01" * 64, b"payload").id
    assert batch.id != Batch(bytes(16), 2, False, bytes(64), b"payload").id
    assert batch.id != Batch(TREE, 2, False, bytes(64), b"payloae").id


def _wishes(size):
    """Return wishes of so many bytes in CBOR: groups of 200 characters without topics, and one that fills the rest."""
    size -= 3  # the head of the list
    count, rest = divmod(size - 100, 204)
    groups = [(f"{number:0200}", ()) for number in range(count)]
    return [*groups, ("x" * (rest + 100 - 4), ())]


def test_wishes_of_many_topics_ask_for_everything():
    assert Wants.of({"t": frozenset({"2", "10"})}) == Wants((("t", ("10", "2")),))
    assert Wants.of({"t": frozenset(f"{number:0200}" for number in range(400))}) == Wants(())
    assert Wants((("t", ("1",)),)).wishes() == {"t": frozenset({"1"})}


@pytest.mark.parametrize("groups", [1, [1], [["t"]], [["t", 1]], [[1, []]], [["t", [b"x"]]], [["t", [["x"]]]]])
def test_wishes_of_another_form_are_refused(groups):
    with pytest.raises(DecodeError):
        decode(bytes((1, 19)) + wire.encode(groups))


BOUNDARIES = {
    "records": (limits.RECORDS_MAX, lambda count: LinkStates((b"r",) * count)),
    "bytes of a record": (limits.RECORD_BYTES_MAX, lambda size: LinkStates((bytes(size),))),
    "characters of a host": (limits.HOST_CHARS_MAX, lambda count: Addresses(((TREE, Address("h" * count, 1)),))),
    "characters of a topic": (limits.WISH_CHARS_MAX, lambda count: Wants((("t", ("x" * count,)),))),
    "bytes of wishes": (limits.WISHES_BYTES_MAX, lambda size: Wants(tuple(_wishes(size)))),
    "a port": (limits.PORT_MAX, lambda port: Addresses(((TREE, Address("h", port)),))),
}


@pytest.mark.parametrize(("limit", "message_of"), BOUNDARIES.values(), ids=list(BOUNDARIES))
def test_a_list_limit_is_accepted_at_and_refused_above(limit, message_of):
    for count in (limit - 1, limit):
        assert decode(encode(message_of(count))) == message_of(count)
    with pytest.raises(DecodeError):
        decode(encode(message_of(limit + 1)))
