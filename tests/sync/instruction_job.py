"""One job of `tests.sync.instructions`, up to one of its parts, by the code of the tree in which it runs."""

import sys
import tempfile
from pathlib import Path

from mycomesh.sync.events import CommitSeen
from tests.sync.exchanges import World

ROUNDS_MS = 60_000
CREATE = "CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b REAL, c INTEGER, d TEXT)"
INSERT = """
WITH n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < ?)
INSERT INTO t SELECT i, 'name' || i, i / 2.0, i, 'xxxxxxxxxxxxxxxxxxxx' FROM n
"""
WRITES = {"updates": "UPDATE t SET b = b + 1", "deletes": "DELETE FROM t", "counters": "UPDATE t SET c = c + 1"}


def live(world, job, parts, rows):
    """Capture, drain and merge of one transaction."""
    one, two = world.nodes
    if job == "counters":
        one.peer.replica.decisions.declare_counter("t", "c")
        world.do(one, CommitSeen())
    world.link(one, two)
    world.run(5_000)
    if job != "inserts":
        world.write(one, INSERT, rows)
        world.run(5_000)
    if parts:
        one.sql(*((INSERT, rows) if job == "inserts" else (WRITES[job],)))
    if parts > 1:
        world.do(one, CommitSeen())
    if parts > 2:
        world.run(5_000)
    equal = one.peer.tables() == two.peer.tables()  # in each run, so that it counts for no part
    assert equal or parts < 3


def rounds(world, job, parts, rows):
    """A minute of two nodes: both have written during a split, or nobody has written."""
    one, two = world.nodes
    link = world.link(one, two)
    world.run(5_000)
    world.write(one, INSERT, rows)
    world.run(30_000)
    if job == "healing":
        world.cut(link)
        world.write(one, "UPDATE t SET b = b + 1 WHERE id % 4 = 0")
        world.write(two, "UPDATE t SET d = 'two' WHERE id % 4 = 1")
    if parts:
        if job == "healing":
            world.link(one, two)
        world.run(ROUNDS_MS)
    equal = one.peer.tables() == two.peer.tables()
    assert equal or not parts


def main():
    job, parts, rows = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        world = World.made(Path(folder), 2)
        world.write(world.nodes[0], CREATE)
        (rounds if job in ("healing", "equal") else live)(world, job, parts, rows)
        world.close()


main()
