"""The command line: exit codes, one line for every mistake, codes alone on stdout, quick commands that stay quick."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import mesh
from mycomesh.mesh.membership.enrolment import JoinCode
from mycomesh.mesh.node.home import FileLock, Home, HomeLock
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.tools import exits
from mycomesh.tools.cli import COMMANDS, main
from mycomesh.tools.commands.invite import duration_s
from mycomesh.tools.render import duration, signed_ms

ROOT = Path(__file__).parents[2]
HEAVY = ("asyncio", "apsw", "rich", "uvloop", "zeroconf", "nacl", "cbor2", "sqlite3")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run one command in this process with a home of its own; return (exit code, stdout, stderr)."""
    monkeypatch.delenv("MYCOMESH_HOME", raising=False)

    def run(*words, home=True):
        try:
            code = main([*(("--home", str(tmp_path / "h")) if home else ()), *words])
        except SystemExit as left:
            code = left.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def store(tmp_path):
    return Keystore(Home.locate(tmp_path / "h", {}))


def one_line(text):
    return text.endswith("\n") and len(text.splitlines()) == 1


def test_init_makes_mesh_and_says_what_to_do_next(run, store):
    code, out, err = run("init", "--name", "fleet", "--node-name", "alpha")
    assert (code, out) == (exits.DONE, "")
    assert "created mesh 'fleet'; this node is 'alpha'" in err
    assert "mycomesh up FILE.db" in err
    assert (store.identity().mesh_name, store.identity().name) == ("fleet", "alpha")


def test_a_second_init_changes_nothing(run, store):
    run("init", "--name", "fleet")
    first = store.identity()
    code, out, err = run("init", "--name", "other")
    assert (code, out) == (exits.FAILED, "")
    assert one_line(err)
    assert "belongs to mesh 'fleet'" in err
    assert store.identity() == first


@pytest.mark.parametrize("option", ["--name", "--node-name"])
@pytest.mark.parametrize("name", ["", "x" * 500, "a\nb", " a"])
def test_name_that_cannot_be_used_is_usage_error(run, store, option, name):
    code, out, err = run("init", option, name)
    if name == "" and option == "--node-name":
        assert code == exits.DONE  # empty means "not given": the host's name
        return
    assert (code, out) == (exits.USAGE, "")
    assert one_line(err)
    assert store.identity() is None


def test_invite_prints_the_code_alone_and_explains_beside_it(run, store):
    run("init")
    code, out, err = run("invite", "--expires", "2h", "--uses", "3")
    assert code == exits.DONE
    assert one_line(out)
    assert JoinCode.parse(out.strip()).mesh_id == store.identity().mesh_id
    assert "valid for 2 h and 3 machine(s)" in err
    assert "mycomesh up FILE.db" in err
    assert store.invitations()[0].uses_left == 3


def test_invite_without_a_mesh_says_what_to_run(run):
    code, out, err = run("invite")
    assert (code, out) == (exits.FAILED, "")
    assert one_line(err)
    assert "mycomesh init" in err


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("30d", 2_592_000)])
def test_durations_are_read_as_people_write_them(text, seconds):
    assert duration_s(text) == seconds


def test_offsets_have_no_minus_zero():
    assert [signed_ms(value) for value in (None, -0.4, 0.0, 1234.5, -12.6)] == [
        "-",
        "+0 ms",
        "+0 ms",
        "+1,234 ms",
        "-13 ms",
    ]


def test_spans_are_told_as_people_say_them():
    spans = (0, 999, 1000, 9_949, 10_000, 119_000, 120_000, 7_200_000, 172_800_000)
    assert [duration(span) for span in spans] == [
        "0 ms",
        "999 ms",
        "1.0 s",
        "9.9 s",
        "10 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]


@pytest.mark.parametrize("words", [("--expires", "0h"), ("--expires", "31d"), ("--expires", "1"), ("--uses", "0")])
def test_an_invitation_beyond_its_limits_is_a_usage_error(run, words):
    run("init")
    code, out, err = run("invite", *words)
    assert (code, out) == (exits.USAGE, "")
    assert one_line(err)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("top",),
        ("peers",),
        ("tables",),
        ("down",),
        ("wait", "--replicas", "2"),
        ("conflicts",),
        ("restore", "1"),
        ("counter", "t", "n"),
        ("policy", "t"),
    ],
)
def test_a_command_without_a_node_exits_69_with_advice(run, words):
    code, out, err = run(*words)
    assert (code, out) == (exits.NO_NODE, "")
    assert one_line(err)
    assert "mycomesh up FILE.db" in err


def test_command_that_changes_home_in_use_names_process(run, store):
    lock = HomeLock.acquire(store.home)
    try:
        code, _, err = run("init")
    finally:
        lock.release()
    assert code == exits.FAILED
    assert one_line(err)
    assert f"process {os.getpid()}" in err


@pytest.mark.parametrize(
    "words",
    [
        ("frobnicate",),
        ("--frob",),
        ("status", "extra"),
        ("status", "--frob"),
        ("wait",),
        ("wait", "--replicas", "x"),
        ("restore",),
        ("restore", "0"),
        ("restore", "file.db"),
        ("conflicts", "--limit", "0"),
        ("counter", "t"),
        ("policy",),
        ("policy", "t", "both"),
        ("migrate",),
        ("explain", "no.code"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(run, words):
    code, out, err = run(*words)
    assert (code, out) == (exits.USAGE, "")
    assert one_line(err)
    assert err.endswith(" [usage]\n")


def test_message_that_names_command_has_no_second_hint(run):
    _, _, err = run("restore", "abc")
    assert "'mycomesh conflicts' lists ids and numbers [usage]" in err
    _, _, err = run("restore", "monday.db")
    assert "to restore a backup: 'mycomesh backup monday.db --recipe" in err
    assert "--help" not in err


def test_simulation_that_cannot_run_is_one_line_with_code(run):
    code, out, err = run("simulate", "absent.toml")
    assert (code, out) == (exits.USAGE, "")
    assert one_line(err)
    assert err.endswith(" [scenario.wrong]\n")


def test_no_command_shows_the_commands(run):
    code, out, err = run(home=False)
    assert (code, out) == (exits.USAGE, "")
    assert all(command.name in err for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_helps(run, command):
    code, out, err = run(command.name, "--help")
    assert (code, err) == (exits.DONE, "")
    assert out.startswith(f"usage: mycomesh {command.name}")
    assert "exit codes: 0 done" in out


def test_the_version_is_told(run):
    code, out, _ = run("--version", home=False)
    assert code == exits.DONE
    assert out == f"mycomesh {mesh.__version__}\n"


def test_the_home_may_stand_after_the_command(run, tmp_path):
    assert run("init", "--home", str(tmp_path / "other"), home=False)[0] == exits.DONE
    assert (tmp_path / "other" / "state" / "identity").exists()


@pytest.mark.parametrize("words", [["--version"], ["status"], ["peers"], ["metrics"], ["down"]])
def test_a_quick_command_loads_nothing_heavy(tmp_path, words):
    script = (
        "import sys, json\nfrom tools.cli import main\n"
        f"code = main({['--home', str(tmp_path), *words]!r})\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_unwritable_output_is_one_line_and_1(unbuffered):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m tools explain >/dev/full"],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert done.returncode == exits.FAILED
    assert one_line(done.stderr)
    assert "cannot write the output: No space left on device" in done.stderr


def test_a_closed_output_is_nothing_to_stumble_over():
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m tools explain >&-"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (exits.DONE, "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_standard_output_cannot_encode_are_escaped(tmp_path, encoding):
    for name in ("a.db", "b.db"):
        sqlite3.connect(tmp_path / name).execute('CREATE TABLE "t\xe4\u540d"(v)').connection.close()
    words = [sys.executable, "-m", "tools", "verify", tmp_path / "a.db", tmp_path / "b.db"]
    environ = {**os.environ, "PYTHONIOENCODING": encoding}
    plain, value = (
        subprocess.run([*words, *more], cwd=ROOT, env=environ, capture_output=True, check=True).stdout
        for more in ([], ["--json"])
    )
    assert plain.decode(encoding).startswith("t\xe4\u540d: equal" if encoding == "utf-8" else "t")
    assert plain.decode(encoding).endswith(": equal, 0 row(s)\n")
    assert json.loads(value.decode(encoding))["tables"][0]["table"] == "t\xe4\u540d"


def test_a_file_in_an_unwritable_directory_is_one_line(run, tmp_path):
    run("init")
    place = tmp_path / "read only"
    place.mkdir()
    sqlite3.connect(place / "a.db").execute("CREATE TABLE t(v)").connection.close()
    place.chmod(0o555)
    bound = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # root may do anything
    done = subprocess.run(
        [*bound, sys.executable, "-m", "tools", "--home", tmp_path / "h", "up", place / "a.db", "--loopback"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == exits.FAILED
    assert one_line(done.stderr)
    assert f"cannot write in {place} (Permission denied); make the file and its directory writable" in done.stderr


@pytest.mark.parametrize("words", [["up"], ["why"], ["backup"], ["verify", "a.db"], ["service", "show"]])
def test_file_name_that_is_not_utf8_is_one_line(run, tmp_path, words):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.db")
    code, _, error = run(*words, name)
    assert code == exits.USAGE
    assert one_line(error)
    assert "caf\\xe9.db' is not UTF-8; rename the file" in error


def test_a_directory_that_is_not_utf8_is_one_line(run, tmp_path, monkeypatch):
    run("init")
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    directory.mkdir()
    monkeypatch.chdir(directory)
    for words in (["up", "a.db"], ["verify", "a.db", "b.db"]):
        Path("a.db").touch()
        Path("b.db").touch()
        code, _, error = run(*words)
        assert code in (exits.FAILED, exits.USAGE)
        assert one_line(error)
        assert "its path is not UTF-8, and SQLite takes no other" in error


def test_ticket_that_is_not_there_is_no_wrong_code(run, store):
    code, out, err = run("join", "absent.ticket")
    assert (code, out) == (exits.USAGE, "")
    assert one_line(err)
    assert "cannot read absent.ticket: No such file or directory" in err
    assert store.identity() is None


def test_two_tickets_of_one_name_are_not_made(run, tmp_path):
    run("init", "--node-name", "alpha")
    assert run("ticket", "bravo", "-o", str(tmp_path / "first.ticket"))[0] == exits.DONE
    for name in ("alpha", "bravo"):
        code, _, err = run("ticket", name, "-o", str(tmp_path / "second.ticket"))
        assert code == exits.FAILED
        assert one_line(err)
        assert f"already has a member {name!r}" in err
    assert not (tmp_path / "second.ticket").exists()


def test_a_reader_that_leaves_early_causes_no_complaint(tmp_path):
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m tools --help | true"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


@pytest.fixture
def two_files(tmp_path):
    paths = [tmp_path / "a.db", tmp_path / "b.db"]
    for number, path in enumerate(paths):
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript("CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'one'), (2, 'two')")
        db.execute("INSERT INTO t VALUES(?, 'own')", (10 + number,))
        db.close()
    return paths


def test_verify_tells_which_rows_of_two_files_differ(run, two_files):
    first, second = two_files
    sqlite3.connect(second, isolation_level=None).execute("UPDATE t SET v = 'TWO' WHERE id = 2")
    code, out, err = run("verify", str(first), str(second))
    assert (code, err) == (exits.FAILED, "")
    assert out.splitlines() == [
        f"t: 1 row(s) only in {first}, 1 row(s) only in {second}, 1 row(s) differ",
        "  ~ id=2: v: 'two' -> 'TWO'",
        "  - id=10, v='own'",
        "  + id=11, v='own'",
    ]
    code, out, _ = run("verify", str(first), str(second), "--limit", "1")
    assert out.splitlines()[1:] == ["  ~ id=2: v: 'two' -> 'TWO'", "  and 2 more"]
    code, out, _ = run("verify", "--json", str(first), str(second))
    answer = json.loads(out)
    assert (code, answer["equal"]) == (exits.FAILED, False)
    (table,) = answer["tables"]
    assert (table["rows"], table["only_first"], table["only_second"], table["differing"]) == ([3, 3], 1, 1, 1)
    assert table["shown"][0] == {
        "where": "both",
        "first": {"id": "2", "v": "'two'"},
        "second": {"id": "2", "v": "'TWO'"},
    }


def test_verify_of_equal_files_is_done(run, two_files):
    first, _ = two_files
    assert run("verify", str(first), str(first)) == (exits.DONE, "t: equal, 3 row(s)\n", "")
    code, out, _ = run("verify", str(first), str(first), "--json")
    assert (code, json.loads(out)["equal"]) == (exits.DONE, True)


@pytest.mark.parametrize(
    "words", [["one.db"], ["one.db", "two.db", "three.db"], ["--limit", "x"], ["none.db", "none.db"]]
)
def test_verify_of_other_than_two_files_is_usage_error(run, words):
    code, out, err = run("verify", *words)
    assert (code, out) == (exits.USAGE, "")
    assert one_line(err)


def test_forget_cleans_a_file_but_not_a_served_one(run, tmp_path):
    path = tmp_path / "fleet.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE drones(id INTEGER PRIMARY KEY)")
    lock = FileLock.acquire(path)
    code, out, err = run("forget", str(path))
    assert (code, out, one_line(err)) == (exits.FAILED, "", True)
    assert "already served" in err
    lock.release()
    code, out, err = run("forget", str(path))
    assert (code, out, one_line(err)) == (exits.FAILED, "", True)
    assert "nothing of mycomesh is in it" in err
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mycomesh_meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID")
    code, out, err = run("forget", str(path))
    assert (code, out, one_line(err)) == (exits.DONE, "", True)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("drones",)]


def test_ticket_of_same_mesh_takes_members_place(run, tmp_path):
    run("init", "--node-name", "alpha")
    tickets = [tmp_path / f"{name}.ticket" for name in ("bravo", "charlie")]
    for ticket in tickets:
        assert run("ticket", ticket.stem, "-o", str(ticket))[0] == exits.DONE
    assert run("join", str(tickets[0]))[0] == exits.FAILED, "the home has the root key"
    other = ("--home", str(tmp_path / "other"))
    assert run(*other, "join", str(tickets[0]), home=False)[0] == exits.DONE
    code, _, told = run(*other, "join", str(tickets[1]), home=False)
    assert code == exits.DONE
    assert "this machine was 'bravo' before" in told
    assert Keystore(Home.locate(tmp_path / "other", {})).identity().name == "charlie"
