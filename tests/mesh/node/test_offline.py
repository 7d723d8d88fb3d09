"""Decisions where no node runs: in the file itself, and only in one that is not served."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest

from mycomesh.mesh.membership.certificate import rights_fault
from mycomesh.mesh.membership.enrolment import Invitation
from mycomesh.mesh.node.home import FileLock, Home
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.sync.replica import Replica, ReplicaConfig
from mycomesh.sync.storage.horizon import RetainRule
from mycomesh.tools import exits
from mycomesh.tools.cli import main


@pytest.fixture
def home(tmp_path):
    assert main(["--home", str(tmp_path / "home"), "init", "--name", "test"]) == exits.DONE
    return tmp_path / "home"


def served(home, path, only=("t",)):
    identity = Keystore(Home.locate(Path(home), {})).identity()
    return Replica.open(
        str(path), node_id=identity.node_id, mesh_key=identity.digest_key, entropy=os.urandom,
        config=ReplicaConfig(only=only),
    )  # fmt: skip


@pytest.fixture
def file(home, tmp_path):
    path = tmp_path / "a.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER); CREATE TABLE other(v)")
    replica = served(home, path)
    while replica.drain(1)[1]:
        pass
    replica.close()
    db.execute("INSERT INTO t VALUES(1, 5)")
    db.close()
    return path


def run(home, file, *words):
    return main(["--home", str(home), *words, "--file", str(file)])


def test_counter_and_policy_are_decided_and_stamped_in_file(home, file, capsys):
    assert run(home, file, "counter", "t", "n") == exits.DONE
    assert run(home, file, "policy", "t", "keep-both") == exits.DONE
    assert run(home, file, "policy", "t") == exits.DONE
    assert capsys.readouterr().out.strip() == "keep-both"
    replica = served(home, file)
    assert not replica.outbox.has_unstamped()
    assert sorted(replica.tables) == ["mycomesh_schema", "t"]  # what was not replicated before is not now
    assert replica.tables["t"].columns.counters == {"n"}
    replica.close()


def test_own_ids_are_decided_and_shown_in_file(home, file, capsys):
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("CREATE TABLE crew(id INTEGER PRIMARY KEY AUTOINCREMENT, name)")
    served(home, file, only=()).close()  # registers it
    assert run(home, file, "policy", "t", "own-ids") == exits.FAILED
    assert "not AUTOINCREMENT" in capsys.readouterr().err
    assert run(home, file, "policy", "crew", "own-ids") == exits.DONE
    assert "crew is same-row, own-ids here" in capsys.readouterr().err
    (sequence,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'crew'").fetchone()
    assert run(home, file, "policy", "crew") == exits.DONE
    policy, room = capsys.readouterr().out.splitlines()
    assert policy == "same-row, own-ids"
    assert room.startswith(f"the next id here is {sequence + 1:,}, and ")
    assert run(home, file, "policy", "crew", "--json") == exits.DONE
    shown = json.loads(capsys.readouterr().out)
    assert shown.pop("ids_left") >= 1_024
    assert shown == {"table": "crew", "policy": "same-row", "ids": "own-ids", "next_id": sequence + 1, "areas_by": ""}
    assert run(home, file, "policy", "crew", "shared-ids") == exits.DONE
    assert run(home, file, "policy", "crew") == exits.DONE
    assert capsys.readouterr().out == "same-row\n"


def test_conflicts_are_listed_and_restored(home, file, capsys):
    replica = served(home, file)
    replica.drain(1)
    table = replica.tables["t"]
    db = sqlite3.connect(file, isolation_level=None)
    db.execute(
        "INSERT INTO mycomesh_conflicts(seq, seen_at, table_name, row_key, lost, lost_at, lost_site, won_at, won_site,"
        " reason, lost_hlc, won, row)"
        " VALUES(1, '2100-01-01T00:00:00+00:00', 't', '1', '{\"n\": 9}', '', '', '', '', 'test', 1, '{}', 1)"
    )
    assert table.rows.read(1) == {"id": 1, "n": 5}
    replica.close()
    assert run(home, file, "conflicts", "--json") == exits.DONE
    assert [each["lost"] for each in json.loads(capsys.readouterr().out)] == [{"n": 9}]
    assert run(home, file, "restore", "1") == exits.DONE
    assert db.execute("SELECT n FROM t").fetchall() == [(9,)]
    assert run(home, file, "restore", "2") == exits.FAILED
    assert len(capsys.readouterr().err.splitlines()) == 2  # what was restored, and the one line of the refusal


def test_a_served_file_and_an_unowned_one_are_refused(home, file, tmp_path, capsys):
    lock = FileLock.acquire(file)
    assert run(home, file, "counter", "t", "n") == exits.FAILED
    lock.release()
    assert "served by another node" in capsys.readouterr().err
    sqlite3.connect(tmp_path / "plain.db").execute("CREATE TABLE t(v)")
    assert run(home, tmp_path / "plain.db", "policy", "t") == exits.FAILED
    (tmp_path / "text.db").write_text("no database " * 100)
    assert run(home, tmp_path / "text.db", "conflicts") == exits.FAILED
    assert run(home, tmp_path / "none.db", "conflicts") == exits.FAILED
    assert [line[line.rindex("[") :] for line in capsys.readouterr().err.splitlines()] == [
        "[database.foreign]",
        "[database.unusable]",
        "[home.unusable]",
    ]


def test_parked_rows_are_read_from_the_file_too(home, file, tmp_path, capsys):
    db = sqlite3.connect(file, isolation_level=None)
    db.execute(
        "INSERT INTO mycomesh_parked(id, row, table_name, row_key, reason, content, since)"
        " VALUES(1, 7, 't', '7', 'CHECK', '{}', '')"
    )
    assert run(home, file, "parked", "--json") == exits.DONE
    assert [each["key"] for each in json.loads(capsys.readouterr().out)] == ["7"]
    sqlite3.connect(tmp_path / "plain.db").execute("CREATE TABLE t(v)")
    assert run(home, tmp_path / "plain.db", "parked") == exits.FAILED
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_migration_runs_in_file_and_waits_for_next_node(home, file, tmp_path, capsys):
    script = tmp_path / "rename.sql"
    script.write_text("-- names\nALTER TABLE t RENAME COLUMN n TO amount;\nALTER TABLE t RENAME TO stock;\n")
    assert run(home, file, "migrate", "--dry-run", str(script)) == exits.DONE
    assert capsys.readouterr().out == "renames t.n to amount\nrenames t to stock\n"
    db = sqlite3.connect(file)
    assert db.execute("SELECT n FROM t").fetchall() == [(5,)]
    assert run(home, file, "migrate", str(script), "--json") == exits.DONE
    assert json.loads(capsys.readouterr().out)["done"] == ["renames t.n to amount", "renames t to stock"]
    assert db.execute("SELECT amount FROM stock").fetchall() == [(5,)]
    replica = served(home, file)
    assert not replica.outbox.has_unstamped()
    assert replica.tables["t"].spec.name == "stock"
    replica.close()


def test_a_failing_script_is_one_line_with_its_position(home, file, tmp_path, capsys):
    script = tmp_path / "bad.sql"
    script.write_text("ALTER TABLE t ADD COLUMN more;\nALTER TABLE t DROP COLUMN missing;\n")
    assert run(home, file, "migrate", str(script)) == exits.FAILED
    assert (
        capsys.readouterr().err
        == 'mycomesh: line 2: no such column: "missing"; nothing was changed [migration.refused]\n'
    )
    assert run(home, file, "migrate", str(tmp_path / "none.sql")) == exits.FAILED
    script.write_bytes(b"SELECT '\xff'")
    assert run(home, file, "migrate", str(script)) == exits.FAILED
    script.write_text("SELECT 1;" * 40_000)
    assert run(home, file, "migrate", str(script)) == exits.FAILED
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert sqlite3.connect(file).execute("SELECT name FROM pragma_table_info('t')").fetchall() == [("id",), ("n",)]


def test_a_file_of_a_limited_member_decides_nothing(home, tmp_path, capsys):
    ticket, limited, path = tmp_path / "reader.ticket", tmp_path / "limited", tmp_path / "b.db"
    words = ["ticket", "reader", "-o", str(ticket), "--write", "t", "--read", "*"]
    assert main(["--home", str(home), *words]) == exits.DONE
    assert main(["--home", str(limited), "join", str(ticket)]) == exits.DONE
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, n INTEGER)")
    served(limited, path).close()
    capsys.readouterr()
    for request in (["counter", "t", "n"], ["policy", "t", "own-ids"], ["retain", "t", "7d"]):
        assert run(limited, path, *request) == exits.FAILED
        assert "no right to write mycomesh_schema" in capsys.readouterr().err


@pytest.mark.parametrize("request_", [["ticket", "drone", "-o"], ["invite", "--expires"]], ids=["ticket", "code"])
@pytest.mark.parametrize("option", ["--write", "--read"])
@pytest.mark.parametrize("pattern", ["telemetry[7]:rw", "telemetry[7", "telemetry:r"])
def test_patterns_of_no_table_get_one_line(home, tmp_path, capsys, request_, option, pattern):
    ticket = tmp_path / "drone.ticket"
    value = str(ticket) if request_[0] == "ticket" else "1h"
    capsys.readouterr()
    assert main(["--home", str(home), *request_, value, option, pattern]) == exits.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert "no member can have these rights" in line
    assert f"write {'telemetry' if pattern == 'telemetry:r' else 'telemetry[7]'!r}" in line
    assert not ticket.exists()


def test_old_grants_of_no_table_are_read(home, tmp_path):
    """Earlier versions gave such patterns; the members that have them stay members, and get their certificates renewed."""
    keystore = Keystore(Home.locate(home, {}))
    entropy, wall_ms = os.urandom, 1_800_000_000_000
    grants = (("telemetry[7]:rw", "rw"), ("telemetry[7", "rw"), ("*", "r"))
    _, invitation = keystore.invite(
        expires_s=60, uses=1, wall_ms=wall_ms, entropy=entropy, roles=("member",), grants=grants
    )
    assert Invitation.decode(invitation.encode()).grants == grants
    assert rights_fault(("member",), grants) == ""


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("off", "BY", "n"), "off takes no BY and no column: retain t off"),
        (("off", "n"), "off takes no BY and no column: retain t off"),
        (("7d", "BY"), "after the age comes BY and a column: retain t 7d BY at"),
        (("7d", "n"), "after the age comes BY and a column: retain t 7d BY at"),
    ],
)
def test_retain_says_what_may_follow_the_age(home, file, capsys, words, text):
    assert main(["--home", str(home), "retain", "--file", str(file), "t", *words]) == exits.USAGE
    assert text in capsys.readouterr().err


def test_a_rule_whose_column_was_dropped_is_shown(home, file, tmp_path, capsys):
    with sqlite3.connect(file) as db:
        db.execute('ALTER TABLE t ADD COLUMN "At" INTEGER')
    script = tmp_path / "drop.sql"
    script.write_text("ALTER TABLE t DROP COLUMN at")
    assert run(home, file, "retain", "t", "7d", "BY", "at") == exits.DONE
    for words in (["--dry-run"], []):
        capsys.readouterr()
        assert run(home, file, "migrate", str(script), *words) == exits.DONE
        drops, ends = capsys.readouterr().out.splitlines()
        assert drops == "drops t.at and its values"
        assert ends.startswith("ends that rows of t go with time: they went by At; 'mycomesh retain t 7d BY COLUMN'")
    for words in (["t"], []):
        assert run(home, file, "retain", *words) == exits.DONE
        _, row, note = capsys.readouterr().out.splitlines()
        assert row.split()[:3] == ["t", "7d", "at"]
        assert note.startswith("t: its rows stay: they go by the time in 'at', which this file lacks; ")
    assert run(home, file, "retain", "t", "--json") == exits.DONE
    (shown,) = json.loads(capsys.readouterr().out)["tables"]
    assert (shown["age_ms"], shown["by"]) == (7 * 86_400_000, "at")
    assert shown["note"] == "its rows stay: they go by the time in 'at', which this file lacks"
    assert run(home, file, "retain", "t", "off") == exits.DONE
    capsys.readouterr()
    assert run(home, file, "retain", "t") == exits.DONE
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_note_goes_with_the_rule(home, file):
    replica = served(home, file)
    replica.retention.decide(replica.tables["t"], RetainRule(86_400_000, "gone"), 1)
    replica.drain(1)
    assert [table.spec.name for table in replica.retention.ruled()] == ["t"]
    assert "'gone', which this file lacks" in replica.registry.notes.by_name()["t"]
    replica.retention.decide(replica.tables["t"], None, 2)
    replica.drain(2)
    assert replica.retention.ruled() == []
    assert "t" not in replica.registry.notes.by_name()
    replica.close()
