"""Views of a replica's status: the accounts by origin have the names of members."""

from __future__ import annotations

from mycomesh.mesh.node.snapshot import account_views
from mycomesh.mesh.node.status import PeerView
from mycomesh.sync.admin.status import ReplicaStatus
from mycomesh.sync.storage.accounts import Account


def test_accounts_of_members_have_name_and_whole_id():
    peer = PeerView("ab" * 16, "drone", (), "linked", "", None, None, None, None, 0, 0)
    accounts = (("", Account(1, 2, 3, 4), "a"), ("ab" * 8, Account(5, 6, 7, 8), "b"), ("cd" * 8, Account(9), "c"))
    status = ReplicaStatus("f.db", "", 0, (), 0, None, accounts=accounts)
    others, member, stranger = account_views(status, [peer])
    assert (others.node_id, others.name, others.rows, others.parked) == ("", "", 1, 4)
    assert (member.node_id, member.name, member.bytes, member.conflicts, member.since) == (
        "ab" * 16,
        "drone",
        6,
        7,
        "b",
    )
    assert (stranger.node_id, stranger.name, stranger.rows) == ("cd" * 8, "", 9)
