"""`parked`, `log`, `completion` and `help`: from a running node's file, and from the commands' own arguments."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import time

import pytest

from mycomesh.mesh.node.errors import NoNodeError
from mycomesh.mesh.node.home import Home, HomeLock
from mycomesh.tools import cli, exits
from mycomesh.tools.cli import COMMANDS, main
from mycomesh.tools.commands import log, parked, rights


@pytest.fixture
def file(tmp_path, monkeypatch):
    path = tmp_path / "a.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE mycomesh_parked(table_name, row_key, reason, content, since, id, row)")
    db.execute("INSERT INTO mycomesh_parked VALUES('t', '7', 'NOT NULL\x1b[2J', '{\"v\": null}', '2026-01-01', 1, 7)")
    monkeypatch.setattr(parked, "ask", lambda _home, _what: {"file": str(path)})
    return db


def test_parked_tells_key_reason_and_content(file, capsys):
    assert main(["parked"]) == exits.DONE
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "t", "7", "NOT", "NULL?[2J", '{"v":', "null}", "2026-01-01"
    ]  # fmt: skip
    assert main(["parked", "--json"]) == exits.DONE
    assert json.loads(capsys.readouterr().out)[0]["content"] == {"v": None}


def test_parked_tells_of_children_whose_parent_is_gone(file, capsys):
    file.executescript(
        "CREATE TABLE missions(id INTEGER PRIMARY KEY);"
        "CREATE TABLE steps(id INTEGER PRIMARY KEY, mission REFERENCES missions(id)); INSERT INTO steps VALUES(4, 9)"
    )
    assert main(["parked", "--json"]) == exits.DONE
    told = json.loads(capsys.readouterr().out)[1]
    assert (told["table"], told["key"], told["reason"]) == (
        "steps", "4", "FOREIGN KEY: missions has no such row; this row stays in its table"
    )  # fmt: skip
    file.execute("CREATE TABLE broken(m REFERENCES steps(mission)); ")
    file.execute("INSERT INTO broken VALUES(1)")
    assert main(["parked"]) == exits.DONE
    assert "not checked" in capsys.readouterr().out


def test_parked_of_file_without_table_is_one_line(file, capsys):
    file.execute("DROP TABLE mycomesh_parked")
    assert main(["parked"]) == exits.FAILED
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_log_prints_the_important_and_on_request_everything(monkeypatch, capsys):
    notices = [
        {"event": "conn.closed", "level": "debug", "text": "noise"},
        {"event": "link.up", "level": "info", "text": "link\x1b with b"},
        {"event": "x", "level": "warning", "text": "clock"},
    ]
    asked = []
    monkeypatch.setattr(log, "watch", lambda _home, past, pipe: asked.append(past) or iter(notices))
    assert main(["log"]) == exits.DONE
    assert [line[10:] for line in capsys.readouterr().out.splitlines()] == ["link? with b", "warning: clock  [x]"]
    assert main(["log", "--json", "--verbose", "--limit", "2"]) == exits.DONE
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == notices[:2]
    assert main(["log", "--json", "--past", "7"]) == exits.DONE
    assert asked == [log.PAST_DEFAULT, 0, 7]


def test_a_log_line_has_the_time_of_its_event(monkeypatch, capsys):
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        notices = [{"time": "2026-01-02T03:04:05.678Z", "level": "info", "event": "x", "text": "said"}]
        monkeypatch.setattr(log, "watch", lambda _home, past, pipe: iter(notices))
        assert main(["log"]) == exits.DONE
        assert capsys.readouterr().out == "05:04:05  said\n"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_knows_every_command_and_option(shell, capsys):
    assert main(["completion", shell]) == exits.DONE
    script = capsys.readouterr().out
    assert all(command.name in script for command in COMMANDS)
    assert "replicas" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [("pee", ["peers"]), ("wait --rep", ["--replicas"]), ("--home x policy keep", []), ("completion fi", ["fish"])],
)
def test_bash_completes_commands(words, found, capsys):
    main(["completion", "bash"])
    typed = ["mycomesh", *words.split()]
    array = " ".join(f"'{word}'" for word in typed)
    script = f"{capsys.readouterr().out}\nCOMP_WORDS=({array}); COMP_CWORD={len(typed) - 1}; _mycomesh\n"
    script += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    expected = ["keep-both"] if "keep" in words else found
    assert done.stdout.split() == expected


def test_a_request_waits_for_a_node_that_starts(tmp_path, monkeypatch, capsys):
    """Between the question and the files the node may have locked the home; it answers a moment later."""
    assert main(["--home", str(tmp_path), "init"]) == exits.DONE
    home = Home.locate(tmp_path, {})
    lock = HomeLock.acquire(home)
    monkeypatch.setattr(rights, "TRY_S", 0.02)
    asked = []

    def ask(_home, what, **_words):
        asked.append(what)
        if len(asked) < 4:
            raise NoNodeError("no node")
        return {"code": "CODE-1"}

    monkeypatch.setattr(rights, "ask", ask)
    assert main(["--home", str(tmp_path), "invite"]) == exits.DONE
    assert "CODE-1" in capsys.readouterr().out
    monkeypatch.setattr(rights, "TRIES", 3)
    asked[:] = []
    assert main(["--home", str(tmp_path), "invite"]) == exits.FAILED
    assert "[node.running]" in capsys.readouterr().err
    lock.release()
    asked[:] = []
    assert main(["--home", str(tmp_path), "invite"]) == exits.DONE, "no node runs: the files answer"
    assert asked == ["invite"]


def test_help_of_a_command_is_its_own_help(capsys):
    assert main(["help", "wait"]) == exits.DONE
    assert capsys.readouterr().out == cli.parser_of(cli.command_named("wait")).format_help()
    assert main(["help"]) == exits.DONE
    assert all(command.name in capsys.readouterr().out for command in COMMANDS[:1])
    assert main(["help", "frobnicate"]) == exits.USAGE


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("stauts", "did you mean status?"), ("peer", "did you mean peers?"), ("frobnicate", "'mycomesh help' lists them")],
)
def test_misspelled_command_is_answered_with_one_that_was_meant(typed, meant, capsys):
    assert main([typed]) == exits.USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"mycomesh: no command '{typed}'; {meant}")
    assert len(said.splitlines()) == 1
