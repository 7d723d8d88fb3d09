"""Flows that members share as rows of `mycomesh_flows`, and which of them the section [flows] of config.toml accepts.

Invariants: a shared flow is SQL, a model, or a webhook at a host that [flows] names; its SQL only inserts into its table of
results. Its author is the member that wrote the section of the row, which the seal of a signed table proves.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mycomesh.mesh.node.config import sections_of
from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import read_private, write_private
from mycomesh.sync.sqlite.identifiers import INTERNAL_PREFIX, fold
from mycomesh.tools.flows.function import wrong
from mycomesh.tools.flows.settings import FlowSettings, names, parse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mycomesh.mesh.node.home import Home

__all__ = [
    "ACCEPTED_MAX",
    "CREATE",
    "MEMORY_MIB_MAX",
    "ROWS_MAX",
    "SECTION_CHARS_MAX",
    "TABLE",
    "TIMEOUT_S_MAX",
    "Acceptance",
    "Shared",
    "accepted_flows",
    "read_accepted",
    "shared_flow",
    "write_accepted",
]

TABLE = "mycomesh_flows"
CREATE = f"CREATE TABLE IF NOT EXISTS {TABLE}(name TEXT PRIMARY KEY, section TEXT)"
ACCEPTED_MAX = 16  # shared flows of one node: each is a process
SECTION_CHARS_MAX = 100_000
ROWS_MAX = 1_000  # rows of accepted members that are looked at
TIMEOUT_S_MAX = 30  # of a call of a shared flow; its SQL has `sql_function.SHARED_S_MAX` in a transaction
MEMORY_MIB_MAX = 512
KINDS = ("sql", "onnx", "http")
EVERYBODY = "*"
_KEYS = ("accept", "hosts")


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The section [flows].

    accept: names of the members whose flows this node runs; `*` for every one that may write the table.
    hosts: HOST or HOST:PORT of servers that their webhooks may ask.
    """

    accept: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    @classmethod
    def load(cls, home: Home) -> Acceptance:
        """Read the section.

        Raises:
            ConfigError: a key is unknown, or no list of texts.
        """
        section = sections_of(home.config_file, "flows").get("", {})
        for key, value in section.items():
            if key not in _KEYS:
                raise ConfigError(f"[flows] unknown key {key!r}; known are {', '.join(_KEYS)}")
            if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
                raise ConfigError(f"[flows] {key} must be a list of texts, not {value!r}")
        return cls(*(tuple(section.get(key, ())) for key in _KEYS))

    def takes(self, author: str) -> bool:
        """Return whether flows of a member are accepted."""
        return author in self.accept or (EVERYBODY in self.accept and bool(author))


@dataclass(frozen=True, slots=True)
class Shared:
    """One row of `mycomesh_flows`: the name of a flow, the member that wrote it, and the keys of its section."""

    name: str
    author: str
    section: Mapping[str, Any] = field(default_factory=dict)


def shared_flow(shared: Shared, hosts: tuple[str, ...], directory: str) -> FlowSettings:
    """Return the flow of a row.

    Raises:
        ConfigError: its section is wrong, or asks for what no member may.
    """
    flow = replace(parse(shared.name, shared.section, directory), author=shared.author or "another member")
    if flow.function.kind not in KINDS:
        raise wrong(shared.name, f"{flow.function.kind}: runs only from this node's own config.toml")
    if flow.function.timeout_s > TIMEOUT_S_MAX or flow.function.memory_mib > MEMORY_MIB_MAX:
        raise wrong(shared.name, f"a shared flow has at most {TIMEOUT_S_MAX} s and {MEMORY_MIB_MAX} MiB for a call")
    if flow.function.credentials or flow.function.ca:
        raise wrong(shared.name, "a shared flow has no files of this machine: remove credentials and ca")
    if flow.function.kind == "http":
        parts = urlsplit(flow.function.call)
        if not {parts.hostname, f"{parts.hostname}:{parts.port}"} & set(hosts):
            raise wrong(shared.name, f"{parts.netloc} is not among the hosts of [flows] in config.toml")
    if fold(flow.into).startswith(INTERNAL_PREFIX) or fold(flow.table).startswith(INTERNAL_PREFIX):
        raise wrong(shared.name, f"a shared flow cannot use tables of the node, such as {flow.into}")
    return flow


def accepted_flows(home: Home) -> list[FlowSettings]:
    """Return the accepted flows, by name; those that config.toml accepts no more are left out."""
    acceptance, own, found = Acceptance.load(home), set(names(home)), list[FlowSettings]()
    for each in read_accepted(home):
        if acceptance.takes(each.author) and each.name not in own:
            with contextlib.suppress(ConfigError):
                found.append(shared_flow(each, acceptance.hosts, str(home.config.absolute())))
    return found


def read_accepted(home: Home) -> list[Shared]:
    """Return the rows that the node has accepted, by name."""
    try:
        plain = json.loads(read_private(_file(home)) or b"[]")
        return [Shared(*each) for each in plain]
    except (ValueError, TypeError):
        return []


def write_accepted(home: Home, rows: list[Shared]) -> None:
    """Keep the rows that the node has accepted."""
    write_private(_file(home), json.dumps([(each.name, each.author, each.section) for each in rows]).encode())


def _file(home: Home) -> Path:
    return home.state / "accepted-flows"
