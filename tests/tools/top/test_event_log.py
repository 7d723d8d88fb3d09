"""The event list: a split takes a line or two, and housekeeping takes none."""

from __future__ import annotations

from mycomesh.tools.top.event_log import EVENTS_MAX, EventLog


def gone(name, reason="the connection was lost"):
    return ("link.down", "info", f"link with {name} is gone: {reason}")


def texts(log):
    return [event.text for event in log.events()]


def test_one_link_keeps_its_reason():
    log = EventLog()
    log.record_notice("10:00:00", 0.0, gone("b"))
    assert texts(log) == ["link with b is gone: the connection was lost"]
    log.record_notice("10:00:09", 9.0, gone("c"), "a")
    assert texts(log)[1:] == ["a: link with c is gone: the connection was lost"]


def test_links_of_one_split_are_one_line():
    log = EventLog()
    ends = [(one, two) for one in ("a", "b", "c") for two in ("d", "e", "f")]
    for number, (one, two) in enumerate(ends + [(two, one) for one, two in ends]):
        log.record_notice("10:00:00", number / 10, gone(two), one)
        log.record_notice("10:00:00", number / 10, ("sync.done", "info", "caught up"), one)
    told = texts(log)
    assert told[0] == "9 links are gone: a - d, a - e, a - f, b - d and 5 more"
    assert sum("gone" in line for line in told) == 1
    log.record_notice("10:01:00", 60.0, ("link.up", "info", "link with d at 10.0.0.1:7447"), "a")
    log.record_notice("10:01:00", 60.1, ("link.up", "info", "link with e at 10.0.0.2:7447"), "a")
    assert texts(log)[-1] == "2 links are up: a - d, a - e"


def test_links_long_after_each_other_get_own_lines():
    log = EventLog()
    for at_s in (0.0, 7.0, 14.0):
        log.record_notice("", at_s, gone(f"n{at_s}"))
    assert len(texts(log)) == 3


def test_debug_and_closed_surplus_links_are_not_told():
    log = EventLog()
    log.record_notice("", 0.0, gone("b", "enough links"))
    log.record_notice("", 0.0, ("conn.closed", "debug", "connection 1 closed"))
    assert texts(log) == []


def test_a_split_is_one_line_until_it_heals():
    log = EventLog()
    log.record_islands("10:00:00", [["a", "b"]])
    log.record_islands("10:00:01", [["a", "b"], ["c"]])
    log.record_islands("10:00:02", [["a", "b"], ["c", "d", "e", "f", "g", "h"]])
    assert [(event.at, event.level, event.text) for event in log.events()] == [
        ("10:00:01", "warning", "split, or stopped: a, b | c, d, e, f and 2 more")
    ]
    log.record_islands("10:00:09", [["a", "b", "c", "d", "e", "f", "g", "h"]])
    log.record_islands("10:00:10", [["a", "b", "c", "d", "e", "f", "g", "h"]])
    assert texts(log)[1:] == ["connected again: all members that run"]
    log.record_islands("10:01:00", [["a"], ["b", "c"]])
    assert texts(log)[2:] == ["split, or stopped: a | b, c"]


def test_the_line_of_a_split_replaces_its_links():
    log = EventLog()
    log.record_notice("10:00:00", 0.0, gone("c"))
    log.record_notice("10:00:00", 0.1, gone("d"))
    log.record_islands("10:00:01", [["a", "b"], ["c", "d"]])
    log.record_notice("10:00:01", 1.0, gone("e"))
    assert texts(log) == ["split, or stopped: a, b | c, d"]
    log.record_notice("10:00:30", 30.0, gone("b"))
    assert texts(log)[1:] == ["link with b is gone: the connection was lost"]


def test_links_that_a_named_split_cuts_are_not_told():
    log = EventLog()
    log.record_split("6.0", 6.0, "the network splits: nodes 0 | 1")
    log.record_notice("8.0", 8.0, gone("b"), "a")
    log.record_notice("25.0", 25.0, gone("a"), "b")
    assert texts(log) == ["the network splits: nodes 0 | 1"]
    log.record_notice("40.0", 40.0, gone("a"), "b")
    assert len(texts(log)) == 2


def test_the_list_has_a_limit():
    log = EventLog()
    for number in range(EVENTS_MAX + 5):
        log.record("", "info", str(number))
    assert texts(log)[0] == "5"
    assert len(texts(log)) == EVENTS_MAX
