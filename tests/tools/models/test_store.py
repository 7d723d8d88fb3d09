"""Models as rows: digests, versions, patterns of nodes, rollback, and the limits of what is added or comes from a peer."""

from __future__ import annotations

import hashlib
import io

import apsw
import pytest

from mycomesh.tools.models import store
from mycomesh.tools.models.store import (
    CARD_CHARS_MAX,
    MODEL_BYTES_MAX,
    NAME_CHARS_MAX,
    PART_BYTES,
    PATTERN_CHARS_MAX,
    VERSION_MAX,
    VERSIONS_MAX,
    ModelError,
)


@pytest.fixture
def db():
    return apsw.Connection(":memory:")


def add(db, name="m", content=b"one", nodes="*", version=None, card=""):
    return store.add(db, name, content, card=card, nodes=nodes, version=version)


def used(db, node="n1", name="m", only=None):
    file = io.BytesIO()
    chosen = store.choose(db, name, node, file, only=only)
    return chosen.version.version, file.getvalue(), chosen.note


def test_bytes_come_back_in_parts_with_their_digest(db):
    content = bytes(range(256)) * (PART_BYTES // 128) + b"rest"
    made = add(db, content=content)
    assert (made.version, made.size, made.sha256) == (1, len(content), hashlib.sha256(content).hexdigest())
    assert store.parts_here(db, made) == (3, 3)
    assert used(db) == (1, content, "")
    assert db.execute("SELECT max(length(bytes)) FROM mycomesh_model_parts").fetchone() == (PART_BYTES,)


def test_node_uses_the_highest_version_for_its_name(db):
    add(db, content=b"one")
    add(db, content=b"two", nodes="drone-*, ground")
    assert used(db, "drone-7")[:2] == (2, b"two")
    assert used(db, "ground")[0] == 2
    assert used(db, "other")[:2] == (1, b"one")
    assert used(db, "other", only=2)[:2] == (2, b"two")
    store.roll_out(db, "m", 2, "*")
    assert used(db, "other")[0] == 2


def test_rollback_withdraws_the_highest_and_keeps_it(db):
    add(db)
    add(db, content=b"two")
    gone, now = store.rollback(db, "m")
    assert (gone.version, now.version) == (2, 1)
    assert used(db)[0] == 1
    with pytest.raises(ModelError, match="no earlier version"):
        store.rollback(db, "m")
    store.roll_out(db, "m", 2, "*")
    assert used(db)[0] == 2


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        ("DELETE FROM mycomesh_model_parts WHERE number = 1", "1 of 2 parts are here"),
        (
            "UPDATE mycomesh_model_parts SET bytes = zeroblob(length(bytes)) WHERE length(bytes) > 3",
            "does not have its digest",
        ),
        ("UPDATE mycomesh_model_parts SET bytes = 'text' WHERE length(bytes) > 3", "is not complete"),
        (
            "INSERT INTO mycomesh_model_parts SELECT sha256, 2, x'00' FROM mycomesh_models WHERE version = 2",
            "its digest",
        ),
        ("UPDATE mycomesh_models SET sha256 = 'ab' WHERE version = 2", "0 of 2 parts"),
    ],
)
def test_damaged_version_leaves_the_one_before_in_use(db, harm, why):
    add(db, content=b"old")
    add(db, content=b"n" * (PART_BYTES + 1))
    db.execute(harm)
    version, content, note = used(db)
    assert (version, content) == (1, b"old")
    assert why in note
    with pytest.raises(ModelError, match="version 2"):
        used(db, only=2)


def test_equal_bytes_are_kept_once(db):
    add(db, "m", b"same")
    add(db, "n", b"same")
    assert db.execute("SELECT count(*) FROM mycomesh_model_parts").fetchone() == (1,)
    store.remove(db, "m", None)
    assert used(db, name="n")[1] == b"same"
    store.remove(db, "n", 1)
    assert db.execute("SELECT count(*) FROM mycomesh_model_parts").fetchone() == (0,)
    with pytest.raises(ModelError, match="no model 'm'"):
        used(db)


def test_what_is_missing_is_told_in_one_line(db):
    for name, match in (("m", "no model 'm' in this file; add it"), ("x", "no model")):
        with pytest.raises(ModelError, match=match):
            used(db, name=name)
    add(db, nodes="drone-*")
    with pytest.raises(ModelError, match="no version of m is for the node 'n1'"):
        used(db)
    with pytest.raises(ModelError, match="models are: m"):
        store.remove(db, "x", None)
    with pytest.raises(ModelError, match="has a version 1 already"):
        add(db, version=1)
    assert add(db, version=7).version == 7
    assert add(db).version == 8


def test_names_cards_and_patterns_have_limits(db):
    add(db, "n" * NAME_CHARS_MAX, card="c" * CARD_CHARS_MAX, nodes="n" * PATTERN_CHARS_MAX, version=VERSION_MAX)
    for bad in (
        {"name": "n" * (NAME_CHARS_MAX + 1)},
        {"name": ""},
        {"name": "a@1"},
        {"name": "a\x1b[2J"},
        {"card": "c" * (CARD_CHARS_MAX + 1)},
        {"nodes": "n" * (PATTERN_CHARS_MAX + 1)},
        {"version": VERSION_MAX + 1},
        {"version": 0},
        {"content": b""},
    ):
        with pytest.raises(ModelError):
            add(db, **bad)
    assert len(store.versions(db)) == 1


def test_sizes_have_a_limit(db, monkeypatch):
    assert MODEL_BYTES_MAX == 64 << 20
    monkeypatch.setattr(store, "MODEL_BYTES_MAX", 10)
    add(db, content=b"x" * 10)
    with pytest.raises(ModelError, match="MiB, not more"):
        add(db, content=b"x" * 11)
    db.execute("UPDATE mycomesh_models SET size = 11")
    with pytest.raises(ModelError, match="beyond the limit"):
        used(db)


def test_number_of_versions_has_a_limit(db):
    for _ in range(VERSIONS_MAX):
        add(db)
    with pytest.raises(ModelError, match=f"the limit is {VERSIONS_MAX}; remove some"):
        add(db)
    db.execute("INSERT INTO mycomesh_models SELECT 'peer', version, sha256, size, card, nodes FROM mycomesh_models")
    assert len(store.versions(db)) == VERSIONS_MAX


def test_texts_of_a_peer_are_cut(db):
    add(db)
    db.execute("UPDATE mycomesh_models SET card = printf('%.*c', 99999, 'x'), nodes = printf('%.*c', 2000, 'x')")
    (found,) = store.versions(db)
    assert (len(found.card), len(found.nodes)) == (CARD_CHARS_MAX, PATTERN_CHARS_MAX)
    db.execute("UPDATE mycomesh_models SET name = printf('%.*c', 101, 'x')")
    assert store.versions(db) == []


def test_rows_of_other_types_are_left_out(db):
    add(db)
    db.execute("INSERT INTO mycomesh_models VALUES('m', 'nine', 'x', 3, NULL, '*'), ('m', 10, NULL, 'big', NULL, NULL)")
    assert [each.version for each in store.versions(db, "m")] == [1]


def test_rows_of_other_types_hide_no_version(db):
    """Text sorts behind all numbers, so the highest versions would be those that are none."""
    add(db)
    for number in range(2 * VERSIONS_MAX):
        db.execute("INSERT INTO mycomesh_models VALUES('m', ?, 'x', 3, NULL, '*')", (f"v{number}",))
        db.execute("INSERT INTO mycomesh_models VALUES('m', ?, 'x', 'big', NULL, '*')", (9 + number,))
    assert [each.version for each in store.versions(db, "m")] == [1]
    assert used(db) == (1, b"one", "")


def test_small_parts_are_read_in_small_number(db, monkeypatch):
    monkeypatch.setattr(store, "PART_BYTES", 4)
    made = add(db, content=b"123456")
    db.execute("DELETE FROM mycomesh_model_parts")
    db.executemany(
        "INSERT INTO mycomesh_model_parts VALUES(?, ?, ?)", ((made.sha256, number, b"") for number in range(1_000))
    )
    assert len(list(store._parts(db, made))) == 3
    with pytest.raises(ModelError, match="is not complete"):
        used(db)


@pytest.mark.parametrize("table", ["mycomesh_models", "mycomesh_model_parts", "mycomesh_model_uses"])
def test_tables_with_other_columns_are_told(db, table):
    """A member may make them before this node does, as it likes."""
    db.execute(f"CREATE TABLE {table}(x, name)")
    with pytest.raises(ModelError, match=f"{table} has other columns than a table of models, x, name: "):
        store.create(db)
    with pytest.raises(ModelError):
        store.uses(db, "f", "s", "1") if table.endswith("uses") else add(db)


def test_names_for_terminals_and_globs_cost_little(db):
    add(db, content=b"one")
    db.execute("UPDATE mycomesh_models SET nodes = ?", ("*a" * 500 + "b",))
    (found,) = store.versions(db)
    assert not found.is_for("a" * 255)
