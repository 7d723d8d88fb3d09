"""A webhook as the function of a flow, in its worker: each row is a POST request, and the answer is its results.

The body is the row as JSON; `Idempotency-Key` is the id of the change, so that a server knows a repetition. The answer is an
object, an array of objects, `null` or nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.credentials import read_secrets
from mycomesh.tools.bridges.http import AGAIN, HttpConnection
from mycomesh.tools.bridges.scheme import LinkError, Message, Options
from mycomesh.tools.flows.worker import ANSWER_BYTES_MAX, AwayError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["caller"]

CONNECTIONS = 4
AT_ONCE = 64  # rows whose answers are handed on together


SECRETS = ("user", "password", "token")


def caller(url: str, credentials: str, ca: str) -> Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]:
    """Return the function for a URL; the files `credentials` and `ca` may be ""."""
    secrets: dict[str, Any] = dict(read_secrets(Path(credentials), SECRETS)) if credentials else {}
    options = replace(Options(url=url, bridge="", ca=ca or None), **secrets)
    free = [HttpConnection(options) for _ in range(CONNECTIONS)]
    slots = asyncio.Semaphore(CONNECTIONS)

    async def call(row: dict[str, Any]) -> Any:
        message = _message(row)
        async with slots:
            connection = free.pop()
            try:
                status, body = await connection.exchange(message, ANSWER_BYTES_MAX)
            except LinkError as error:
                raise AwayError(str(error)) from error
            finally:
                free.append(connection)
        if status in AGAIN or status >= 500:
            raise AwayError(f"the server answers with status {status}")
        if not 200 <= status < 300:
            raise ValueError(f"the server answers with status {status}")
        if body is None:
            raise ValueError(f"the server answers with more than {ANSWER_BYTES_MAX >> 20} MiB")
        try:
            return json.loads(body) if body.strip() else None
        except ValueError as error:
            raise ValueError(f"the server answers with something that is no JSON: {body[:80]!r}") from error

    call.at_once = AT_ONCE  # type: ignore[attr-defined]
    return call


def _message(row: dict[str, Any]) -> Message:
    body = json.dumps(row, ensure_ascii=False, default=_plain).encode()
    name = str(row.get("_id") or hashlib.blake2b(body, digest_size=16).hexdigest())
    table, _, rest = name.partition("/")
    clock = rest.rpartition("/")[2]
    headers = {"mesh-id": name, "mesh-hlc": clock if clock.isdigit() else "0"}
    return Message("", body, name, name, headers, table, "insert")


def _plain(value: Any) -> Any:
    import base64  # noqa: PLC0415 -- rows with blobs alone need it

    return {"base64": base64.b64encode(value).decode()}
