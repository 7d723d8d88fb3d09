"""Purge orders: only the root signs them, every member learns of them, and none is taken back."""

from __future__ import annotations

import pytest

from mycomesh.mesh import wire
from mycomesh.mesh.errors import CertificateError
from mycomesh.mesh.events import PurgeWrites, RevokeMembers
from mycomesh.mesh.membership import purges
from mycomesh.mesh.membership.membership import Membership
from mycomesh.mesh.membership.purges import PURGE_BYTES_MAX, SINCE_MS_MAX, Purge, Purges
from tests.mesh.membership.members import (
    ADMIN_AUTHORITY,
    BRAVO,
    CHARLIE,
    FOUNDER,
    NOW_S,
    PUBLIC,
    ROOT,
    authority,
    member,
    pretended,
    refused,
)
from tests.mesh.pipes import Pipes

DELTA = member("delta")
ROOT_AUTHORITY = authority(FOUNDER, ROOT)


def order(since_ms=5_000, node_id=BRAVO.node_id, at_s=NOW_S):
    return Purge.issue(node_id, since_ms, ROOT_AUTHORITY, at_s=at_s)


def test_only_the_root_orders_a_purge():
    assert Purge.decode(order().raw, root_public=PUBLIC) == order()
    with refused("issuer"):
        Purge.issue(BRAVO.node_id, 5_000, ADMIN_AUTHORITY, at_s=NOW_S)
    for liar in (pretended(CHARLIE), pretended(CHARLIE, CHARLIE.certificate.raw)):
        with pytest.raises(CertificateError, match="sign"):
            Purge.issue(BRAVO.node_id, 5_000, liar, at_s=NOW_S)


def test_no_altered_order_counts():
    raw = order().raw
    for at in range(len(raw)):
        altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        with pytest.raises(CertificateError):
            Purge.decode(altered, root_public=PUBLIC)


def test_orders_of_another_form_are_refused():
    assert order(SINCE_MS_MAX).since_ms == SINCE_MS_MAX
    assert order(0).since == "the beginning"
    for since_ms, node_id in ((SINCE_MS_MAX + 1, BRAVO.node_id), (-1, BRAVO.node_id), (1, BRAVO.node_id[:8])):
        with refused("malformed"):
            order(since_ms, node_id)

    def signed(body):
        return ROOT_AUTHORITY.decree(b"purge", body, NOW_S)

    for body in (b"", wire.encode((2, BRAVO.node_id, 1)), wire.encode((1, BRAVO.node_id))):
        with refused("malformed"):
            Purge.decode(signed(body), root_public=PUBLIC)
    room = PURGE_BYTES_MAX - len(signed(bytes(300))) + 300
    for size, reason in ((room - 1, "malformed"), (room, "malformed"), (room + 1, "too-long")):
        raw = signed(bytes(size))
        assert len(raw) == PURGE_BYTES_MAX + size - room
        with refused(reason):
            Purge.decode(raw, root_public=PUBLIC)


def test_the_order_that_reaches_further_back_counts():
    known = Purges(PUBLIC)
    assert known.add(order(5_000).raw) is not None
    assert known.add(order(5_000).raw) is None
    assert known.add(order(6_000, at_s=NOW_S + 1).raw) is None
    assert known.add(order(4_000).raw) is not None
    assert known.orders([]) == ()
    assert known.orders([BRAVO.node_id]) == ((BRAVO.node_id, 4_000),)


def test_so_many_orders_are_kept(monkeypatch):
    monkeypatch.setattr(purges, "PURGES_MAX", 2)
    known = Purges(PUBLIC)
    news = [known.add(order(node_id=bytes([at]) * 16).raw) is not None for at in range(3)]
    assert news == [True, True, False]
    assert known.add(order(1, bytes(16)).raw) is not None  # one that is known may reach further back


def test_orders_are_stored_and_read_by_this_version_alone():
    membership = Membership(FOUNDER, ROOT, bytes)
    before = membership.snapshot().membership
    assert before[1] == 1  # as an older version writes it
    membership.roster.purges.add(order().raw)
    stored = membership.snapshot().membership
    assert stored[1] == 2
    again = Membership(FOUNDER, ROOT, bytes, stored)
    assert again.roster.purges.encoded() == (order().raw,)
    assert again.snapshot().membership == stored
    assert Membership(FOUNDER, ROOT, bytes, before).snapshot().membership == before


def test_every_member_learns_of_an_order_once():
    pipes = Pipes(3)
    root, bravo, charlie, delta = (
        pipes.member(each, **({"root_seed": ROOT} if each is FOUNDER else {}))
        for each in (FOUNDER, BRAVO, CHARLIE, DELTA)
    )
    pipes.meet_all()
    pipes.run_until(lambda: all(len(node.links) == 3 for node in (root, bravo, charlie, delta)))
    for node in (root, bravo, charlie):
        pipes.cut(delta, node)
    pipes.run(10_000)
    assert root.core.membership.purgeable() == ""
    assert "root key" in bravo.core.membership.purgeable()
    pipes.feed(root, RevokeMembers((CHARLIE.node_id,)))
    pipes.feed(root, PurgeWrites(CHARLIE.node_id, 5_000))
    pipes.run(1_000)
    assert bravo.core.roster.purge_orders() == ((CHARLIE.node_id, 5_000),)
    assert charlie.core.roster.purge_orders() == ()  # it is not linked any more
    pipes.heal()
    pipes.run(60_000)
    for node in (root, bravo, delta):
        assert node.core.roster.purge_orders() == ((CHARLIE.node_id, 5_000),)
        assert node.notices().count("purge.ordered") == 1
    pipes.feed(root, PurgeWrites(CHARLIE.node_id, 9_000))  # drops nothing more
    pipes.run(1_000)
    assert bravo.notices().count("purge.ordered") == 1
