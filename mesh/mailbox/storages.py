"""Opens the storage that a mailbox URL names: `dir:PATH`, `s3://BUCKET/PREFIX` or `nats://HOST:PORT`.

A client library is imported when its scheme is opened, so that a node without a mailbox does not load one.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from mycomesh.mesh.mailbox.directory import DirectoryMailbox
from mycomesh.mesh.mailbox.mailbox import MailboxError

if TYPE_CHECKING:
    from mycomesh.mesh.mailbox.mailbox import Mailbox

__all__ = ["CREDENTIALS", "Credentials", "Place", "check_url", "open_mailbox"]

_EXAMPLES = "dir:/media/stick, s3://BUCKET/PREFIX?endpoint=https://HOST or nats://HOST:4222"
# Scheme -> its module and class, the library and the extra of pip that brings it, and the keys that may follow `?`.
_SCHEMES = {
    "s3": ("s3", "S3Mailbox", "obstore", "s3", ("endpoint", "region")),
    "nats": ("nats", "NatsMailbox", "nats", "nats", ("base", "hub")),
}
CREDENTIALS = ("user", "password", "token", "ca", "access_key_id", "secret_access_key", "session_token")
URL_CHARS_MAX = 2_048  # a person writes it


@dataclass(frozen=True, slots=True)
class Credentials:
    """The login at a storage: a user with a password, or a token (NATS); keys (S3); certificates to trust (`ca`, a path)."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    ca: str = ""
    access_key_id: str = ""
    secret_access_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A mailbox URL in its parts. `path` has no slash at its ends; `options` is what follows `?`."""

    url: str
    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str:
        """Return one option, "" if it is not given."""
        return dict(self.options).get(name, "")


def check_url(text: str) -> Place:
    """Return the parts of a mailbox URL. A text without a scheme is the path of a directory.

    Raises:
        MailboxError: no storage has such a URL.
    """
    if len(text) > URL_CHARS_MAX or not text.isprintable():
        raise MailboxError(f"a mailbox URL has at most {URL_CHARS_MAX} printable characters; write {_EXAMPLES}")
    if text.startswith("dir:") or "://" not in text:
        folder = text.removeprefix("dir:")
        folder = folder if not folder.startswith("//") else folder[2:]
        if not Path(folder).is_absolute():
            raise MailboxError(f"mailbox {text!r} names no absolute path; write dir:/PATH")
        return Place(text, "dir", path=folder)
    try:
        parts = urlsplit(text)
        port = parts.port or 0
    except ValueError as error:
        raise MailboxError(f"mailbox {text!r} is no URL: {error}; write {_EXAMPLES}") from error
    if parts.scheme not in _SCHEMES:
        raise MailboxError(f"mailbox {text!r} has an unknown scheme; write {_EXAMPLES}")
    if parts.password is not None or parts.username is not None:
        raise MailboxError(
            f"the URL of mailbox {parts.scheme}://{parts.hostname} has a user or a password;"
            " put them into a credentials file (mode 600)"
        )
    host = parts.netloc.partition("?")[0] if parts.scheme == "s3" else (parts.hostname or "")
    if not host:
        raise MailboxError(
            f"mailbox {text!r} names no {'bucket' if parts.scheme == 's3' else 'host'}; write {_EXAMPLES}"
        )
    options = tuple(parse_qsl(parts.query, keep_blank_values=True))
    known = _SCHEMES[parts.scheme][4]
    wrong = next((name for name, _ in options if name not in known), None)
    if wrong is not None:
        raise MailboxError(f"mailbox {text!r}: unknown option {wrong!r}; {parts.scheme}:// takes {', '.join(known)}")
    return Place(text, parts.scheme, host, port, parts.path.strip("/"), options)


def open_mailbox(url: str, credentials: Credentials | None = None) -> Mailbox:
    """Return the mailbox of a URL. It connects with its first use; `close` it at the end.

    Raises:
        MailboxError: the URL is wrong, or its library is not installed.
    """
    place = check_url(url)
    if place.scheme == "dir":
        return DirectoryMailbox(Path(place.path))
    module, name, library, extra, _ = _SCHEMES[place.scheme]
    try:
        found = importlib.import_module(f"mycomesh.mesh.mailbox.{module}")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != library:
            raise
        raise MailboxError(
            f"mailbox {place.scheme}:// needs {library}, which is not installed; run: pip install 'mycomesh[{extra}]'"
        ) from error
    mailbox: Mailbox = getattr(found, name)(place, credentials or Credentials())
    return mailbox
