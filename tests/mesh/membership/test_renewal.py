"""Renewals: admins extend the time of members and nothing else; a running member is renewed before it expires."""

from __future__ import annotations

import dataclasses
import random

import pytest

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.events import LinkDown, MembershipChanged, Notice
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.membership.membership import RENEW_BEFORE_S, WARN_BEFORE_S, Membership
from mycomesh.mesh.membership.renewal import CERTIFICATE_CHAIN_BYTES_MAX, RENEWED_S_MAX, read_certificate, renew
from mycomesh.mesh.membership.roster import Roster
from tests.mesh.membership.members import (
    ADMIN,
    ADMIN_AUTHORITY,
    BRAVO,
    CHARLIE,
    DAY_S,
    FOUNDER,
    NOW_S,
    PUBLIC,
    ROOT,
    SERIAL,
    authority,
    member,
    pretended,
    refused,
)
from tests.mesh.pipes import LIFETIME_S, Pipes, mesh_of


def test_admin_renews_member_and_nothing_but_its_time_changes():
    later_s = NOW_S + 25 * DAY_S
    renewed = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=later_s, serial=SERIAL)
    assert (renewed.not_before_s, renewed.not_after_s) == (later_s, later_s + RENEWED_S_MAX)
    assert renewed.renewed_by == ADMIN.node_id
    for name in ("name", "roles", "grants", "node_key", "static_key", "mesh_id"):
        assert getattr(renewed, name) == getattr(BRAVO.certificate, name)
    assert read_certificate(renewed.raw, root_public=PUBLIC) == renewed
    again = renew(renewed, ADMIN_AUTHORITY, at_s=later_s + DAY_S, serial=SERIAL)
    assert again.not_after_s == later_s + DAY_S + RENEWED_S_MAX
    assert again.rank > renewed.rank > BRAVO.certificate.rank


def test_a_renewal_ends_with_the_admin_who_gave_it():
    admin = member("short", roles=("member", "admin"), lifetime_s=3 * DAY_S)
    assert (
        renew(BRAVO.certificate, authority(admin), at_s=NOW_S + DAY_S, serial=SERIAL).not_after_s == NOW_S + 3 * DAY_S
    )
    with refused("issuer"):
        renew(
            BRAVO.certificate,
            dataclasses.replace(authority(admin), until_s=2**40),
            at_s=NOW_S + 3 * DAY_S,
            serial=SERIAL,
        )


def test_a_chain_too_long_for_a_handshake_is_refused():
    wide = tuple((f"{index:x}" * 60, "rw") for index in range(10))
    admin = member("wide admin", roles=("admin",), grants=wide)
    with refused("too-long"):
        renew(member("wide", grants=wide).certificate, authority(admin), at_s=NOW_S, serial=SERIAL)
    with refused("too-long"):
        read_certificate(bytes(CERTIFICATE_CHAIN_BYTES_MAX + 1), root_public=PUBLIC)


def test_only_an_admin_certified_by_the_root_has_authority():
    assert Authority.of(BRAVO.certificate, PUBLIC, BRAVO.node_seed, None) is None
    with refused("issuer"):
        renew(CHARLIE.certificate, pretended(BRAVO, BRAVO.certificate.raw), at_s=NOW_S, serial=SERIAL)
    with refused("bad-signature"):  # under an admin's certificate, without its key
        renew(CHARLIE.certificate, pretended(BRAVO, ADMIN.certificate.raw), at_s=NOW_S, serial=SERIAL)
    with refused("bad-signature"):  # in the name of the root
        renew(CHARLIE.certificate, pretended(BRAVO), at_s=NOW_S, serial=SERIAL)


def test_an_admin_of_another_mesh_renews_nobody():
    (other, *_), other_root = mesh_of(1, seed=2)
    stranger = member("stranger", roles=("admin",), root=other_root)
    with refused("wrong-mesh"):
        renew(BRAVO.certificate, pretended(stranger, stranger.certificate.raw), at_s=NOW_S, serial=SERIAL)
    assert other.mesh_id != FOUNDER.mesh_id


def test_admins_are_renewed_by_the_root_alone():
    other = member("second", roles=("member", "admin"))
    with refused("renewal"):
        renew(other.certificate, ADMIN_AUTHORITY, at_s=NOW_S, serial=SERIAL)


def test_a_chain_of_two_admins_is_no_chain():
    """A certificate that an admin renewed cannot sign, even if it could name its holder an admin."""
    renewed = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 1, serial=SERIAL)
    with pytest.raises(CertificateError):
        renew(CHARLIE.certificate, pretended(BRAVO, renewed.raw), at_s=NOW_S + 1, serial=SERIAL)


def forged_renewal(base: bytes, *, digest_of: bytes | None = None, at_s=NOW_S, before_s=None, after_s=None) -> bytes:
    from mycomesh.mesh.membership.renewal import _digest

    before_s = at_s if before_s is None else before_s
    body = wire.encode((1, _digest(digest_of or base), before_s, after_s or before_s + DAY_S, SERIAL))
    return wire.encode((2, base, ADMIN_AUTHORITY.decree(b"renewal", body, at_s)))


@pytest.mark.parametrize(
    "raw",
    [
        forged_renewal(BRAVO.certificate.raw, digest_of=CHARLIE.certificate.raw),
        forged_renewal(BRAVO.certificate.raw, after_s=NOW_S + RENEWED_S_MAX + 1),
        forged_renewal(BRAVO.certificate.raw, before_s=NOW_S + DAY_S),
        forged_renewal(BRAVO.certificate.raw, at_s=NOW_S - 1),
        forged_renewal(BRAVO.certificate.raw, after_s=NOW_S),
    ],
    ids=["for another certificate", "for too long", "dated ahead", "older than what it renews", "for no time"],
)
def test_renewal_that_admin_may_not_give_is_refused(raw):
    with refused("renewal"):
        read_certificate(raw, root_public=PUBLIC)


def test_renewal_cannot_carry_roles_that_root_did_not_sign():
    """Escalation: the roles are in the part that the root has signed, so another part does not verify."""
    body, signature = wire.decode_record(
        BRAVO.certificate.raw, what="", version=1, kinds=(bytes, bytes), bytes_max=1_024
    )
    fields = wire.decode(body, bytes_max=1_024)
    fields[6] = ["admin"]
    with refused("bad-signature"):
        read_certificate(forged_renewal(wire.encode((1, wire.encode(fields), signature))), root_public=PUBLIC)


def test_a_replayed_renewal_brings_nothing_back():
    """Of two certificates the root's later word counts, then the longer life: neither an old renewal nor a short one."""
    roster = Roster(FOUNDER)
    long = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 9 * DAY_S, serial=SERIAL)
    short = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 5 * DAY_S, serial=SERIAL)
    assert roster.add(long)
    assert not roster.add(short)
    demoted = certificates.issue(
        ROOT,
        name="n1",
        node_key=BRAVO.certificate.node_key,
        static_key=BRAVO.static_public,
        roles=("read-only",),
        not_before_s=NOW_S + 10 * DAY_S,
        not_after_s=NOW_S + 11 * DAY_S,
        serial=SERIAL,
    )
    assert roster.add(demoted)
    revived = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 11 * DAY_S, serial=SERIAL)
    assert not roster.add(revived)
    held = roster.get(BRAVO.node_id)
    assert held is not None
    assert held.roles == ("read-only",)


def test_every_altered_byte_of_a_renewed_certificate_is_refused():
    raw = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S, serial=SERIAL).raw
    for place in range(0, len(raw), 3):
        with pytest.raises(CertificateError):
            read_certificate(raw[:place] + bytes((raw[place] ^ 1,)) + raw[place + 1 :], root_public=PUBLIC)
        with pytest.raises(CertificateError):
            read_certificate(raw[:place], root_public=PUBLIC)


@pytest.mark.parametrize("issuer", ["root", "admin"])
def test_running_member_is_renewed_before_expiry_and_stores_it(issuer):
    pipes = Pipes(4)
    first = FOUNDER if issuer == "root" else ADMIN
    decider = pipes.member(first, **({"root_seed": ROOT} if issuer == "root" else {}))
    bravo = pipes.member(BRAVO)
    away = pipes.member(CHARLIE)
    pipes.meet_all()
    pipes.run_until(lambda: len(decider.links) == 2)
    pipes.kill(away, silent=False)
    for node in (decider, bravo):
        node.wall_ms += (LIFETIME_S - RENEW_BEFORE_S + 60) * 1_000
    pipes.run(130_000)
    certificate = bravo.core.membership.roster.identity.certificate
    assert certificate.not_after_s > BRAVO.certificate.not_after_s
    assert certificate.renewed_by == (b"" if issuer == "root" else ADMIN.node_id)
    assert Identity.decode(bravo.seen(MembershipChanged)[-1].identity).certificate == certificate
    assert "identity.renewed" in bravo.notices()
    # A member that is away is not renewed: the certificate of a lost drone expires.
    held = decider.core.membership.roster.get(CHARLIE.node_id)
    assert held is None or held.not_after_s == CHARLIE.certificate.not_after_s
    assert not [action for action in bravo.seen(LinkDown) if "expired" in action.reason]


def test_member_that_passes_by_for_moment_is_renewed():
    pipes = Pipes(6)
    admin, bravo = pipes.member(ADMIN), pipes.member(BRAVO)
    for node in (admin, bravo):
        node.wall_ms += (LIFETIME_S - RENEW_BEFORE_S + 60) * 1_000
    pipes.run(5_000)
    pipes.meet(bravo, admin)
    pipes.run(100)
    assert bravo.core.membership.roster.identity.certificate.renewed_by == ADMIN.node_id
    assert len(admin.links) == len(bravo.links) == 1


def test_a_renewed_admin_signs_with_its_new_certificate():
    short = member("short", roles=("member", "admin"), lifetime_s=3 * DAY_S)
    deciding = Membership(short, None, random.Random(1).randbytes)
    assert deciding.record_certificate(BRAVO.certificate)
    later_s = NOW_S + 10 * DAY_S
    assert "is revoked or has expired" in deciding.revocable(BRAVO.node_id, later_s * 1_000)
    renewed = member("short", roles=("member", "admin"), at_s=NOW_S + 2 * DAY_S, lifetime_s=30 * DAY_S)
    assert renewed.node_id == short.node_id
    assert deciding.record_certificate(renewed.certificate)
    assert deciding.revocable(BRAVO.node_id, later_s * 1_000) == ""
    deciding.revoke([BRAVO.node_id], later_s * 1_000)
    others = Membership(CHARLIE, None, random.Random(2).randbytes)
    raw = deciding.roster.revocations.revocation(BRAVO.node_id).raw
    assert others.roster.revocations.add_revocation(raw) is not None
    assert renewed.certificate.raw in raw


def test_an_expiring_member_without_peers_gets_advice():
    pipes = Pipes(5)
    bravo = pipes.member(BRAVO)
    bravo.wall_ms += (LIFETIME_S - WARN_BEFORE_S + 60) * 1_000
    pipes.run(200_000)
    (notice,) = [each for each in bravo.seen(Notice) if each.event == "identity.expiring"]
    assert "expires in 6 d" in notice.text
    assert "mycomesh join CODE" in notice.text
