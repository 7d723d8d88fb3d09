"""Access to the console: names of the machine, tokens, cookies and origins."""

from __future__ import annotations

import pytest

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.home import Home
from mycomesh.tools.web.access import Access, is_local, names_of, stored_token
from mycomesh.tools.web.errors import HostError, OriginError, ReadOnlyError, TokenError
from mycomesh.tools.web.http import Request

TOKEN = "t" * 43


def access(host="127.0.0.1", *, writes=False, always=False, names=()):
    open_reads = is_local(host) and not always
    return Access(TOKEN, names_of(host, names), 7480, open_reads=open_reads, allow_writes=writes)


def asked(host="127.0.0.1:7480", method="GET", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, "/api/status", {}, {"host": host, **named})


def bearer(token=TOKEN, **more):
    return asked(authorization=f"Bearer {token}", **more)


@pytest.mark.parametrize("host", ["127.0.0.1:7480", "localhost:7480", "localhost", "[::1]:7480", "LOCALHOST:7480"])
def test_names_of_this_machine_are_answered(host):
    access().check(asked(host), writes=False, public=False)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example:7480",
        "",
        "127.0.0.1.evil.example",
        "192.168.0.9:7480",
        "[fe80::1]",
        "localhost:7480@evil.example",
        "localhost:",
    ],
)
def test_other_names_are_refused_also_for_the_page(host):
    for public in (False, True):
        with pytest.raises(HostError):
            access().check(asked(host), writes=False, public=public)


def test_reads_elsewhere_need_the_token():
    rules = access("192.168.0.9")
    with pytest.raises(TokenError):
        rules.check(asked("192.168.0.9:7480"), writes=False, public=False)
    rules.check(bearer(host="192.168.0.9:7480"), writes=False, public=False)
    rules.check(asked("192.168.0.9:7480"), writes=False, public=True)


def test_every_address_takes_numbers_and_given_names():
    rules = access("0.0.0.0", names=("Ground.local",))
    for host in ("10.0.0.7:7480", "[fd00::7]:7480", "ground.local:7480"):
        rules.check(bearer(host=host), writes=False, public=False)
    with pytest.raises(HostError):
        rules.check(bearer(host="evil.example:7480"), writes=False, public=False)


def test_writes_need_token_and_option_on_the_loopback():
    with pytest.raises(TokenError):
        access(writes=True).check(asked(method="POST"), writes=True, public=False)
    with pytest.raises(ReadOnlyError):
        access().check(bearer(method="POST"), writes=True, public=False)
    access(writes=True).check(bearer(method="POST"), writes=True, public=False)


def test_pages_of_other_sites_cannot_write():
    rules = access(writes=True)
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999"):
        with pytest.raises(OriginError):
            rules.check(bearer(method="POST", origin=origin), writes=True, public=False)
    rules.check(bearer(method="POST", origin="http://127.0.0.1:7480"), writes=True, public=False)


def test_cookie_is_given_for_the_token_only():
    rules = access(always=True)
    with pytest.raises(TokenError):
        rules.cookie_for("wrong")
    cookie = rules.cookie_for(TOKEN)
    assert "HttpOnly; SameSite=Strict" in cookie
    assert TOKEN not in cookie
    rules.check(asked(cookie=cookie.partition(";")[0]), writes=False, public=False)
    for other in ("mycomesh-7480=wrong", "mycomesh-9999=" + cookie.partition("=")[2].partition(";")[0], "=;;=\x01"):
        with pytest.raises(TokenError):
            rules.check(asked(cookie=other), writes=False, public=False)


def test_wrong_tokens_are_refused():
    for given in ("", "x", TOKEN[:-1], TOKEN + "x", "é"):
        with pytest.raises(TokenError):
            access(always=True).check(bearer(given), writes=False, public=False)


def test_token_is_kept_private(tmp_path):
    home = Home.locate(tmp_path, {})
    home.prepare()
    token = stored_token(home)
    assert stored_token(home) == token
    assert (home.state / "web-token").stat().st_mode & 0o777 == 0o600
    (home.state / "web-token").write_text("short\n")
    with pytest.raises(NodeError, match="remove it"):
        stored_token(home)
