"""Gateways as real processes: bases without a link that share a directory all the time."""

import shutil
import time

import pytest

from tests.integration.machines import eventually


@pytest.fixture
def bases(machine, joined, tmp_path):
    """Three members that never link, and a directory that all of them reach."""
    share = tmp_path / "share"
    share.mkdir()
    shutil.copytree(joined / "alpha", tmp_path / "alpha")
    made = [machine(name) for name in ("alpha", "bravo", "charlie")]
    for other in made[1:]:
        ticket = tmp_path / f"{other.name}.ticket"
        made[0].done("ticket", other.name, "-o", str(ticket))
        other.done("join", str(ticket))
    return made, share


def up(one, share):
    return one.up("--port", "0", "--mailbox", f"dir:{share}")


def digests(one):
    return {table["name"]: table["digest"] for table in one.status()["tables"]}


def all_equal(made):
    eventually(lambda: digests(made[0]) and all(digests(each) == digests(made[0]) for each in made), "all are equal")


def test_writes_reach_every_base_through_a_directory(bases):
    made, share = bases
    for each in made:
        up(each, share)
    alpha, bravo, charlie = made
    alpha.sql("CREATE TABLE drones(id TEXT PRIMARY KEY, v TEXT); INSERT INTO drones VALUES('d1', 'one'), ('d2', 'two')")
    for other in (bravo, charlie):
        other.shows("SELECT v FROM drones ORDER BY id", "one\ntwo\n")
    before = set(share.rglob("*.box"))
    began = time.monotonic()
    bravo.sql("UPDATE drones SET v = 'changed' WHERE id = 'd1'; DELETE FROM drones WHERE id = 'd2'")
    eventually(lambda: set(share.rglob("*.box")) - before, "a file appears")
    print("visible after", time.monotonic() - began)
    for other in (alpha, charlie):
        other.shows("SELECT v FROM drones ORDER BY id", "changed\n")
    print("there after", time.monotonic() - began)
    all_equal(made)
    print(alpha.status()["mailboxes"])
