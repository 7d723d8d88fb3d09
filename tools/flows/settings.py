"""The settings of one flow: a section [flow.NAME] of config.toml, checked in one value, and the cycles of all of them.

Whatever is wrong is a `ConfigError` of one line that names the section and says what to do. The names of columns are checked
later, when the tables exist.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.tools.bridges.scheme import SchemeError
from mycomesh.tools.bridges.schemes import scheme_named
from mycomesh.tools.models.tensors import TensorError, Tensors, declared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home

__all__ = [
    "EVERYWHERE",
    "HERE",
    "MEMORY_MIB_MAX",
    "ONE",
    "SQL_CHARS_MAX",
    "TIMEOUT_S_MAX",
    "FlowSettings",
    "check_cycles",
    "cursor_of",
    "load",
    "load_all",
    "names",
    "parse",
    "wrong",
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
TIMEOUT_S_MAX = 3_600
MEMORY_MIB_MAX = 65_536
KINDS = ("sql", "python", "exec", "onnx", "http", "https")
SQL_CHARS_MAX = 100_000  # of `on` and `run`; a person writes them
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
    sql: one INSERT, or a SELECT whose rows go into `into`.
    into: the table of the results.
    where: `here` for the writes of this node, `everywhere` for all, `one` for all on one node of those that reach each other, or
        names of the nodes that run it for all.
    begin: `now` takes writes after the flow was added, `start` those before it too.
    timeout_s: seconds that one call may take, 1..3,600.
    kind: `sql`, `python`, `exec`, `onnx` or `http`.
    call: MODULE:FUNCTION, a command for the shell, MODEL or MODEL@VERSION, or a URL; "" for SQL.
    memory_mib: of the worker's address space, 64..65,536 MiB.
    directory: where Python modules are found and commands run.
    tensors: how columns become the model's inputs, and its outputs columns.
    credentials, ca: paths of the webhook's files, "" for none.
    priority: a column by whose value the changes that wait go in, the greatest first; "" for their order.
    author: the member that wrote the row of `mycomesh_flows`, "" for a section of config.toml.
    """

    name: str
    table: str
    select: str
    sql: str
    into: str
    where: str | tuple[str, ...] = HERE
    begin: str = "now"
    timeout_s: int = 30
    kind: str = "sql"
    call: str = ""
    memory_mib: int = 512
    directory: str = "."
    tensors: Tensors = field(default_factory=Tensors)
    credentials: str = ""
    ca: str = ""
    author: str = ""
    priority: str = ""

    @property
    def inserts(self) -> bool:
        """Whether the SQL inserts by itself."""
        return _INTO.search(self.sql) is not None

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
    sections = sections_of(home.config_file, KIND)
    if name not in sections:
        found = _accepted(home)
        number = next((number for number, each in enumerate(found) if each.name == name), None)
        if number is not None:
            check_cycles(found[number], [*_before(sections, ""), *found[:number]])
            return found[number]
        known = ", ".join(sections) or "none"
        raise ConfigError(f"{home.config_file} has no section [flow.{name}]; its flows are: {known}")
    directory = str(home.config.absolute())
    settings = parse(name, sections[name], directory)
    check_cycles(settings, _before(sections, name))
    return settings


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
    edges: dict[str, list[FlowSettings]] = {}
    for each in others:
        edges.setdefault(fold(each.table), []).append(each)
    ways: list[tuple[str, tuple[str, ...]]] = [(settings.into, (settings.name,))]
    seen: set[str] = set()
    while ways:
        table, path = ways.pop()
        if fold(table) == fold(settings.table):
            raise wrong(
                settings.name,
                f"what it writes comes back to {settings.table}, by {' -> '.join(path)}; let it write into another table",
            )
        if fold(table) not in seen:
            seen.add(fold(table))
            ways += [(each.into, (*path, each.name)) for each in edges.get(fold(table), ())]


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
    kind, sql, call = _function(name, str(texts["run"]))
    begin = section.get("from", "now")
    if begin not in ("start", "now"):
        raise wrong(name, f"from must be one of start, now, not {begin!r}")
    timeout_s = section.get("timeout_s", 30)
    if type(timeout_s) is not int or not 1 <= timeout_s <= TIMEOUT_S_MAX:
        raise wrong(name, f"timeout_s must be 1..{TIMEOUT_S_MAX:,}, not {timeout_s!r}")
    memory_mib = section.get("memory_mib", 512)
    if type(memory_mib) is not int or not 64 <= memory_mib <= MEMORY_MIB_MAX:
        raise wrong(name, f"memory_mib must be 64..{MEMORY_MIB_MAX:,}, not {memory_mib!r}")
    into = _output(name, sql or "SELECT", section.get("into"))
    where = _where(name, section.get("where", HERE))
    try:
        tensors = declared(kind, section)
    except TensorError as error:
        raise wrong(name, str(error)) from error
    settings = FlowSettings(
        name, table, select, sql, into, where, begin, timeout_s, kind, call, memory_mib, directory, tensors
    )
    credentials, ca = _files(name, kind, section, directory)
    priority = section.get("priority", "")
    if not isinstance(priority, str):
        raise wrong(name, f"priority must be the name of a column of {table}, not {priority!r}")
    settings = replace(settings, credentials=credentials, ca=ca, priority=priority)
    if settings.where != HERE and settings.inserts and not _OWN_KEY.search(sql):
        raise wrong(
            name,
            "several nodes would insert a row each: write new._key into the key, or give a SELECT and 'into', which derives it",
        )
    check_cycles(settings, [])
    return settings


def _function(name: str, text: str) -> tuple[str, str, str]:
    """Return the kind of a function, its SQL and what is called, of which one is ""."""
    kind, colon, rest = text.partition(":")
    kind, rest = kind.strip(), rest.strip()
    if kind in ("http", "https"):
        return "http", "", _url(name, f"{kind}:{rest}" if rest.startswith("//") else rest)
    if not colon or kind not in KINDS or not rest:
        raise wrong(
            name,
            "run must begin with 'sql:', 'python:', 'exec:', 'onnx:' or 'https:', such as"
            ' run = "sql: INSERT INTO alerts SELECT id, at FROM new"',
        )
    if kind == "sql":
        return kind, _statement(name, "run", rest), ""
    if kind == "python" and not re.fullmatch(r"\w+(\.\w+)*:\w+", rest):
        raise wrong(
            name, f'run = "python: MODULE:FUNCTION" names a function of a module in this directory, not {rest!r}'
        )
    if kind == "onnx" and not re.fullmatch(r"[^@\n]+(@[1-9][0-9]{0,8})?", rest):
        raise wrong(name, f'run = "onnx: MODEL" names a model, or a version of it as MODEL@3, not {rest!r}')
    return kind, "", rest


def _url(name: str, text: str) -> str:
    """Check the URL of a webhook."""
    try:
        scheme_named("http")
        parts = urlsplit(text)
        _ = parts.port
    except (SchemeError, ValueError) as error:
        raise wrong(name, f"run {text!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.password is not None:
        raise wrong(
            name,
            f'run = "https://HOST/PATH" names a webhook, without a password (put it into a file: credentials), not {text!r}',
        )
    return text


def _files(name: str, kind: str, section: Mapping[str, Any], directory: str) -> list[str]:
    """Return the paths of `credentials` and `ca`, which only a webhook has."""
    found = []
    for key in ("credentials", "ca"):
        value = section.get(key, "")
        if not isinstance(value, str) or (value and kind != "http"):
            raise wrong(name, f"{key} must be the path of a file, for a webhook alone, not {value!r}")
        found.append(str(Path(directory) / Path(value).expanduser()) if value else "")
    return found


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
    return _plain(found[1]), _statement(name, "on", text)


def _statement(name: str, key: str, text: str) -> str:
    text = text.strip().removesuffix(";").rstrip()
    if ";" in text:
        raise wrong(name, f"{key} takes one statement, without ';': {text!r}")
    return text


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


def wrong(name: str, text: str) -> ConfigError:
    """Return the error of a flow's section."""
    return ConfigError(f"[flow.{name}] {text}")
