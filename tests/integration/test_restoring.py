"""The printed steps that restore a backup, run as they are printed, with real processes."""

from __future__ import annotations

import os
import shlex
import subprocess

import pytest

from mycomesh.mesh.node.home import Home
from tests.integration.machines import MYCOMESH, ROOT, SQLITE, WAIT_S, Machine, eventually

pytestmark = pytest.mark.skipif(SQLITE is None, reason="needs the stock sqlite3 shell (apt-get install sqlite3)")
MADE = "CREATE TABLE t(id TEXT PRIMARY KEY, v, w AS (v || '!')); CREATE TABLE log(line);"
ROWS = "SELECT group_concat(id || v || w) FROM (SELECT * FROM t ORDER BY id); SELECT count(*) FROM log;"


def steps(recipe, number):
    """Return the commands of one part of a recipe."""
    part = recipe.partition(f"\n# {number}. ")[2].partition(f"\n# {number + 1}. ")[0]
    return [line for line in part.splitlines()[1:] if line and not line.startswith("#")]


def typed(one, lines, **codes):
    """Type lines in a machine's shell; `up` goes on in the background."""
    command = one.dir / "mycomesh"
    command.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))}\nexec {shlex.join(map(str, MYCOMESH))} "$@"\n')
    command.chmod(0o755)
    environ = os.environ | {"MYCOMESH_HOME": str(one.home.config), "PATH": f"{one.dir}:{os.environ['PATH']}"}
    for line in lines:
        words = line.replace("CODE", codes.get("code", "CODE"))
        if words.startswith("mycomesh up "):
            assert shlex.split(words)[2:] == [str(one.file)]
            one.up("--port", "0", *codes.get("more", ()))
            continue
        if words.startswith("mycomesh join "):
            words += " --no-multicast " + " ".join(codes["more"])
        done = subprocess.run(
            ["sh", "-c", words],
            env=environ,
            cwd=one.dir,
            capture_output=True,
            text=True,
            timeout=WAIT_S * 2,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
    return one


@pytest.fixture
def saved(pair):
    """Two members, and a backup of the first from before later writes on both."""
    alpha, bravo = pair
    alpha.sql(MADE + "INSERT INTO t(id, v) VALUES('a', 1), ('b', 2), ('c', 3); INSERT INTO log VALUES('x'), ('x');")
    bravo.shows(ROWS, "a11!,b22!,c33!\n2\n")
    backup = alpha.dir / "mon'day.db"
    said = alpha.run("backup", str(backup)).stderr
    assert "to restore it: mycomesh backup" in said
    recipe = alpha.done(*shlex.split(said.splitlines()[-1].partition("mycomesh ")[2]))
    assert "# It was made by 'mycomesh backup'." in recipe
    alpha.sql("UPDATE t SET v = 20 WHERE id = 'b'; DELETE FROM t WHERE id = 'c'; INSERT INTO t(id, v) VALUES('d', 4);")
    bravo.shows(ROWS, "a11!,b2020!,d44!\n2\n")
    return alpha, bravo, recipe


def test_a_lost_file_comes_back_with_later_writes(saved):
    alpha, bravo, recipe = saved
    more = ("--peer", bravo.address)
    alpha.process, running = None, alpha.process
    typed(alpha, steps(recipe, 1), more=more)
    assert running.wait(WAIT_S) == 0
    alpha.shows(ROWS, "a11!,b2020!,d44!\n2\n")
    assert (alpha.dir / "fleet.db.before" / "fleet.db").exists()
    alpha.sql("INSERT INTO t(id, v) VALUES('e', 5);")
    bravo.shows(ROWS, "a11!,b2020!,d44!,e55!\n2\n")


def test_a_lost_machine_is_replaced_by_a_new_member(saved, machine, tmp_path):
    alpha, bravo, recipe = saved
    bravo.kill()
    code = alpha.done("invite").strip()
    charlie = machine("charlie")
    recipe = recipe.replace(str(alpha.file), str(charlie.file))
    typed(charlie, steps(recipe, 2), code=code, more=("--peer", alpha.address))
    charlie.shows(ROWS, "a11!,b2020!,d44!\n2\n")
    charlie.sql("INSERT INTO log VALUES('y');")
    alpha.shows(ROWS, "a11!,b2020!,d44!\n3\n")


def test_a_new_mesh_begins_with_the_backup(saved, machine):
    alpha, bravo, recipe = saved
    alpha.kill()
    bravo.kill()
    first, second = machine("first"), machine("second")
    typed(first, steps(recipe.replace(str(alpha.file), str(first.file)), 3))
    assert first.sql(ROWS) == "a11!,b22!,c33!\n2\n"
    code = first.done("invite").strip()
    second.done("join", code, "--no-multicast", "--peer", first.address)
    second.up("--port", "0", "--peer", first.address)
    second.shows(ROWS, "a11!,b22!,c33!\n2\n")


def test_a_mistake_is_undone_on_all_nodes(saved):
    alpha, bravo, recipe = saved
    alpha.sql("DELETE FROM log;")
    bravo.shows("SELECT count(*) FROM log", "0\n")
    lines = steps(recipe, 4)
    assert len(lines) == 2
    typed(alpha, lines)
    for one in (alpha, bravo):
        one.shows(ROWS, "a11!,b22!,c33!,d44!\n1\n")  # of equal rows without a key one comes back
    typed(alpha, lines)
    eventually(lambda: alpha.run("wait", "--replicas", "2").returncode == 0, "the peer has all")
    bravo.shows(ROWS, "a11!,b22!,c33!,d44!\n1\n")


def test_a_recipe_needs_a_backup_that_can_be_read(tmp_path):
    one = Machine(tmp_path, "one")
    one.home = Home.locate(tmp_path / "home", {})
    damaged, plain = tmp_path / "damaged.db", tmp_path / "plain.db"
    damaged.write_bytes(b"SQLite format 3\0" + bytes(4096))
    subprocess.run([SQLITE, plain, "CREATE TABLE t(x)"], check=True)
    for path, code, said in (
        (tmp_path / "none.db", 2, "there is no backup"),
        (damaged, 1, "cannot read"),
    ):
        done = one.run("backup", str(path), "--recipe", "f.db")
        assert (done.returncode, said in done.stderr, done.stdout) == (code, True, ""), done.stderr
        assert done.stderr.count("\n") == 1
    assert "It was not made by 'mycomesh backup'" in one.done("backup", str(plain), "--recipe", "f.db")
    wrong = one.run("restore", str(plain))
    assert (wrong.returncode, f"mycomesh backup {plain} --recipe FILE.db" in wrong.stderr) == (2, True)
