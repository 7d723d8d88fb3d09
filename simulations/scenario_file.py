"""Reads a user's scenario from a TOML file, whose keys docs/simulations.md lists.

Invariant: every unknown key and every wrong value is an error of one line, with the file, the key and what is allowed.
"""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.versions import SUPPORTED, Versions
from mycomesh.simulations import faults
from mycomesh.simulations.bounds import (
    BANDWIDTH,
    DELAY_MS,
    DRIFT_PPM,
    DURATION_S,
    HEARTBEAT_MS,
    LOSS,
    METRES,
    NODES,
    RATE,
    READERS,
    RETAIN_S,
    ROWS,
    SKEW_MS,
    Bound,
)
from mycomesh.simulations.errors import ScenarioError
from mycomesh.simulations.mailbox import WRONGS
from mycomesh.simulations.network import Conditions
from mycomesh.simulations.scenario import Scenario
from mycomesh.simulations.traitor import LIES, LIES_ABOUT_AREAS
from mycomesh.simulations.workload import Rates
from mycomesh.simulations.world import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

__all__ = ["load"]

TOP = (
    "nodes",
    "duration",
    "settle",
    "heartbeat_ms",
    "versions",
    "absent",
    "tables_at",
    "urgent",
    "signed",
    "keeps",
    "writes",
    "keyed",
    "readers",
    "retain",
    "bases",
    "gateways",
    "rates",
    "network",
    "clock",
    "fault",
)
NETWORK = {
    "delay_ms": ("delay_us", 1_000, DELAY_MS),
    "jitter_ms": ("jitter_us", 1_000, DELAY_MS),
    "bandwidth": ("bandwidth_bytes_s", 1, BANDWIDTH),
    "loss": ("loss", None, LOSS),
    "reset": ("reset", None, LOSS),
    "range_m": ("range_m", None, replace(METRES, least=0)),
}
CLOCK = ("node", "skew_ms", "drift_ppm")
FAULTS: dict[str, type[faults.Fault]] = {
    "split": faults.Split,
    "heal": faults.Heal,
    "cut": faults.Cut,
    "radio": faults.Radio,
    "reset": faults.Reset,
    "move": faults.Move,
    "crash": faults.Crash,
    "power-cut": faults.PowerCut,
    "stop": faults.Stop,
    "restart": faults.Restart,
    "upgrade": faults.Upgrade,
    "join": faults.Join,
    "backup": faults.Backup,
    "restore": faults.Restore,
    "clone": faults.Clone,
    "revoke": faults.Revoke,
    "purge": faults.Purge,
    "betray": faults.Betray,
    "mailbox": faults.MailboxDoes,
    "window": faults.Window,
    "keep": faults.Keep,
    "divide": faults.Divide,
    "pin": faults.Pin,
    "clock": faults.ClockSet,
}
ACTIONS = Bound(0, 1_000_000, whole=True)
UNSYNCED_S = Bound(0, 3_600, unit="s")
SINCE_S = Bound(0, 1_000_000, unit="s")


def load(path: Path, *, nodes: int | None = None, duration_s: float | None = None) -> Scenario:
    """Read a scenario; `nodes` and `duration_s` override the file's.

    Raises:
        ScenarioError: the file cannot be read, or the scenario is impossible.
    """
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: not a TOML file: {error}") from error
    try:
        return _scenario(path.stem, data, nodes, duration_s)
    except (ScenarioError, ValueError) as error:
        raise ScenarioError(f"{path}: {error}") from error


def _scenario(name: str, data: dict[str, Any], nodes: int | None, duration_s: float | None) -> Scenario:
    _known(data, TOP, "")
    count = int(NODES.read(data.get("nodes"), "nodes") if nodes is None else NODES.read(nodes, "--nodes"))
    if duration_s is None:
        length = DURATION_S.read(data.get("duration"), "duration")
    else:
        length = DURATION_S.read(duration_s, "--duration")
    given: dict[str, Any] = {}
    if "settle" in data:
        given["settle_s"] = DURATION_S.read(data["settle"], "settle")
    if "heartbeat_ms" in data:
        given["heartbeat_ms"] = HEARTBEAT_MS.read(data["heartbeat_ms"], "heartbeat_ms")
    if "versions" in data:
        given["versions"] = _versions(data["versions"], "versions")
    if "tables_at" in data:
        given["tables_at"] = _index(data["tables_at"], "tables_at", count)
    numbers = {"readers": ("readers", READERS), "retain": ("retain_s", RETAIN_S)}
    given |= {field: int(bound.read(data[key], key)) for key, (field, bound) in numbers.items() if key in data}
    if "bases" in data:
        given["bases"] = _groups(_list(data, "bases"), "bases", count)
    given["gateways"] = tuple(_index(node, "gateways", count) for node in _list(data, "gateways"))
    if given["gateways"] and "bases" not in data:
        raise ScenarioError("gateways: need 'bases', between which they carry changes")
    given |= {key: _names(data, key) for key in ("urgent", "signed") if key in data}
    if "keyed" in data:
        if not isinstance(data["keyed"], bool):
            raise ScenarioError(f"keyed: must be true or false, not {data['keyed']!r}")
        given["keyed"] = data["keyed"]
    given |= {
        key: tuple(_areas(areas, key) for areas in _list(data, key)) for key in ("keeps", "writes") if key in data
    }
    absent = tuple(_index(node, "absent", count) for node in _list(data, "absent"))
    _once(absent, "absent")
    planned = [_fault(each, f"fault[{at}].", count, length) for at, each in enumerate(_list(data, "fault"))]
    for at, fault in enumerate(planned):
        _possible(fault, f"fault[{at}].", count, absent)
    return Scenario(
        name,
        count,
        length,
        rates=_rates(_table(data, "rates")),
        conditions=_conditions(_table(data, "network")),
        faults=tuple(sorted(planned, key=lambda fault: fault.at_s)),
        clocks=_clocks(_list(data, "clock"), count),
        absent=absent,
        **given,
    )


def _areas(areas: Any, key: str) -> tuple[str, ...] | None:
    """Read the areas that a node keeps, or may write: "all", or a list of names."""
    if areas == "all":
        return None
    if not isinstance(areas, list) or not all(isinstance(area, str) for area in areas):
        raise ScenarioError(f'{key}: must have "all" or a list of drone ids for each node, not {areas!r}')
    return tuple(areas)


def _rates(table: Mapping[str, Any]) -> Rates:
    names = tuple(field.name for field in fields(Rates))
    _known(table, names, "rates.")
    given: dict[str, Any] = {
        name: (ROWS if name == "rows" else RATE).read(value, f"rates.{name}") for name, value in table.items()
    }
    return Rates(**given)


def _conditions(table: Mapping[str, Any]) -> Conditions:
    _known(table, tuple(NETWORK), "network.")
    given: dict[str, Any] = {}
    for key in table:
        name, factor, bound = NETWORK[key]
        value = bound.read(table[key], f"network.{key}")
        given[name] = value if factor is None else round(value * factor)
    return Conditions(**given)


def _clocks(rows: list[Any], nodes: int) -> tuple[Clock, ...]:
    if not rows:
        return ()
    clocks: dict[int, Clock] = {}
    for at, row in enumerate(rows):
        where = f"clock[{at}]."
        _known(_is_table(row, where), CLOCK, where)
        node = _index(row.get("node"), f"{where}node", nodes)
        if node in clocks:
            raise ScenarioError(f"{where}node: must name each node once, but {node} appears again")
        clocks[node] = _clock(row, where)
    return tuple(clocks.get(node, Clock()) for node in range(nodes))


def _clock(row: Mapping[str, Any], where: str) -> Clock:
    skew, drift = row.get("skew_ms", 0), row.get("drift_ppm", 0)
    return Clock(int(SKEW_MS.read(skew, f"{where}skew_ms")), int(DRIFT_PPM.read(drift, f"{where}drift_ppm")))


def _fault(row: Any, where: str, nodes: int, duration_s: float) -> faults.Fault:
    kind = _is_table(row, where).get("kind")
    fault = FAULTS.get(kind) if isinstance(kind, str) else None
    if fault is None:
        raise ScenarioError(f"{where}kind: must be one of {', '.join(FAULTS)}, not {kind!r}")
    own = [field for field in fields(fault) if field.name not in {"at_s", "clock"}]
    names = ("kind", "at", *(field.name for field in own), *(CLOCK[1:] if fault is faults.ClockSet else ()))
    _known(row, names, where)
    given: dict[str, Any] = {"at_s": float(Bound(0, duration_s, unit="s").read(row.get("at"), f"{where}at"))}
    if fault is faults.ClockSet:
        given["clock"] = _clock(row, where)
    for field in own:
        if field.name in row:
            given[field.name] = _field(field.name, row, where, nodes)
        elif field.default is MISSING:
            raise ScenarioError(f"{where}{field.name}: is missing; {kind} needs it")
    return fault(**given)


def _possible(fault: faults.Fault, where: str, nodes: int, absent: tuple[int, ...]) -> None:
    """Raise `ScenarioError` for a fault that no run could apply, although each of its values is in range."""
    match fault:
        case faults.Split(_, groups):
            _once(chain.from_iterable(groups), f"{where}groups")
        case faults.Cut(_, source, target) if source == target:
            raise ScenarioError(f"{where}target: must be another node than source, not {target}")
        case faults.Clone(_, source, node) if source == node:
            raise ScenarioError(f"{where}node: must be another node than source, not {node}")
        case faults.Clone(_, _, node) if node not in absent:
            raise ScenarioError(f"{where}node: must be one of 'absent', not {node}")
        case faults.Betray(_, _, lies):
            for lie in lies:
                if lie not in (*LIES, *LIES_ABOUT_AREAS):
                    raise ScenarioError(f"{where}lies: must be of {', '.join((*LIES, *LIES_ABOUT_AREAS))}, not {lie!r}")
        case faults.MailboxDoes(_, wrongs):
            for wrong in wrongs:
                if wrong not in WRONGS:
                    raise ScenarioError(f"{where}wrongs: must be of {', '.join(WRONGS)}, not {wrong!r}")
        case faults.Revoke(_, 0) | faults.Purge(_, 0, _) | faults.Keep(_, 0, _):
            does = "keeps the table whole" if isinstance(fault, faults.Keep) else "revokes the others"
            raise ScenarioError(f"{where}node: must be a node from 1 to {nodes - 1}, not 0, which {does}")
        case _:
            pass


def _field(name: str, row: Mapping[str, Any], where: str, nodes: int) -> object:
    """Read one value of a fault; a name has the same meaning in every fault."""
    value = row[name]
    readers: dict[str, Callable[[], object]] = {
        "groups": lambda: _groups(_list(row, name, where), f"{where}groups", nodes),
        "wrongs": lambda: _names(row, name),
        "areas": lambda: _names(row, name),
        "places": lambda: tuple(_position(each, f"{where}places", nodes) for each in _list(row, name, where)),
        "versions": lambda: _versions(value, f"{where}{name}"),
        "lies": lambda: _names(row, name),
        "age_s": lambda: RETAIN_S.read(value, f"{where}{name}"),
        "since_s": lambda: float(SINCE_S.read(value, f"{where}{name}")),
        "actions": lambda: ACTIONS.read(value, f"{where}{name}"),
        "unsynced_s": lambda: UNSYNCED_S.read(value, f"{where}{name}"),
    }
    if name in readers:
        return readers[name]()
    if name in {"on", "one_way", "opens", "silent"}:
        if not isinstance(value, bool):
            raise ScenarioError(f"{where}{name}: must be true or false, not {value!r}")
        return value
    return _index(value, f"{where}{name}", nodes)


def _groups(rows: list[Any], where: str, nodes: int) -> tuple[tuple[int, ...], ...]:
    """Read groups of nodes."""
    return tuple(
        tuple(_index(node, where, nodes) for node in _list({"group": group}, "group", where)) for group in rows
    )


def _position(value: Any, where: str, nodes: int) -> tuple[int, float, float]:
    if not isinstance(value, list) or len(value) != 3:
        raise ScenarioError(f"{where}: must be lists of [node, metres east, metres north], not {value!r}")
    east, north = (float(METRES.read(metres, f"{where}: metres")) for metres in value[1:])
    return _index(value[0], where, nodes), east, north


# ---- values


def _known(table: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for key in table:
        if key not in names:
            raise ScenarioError(f"{where}{key}: unknown key; known keys are {', '.join(names)}")


def _index(value: Any, where: str, nodes: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < nodes:
        raise ScenarioError(f"{where}: must be a node from 0 to {nodes - 1}, not {value!r}")
    return value


def _once(nodes: Iterable[int], where: str) -> None:
    seen: dict[int, None] = {}
    for node in nodes:
        if node in seen:
            raise ScenarioError(f"{where}: must name each node once, but {node} appears again")
        seen[node] = None


def _versions(value: Any, where: str) -> Versions:
    if not isinstance(value, list) or len(value) != 2 or any(type(each) is not int for each in value):
        raise ScenarioError(f"{where}: must be the oldest and the newest version, such as [1, 2], not {value!r}")
    try:
        versions = Versions(*value)
    except ValueError as error:
        raise ScenarioError(f"{where}: {error}") from None
    if versions.oldest not in SUPPORTED or versions.newest not in SUPPORTED:
        raise ScenarioError(f"{where}: must be within {SUPPORTED}, which this mycomesh speaks, not {versions}")
    return versions


def _list(table: Mapping[str, Any], key: str, where: str = "") -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list):
        raise ScenarioError(f"{where}{key}: must be a list, not {value!r}")
    return value


def _names(table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    for name in _list(table, key):
        if not isinstance(name, str) or not name:
            raise ScenarioError(f"{key}: must be names of tables, not {name!r}")
    return tuple(table[key])


def _table(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _is_table(data.get(key, {}), f"{key}.")


def _is_table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ScenarioError(f"{where.rstrip('.')}: must be a table, not {value!r}")
    return value
