"""Create a mesh, join one and invite others from a program: what `mycomesh init`, `join` and `invite` do.

The functions read and write the files of a home, and `join` uses the network. They block, and need no running node.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.membership.enrolment import JoinCode
from mycomesh.mesh.node.config import NodeConfig, load
from mycomesh.mesh.node.control import members
from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import HomeError, NodeError, NoNodeError
from mycomesh.mesh.node.founding import found, read_ticket, store_code, use_ticket
from mycomesh.mesh.node.home import Home
from mycomesh.mesh.node.keystore import Keystore
from mycomesh.mesh.node.pending_join import enrol
from mycomesh.mesh.node.run_loop import as_node_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mycomesh.mesh.membership.identity import Identity

__all__ = ["TRY_S", "Member", "init", "invite", "join"]

TRY_S = 5.0  # a member on the same LAN answers within one second; a person does not want to wait for longer


@dataclass(frozen=True, slots=True)
class Member:
    """The node of a mesh that a home is. The ids are hexadecimal."""

    mesh: str
    mesh_id: str
    node: str
    node_id: str


def init(name: str = "mesh", *, node_name: str | None = None, home: str | Path | None = None) -> Member:
    """Create a mesh on this machine, as `mycomesh init` does.

    Args:
        name: name of the mesh.
        node_name: name of this node; None means the host name.
        home: the directory for keys and state, as `mycomesh --home`.

    Raises:
        NodeError: the home belongs to a mesh already, or a name cannot be used; nothing was changed.
    """
    with as_node_errors():
        return _member(found(_located(home), name, node_name))


def join(
    code: str | Path,
    *,
    node_name: str | None = None,
    home: str | Path | None = None,
    config: NodeConfig | None = None,
    timeout_s: float = TRY_S,
) -> Member:
    """Join a mesh by a code from `invite`, or by the file of a ticket, as `mycomesh join` does.

    Args:
        code: the code; or the path of a ticket as a `Path`, which needs no network.
        node_name: name of this node; None means the host name. A ticket has a name of its own.
        home: the directory for keys and state, as `mycomesh --home`.
        config: the settings; None means those of the home's config.toml.
        timeout_s: seconds to look for a member.

    Raises:
        TimeoutError: no member has answered. The code is stored, and `mesh.open` joins when it meets one.
        NodeError: the code or ticket is wrong, a member refuses it, or the home belongs to another mesh.
    """
    located = _located(home)
    with as_node_errors():
        if isinstance(code, Path):
            identity = _ticket(code)
            use_ticket(located, identity)
            return _member(identity)
        _refuse_event_loop("mesh.join")
        settings = load(located.config_file) if config is None else config
        parsed = JoinCode.parse(code)
        with located.locked():
            store_code(Keystore(located), parsed, node_name)
            joined = enrol(located, settings, seconds_max=timeout_s)
    if joined is None:
        raise TimeoutError(f"no member has answered within {timeout_s:g} s; the code is stored for mesh.open")
    return _member(joined)


def invite(
    *,
    expires_s: int = 3600,
    uses: int = 1,
    role: str = "member",
    write: Sequence[str] = (),
    read: Sequence[str] = (),
    home: str | Path | None = None,
) -> str:
    """Return a join code, as `mycomesh invite` prints it; a running node of this home accepts it from now on.

    In a program that embeds the node of this home, use `node.invite`.

    Args:
        expires_s: seconds for which the code is valid.
        uses: how many machines may use it.
        role: member, read-only, relay or admin.
        write: patterns of tables that the new member may write; without patterns, all that its role may.
        read: patterns of tables that it may only read.
        home: the directory for keys and state, as `mycomesh --home`.

    Raises:
        NodeError: the home has no root key of a mesh, or an option is out of its range.
    """
    _refuse_event_loop("mesh.invite")
    request: dict[str, Any] = {
        "expires_s": expires_s,
        "uses": uses,
        "role": role,
        "write": list(write),
        "read": list(read),
    }
    located = _located(home)
    try:
        answer = ask(located, "invite", **request)
    except NoNodeError:
        with located.locked():
            answer = members.answer(Keystore(located), None, {"do": "invite", **request})
    return str(answer["code"])


def _located(home: str | Path | None) -> Home:
    return Home.locate(None if home is None else Path(home), os.environ)


def _ticket(path: Path) -> Identity:
    try:
        return read_ticket(path)
    except OSError as error:
        raise HomeError(f"cannot read {path}: {error.strerror}") from error


def _member(identity: Identity) -> Member:
    return Member(identity.mesh_name, identity.mesh_id.hex(), identity.name, identity.node_id.hex())


def _refuse_event_loop(call: str) -> None:
    """Refuse to block a running event loop, on which the node that must answer may run."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise NodeError(f"{call} blocks: call it before the event loop runs, or by asyncio.to_thread")
