"""The settings of one flow: a section [flow.NAME] of config.toml, checked in one value, and the cycles of all of them.

Whatever is wrong is a `ConfigError` of one line that names the section and says what to do. The names of columns are checked
later, when the tables exist.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.tools.flows.cycles import cycle
from mycomesh.tools.flows.function import SQL_CHARS_MAX, Function, function_of, statement, wrong

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home

__all__ = [
    "EVERYWHERE",
    "HERE",
    "ONE",
    "FlowSettings",
    "check_cycles",
    "comes_back",
    "cursor_of",
    "load",
    "load_all",
    "load_with_others",
    "names",
    "parse",
]

KIND = "flow"
KEYS = (
    "on",
    "run",
    "into",
    "where",
    "from",
    "timeout_s",
    "memory_mib",
    "inputs",
    "outputs",
    "keep",
    "credentials",
    "ca",
    "priority",
)
HERE, EVERYWHERE, ONE = "here", "everywhere", "one"
_IDENTIFIER = r'("(?:[^"]|"")+"|\[[^\]]+\]|`[^`]+`|\w+)'
_FROM = re.compile(rf"\bFROM\s+{_IDENTIFIER}", re.IGNORECASE)
_INTO = re.compile(rf"(?:INSERT(?:\s+OR\s+\w+)?|REPLACE)\s+INTO\s+(?:main\s*\.\s*)?{_IDENTIFIER}", re.IGNORECASE)
_SELECT = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
_OWN_KEY = re.compile(r"\b(_key|OR\s+(IGNORE|REPLACE)|REPLACE\s+INTO|ON\s+CONFLICT)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FlowSettings:
    """One flow.

    table: the table whose writes go in.
    select: SQL over that table that makes `new`, "" for the row as it is.
    into: the table of the results.
    function: what runs.
    where: `here` for the writes of this node, `everywhere` for all, `one` for all on one node of those that reach each other, or
        names of the nodes that run it for all.
    begin: `now` takes writes after the flow was added, `start` those before it too.
    priority: a column by whose value the changes that wait go in, the greatest first; "" for their order.
    author: the member that wrote the row of `mycomesh_flows`, "" for a section of config.toml.
    """

    name: str
    table: str
    select: str
    into: str
    function: Function
    where: str | tuple[str, ...] = HERE
    begin: str = "now"
    priority: str = ""
    author: str = ""

    @property
    def inserts(self) -> bool:
        """Whether the SQL inserts by itself."""
        return _INTO.search(self.function.sql) is not None

    @property
    def cursor(self) -> str:
        """The name of its cursor in the change feed."""
        return cursor_of(self.name)


def cursor_of(flow: str) -> str:
    """Return the name of a flow's cursor in the change feed."""
    return f"{KIND}.{flow}"


def names(home: Home) -> list[str]:
    """Return the names of all flows of a home."""
    return list(sections_of(home.config_file, KIND))


def load(home: Home, name: str) -> FlowSettings:
    """Read the settings of one flow from config.toml.

    Raises:
        ConfigError: there is no such section, it is wrong, or it closes a cycle.
    """
    settings, others = load_with_others(home, name)
    check_cycles(settings, others)
    return settings


def load_with_others(home: Home, name: str) -> tuple[FlowSettings, list[FlowSettings]]:
    """Read the settings of one flow, and of those that go before it where a cycle has to be broken; raises `ConfigError`."""
    sections = sections_of(home.config_file, KIND)
    if name in sections:
        return parse(name, sections[name], str(home.config.absolute())), _before(sections, name)
    found = _accepted(home)
    number = next((number for number, each in enumerate(found) if each.name == name), None)
    if number is not None:
        return found[number], [*_before(sections, ""), *found[:number]]
    known = ", ".join(sections) or "none"
    raise ConfigError(f"{home.config_file} has no section [flow.{name}]; its flows are: {known}")


def load_all(home: Home) -> list[FlowSettings]:
    """Read the settings of all flows; raises `ConfigError` as `load`."""
    return [*(load(home, name) for name in names(home)), *_accepted(home)]


def _accepted(home: Home) -> list[FlowSettings]:
    """Return the flows that other members share and this node accepts. Few nodes have some."""
    module = importlib.import_module("mycomesh.tools.flows.accepted")
    found: list[FlowSettings] = module.accepted_flows(home)
    return found


def _before(sections: Mapping[str, Any], name: str) -> list[FlowSettings]:
    """Return the flows before one, without those whose own process refuses them: the last one of a cycle closes it."""
    found = []
    for other, section in sections.items():
        if other == name:
            break
        with contextlib.suppress(ConfigError):
            found.append(parse(other, section))
    return found


def check_cycles(settings: FlowSettings, others: list[FlowSettings]) -> None:
    """Raise `ConfigError` if what a flow writes comes back to it by this flow and others."""
    if path := cycle(settings, others):
        raise wrong(settings.name, comes_back(settings, path))


def comes_back(settings: FlowSettings, path: tuple[str, ...], how: str = "") -> str:
    """Return why a flow in a cycle is refused."""
    return (
        f"what it writes comes back to {settings.table}, by {' -> '.join(path)}{how}; let it write into another table"
    )


def parse(name: str, section: Mapping[str, Any], directory: str = ".") -> FlowSettings:
    """Check a section; functions and commands are those of a directory.

    Raises:
        ConfigError: a key is missing, unknown or of another type, or its SQL has another form.
    """
    unknown = next((key for key in section if key not in KEYS), None)
    if unknown is not None:
        raise wrong(name, f"unknown key {unknown!r}; known are {', '.join(KEYS)}")
    texts = {key: section.get(key) for key in ("on", "run")}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip() or len(text) > SQL_CHARS_MAX:
            example = {"on": 'on = "drones"', "run": 'run = "sql: INSERT INTO alerts SELECT id, at FROM new"'}[key]
            raise wrong(name, f"needs {key!r}, a text of at most {SQL_CHARS_MAX:,} characters, such as {example}")
    table, select = _input(name, str(texts["on"]))
    begin = section.get("from", "now")
    if begin not in ("start", "now"):
        raise wrong(name, f"from must be one of start, now, not {begin!r}")
    function = function_of(name, section, directory)
    into = _output(name, function.sql or "SELECT", section.get("into"))
    where = _where(name, section.get("where", HERE))
    priority = section.get("priority", "")
    if not isinstance(priority, str):
        raise wrong(name, f"priority must be the name of a column of {table}, not {priority!r}")
    settings = FlowSettings(name, table, select, into, function, where, begin, priority)
    if settings.where != HERE and settings.inserts and not _OWN_KEY.search(function.sql):
        raise wrong(
            name,
            "several nodes would insert a row each: write new._key into the key, or give a SELECT and 'into', which derives it",
        )
    check_cycles(settings, [])
    return settings


def _input(name: str, text: str) -> tuple[str, str]:
    """Return the table of `on`, and the SELECT if it is one."""
    if not _SELECT.match(text):
        return text.strip(), ""
    found = _FROM.search(text)
    if found is None or fold(_plain(found[1])) == "new":
        raise wrong(
            name,
            f"on: a SELECT needs the table after FROM, such as SELECT * FROM drones WHERE battery < 20, not {text!r}",
        )
    return _plain(found[1]), statement(name, "on", text)


def _output(name: str, sql: str, into: Any) -> str:
    """Return the table of the results; the SQL may name it."""
    if into is not None and (not isinstance(into, str) or not into):
        raise wrong(name, f"into must be the name of a table, not {into!r}")
    found = _INTO.search(sql)
    if found is None:
        if not _SELECT.match(sql):
            raise wrong(name, f"run takes an INSERT or a SELECT, not {sql!r}")
        if into is None:
            raise wrong(name, "needs 'into', the table of the rows that its SELECT makes")
        return str(into)
    target = _plain(found[1])
    if into is not None and fold(into) != fold(target):
        raise wrong(name, f"into is {into!r}, but the SQL inserts into {target!r}; name one table")
    return target


def _where(name: str, value: Any) -> str | tuple[str, ...]:
    if value in (HERE, EVERYWHERE, ONE):
        return str(value)
    if isinstance(value, list) and value and all(isinstance(each, str) and each for each in value):
        return tuple(value)
    raise wrong(name, f'where must be "here", "everywhere", "one" or a list of names of nodes, not {value!r}')


def _plain(identifier: str) -> str:
    """Return a name without its quotes."""
    if identifier[0] in "[`":
        return identifier[1:-1]
    return identifier[1:-1].replace('""', '"') if identifier[0] == '"' else identifier
