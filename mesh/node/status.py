"""What a node tells people about itself: frozen values and their one JSON shape.

Owns the schema that `--json`, the control socket and the views share. What always holds: a `Status` turns into plain
JSON values and back without loss, and `schema` changes when a field changes its meaning.
It must not know where the figures come from, and it imports neither mesh nor sync, so that a reader starts fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from mycomesh.mesh.node.errors import NodeError

__all__ = [
    "SCHEMA",
    "LinkView",
    "Mark",
    "PeerView",
    "ProgressView",
    "ScrubView",
    "Status",
    "TableView",
    "from_json",
    "to_json",
]

SCHEMA = 1
REMEDY = "restart the node after an update"


@dataclass(frozen=True, slots=True)
class ProgressView:
    """What is being fetched from a peer: changes so far and about how many in all (0: not known yet), bytes, time left."""

    rows: int
    expected: int
    received_bytes: int
    left_ms: int | None


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link that a member says it has: to whom, round trip (None: not measured), bytes both ways since it stands."""

    node_id: str
    rtt_ms: int | None
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class PeerView:
    """One member of the mesh as this node sees it. `state` is linked, reachable or down; `equal` once compared.

    `protocol` is the version agreed on, or what a member speaks with which there is none; empty if it was not met.
    """

    node_id: str
    name: str
    roles: tuple[str, ...]
    state: str
    address: str
    rtt_ms: float | None
    offset_ms: float | None
    equal: bool | None
    seen_ms_ago: int | None
    sent_bytes: int
    received_bytes: int
    catching_up: ProgressView | None = None
    links: tuple[LinkView, ...] = ()
    protocol: str = ""


@dataclass(frozen=True, slots=True)
class TableView:
    """One replicated table: `digest` in hexadecimal is equal on two nodes exactly when the contents are.

    `equal_on` counts the linked peers that hold the same, when last compared; None if none has been compared yet.
    """

    name: str
    rows: int
    digest: str
    conflicts: int
    parked: int
    note: str
    equal_on: int | None = None


@dataclass(frozen=True, slots=True)
class ScrubView:
    """The last pass of the scrub: when it ended, rows that had not been captured before, the tables that they are in."""

    ended_ms_ago: int
    found: int
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """The whole answer to "how is this node?". `phase` is joining, serving or stopping; `hint` says what to do next.

    `clock_offset_ms` is mesh time (the median of the linked clocks) minus this node's, None before it was measured.
    """

    schema: int
    version: str
    phase: str
    mesh: str
    mesh_id: str
    node: str
    node_id: str
    pid: int
    uptime_ms: int
    file: str
    port: int
    site: str
    pending: int
    hint: str
    clock_offset_ms: float | None = None
    peers: tuple[PeerView, ...] = ()
    tables: tuple[TableView, ...] = ()
    not_after_s: int = 0  # unix time at which this node's certificate expires
    scrub: ScrubView | None = None  # None: no pass has come to its end yet
    lock_held_ms: float = 0.0  # the longest that the node has held the file's write lock at a time, since it began
    roles: tuple[str, ...] = ()


def to_json(status: Status) -> dict[str, Any]:
    """Return plain JSON values."""
    return asdict(status)


def from_json(value: dict[str, Any]) -> Status:
    """Read what `to_json` made, by another version too as long as its schema is this one: what it adds is left out."""
    if value.get("schema") != SCHEMA:
        raise NodeError(f"the node speaks status schema {value.get('schema')}, this command {SCHEMA}; {REMEDY}")
    try:
        scrub = None if value.get("scrub") is None else _scrub(value["scrub"])
        parts = {
            "peers": tuple(_peer(peer) for peer in value["peers"]),
            "tables": tuple(TableView(**_known(TableView, table)) for table in value["tables"]),
            "scrub": scrub,
            "roles": tuple(value.get("roles", ())),
        }
        return Status(**{**_known(Status, value), **parts})
    except (KeyError, TypeError) as error:
        raise NodeError(f"the node's status lacks what this command shows ({error}); {REMEDY}") from error


def _scrub(value: dict[str, Any]) -> ScrubView:
    return ScrubView(**{**_known(ScrubView, value), "tables": tuple(value["tables"])})


def _peer(value: dict[str, Any]) -> PeerView:
    progress = value["catching_up"]
    view = None if progress is None else ProgressView(**_known(ProgressView, progress))
    links = tuple(LinkView(**_known(LinkView, link)) for link in value.get("links", ()))
    parts = {"roles": tuple(value["roles"]), "catching_up": view, "links": links}
    return PeerView(**{**_known(PeerView, value), **parts})


def _known(kind: type[Any], value: dict[str, Any]) -> dict[str, Any]:
    return {field.name: value[field.name] for field in fields(kind) if field.name in value}


@dataclass(frozen=True, slots=True)
class Mark:
    """What was written here up to a moment: the site, and by folded table name the hlc of its newest stamp."""

    site: bytes
    tables: Mapping[str, int]

    def plain(self) -> dict[str, Any]:
        """Return the JSON form; clocks as text, since JSON readers lose digits of large numbers."""
        return {"site": self.site.hex(), "tables": {name: str(hlc) for name, hlc in self.tables.items()}}
