"""user_version and application_id: a program sets them with the definitions of a version, and other files get both or neither."""

from __future__ import annotations

import pytest

from tests.sync.peers import Peer, converge

GPKG = 0x47504B47
SEED = "CREATE TABLE note(id INTEGER PRIMARY KEY, body); INSERT INTO note VALUES(1, 'x')"
UPGRADE = "BEGIN; ALTER TABLE note ADD COLUMN starred INT NOT NULL DEFAULT 0; PRAGMA user_version = 2; COMMIT;"


@pytest.fixture
def peers(tmp_path):
    made = []

    def make(count):
        for _ in range(count):
            made.append(Peer(tmp_path / f"{len(made)}.db", len(made)))
        return made

    yield make
    for peer in made:
        peer.close()


def number(peer, name="user_version"):
    return peer.sql(f"PRAGMA {name}")[0][0]


def columns(peer):
    return [name for _, name, *_ in peer.sql("PRAGMA table_info(note)")]


def test_a_version_arrives_with_its_definitions(peers):
    one, two = made = peers(2)
    one.sql(f"{SEED}; PRAGMA user_version = 1; PRAGMA application_id = 1196444487")
    converge(made)
    assert (number(two), number(two, "application_id")) == (1, 1196444487)
    one.shell(UPGRADE)
    for batch in one.drain():  # each batch as it comes: never one without the other
        two.take([batch])
        assert ("starred" in columns(two)) == (number(two) == 2)
    assert number(two) == 2


def test_a_number_set_at_rest_or_alone_arrives(peers):
    one, two = made = peers(2)
    one.sql(SEED)
    converge(made)
    one.sql("PRAGMA user_version = 7")
    assert one.replica.outbox.stale()
    converge(made)
    assert number(two) == 7
    two.replica.close()
    two.shell("PRAGMA user_version = 8")
    two.close()
    two.open()
    converge(made)
    assert number(one) == 8
    assert not one.replica.outbox.stale()
    assert not one.drain()


def test_files_from_before_end_with_the_higher_version(peers):
    one, two, three = made = peers(3)
    for peer, version in ((one, 1), (two, 3), (three, 2)):
        peer.replica.close()
        peer.sql(f"{SEED}; PRAGMA user_version = {version}")
        peer.close()
        peer.open()
    converge(made)
    assert [number(peer) for peer in made] == [3, 3, 3]


def test_two_upgrades_at_once_end_with_the_higher_version(peers):
    one, two = made = peers(2)
    one.sql(f"{SEED}; PRAGMA user_version = 1")
    converge(made)
    one.sql("PRAGMA user_version = 3")
    one.drain()
    two.wall_ms += 5_000
    two.sql("PRAGMA user_version = 2")
    converge(made)
    assert [number(peer) for peer in made] == [3, 3]


def test_a_program_may_lower_its_own_version(peers):
    one, two = made = peers(2)
    one.sql(f"{SEED}; PRAGMA user_version = 3")
    converge(made)
    two.sql("PRAGMA user_version = 0")
    converge(made)
    assert [number(peer) for peer in made] == [3, 0]
    one.sql("PRAGMA user_version = 4")
    converge(made)
    assert [number(peer) for peer in made] == [4, 4]


def test_another_application_id_stays(peers):
    one, two = made = peers(2)
    two.sql("PRAGMA application_id = 5")
    one.sql(f"{SEED}; PRAGMA application_id = 6")
    converge(made)
    assert {number(peer, "application_id") for peer in made} == {5, 6}
    assert not one.drain() + two.drain()  # they do not answer each other for ever


def test_an_empty_file_gets_the_numbers_of_the_format(peers):
    made = peers(2)
    made[0].shell(
        f"PRAGMA application_id = {GPKG}; PRAGMA user_version = 10200; CREATE TABLE t(id INTEGER PRIMARY KEY)"
    )
    converge(made)
    assert [(number(peer, "application_id"), number(peer)) for peer in made] == [(GPKG, 10200)] * 2
    assert made[1].path.read_bytes()[68:72] == b"GPKG", "GDAL reads the file itself, not its WAL"


@pytest.mark.parametrize("sql", ["", "2147483648", "1.5", "x", "0x10", "99999999999"])
def test_other_forms_of_a_fact_change_nothing(peers, sql):
    one, two = made = peers(2)
    one.sql(f"{SEED}; PRAGMA user_version = 1")
    converge(made)
    with one.replica.store.transaction():
        one.replica.catalog.decide(("header:user_version", "header", sql))
    converge(made)
    assert number(two) == 1
