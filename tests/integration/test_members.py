"""Membership commands with real processes and files on disk, as a user types them."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import time

import pytest

from mycomesh.mesh.membership.certificate import LIFETIME_S_DEFAULT
from mycomesh.mesh.membership.enrolment import ticket_encode
from mycomesh.mesh.membership.identity import make_identity
from mycomesh.mesh.node.keystore import Keystore
from tests.integration.machines import ROOT, SQLITE, WAIT_S, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")


def members(one):
    return {member["name"]: member for member in json.loads(one.done("members", "--json"))}


def linked(one):
    return {peer["name"] for peer in one.status().get("peers", ()) if peer["state"] == "linked"}


def test_a_revoked_drone_stays_out_over_restarts(machine):
    alpha, bravo, drone = machine("alpha"), machine("bravo"), machine("drone")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    ticket = alpha.dir / "drone.ticket"
    alpha.done("ticket", "drone", "-o", str(ticket))
    assert stat.S_IMODE(ticket.stat().st_mode) == 0o600
    again = alpha.run("ticket", "drone", "-o", str(ticket))
    assert (again.returncode, "never overwrites a file" in again.stderr) == (2, True)
    assert members(alpha)["drone"]["revoked_s"] is None, "known before its first link"
    drone.done("join", str(ticket))
    bravo.done("init", "--name", "other")  # a machine with an identity keeps it
    refused = bravo.run("join", str(ticket))
    assert (refused.returncode, "belongs to mesh 'other'" in refused.stderr) == (1, True)

    alpha.up()
    drone.up("--port", "0", "--peer", alpha.address)
    eventually(lambda: linked(alpha) == {"drone"}, "alpha and the drone are linked")
    alpha.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, 'before');")
    drone.shows("SELECT x FROM t;", "before\n")
    refused = drone.run("revoke", "alpha")
    assert (refused.returncode, "cannot revoke" in refused.stderr) == (1, True)
    done = alpha.run("revoke", "drone")
    assert (done.returncode, "drone" in done.stderr) == (0, True)
    assert linked(alpha) == set()
    drone.sql("INSERT INTO t VALUES(2, 'captured');")
    alpha.terminate()
    alpha.up("--port", "0", "--peer", drone.address)
    assert members(alpha)["drone"]["revoked_s"] is not None
    unknown = alpha.run("revoke", "drone")
    assert (unknown.returncode, "no member" in unknown.stderr) == (1, True)
    alpha.sql("INSERT INTO t VALUES(3, 'after');")
    assert alpha.run("wait", "--replicas", "2", "--timeout", "3").returncode == 3
    assert linked(alpha) == linked(drone) == set()
    assert alpha.sql("SELECT group_concat(id) FROM t;") == "1,3\n"
    assert drone.sql("SELECT group_concat(id) FROM t;") == "1,2\n"


def test_writes_of_a_stolen_drone_are_dropped(machine):
    alpha, drone = machine("alpha"), machine("drone")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    alpha.done("ticket", "drone", "-o", str(alpha.dir / "drone.ticket"))
    drone.done("join", str(alpha.dir / "drone.ticket"))
    alpha.up()
    drone.up("--port", "0", "--peer", alpha.address)
    eventually(lambda: linked(alpha) == {"drone"}, "alpha and the drone are linked")
    alpha.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, 'good'), (2, 'good');")
    drone.shows("SELECT count(*) FROM t;", "2\n")
    drone.sql("INSERT INTO t VALUES(3, 'bad'), (4, 'bad'); UPDATE t SET x = 'bad' WHERE id = 1;")
    alpha.shows("SELECT count(*) FROM t WHERE x = 'bad';", "3\n")

    refused = drone.run("revoke", "alpha", "--drop-since", "1h")
    assert (refused.returncode, "root key" in refused.stderr) == (1, True)
    for words, said in (
        (("--drop-since", "tomorrow"), "is no time"),
        (("--drop-since", "2999-01-01"), "in the future"),
        (("--confirm", "3"), "go with --drop-since"),
    ):
        wrong = alpha.run("revoke", "drone", *words)
        assert (wrong.returncode, said in wrong.stderr) == (2, True), wrong.stderr
    counted = alpha.run("revoke", "drone", "--drop-since", "1h")
    assert (counted.returncode, "t: 2 row(s) inserted, 1 updated, 0 deleted" in counted.stderr) == (0, True)
    assert "--confirm 3" in counted.stderr
    dry = json.loads(alpha.done("revoke", "drone", "--drop-since", "all", "--dry-run", "--confirm", "3", "--json"))
    assert (dry["changes"], dry["done"]) == (3, False)
    wrong = alpha.run("revoke", "drone", "--drop-since", "1h", "--confirm", "4")
    assert (wrong.returncode, "3 changes would be dropped, not 4" in wrong.stderr) == (1, True)
    assert linked(alpha) == {"drone"}, "nothing was done"

    done = alpha.run("revoke", "drone", "--drop-since", "1h", "--confirm", "3")
    assert (done.returncode, "3 change(s)" in done.stderr) == (0, True), done.stderr
    alpha.shows("SELECT id, x FROM t ORDER BY id;", "1|\n2|good\n")
    assert members(alpha)["drone"]["dropped_since_ms"] is not None
    alpha.shows("SELECT count(*) FROM mycomesh_conflicts WHERE reason LIKE 'its writer was revoked%';", "3\n")
    alpha.terminate()
    alpha.up("--port", "0")
    again = alpha.run("revoke", "drone", "--drop-since", "2h")  # one that is revoked already
    assert (again.returncode, "0 change(s) of drone" in again.stderr) == (0, True), again.stderr


def test_members_that_never_came_are_removed(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init", "--name", "fleet", "--node-name", "alpha")
    for name in ("bravo", "lost", "never"):
        alpha.done("ticket", name, "-o", str(alpha.dir / f"{name}.ticket"))
    bravo.done("join", str(alpha.dir / "bravo.ticket"))
    alpha.up()
    bravo.up("--port", "0", "--peer", alpha.address)
    eventually(lambda: linked(alpha) == {"bravo"}, "alpha and bravo are linked")
    for words, said in (
        (("lost", "bravo"), "bravo is connected; nothing was removed"),
        (("lost", "nobody"), "knows no member 'nobody'"),
        (("alpha",), "cannot revoke itself"),
    ):
        refused = alpha.run("members", "remove", *words)
        assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr
        assert refused.stderr.count("\n") == 1
    refused = alpha.run("members", "remove")
    assert (refused.returncode, "name the members to remove" in refused.stderr) == (2, True)
    assert all(member["revoked_s"] is None for member in members(alpha).values())
    removed = json.loads(alpha.done("members", "remove", "lost", members(alpha)["never"]["node_id"], "--json"))
    assert [each["name"] for each in removed] == ["lost", "never"]
    assert {peer["name"] for peer in alpha.status()["peers"]} == {"bravo"}
    eventually(lambda: {peer["name"] for peer in bravo.status()["peers"]} == {"alpha"}, "bravo knows no ghost either")
    alpha.sql("CREATE TABLE t(x); INSERT INTO t VALUES('after');")
    bravo.shows("SELECT x FROM t;", "after\n")
    assert alpha.run("ticket", "lost", "-o", str(alpha.dir / "lost2.ticket")).returncode == 0, "the name is free again"


def test_a_used_up_code_joins_nobody_and_exits_1(machine):
    alpha, bravo, late = machine("alpha"), machine("bravo"), machine("late")
    alpha.done("init", "--node-name", "alpha")
    alpha.up()
    code = alpha.done("invite").strip()
    bravo.done("join", code, "--node-name", "bravo", "--no-multicast", "--peer", alpha.address)
    refused = late.run("join", code, "--no-multicast", "--peer", alpha.address)
    assert (refused.returncode, "did not accept the code" in refused.stderr) == (1, True)
    assert "join.unanswered" in refused.stderr
    fresh = alpha.done("invite").strip()
    late.done("join", fresh, "--no-multicast", "--peer", alpha.address)


def test_an_expired_member_joins_again_as_the_same_node(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init", "--node-name", "alpha")
    alpha.up()
    for _ in range(2):
        bravo.done(
            "join", alpha.done("invite").strip(), "--node-name", "bravo", "--no-multicast", "--peer", alpha.address
        )
        found = members(bravo)
        assert [member["self"] for member in found.values()] == [True]
    assert list(members(alpha)) == ["alpha", "bravo"], "one node, with its second certificate"


def short_ticket(root, name, left_s):
    """Write a ticket of 30 days that expires in `left_s` seconds; return the file and its expiry (unix seconds)."""
    store = Keystore(root.home)
    founder = store.identity()
    ends_s = int(time.time()) + left_s
    made = make_identity(
        store.root_seed(founder),
        mesh_name=founder.mesh_name,
        node_name=name,
        secret=founder.secret,
        roles=("member",),
        entropy=os.urandom,
        not_before_s=ends_s - LIFETIME_S_DEFAULT,
        lifetime_s=LIFETIME_S_DEFAULT,
    )
    file = root.dir / f"{name}.short"
    file.write_bytes(ticket_encode(made))
    return file, ends_s


def test_an_admin_renews_a_member_without_dropping_links(machine):
    root, boss, bravo, drone = machine("root"), machine("boss"), machine("bravo"), machine("drone")
    root.done("init", "--name", "fleet", "--node-name", "root")  # never started: it only signs tickets
    for one, role in ((boss, "admin"), (bravo, "member")):
        root.done("ticket", one.name, "--role", role, "-o", str(one.dir / "ticket"))
        one.done("join", str(one.dir / "ticket"))
    boss.up()
    bravo.up("--port", "0", "--peer", boss.address)
    ticket, ends_s = short_ticket(root, "drone", 20)
    drone.done("join", str(ticket))
    drone.up("--port", "0", "--peer", boss.address)
    eventually(lambda: linked(drone) == {"boss", "bravo"}, "the drone is linked")
    for one in (drone, bravo, boss):
        eventually(lambda one=one: members(one)["drone"]["not_after_s"] > ends_s, f"{one.name} has the renewal")
    renewed = members(drone)["drone"]
    assert renewed["renewed_by"] == members(boss)["boss"]["node_id"]
    assert renewed["not_after_s"] > ends_s + 29 * 86_400

    eventually(lambda: time.time() > ends_s + 1, "the first certificate has expired")
    drone.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, x); INSERT INTO t VALUES(1, 'still a member');")
    for one in (boss, bravo):
        one.shows("SELECT x FROM t;", "still a member\n")
        assert "link with drone is gone" not in one.output()
    drone.terminate()
    for one in (boss, bravo):
        eventually(lambda one=one: "link with drone is gone" in one.output(), "a dropped link is logged")
    drone.up("--port", "0", "--peer", boss.address)
    eventually(lambda: linked(drone) == {"boss", "bravo"}, "the drone kept its renewed certificate")


def test_an_invitation_states_role_and_tables(machine):
    alpha, bravo = machine("alpha"), machine("bravo")
    alpha.done("init", "--node-name", "alpha")
    alpha.up()
    code = alpha.done(
        "invite", "--role", "read-only", "--write", "Alerts*", "--read", "*", "--uses", "3", "--expires", "1h"
    )
    bravo.done("join", code.strip(), "--node-name", "bravo", "--no-multicast", "--peer", alpha.address)
    found = members(bravo)["bravo"]
    assert found["roles"] == ["read-only"]
    assert found["grants"] == [["alerts*", "rw"], ["*", "r"]]
    alpha.sql("CREATE TABLE alerts(id INTEGER PRIMARY KEY, x); CREATE TABLE logs(id INTEGER PRIMARY KEY, x);")
    bravo.up("--port", "0", "--peer", alpha.address)
    bravo.shows("SELECT name FROM sqlite_master WHERE name IN ('alerts', 'logs') ORDER BY name;", "alerts\nlogs\n")
    bravo.sql("INSERT INTO logs VALUES(1, 'kept here');")
    bravo.sql("INSERT INTO alerts VALUES(1, 'for all');")
    alpha.shows("SELECT x FROM alerts;", "for all\n")
    assert alpha.sql("SELECT count(*) FROM logs;") == "0\n"
    eventually(lambda: "may not write logs" in bravo.output(), "bravo reports the rejected write")
    wrong = alpha.run("invite", "--role", "king")
    assert wrong.returncode == 2
    listed = alpha.done("members")
    assert "alerts*:rw *:r" in listed
    assert "read-only" in listed


def test_a_terminal_shows_a_qr_code_beside_the_code(machine):
    pytest.importorskip("segno")
    alpha = machine("alpha")
    alpha.done("init")
    outside, inside = pty.openpty()
    done = subprocess.run(
        alpha.command("invite"), cwd=ROOT, stdout=subprocess.PIPE, stderr=inside, timeout=WAIT_S, check=True, text=True
    )
    os.close(inside)
    shown = os.read(outside, 65_536).decode()
    os.close(outside)
    assert len(done.stdout.strip().split("-")) == 15
    assert "\u2588" in shown or "\u2580" in shown
    assert done.stdout.strip() in shown
