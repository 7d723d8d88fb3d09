"""A node's process does without TLS; nobody else does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mycomesh.tools.processes import NodeProcess, ending
from tests.integration.machines import eventually


def test_no_part_of_openssl_lies_in_memory_of_node(tmp_path):
    node = NodeProcess.within(tmp_path, "node")
    node.run("init", "--name", "fleet", "--node-name", "node")
    with ending([node]):
        pid = node.up("--no-multicast", "--port", "0")
        eventually(lambda: node.serving, "the node serves")
        mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "apsw" in mapped
    assert not [line for line in mapped.splitlines() if "libssl" in line or "libcrypto" in line or "_ssl." in line]


def said(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()


def test_reading_the_settings_loads_no_replica():
    program = "import sys, mycomesh.mesh.node.config; print('apsw' in sys.modules, 'cbor2' in sys.modules)"
    assert said(program) == ["False", "False"]


def test_whoever_asks_for_tls_afterwards_gets_the_real_one():
    program = """
from tools import lean
lean.load()
import asyncio, hashlib, hmac, ssl, _hashlib
print(ssl.create_default_context().__class__.__module__, hasattr(_hashlib, "openssl_sha256"))
print(hashlib.blake2b(b"x", digest_size=4).hexdigest(), hmac.new(b"k", b"m", "sha256").hexdigest()[:8])
with asyncio.Runner() as runner:
    print(runner.run(asyncio.sleep(0, "awake")))
"""
    plain = program.replace("from tools import lean\nlean.load()\n", "")
    assert said(program) == said(plain)
    assert said(program)[:2] == ["ssl", "True"]


@pytest.mark.parametrize("loaded", ["asyncio", "ssl", "hashlib"])
def test_what_was_loaded_before_is_left_alone(loaded):
    program = f"import sys, {loaded}; from tools import lean; before = dict(sys.modules)\n"
    program += "lean.load(); print(before == sys.modules)"
    assert said(program) == ["True"]
