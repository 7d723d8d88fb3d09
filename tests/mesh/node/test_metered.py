"""The table [link] of config.toml, and the count of metered bytes that outlives a restart."""

from __future__ import annotations

import asyncio
import re

import pytest

from mycomesh.mesh.link_budget import BUDGET_BYTES_DAY_MIN, BUDGET_BYTES_S_MIN, Budget
from mycomesh.mesh.node import metered as module
from mycomesh.mesh.node.config import load
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.metered import BUDGET_BYTES_MAX, INTERFACES_MAX, SAVES_A_DAY, MeteredBytes, parse_budget

PART = 100_000  # of the bytes of a day


@pytest.mark.parametrize(
    ("table", "budget"),
    [
        ('budget = "50 kB/s"', Budget(50_000)),
        ('budget = "50 KB/s"\ndaily = "20 mB"', Budget(50_000, 20_000_000)),
        ('budget = "1.5MB/s"\ndaily = "2 GB"', Budget(1_500_000, 2_000_000_000)),
        ('daily = "20 MB"\nmetered = ["wwan*", "ppp0"]', Budget(None, 20_000_000, ("wwan*", "ppp0"))),
        (f'budget = "{BUDGET_BYTES_S_MIN} B/s"', Budget(BUDGET_BYTES_S_MIN)),
        (f'daily = "{BUDGET_BYTES_MAX} B"', Budget(None, BUDGET_BYTES_MAX)),
    ],
)
def test_a_budget_is_read_from_the_file(tmp_path, table, budget):
    (tmp_path / "config.toml").write_text(f"[link]\n{table}\n")
    assert load(tmp_path / "config.toml").link == budget


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "[link] takes 'budget'"),
        ({"budget": "50 kB/s", "speed": 1}, "[link] takes 'budget'"),
        ("50 kB/s", "[link] takes 'budget'"),
        ({"budget": "50 kB"}, "'budget' must be an amount"),
        ({"budget": 50}, "'budget' must be an amount"),
        ({"daily": "20 MB/s"}, "'daily' must be an amount"),
        ({"daily": f"{BUDGET_BYTES_MAX + 1} B"}, "'daily' must be at most 1000000 GB, not"),
        ({"budget": "99999999999999 GB/s"}, "'budget' must be at most 1000000 GB/s, not"),
        ({"budget": "9" * 400 + " GB/s"}, "'budget' must be at most 1000000 GB/s, not"),
        ({"budget": "50 kb/s"}, "a small b would be bits"),
        ({"budget": "\u0967 kB/s"}, "digits 0-9"),
        ({"budget": "0 kB/s"}, "at least 500 B/s"),
        ({"daily": "0 B"}, "at least 20 MB"),
        ({"budget": f"{BUDGET_BYTES_S_MIN - 1} B/s"}, "at least 500 B/s"),
        ({"daily": f"{BUDGET_BYTES_DAY_MIN - 1} B"}, "an idle link takes 13 MB a day"),
        ({"budget": "1 kB/s", "metered": "ppp0"}, "'metered' must be a list"),
        ({"budget": "1 kB/s", "metered": [""]}, "'metered' must be a list"),
        ({"budget": "1 kB/s", "metered": ["a"] * (INTERFACES_MAX + 1)}, "'metered' must be a list"),
    ],
)
def test_another_budget_gets_one_clear_line(value, text):
    with pytest.raises(ConfigError, match=re.escape(text)) as raised:
        parse_budget(value)
    assert "\n" not in str(raised.value)


def test_most_interfaces_that_a_budget_may_name():
    assert len(parse_budget({"budget": "1 kB/s", "metered": ["a"] * INTERFACES_MAX}).interfaces) == INTERFACES_MAX


def test_the_count_outlives_a_restart(tmp_path):
    path, hours = tmp_path / "metered", ((490_000, 7), (490_001, 8))

    async def life():
        metered = MeteredBytes(path, lambda: hours)
        metered.start(lambda write: write())
        await asyncio.sleep(0)
        await metered.close()

    asyncio.run(life())
    assert MeteredBytes.load(path) == hours
    path.write_bytes(b"damaged")
    assert MeteredBytes.load(path) == ()
    path.unlink()
    assert MeteredBytes.load(path) == ()


def test_a_kill_loses_no_more_than_a_stated_count(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    path, carried = tmp_path / "metered", [0]

    async def life():
        metered, saved = MeteredBytes(path, lambda: ((490_000, carried[0]),), SAVES_A_DAY * PART), asyncio.Event()

        def write(save):
            save()
            saved.set()

        metered.start(write)
        for carried[0] in (PART, PART + 1, 2 * PART):
            saved.clear()
            if carried[0] % PART:
                await asyncio.sleep(0.05)
                assert not saved.is_set(), "a byte is not worth a write"
            else:
                await asyncio.wait_for(saved.wait(), 10)
                assert MeteredBytes.load(path) == ((490_000, carried[0]),)
        await metered.close()

    asyncio.run(life())
