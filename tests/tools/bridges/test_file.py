"""The scheme `file`: lines in files of one directory."""

from __future__ import annotations

import asyncio
import json

import pytest

from mycomesh.tools.bridges.file import LINE_BYTES_MAX, FileScheme
from mycomesh.tools.bridges.scheme import Message, Options, SchemeError


@pytest.fixture
def scheme(tmp_path):
    return FileScheme(Options(f"file://{tmp_path}", "ground", incoming=("in/*",)))


def message(topic, body, number=1):
    return Message(topic, body, f"t/00/{number}", "1", {"mesh-id": f"t/00/{number}"})


def test_a_torn_line_is_cut_before_the_next(scheme, tmp_path):
    (tmp_path / "out").write_bytes(b'{"value": 1}\n{"val')

    async def story():
        await scheme.connect()
        assert await scheme.publish([message("out", b'{"a": 1}'), message("out", None, 2)]) == ["", ""]

    asyncio.run(story())
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert found[1:] == [{"mesh-id": "t/00/1", "value": {"a": 1}}, {"mesh-id": "t/00/2", "value": None}]


def test_what_went_out_comes_in_elsewhere(scheme, tmp_path):
    async def story():
        await scheme.connect()
        await scheme.publish([message("in/a", b'{"a": 1}'), message("in/a", None, 2)])
        await scheme.subscribe({})
        return await scheme.receive()

    first, second = asyncio.run(story())
    assert (first.topic, json.loads(first.body), first.headers["mesh-id"]) == ("in/a", {"a": 1}, "t/00/1")
    assert second.delete
    assert first.offset < second.offset


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_lines_longer_than_the_limit_are_no_rows(scheme, tmp_path, over):
    assert scheme.limits.payload_max == LINE_BYTES_MAX
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"x" * (LINE_BYTES_MAX + over) + b'\n{"a": 1}\n')

    async def story():
        await scheme.subscribe({})
        return await scheme.receive()

    found = asyncio.run(story())
    assert found[-1].body == b'{"a": 1}'
    assert len(found[0].body) <= LINE_BYTES_MAX


def test_a_missing_directory_is_refused(tmp_path):
    scheme = FileScheme(Options(f"file://{tmp_path}/none", "ground"))
    with pytest.raises(SchemeError, match="set create = true"):
        asyncio.run(scheme.connect())
