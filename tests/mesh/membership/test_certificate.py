"""Certificates: every way to be refused has its own reason, and a wrong clock locks nobody out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.certificate import (
    CERTIFICATE_BYTES_MAX,
    NAME_BYTES_MAX,
    SKEW_S_MAX,
    Certificate,
    free_name,
    issue,
    name_fault,
)
from mycomesh.sync.replication.rights import Rights

ROOT_SEED = bytes(range(32))
ROOT_PUBLIC = primitives.signing_pair(ROOT_SEED)[0]
OTHER_SEED = bytes(range(1, 33))
NODE_KEY = primitives.signing_pair(bytes([7]) * 32)[0]
STATIC_KEY = primitives.static_public(bytes([8]) * 32)
BORN_S = 1_800_000_000
DAY_S = 86_400
GOLDEN = json.loads((Path(__file__).parents[2] / "vectors" / "mesh-golden.json").read_text())

FIELDS = {
    "name": "drone-7",
    "node_key": NODE_KEY,
    "static_key": STATIC_KEY,
    "roles": ("member",),
    "not_before_s": BORN_S,
    "not_after_s": BORN_S + 30 * DAY_S,
    "serial": bytes(range(16)),
}


def made(root_seed: bytes = ROOT_SEED, **changes) -> Certificate:
    return issue(root_seed, **FIELDS | changes)


def verified(raw: bytes, *, at_s: int = BORN_S + DAY_S, newest_seen_s: int = 0) -> Certificate:
    return Certificate.decode_verified(
        raw, root_public=ROOT_PUBLIC, wall_ms=at_s * 1_000 + 999, newest_seen_s=newest_seen_s
    )


def reason(raw: bytes, **when) -> str:
    with pytest.raises(CertificateError) as caught:
        verified(raw, **when)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def forged(seed: bytes = ROOT_SEED, domain: bytes = b"certificate", **changes) -> bytes:
    """A certificate with any fields at all, signed with `seed`, as `issue` would never make it."""
    root_public = primitives.signing_pair(ROOT_SEED)[0]
    fields = {"mesh_id": primitives.identifier(root_public), **FIELDS, "grants": (("*", "rw"),)} | changes
    order = (
        "mesh_id",
        "name",
        "node_key",
        "static_key",
        "roles",
        "grants",
        "not_before_s",
        "not_after_s",
        "serial",
    )
    body = wire.encode((fields.get("version", 1), *(fields[name] for name in order)))
    return wire.encode((1, body, primitives.sign(primitives.signing_pair(seed)[1], domain, body)))


def test_the_bytes_are_those_of_the_golden_vector():
    assert (
        made(name="Dröhne 7", roles=("member", "admin"), grants=(("telemetry_*", "rw"), ("*", "r"))).raw.hex()
        == (GOLDEN["certificate"])
    )


def test_what_root_issued_is_read_back_with_every_field():
    certificate = made(grants=(("a", "r"), ("*", "rw")))
    assert verified(certificate.raw) == certificate
    assert (certificate.name, certificate.roles, certificate.grants) == (
        "drone-7",
        ("member",),
        (("a", "r"), ("*", "rw")),
    )
    assert certificate.mesh_id == primitives.identifier(ROOT_PUBLIC)
    assert certificate.node_id == primitives.identifier(NODE_KEY)
    assert forged() == made().raw  # the forger below differs from the root in what he changes, and in nothing else


# ---- each refusal with its own reason


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (bytes(CERTIFICATE_BYTES_MAX + 1), "too-long"),
        (bytes(64 * 1024), "too-long"),
        (b"", "malformed"),
        (b"\x00", "malformed"),
        (made().raw[:-1], "malformed"),
        (made().raw + b"\0", "malformed"),
        (made().raw * 2, "malformed"),
        (wire.encode((2, b"", b"")), "malformed"),
        (wire.encode((1, b"", bytes(64))), "malformed"),
        (made(OTHER_SEED).raw, "wrong-mesh"),
        (forged(OTHER_SEED), "bad-signature"),
        (forged(bytes([7]) * 32), "bad-signature"),
        (forged(domain=b"join request"), "bad-signature"),
        (forged(mesh_id=bytes(15)), "wrong-mesh"),
        (forged(node_key=bytes(31)), "malformed"),
        (forged(static_key=bytes(33)), "malformed"),
        (forged(serial=b""), "malformed"),
        (forged(name=""), "name"),
        (forged(name="x" * 65), "name"),
        (forged(name="\u202egnp.exe"), "name"),
        (forged(name="a\x1b[2J"), "name"),
        (forged(name="e\u0301"), "name"),
        (forged(roles=()), "rights"),
        (forged(roles=("root",)), "rights"),
        (forged(roles=("member", "member")), "rights"),
        (forged(roles=([],)), "rights"),
        (forged(grants=(("*", "rwx"),)), "rights"),
        (forged(grants=("*",)), "rights"),
        (forged(grants=((1, "r"),)), "rights"),
        (forged(grants=(("x" * 65, "r"),)), "rights"),
        (forged(grants=(("t", "r"),) * 17), "rights"),
        (forged(not_after_s=BORN_S), "times"),
        (forged(not_before_s=-1), "times"),
        (forged(not_after_s=2**63), "times"),
    ],
)
def test_an_invalid_certificate_is_refused_with_its_own_reason(raw, why):
    assert reason(raw) == why


def test_every_altered_byte_is_refused():
    raw = made().raw
    for place in range(len(raw)):
        spoilt = raw[:place] + bytes([raw[place] ^ 0x01]) + raw[place + 1 :]
        assert reason(spoilt) in ("malformed", "bad-signature", "wrong-mesh")


def test_the_other_form_of_a_signature_is_refused():
    raw = made().raw
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(raw[-32:], "little") + order
    assert reason(raw[:-32] + scalar.to_bytes(32, "little")) == "bad-signature"


@given(st.binary(max_size=200))
def test_garbage_is_a_certificate_error(data):
    with pytest.raises(CertificateError):
        verified(data)


@settings(max_examples=300)
@given(st.data())
def test_any_signed_body_is_a_certificate_or_an_error(data):
    """Even the root's signature makes nothing of another type pass: the body decides nothing before it is checked."""
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    value = data.draw(
        st.none()
        | st.integers(-(2**63), 2**63)
        | st.binary(max_size=40)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.lists(st.lists(st.text("ab*", max_size=3) | st.integers(0, 9), max_size=3), max_size=3)
    )
    raw = forged(**{name: value})
    try:
        certificate = Certificate.decode_signed(raw, root_public=ROOT_PUBLIC)
    except CertificateError:
        return
    assert getattr(certificate, name) == value
    assert certificate.raw == raw


def test_a_root_key_of_another_length_verifies_nothing():
    with pytest.raises(CertificateError):
        Certificate.decode_signed(made().raw, root_public=ROOT_PUBLIC[:31])


def test_a_certificate_with_another_static_key_is_refused():
    made().check_static(STATIC_KEY)
    for other in (None, b"", bytes(32), NODE_KEY):
        with pytest.raises(CertificateError) as caught:
            made().check_static(other)
        assert caught.value.reason == "static-key"


# ---- clocks


def test_validity_includes_its_first_second_and_excludes_its_last():
    raw = made().raw
    assert verified(raw, at_s=BORN_S)
    assert verified(raw, at_s=BORN_S + 30 * DAY_S - 1)
    assert reason(raw, at_s=BORN_S + 30 * DAY_S) == "expired"
    assert reason(raw, at_s=4_102_444_800) == "expired"  # the year 2100


def test_a_lagging_clock_within_the_skew_accepts_fresh_certificates():
    raw = made().raw
    assert verified(raw, at_s=BORN_S - SKEW_S_MAX)
    assert reason(raw, at_s=BORN_S - SKEW_S_MAX - 1) == "not-yet-valid"


@pytest.mark.parametrize("at_s", [0, 1, 86_400 * 365, 1_704_067_199])
def test_a_clock_in_1970_locks_nobody_out(at_s):
    assert verified(made().raw, at_s=at_s)
    assert verified(made().raw, at_s=at_s, newest_seen_s=BORN_S - 100 * DAY_S)


def test_a_clock_at_build_date_locks_nobody_out():
    image_s = BORN_S - 400 * DAY_S
    assert verified(made().raw, at_s=image_s, newest_seen_s=BORN_S - 10 * DAY_S)


def test_a_clock_in_1970_revives_no_expired_certificate():
    assert reason(made().raw, at_s=0, newest_seen_s=BORN_S + 30 * DAY_S) == "expired"
    assert verified(made().raw, at_s=0, newest_seen_s=BORN_S + 30 * DAY_S - 1)


# ---- rights


@pytest.mark.parametrize(
    ("roles", "grants", "reads", "writes"),
    [
        (("member",), (("*", "rw"),), True, True),
        (("member",), (("*", "r"),), True, False),
        (("member",), (("*", "w"),), False, True),
        (("member",), (("tele*", "-"), ("*", "rw")), False, False),
        (("member",), (("telemetr?", "r"), ("*", "rw")), True, False),
        (("member",), (("alerts", "rw"),), False, False),
        (("member",), (("TELEMETRY", "rw"),), False, False),
        (("member",), (), False, False),
        (("read-only",), (("*", "rw"),), True, False),
        (("member", "read-only"), (("*", "rw"),), True, False),
        (("relay",), (("*", "rw"),), False, False),
        (("member", "admin"), (("*", "rw"),), True, True),
    ],
)
def test_roles_and_first_matching_grant_decide_about_table(roles, grants, reads, writes):
    certificate = made(roles=roles, grants=grants)
    node = certificate.node_id
    rights = Rights(b"", ((node, certificate.table_rights),))
    assert (rights.may_read(node, "telemetry"), rights.may_write(node, "telemetry")) == (reads, writes)


def test_pattern_made_to_be_slow_is_matched_at_once():
    certificate = made(grants=(("*a" * 31 + "b", "rw"),))
    node = certificate.node_id
    assert not Rights(b"", ((node, certificate.table_rights),)).may_read(node, "a" * 10_000)


# ---- issuing


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": " x"}, "name"),
        ({"node_key": b""}, "malformed"),
        ({"roles": ("boss",)}, "rights"),
        ({"not_after_s": 5}, "times"),
        ({"grants": tuple((f"{number:02}" + "x" * 62, "rw") for number in range(16))}, "too-long"),
    ],
)
def test_the_root_does_not_sign_what_nobody_would_accept(changes, why):
    with pytest.raises(CertificateError) as caught:
        made(**changes)
    assert caught.value.reason == why


def test_a_renewed_certificate_names_the_same_node():
    renewed = made(not_before_s=BORN_S + DAY_S, serial=bytes(16), name="another name")
    assert renewed.node_id == made().node_id
    assert renewed.raw != made().raw


def test_certificates_are_values():
    assert made() == made()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().roles = ("admin",)


@pytest.mark.parametrize("name", ["a", "drone-7", "Żubr 12", "ドローン", "x" * 64])
def test_names_that_people_use_are_fine(name):
    assert certificates.name_fault(name) == ""
    assert made(name=name).name == name


@pytest.mark.parametrize(
    "name", ["", " a", "a\n", "a\nb", "a\tb", "\u202eb", "a\u200bb", "x" * 65, "é" * 33, "\ud800", "A\u030a"]
)
def test_names_that_disturb_a_terminal_are_not(name):
    assert certificates.name_fault(name)


@given(
    st.text(min_size=1, max_size=40).filter(lambda name: not name_fault(name)),
    st.integers(min_value=0, max_value=30),
)
@example("x" * NAME_BYTES_MAX, 9)  # the tail grows by a digit
@example("ü" * (NAME_BYTES_MAX // 2), 1)
def test_a_free_name_is_a_name_that_nobody_bears(name, others):
    assert free_name(name, ()) == name
    taken = {name}
    for _ in range(others):
        found = free_name(name, taken)
        assert found not in taken
        assert not name_fault(found)
        taken.add(found)
    assert free_name("pi", {"pi", "pi-2", "pi-4"}) == "pi-3"
