"""Fuzz target of what a member may share as a flow: the section of a row of `mycomesh_flows`, and the changes of that table."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import event
from hypothesis import strategies as st

from mycomesh.mesh.node.home import Home
from mycomesh.tools.flows.accepted import ACCEPTED_MAX, KINDS, Acceptance
from mycomesh.tools.flows.accepting import WHY_CHARS_MAX, Accepting
from mycomesh.tools.flows.settings import KEYS
from tests.fuzz.registry import target

__all__ = []

_TEXTS = (
    *("drones", "SELECT * FROM drones WHERE battery < 20", "alerts", "mycomesh_flows", "new", "", "[x]", '"a""b"', "`"),
    *(
        "sql: INSERT INTO alerts SELECT id, at FROM new",
        "sql: SELECT id AS drone FROM new",
        "exec: true",
        "python: m:f",
    ),
    *(
        "onnx: battery@3",
        "onnx: m",
        "https://host/x",
        "https://[::1",
        "http://host:99999/",
        "https://u:p@host/",
        "https:",
    ),
    *("~no such user/x", "/etc/passwd", "..", "a\0b", "\ud800", "here", "everywhere", "one", "now", "start", "\x1b[2J"),
    *(
        "(" * 2_000,
        "WITH " * 500,
        "x" * 100_001,
        "SELECT" + " (SELECT" * 300,
        "INSERT OR REPLACE INTO main . x SELECT _key FROM new",
    ),
    *("battery -> 1", "a: float32[3]", "float32[1][2]", "a,b", "a = b"),
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from(_TEXTS)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_TEXTS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
_GOOD = {"on": "drones", "run": "sql: SELECT id AS drone FROM new", "into": "alerts"}
_SECTIONS = st.dictionaries(st.sampled_from(KEYS), _VALUES, max_size=6).map(lambda drawn: _GOOD | drawn)
_NAMES = st.sampled_from(("low", "high", "a b", "", "x" * 65, "\x1b[2J")) | _VALUES
_HOME = Path("/nonexistent/fuzz")


class _Reports:
    def notify(self, _event, text, _level):
        assert "\n" not in text
        assert text.isprintable(), text
        assert len(text) < 2 * WHY_CHARS_MAX
        text.encode()


@st.composite
def _change(draw):
    columns = draw(st.sampled_from((("name", "section"), ("section",), ("name",), ("other",))))
    section = draw(_SECTIONS.map(json.dumps) | _VALUES)
    values = {"name": draw(_NAMES), "section": section}
    if draw(st.integers(0, 5)) == 0:
        values = draw(st.none() | st.just({"other": 1}))
    return {
        "values": values,
        "key": {"name": draw(_NAMES)},
        "who": draw(st.sampled_from(("alpha", "mallory", ""))),
        "columns": columns,
    }


@target(st.lists(_change(), max_size=8))
def shared_flows(changes):
    """Check that whatever members write into the table, the rows of those accepted run or are refused in one line."""
    accepting = Accepting(Home.locate(_HOME, {}), Acceptance(("alpha",), ("host",)), _Reports())
    for change in changes:
        accepting._take(change)
    found = accepting._accepted()
    event(f"{len(found)} run")
    assert len(found) <= ACCEPTED_MAX
    for each in found:
        assert each.author == "alpha"
        assert each.section["run"].partition(":")[0].strip() in (*KINDS, "https")
