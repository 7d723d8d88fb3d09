"""A mailbox in NATS JetStream, by nats-py on an event loop in a thread of its own.

An envelope is a message with the subject mycomesh.BASE.MESH.STREAM.POSITION, all but the first two in lower-case hexadecimal.
Its position is taken once: the server stores it only where its subject has no message yet, and recognises its id. An envelope
beyond the server's payload limit goes as parts, at POSITION.DIGEST-NUMBER; the message at POSITION is stored last, with the
digest and how many there are.

One server holds the one stream `mycomesh`. With a server in each base, a leaf node of a hub, a base's envelopes are in its own
stream, the hub collects those of all bases, and each leaf mirrors the hub (`mesh.mailbox.nats_streams`): bases write and read
locally while the hub is away.

A listing begins behind what was listed before, so it costs what is new; without news it is one request, also that of all streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError, ServiceUnavailableError

from mycomesh.mesh.io.library_pages import LibraryCode
from mycomesh.mesh.io.nats_client import PORT_DEFAULT, Connection, NatsConnectError, NatsServer, connect
from mycomesh.mesh.mailbox.envelope import ENVELOPE_BYTES_MAX, POSITION_MAX, STREAM_BYTES
from mycomesh.mesh.mailbox.mailbox import LISTED_MAX, STREAMS_MAX, Listed, MailboxError, Pace
from mycomesh.mesh.mailbox.nats_streams import SUBJECT, Streams, prepare
from mycomesh.mesh.primitives import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

    from mycomesh.mesh.mailbox.storages import Credentials, Place

__all__ = ["NatsMailbox"]

BASE_DEFAULT = "box"
CALL_S = 60  # of one verb, with a new connection
REQUEST_S = 10  # of one answer of the server
JOIN_S = 30  # between tries to have the hub collect this base's stream
CONFIRMED = 2  # such looks are enough for a while
CHECK_S = 300  # until the next one: the hub may have lost its disk
HUB_REMOVE_S = 2  # a right that is missing at the hub shows as silence
LIST_PAGE = 1_000
LISTED_AT_ONCE = 16  # streams: a first look at those of 1,000 bases over a slow line stays below CALL_S
FEW = 16  # messages that are listed one by one: a consumer costs more than these
LIST_S = 5  # without a message of a page
HEADERS_BYTES = 1_024  # of the server's payload limit, which counts headers
PARTS_MAX = 1_024  # of one envelope: a server with a payload limit of 4 KiB
SCANNED_MAX = STREAMS_MAX * 64  # places in streams that are remembered; beyond it, listings begin at the start
CONSUMER_S = 30  # then the server removes a listing that has ended in the middle
WRONG_LAST_SEQUENCE = 10_071
_ID, _EXPECTED = "Nats-Msg-Id", "Nats-Expected-Last-Subject-Sequence"
_PARTS, _SIZE = "Mycomesh-Parts", "Mycomesh-Size"
_STREAM = re.compile(rf"[0-9a-f]{{{2 * STREAM_BYTES}}}")
_POSITION = re.compile(r"[0-7][0-9a-f]{15}")

_NUMBERS = itertools.count()

T = TypeVar("T")


@dataclass(slots=True)
class _Scanned:
    """How far a NATS stream was read under one filter: its sequence, and the highest position up to there."""

    sequence: int = 0
    position: int = 0


class NatsMailbox:
    """The mailbox at a server. Any thread may call it."""

    pace = Pace(spacing_ms=20, poll_ms=60_000)

    def __init__(self, place: Place, credentials: Credentials) -> None:
        self._code = LibraryCode("libcrypto", "libssl")
        self._server = NatsServer(
            place.host,
            place.port or PORT_DEFAULT,
            credentials.user,
            credentials.password,
            credentials.token,
            credentials.ca,
        )
        self._base, self._hub = place.option("base") or BASE_DEFAULT, place.option("hub")
        for name in (self._base, self._hub):
            if not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", name):
                raise MailboxError(f"mailbox {place.url!r}: a base and a hub have 1 to 64 letters, digits, '-' and '_'")
        if self._hub and not place.option("base"):
            raise MailboxError(f"mailbox {place.url!r}: a leaf of a hub needs its base's name: &base=NAME")
        self._thread: _Thread | None = None
        self._connecting = asyncio.Lock()
        self._connection: Connection | None = None
        self._hub_removes = True  # until it refuses, for this connection
        self._streams = Streams("", ())
        self._prepared_s = 0.0
        self._joined = 0  # how often in a row the hub was seen to collect this base's stream
        self._scanned: dict[tuple[str, str], _Scanned] = {}
        self._made: dict[str, Any] = {}  # stream of NATS -> when it was made
        self._bases: dict[tuple[bytes, bytes], str] = {}  # mesh and stream -> the base that writes it
        self._known: dict[
            bytes, dict[bytes, int]
        ] = {}  # mesh -> its streams that were seen, and the last position of each
        self._watched: dict[int, tuple[bytes, Callable[[], None]]] = {}
        self._subscribed: dict[int, Any] = {}

    # ---- the verbs

    def append(self, mesh: bytes, stream: bytes, position: int, data: bytes) -> bool:
        """Store one envelope whole or not at all. Return False, and change nothing, if that position is taken."""
        return self._call(self._append(self._subject(mesh, stream, position), data))

    def list_after(self, mesh: bytes, stream: bytes, position: int) -> list[Listed]:
        """Return the envelopes of a stream beyond a position, in the order of their positions."""
        return self._call(self._list_after(mesh, stream, position))

    def streams(self, mesh: bytes) -> list[bytes]:
        """Return the streams of a mesh, in byte order; also one whose envelopes were all removed meanwhile."""
        return self._call(self._streams_of(mesh))

    def list_all(self, mesh: bytes, after: Mapping[bytes, int]) -> dict[bytes, list[Listed]]:
        """Return the envelopes of each of these streams beyond its position, without the streams that have none."""
        return self._call(self._list_all(mesh, after))

    def get(self, mesh: bytes, listed: Listed) -> bytes | None:
        """Return one envelope, None if it has been removed or is larger than an envelope can be."""
        return self._call(self._find(mesh, listed))

    def remove(self, mesh: bytes, listed: Listed) -> None:
        """Remove one envelope here and at the hub; mirrors of other bases keep it until its age ends."""
        self._call(self._remove(self._subject(mesh, listed.stream, listed.position)))

    def close(self) -> None:
        """Close the connection and end the thread; the next use opens them again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(Exception):  # whatever the connection has left behind, the thread ends
                thread.run(self._disconnect(), CALL_S)
            thread.end()

    def watch(self, mesh: bytes, on_change: Callable[[], None]) -> Callable[[], None]:
        """Call `on_change`, on another thread, when an envelope of this mesh has come, or the connection is lost.

        Return a function that ends this. A verb that connects again takes the watch up again.
        """
        number = next(_NUMBERS)
        self._watched[number] = (mesh, on_change)
        with contextlib.suppress(MailboxError):  # the next connection takes it up
            self._call(self._watch(number))
        return lambda: self._call(self._unwatch(number))

    def rest(self) -> None:
        """Give back the pages of OpenSSL's code, which the client loads also where it uses no TLS: some 2 MB."""
        self._code.release()

    def server_ms(self) -> int:
        """Return the server's wall time in Unix milliseconds: that of a message which is stored for it."""
        return self._call(self._server_ms())

    @property
    def payload_max(self) -> int:
        """Bytes of one message that the server takes; an envelope beyond it goes in parts. 0 before the first use."""
        return 0 if self._connection is None else int(self._connection.client.max_payload)

    # ---- on the thread

    async def _append(self, subject: str, data: bytes) -> bool:
        jetstream = await self._jetstream()
        size = self.payload_max - HEADERS_BYTES
        pieces = [data[at : at + size] for at in range(0, len(data), size)] or [data]
        if len(pieces) > PARTS_MAX:
            raise MailboxError(
                f"mailbox {self._server}: an envelope of {len(data):,} bytes needs {len(pieces)} messages; raise max_payload"
            )
        headers = {_ID: subject, _EXPECTED: "0"}
        if len(pieces) > 1:
            # The digest keeps the parts of another envelope for the same position apart, also of a try that ended half-way.
            digest = hashlib.blake2b(data, digest_size=8).hexdigest()
            headers |= {_PARTS: f"{digest}-{len(pieces)}", _SIZE: str(len(data))}
            for number, piece in enumerate(pieces[1:], 1):
                await jetstream.publish(f"{subject}.{digest}-{number}", piece)
        try:
            ack = await jetstream.publish(subject, pieces[0], headers=headers)
        except APIError as error:
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise
        else:
            if not ack.duplicate:
                return True
        # A retry after a lost acknowledgement meets the message that it has stored itself.
        return await self._get(subject) == data

    async def _list_after(self, mesh: bytes, stream: bytes, position: int) -> list[Listed]:
        await self._jetstream()
        found: dict[int, Listed] = {}
        for name in self._streams.read:
            filtered = self._filter(mesh, stream.hex())
            scanned = self._scanned.setdefault((name, filtered), _Scanned())
            begin = scanned.sequence if scanned.sequence and position >= scanned.position else 0
            listing, upto = await self._listing(name, filtered, begin)
            top = _Scanned(upto, scanned.position if begin else 0)
            for subject, _, size in listing:
                _, base, _, _, at = subject.split(".")
                self._bases[mesh, stream] = base
                if _POSITION.fullmatch(at):
                    number = int(at, 16)
                    top.position = max(top.position, number)
                    if number > position:
                        found[number] = Listed(stream, number, size)
            self._remember((name, filtered), top)
        if len(self._bases) > STREAMS_MAX:
            self._bases.clear()
        return [found[number] for number in sorted(found)[:LISTED_MAX]]

    async def _streams_of(self, mesh: bytes) -> list[bytes]:
        return sorted(await self._scan(mesh))

    async def _scan(self, mesh: bytes) -> dict[bytes, int]:
        """Return the streams of a mesh that were ever seen, and the last position in each."""
        await self._jetstream()
        known = self._known.setdefault(mesh, {})
        for name in self._streams.read:
            filtered = self._filter(mesh, "*")
            scanned = self._scanned.setdefault((name, filtered), _Scanned())
            listing, upto = await self._listing(name, filtered, scanned.sequence)
            for subject, _, _ in listing:
                _, _, _, stream, at = subject.split(".")
                if _STREAM.fullmatch(stream) and (bytes.fromhex(stream) in known or len(known) < STREAMS_MAX):
                    position = int(at, 16) if _POSITION.fullmatch(at) else 0
                    known[bytes.fromhex(stream)] = max(known.get(bytes.fromhex(stream), 0), position)
            self._remember((name, filtered), _Scanned(upto))
        return known

    async def _list_all(self, mesh: bytes, after: Mapping[bytes, int]) -> dict[bytes, list[Listed]]:
        last = await self._scan(mesh)
        # A stream that is not among those that count is listed, as by `list_after`.
        behind = [(stream, position) for stream, position in after.items() if position < last.get(stream, POSITION_MAX)]
        found: dict[bytes, list[Listed]] = {}
        for at in range(0, len(behind), LISTED_AT_ONCE):
            some = behind[at : at + LISTED_AT_ONCE]
            listings = await asyncio.gather(*(self._list_after(mesh, stream, position) for stream, position in some))
            found |= {stream: listed for (stream, _), listed in zip(some, listings, strict=True) if listed}
        return found

    def _remember(self, key: tuple[str, str], scanned: _Scanned) -> None:
        if len(self._scanned) > SCANNED_MAX:
            self._scanned.clear()
        self._scanned[key] = scanned

    async def _listing(self, stream: str, filtered: str, after: int) -> tuple[list[tuple[str, int, int]], int]:
        """Return subject, sequence and size of the messages behind a sequence, and the sequence up to which these are all."""
        jetstream = await self._jetstream()
        info = await jetstream.stream_info(stream)
        if self._made.setdefault(stream, info.created) != info.created:
            # Its numbers begin again, and the watch has ended with the old one: a connection has nothing of either.
            reason = f"the stream {stream} was made again"
            self._on_lost(reason)
            raise NatsConnectError(f"{self._server}: {reason}", refused=False)
        last = info.state.last_seq
        if last <= after:
            return [], after
        if last - after > FEW:
            return await self._headers(stream, filtered, after, last)
        found: list[tuple[str, int, int]] = []
        with contextlib.suppress(NotFoundError):  # behind the last one
            while after < last:
                each = await jetstream.get_msg(stream, after + 1, filtered, direct=True, next=True)
                assert each.seq is not None, "a stored message has a sequence"
                after = each.seq
                size = int((each.headers or {}).get(_SIZE) or len(each.data or b""))
                found.append((str(each.subject), after, size))
        return found, max(last, after)

    async def _headers(
        self, stream: str, filtered: str, after: int, last: int
    ) -> tuple[list[tuple[str, int, int]], int]:
        """List by a consumer, which sends headers alone."""
        jetstream = await self._jetstream()
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            filter_subject=filtered,
            headers_only=True,
            mem_storage=True,
            inactive_threshold=CONSUMER_S,
        )
        found: list[tuple[str, int, int]] = []
        consumer = await jetstream.add_consumer(stream, config)
        waiting = min(consumer.num_pending or 0, LISTED_MAX)
        cut = waiting < (consumer.num_pending or 0)  # then the next listing goes on there
        try:
            if waiting:
                pull = await jetstream.pull_subscribe_bind(consumer.name, stream)
                while waiting > 0:
                    try:
                        page = await pull.fetch(min(LIST_PAGE, waiting), timeout=LIST_S)
                    except (TimeoutError, NatsTimeoutError):
                        break  # what was to come has been removed
                    waiting -= len(page)
                    for message in page:
                        headers = message.headers or {}
                        size = int(headers.get(_SIZE) or headers.get("Nats-Msg-Size") or "0")
                        found.append((message.subject, message.metadata.sequence.stream, size))
                await pull.unsubscribe()
        finally:
            with contextlib.suppress(NatsError, APIError):
                await jetstream.delete_consumer(stream, consumer.name)
        upto = max((sequence for _, sequence, _ in found), default=after)
        return found, upto if cut or waiting > 0 else max(last, upto)

    async def _find(self, mesh: bytes, listed: Listed) -> bytes | None:
        """Read an envelope of any base: of the one that its stream was last seen in, else of the first that has it."""
        jetstream = await self._jetstream()
        subject = self._subject(mesh, listed.stream, listed.position)
        base = self._bases.get((mesh, listed.stream))
        if base is not None:
            found = await self._get(subject.replace(f".{self._base}.", f".{base}.", 1))
            if found is not None:
                return found
        for name in self._streams.read:
            wanted = f"{self._filter(mesh, listed.stream.hex())[:-1]}{listed.position:016x}"
            with contextlib.suppress(NotFoundError):
                first = await jetstream.get_msg(name, 1, wanted, direct=True, next=True)
                return await self._get(str(first.subject))
        return None

    async def _get(self, subject: str) -> bytes | None:
        jetstream = await self._jetstream()
        for name in self._streams.read:
            try:
                first = await jetstream.get_last_msg(name, subject, direct=True)
                headers = first.headers or {}
                digest, _, count = headers.get(_PARTS, "-1").rpartition("-")
                parts = int(count)
                if not 1 <= parts <= PARTS_MAX or int(headers.get(_SIZE, "0")) > ENVELOPE_BYTES_MAX:
                    return None
                data = first.data or b""
                for number in range(1, parts):
                    data += (
                        await jetstream.get_last_msg(name, f"{subject}.{digest}-{number}", direct=True)
                    ).data or b""
                    if len(data) > ENVELOPE_BYTES_MAX:
                        return None
            except (NotFoundError, ValueError):
                continue
            return data if len(data) <= ENVELOPE_BYTES_MAX else None
        return None

    async def _remove(self, subject: str) -> None:
        jetstream = await self._jetstream()
        for each in (subject, f"{subject}.*"):
            await jetstream.purge_stream(self._streams.write, subject=each)
            if self._hub and self._hub_removes:
                try:
                    hub = self._domain(self._hub, HUB_REMOVE_S)
                    await hub.purge_stream(self._streams.read[-1], subject=each)
                except (NatsError, APIError):  # the hub is away, or does not let bases remove: it removes by age
                    self._hub_removes = False

    async def _server_ms(self) -> int:
        jetstream = await self._jetstream()
        subject = f"{SUBJECT}.{self._base}.clock"
        ack = await jetstream.publish(subject, b"")
        found = await jetstream.get_msg(self._streams.write, ack.seq)
        await jetstream.purge_stream(self._streams.write, subject=subject)
        assert found.time is not None, "a stored message has a time"
        return int(found.time.timestamp() * 1_000)

    async def _watch(self, number: int) -> None:
        await self._jetstream()
        if number not in self._subscribed:
            await self._subscribe(number)

    async def _unwatch(self, number: int) -> None:
        del self._watched[number]
        subscription = self._subscribed.pop(number, None)
        if subscription is not None:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

    async def _subscribe(self, number: int) -> None:
        """Subscribe to what comes into the stream that is read."""
        mesh, on_change = self._watched[number]

        async def on_message(_message: Msg) -> None:
            on_change()

        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, deliver_policy=DeliverPolicy.NEW, headers_only=True, mem_storage=True
        )
        self._subscribed[number] = await self._domain("").subscribe(
            self._filter(mesh, "*"), stream=self._streams.read[-1], config=config, cb=on_message, manual_ack=True
        )

    # ---- the connection

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a verb on the thread; turn errors of the client into this package's."""
        if self._thread is None:
            self._thread = _Thread()
        try:
            return self._thread.run(work, CALL_S)
        except NatsConnectError as error:
            raise MailboxError(f"mailbox {error}") from error
        except NoStreamResponseError as error:
            raise MailboxError(
                f"mailbox {self._server}: no stream takes this base's subject; it was removed meanwhile"
            ) from error
        except ServiceUnavailableError as error:
            raise MailboxError(
                f"mailbox {self._server}: {error.description or 'JetStream is not available'}; start the server with -js,"
                " and give it and this user storage"
            ) from error
        except APIError as error:
            raise MailboxError(
                f"mailbox {self._server}: {error.description or error}; see 'nats stream info'"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # of the client, on what no server sends
            raise MailboxError(
                f"mailbox {self._server}: its answer cannot be read ({type(error).__name__}: {error})"
            ) from error
        except (NatsError, TimeoutError) as error:
            said = "" if self._connection is None else self._connection.last_error
            text = said or str(error) or type(error).__name__
            raise MailboxError(f"mailbox {self._server}: {text}; check the server and what this user may do") from error

    async def _jetstream(self) -> JetStreamContext:
        """Return the context of an open connection, with the streams of this base."""
        async with self._connecting:
            if self._connection is not None and self._connection.is_lost:
                self._on_lost("the connection was lost")
            if self._connection is None:
                self._connection = await connect(self._server, "mycomesh mailbox", self._on_lost)
                try:
                    self._joined = 0
                    await self._prepare()
                    self._hub_removes = True
                    self._scanned.clear()  # a stream may have been made again meanwhile
                    self._made.clear()
                    for number in self._watched:
                        await self._subscribe(number)
                except BaseException:
                    await self._disconnect()
                    raise
            elif self._hub and time.monotonic() - self._prepared_s > (JOIN_S if self._joined < CONFIRMED else CHECK_S):
                await self._prepare()
            self._connection.last_error = ""
        return self._domain("")

    async def _prepare(self) -> None:
        """Find or make the streams. A later verb looks again: the hub may be away, lose its disk, or forget this base."""
        self._streams = await prepare(self._domain, self._base, self._hub, self._streams)
        self._joined += 1 if self._streams.joined else -self._joined
        self._prepared_s = time.monotonic()

    def _domain(self, name: str, timeout_s: float | None = None) -> JetStreamContext:
        """Return the JetStream of a domain, "" for the server's own."""
        assert self._connection is not None, "connected"
        wait_s = timeout_s or REQUEST_S
        context: JetStreamContext = self._connection.client.jetstream(timeout=wait_s, domain=name or None)
        return context

    def _on_lost(self, reason: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.drop()
        self._subscribed.clear()
        if self._thread is not None:
            self._thread.fail(NatsConnectError(f"{self._server}: {reason}; check the server", refused=False))
        for _, on_change in self._watched.values():
            on_change()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    # ---- names

    def _subject(self, mesh: bytes, stream: bytes, position: int) -> str:
        assert len(mesh) == ID_BYTES
        assert len(stream) == STREAM_BYTES
        return f"{SUBJECT}.{self._base}.{mesh.hex()}.{stream.hex()}.{position:016x}"

    @staticmethod
    def _filter(mesh: bytes, stream: str) -> str:
        return f"{SUBJECT}.*.{mesh.hex()}.{stream}.*"


def _forget(task: asyncio.Future[Any]) -> None:
    """Take the result of a task that nobody waits for: asyncio logs one that is left."""
    if not task.cancelled():
        task.exception()


class _Thread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mycomesh-mailbox-nats", daemon=True)
        self._thread.start()
        self._waiting: dict[asyncio.Future[Any], None] = {}

    def run(self, work: Coroutine[Any, Any, T], seconds_max: float) -> T:
        """Run on the loop; raise the error of `fail` if that comes first: the client does not end what waits for answers."""

        async def bounded() -> T:
            task = asyncio.ensure_future(work)
            failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[failed] = None
            try:
                waits: list[asyncio.Future[Any]] = [task, failed]
                await asyncio.wait(waits, timeout=seconds_max, return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
                task.cancel()
                task.add_done_callback(_forget)
                if failed.done():
                    failed.result()
                raise TimeoutError(f"no answer within {seconds_max:.0f} s")
            finally:
                del self._waiting[failed]
                failed.cancel()

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    def fail(self, error: Exception) -> None:
        """End everything that waits."""
        for each in self._waiting:
            if not each.done():
                each.set_exception(error)

    def end(self) -> None:
        """Stop the loop and the thread, after what still runs there has ended."""

        async def finish() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for each in others:
                each.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.sleep(0)  # transports close in the next turn

        asyncio.run_coroutine_threadsafe(finish(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
