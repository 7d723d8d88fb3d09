"""The facts of retention: what they state, and what has no effect."""

from __future__ import annotations

import json

import pytest

from mycomesh.sync.events import BatchReceived
from mycomesh.sync.exchange.retention_schedule import TOLD_ROWS
from mycomesh.sync.schema.retain import (
    _TEXT_MAX,
    ERA_MAX,
    adopted_fact,
    adoption_of,
    end_fact,
    era_after,
    retain_fact,
    rule_of,
)
from mycomesh.sync.storage.horizon import AGE_MS_MAX, AGE_MS_MIN, RetainRule
from mycomesh.sync.wire.bundle import Bundle, Group, Kind, Section
from tests.sync.retained import confirm, fleet, horizon, retain, rows


@pytest.mark.parametrize("age_ms", [AGE_MS_MIN, AGE_MS_MAX - 1, AGE_MS_MAX])
def test_rule_comes_back_from_its_fact(age_ms):
    rule = RetainRule(age_ms, "at", 7, era=2)
    assert rule_of(retain_fact("t", rule)[2]) == rule
    assert retain_fact("t", rule)[:2] == ('retain:["t"]', "retain")


@pytest.mark.parametrize("era", [0, 1, ERA_MAX])
def test_end_of_a_rule_tells_the_next_era(era):
    name, kind, text = end_fact("t", era)
    assert (name, kind) == retain_fact("t", RetainRule(AGE_MS_MIN))[:2]
    assert rule_of(text) is None
    assert era_after(text) == era


@pytest.mark.parametrize("text", [None, "", "off", "[]", '{"era": -1}', '{"era": true}', f'{{"era": {ERA_MAX + 1}}}'])
def test_fact_of_another_form_has_the_first_era(text):
    assert era_after(text) == 0


@pytest.mark.parametrize("age_ms", [0, AGE_MS_MIN - 1, AGE_MS_MAX + 1, 1.5, "7d", None, True])
def test_age_out_of_range_has_no_effect(age_ms):
    assert rule_of(json.dumps({"age_ms": age_ms})) is None


@pytest.mark.parametrize(
    "text", ["off", "", "[]", "{}", "[" * 5_000, '{"age_ms": 5000, "by": 1}', '{"age_ms": 5000, "floor_ms": -1}']
)
def test_other_text_ends_the_rule(text):
    assert rule_of(text) is None


def test_text_beyond_its_limit_has_no_effect():
    blank = json.dumps({"age_ms": 5_000, "by": ""})
    for size in (_TEXT_MAX - 1, _TEXT_MAX):
        assert rule_of(blank.replace('""', f'"{"c" * (size - len(blank))}"')) is not None
    assert rule_of(blank.replace('""', f'"{"c" * (_TEXT_MAX + 1 - len(blank))}"')) is None


@pytest.mark.parametrize(
    ("site", "text"), [("zz", "5"), ("00" * 15, "5"), ("00" * 16, "-5"), ("00" * 16, "9" * 16), ("00" * 16, "x")]
)
def test_other_adoption_has_no_effect(site, text):
    assert adoption_of(site, text) == {}


def test_adoption_comes_back_from_its_fact():
    site = bytes(range(16))
    name, _, text = adopted_fact(site, 5_000)
    assert adoption_of(*json.loads(name.partition(":")[2]), text) == {site: 5_000}


@pytest.mark.parametrize(
    "rule",
    [
        {"age_ms": AGE_MS_MIN, "by": "", "floor_ms": (1 << 47) - 1, "era": ERA_MAX},
        {"age_ms": AGE_MS_MIN, "by": "", "floor_ms": 1, "era": ERA_MAX - 1},
        {"age_ms": AGE_MS_MIN, "by": "v"},
    ],
)
def test_any_rule_that_a_member_states_can_be_ended(tmp_path, rule):
    world = fleet(tmp_path, 2, "CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
    one, two = world.nodes
    world.write(one, "INSERT INTO t VALUES(1, 'old')")
    world.run(1_000)
    member = b"\x77" * 16
    hlc = (one.peer.wall_ms + world.now) << 16
    stated = Group(
        member, Kind.INSERT, ("kind", "name", "sql"), [hlc], None, [["retain", 'retain:["t"]', json.dumps(rule)]], None
    )
    batch = Bundle([Section("mycomesh_schema", [(member, hlc - 1, hlc)], [stated])]).encode()
    for node in world.nodes:
        world.do(node, BatchReceived(next(iter(world.links)), member, batch))
        confirm(world, node)
    world.run(20_000)
    assert horizon(one) is not None
    assert len(rows(one)) == len(rows(two)) == ("v" in rule["by"])
    retain(world, one, "t", 0)
    world.run(5_000)
    world.write(one, "INSERT INTO t VALUES(2, 'new')")
    world.write(two, "INSERT INTO t VALUES(3, 'new')")
    world.run(30_000)
    assert rows(one) == rows(two)
    assert rows(one)[-2:] == [(2, "new"), (3, "new")]
    assert one.peer.digests() == two.peer.digests()
    world.close()


@pytest.mark.parametrize(("count", "level"), [(TOLD_ROWS, "debug"), (TOLD_ROWS + 1, "warning")])
def test_the_log_names_who_stated_a_rule(tmp_path, count, level):
    """On the node that decided it, it is no news; nor is it when the horizon moves on."""
    world = fleet(tmp_path, 2, "CREATE TABLE t(at, v)")
    one, two = world.nodes
    for node in world.nodes:
        confirm(world, node)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count})"
    world.write(one, f"INSERT INTO t {numbers} SELECT '2020-01-01T00:00:00Z', i FROM n")
    world.run(1_000)
    retain(world, one, "t", 86_400_000, "at")
    world.run(10_000)
    assert rows(one) == rows(two) == []
    told = [[notice for notice in node.notices if notice.event == "retain.cut"] for node in world.nodes]
    assert [[notice.level for notice in each] for each in told] == [["debug"], [level]]
    if level == "warning":
        member = one.peer.replica.site[:8].hex()
        assert told[1][0].detail == {"table": "t", "rows": count, "stated_by": member}
        assert f"by a rule of member {member[:8]} ('mycomesh retain t off' ends it)" in told[1][0].text
