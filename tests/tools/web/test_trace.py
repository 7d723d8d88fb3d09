"""The trace of a simulation as moments, for the page and inside of a report."""

import base64
import gzip
import json
import re

import pytest

from mycomesh.tools.exits import UsageError
from mycomesh.tools.web import trace
from mycomesh.tools.web.trace import MOMENTS_BYTES_MAX, MOMENTS_MAX, moments_of, replay_of

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def recorded(tmp_path):
    """Return a function that writes a trace of so many moments, each with another topology, and returns its path."""

    def write(moments):
        lines = [{"t": 0, "kind": "header", "version": 1, "scenario": HOSTILE, "seed": 1, "names": ["node0", "node1"]}]
        for number in range(moments):
            links = [[0, 1, 1.0, number]] if number % 2 else []
            lines.append({"t": number + 1, "kind": "topology", "label": "", "groups": [0, number % 2], "links": links})
        path = tmp_path / "trace.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


def times(path):
    return [each["t"] for each in json.loads(moments_of(path))["moments"]]


@pytest.mark.parametrize("number", [MOMENTS_MAX - 1, MOMENTS_MAX])
def test_moments_are_all_kept_up_to_the_limit(recorded, number):
    assert times(recorded(number)) == list(range(1, number + 1))


def test_longer_trace_is_thinned_and_keeps_its_end(recorded):
    found = times(recorded(MOMENTS_MAX + 1))
    assert len(found) == MOMENTS_MAX // 2 + 1
    assert (found[0], found[-1]) == (1, MOMENTS_MAX + 1)


def test_trace_of_many_nodes_is_thinned_by_its_bytes(recorded, monkeypatch):
    path = recorded(40)
    whole = sum(len(json.dumps(each, separators=(",", ":"))) for each in json.loads(moments_of(path))["moments"])
    assert whole < MOMENTS_BYTES_MAX
    for limit, kept in ((whole + 1, 40), (whole, 40), (whole - 1, 21)):
        monkeypatch.setattr(trace, "MOMENTS_BYTES_MAX", limit)
        assert len(times(path)) == kept


def test_replay_has_the_moments_and_no_markup(recorded, tmp_path, monkeypatch):
    (tmp_path / "replay.js").write_text("start()")
    (tmp_path / "replay.css").write_text(":host{}")
    monkeypatch.setattr(trace, "STATIC", tmp_path)
    path = recorded(3)
    html = replay_of(path)
    text = re.search(r'<script id="replay-trace" type="text/plain">([A-Za-z0-9+/=]+)</script>', html)[1]
    assert gzip.decompress(base64.b64decode(text)) == moments_of(path)
    assert "onerror" not in html
    assert "<script>start()</script>" in html


def test_replay_is_left_out_without_a_bundle(recorded, tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "STATIC", tmp_path / "absent")
    assert replay_of(recorded(3)) == ""


def test_file_that_is_no_trace_is_refused(tmp_path):
    (tmp_path / "trace.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="not a trace"):
        moments_of(tmp_path / "trace.jsonl")
