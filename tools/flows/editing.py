"""Changes of a flow that is there: other keys for its section, and the section before, which is kept for a way back.

The node reads config.toml again and starts the flow with it. Its position stays, so that no change runs twice.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import read_private, write_private
from mycomesh.tools.flows.sections import replace_section
from mycomesh.tools.flows.settings import check_cycles, parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["KEPT_MAX", "drafted", "edit", "rollback"]

KEPT_MAX = 16  # earlier sections of one flow
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
    kept = _kept(home)
    kept[name] = [*kept.get(name, []), before][-KEPT_MAX:]
    _keep(home, kept)


def rollback(home: Home, name: str) -> dict[str, Any]:
    """Write the section before the last edit; return it.

    Raises:
        ConfigError: no edit was made, or the section does not fit the other flows.
    """
    _section(home, name)
    kept = _kept(home)
    if not kept.get(name):
        raise ConfigError(f"[flow.{name}] has no earlier section: only 'mycomesh flow edit' keeps one")
    before: dict[str, Any] = kept[name].pop()
    _put(home, name, before)
    _keep(home, {each: sections for each, sections in kept.items() if sections})
    return before


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
    others = []
    for other, given in sections_of(home.config_file, _KIND).items():
        with contextlib.suppress(ConfigError):  # its own process says what is wrong with it
            others += [parse(other, given, directory)] if other != name else []
    check_cycles(parse(name, section, directory), others)
    replace_section(home, name, section)


def _kept(home: Home) -> dict[str, list[dict[str, Any]]]:
    """Return the earlier sections of each flow; none where the file is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(read_private(_file(home)) or b"{}")
        if isinstance(found, dict):
            return found
    return {}


def _keep(home: Home, kept: Mapping[str, list[dict[str, Any]]]) -> None:
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)  # no node has run here
    write_private(_file(home), json.dumps(kept, ensure_ascii=False).encode())


def _file(home: Home) -> Path:
    return home.state / "flows-before.json"
