"""`forget` leaves the user's file as if mycomesh had never seen it."""

from __future__ import annotations

import apsw
import pytest

from mycomesh.sync.admin.uninstall import uninstall
from mycomesh.sync.errors import ForeignFileError
from tests.sync.peers import Peer, shell
from tests.sync.shapes import SHAPES

LIKE_OURS = """
CREATE TABLE mycomesh_notes(n);
CREATE TABLE plain(a);
CREATE TRIGGER mycomesh_diary AFTER INSERT ON plain BEGIN INSERT INTO mycomesh_notes VALUES(NEW.a); END;
CREATE INDEX mycomesh_plain ON plain(a);
"""


def written():
    rows = "".join(f"{shape.insert(number, number)};\n" for shape in SHAPES for number in range(3))
    return "".join(f"{shape.ddl};\n" for shape in SHAPES) + LIKE_OURS + rows


def described(path):
    db = apsw.Connection(str(path))
    found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    db.execute("VACUUM")
    pages = db.execute("PRAGMA page_count").fetchone()
    db.close()
    return found, pages


def test_a_forgotten_file_equals_one_that_met_no_node(tmp_path):
    for name in ("0.db", "plain.db"):
        shell(tmp_path / name, written())
    peer = Peer(tmp_path / "0.db", 0)
    peer.drain()
    peer.close()
    for name in ("0.db", "plain.db"):
        shell(tmp_path / name, "UPDATE pkint SET v = 'not stamped when it is forgotten'; INSERT INTO plain VALUES(1);")
    removed = uninstall(tmp_path / "0.db")
    assert removed.triggers > len(SHAPES)
    assert removed.tables > len(SHAPES)
    assert shell(tmp_path / "0.db", ".dump") == shell(tmp_path / "plain.db", ".dump")
    assert described(tmp_path / "0.db") == described(tmp_path / "plain.db")
    assert shell(tmp_path / "0.db", "PRAGMA integrity_check; SELECT * FROM mycomesh_notes;") == b"ok\n1\n"


def test_a_file_that_was_forgotten_can_join_again(tmp_path):
    shell(tmp_path / "0.db", "CREATE TABLE t(id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES(1, 'a');")
    peer = Peer(tmp_path / "0.db", 0)
    peer.drain()
    peer.close()
    uninstall(tmp_path / "0.db")
    again = Peer(tmp_path / "0.db", 1)
    assert again.drain()
    again.close()


@pytest.mark.parametrize("name", ["strange.db", "missing.db"])
def test_a_file_without_internal_tables_is_refused_unchanged(tmp_path, name):
    shell(tmp_path / "strange.db", LIKE_OURS)
    before = (tmp_path / "strange.db").read_bytes()
    with pytest.raises(ForeignFileError, match="check the path"):
        uninstall(tmp_path / name)
    assert (tmp_path / "strange.db").read_bytes() == before
    assert not (tmp_path / "missing.db").exists()


@pytest.mark.parametrize("name", ["mycomesh_peers", "MycoMesh_Meta", "mycomesh_changes_2"])
def test_an_application_table_with_an_internal_name_is_kept(tmp_path, name):
    shell(tmp_path / "0.db", f"CREATE TABLE {name}(a); INSERT INTO {name} VALUES(1); CREATE TABLE t(a);")
    before = shell(tmp_path / "0.db", ".dump")
    with pytest.raises(ForeignFileError, match="has the name of one of the node's own; rename it"):
        Peer(tmp_path / "0.db", 0)
    with pytest.raises(ForeignFileError, match="nothing of mycomesh is in it"):
        uninstall(tmp_path / "0.db")
    assert shell(tmp_path / "0.db", ".dump") == before


def test_a_table_named_like_an_internal_one_stays_local(tmp_path):
    peer = Peer(tmp_path / "0.db", 0)
    peer.shell(LIKE_OURS)
    peer.drain()
    notes = {table.name: table.note for table in peer.replica.status().tables}
    assert notes["mycomesh_notes"].startswith(
        "not replicated: names that begin with mycomesh_ are reserved for the node"
    )
    assert notes["plain"] == ""
    peer.close()
