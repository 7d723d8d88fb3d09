"""`mycomesh why`: a row's writers by name, what lost, as text and as JSON, with a node and without."""

from __future__ import annotations

import argparse
import json

import pytest

from mycomesh.tools import exits
from mycomesh.tools.cli import main
from mycomesh.tools.commands import why
from mycomesh.tools.render import tell
from tests.sync.peers import Peer, converge


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file with a row of two writers and a conflict; its members are ground and drone."""
    one, two = (Peer(tmp_path / f"{number}.db", number) for number in range(2))
    one.sql("CREATE TABLE missions(id INTEGER PRIMARY KEY, status, by); INSERT INTO missions VALUES(1, 'new', 'me')")
    one.drain()
    converge([one, two])
    one.sql("UPDATE missions SET status = 'lost\x1b[2J'")
    one.drain()
    two.wall_ms += 2_000
    two.sql("UPDATE missions SET status = 'done'")
    two.drain()
    converge([one, two])
    names = {peer.node_id.hex()[:16]: name for peer, name in ((one, "ground"), (two, "drone"))}
    monkeypatch.setattr(why, "member_names", lambda _home: names)
    held = next(peer for peer in (one, two) if peer.recorded("mycomesh_conflicts"))
    path = held.path
    one.close()
    two.close()
    return path


def test_row_is_explained_by_cell_with_names_and_times(file, capsys):
    assert main(["why", "missions", "1", "--file", str(file)]) == exits.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("missions 1: shown, inserted 2027-01-15 08:00:00.000Z by ground")
    cells = [line.split() for line in lines[2:5]]
    assert [(cell[0], cell[1], cell[-1]) for cell in cells] == [
        ("by", '"me"', "ground"),
        ("id", "1", "ground"),
        ("status", '"done"', "drone"),
    ]
    assert lines[6] == "writes that lost to these:"
    assert "ground" in lines[8]
    assert "\x1b" not in lines[8]


def test_programs_get_the_same_as_json(file, capsys):
    assert main(["why", "missions", "1", "--file", str(file), "--json"]) == exits.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["table"], found["key"], found["state"], found["pending"]) == ("missions", "1", "shown", False)
    assert {cell["column"]: cell["by"] for cell in found["cells"]} == {
        "id": "ground",
        "by": "ground",
        "status": "drone",
    }
    (loss,) = found["losses"]
    assert (loss["lost_by"], loss["won_by"], loss["lost"]["status"]) == ("ground", "drone", "lost\x1b[2J")
    assert int(found["cells"][0]["hlc"]) > 1 << 53


def test_without_node_and_file_it_says_what_to_name(tmp_path, capsys):
    assert main(["--home", str(tmp_path), "why", "t", "1"]) == exits.NO_NODE
    error = capsys.readouterr().err
    assert "--file FILE.db" in error
    assert len(error.splitlines()) == 1


def test_row_that_nobody_knows_is_one_line_and_1(file, capsys):
    assert main(["why", "missions", "9", "--file", str(file)]) == exits.FAILED
    captured = capsys.readouterr()
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)


@pytest.mark.parametrize("words", [["why", "e\x1b]0;owned\x07", "1"], ["why", "missions", "\x1b[31m"]])
def test_no_name_steers_the_terminal(file, capsys, words):
    main([*words, "--file", str(file)])
    said = capsys.readouterr()
    assert said.out + said.err
    assert "\x1b" not in said.out + said.err


def test_what_a_command_reports_cannot_steer_the_terminal(capsys):
    tell(argparse.Namespace(json=False), {}, "restored in e\x1b]0;owned\x07", "next")
    assert capsys.readouterr().err == "restored in e?]0;owned?\nnext\n"
