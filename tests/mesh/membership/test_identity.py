"""Identities: what is stored comes back, what is damaged does not, and no secret shows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import DecodeError, EnrolmentError
from mycomesh.mesh.membership.identity import IDENTITY_BYTES_MAX, Identity, create_mesh, make_identity, verify

BORN_MS = 1_800_000_000_000
GOLDEN = json.loads((Path(__file__).parents[2] / "vectors" / "mesh-golden.json").read_text())


class Entropy:
    """Reproducible bytes: call n gives SHAKE-256 of the seed and n."""

    def __init__(self, seed: bytes) -> None:
        self.seed, self.calls = seed, 0

    def __call__(self, count: int) -> bytes:
        self.calls += 1
        return hashlib.shake_256(b"%b %d" % (self.seed, self.calls)).digest(count)


def founder(seed: bytes = b"golden") -> Identity:
    return create_mesh("fleet", "alpha", entropy=Entropy(seed), wall_ms=BORN_MS)[0]


def test_the_bytes_are_those_of_the_golden_vector():
    identity = founder()
    assert identity.encode().hex() == GOLDEN["identity"]
    assert identity.node_id.hex() == GOLDEN["node_id"]
    assert identity.digest_key.hex() == GOLDEN["digest_key"]
    assert identity.sign(b"batch", b"payload").hex() == GOLDEN["signature"]


def test_a_founder_is_member_and_admin_of_its_mesh():
    identity, root_seed = create_mesh("fleet", "alpha", entropy=Entropy(b"x"), wall_ms=BORN_MS + 999, lifetime_s=60)
    assert identity.mesh_id == primitives.identifier(primitives.signing_pair(root_seed)[0])
    assert (identity.mesh_name, identity.name) == ("fleet", "alpha")
    assert identity.certificate.roles == ("member", "admin")
    assert (identity.certificate.not_before_s, identity.certificate.not_after_s) == (1_800_000_000, 1_800_000_060)
    assert identity.static_public == primitives.static_public(identity.static_private)
    assert root_seed not in identity.encode()


def test_every_key_is_drawn_on_its_own():
    identity, root_seed = create_mesh("fleet", "alpha", entropy=Entropy(b"x"), wall_ms=BORN_MS)
    keys = [root_seed, identity.secret, identity.node_seed, identity.static_private]
    assert len({key.hex() for key in keys}) == 4


def test_what_is_stored_comes_back():
    assert Identity.decode(founder().encode()) == founder()
    assert Identity.decode(founder().encode()).sign(b"d", b"x") == founder().sign(b"d", b"x")


def test_expired_identity_loads_so_that_it_can_be_renewed():
    identity, _ = create_mesh("fleet", "alpha", entropy=Entropy(b"x"), wall_ms=0, lifetime_s=1)
    assert Identity.decode(identity.encode()) == identity


def test_no_secret_shows_in_a_repr():
    identity = founder()
    shown = repr(identity)
    for secret in (identity.secret, identity.node_seed, identity.static_private, identity._signing_secret):
        assert repr(secret) not in shown
        assert secret.hex() not in shown
    assert "alpha" in shown


def test_an_identity_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        founder().secret = bytes(32)


def test_an_identity_of_mixed_keys_cannot_be_built():
    one, other = founder(), founder(b"other")
    for name in ("mesh_id", "root_public", "node_seed", "static_private", "certificate"):
        with pytest.raises(AssertionError):
            dataclasses.replace(one, **{name: getattr(other, name)})


# ---- damage of the stored form


def test_every_truncation_is_refused():
    data = founder().encode()
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            Identity.decode(data[:length])
    with pytest.raises(DecodeError):
        Identity.decode(data + b"\0")


def test_damage_is_refused_wherever_something_else_depends_on_byte():
    """Only the mesh's name and secret stand alone: nothing in the file can tell whether they are the right ones."""
    identity = founder()
    data = identity.encode()
    alone = {*_places(data, identity.secret), *_places(data, identity.mesh_name.encode())}
    # Two bits of an X25519 private key's last byte and three of its first are ignored by the curve.
    alone |= {_places(data, identity.static_private)[0], _places(data, identity.static_private)[-1]}
    for place in range(len(data)):
        if place in alone:
            continue
        with pytest.raises(DecodeError) as caught:
            Identity.decode(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        assert "\n" not in str(caught.value)


def _places(data: bytes, part: bytes) -> range:
    start = data.index(part)
    return range(start, start + len(part))


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        (0, 2, "upgrade the older node"),
        (1, bytes(16), "mixes keys"),
        (2, "a\nb", "unusable mesh name"),
        (3, bytes(31), "is not 32 bytes long"),
        (4, bytes(33), "is not 32 bytes long"),
        (5, bytes(32), "mixes keys"),
        (6, bytes(32), "mixes keys"),
        (7, b"", "invalid certificate"),
        (7, "text", "not bytes"),
    ],
)
def test_each_field_that_does_not_fit_is_named(place, value, fault):
    fields = wire.decode(founder().encode(), bytes_max=IDENTITY_BYTES_MAX)
    fields[place] = value
    with pytest.raises(DecodeError, match=fault):
        Identity.decode(wire.encode(fields))


@given(st.binary(max_size=300))
def test_garbage_is_a_decode_error(data):
    with pytest.raises(DecodeError):
        Identity.decode(data)


# ---- signatures


def test_signature_holds_for_its_key_domain_and_data_alone():
    identity = founder()
    key = identity.certificate.node_key
    signature = identity.sign(b"batch", b"payload")
    assert verify(key, b"batch", b"payload", signature)
    assert not verify(key, b"batch", b"payloae", signature)
    assert not verify(key, b"link-state", b"payload", signature)
    assert not verify(founder(b"other").certificate.node_key, b"batch", b"payload", signature)


def test_domain_and_data_cannot_be_shifted_into_each_other():
    identity = founder()
    signature = identity.sign(b"ab", b"c")
    assert not verify(identity.certificate.node_key, b"a", b"bc", signature)
    with pytest.raises(AssertionError, match="NUL"):
        identity.sign(b"a\0b", b"c")


def test_longer_signature_cannot_carry_signed_message_into_another_domain():
    identity = founder()
    signature = identity.sign(b"batch", b"mycomesh signature 1\0link-state\0forged")
    longer = signature + b"mycomesh signature 1\0batch\0"
    assert not verify(identity.certificate.node_key, b"link-state", b"forged", longer)


@settings(max_examples=200)
@given(key=st.binary(max_size=40), data=st.binary(max_size=40), signature=st.binary(max_size=70))
def test_verify_is_false_for_any_garbage_of_any_length(key, data, signature):
    assert verify(key, b"batch", data, signature) is False


def test_every_damaged_signature_is_false():
    identity = founder()
    key, signature = identity.certificate.node_key, identity.sign(b"batch", b"payload")
    for length in range(64):
        assert not verify(key, b"batch", b"payload", signature[:length])
    for place in range(64):
        spoilt = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        assert not verify(key, b"batch", b"payload", spoilt)


# ---- derived keys and names


def test_members_share_a_digest_key_that_differs_between_meshes():
    identity, root_seed = create_mesh("fleet", "alpha", entropy=Entropy(b"x"), wall_ms=BORN_MS)
    member = make_identity(
        root_seed,
        mesh_name="fleet",
        node_name="bravo",
        secret=identity.secret,
        roles=("member",),
        entropy=Entropy(b"y"),
        not_before_s=0,
        lifetime_s=1,
    )
    assert member.node_id != identity.node_id
    assert member.digest_key == identity.digest_key != identity.secret
    assert len(identity.digest_key) == 32
    assert founder().digest_key != identity.digest_key


@pytest.mark.parametrize(
    ("mesh_name", "node_name"), [("", "a"), ("a", ""), ("a\x1b", "a"), ("a", "a\n"), ("a", "x" * 65)]
)
def test_unusable_names_are_refused_in_one_line(mesh_name, node_name):
    with pytest.raises(EnrolmentError, match="cannot be named") as caught:
        create_mesh(mesh_name, node_name, entropy=Entropy(b"x"), wall_ms=BORN_MS)
    assert "\n" not in str(caught.value)
