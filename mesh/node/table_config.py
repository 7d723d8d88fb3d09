"""The sections [table.NAME] of config.toml: budgets, order and floor of tables on this node."""

from __future__ import annotations

from typing import Any

from mycomesh.mesh.node.disk_space import MB
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.metered import amount
from mycomesh.sync.replication.table_settings import TableSetting
from mycomesh.sync.wire.units import area_pattern, pattern_fault

__all__ = ["TABLES_MAX", "TABLE_BYTES_DAY_MIN", "TABLE_BYTES_S_MIN", "parse_tables"]

TABLES_MAX = 1_000
TABLE_BYTES_S_MIN = 100  # a packet in 14 s
TABLE_BYTES_DAY_MIN = 100_000
FREE_MB_MAX = 1_000_000
_KEYS = ("budget", "daily", "score", "free_mb_min")


def parse_tables(value: Any) -> tuple[TableSetting, ...]:
    """Return the settings of the sections, in their order.

    Raises:
        ConfigError: a section has an unknown key, or a value is out of range.
    """
    if not isinstance(value, dict) or not all(isinstance(each, dict) for each in value.values()):
        raise ConfigError("'table' must be sections such as [table.telemetry]")
    if len(value) > TABLES_MAX:
        raise ConfigError(f'at most {TABLES_MAX:,} sections [table.NAME]; one may have a pattern: [table."sensor_*"]')
    return tuple(_setting(name, each) for name, each in value.items())


def _setting(name: str, value: dict[str, Any]) -> TableSetting:
    where = f"[table.{name}]"
    unknown = next((key for key in value if key not in _KEYS), None)
    if unknown is not None or not value:
        raise ConfigError(f"{where} takes {', '.join(_KEYS)}" + (f", not {unknown!r}" if unknown is not None else ""))
    if fault := pattern_fault(name, classes=True):
        raise ConfigError(f"{where}: {fault}")
    bytes_s = amount(where, "budget", value["budget"], "/s") if "budget" in value else None
    bytes_day = amount(where, "daily", value["daily"], "") if "daily" in value else None
    if bytes_s is not None and bytes_s < TABLE_BYTES_S_MIN:
        raise ConfigError(f"{where}: 'budget' must be at least {TABLE_BYTES_S_MIN} B/s")
    if bytes_day is not None and bytes_day < TABLE_BYTES_DAY_MIN:
        raise ConfigError(f"{where}: 'daily' must be at least {TABLE_BYTES_DAY_MIN // 1_000} kB")
    score, free_mb = value.get("score", ""), value.get("free_mb_min", 0)
    if type(score) is not str:
        raise ConfigError(f"{where}: 'score' must be the name of a column, not {score!r}")
    if type(free_mb) is not int or not 0 <= free_mb <= FREE_MB_MAX:
        raise ConfigError(f"{where}: 'free_mb_min' must be a whole number, 0..{FREE_MB_MAX:,} MB")
    if area_pattern(name) is not None and list(value) != ["free_mb_min"]:
        raise ConfigError(f"{where}: areas take 'free_mb_min' alone; a budget and a score are those of a table")
    return TableSetting(name, bytes_s, bytes_day, score, free_mb * MB)
