"""Adds, replaces and removes the section of a flow in config.toml, and leaves the rest of the file as it is written."""

from __future__ import annotations

import json
import os
import re
import tomllib
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import load as load_config
from mycomesh.mesh.node.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home

__all__ = ["add_section", "remove_section", "replace_section"]

_HEADER = re.compile(r"^\s*\[", re.MULTILINE)


def add_section(home: Home, name: str, section: Mapping[str, Any]) -> None:
    """Write a section behind the others.

    Raises:
        ConfigError: the file would be of no use with it; it stays as it is.
    """
    _replace(home, _with(_text(home), name, section))


def remove_section(home: Home, name: str) -> None:
    """Remove a section, with the lines up to the next one.

    Raises:
        ConfigError: it is written in another form than under a line [flow.NAME].
    """
    _replace(home, _without(home, name))


def replace_section(home: Home, name: str, section: Mapping[str, Any]) -> None:
    """Write a section in place of the one of its name, behind the others.

    Raises:
        ConfigError: as `add_section` and `remove_section`; the file stays as it is.
    """
    _replace(home, _with(_without(home, name), name, section))


def _with(text: str, name: str, section: Mapping[str, Any]) -> str:
    lines = [f"{key} = {_toml(value)}" for key, value in section.items()]
    gap = "\n" if text.strip() else ""
    return f"{text.rstrip()}\n{gap}[flow.{name}]\n".lstrip("\n") + "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a value in TOML: a table inline, and all else as JSON has it too."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def _without(home: Home, name: str) -> str:
    text = _text(home)
    wanted = tomllib.loads(text)
    wanted.get("flow", {}).pop(name, None)
    if not wanted.get("flow"):
        wanted.pop("flow", None)
    header = rf"^[ \t]*\[[ \t]*flow[ \t]*\.[ \t]*[\"']?{re.escape(name)}[\"']?[ \t]*\][^\n]*\n?"
    found = re.search(header, text, re.MULTILINE)
    if found is not None:
        following = _HEADER.search(text, found.end())
        rest = "" if following is None else text[following.start() :]
        left = f"{text[: found.start()].rstrip()}\n\n{rest}".strip("\n")
        shorter = f"{left}\n" if left else ""
        if _is(shorter, wanted):
            return shorter
    raise ConfigError(f"{home.config_file}: [flow.{name}] is not under a line of its own; remove it with an editor")


def _is(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _text(home: Home) -> str:
    return home.config_file.read_text(encoding="utf-8") if home.config_file.exists() else ""


def _replace(home: Home, text: str) -> None:
    partial = home.config_file.with_suffix(".new")
    with open(partial, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(text)
    try:
        load_config(partial)
        partial.replace(home.config_file)
    finally:
        partial.unlink(missing_ok=True)
