"""The numbers in a file's header that name its format, as a fact: `application_id` and, with it, `user_version`.

GDAL, QGIS and other readers of a format look at them before any table. A file that a node began empty gets them with the tables;
a file that an application has brought has its own. Files without an application id say nothing: there, `user_version` is a
program's count of its migrations.
"""

from __future__ import annotations

import json

from mycomesh.sync.schema.registry import Registry
from mycomesh.sync.storage.store import Store

__all__ = ["HEADER", "follow_header", "read_header", "record_header"]

HEADER = "header"  # name and kind of the fact
_INTEGERS = range(-(1 << 31), 1 << 31)


def read_header(text: str | None) -> tuple[int, int] | None:
    """Return (application_id, user_version) of a fact's SQL; None if it has another form, or no application id."""
    try:
        numbers = json.loads(text or "")
    except (ValueError, RecursionError):
        return None
    if type(numbers) is not list or len(numbers) != 2 or not all(type(each) is int for each in numbers):
        return None
    if not numbers[0] or any(each not in _INTEGERS for each in numbers):
        return None
    return numbers[0], numbers[1]


def record_header(store: Store, registry: Registry) -> None:
    """State the numbers of this file to the mesh if it has an application id and nobody has stated any."""
    own = _own(store)
    if own[0] and registry.facts.of(HEADER) is None:
        registry.facts.write(HEADER, HEADER, json.dumps(own))


def follow_header(store: Store, registry: Registry) -> None:
    """Give a file that a node began empty the numbers of the mesh, unless it has some by now; inside a transaction."""
    numbers = read_header(registry.facts.of(HEADER))
    if numbers is None or not store.meta("began_empty") or _own(store) != (0, 0):
        return
    store.db.execute(f"PRAGMA application_id = {numbers[0]}").fetchall()
    store.db.execute(f"PRAGMA user_version = {numbers[1]}").fetchall()


def _own(store: Store) -> tuple[int, int]:
    application_id, user_version = (
        int(store.db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")
    )
    return application_id, user_version
