"""Requests about tables (counters, policies, migrations, conflicts), from the control socket or for a file without a node.

Invariant: a refused request changes nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control import area_requests, retention_requests
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.shell import clock
from mycomesh.sync.admin.conflicts import find_table
from mycomesh.sync.schema.policy import OWN_IDS, SHARED_IDS
from mycomesh.sync.sqlite.identifiers import fold

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.mesh.node.serving import ServingNode
    from mycomesh.sync.admin.conflicts import Conflict
    from mycomesh.sync.replica import Replica

__all__ = ["answer", "prepare"]

NUMBER_END = 1 << 63  # SQLite's integers are smaller


async def answer(node: ServingNode, request: dict[str, Any]) -> dict[str, Any]:
    """Carry out one request and return its result.

    Raises:
        NodeError: the request lacks a field or has a wrong one.
        SyncError: the replica refuses it.
    """
    result = await node.run_on_replica(prepare(request, node.names_by_site()))
    if request.get("do") in {"accept-drop", "keep-rows"} or request.get("local_ms") is not None:
        node.request_comparison()  # which begins the rounds again, and shows what other nodes hold
    return result


def prepare(request: dict[str, Any], names: dict[str, str]) -> Callable[[Replica], dict[str, Any]]:
    """Check a request and return a function that carries it out on a replica.

    `names` maps the first 16 hexadecimal digits of a member's sites to its name.

    Raises:
        NodeError: the request lacks a field or has a wrong one.
    """
    match request.get("do"):
        case "counter":
            table, column = _text(request, "table"), _text(request, "column")
            return lambda replica: _make_counter(replica, table, column)
        case "accept-drop" | "keep-rows" as decision:
            table = _text(request, "table")
            return lambda replica: {
                "changes": (replica.drop_guard.accept if decision == "accept-drop" else replica.drop_guard.refuse)(
                    table
                )
            }
        case "policy" | "retain" | "area" as rule:
            preparations = {
                "policy": _prepare_policy,
                "retain": retention_requests.prepare,
                "area": area_requests.prepare,
            }
            return preparations[rule](request)
        case "migrate":
            script, dry_run = _text(request, "sql"), request.get("dry_run") is True
            return lambda replica: {"done": replica.migrate(script, clock()[1], dry_run=dry_run)}
        case "conflicts":
            limit = _number(request, "limit")
            return lambda replica: {
                "conflicts": [_with_names(conflict, names) for conflict in replica.conflicts.latest(limit)]
            }
        case "retry-parked":
            table = _text(request, "table")
            return lambda replica: {"rows": _retry_parked(replica, table)}
        case "restore":
            which = _text(request, "conflict")
            if request.get("undo") is True:
                return lambda replica: {"done": replica.conflicts.undo(which)}
            beside = request.get("as_new_row") is True
            return lambda replica: {"done": replica.conflicts.restore(which, clock()[1], as_new_row=beside)}
        case other:
            raise AssertionError(f"{other!r} is not a request about tables")


def _prepare_policy(request: dict[str, Any]) -> Callable[[Replica], dict[str, Any]]:
    table = _text(request, "table")
    policy = None if request.get("policy") is None else _text(request, "policy")
    return lambda replica: _policy(replica, table, policy)


def _make_counter(replica: Replica, table: str, column: str) -> dict[str, Any]:
    replica.check_decides("not a counter")
    replica.decisions.declare_counter(table, column)
    return {}


def _retry_parked(replica: Replica, name: str) -> int:
    """Queue the parked rows of a table for the next drain; return how many there are."""
    table = find_table(replica.store, replica.registry, name)
    replica.outbox.retry(table)
    return next((each.parked for each in replica.status().tables if fold(each.name) == fold(name)), 0)


def _policy(replica: Replica, table: str, policy: str | None) -> dict[str, Any]:
    decisions = replica.decisions
    if policy is not None:
        replica.check_decides(f"not {policy}")
        decisions.decide_policy(table, policy)
    answer: dict[str, Any] = {
        "policy": decisions.policy(table),
        "ids": decisions.ids(table),
        "areas_by": decisions.area_column(table),
    }
    if policy is not None:  # takes effect with the drain that follows
        return answer | {"ids" if policy in (OWN_IDS, SHARED_IDS) else "policy": policy}
    room = decisions.room(table)
    return answer | ({} if room is None else {"next_id": room.next_id, "ids_left": room.left})


def _with_names(conflict: Conflict, names: dict[str, str]) -> dict[str, Any]:
    """Return a conflict's fields with the names of the members that wrote its values, "" for an unknown site."""
    by = {
        f"{side}_by": names.get(site[:16], "")
        for side, site in (("lost", conflict.lost_site), ("won", conflict.won_site))
    }
    return asdict(conflict) | by


def _number(request: dict[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or not 0 < value < NUMBER_END:
        raise NodeError(
            f"a request needs a whole number from 1 for {name!r}; use the same version for node and command"
        )
    return value


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if type(value) is not str:
        raise NodeError(f"a request needs text for {name!r}; use the same version for node and command")
    return value
