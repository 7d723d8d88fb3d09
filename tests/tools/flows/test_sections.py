"""Sections of flows are added to config.toml and removed from it, and the rest stays as it is written."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.flows.sections import add_section, remove_section

BEFORE = """# kept
port = 1 # too

[flow.first]
on = "t" # not this
run = "sql: SELECT 1"

# of the bridge
[bridge.b]
url = "file:x"
"""


@pytest.fixture
def home(tmp_path):
    home = Home.locate(tmp_path, {})
    home.config_file.parent.mkdir(parents=True, exist_ok=True)
    home.config_file.touch(0o600)
    return home


def test_an_added_section_is_removed_without_a_trace(home):
    home.config_file.write_text(BEFORE)
    add_section(home, "second", {"on": 'a "b"', "where": ["x", "y"]})
    assert home.config_file.read_text() == f'{BEFORE}\n[flow.second]\non = "a \\"b\\""\nwhere = ["x", "y"]\n'
    remove_section(home, "second")
    assert home.config_file.read_text() == BEFORE
    remove_section(home, "first")
    assert home.config_file.read_text() == '# kept\nport = 1 # too\n\n[bridge.b]\nurl = "file:x"\n'


def test_the_only_section_leaves_an_empty_file(home):
    add_section(home, "only", {"on": "t"})
    remove_section(home, "only")
    assert home.config_file.read_text() == ""


@pytest.mark.parametrize(
    "text", ['flow.x.on = "t"\n', '[flow]\nx = {on = "t"}\n', '[a]\nb = """\n[flow.x]\n"""\n[flow]\nx.on = "t"\n']
)
def test_a_section_in_another_form_stays(home, text):
    home.config_file.write_text(text)
    with pytest.raises(ConfigError, match="remove it with an editor"):
        remove_section(home, "x")
    assert home.config_file.read_text() == text


def test_a_file_that_would_be_of_no_use_stays(home):
    home.config_file.write_text(BEFORE)
    with pytest.raises(ConfigError):
        add_section(home, "a name", {})
    assert home.config_file.read_text() == BEFORE
    assert not home.config_file.with_suffix(".new").exists()
