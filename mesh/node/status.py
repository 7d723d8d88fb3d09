"""The status of a node, as frozen values with one JSON form for `--json`, the control socket and the views.

`schema` changes whenever a field changes its meaning. The module imports neither mesh nor sync, so that commands start fast.

Invariant: a `Status` turns into JSON values and back without loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mycomesh.mesh.node.errors import NodeError

__all__ = [
    "SCHEMA",
    "AccountView",
    "AreaView",
    "BudgetView",
    "ChildView",
    "LinkView",
    "MailboxView",
    "PeerView",
    "ProgressView",
    "ReaderView",
    "ScrubView",
    "Status",
    "StreamView",
    "TableView",
    "TrafficView",
    "TroubleView",
    "WritePosition",
    "from_json",
    "to_json",
]

SCHEMA = 1
REMEDY = "restart the node after an update"


@dataclass(frozen=True, slots=True)
class ProgressView:
    """The progress of fetching from a peer.

    `rows` counts the changes so far, `expected` those in all, roughly (0: not known yet); `left_ms` estimates the time left.
    """

    rows: int
    expected: int
    received_bytes: int
    left_ms: int | None


@dataclass(frozen=True, slots=True)
class LinkView:
    """A link that another member reports: the node at its other end, round-trip time (None: not measured), bytes both ways."""

    node_id: str
    rtt_ms: int | None
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class PeerView:
    """One member of the mesh as this node sees it. `state` is linked, reachable or down; `equal` once compared.

    `protocol` is the version agreed on, or the versions that the member speaks if none is common; empty without contact so far.
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
    """One replicated table. Two nodes have the same `digest` (hexadecimal) exactly if their contents are equal.

    `equal_on` counts the linked peers whose table was equal when last compared; None before the first comparison. `horizon` is
    the time (ISO 8601) before which rows are gone, "" if rows stay; `cut` rows have gone, and `refused` came too late. `areas_by`
    is the column that cuts the table into areas, "" if none does; it is equal on peers that have all equal that both keep.
    """

    name: str
    rows: int
    digest: str
    conflicts: int
    parked: int
    note: str
    equal_on: int | None = None
    horizon: str = ""
    cut: int = 0
    refused: int = 0
    areas_by: str = ""


@dataclass(frozen=True, slots=True)
class AreaView:
    """One area of a table that is cut. `changes` are those in this file, and `digest` (hexadecimal) is theirs.

    `kept`: this node keeps it; if not, what is here waits until enough others have it. `equal_on` and `behind` count the linked
    peers that keep it and had it equal, or not, when last compared. `holders` counts the members that keep it, this node
    included; `wanted` is how many should. `writers` are the nodes that have written most of the changes: the first half of the
    node id, and how many. `withheld`: some are of this node, which may not write the area, and stay here.
    """

    table: str
    area: str
    kept: bool
    changes: int
    digest: str
    equal_on: int
    behind: int
    holders: int
    wanted: int
    writers: tuple[tuple[str, int], ...] = ()
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class TrafficView:
    """Messages of one kind and their bytes before encryption, since the node started.

    The kind "rest" has the bytes of handshakes and frames. `in_circuits`: they were inside of circuits, whose frames count as
    kind "circuit" of the links that carried them.
    """

    kind: str
    in_circuits: bool
    sent: int
    sent_bytes: int
    received: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class AccountView:
    """Account of another node's writes in this file: the figures grow from the moment when the account began.

    `node_id` is its id; of a node that is no member, whose `name` is "", the first half; "" for all nodes beyond the limit.
    `bytes` are those of its changes as they came. `stated` has the number of its definitions that count today, by kind.
    """

    node_id: str
    name: str
    rows: int
    bytes: int
    conflicts: int
    parked: int
    since: str
    stated: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReaderView:
    """A cursor of the change feed: about how many changes it has not passed, and how old the first of them is.

    `idle`: it has not moved for so long that it holds no deletes back.
    """

    cursor: str
    table: str
    behind: int
    behind_s: float | None
    moved_at: str
    idle: bool


@dataclass(frozen=True, slots=True)
class ChildView:
    """A child process of the node: the kind and the name of its section, and what it reported last.

    `state` is starting, running, paused, refused, failed, or a word of its own such as waiting or stopped; `text` says why.
    `pid` is the process, or None. `figures` are numbers with names, such as sent and received.
    """

    kind: str
    name: str
    state: str
    text: str
    pid: int | None
    starts: int
    figures: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def with_process(self, pid: int | None) -> ChildView:
        """Return the view after a process has started, or with None, after it has ended."""
        return replace(self, pid=pid, starts=self.starts + (pid is not None))

    def with_state(self, state: str, text: str, figures: Mapping[str, float]) -> ChildView:
        """Return the view after a report."""
        return replace(self, state=state, text=text, figures=figures)


@dataclass(frozen=True, slots=True)
class StreamView:
    """The progress of a gateway with the stream of another node in its mailbox.

    base: the name of the other's base, "" if it has none or it is not known yet.
    position: everything up to here was read. waiting, lag_s: envelopes after it, and by how much the newest is younger.
    bytes, taken, copies, refused: bytes read, runs of changes taken in, runs that brought nothing new, envelopes refused.
    why, behind: what it waits for or refused last, and the tables that do not follow.
    proved_s_ago: when both had the same rows in all tables, None if that was not seen yet.
    names: its streams in the storage, that of changes and that of parcels, for a person who removes those of a withdrawn base.
    """

    member: str
    base: str
    node_id: str
    position: int
    waiting: int
    lag_s: float
    bytes: int
    taken: int
    copies: int
    refused: int
    why: str
    behind: tuple[str, ...]
    proved_s_ago: float | None
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MailboxView:
    """The mailbox of a gateway: its URL, the name of this base, and starting, running or waiting, with the reason.

    envelopes, bytes, parcels: appended since the start. kept_bytes: what this node has in the mailbox.
    removes, removes_text: whether the storage lets this node remove its own old envelopes, yes, no or unknown, and why not.
    clock_offset_s: how far the storage's clock is ahead of this node's, None if that is not known. clock: a clock that is wrong.
    """

    url: str
    base: str
    state: str
    text: str
    envelopes: int
    bytes: int
    parcels: int
    kept_bytes: int
    streams: tuple[StreamView, ...] = ()
    removes: str = "unknown"
    removes_text: str = ""
    clock_offset_s: float | None = None
    clock: str = ""


@dataclass(frozen=True, slots=True)
class ScrubView:
    """The last complete scrub: when it ended, how many uncaptured rows it found, and in which tables."""

    ended_ms_ago: int
    found: int
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TroubleView:
    """Why the file takes in no rows of other nodes: database.locked, database.refused or disk.low, in words, since when."""

    code: str
    text: str
    since_ms_ago: int


@dataclass(frozen=True, slots=True)
class BudgetView:
    """The budget of metered links: bytes a second of each, bytes in 24 hours of all, and how many went; None for no limit.

    `waiting` counts the links on which something waits for a budget, `tables` are those that wait for their own.
    """

    links: int
    waiting: int
    bytes_s: int | None
    bytes_day: int | None
    spent_bytes: int
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """The whole status of a node. `phase` is joining, starting or serving; `hint` says what the user should do next.

    `clock_offset_ms` is mesh time (the median of the linked clocks) minus this node's clock, None before a measurement.
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
    not_after_s: int = 0  # Unix time at which this node's certificate expires
    scrub: ScrubView | None = None  # None: no scrub has completed yet
    lock_held_ms: float = 0.0  # the longest time that the node has had the file locked, since it started
    roles: tuple[str, ...] = ()
    trouble: TroubleView | None = None  # None: the file takes in rows of other nodes
    free_bytes: int | None = None  # on the disk of the file; None if it is not known
    accounts: tuple[AccountView, ...] = ()
    readers: tuple[ReaderView, ...] = ()
    children: tuple[ChildView, ...] = ()
    mailboxes: tuple[MailboxView, ...] = ()
    metered: BudgetView | None = None  # None: no link has a budget
    areas: tuple[AreaView, ...] = ()  # those first of which something is amiss; `areas_more` are left out
    areas_more: int = 0
    traffic: tuple[TrafficView, ...] = ()
    revoked: bool = False  # this node knows that it was revoked; `hint` says what to do


def to_json(status: Status) -> dict[str, Any]:
    """Return plain JSON values."""
    return asdict(status)


def from_json(value: dict[str, Any]) -> Status:
    """Read the result of `to_json`, also of another version with the same schema; ignore fields that it has added.

    Raises:
        NodeError: the schema differs, or a field is missing.
    """
    if value.get("schema") != SCHEMA:
        raise NodeError(f"the node has status schema {value.get('schema')}, this command {SCHEMA}; {REMEDY}")
    try:
        scrub = None if value.get("scrub") is None else _scrub(value["scrub"])
        parts = {
            "peers": tuple(_peer(peer) for peer in value["peers"]),
            "tables": tuple(TableView(**_known(TableView, table)) for table in value["tables"]),
            "scrub": scrub,
            "roles": tuple(value.get("roles", ())),
            "areas": tuple(map(_area, value.get("areas", ()))),
            "traffic": tuple(TrafficView(**_known(TrafficView, each)) for each in value.get("traffic", ())),
            "accounts": tuple(AccountView(**_known(AccountView, each)) for each in value.get("accounts", ())),
            "readers": tuple(ReaderView(**_known(ReaderView, each)) for each in value.get("readers", ())),
            "children": tuple(ChildView(**_known(ChildView, each)) for each in value.get("children", ())),
            "mailboxes": tuple(_mailbox(each) for each in value.get("mailboxes", ())),
            "metered": None if value.get("metered") is None else _budget(value["metered"]),
            "trouble": None if value.get("trouble") is None else TroubleView(**_known(TroubleView, value["trouble"])),
        }
        return Status(**{**_known(Status, value), **parts})
    except (KeyError, TypeError) as error:
        raise NodeError(f"the node's status lacks a field that this command shows ({error}); {REMEDY}") from error


def _budget(value: dict[str, Any]) -> BudgetView:
    return BudgetView(**{**_known(BudgetView, value), "tables": tuple(value.get("tables", ()))})


def _scrub(value: dict[str, Any]) -> ScrubView:
    return ScrubView(**{**_known(ScrubView, value), "tables": tuple(value["tables"])})


def _mailbox(value: dict[str, Any]) -> MailboxView:
    streams = tuple(
        StreamView(
            **{**_known(StreamView, each), "behind": tuple(each["behind"]), "names": tuple(each.get("names", ()))}
        )
        for each in value.get("streams", ())
    )
    return MailboxView(**{**_known(MailboxView, value), "streams": streams})


def _area(value: dict[str, Any]) -> AreaView:
    known = _known(AreaView, value)
    return AreaView(**known | {"writers": tuple((node, count) for node, count in known.get("writers", ()))})


def _peer(value: dict[str, Any]) -> PeerView:
    progress = value["catching_up"]
    view = None if progress is None else ProgressView(**_known(ProgressView, progress))
    links = tuple(LinkView(**_known(LinkView, link)) for link in value.get("links", ()))
    parts = {"roles": tuple(value["roles"]), "catching_up": view, "links": links}
    return PeerView(**{**_known(PeerView, value), **parts})


def _known(kind: type[Any], value: dict[str, Any]) -> dict[str, Any]:
    return {each.name: value[each.name] for each in fields(kind) if each.name in value}


@dataclass(frozen=True, slots=True)
class WritePosition:
    """A position in this node's writes: its site, and for each table (folded name) the hlc of the newest stamp."""

    site: bytes
    tables: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values, with clocks as strings: JSON readers lose digits of large numbers."""
        return {"site": self.site.hex(), "tables": {name: str(hlc) for name, hlc in self.tables.items()}}
