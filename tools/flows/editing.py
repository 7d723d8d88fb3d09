"""Changes of a flow: other keys for its section, and ways back to the section before, and to a flow that was removed.

The node reads config.toml again and starts the flow with it. Its position stays, so that no change runs twice.
"""

from __future__ import annotations

import base64
import contextlib
import json
from typing import TYPE_CHECKING, Any

import apsw

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import read_private, write_private
from mycomesh.tools.flows.sections import add_section, replace_section
from mycomesh.tools.flows.settings import check_cycles, cursor_of, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = [
    "FLOWS_MAX",
    "KEPT_MAX",
    "drafted",
    "edit",
    "note_removed",
    "position_of",
    "put_position_back",
    "redo",
    "rollback",
]

KEPT_MAX = 16  # earlier sections of one flow
FLOWS_MAX = 256  # flows of which some are kept
BEFORE, UNDONE, REMOVED = "flows-before.json", "flows-undone.json", "flows-removed.json"
_KIND = "flow"


def drafted(home: Home, name: str, changes: Mapping[str, Any]) -> FlowSettings:
    """Return a flow with other keys than its section has, checked alone; it may have no section yet.

    Raises:
        ConfigError: it would be wrong.
    """
    section = sections_of(home.config_file, _KIND).get(name, {})
    return parse(name, {**section, **changes}, str(home.config.absolute()))


def edit(home: Home, name: str, changes: Mapping[str, Any]) -> None:
    """Write a section with other keys, and keep the one before.

    Raises:
        ConfigError: there is no such flow, nothing would change, or it would be wrong; the file stays as it is.
    """
    before = _section(home, name)
    after = {**before, **changes}
    if after == before:
        raise ConfigError(f"[flow.{name}] would stay as it is; say what is to change, such as --run 'sql: ...'")
    _put(home, name, after)
    _push(home, BEFORE, name, before)
    _pop(home, UNDONE, name, every=True)


def rollback(home: Home, name: str) -> dict[str, Any]:
    """Write the section before the last edit, or that of a flow that was removed; return it.

    Raises:
        ConfigError: nothing is kept, or the section does not fit the other flows.
    """
    if name not in sections_of(home.config_file, _KIND):
        return _restore(home, name)
    return _swap(home, name, BEFORE, UNDONE, "has no earlier section: only 'mycomesh flow edit' keeps one")


def redo(home: Home, name: str) -> dict[str, Any]:
    """Write the section that the last rollback took back; return it. Raises `ConfigError` as `rollback`."""
    return _swap(home, name, UNDONE, BEFORE, "has nothing to do again: no rollback came after its last edit")


def note_removed(home: Home, name: str, section: Mapping[str, Any], cursors: Sequence[Sequence[Any]]) -> None:
    """Keep the section of a flow that is removed, and the rows of its cursor, for a way back."""
    _push(home, REMOVED, name, {"section": section, "cursors": [[_plain(value) for value in row] for row in cursors]})


def position_of(db: Any, name: str) -> list[tuple[Any, ...]]:
    """Return the rows of the cursor of a flow, none if there are none."""
    found: list[tuple[Any, ...]] = []
    with contextlib.suppress(apsw.SQLError):  # no reader has been here
        found = db.execute(
            "SELECT * FROM mycomesh_cursors WHERE name = ? ORDER BY 1, 2, 3", (cursor_of(name),)
        ).fetchall()
    return found


def put_position_back(home: Home, db: Any, name: str) -> None:
    """Write the cursor of a flow that was removed, so that it goes on from there."""
    rows = _pop(home, REMOVED, name, every=True)[-1:]
    for row in rows[0]["cursors"] if rows else ():
        values = [base64.b64decode(each["base64"]) if isinstance(each, dict) else each for each in row]
        with contextlib.suppress(apsw.SQLError), db:
            db.execute(f"INSERT OR IGNORE INTO mycomesh_cursors VALUES({', '.join('?' * len(values))})", values)


def _restore(home: Home, name: str) -> dict[str, Any]:
    removed = _kept(home, REMOVED).get(name)
    if not removed:
        _section(home, name)
    assert removed
    section: dict[str, Any] = removed[-1]["section"]
    directory = str(home.config.absolute())
    check_cycles(parse(name, section, directory), _others(home, name, directory))
    add_section(home, name, section)
    return section


def _swap(home: Home, name: str, source: str, target: str, otherwise: str) -> dict[str, Any]:
    """Write the last section of one kept list, and put the one that it replaces into another."""
    now = _section(home, name)
    kept = _kept(home, source).get(name)
    if not kept:
        raise ConfigError(f"[flow.{name}] {otherwise}")
    _put(home, name, kept[-1])
    _pop(home, source, name)
    _push(home, target, name, now)
    wanted: dict[str, Any] = kept[-1]
    return wanted


def _section(home: Home, name: str) -> dict[str, Any]:
    sections = sections_of(home.config_file, _KIND)
    if name not in sections:
        raise ConfigError(
            f"{home.config_file} has no section [flow.{name}]; its flows are: {', '.join(sections) or 'none'}"
        )
    found: dict[str, Any] = sections[name]
    return found


def _put(home: Home, name: str, section: Mapping[str, Any]) -> None:
    """Replace a section once the new one is known to be right together with the others."""
    directory = str(home.config.absolute())
    check_cycles(parse(name, section, directory), _others(home, name, directory))
    replace_section(home, name, section)


def _others(home: Home, name: str, directory: str) -> list[FlowSettings]:
    others = []
    for other, given in sections_of(home.config_file, _KIND).items():
        with contextlib.suppress(ConfigError):  # its own process says what is wrong with it
            others += [parse(other, given, directory)] if other != name else []
    return others


def _push(home: Home, file: str, name: str, value: Mapping[str, Any]) -> None:
    kept = _kept(home, file)
    kept[name] = [*kept.pop(name, []), dict(value)][-KEPT_MAX:]
    _keep(home, file, dict(list(kept.items())[-FLOWS_MAX:]))


def _pop(home: Home, file: str, name: str, *, every: bool = False) -> list[dict[str, Any]]:
    """Take the last value of a flow, or all; return them."""
    kept = _kept(home, file)
    values = kept.pop(name, [])
    taken = values if every else values[-1:]
    if len(taken) < len(values):
        kept[name] = values[: -len(taken)]
    if values:
        _keep(home, file, kept)
    return taken


def _kept(home: Home, file: str) -> dict[str, list[dict[str, Any]]]:
    """Return what is kept of each flow, the last one behind; nothing where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_private(home.state / file) or b"{}")
        if isinstance(found, dict):
            return found
    return {}


def _keep(home: Home, file: str, kept: Mapping[str, list[dict[str, Any]]]) -> None:
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # no node has run here
    write_private(home.state / file, json.dumps(kept, ensure_ascii=False).encode())


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
