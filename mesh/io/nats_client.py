"""A connection to a NATS server by nats-py: who logs in, which certificates count, and what a refusal means.

Bridges, mailboxes and links share it. It does not connect again by itself: each of them has something to do first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import nats
from nats.errors import Error as NatsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.client import Client

__all__ = ["CONNECT_S", "PORT_DEFAULT", "Connection", "NatsConnectError", "NatsServer", "connect"]

CONNECT_S = 5
CLOSED_S = 1  # after an error
PING_S = 5  # a server that leaves two pings without an answer counts as lost
PORT_DEFAULT = 4222
NONSENSE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)  # what the client raises where the other side is no NATS server


class NatsConnectError(Exception):
    """A server cannot be reached, or with `refused` does not accept this client: trying again does not help then."""

    def __init__(self, text: str, *, refused: bool) -> None:
        super().__init__(text)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class NatsServer:
    """A server, and how to log in there. `ca` is the path of a file with the certificates to trust, "" for no TLS."""

    host: str
    port: int = PORT_DEFAULT
    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: str = ""

    def __str__(self) -> str:
        return f"nats://[{self.host}]:{self.port}" if ":" in self.host else f"nats://{self.host}:{self.port}"


@dataclass(slots=True)
class Connection:
    """An open connection. `last_error` is what the server said last, such as a permission that is missing."""

    client: Client
    last_error: str = ""

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended; the client does not tell of an end at which it could not send what waited."""
        return bool(self.client.is_closed)

    async def close(self) -> None:
        """End the connection, without raising."""
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                await self.client.close()
        self.drop()

    def drop(self) -> None:
        """Close the socket of a connection that has ended: the client leaves it open where the last bytes could not be sent."""
        transport = self.client._transport  # noqa: SLF001 -- it has no other name
        if transport is not None:
            transport.close()  # type: ignore[no-untyped-call]


async def connect(server: NatsServer, name: str, on_lost: Callable[[str], None]) -> Connection:
    """Connect to a server as `name`; `on_lost` gets the reason once the connection has ended.

    Raises:
        NatsConnectError: it cannot be reached, or refuses the login or the certificate.
    """
    found = Connection.__new__(Connection)
    found.last_error = ""
    loop = asyncio.get_running_loop()

    ended = False

    def note_end() -> None:
        nonlocal ended
        client: Client | None = getattr(found, "client", None)
        if client is not None and client.is_closed and not ended:
            ended = True
            on_lost(found.last_error or "the server closed the connection")

    async def on_closed() -> None:
        note_end()

    async def on_error(error: Exception) -> None:
        found.last_error = str(error) or type(error).__name__
        loop.call_later(CLOSED_S, note_end)  # the client does not call `on_closed` if its last write fails

    more: dict[str, Any] = {}
    try:
        if server.ca:
            logging.getLogger("asyncio").addFilter(_is_no_end_of_tls)
            more = {"tls": ssl.create_default_context(cafile=server.ca), "tls_hostname": server.host}
        if server.user:
            more |= {"user": server.user, "password": server.password}
        if server.token:
            more["token"] = server.token
        async with asyncio.timeout(2 * CONNECT_S):
            found.client = await nats.connect(
                str(server),
                allow_reconnect=False,
                max_reconnect_attempts=1,  # the client tries a server again even for the first connection
                reconnect_time_wait=0,
                connect_timeout=CONNECT_S,
                ping_interval=PING_S,
                name=name,
                closed_cb=on_closed,
                error_cb=on_error,
                **more,
            )
    except (OSError, NatsError, TimeoutError, ssl.SSLError, *NONSENSE) as error:
        raise _error(server, error, found.last_error) from error
    note_end()
    return found


def _is_no_end_of_tls(record: logging.LogRecord) -> bool:
    """Return False for asyncio's warning at the end of each connection with TLS, about how the client ends it."""
    return "eof_received() has no effect" not in str(record.msg)


def _error(server: NatsServer, error: BaseException, last: str) -> NatsConnectError:
    said = str(error) if not isinstance(error, TimeoutError) else ""
    text = last or said or f"no answer within {CONNECT_S} s"
    if isinstance(error, NONSENSE) and not isinstance(error, ssl.SSLError):
        return NatsConnectError(f"{server} is no NATS server: {' '.join(text.split())[:80]}", refused=False)
    if "uthorization" in text:
        reason = f"{server} refuses the name or the password; name a credentials file with the right ones"
    elif isinstance(error, ssl.SSLError) or "SSL" in text or "certificate" in text.lower():
        reason = f'TLS with {server} fails: {text}; name the certificates to trust: ca = "FILE"'
    elif "secure connection" in text.lower() or "tls" in text.lower():
        reason = f'{server} wants TLS: {text}; name the certificates to trust: ca = "FILE"'
    else:
        return NatsConnectError(f"cannot reach {server}: {text}", refused=False)
    return NatsConnectError(reason, refused=True)
