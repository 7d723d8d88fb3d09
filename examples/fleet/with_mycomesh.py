"""The six events of a fleet as SQL. `mycomesh up FILE` on each machine does the rest."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

SQL = {
    "deploy": "INSERT INTO drones(id, model, deployed_at) VALUES(:drone, :model, :at)",
    "position": "UPDATE drones SET lat = :lat, lon = :lon, position_at = :at WHERE id = :drone",
    "data": "INSERT INTO readings VALUES(:drone, :n, :kind, :value, :at)",
    "threat": "INSERT INTO threats VALUES(:id, :kind, :lat, :lon, :level, :at)"
    " ON CONFLICT DO UPDATE SET level = :level, at = :at",
    "battery": "UPDATE drones SET battery = :battery, battery_at = :at WHERE id = :drone",
    "mission": "INSERT INTO missions VALUES(:id, :drone, :what, :status, :at)"
    " ON CONFLICT DO UPDATE SET status = :status, at = :at",
}


class FleetNode:
    """One machine of the fleet."""

    def __init__(self, file: Path) -> None:
        self.db = sqlite3.connect(file, isolation_level=None, timeout=30)

    def say(self, event: str, **fields: Any) -> None:
        """Record an event."""
        self.db.execute(SQL[event], fields)
