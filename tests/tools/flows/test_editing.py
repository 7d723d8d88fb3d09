"""Edits of a flow's section: what is written, what is refused, and the sections before."""

from __future__ import annotations

import tomllib

import apsw
import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.flows.editing import (
    FLOWS_MAX,
    KEPT_MAX,
    drafted,
    edit,
    note_removed,
    position_of,
    put_position_back,
    redo,
    rollback,
)
from mycomesh.tools.flows.sections import remove_section

FILE = """# ours
urgent = ["alerts"]

[flow.low]  # drones
on = "drones"
run = "sql: SELECT id FROM new"
into = "alerts"

[flow.model]
on = "alerts"
run = "onnx: m"
into = "scores"
inputs = { x = ["a", "b"], k = 2 }
"""


@pytest.fixture
def home(tmp_path):
    home = Home.locate(tmp_path / "home", {})
    home.config.mkdir(mode=0o700)
    home.config_file.write_text(FILE)
    home.config_file.chmod(0o600)
    return home


def section(home, name="low"):
    return tomllib.loads(home.config_file.read_text())["flow"][name]


def test_edit_keeps_the_rest_and_the_section_before(home):
    before = section(home)
    edit(home, "low", {"run": "sql: SELECT id FROM new WHERE true"})
    assert section(home) == {**before, "run": "sql: SELECT id FROM new WHERE true"}
    assert tomllib.loads(home.config_file.read_text())["urgent"] == ["alerts"]
    assert rollback(home, "low") == before
    assert section(home) == before
    with pytest.raises(ConfigError, match="no earlier section"):
        rollback(home, "low")


def test_section_with_tables_is_edited_too(home):
    edit(home, "model", {"into": "others"})
    assert section(home, "model")["inputs"] == {"x": ["a", "b"], "k": 2}
    rollback(home, "model")
    assert section(home, "model")["into"] == "scores"


@pytest.mark.parametrize(
    ("name", "changes", "why"),
    [
        ("none", {"on": "x"}, "has no section [flow.none]"),
        ("low", {}, "would stay as it is"),
        ("low", {"into": "alerts"}, "would stay as it is"),
        ("low", {"run": "sql: DROP TABLE x"}, "takes an INSERT or a SELECT"),
        ("model", {"into": "drones"}, "comes back to alerts"),
    ],
)
def test_refused_edit_leaves_the_file(home, name, changes, why):
    with pytest.raises(ConfigError) as raised:
        edit(home, name, changes)
    assert why in str(raised.value)
    assert home.config_file.read_text() == FILE


def test_number_of_kept_sections_has_a_limit(home):
    for number in range(KEPT_MAX + 1):
        edit(home, "low", {"into": f"alerts{number}"})
    for _ in range(KEPT_MAX):
        rollback(home, "low")
    assert section(home)["into"] == "alerts0"
    with pytest.raises(ConfigError, match="no earlier section"):
        rollback(home, "low")


def test_a_rollback_can_be_done_again(home):
    edit(home, "model", {"into": "one"})
    edit(home, "model", {"into": "two"})
    rollback(home, "model")
    rollback(home, "model")
    assert [redo(home, "model")["into"], redo(home, "model")["into"]] == ["one", "two"]
    assert section(home, "model")["inputs"] == {"x": ["a", "b"], "k": 2}
    with pytest.raises(ConfigError, match="nothing to do again"):
        redo(home, "model")
    assert rollback(home, "model")["into"] == "one"
    edit(home, "model", {"into": "three"})
    with pytest.raises(ConfigError, match="nothing to do again"):
        redo(home, "model")


def test_a_removed_flow_comes_back_where_it_was(home):
    db = apsw.Connection(":memory:")
    assert position_of(db, "model") == []
    db.execute("CREATE TABLE mycomesh_cursors(name, table_name, area, position, moved_ms, seen)")
    row = ("flow.model", "alerts", "", b"\x07", 5, None)
    note_removed(home, "model", section(home, "model"), [row])
    before = section(home, "model")
    remove_section(home, "model")
    assert rollback(home, "model") == section(home, "model") == before
    put_position_back(home, db, "model")
    assert position_of(db, "model") == [row]
    remove_section(home, "model")
    with pytest.raises(ConfigError, match="has no section"):
        rollback(home, "model")


def test_number_of_kept_flows_has_a_limit(home):
    for number in range(FLOWS_MAX + 1):
        note_removed(home, f"f{number}", {"on": "x", "run": "sql: SELECT 1 AS a", "into": "y"}, [])
    with pytest.raises(ConfigError, match="has no section"):
        rollback(home, "f0")
    assert rollback(home, "f1")["on"] == "x"


def test_draft_needs_no_section(home):
    assert drafted(home, "low", {"into": "x"}).into == "x"
    assert drafted(home, "new", {"on": "drones", "run": "sql: SELECT 1 AS a", "into": "x"}).table == "drones"
