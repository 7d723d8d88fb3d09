"""Fixtures for tests of gateways."""

import asyncio

import pytest

from tests.mesh.node.gateway.bases import Bases


@pytest.fixture
def three(tmp_path):
    """Three bases; the first has made a table with a row, which all have. Each has a parcel and a statement in the directory."""
    share = tmp_path / "share"
    share.mkdir()
    world = Bases.made(tmp_path, 3)
    bases = world.share(share)
    bases[0].write("CREATE TABLE t(id TEXT PRIMARY KEY, v)")
    bases[0].write("INSERT INTO t VALUES('first', 1)")
    for each in bases:
        asyncio.run(begin(each))
    for each in bases:
        asyncio.run(settle(each))
        asyncio.run(each.writer.write())
        asyncio.run(each.writer.state({}, ()))
    for each in bases:
        asyncio.run(settle(each))
    yield bases
    world.close()


async def begin(base):
    await base.writer.look()
    assert base.writer.needs_parcel
    await base.writer.pack()


async def settle(base):
    while await base.reader.step():
        pass
