"""Where a result came from: the flow and the change whose derived key it has, back to a row that no flow has made.

A derived key is a hash of (flow, change, number), so nothing is stored beside the rows: the changes of the input table that are
still there are tried. An input that has changed since is not among them.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.tools.flows.keys import dot_of, integer_key, text_key
from mycomesh.tools.flows.settings import load_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.flows.settings import FlowSettings

__all__ = ["DEPTH_MAX", "NUMBERS_MAX", "Origin", "origins"]

DEPTH_MAX = 8  # flows behind each other
NUMBERS_MAX = 16  # results of one change that are tried
PAGE_ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Origin:
    """One step back.

    flow: its name.
    version: a digest of what it does, by this node's config.toml.
    table, row: the row that went in.
    id: of the change that went in.
    who, at: its writer, and when.
    values: the row by now.
    model: name, version and digest of the model that made the result, "" for other flows.
    """

    flow: str
    version: str
    table: str
    row: str
    id: str
    who: str
    at: str
    values: dict[str, Any]
    model: str = ""


def origins(home: Home, table: str, key: str) -> list[Origin]:
    """Return the steps from a result back to where it began, none if this node's flows have not derived its key.

    Raises:
        NodeError: the node cannot be asked.
        ConfigError: a section of a flow is wrong.
    """
    flows = load_all(home)
    found: list[Origin] = []
    while len(found) < DEPTH_MAX:
        steps = (_origin(home, each, key) for each in flows if fold(each.into) == fold(table))
        step = next((each for each in steps if each is not None), None)
        if step is None:
            break
        found.append(step)
        table, key = step.table, step.row
    return found


def version_of(flow: FlowSettings) -> str:
    """Return eight digits that change with what a flow does."""
    text = f"{flow.table}\0{flow.select}\0{flow.function.sql}\0{flow.function.call}" + (
        f"\0{flow.function.tensors}" if flow.function.kind == "onnx" else ""
    )
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _origin(home: Home, flow: FlowSettings, key: str) -> Origin | None:
    derive: Any = integer_key if key.isdigit() and len(key) != 32 else text_key
    for change in _changes(home, flow.table):
        dot = dot_of(change["id"])
        if any(str(derive(flow.name, dot, number)) == key for number in range(1, NUMBERS_MAX + 1)):
            row, who, at = change["row"], change["who"], change["at"]
            model = _model(home, flow.name, dot, who) if flow.function.kind == "onnx" else ""
            return Origin(flow.name, version_of(flow), change["table"], row, dot, who, at, change["values"], model)
    return None


def _model(home: Home, flow: str, dot: str, who: str) -> str:
    """Return which models may have made the results of a change: one, if the flow runs on one node or all use the same."""
    from mycomesh.tools.models import store  # noqa: PLC0415 -- flows with models alone need it

    db = store.open_file(ask(home, "status", brief=True)["file"])
    try:
        uses = store.uses(db, flow, *dot.rsplit("/", 2)[1:])
    except store.ModelError as error:
        raise NodeError(str(error)) from error
    finally:
        db.close()
    found = [text for node, text in uses if node == who] or [text for _, text in uses]
    return " or ".join(dict.fromkeys(found))


def _changes(home: Home, table: str) -> Iterator[dict[str, Any]]:
    """Yield the changes of a table whose rows are there, by a reader without a cursor."""
    request: dict[str, Any] = {"token": os.urandom(12).hex(), "pid": os.getpid(), "table": table, "rows": PAGE_ROWS}
    done = 0
    try:
        while lines := ask(home, "changes", **request, done=done, wait_ms=0)["changes"]:
            done = len(lines)
            for line in lines:
                change = json.loads(line)
                if change["values"] is not None:
                    yield change
    finally:
        ask(home, "changes", **request, close=True)
