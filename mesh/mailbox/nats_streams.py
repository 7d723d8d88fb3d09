"""The streams of JetStream that hold a mailbox: finds them at a server, and makes those that are missing.

One server: the stream `mycomesh` takes the envelopes of all bases. A leaf node in each base and a hub: each leaf has
`mycomesh-BASE` with what its base has written; the hub has `mycomesh-all`, whose sources these are; each leaf mirrors that.
Streams that exist are used as they are, so that an operator may choose limits, replicas and storage, and a base may do without
rights to make streams.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nats.errors import Error as NatsError
from nats.js.api import ExternalStream, StorageType, StreamConfig, StreamSource
from nats.js.errors import APIError, NotFoundError

from mycomesh.mesh.mailbox.mailbox import MailboxError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.js import JetStreamContext

__all__ = ["SUBJECT", "Streams", "prepare"]

SUBJECT = "mycomesh"
AGE_S = 30 * 86_400  # how long a stream that is made here keeps envelopes: removals do not reach mirrors of other bases
_ALL = f"{SUBJECT}-all"
_TRIES = 3  # two bases that add themselves at the same time overwrite each other


@dataclass(frozen=True, slots=True)
class Streams:
    """The stream that is written, and those that are read, the one with what other bases have written last.

    `joined`: the hub collects the stream of this base; else `prepare` is to be called again.
    `hub_made`: when the hub's stream was made, None if that is not known.
    """

    write: str
    read: tuple[str, ...]
    joined: bool = True
    hub_made: dt.datetime | None = None


async def prepare(
    domain: Callable[[str], JetStreamContext], base: str, hub: str, before: Streams | None = None
) -> Streams:
    """Return the streams of a base, and make those that are missing. `before` is what was returned last.

    Raises:
        MailboxError: a stream that somebody else has made does not allow what a mailbox needs.
        APIError, NatsError: the server does not answer, or this user may not make the base's own stream.
    """
    here = domain("")
    if not hub:
        await _ensure(here, StreamConfig(name=SUBJECT, subjects=[f"{SUBJECT}.>"]))
        return Streams(SUBJECT, (SUBJECT,))
    own = f"{SUBJECT}-{base}"
    await _ensure(here, StreamConfig(name=own, subjects=[f"{SUBJECT}.{base}.>"]))
    local = (await here.account_info()).domain or ""
    if local == hub:  # a base at the hub itself
        await _add_source(here, StreamSource(name=own))
        return Streams(own, (own, _ALL))
    mirror = StreamConfig(
        name=_ALL, mirror=StreamSource(name=_ALL, external=_external(hub)), mirror_direct=True, max_age=AGE_S
    )
    joined, made = False, None if before is None else before.hub_made
    with contextlib.suppress(
        NatsError, APIError
    ):  # the hub is away: what it has to collect stays in this base's stream
        await _add_source(domain(hub), StreamSource(name=own, external=_external(local)))
        made = await _follow(here, domain(hub), made)
        joined = True
    await _ensure(here, mirror)
    return Streams(own, (own, _ALL), joined, made)


async def _follow(here: JetStreamContext, hub: JetStreamContext, made: dt.datetime | None) -> dt.datetime | None:
    """Let the mirror begin again if the hub's stream has; return when that was made.

    After the loss of its disk, or with an older copy of it, the hub counts from a lower number, and a mirror waits until that
    has passed its own: for ever, if the stream was long.
    """
    try:
        mirror = await here.stream_info(_ALL)
    except NotFoundError:
        return (await hub.stream_info(_ALL)).created
    source = await hub.stream_info(_ALL)  # asked second: while all is well it is not behind
    if mirror.state.last_seq > source.state.last_seq or (made is not None and made != source.created):
        await here.delete_stream(_ALL)
        await here.add_stream(mirror.config)
    return source.created


def _external(domain: str) -> ExternalStream:
    return ExternalStream(api=f"$JS.{domain}.API")


async def _ensure(context: JetStreamContext, config: StreamConfig) -> None:
    """Make a stream unless it exists.

    Raises:
        MailboxError: it exists, and messages cannot be read from it one by one.
    """
    assert config.name is not None
    try:
        found = (await context.stream_info(config.name)).config
        if not found.allow_direct:
            raise MailboxError(
                f"the stream {config.name} lets nobody read single messages;"
                f" run: nats stream edit {config.name} --allow-direct"
            )
    except NotFoundError:
        await context.add_stream(
            config, storage=StorageType.FILE, allow_direct=True, max_age=AGE_S, description="mycomesh mailbox"
        )


async def _add_source(hub: JetStreamContext, source: StreamSource) -> None:
    """Let the hub's stream collect a base's stream."""
    for _ in range(_TRIES):
        try:
            config: Any = (await hub.stream_info(_ALL)).config
        except NotFoundError:
            await _ensure(hub, StreamConfig(name=_ALL, sources=[source]))
            continue
        if any(each.name == source.name for each in config.sources or ()):
            return
        config.sources = [*(config.sources or ()), source]
        await hub.update_stream(config)
