"""Revocation, epochs and renewal: decrees that hold, hostile ones that do not, and a mesh that lives through them."""

from __future__ import annotations

import dataclasses
import random

import pytest

from mycomesh.mesh import primitives, wire
from mycomesh.mesh.errors import CertificateError, DecodeError
from mycomesh.mesh.events import LinkDown, MembershipChanged, Notice, RevokeMember
from mycomesh.mesh.membership import certificate as certificates
from mycomesh.mesh.membership.decree import Authority
from mycomesh.mesh.membership.identity import Identity, make_identity
from mycomesh.mesh.membership.membership import RENEW_BEFORE_S, WARN_BEFORE_S, Membership
from mycomesh.mesh.membership.renewal import CERTIFICATE_CHAIN_BYTES_MAX, RENEWED_S_MAX, read_certificate, renew
from mycomesh.mesh.membership.revocations import OVERLAP_S, Epoch, Revocation, Revocations
from mycomesh.mesh.membership.roster import Roster
from tests.mesh.pipes import LIFETIME_S, WALL_MS, Pipes, mesh_of

NOW_S = WALL_MS // 1_000
DAY_S = 86_400
SERIAL = bytes(range(16))
(FOUNDER, BRAVO, CHARLIE, *_), ROOT = mesh_of(5)
PUBLIC = FOUNDER.root_public


def member(name, *, roles=("member",), root=ROOT, lifetime_s=LIFETIME_S, at_s=NOW_S, **more) -> Identity:
    return make_identity(
        root,
        mesh_name="test",
        node_name=name,
        secret=FOUNDER.secret,
        roles=roles,
        entropy=random.Random(name).randbytes,
        not_before_s=at_s,
        lifetime_s=lifetime_s,
        **more,
    )


ADMIN = member("admin", roles=("member", "admin"), lifetime_s=365 * DAY_S)


def authority(identity: Identity, root_seed=None) -> Authority:
    made = Authority.of(identity.certificate, PUBLIC, identity.node_seed, root_seed)
    assert made is not None
    return made


def pretended(identity: Identity, certificate: bytes = b"") -> Authority:
    """What a liar signs with: its own key under any certificate, or under the root's name."""
    secret = primitives.signing_pair(identity.node_seed)[1]
    return Authority(PUBLIC, certificate, 2**62, secret)


ROOT_AUTHORITY = authority(FOUNDER, ROOT)
ADMIN_AUTHORITY = authority(ADMIN)


def refused(reason: str):
    class Refused:
        def __enter__(self):
            self.raises = pytest.raises(CertificateError)
            self.caught = self.raises.__enter__()

        def __exit__(self, *error):
            self.raises.__exit__(*error)
            assert self.caught.value.reason == reason
            assert "\n" not in str(self.caught.value)
            return True

    return Refused()


# ---- renewal


def test_an_admin_renews_a_member_and_nothing_but_its_time_changes():
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


def test_a_chain_that_would_not_fit_a_handshake_is_refused_where_it_is_made():
    wide = tuple((f"{index:x}" * 60, "rw") for index in range(10))
    admin = member("wide admin", roles=("admin",), grants=wide)
    with refused("too-long"):
        renew(member("wide", grants=wide).certificate, authority(admin), at_s=NOW_S, serial=SERIAL)
    with refused("too-long"):
        read_certificate(bytes(CERTIFICATE_CHAIN_BYTES_MAX + 1), root_public=PUBLIC)


def test_who_is_no_admin_or_was_itself_renewed_has_no_authority():
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
    """What was renewed by an admin cannot sign in its turn, even if it could call itself an admin."""
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
def test_a_renewal_that_an_admin_may_not_give_is_refused(raw):
    with refused("renewal"):
        read_certificate(raw, root_public=PUBLIC)


def test_a_renewal_cannot_carry_roles_that_the_root_did_not_sign():
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


# ---- revocation


def test_a_revoked_node_is_refused_with_every_certificate_that_it_has():
    roster = Roster(FOUNDER)
    roster.revocations.add_revocation(Revocation.issue(BRAVO.certificate, ROOT_AUTHORITY, at_s=NOW_S).raw)
    later = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 1, serial=SERIAL)
    for raw in (BRAVO.certificate.raw, later.raw):
        with refused("revoked"):
            roster.verify(raw, WALL_MS)
    assert roster.verify(CHARLIE.certificate.raw, WALL_MS) == CHARLIE.certificate


def test_only_the_root_and_admins_revoke_and_admins_only_those_below():
    revocations = Revocations(PUBLIC, FOUNDER.secret)
    assert revocations.add_revocation(Revocation.issue(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S).raw)
    with refused("issuer"):
        Revocation.issue(BRAVO.certificate, pretended(CHARLIE, CHARLIE.certificate.raw), at_s=NOW_S)
    with refused("bad-signature"):
        Revocation.issue(BRAVO.certificate, pretended(CHARLIE), at_s=NOW_S)
    with refused("issuer"):
        Revocation.issue(member("second", roles=("admin",)).certificate, ADMIN_AUTHORITY, at_s=NOW_S)
    with refused("issuer"):  # an admin whose time is over
        Revocation.issue(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 365 * DAY_S)
    assert [each.node_id for each in revocations.effective()] == [BRAVO.node_id]


def test_what_an_admin_decreed_after_its_own_revocation_does_not_count_in_any_order():
    by_admin = Revocation.issue(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 20).raw
    before = Revocation.issue(CHARLIE.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 5).raw
    of_admin = Revocation.issue(ADMIN.certificate, ROOT_AUTHORITY, at_s=NOW_S + 10).raw
    for order in ((by_admin, before, of_admin), (of_admin, before, by_admin), (before, of_admin, by_admin)):
        revocations = Revocations(PUBLIC, FOUNDER.secret)
        for raw in order:
            revocations.add_revocation(raw)
        assert {each.node_id for each in revocations.effective()} == {ADMIN.node_id, CHARLIE.node_id}
        late = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 10, serial=SERIAL)
        with refused("revoked-issuer"):
            revocations.check(late)
        revocations.check(renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 9, serial=SERIAL))


# ---- epochs


def test_the_greatest_epoch_is_in_use_in_whatever_order_they_come_and_a_revoked_admins_is_not():
    of_bravo = Revocation.issue(BRAVO.certificate, ROOT_AUTHORITY, at_s=NOW_S).raw
    of_admin = Revocation.issue(ADMIN.certificate, ROOT_AUTHORITY, at_s=NOW_S + 9).raw
    one = Epoch.issue(1, bytes([1]) * 32, BRAVO.node_id, ROOT_AUTHORITY, at_s=NOW_S)
    two = Epoch.issue(2**31, bytes([2]) * 32, BRAVO.node_id, ADMIN_AUTHORITY, at_s=NOW_S)
    for order in ((one, two), (two, one)):
        revocations = Revocations(PUBLIC, FOUNDER.secret)
        revocations.add_revocation(of_bravo)
        for epoch in order:
            revocations.add_epoch(epoch.raw)
        assert revocations.secret == two.secret
        revocations.add_revocation(of_admin)
        assert revocations.secret == one.secret
        after = revocations.next_epoch(bytes([3]) * 32, ADMIN.node_id, ROOT_AUTHORITY, at_s=NOW_S + 9)
        assert after.number == 2
        assert revocations.add_epoch(after.raw)
        assert revocations.secret == after.secret


def test_a_secret_is_taken_only_with_the_revocation_that_it_follows_and_only_as_it_was_signed():
    revocations = Revocations(PUBLIC, FOUNDER.secret)
    epoch = Epoch.issue(1, bytes(32), BRAVO.node_id, ROOT_AUTHORITY, at_s=NOW_S)
    assert not revocations.add_epoch(epoch.raw)
    assert revocations.secret == FOUNDER.secret
    decree = wire.decode_record(epoch.raw, what="", version=1, kinds=(bytes, bytes), bytes_max=9_999)[0]
    with refused("malformed"):
        Epoch.decode(wire.encode((1, decree, bytes([9]) * 32)), root_public=PUBLIC)
    with refused("issuer"):
        Epoch.issue(1, bytes(32), BRAVO.node_id, pretended(CHARLIE, CHARLIE.certificate.raw), at_s=NOW_S)


def test_the_old_secret_opens_nothing_once_all_have_the_new_one_or_the_overlap_is_over():
    revocations = Revocations(PUBLIC, FOUNDER.secret)
    revocations.add_revocation(Revocation.issue(BRAVO.certificate, ROOT_AUTHORITY, at_s=NOW_S).raw)
    epoch = Epoch.issue(1, bytes(32), BRAVO.node_id, ROOT_AUTHORITY, at_s=NOW_S)
    revocations.add_epoch(epoch.raw)
    assert revocations.secrets(NOW_S, all_current=False) == (epoch.secret, FOUNDER.secret)
    assert revocations.secrets(NOW_S, all_current=True) == (epoch.secret,)
    assert revocations.secrets(NOW_S + OVERLAP_S, all_current=False) == (epoch.secret,)


# ---- a mesh that lives through it


def meshed(*identities, **more):
    pipes = Pipes(3)
    nodes = [pipes.member(each, **(more if index == 0 else {})) for index, each in enumerate(identities)]
    pipes.meet_all()
    pipes.run_until(lambda: all(len(node.links) == len(nodes) - 1 for node in nodes))
    pipes.run(200)
    return pipes, nodes


def tags(*nodes):
    return {node.core.membership.roster.revocations.tag for node in nodes}


def test_revoking_cuts_live_links_at_once_and_the_key_stays_out_for_good():
    pipes, (root, bravo, charlie) = meshed(FOUNDER, BRAVO, CHARLIE, root_seed=ROOT)
    pipes.feed(root, RevokeMember(charlie_id := CHARLIE.node_id))
    pipes.run(100)
    assert charlie_id not in root.links.values()
    assert charlie_id not in bravo.links.values()
    assert charlie.links == {}
    assert "member.revoked" in bravo.notices()
    assert len(tags(root, bravo)) == 1
    assert tags(root) != tags(charlie)
    # All who remain have the new secret: to the revoked one the mesh is silent.
    heard: list[int] = []
    called: list[int] = []

    def tap(sender, receiver, data):
        if receiver is charlie:
            heard.append(len(data))
        if sender is charlie:
            called.append(len(data))
        return data

    pipes.tap = tap
    pipes.run(60_000)
    assert called
    assert set(heard) <= {50}, "first messages of calls to where it lives, which name nobody; never an answer"
    assert charlie.links == {}
    # What it writes does not pass either, whoever forwards it and however it is dated.
    batches = len(root.batches())
    stolen = charlie.core._overlay.publish(b"late", 1, pipes.now_ms)
    assert stolen == []
    from mycomesh.mesh.messages import Batch, signed_part

    signature = CHARLIE.sign(b"batch", signed_part(1, b"late", direct=False))
    results = root.core._overlay.on_message(
        next(iter(root.links)), Batch(charlie_id, 1, False, signature, b"late"), pipes.now_ms, WALL_MS
    )
    assert [type(each) for each in results] == [Notice]
    assert results[0].event == "batch.revoked"
    assert len(root.batches()) == batches


def test_what_was_revoked_outlives_a_restart_and_is_told_to_late_members():
    pipes, (root, bravo, _charlie) = meshed(FOUNDER, BRAVO, CHARLIE, root_seed=ROOT)
    pipes.feed(root, RevokeMember(CHARLIE.node_id))
    pipes.run(100)
    stored = bravo.seen(MembershipChanged)[-1]
    identity = Identity.decode(stored.identity)
    again = Membership(identity, None, random.Random(1).randbytes, stored.membership)
    assert again.roster.revocations.revocation(CHARLIE.node_id) is not None
    assert again.roster.revocations.tag in tags(root)
    assert {each.name for each in again.roster.members()} == {"n0", "n1"}
    with refused("revoked"):
        again.roster.verify(CHARLIE.certificate.raw, WALL_MS)
    for cut in range(0, len(stored.membership), 97):
        with pytest.raises(DecodeError):
            Membership(identity, None, random.Random(1).randbytes, stored.membership[:cut] or b"\0")


def test_a_member_that_was_away_gets_in_with_the_old_secret_and_only_to_fetch_the_new_one():
    late_identity = mesh_of(5)[0][3]
    pipes, (root, _bravo, _charlie, late) = meshed(FOUNDER, BRAVO, CHARLIE, late_identity, root_seed=ROOT)
    pipes.split([late], pipes.nodes[:3])
    pipes.run(30_000)
    assert late.links == {}
    pipes.feed(root, RevokeMember(CHARLIE.node_id))
    pipes.run(5_000)
    assert tags(root) != tags(late)
    ups = len(root.links)
    pipes.heal()
    pipes.run_until(lambda: FOUNDER.node_id in late.links.values() and late_identity.node_id in root.links.values())
    pipes.run(3_000)
    assert tags(root) == tags(late)
    assert len(root.links) == ups + 1
    assert late.core.membership.roster.revocations.revocation(CHARLIE.node_id) is not None
    assert CHARLIE.node_id not in late.links.values()


def test_the_revoked_one_gets_no_secret_while_another_member_is_still_away():
    """In the overlap the old secret begins a handshake, but the certificate ends it, and nothing was handed over."""
    away = mesh_of(5)[0][3]
    pipes, (root, bravo, charlie, gone) = meshed(FOUNDER, BRAVO, CHARLIE, away, root_seed=ROOT)
    pipes.kill(gone, silent=False)
    pipes.run(5_000)
    pipes.feed(root, RevokeMember(CHARLIE.node_id))
    pipes.run(60_000)
    assert len(root.core.membership.secrets(WALL_MS)) == 2
    assert charlie.links == {}
    assert tags(charlie) == {Revocations(PUBLIC, FOUNDER.secret).tag}
    assert len(tags(root, bravo)) == 1


def test_two_halves_that_were_both_given_another_secret_agree_on_one():
    names = [FOUNDER, BRAVO, CHARLIE, ADMIN, member("victim"), member("victim2")]
    pipes, nodes = meshed(*names, root_seed=ROOT)
    root, bravo, charlie, admin, victim, victim2 = nodes
    pipes.split([root, bravo, victim], [charlie, admin, victim2])
    pipes.run(30_000)
    pipes.feed(root, RevokeMember(names[4].node_id))
    pipes.feed(admin, RevokeMember(names[5].node_id))
    pipes.run(2_000)
    assert len(tags(root, charlie)) == 2
    pipes.heal()
    members = (root, bravo, charlie, admin)
    pipes.run_until(
        lambda: len(tags(*members)) == 1 and all(len(each.links) == 3 for each in members), limit_ms=200_000
    )
    for each in members:
        gone = {made.node_id for made in each.core.membership.roster.revocations.effective()}
        assert gone == {names[4].node_id, names[5].node_id}
    assert victim.links == victim2.links == {}


def test_a_member_cannot_revoke_and_says_why():
    _, (root, bravo) = meshed(FOUNDER, BRAVO, root_seed=ROOT)
    assert "cannot revoke" in bravo.core.membership.revocable(FOUNDER.node_id, WALL_MS)
    assert "itself" in root.core.membership.revocable(FOUNDER.node_id, WALL_MS)
    assert "no such member" in root.core.membership.revocable(bytes(16), WALL_MS)
    assert root.core.membership.revocable(BRAVO.node_id, WALL_MS) == ""


@pytest.mark.parametrize("issuer", ["root", "admin"])
def test_a_member_that_is_up_is_renewed_before_it_expires_and_stores_it(issuer):
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
    # Whoever is not there is not renewed: a drone that was lost runs out.
    held = decider.core.membership.roster.get(CHARLIE.node_id)
    assert held is None or held.not_after_s == CHARLIE.certificate.not_after_s
    assert not [action for action in bravo.seen(LinkDown) if "expired" in action.reason]


def test_a_member_that_passes_by_for_a_moment_is_renewed():
    pipes = Pipes(6)
    admin, bravo = pipes.member(ADMIN), pipes.member(BRAVO)
    for node in (admin, bravo):
        node.wall_ms += (LIFETIME_S - RENEW_BEFORE_S + 60) * 1_000
    pipes.run(5_000)
    pipes.meet(bravo, admin)
    pipes.run(100)
    assert bravo.core.membership.roster.identity.certificate.renewed_by == ADMIN.node_id
    assert len(admin.links) == len(bravo.links) == 1


def test_an_admin_that_is_renewed_while_it_runs_signs_with_its_new_certificate():
    short = member("short", roles=("member", "admin"), lifetime_s=3 * DAY_S)
    deciding = Membership(short, None, random.Random(1).randbytes)
    assert deciding.record_certificate(BRAVO.certificate)
    later_s = NOW_S + 10 * DAY_S
    assert "is revoked or has expired" in deciding.revocable(BRAVO.node_id, later_s * 1_000)
    renewed = member("short", roles=("member", "admin"), at_s=NOW_S + 2 * DAY_S, lifetime_s=30 * DAY_S)
    assert renewed.node_id == short.node_id
    assert deciding.record_certificate(renewed.certificate)
    assert deciding.revocable(BRAVO.node_id, later_s * 1_000) == ""
    deciding.revoke(BRAVO.node_id, later_s * 1_000)
    others = Membership(CHARLIE, None, random.Random(2).randbytes)
    raw = deciding.roster.revocations.revocation(BRAVO.node_id).raw
    assert others.roster.revocations.add_revocation(raw) is not None
    assert renewed.certificate.raw in raw


def test_who_is_about_to_expire_and_meets_nobody_hears_what_to_do():
    pipes = Pipes(5)
    bravo = pipes.member(BRAVO)
    bravo.wall_ms += (LIFETIME_S - WARN_BEFORE_S + 60) * 1_000
    pipes.run(200_000)
    (notice,) = [each for each in bravo.seen(Notice) if each.event == "identity.expiring"]
    assert "expires in 6 d" in notice.text
    assert "mycomesh join CODE" in notice.text
