"""The requests behind `mycomesh mailbox export` and `mycomesh mailbox import`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.mailbox.storages import open_mailbox
from mycomesh.mesh.node.credentials import mailbox_credentials
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.mailbox_host import courier_of

if TYPE_CHECKING:
    from mycomesh.mesh.node.serving import ServingNode

__all__ = ["answer"]


async def answer(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """Export this node's rows to a mailbox, or import those of others; return what was done.

    Raises:
        NodeError, MailboxError: the request is malformed, or the mailbox cannot be used.
    """
    action, url, credentials = request.get("action"), request.get("url"), request.get("credentials")
    if action not in ("export", "import") or not isinstance(url, str) or not isinstance(credentials, str | None):
        raise NodeError("a mailbox request needs 'action' and 'url'; use the same version for node and command")
    mailbox = open_mailbox(url, mailbox_credentials(None if credentials is None else Path(credentials)))
    courier, surroundings = courier_of(node, mailbox)
    try:
        if action == "export":
            packed = await courier.export()
            return {"envelopes": packed.envelopes, "bytes": packed.size, "left_out": packed.left_out}
        return {"parcels": [asdict(each) for each in await courier.take_in()]}
    finally:
        await surroundings.storage(mailbox.close)
        surroundings.close()
