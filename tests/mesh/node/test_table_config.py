"""The sections [table.NAME] of config.toml: what they mean, and what gets one clear line."""

from __future__ import annotations

import re

import pytest

from mycomesh.mesh.link_budget import Budget
from mycomesh.mesh.node.config import load
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.table_config import (
    FREE_MB_MAX,
    TABLE_BYTES_DAY_MIN,
    TABLE_BYTES_S_MIN,
    TABLES_MAX,
    parse_tables,
)
from mycomesh.sync.replication.table_settings import TableSetting


def test_sections_are_read_in_their_order(tmp_path):
    (tmp_path / "config.toml").write_text(
        '[table.telemetry]\nbudget = "10 kB/s"\ndaily = "50 MB"\nfree_mb_min = 500\n'
        '[table."video_*"]\nscore = "confidence"\n'
    )
    config = load(tmp_path / "config.toml")
    assert config.tables == (
        TableSetting("telemetry", 10_000, 50_000_000, "", 500_000_000),
        TableSetting("video_*", score="confidence"),
    )
    assert config.link_budget == Budget(tables=True), "every link is metered"


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("", None),
        ('[link]\nmetered = ["wwan*"]\n', Budget(interfaces=("wwan*",))),
        ('[table.t]\nscore = "x"\n', None),
        ('[link]\nmetered = ["wwan*"]\n[table.t]\ndaily = "1 MB"\n', Budget(interfaces=("wwan*",), tables=True)),
    ],
)
def test_links_are_metered_for_tables_with_budgets(tmp_path, text, budget):
    (tmp_path / "config.toml").write_text(text)
    assert load(tmp_path / "config.toml").link_budget == budget


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("telemetry", "'table' must be sections"),
        ({"t": 5}, "'table' must be sections"),
        ({"t": {}}, "[table.t] takes budget"),
        ({"t": {"speed": 1}}, "not 'speed'"),
        ({"t[1": {"free_mb_min": 1}}, "[table.t[1]: 't[1' lacks the closing bracket: write 't[1]'"),
        ({"t[]": {"free_mb_min": 1}}, "needs a table and an area"),
        ({"t": {"budget": "\u0967 kB/s"}}, "digits 0-9"),
        ({"t": {"budget": "5 kB"}}, "[table.t]: 'budget' must be an amount"),
        ({"t": {"budget": f"{TABLE_BYTES_S_MIN - 1} B/s"}}, "at least 100 B/s"),
        ({"t": {"daily": f"{TABLE_BYTES_DAY_MIN - 1} B"}}, "at least 100 kB"),
        ({"t": {"score": 1}}, "'score' must be the name of a column"),
        ({"t": {"free_mb_min": -1}}, "'free_mb_min' must be a whole number"),
        ({"t": {"free_mb_min": FREE_MB_MAX + 1}}, "'free_mb_min' must be a whole number"),
        ({"t": {"free_mb_min": True}}, "'free_mb_min' must be a whole number"),
        ({f"t{number}": {"score": "x"} for number in range(TABLES_MAX + 1)}, "at most 1,000 sections"),
    ],
)
def test_other_sections_get_one_clear_line(value, text):
    with pytest.raises(ConfigError, match=re.escape(text)) as raised:
        parse_tables(value)
    assert "\n" not in str(raised.value)


def test_most_sections_that_a_file_may_have():
    assert len(parse_tables({f"t{number}": {"score": "x"} for number in range(TABLES_MAX)})) == TABLES_MAX
