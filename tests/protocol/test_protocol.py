"""docs/PROTOCOL.md is sufficient: a reader written from that page alone gets the same content from our bytes as we do."""

from __future__ import annotations

import ast
import json
import sqlite3
from pathlib import Path

import pytest
from nacl.exceptions import BadSignatureError

from tests.protocol import reader
from tests.protocol.story import VECTORS, make

FOUND = json.loads(VECTORS.read_text())
MESH = FOUND["mesh"]
MESH_ID, ROOT = bytes.fromhex(MESH["mesh_id"]), bytes.fromhex(MESH["root_public"])


@pytest.fixture(scope="module")
def replica():
    keys = {}
    for member in FOUND["members"]:
        name, node_key = reader.certificate(bytes.fromhex(member["certificate"]), MESH_ID, ROOT)
        assert (name, reader.blake(node_key, 16).hex()) == (member["name"], member["node_id"])
        keys[bytes.fromhex(member["node_id"])] = node_key
    replica = reader.Replica(FOUND["tables"], reader.digest_key(MESH_ID, bytes.fromhex(MESH["secret"])))
    for text in FOUND["batches"]:
        origin, bundle = reader.batch(bytes.fromhex(text), keys)
        for change in reader.changes(bundle):
            assert change[2][:8] == origin[:8]
        replica.take(bundle)
    return replica


def test_the_vectors_are_what_this_code_makes():
    assert make() == FOUND


def test_the_reader_knows_nothing_of_this_code():
    tree = ast.parse(Path(reader.__file__).read_text())
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    ours = ("mycomesh", "mesh", "sync", "tools", "simulations", "tests")
    assert not [name for name in named if name.split(".")[0] in ours]


def test_names_keys_and_codes_are_derived_as_specified():
    assert reader.blake(ROOT, 16) == MESH_ID
    assert reader.digest_key(MESH_ID, bytes.fromhex(MESH["secret"])).hex() == MESH["digest_key"]
    mesh_id, secret = reader.join_code(MESH["join_code"])
    assert mesh_id == MESH_ID
    assert reader.blake(MESH_ID, 32, b"mycomesh join", secret).hex() == MESH["join_psk"]


def test_every_table_has_the_digests_that_nodes_exchanged(replica):
    exchanged = reader.digests(bytes.fromhex(FOUND["digests"]))
    assert set(exchanged) == set(FOUND["tables"])
    for table, expected in exchanged.items():
        assert replica.digest(table) == expected, table


def test_every_table_has_the_rows_that_the_nodes_show(replica):
    for table, rows in FOUND["rows"].items():
        assert sorted(",".join(quoted(row[name]) for name in sorted(row)) for row in replica.shown(table)) == rows


def quoted(value):
    """Quote a value as SQLite's quote() does, but text as its bytes."""
    if isinstance(value, str):
        return f"text {value.encode().hex().upper()}"
    if isinstance(value, list):  # text that is not UTF-8
        return f"text {value[0].hex().upper()}"
    return sqlite3.connect(":memory:").execute("SELECT quote(?)", (value,)).fetchone()[0]


def test_a_changed_byte_is_noticed():
    keys = {
        bytes.fromhex(member["node_id"]): reader.certificate(bytes.fromhex(member["certificate"]), MESH_ID, ROOT)[1]
        for member in FOUND["members"]
    }
    message = bytearray.fromhex(FOUND["batches"][0])
    message[-1] ^= 1
    with pytest.raises(BadSignatureError):
        reader.batch(bytes(message), keys)
