"""Every command has examples that it takes, and what `--json` prints has the shape that its help tells, node or none."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sqlite3
from pathlib import Path

import pytest

from mycomesh.tools import exits
from mycomesh.tools.cli import COMMANDS, command_named, main, parser_of
from mycomesh.tools.manual import MANUAL
from tests.integration.machines import WAIT_S, Machine, eventually

CODE = "-".join(["AAAA"] * 14)


def fault(value, shape, where="it"):
    """Where a value is not of a shape, "" if it is."""
    if isinstance(shape, str):
        kind = shape.removesuffix("?")
        if value is None:
            return "" if shape.endswith("?") else f"{where} is null"
        types = {"text": str, "int": int, "number": (int, float), "bool": bool, "any": object}[kind]
        fine = isinstance(value, types) and (kind in ("bool", "any") or not isinstance(value, bool))
        return "" if fine else f"{where} is {value!r}, no {kind}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} is no list"
        return next(filter(None, (fault(each, shape[0], f"{where}[{at}]") for at, each in enumerate(value))), "")
    if not isinstance(value, dict):
        return f"{where} is no object"
    if "*" not in shape and value.keys() != shape.keys():
        return f"{where} has the keys {sorted(value)}, not {sorted(shape)}"
    return next(
        filter(None, (fault(each, shape.get(key, shape.get("*")), f"{where}.{key}") for key, each in value.items())), ""
    )


def said(home, *words):
    """Run a command in this process; (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(["--home", str(home), *words])
        except SystemExit as left:
            code = left.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("manual")


@pytest.fixture(scope="module")
def pair(place):
    """Two linked nodes on this machine, with a table, a conflict and a parked row in the first one's file."""
    first, second = (Machine(place, name) for name in ("first", "second"))
    first.done("init")
    first.up("--port", "0")
    code = first.done("invite").strip()
    second.done("join", code, "--no-multicast", "--peer", first.address)
    second.up("--port", "0", "--peer", first.address)
    first.sql("CREATE TABLE t(id INTEGER PRIMARY KEY, v UNIQUE, n INTEGER); INSERT INTO t VALUES(1, 'a', 1)")
    second.shows("SELECT v FROM t", "a\n")
    second.done("isolate")
    first.sql("UPDATE t SET v = 'b'; INSERT INTO t VALUES(2, 'same', 0)")
    second.sql("UPDATE t SET v = 'c'; INSERT INTO t VALUES(3, 'same', 0)")
    second.done("rejoin")
    eventually(lambda: first.sql("SELECT count(*) FROM mycomesh_conflicts") == "1\n", "the conflict is kept")
    eventually(lambda: first.sql("SELECT count(*) FROM mycomesh_parked") == "1\n", "a row waits")
    yield first, second
    for machine in (first, second):
        if machine.process is not None and machine.process.poll() is None:
            machine.terminate()


def test_every_command_has_page_and_every_page_command():
    assert set(MANUAL) == {command.name for command in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_command_shows_examples_that_it_takes(command):
    page = MANUAL[command.name]
    shown = parser_of(command).format_help()
    assert page.examples
    for line, what in page.examples:
        assert what
        assert line in shown
        words = shlex.split(line.replace("CODE", CODE).split(" > ")[0])
        assert words[0] == "mycomesh"
        words = words[1:] if words[1] != "--home" else words[3:]
        assert words[0] == command.name
        parser_of(command_named(words[0])).parse_args(words[1:])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_command_has_json_or_says_why_not(command):
    page = MANUAL[command.name]
    options = {option for action in parser_of(command)._actions for option in action.option_strings}
    assert ("--json" in options) == (page.shape is not None)
    assert bool(page.why_not) == (page.shape is None)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_unknown_option_is_usage_error_in_one_line(command, tmp_path):
    code, out, err = said(tmp_path, command.name, "--frobnicate", *("x" for _ in range(9)))
    assert (code, out, len(err.splitlines())) == (exits.USAGE, "", 1)
    assert not list(tmp_path.iterdir())


NEEDS_NODE = [
    ("status",), ("top",), ("peers",), ("tables",), ("verify",), ("wait", "--replicas", "2"), ("isolate",), ("rejoin",),
    ("scrub",), ("accept-drop", "t"), ("keep-rows", "t"),
    ("parked",), ("log",), ("backup", "copy.db"), ("down",), ("why", "t", "1"),
    ("tail", "t"), ("cursors",), ("dead",),
]  # fmt: skip


@pytest.mark.parametrize("words", NEEDS_NODE, ids=lambda words: words[0])
def test_a_command_that_lacks_a_node_exits_69(words, tmp_path):
    code, out, err = said(tmp_path, *words)
    assert (code, out, len(err.splitlines())) == (exits.NO_NODE, "", 1)
    assert err.rstrip().endswith("[node.none]")


RUNS = [
    ("status",), ("peers",), ("tables",), ("verify",), ("members",), ("conflicts",), ("parked",), ("doctor",), ("top",),
    ("explain",), ("help",), ("wait", "--replicas", "1"), ("policy", "t"), ("counter", "t", "n"), ("why", "t", "1"),
    ("restore", "1"), ("scrub",), ("invite",), ("isolate",), ("rejoin",), ("cursors",), ("dead",),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", RUNS, ids=lambda words: words[0])
def test_json_of_running_node_has_shape_of_manual(pair, words):
    code, out, _ = said(pair[0].home.config, *words, "--json")
    # The pair may still be healing: then 3 is the answer.
    assert code in ((exits.DONE, exits.NOT_CONVERGED) if words[0] == "verify" else (exits.DONE,))
    assert not fault(json.loads(out), MANUAL[words[0]].shape)
    assert len(out.splitlines()) == 1


def test_json_with_rows_has_been_checked_by_hand(pair):
    for words in (("conflicts",), ("parked",), ("peers",), ("tables",), ("members",)):
        assert json.loads(said(pair[0].home.config, *words, "--json")[1]), words
    found = json.loads(said(pair[0].home.config, "why", "t", "1", "--json")[1])
    assert found["cells"]
    assert {cell["by"] for cell in found["cells"]} <= {member["name"] for member in json.loads(
        said(pair[0].home.config, "members", "--json")[1])}  # fmt: skip


def test_json_of_what_changes_members_and_files(pair, place):
    home = pair[0].home.config
    ticket, copy = place / "late.ticket", place / "copy.db"
    for words in (
        ("ticket", "late", "-o", str(ticket)),
        ("revoke", "late"),
        ("ticket", "ghost", "-o", str(place / "ghost.ticket")),
        ("members", "remove", "ghost"),
        ("backup", str(copy)),
    ):
        code, out, err = said(home, *words, "--json")
        assert (code, err) == (exits.DONE, "")
        assert not fault(json.loads(out), MANUAL[words[0]].shape)
    other = place / "other"
    for words in (("init", "--name", "x"), ("forget", str(copy))):
        code, out, err = said(other, *words, "--json")
        assert (code, err) == (exits.DONE, "")
        assert not fault(json.loads(out), MANUAL[words[0]].shape)
    code, out, _ = said(place / "third", "join", str(ticket), "--json")
    assert (code, fault(json.loads(out), MANUAL["join"].shape)) == (exits.DONE, "")
    code, out, _ = said(other, "verify", str(copy), str(copy), "--json", "--limit", "0")
    assert (code, fault(json.loads(out), MANUAL["verify"].shape_of_files)) == (exits.DONE, "")


def test_log_and_end_of_node_as_json(pair):
    _, second = pair
    home = second.home.config
    done = second.run("down", "--json")
    assert done.returncode == exits.DONE, done.stderr
    answer = json.loads(done.stdout)
    assert not fault(answer, MANUAL["down"].shape)
    assert answer["stopped"]
    second.process.wait(WAIT_S)
    assert said(home, "down", "--json")[0] == exits.NO_NODE
    with contextlib.closing(sqlite3.connect(Path(answer["file"]))) as db:
        assert db.execute("SELECT phase FROM mycomesh_status").fetchall() == [("stopped",)]


def test_json_of_a_simulation(place):
    code, out, _ = said(place, "simulate", "two-nodes", "--duration", "2", "--json")
    assert (code, fault(json.loads(out.splitlines()[-1]), MANUAL["simulate"].shape)) == (exits.DONE, "")
