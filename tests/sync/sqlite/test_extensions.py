"""Extensions of the settings serve the user's triggers, and nothing that another node writes can load or call one."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.errors import ExtensionError
from mycomesh.sync.replica import ReplicaConfig
from mycomesh.sync.sqlite.extensions import load_extensions
from tests.sync.peers import Peer, converge

sqlite_vec = pytest.importorskip("sqlite_vec")
PATH = sqlite_vec.loadable_path()
INDEX = """
CREATE TABLE docs(id INTEGER PRIMARY KEY, emb BLOB);
CREATE VIRTUAL TABLE vdocs USING vec0(emb float[2]);
CREATE TRIGGER vdocs_i AFTER INSERT ON docs BEGIN INSERT INTO vdocs(rowid, emb) VALUES(new.id, new.emb); END;
CREATE TRIGGER vdocs_u AFTER UPDATE OF emb ON docs BEGIN UPDATE vdocs SET emb = new.emb WHERE rowid = new.id; END;
CREATE TRIGGER vdocs_d AFTER DELETE ON docs BEGIN DELETE FROM vdocs WHERE rowid = old.id; END;
"""


@pytest.fixture
def searched(tmp_path):
    """Two nodes, the first with the module, beside applications that keep an index of vectors."""
    made = [
        Peer(tmp_path / "1.db", 1, config=ReplicaConfig(extensions=(PATH,))),
        Peer(tmp_path / "2.db", 2),
    ]
    for peer in made:
        load_extensions(peer.app, [PATH])
        peer.sql(INDEX)
        peer.drain()
    yield made
    for peer in made:
        peer.close()


def nearest(peer, *vector):
    found = peer.sql("SELECT rowid FROM vdocs WHERE emb MATCH ? AND k = 1", sqlite_vec.serialize_float32(vector))
    return [row for (row,) in found]


def write(peer, number, *vector):
    peer.sql("INSERT INTO docs VALUES(?, ?)", number, sqlite_vec.serialize_float32(vector))


def notes(peer):
    return {table.name: table.note for table in peer.replica.status().tables}


def test_a_node_with_the_module_keeps_its_index(searched):
    one, two = searched
    write(one, 1, 0, 0)
    for number in range(2, 40):
        write(two, number, number, 0)
    converge(searched)
    assert nearest(one, 20, 0) == [20]
    two.sql("UPDATE docs SET emb = ? WHERE id = 20", sqlite_vec.serialize_float32((0, 99)))
    two.sql("DELETE FROM docs WHERE id = 30")
    converge(searched)
    assert (nearest(one, 0, 99), nearest(one, 0.1, 0), nearest(one, 30, 0)[0]) == ([20], [1], nearest(two, 30, 0)[0])
    assert not notes(one)["docs"]


def test_the_note_without_a_module_has_a_remedy(searched):
    one, two = searched
    write(one, 1, 0, 0)
    converge(searched)
    assert nearest(two, 0, 0) == []
    note = notes(two)["docs"]
    assert "no such module: vec0; 'extensions' in config.toml loads a library that has it" in note
    two.sql(note[note.index("DELETE FROM") : note.index(" does it")])
    assert nearest(two, 0, 0) == [1]


def test_bad_vectors_of_a_peer_stop_no_merge(searched):
    one, two = searched
    two.sql("DROP TRIGGER vdocs_i; INSERT INTO docs VALUES(1, 'text'), (2, x'00'), (3, NULL)")
    converge(searched)
    assert one.sql("SELECT count(*) FROM docs") == [(3,)]
    assert "index vdocs is not kept up to date" in notes(one)["docs"]


def test_definitions_of_peers_call_no_extension(searched):
    """Their SQL is tried without the libraries, so a function of one is unknown, also where it is loaded."""
    one, two = searched
    two.sql("CREATE TABLE t(a, CHECK (vec_length(a) > 0)); CREATE INDEX far ON docs(vec_length(emb))")
    two.drain()
    two.sql("DROP INDEX far")
    converge(searched)
    assert one.sql("SELECT name FROM sqlite_schema WHERE name IN ('t', 'far')") == []


def test_sql_cannot_load_an_extension(tmp_path):
    db = apsw.Connection(str(tmp_path / "t.db"))
    load_extensions(db, [PATH])
    with pytest.raises(apsw.Error, match="not authorized"):
        db.execute("SELECT load_extension(?)", (PATH,))


def test_what_is_no_extension_is_one_line(tmp_path):
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(ExtensionError) as error:
        Peer(tmp_path / "1.db", 1, config=ReplicaConfig(extensions=(str(tmp_path / "text.so"),)))
    assert len(str(error.value).splitlines()) == 1
    assert "no extension that SQLite can load" in str(error.value)
    db = apsw.Connection(":memory:")
    with pytest.raises(ExtensionError):
        load_extensions(db, [str(tmp_path / "text.so")])
    with pytest.raises(apsw.Error, match="not authorized"):
        db.load_extension(PATH)
