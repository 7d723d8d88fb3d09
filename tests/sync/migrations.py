"""Replicas that migrate."""

from __future__ import annotations

import pytest

from tests.sync.peers import Peer, converge


@pytest.fixture
def migrating(tmp_path):
    made = []

    def make(count):
        made.extend(Peer(tmp_path / f"{number}.db", number) for number in range(len(made), len(made) + count))
        return made

    yield make
    for peer in made:
        peer.close()


def migrate(peer, script):
    return peer.replica.migrate(script, peer.wall_ms)


def started(migrating, ddl, count=2):
    made = migrating(count)
    made[0].sql(ddl)
    converge(made)
    return made


def note(peer, table="t"):
    return next((status.note for status in peer.replica.status().tables if status.name == table), "")


T = "CREATE TABLE t(id INTEGER PRIMARY KEY, a, b, c); INSERT INTO t VALUES(1, 'a1', 'b1', 'c1'), (2, 'a2', 'b2', 'c2')"
