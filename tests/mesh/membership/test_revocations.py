"""Revocations: who may give them, that links end at once, and how the mesh changes its secret."""

from __future__ import annotations

import random

import pytest

from mycomesh.mesh import wire
from mycomesh.mesh.errors import DecodeError
from mycomesh.mesh.events import Dial, MembershipChanged, Notice, RevokeMembers
from mycomesh.mesh.membership.identity import Identity
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.membership.renewal import renew
from mycomesh.mesh.membership.revocations import OVERLAP_S, Epoch, Revocation, Revocations
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
from tests.mesh.pipes import WALL_MS, Pipes, mesh_of

ROOT_AUTHORITY = authority(FOUNDER, ROOT)


def test_every_certificate_of_a_revoked_node_is_refused():
    roster = Roster(FOUNDER)
    roster.revocations.add_revocation(Revocation.issue(BRAVO.certificate, ROOT_AUTHORITY, at_s=NOW_S).raw)
    later = renew(BRAVO.certificate, ADMIN_AUTHORITY, at_s=NOW_S + 1, serial=SERIAL)
    for raw in (BRAVO.certificate.raw, later.raw):
        with refused("revoked"):
            roster.verify(raw, WALL_MS)
    assert roster.verify(CHARLIE.certificate.raw, WALL_MS) == CHARLIE.certificate


def test_root_and_admins_revoke_only_those_below_them():
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


def test_decrees_after_an_admins_own_revocation_do_not_count():
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


def test_the_greatest_valid_epoch_is_used_in_any_order():
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


def test_a_secret_needs_the_signed_revocation_that_it_follows():
    revocations = Revocations(PUBLIC, FOUNDER.secret)
    epoch = Epoch.issue(1, bytes(32), BRAVO.node_id, ROOT_AUTHORITY, at_s=NOW_S)
    assert not revocations.add_epoch(epoch.raw)
    assert revocations.secret == FOUNDER.secret
    decree = wire.decode_record(epoch.raw, what="", version=1, kinds=(bytes, bytes), bytes_max=9_999)[0]
    with refused("malformed"):
        Epoch.decode(wire.encode((1, decree, bytes([9]) * 32)), root_public=PUBLIC)
    with refused("issuer"):
        Epoch.issue(1, bytes(32), BRAVO.node_id, pretended(CHARLIE, CHARLIE.certificate.raw), at_s=NOW_S)


def test_the_old_secret_ends_with_its_overlap():
    revocations = Revocations(PUBLIC, FOUNDER.secret)
    revocations.add_revocation(Revocation.issue(BRAVO.certificate, ROOT_AUTHORITY, at_s=NOW_S).raw)
    epoch = Epoch.issue(1, bytes(32), BRAVO.node_id, ROOT_AUTHORITY, at_s=NOW_S)
    revocations.add_epoch(epoch.raw)
    assert revocations.secrets(NOW_S, all_current=False) == (epoch.secret, FOUNDER.secret)
    assert revocations.secrets(NOW_S, all_current=True) == (epoch.secret,)
    assert revocations.secrets(NOW_S + OVERLAP_S, all_current=False) == (epoch.secret,)


def meshed(*identities, **more):
    pipes = Pipes(3)
    nodes = [pipes.member(each, **(more if index == 0 else {})) for index, each in enumerate(identities)]
    pipes.meet_all()
    pipes.run_until(lambda: all(len(node.links) == len(nodes) - 1 for node in nodes))
    pipes.run(200)
    return pipes, nodes


def tags(*nodes):
    return {node.core.membership.roster.revocations.tag for node in nodes}


def test_revoking_cuts_live_links_and_excludes_the_key():
    pipes, (root, bravo, charlie) = meshed(FOUNDER, BRAVO, CHARLIE, root_seed=ROOT)
    pipes.feed(root, RevokeMembers(((charlie_id := CHARLIE.node_id),)))
    pipes.run(100)
    assert charlie_id not in root.links.values()
    assert charlie_id not in bravo.links.values()
    assert charlie.links == {}
    assert "member.revoked" in bravo.notices()
    assert len(tags(root, bravo)) == 1
    assert tags(root) != tags(charlie)
    assert "identity.revoked" in charlie.notices()
    assert charlie.core.membership.is_revoked
    assert charlie.core.membership.hint.startswith("this node was revoked")
    assert not root.core.membership.is_revoked
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
    # Its writes do not pass either, with any forwarder and any date.
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


def test_a_node_revoked_while_away_reports_that_nobody_answers():
    pipes, (root, bravo, charlie) = meshed(FOUNDER, BRAVO, CHARLIE, root_seed=ROOT)
    for node in (root, bravo):
        pipes.cut(charlie, node)
    pipes.run(10_000)
    pipes.feed(root, RevokeMembers((CHARLIE.node_id,)))
    pipes.run(1_000)
    assert charlie.core.membership.hint == ""
    pipes.heal()
    pipes.run(240_000)
    assert not charlie.core.membership.is_revoked
    assert charlie.core.membership.hint.startswith("members take this node's connections and refuse it")
    assert root.core.membership.hint == bravo.core.membership.hint == ""


def test_a_refused_node_dials_ever_more_rarely():
    pipes, (root, bravo, charlie) = meshed(FOUNDER, BRAVO, CHARLIE, root_seed=ROOT)
    pipes.split([root], [bravo, charlie])
    pipes.run(10_000)
    pipes.feed(root, RevokeMembers((CHARLIE.node_id,)))  # bravo is away, so the old secret stays valid for it
    pipes.heal()
    pipes.split([root, charlie], [bravo])
    begin_ms = pipes.now_ms
    pipes.run(300_000)
    dials = [at for at, action in charlie.log if isinstance(action, Dial) and at > begin_ms]
    assert len(dials) < 40
    assert charlie.core.membership.hint.startswith("members take this node's connections and refuse it")
    assert root.core.membership.hint == ""


def test_revocations_survive_a_restart_and_reach_late_members():
    pipes, (root, bravo, _charlie) = meshed(FOUNDER, BRAVO, CHARLIE, root_seed=ROOT)
    pipes.feed(root, RevokeMembers((CHARLIE.node_id,)))
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


def test_members_removed_together_cost_one_secret():
    identities = mesh_of(5)[0]
    pipes, (root, bravo, *gone) = meshed(FOUNDER, BRAVO, CHARLIE, *identities[3:5], root_seed=ROOT)
    pipes.feed(root, RevokeMembers(tuple(node.core.membership.roster.own_id for node in gone)))
    pipes.run(100)
    for node in (root, bravo):
        revocations = node.core.membership.roster.revocations
        assert len(revocations.effective()) == 3
        assert revocations.epoch.number == 1
        assert len(node.links) == 1
    assert len(tags(root, bravo)) == 1
    assert not tags(root) & tags(*gone)


def test_member_with_the_old_secret_may_fetch_the_new():
    late_identity = mesh_of(5)[0][3]
    pipes, (root, _bravo, _charlie, late) = meshed(FOUNDER, BRAVO, CHARLIE, late_identity, root_seed=ROOT)
    pipes.split([late], pipes.nodes[:3])
    pipes.run(30_000)
    assert late.links == {}
    pipes.feed(root, RevokeMembers((CHARLIE.node_id,)))
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


def test_a_revoked_node_gets_no_secret_during_the_overlap():
    """In the overlap the old secret begins a handshake, but the certificate ends it, and nothing was handed over."""
    away = mesh_of(5)[0][3]
    pipes, (root, bravo, charlie, gone) = meshed(FOUNDER, BRAVO, CHARLIE, away, root_seed=ROOT)
    pipes.kill(gone, silent=False)
    pipes.run(5_000)
    pipes.feed(root, RevokeMembers((CHARLIE.node_id,)))
    pipes.run(60_000)
    assert len(root.core.membership.secrets(WALL_MS)) == 2
    assert charlie.links == {}
    assert tags(charlie) == {Revocations(PUBLIC, FOUNDER.secret).tag}
    assert len(tags(root, bravo)) == 1


def test_two_halves_with_different_new_secrets_agree_on_one():
    names = [FOUNDER, BRAVO, CHARLIE, ADMIN, member("victim"), member("victim2")]
    pipes, nodes = meshed(*names, root_seed=ROOT)
    root, bravo, charlie, admin, victim, victim2 = nodes
    pipes.split([root, bravo, victim], [charlie, admin, victim2])
    pipes.run(30_000)
    pipes.feed(root, RevokeMembers((names[4].node_id,)))
    pipes.feed(admin, RevokeMembers((names[5].node_id,)))
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
