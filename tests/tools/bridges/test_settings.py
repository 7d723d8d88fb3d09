"""Sections of bridges: the usual case takes three lines, and each mistake is one line that names the remedy."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.tools.bridges.settings import IN_FLIGHT_MAX, ROUTES_MAX


def test_three_lines_are_enough(settings):
    found = settings(out={"drones": "fleet/{id}"}, in_={"orders/**": "orders"})
    assert found.out["drones"].columns == ("id",)
    assert (found.format, found.deletes, found.begin, found.extra) == ("row", True, "start", "refuse")


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"url": ""}, "needs 'url'"),
        ({"url": "http//x"}, "no scheme"),
        ({"url": "file://host/x", "out": {"a": "x"}}, "is not the URL of a directory"),
        ({"url": "file://u:p@h/x"}, "put it into a file"),
        ({}, "needs 'out'"),
        ({"out": ["a"]}, "out must be a table of table = topic"),
        ({"in_": {"a": 1}}, "in must be a table of topic = table"),
        ({"out": {"a": "x"}, "deletes": "no"}, "deletes must be true or false"),
        ({"out": {"a": "x"}, "max_in_flight": 0}, "max_in_flight must be 1..10,000"),
        ({"out": {"a": "x"}, "max_in_flight": IN_FLIGHT_MAX + 1}, "max_in_flight must be 1..10,000"),
        ({"out": {"a": "x"}, "from_": "end"}, "from must be one of start, now"),
        ({"out": {"a": "x"}, "where": 1}, "where must be text"),
        ({"out": {"a": "x"}, "on": "alpha"}, "on must be a list of names"),
        ({"out": {"a": "x"}, "ca": "no.pem"}, "there is no file"),
        ({"out": {"a": "x"}, "topic": "y"}, "unknown key 'topic'; known are url, out, in"),
        ({"out": {"a": "x/{b}"}, "in_": {"x/*": "a"}}, "would come in again by 'x/*'"),
        ({"out": {f"t{n}": "x" for n in range(ROUTES_MAX + 1)}}, "out has 101 tables"),
        ({"out": {"a\nb": "x"}}, "has a line break or a control character"),
        ({"in_": {"a": "MYCOMESH_bridges"}}, "is not a table of yours"),
        ({"in_": {f"t{n}": "x" for n in range(ROUTES_MAX + 1)}}, "in has 101 topics"),
    ],
)
def test_a_wrong_section_is_one_clear_line(settings, section, said):
    with pytest.raises(ConfigError, match=r"^\[bridge\.ground\] .*") as caught:
        settings(**section)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_credentials_have_to_be_private(settings, tmp_path):
    path = tmp_path / "secret.toml"
    found = settings(out={"a": "x"}, credentials="secret.toml")
    with pytest.raises(ConfigError, match="there is no credentials file"):
        found.secrets()
    path.write_text('user = "u"\npassword = "p"\n')
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        found.secrets()
    path.chmod(0o600)
    assert found.secrets() == {"user": "u", "password": "p"}
    path.write_text("user = 1")
    with pytest.raises(ConfigError, match="each a text"):
        found.secrets()
