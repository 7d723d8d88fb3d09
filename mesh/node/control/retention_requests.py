"""Requests about how long tables keep their rows, from the control socket or for a file without a node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.shell import clock
from mycomesh.sync.admin.conflicts import find_table
from mycomesh.sync.crdt.hlc import time_text
from mycomesh.sync.errors import PolicyError
from mycomesh.sync.schema.ledgers import is_ledger
from mycomesh.sync.schema.retain import retain_refusal
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.storage.horizon import AGE_MS_MAX, AGE_MS_MIN, RetainRule

if TYPE_CHECKING:
    from collections.abc import Callable

    from mycomesh.sync.replica import Replica
    from mycomesh.sync.storage.table import Table

__all__ = ["prepare"]


def prepare(request: dict[str, Any]) -> Callable[[Replica], dict[str, Any]]:
    """Check a request and return a function that carries it out on a replica.

    The fields are `table`, and to decide `age_ms` with `by`, or `local_ms`; 0 ends a rule or a pin.

    Raises:
        NodeError: the request has a wrong field.
    """
    table, by = request.get("table"), request.get("by", "")
    age_ms, local_ms = _age(request, "age_ms"), _age(request, "local_ms")
    if type(by) is not str or (table is not None and type(table) is not str):
        raise NodeError("a request needs text for 'table' and 'by'; use the same version for node and command")
    if table is None:
        return lambda replica: {"tables": [_shown(replica, each) for each in replica.retention.ruled()]}
    return lambda replica: _decide(replica, table, age_ms, by, local_ms)


def _age(request: dict[str, Any], name: str) -> int | None:
    value = request.get(name)
    if value is not None and (type(value) is not int or not (value == 0 or AGE_MS_MIN <= value <= AGE_MS_MAX)):
        raise NodeError(f"a request needs milliseconds from {AGE_MS_MIN} to {AGE_MS_MAX}, or 0, for {name!r}")
    return value


def _decide(replica: Replica, name: str, age_ms: int | None, by: str, local_ms: int | None) -> dict[str, Any]:
    table = find_table(replica.store, replica.registry, name)
    if age_ms is not None:
        replica.check_decides("not kept by time")
        column = table.spec.to_canonical(by) if by else ""
        refusal = retain_refusal(table.spec, column)
        if not refusal and is_ledger(fold(table.spec.name)):
            refusal = f"{table.spec.name} is what a migration tool has done, and has to stay"
        if refusal:
            raise PolicyError(f"not kept by time: {refusal}")
        replica.retention.decide(table, RetainRule(age_ms, column) if age_ms else None, clock()[1])
        decided = {"table": table.spec.name, "age_ms": age_ms, "by": by if age_ms else "", "note": ""}
        return {"tables": [_shown(replica, table) | decided]}
    if local_ms is not None:
        replica.retention.pin(table, local_ms)
    return {"tables": [_shown(replica, each) for each in replica.retention.ruled() if each is table]}


def _shown(replica: Replica, table: Table) -> dict[str, Any]:
    """Return the rule of a table and what it has done here; a table without one has age 0. `note` says why rows stay."""
    horizon, lacking = table.coverage.horizon, replica.retention.lacking(table)
    blank: dict[str, Any] = dict.fromkeys(("age_ms", "local_ms", "cut", "refused", "untimed"), 0)
    blank = {"table": table.spec.name, "by": "", "horizon": "", "cutting": False, **blank, "note": ""}
    if lacking is not None:
        rule, note = lacking
        return blank | {"age_ms": rule.age_ms, "by": rule.by, "note": note}
    if horizon is None:
        return blank
    here = {column.folded: column.name for column in table.spec.columns}
    return {
        "table": table.spec.name,
        "age_ms": horizon.rule.age_ms,
        "by": here.get(horizon.rule.by, horizon.rule.by),
        "local_ms": horizon.pin.age_ms,
        "horizon": time_text(horizon.bound_ms) if horizon.bound_ms else "",
        "cutting": horizon.is_behind,
        "cut": horizon.figures.cut,
        "refused": horizon.figures.refused,
        "untimed": horizon.figures.untimed,
        "note": "",
    }
