"""Views of a replica's status: the accounts by origin have the names of members."""

from __future__ import annotations

from mycomesh.mesh.node.snapshot import account_views, keep_warning
from mycomesh.mesh.node.status import PeerView, TableView
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


def test_names_in_keep_that_cut_nothing_are_told():
    tables = [TableView(name, 0, "", 0, 0, "", areas_by=by) for name, by in (("Telemetry", "drone"), ("alerts", ""))]
    assert keep_warning(("telemetry",), tables) == ""
    assert keep_warning(("telemetry", "alerts"), tables).startswith(
        "[keep] names alerts, which is not cut into areas, so all"
    )
    assert keep_warning(("telemtry",), tables).startswith("[keep] names telemtry, and this file has no such table yet")
