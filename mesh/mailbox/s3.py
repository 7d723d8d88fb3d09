"""A mailbox in S3-compatible storage, by obstore.

An envelope is an object: PREFIX/mycomesh/MESH/STREAM/POSITION.box, named as the files of `mesh.mailbox.directory` are, so that
keys sort by position and a listing can begin after one. Objects appear whole.

A position is taken by a put with `If-None-Match: *`. A store that does not know this header says so, and then the mailbox looks
before it writes: only its gateway writes into a stream, so two writers of one stream need a copied identity.
"""

from __future__ import annotations

import contextlib
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, NotSupportedError
from obstore.store import S3Store

from mycomesh.mesh.io.library_pages import LibraryCode
from mycomesh.mesh.mailbox.envelope import ENVELOPE_BYTES_MAX, STREAM_BYTES
from mycomesh.mesh.mailbox.mailbox import LISTED_MAX, STREAMS_MAX, Listed, MailboxError, Pace
from mycomesh.mesh.primitives import ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mycomesh.mesh.mailbox.storages import Credentials, Place

__all__ = ["S3Mailbox"]

CONNECT_S = 5
REQUEST_S = 60  # the usual envelope of 512 KiB over 70 kbit/s, the largest of 27 MiB over 4 Mbit/s
RETRIES = 3  # of answers 5xx and lost connections, within RETRY_S; the gateway tries again later
RETRY_S = 20
LIST_PAGE = 1_000  # what S3 answers at once
SEEN_MAX = LISTED_MAX + LIST_PAGE  # names in one listing, also of other things
IDLE_S = 60  # connections are closed after it

_ERRORS = (BaseError, OSError)  # obstore raises FileNotFoundError, FileExistsError and PermissionError beside its own
_ABSENT = (FileNotFoundError, NotFoundError)
_TAKEN = (AlreadyExistsError, FileExistsError)
_FOLDER = "mycomesh"
_STREAM = re.compile(rf"[0-9a-f]{{{2 * STREAM_BYTES}}}")
_ENVELOPE = re.compile(r"[0-7][0-9a-f]{15}\.box")
_REFUSES_CONDITION = re.compile(
    r"NotImplemented|status code: 501\b|InvalidArgument.*If-None-Match|not implemented", re.DOTALL
)
_REFUSED = re.compile(r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|Forbidden|status code: 40[13]\b")


class S3Mailbox:
    """The mailbox under a prefix of a bucket, which must exist."""

    pace = Pace(spacing_ms=5_000, poll_ms=15_000)  # requests are paid for

    def __init__(self, place: Place, credentials: Credentials) -> None:
        self._name = f"s3://{place.host}/{place.path}".rstrip("/")
        if place.option("endpoint"):
            self._name += f" at {place.option('endpoint')}"
        self._root = "/".join(part for part in (place.path, _FOLDER) if part)
        self._code = LibraryCode("_obstore")
        self.conditional = True  # until the store says that it has no conditional put
        endpoint = place.option("endpoint")
        config: dict[str, Any] = {"region": place.option("region") or os.environ.get("AWS_REGION", "us-east-1")}
        if endpoint:
            config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
        for key in ("access_key_id", "secret_access_key", "session_token"):
            if value := getattr(credentials, key):
                config[key] = value
        client: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=REQUEST_S),
            "pool_idle_timeout": timedelta(seconds=IDLE_S),
            "allow_http": endpoint.startswith("http://"),
        }
        if credentials.ca:
            client["root_certificate"] = _certificate(credentials.ca)
        retry: Any = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)}
        try:
            self._store = S3Store(place.host, config=config, client_options=client, retry_config=retry)  # type: ignore[arg-type]
        except (*_ERRORS, ValueError) as error:
            raise MailboxError(f"mailbox {self._name}: {_line(error)}") from error

    def append(self, mesh: bytes, stream: bytes, position: int, data: bytes) -> bool:
        """Store one envelope whole or not at all. Return False, and change nothing, if that position is taken."""
        key = self._key(mesh, stream, position)
        if self.conditional:
            try:
                obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except _TAKEN:
                # A retry after a lost answer meets the object that it has written itself.
                return self._read(key) == data
            except _ERRORS as error:
                if not isinstance(error, NotSupportedError) and not _REFUSES_CONDITION.search(str(error)):
                    raise self._error(error) from error
                self.conditional = False
            else:
                return True
        with self._errors():
            with contextlib.suppress(*_ABSENT):
                obstore.head(self._store, key)
                return False
            obstore.put(self._store, key, data, use_multipart=False)
        return True

    def list_after(self, mesh: bytes, stream: bytes, position: int) -> list[Listed]:
        """Return the envelopes of a stream beyond a position, in the order of their positions."""
        found: list[Listed] = []
        seen = 0
        prefix = f"{self._stream(mesh, stream)}/"
        with self._errors():
            offset = self._key(mesh, stream, max(position, 0))
            for page in obstore.list(self._store, prefix, offset=offset, chunk_size=LIST_PAGE):
                for each in page:
                    name = each["path"].rpartition("/")[2]
                    if _ENVELOPE.fullmatch(name) and each["path"] == prefix + name:
                        found.append(Listed(stream, int(name[:16], 16), each["size"]))
                seen += len(page)
                if seen >= SEEN_MAX:
                    break
        # A store that ignores `start-after` lists everything.
        return sorted(each for each in found if each.position > position)[:LISTED_MAX]

    def streams(self, mesh: bytes) -> list[bytes]:
        """Return the streams of a mesh, in byte order."""
        assert len(mesh) == ID_BYTES
        with self._errors():
            found = obstore.list_with_delimiter(self._store, f"{self._root}/{mesh.hex()}/")["common_prefixes"]
        names = sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in found)
        return [bytes.fromhex(name) for name in names if _STREAM.fullmatch(name)][:STREAMS_MAX]

    def get(self, mesh: bytes, listed: Listed) -> bytes | None:
        """Return one envelope, None if it has been removed or is larger than an envelope can be."""
        return self._read(self._key(mesh, listed.stream, listed.position))

    def remove(self, mesh: bytes, listed: Listed) -> None:
        """Remove one envelope. Only the gateway that appended it calls this."""
        with self._errors(), contextlib.suppress(*_ABSENT):
            obstore.delete(self._store, self._key(mesh, listed.stream, listed.position))

    def close(self) -> None:
        """Nothing is to be closed: obstore closes idle connections by itself."""

    def rest(self) -> None:
        """Give back the pages of the client's code: some 5 MB."""
        self._code.release()

    def server_ms(self) -> int:
        """Return the store's wall time in Unix milliseconds: that of an object which is written for it."""
        key = f"{self._root}/clock"
        with self._errors():
            obstore.put(self._store, key, b"", use_multipart=False)
            at = obstore.head(self._store, key)["last_modified"]
            obstore.delete(self._store, key)
        return int(at.timestamp() * 1_000)

    def _read(self, key: str) -> bytes | None:
        with self._errors():
            try:
                found = obstore.get(self._store, key)
                return None if found.meta["size"] > ENVELOPE_BYTES_MAX else bytes(found.bytes())
            except _ABSENT as error:
                if "NoSuchBucket" in str(error):
                    raise
                return None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn obstore's errors into this package's."""
        try:
            yield
        except _ERRORS as error:
            raise self._error(error) from error

    def _stream(self, mesh: bytes, stream: bytes) -> str:
        assert len(mesh) == ID_BYTES
        assert len(stream) == STREAM_BYTES
        return f"{self._root}/{mesh.hex()}/{stream.hex()}"

    def _key(self, mesh: bytes, stream: bytes, position: int) -> str:
        return f"{self._stream(mesh, stream)}/{position:016x}.box"

    def _error(self, error: Exception) -> MailboxError:
        text = _line(error)
        if isinstance(error, PermissionError) or _REFUSED.search(str(error)):
            hint = "check the keys and what they may do (list, read, write and delete under this prefix)"
        elif "NoSuchBucket" in str(error):
            hint = "create the bucket, or check its name and region"
        else:
            hint = "check the endpoint and the way to it; the gateway keeps trying"
        return MailboxError(f"mailbox {self._name}: {text}; {hint}")


def _certificate(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MailboxError(f"cannot read the certificates of ca = {path!r}: {error.strerror}") from error


def _line(error: Exception) -> str:
    """Return what a store has answered as one line: its code and message where it gives them."""
    text = str(error)
    code = re.search(r"<Code>([^<]{1,100})</Code>", text)
    message = re.search(r"<Message>([^<]{1,300})</Message>", text)
    if code is not None:
        return f"{code[1]}: {message[1]}" if message is not None else code[1]
    return text.partition("\n")[0].rpartition(" - ")[2][:300]
