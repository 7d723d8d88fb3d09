"""The interface of a scheme: what a bridge needs of one kind of outside system, such as NATS, MQTT or a TAK server.

A scheme is one connection. It knows its protocol and no tables, cursors or configuration; the bridge's loops (`outbound`,
`inbound`) call it, and own retries, dead letters and acknowledgement of the feed. To add one, write a module here with a class
that derives from `Scheme`, override what the system can do (`publish`, or `subscribe` and `receive`, or all), and name it in
`schemes.SCHEMES`. The client library is imported in that module, which is loaded in the bridge's process alone.

All methods run on one event loop. `publish` and `receive` run concurrently, each of them one call at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Arrival", "Finding", "Limits", "LinkError", "Message", "Options", "Scheme", "SchemeError", "reason"]

LINE_CHARS_MAX = 400  # of an error's text, in which words of the other side may be


class _LineError(Exception):
    """An error whose text is one printable line, whatever the other side has said."""

    def __init__(self, text: str) -> None:
        line = " ".join(text.split())
        plain = "".join(char if char.isprintable() else "\ufffd" for char in line[: LINE_CHARS_MAX + 1])
        super().__init__(plain if len(plain) <= LINE_CHARS_MAX else f"{plain[: LINE_CHARS_MAX - 3]}...")


class SchemeError(_LineError):
    """The outside system refuses what this section asks for, and trying again does not help. One line with the remedy."""


class LinkError(_LineError):
    """The connection is lost, or cannot be made now; the bridge connects again and repeats what was not acknowledged."""


def reason(error: BaseException) -> str:
    """Return what an error of a library says; many say nothing when the time is over."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one outside system.

    payload_max: bytes of one message with its headers; larger ones become dead letters before they are sent.
    dedupes: the system drops a second message with the id of one that it has.
    retained: it keeps the last message of each topic, so that the bridge publishes all rows again after each reconnect.
    """

    payload_max: int = 1 << 20
    dedupes: bool = False
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """The part of a section that a scheme needs.

    url: with its scheme; the user's name may be in it, the password is not.
    bridge: the name of the section, equal on every node: what a durable subscription is named by.
    node: the name of this node.
    user, password, token: of the credentials file, "" if it has none.
    ca: path of a file with the certificates to trust; None for those of the system.
    create: create a missing stream, queue or topic.
    from_now: a new subscription begins with the next message.
    outgoing: every topic of `out`, and incoming: every pattern of `in`, in the notation of the system: a level with a `{column}`
        has become its wildcard of one level.
    in_flight_max: messages that may wait for an acknowledgement.
    more: the scheme's own settings.
    count: adds so many to a figure of the bridge, such as `dropped`, which `bridge status` and the metrics show.
    notify: lets the node log a notice: a code of `mycomesh explain`, and one line.
    """

    url: str
    bridge: str
    node: str = ""
    user: str = ""
    password: str = ""
    token: str = ""
    ca: str | None = None
    create: bool = False
    from_now: bool = False
    outgoing: tuple[str, ...] = ()
    incoming: tuple[str, ...] = ()
    in_flight_max: int = 500
    more: Mapping[str, Any] = field(default_factory=dict)
    count: Callable[[str, int], None] = lambda _name, _count: None
    notify: Callable[[str, str], None] = lambda _event, _text: None


@dataclass(slots=True)
class Message:
    """One change to publish.

    topic: the template of the table with the row's values in it.
    body: in the section's format; None for a delete.
    id: TABLE/SITE/HLC, equal on every node, for the protocol's own place of a message id.
    key: the row's key as text. Messages of one key have to stay in order.
    headers: mesh-id, mesh-op, mesh-hlc and mesh-node, for a protocol that has headers.
    table, op, values: the table, `insert`, `update` or `delete`, and the columns (those of the key for a delete), for a scheme
        that makes a body of its own.
    """

    topic: str
    body: bytes | None
    id: str
    key: str
    headers: dict[str, str]
    table: str = ""
    op: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Arrival:
    """One message from outside.

    topic: where it was published.
    body: its bytes, empty for a delete.
    id: what it is recognised by when it comes again, "" if the system has no such thing: it may then be written twice.
    headers: of the message.
    at_ms: when it was published, in Unix milliseconds; None if it does not say.
    values: the row's columns, of a scheme that reads the body itself; None where the body is JSON or CBOR.
    delete: the row is to be deleted.
    source, offset: the partition and the place in it, of a system whose positions the bridge keeps in the file; offset None else.
    token: anything that `acknowledge` needs.
    """

    topic: str
    body: bytes
    id: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    at_ms: int | None = None
    values: Mapping[str, Any] | None = None
    delete: bool = False
    source: str = ""
    offset: int | None = None
    token: Any = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `mycomesh bridge test`: a step, whether it went well, and what was seen or what to do."""

    step: str
    good: bool
    text: str


class Scheme:
    """One connection to one outside system."""

    limits = Limits()
    wildcard_level = "*"  # names one level of a topic in a pattern
    wildcard_rest = ">"  # names all levels that follow
    separator = "."  # between levels
    # Every node with the section has an outside system of its own, such as a directory or a radio, so that all of them publish
    # and receive; else one of those that reach each other publishes.
    everywhere = False
    receives_everywhere = False  # or all of them receive, by a listener of their own, while one publishes
    # The part of the URL behind `//` is no HOST:PORT, such as `udpin:0.0.0.0:14550`; `check` reads it.
    own_address = False
    # A delete needs no topic, because the scheme removes by table and key.
    deletes_by_key = False
    # Rows that came in by this bridge go out by it too: a server has other clients, which have not seen them.
    returns_rows = False
    extra = ""  # the extra of pip that brings the client library, "" if none is needed
    # Topic -> SQL that creates the table of that topic where `create` is set, of a scheme that knows its columns. {table} becomes
    # the quoted name.
    schema: Mapping[str, str] = {}
    # Keys of a section that this scheme alone has, with their defaults, which also give the type; `Options.more` has the values.
    settings: Mapping[str, Any] = {}

    def __init__(self, options: Options) -> None:
        self.options = options

    @classmethod
    def check(cls, options: Options) -> None:
        """Raise `SchemeError` if the URL or a topic cannot be used with this scheme; nothing is connected yet."""

    async def connect(self) -> None:
        """Connect, and find out what the system can take: `limits` holds from here on.

        Raises:
            SchemeError: it refuses the name, the credentials or the certificate, or a stream is missing.
            LinkError: it cannot be reached.
        """

    async def watch(self) -> None:
        """Raise `LinkError` once the connection is lost, also while nothing is published or received.

        It waits for ever where there is no connection, or where the client library connects again by itself.
        """
        await asyncio.Event().wait()

    async def close(self) -> None:
        """End the connection, without raising; also one that is lost or was never made."""

    async def publish(self, messages: Sequence[Message]) -> Sequence[str]:  # noqa: ARG002 -- for those that override it
        """Send messages and wait until the system has taken each of them for good.

        Returns one text for each: "" for taken, "duplicate" if the system had it, else why it is refused for ever.

        Raises:
            LinkError: what was not acknowledged comes again after the next `connect`.
            SchemeError: the stream is gone or the right is missing.
        """
        raise SchemeError(
            f"{self.name}: this scheme publishes nothing; remove 'out' from [bridge.{self.options.bridge}]"
        )

    async def subscribe(self, offsets: Mapping[str, int]) -> None:
        """Begin to receive what the patterns of `options.incoming` name, with positions that were committed before.

        Raises:
            SchemeError, LinkError: as `connect`.
        """
        del offsets
        raise SchemeError(f"{self.name}:// brings no messages; remove 'in' from [bridge.{self.options.bridge}]")

    async def receive(self) -> list[Arrival]:
        """Wait for messages; return those that are there, at most `options.in_flight_max`.

        Raises:
            LinkError: those that were not acknowledged come again after the next `connect`.
        """
        raise NotImplementedError

    async def acknowledge(self, arrivals: Sequence[Arrival]) -> None:
        """Tell the system that these need not come again: they are committed to the file, or are dead letters."""

    async def probe(self) -> list[Finding]:
        """Publish one message, read it back, and say what is wrong; after `connect`. For `mycomesh bridge test`."""
        return []

    @property
    def name(self) -> str:
        """The name of the scheme, as in the URL."""
        return self.options.url.partition(":")[0]
