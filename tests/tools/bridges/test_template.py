"""Topics with columns in them, both ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mycomesh.tools.bridges.scheme import Scheme
from mycomesh.tools.bridges.template import TOPIC_BYTES_MAX, Pattern, Template, TopicError


class Slashes(Scheme):
    separator = "/"
    wildcard_level = "+"
    wildcard_rest = "#"


@given(st.text(min_size=1, max_size=20), st.sampled_from([Scheme, Slashes]))
def test_a_value_comes_back_as_it_went(value, scheme):
    text = f"fleet{scheme.separator}{{id}}{scheme.separator}at"
    topic = Template.parse(text, scheme).topic({"id": value})
    assert topic.count(scheme.separator) == 2
    assert Pattern.parse(text, "t", scheme).matches(topic) == {"id": value}


@pytest.mark.parametrize("value", [None, "", {"base64": "AA=="}])
def test_a_missing_value_makes_no_topic(value):
    with pytest.raises(TopicError, match="column 'id' of the topic"):
        Template.parse("a.{id}", Scheme).topic({"id": value})


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_a_topic_beyond_the_limit_is_refused(over):
    template = Template.parse("a.{id}", Scheme)
    values = {"id": "x" * (TOPIC_BYTES_MAX - 2 + over)}
    if over <= 0:
        assert len(template.topic(values)) == TOPIC_BYTES_MAX + over
    else:
        with pytest.raises(TopicError, match="more than 250 bytes"):
            template.topic(values)


@pytest.mark.parametrize("text", ["", "a.{}", "a.{b", "a.b}", "a.*", "a.>", "a b"])
def test_what_is_no_topic_is_refused(text):
    with pytest.raises(ValueError, match="topic"):
        Template.parse(text, Scheme)


@pytest.mark.parametrize(
    ("pattern", "topic", "scheme", "found"),
    [
        ("a.*.c", "a.b.c", Scheme, {}),
        ("a.*.c", "a.b.b.c", Scheme, None),
        ("a.>", "a.b.c", Scheme, {}),
        ("{x}.{y}", "a.b", Scheme, {"x": "a", "y": "b"}),
        ("a/#", "a", Slashes, {}),
        ("a/#", "a/b/c", Slashes, {}),
        ("a/#", "ab", Slashes, None),
        ("a/+/{z}", "a/b/c%2Fd", Slashes, {"z": "c/d"}),
        ("a.b", "axb", Scheme, None),
    ],
)
def test_patterns_name_the_topics_of_their_system(pattern, topic, scheme, found):
    assert Pattern.parse(pattern, "t", scheme).matches(topic) == found


def test_columns_become_wildcards_of_one_level():
    assert Pattern.parse("a.{x}.>", "t", Scheme).wildcards == "a.*.>"
    assert Pattern.parse("a/{x}/#", "t", Slashes).wildcards == "a/+/#"


@pytest.mark.parametrize("value", ["$SYS", "$JS", "a/b", "a.b", "#", "+", "*", ">", "..", "\x00", "\u2028"])
@pytest.mark.parametrize("scheme", [Scheme, Slashes])
def test_a_value_is_one_level_whatever_it_has(value, scheme):
    text = f"{{id}}{scheme.separator}at"
    topic = Template.parse(text, scheme).topic({"id": value})
    assert not set(topic.removesuffix(f"{scheme.separator}at")) & set("$/.#+*>\x00\u2028")
    assert Pattern.parse(text, "t", scheme).matches(topic) == {"id": value}
