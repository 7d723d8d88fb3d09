"""Access rules of the console: the address it is asked under, a token, and for writes both and the page's own origin.

On the loopback anyone on this machine may read; elsewhere, and for every write, a request needs the token. A browser gets it in
the fragment of the first address, which is never sent, and exchanges it for a cookie that other sites cannot use. The check of
the Host header keeps a page of another site from reading through a name that it has pointed at this machine (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import urlsplit

from mycomesh.mesh.address import is_loopback
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home, read_private, write_private
from mycomesh.tools.web.errors import HostError, OriginError, ReadOnlyError, TokenError
from mycomesh.tools.web.http import Request

__all__ = ["TOKEN_CHARS_MIN", "Access", "is_local", "names_of", "stored_token"]

TOKEN_CHARS_MIN = 22  # 128 bits in base 64
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:@/\s]+))(?::[0-9]{1,5})?")
_LOCAL = ("localhost", "127.0.0.1", "::1")


class Access:
    """The rules of one console.

    open_reads: whether reads need no token; only on the loopback.
    """

    def __init__(self, token: str, names: frozenset[str], port: int, *, open_reads: bool, allow_writes: bool) -> None:
        self._token = token
        self._names = names
        self._cookie = f"mycomesh-{port}"  # cookies do not know ports: two consoles on one machine
        self._session = hashlib.blake2b(token.encode(), person=b"mycomesh-session"[:16], digest_size=32).hexdigest()
        self.open_reads = open_reads
        self.allow_writes = allow_writes

    def check(self, request: Request, *, writes: bool, public: bool) -> None:
        """Let a request pass.

        `public` is what anyone may load: the page itself, which has no data.

        Raises:
            HttpError: 421 for a wrong Host, 403 for a wrong origin or where writes are off, 401 without a token.
        """
        host = request.headers.get("host", "")
        name = _name_of(host)
        if not self._is_known(name):
            raise HostError(f"this console has not the name {name!r}; start it with --name {name or 'HOST'}")
        origin = request.headers.get("origin")
        if origin is not None and request.method != "GET" and urlsplit(origin).netloc != host:
            raise OriginError("another site asks for this; open the console's own page")
        if public or (self.open_reads and not writes):
            return
        if not self.has_token(request):
            raise TokenError(
                "give the token: Authorization: Bearer TOKEN, or open the address that 'mycomesh web' has printed",
                headers=(("WWW-Authenticate", "Bearer"),),
            )
        if writes and not self.allow_writes:
            raise ReadOnlyError("this console is read-only; start it with --allow-writes")

    def _is_known(self, name: str) -> bool:
        """Return whether a name leads here for sure; an address in numbers does, since nobody can point it elsewhere."""
        return name in self._names or (not self.open_reads and _is_numeric(name))

    def has_token(self, request: Request) -> bool:
        """Return whether a request carries the token, or the cookie that was given for it."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode()):
            return True
        try:
            cookies = SimpleCookie(request.headers.get("cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self._cookie)
        return found is not None and hmac.compare_digest(found.value.encode(), self._session.encode())

    def cookie_for(self, token: str) -> str:
        """Return the Set-Cookie header for a token.

        Raises:
            HttpError: it is not this console's.
        """
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            raise TokenError("this is not the token of this console; 'mycomesh web' prints it")
        return f"{self._cookie}={self._session}; Path=/; HttpOnly; SameSite=Strict; Max-Age=2592000"


def stored_token(home: Home) -> str:
    """Return the token of this home's consoles; it is made at the first call, and readable by this user only."""
    path = home.state / "web-token"
    found = read_private(path)
    if found is not None:
        token = found.decode("ascii", "replace").strip()
        if len(token) < TOKEN_CHARS_MIN or not token.isprintable():
            raise NodeError(
                f"{path} has no token of {TOKEN_CHARS_MIN} characters or more; remove it, and another one is made"
            )
        return token
    home.prepare()
    token = secrets.token_urlsafe(32)
    write_private(path, token.encode() + b"\n")
    return token


def names_of(host: str, more: tuple[str, ...]) -> frozenset[str]:
    """Return the names under which a console at this host may be asked."""
    names = {_name_of(f"[{host}]" if ":" in host else host), *map(str.lower, more)}
    return frozenset(names | set(_LOCAL) if is_local(host) else names)


def is_local(host: str) -> bool:
    """Return True for a host that only this machine can reach."""
    return host == "localhost" or is_loopback(host)


def _is_numeric(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _name_of(host: str) -> str:
    """Return the name in a Host header, without port and brackets; "" for anything else."""
    found = _HOST.fullmatch(host.strip().lower())
    return (found[1] or found[2]) if found is not None else ""
