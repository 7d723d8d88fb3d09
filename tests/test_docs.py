"""Every command in the docs is run as it is written, in its order, on the machine that its block names."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.simulations.workload import Rates
from mycomesh.tools.cli import COMMANDS, main
from tests.integration.machines import MYCOMESH, ROOT, SQLITE, WAIT_S, eventually

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```sh(?: ([a-z0-9]+))?\n(.*?)^```", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^```sql ([a-z0-9]+) ([\w.]+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Lines of a page assume that other machines' tickets are at hand; a code is the one that was printed last.
TASKS = (ROOT / "docs" / "TASKS.md").read_text()
SECTIONS = {
    title.strip(): body for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TASKS, re.DOTALL | re.MULTILINE)
}
# The example scenario of simulations.md.
SCENARIO = re.compile(r"`(my\.toml)`.*?^```toml\n(.*?)^```", re.DOTALL | re.MULTILINE)
RUNNABLE = [title for title, body in SECTIONS.items() if BLOCK.search(body)]


class Place:
    """The machines of one section: a directory, a home and maybe a running node each."""

    def __init__(self, root):
        self.root = root
        self.code = ""
        self.nodes = {}

    def machine(self, name):
        folder = self.root / name
        if not folder.exists():
            folder.mkdir()
            (folder / "home").mkdir()
            # Several machines on one: they find each other by loopback, as the README tells.
            (folder / "home" / "config.toml").write_text("loopback = true\nport = 0\n")
        return folder

    def type(self, name, line):
        """Return what a person types; the comment of a line is what it prints."""
        command, _, expected = line.partition(" # ")
        words = shlex.split(command)
        folder = self.machine(name)
        if words[0] == "sqlite3":
            out = subprocess.run(
                [SQLITE, "-cmd", ".timeout 5000", *words[1:]],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=True,
            ).stdout
        elif words[:2] == ["mycomesh", "up"]:
            out = self.up(name, folder, words[2:])
        else:
            assert words[0] == "mycomesh", line
            out = self.command(folder, words[1:])
        if expected:
            assert out.strip() == expected, line
        if words[:2] == ["mycomesh", "invite"]:
            self.code = out.strip()

    def command(self, folder, words):
        words = [self.code if word == "CODE" else word for word in words]
        for word in words:
            if word.endswith(".ticket") and words[0] == "join":  # carried there
                found = next(self.root.glob(f"*/{word}"))
                shutil.copy(found, folder / word)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(["--home", str(folder / "home"), *words])
            except SystemExit as left:
                code = left.code
        assert code == 0, f"{words}: {err.getvalue()}"
        return out.getvalue()

    def up(self, name, folder, words):
        with (folder / "log.txt").open("wb") as log:
            self.nodes[name] = subprocess.Popen(
                [*MYCOMESH, "--home", str(folder / "home"), "up", *words],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )
        home = Home.locate(folder / "home", {})

        def serves():
            assert self.nodes[name].poll() is None, (folder / "log.txt").read_text()
            with contextlib.suppress(NodeError):
                status = ask(home, "status")
                known = [other for other in self.nodes if other != name and self.nodes[other].poll() is None]
                linked = sum(peer["state"] == "linked" for peer in status["peers"])
                return status["phase"] == "serving" and linked >= len(known)
            return False

        eventually(serves, lambda: f"{name} serves and is linked; {(folder / 'log.txt').read_text()}")
        return ""

    def end(self):
        for node in self.nodes.values():
            if node.poll() is None:
                node.kill()
                node.wait(WAIT_S)


@pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")
@pytest.mark.parametrize("title", RUNNABLE)
def test_the_commands_of_a_task_do_what_it_says(title, tmp_path, multicast):
    place = Place(tmp_path)
    try:
        for name, file, text in FILE.findall(SECTIONS[title]):
            (place.machine(name) / file).write_text(text)
        for name, block in BLOCK.findall(SECTIONS[title]):
            assert name, f"a block of {title!r} names no machine"
            for line in block.strip().splitlines():
                place.type(name, line)
    finally:
        place.end()


def test_there_are_the_tasks_that_a_newcomer_has():
    assert set(RUNNABLE) >= {
        "A fleet with tickets",
        "An application that already has a database",
        "Watch it",
        "Simulate it",
        "Resolve a conflict",
    }
    assert "Promises" in SECTIONS
    assert (ROOT / "docs" / "LIMITS.md").read_text().startswith("# Limits\n\nAutomatic ids collide")


def test_blocks_of_commands_stand_only_where_test_runs_them():
    elsewhere = [
        page.name for page in PAGES if BLOCK.search(page.read_text()) and page.name not in ("README.md", "TASKS.md")
    ]
    assert not elsewhere


def test_the_example_scenario_runs_and_holds(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "simulations.md").read_text()
    name, text = SCENARIO.findall(page)[0]
    (tmp_path / name).write_text(text)
    line = re.findall(rf"`mycomesh (simulate {re.escape(name)} [^`]*)`", page)[0]
    monkeypatch.chdir(tmp_path)
    assert main([*line.split(), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["converged"], result["violations"]) == (True, [])


def test_the_scenario_page_lists_every_rate_with_its_default():
    page = (ROOT / "docs" / "simulations.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    assert {name: float(value) for name, value in listed.items()} == {
        field.name: field.default for field in fields(Rates)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_documented_command_exists_with_its_options(page):
    from mycomesh.tools.cli import command_named, parser_of

    if page.name == "PROTOCOL.md":
        return  # `mycomesh ...` are names in keys and signatures there
    text = page.read_text()
    names = {command.name for command in COMMANDS}
    for words in re.findall(r"`mycomesh ([^`]*)`", text):
        found = [word for word in words.split() if not word.startswith("[")]
        while found and found[0] in ("--home", "--version"):  # before the command
            found = found[2:] if found[0] == "--home" else found[1:]
        if not found or not found[0].islower():
            continue
        assert found[0] in names, f"{page.name}: mycomesh {words}"
        known = {option for action in parser_of(command_named(found[0]))._actions for option in action.option_strings}
        options = {word.split("=")[0] for word in found[1:] if word.startswith("--")}
        assert options <= known, f"{page.name}: mycomesh {words}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_docs_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target
        assert not Path(target).is_absolute()
