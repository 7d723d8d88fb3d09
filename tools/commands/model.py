"""`mycomesh model`: adds, lists, tests and rolls out the models that `onnx:` flows run; they replicate with the file."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import ConfigError, NodeError
from mycomesh.tools import exits
from mycomesh.tools.numbers import whole
from mycomesh.tools.render import byte_count, print_json, print_table, say, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

ACTIONS = {
    "add": "add a version, of a file or the bundled one",
    "list": "print the models and versions",
    "show": "print one with its card, inputs and outputs",
    "test": "verify one and run it, on rows of a table if --on names one",
    "rollout": "let other nodes use a version",
    "rollback": "withdraw the highest version in use from all nodes",
    "remove": "remove a model, or one version",
}
BUNDLED = ("battery",)
VERSION_MAX = 1_000_000_000
SAMPLE_MAX = 1_000
DIGITS = 12  # of a digest, for people
MEMORY_MIB, TIMEOUT_S = 512, 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    actions = ", ".join(f"{name} ({text})" for name, text in ACTIONS.items())
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help=actions)
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model")
    parser.add_argument(
        "file", nargs="?", metavar="FILE", help=f"of 'add': an ONNX file; bundled: {', '.join(BUNDLED)}"
    )
    parser.add_argument(
        "--version", type=whole(VERSION_MAX), metavar="N", help="the version; of 'add' the next by default"
    )
    parser.add_argument(
        "--nodes", metavar="PATTERNS", help="names of the nodes that may use it, such as 'drone-*,ground'"
    )
    parser.add_argument("--card", metavar="FILE", help="of 'add': a text about it, such as its README")
    parser.add_argument("--on", metavar="TABLE", help="of 'test': the table, or a SELECT, whose latest rows go in")
    parser.add_argument(
        "--sample",
        type=whole(SAMPLE_MAX),
        default=10,
        metavar="N",
        help=f"of 'test': how many rows, up to {SAMPLE_MAX:,}",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def run(args: argparse.Namespace, home: Home) -> int:
    """Carry out one action."""
    if (args.name is None) != (args.action == "list"):
        wanted = "takes no name" if args.name is not None else "needs the name of a model"
        raise exits.UsageError(f"'model {args.action}' {wanted}; 'mycomesh model list' prints the names")
    if args.file is not None and args.action != "add":
        raise exits.UsageError(f"'model {args.action}' takes no file")
    store = importlib.import_module("mycomesh.tools.models.store")
    try:
        with _opened(home) as db:
            return _carry_out(args, store, db)
    except store.ModelError as error:
        raise NodeError(str(error)) from error


def _carry_out(args: argparse.Namespace, store: Any, db: Any) -> int:
    match args.action:
        case "add":
            content, card = _read(args)
            made = store.add(db, args.name, content, card=card, nodes=args.nodes or "*", version=args.version)
            tell(
                args, _json(store, db, made), f"added {made.title}, {byte_count(made.size)}, for the nodes {made.nodes}"
            )
        case "rollout":
            if args.version is None or args.nodes is None:
                raise exits.UsageError("'model rollout' needs --version and --nodes")
            found = store.roll_out(db, args.name, args.version, args.nodes)
            tell(args, _json(store, db, found), f"{found.title} is for the nodes {args.nodes or 'of no name'}")
        case "rollback":
            gone, used = store.rollback(db, args.name)
            tell(args, _json(store, db, used), f"withdrew {gone.title}; nodes use {used.title}")
        case "remove":
            for each in store.remove(db, args.name, args.version):
                tell(args, _json(store, db, each), f"removed {each.title}")
        case "test":
            return _test(args, db)
        case _:
            _list(args, store, db)
    return exits.DONE


@contextlib.contextmanager
def _opened(home: Home) -> Iterator[Any]:
    store = importlib.import_module("mycomesh.tools.models.store")
    db = store.open_file(ask(home, "status", brief=True)["file"])
    try:
        yield db
    finally:
        db.close()


def _read(args: argparse.Namespace) -> tuple[bytes, str]:
    """Return the bytes and the card of what is added."""
    path, card = args.file, args.card
    if path is None:
        if args.name not in BUNDLED:
            raise exits.UsageError(f"'model add {args.name}' needs a file; bundled models are: {', '.join(BUNDLED)}")
        folder = Path(importlib.import_module("mycomesh.tools.models").__file__ or "").parent
        path, card = folder / f"{args.name}.onnx", card or folder / f"{args.name}.md"
    try:
        with Path(path).open("rb") as file:
            content = file.read(_limit() + 1)  # more is refused, and a file may have no end
        return content, Path(card).read_text(encoding="utf-8") if card else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {error}") from error


def _limit() -> int:
    limit: int = importlib.import_module("mycomesh.tools.models.store").MODEL_BYTES_MAX
    return limit


def _json(store: Any, db: Any, version: Any) -> dict[str, Any]:
    here, total = store.parts_here(db, version)
    return {
        "name": version.name,
        "version": version.version,
        "sha256": version.sha256,
        "size": version.size,
        "nodes": version.nodes,
        "parts": here,
        "parts_total": total,
        "card": version.card,
    }


def _list(args: argparse.Namespace, store: Any, db: Any) -> None:
    found = store.versions(db, args.name)
    if args.action == "show" and not found:
        raise store.ModelError(f"there is no model {args.name!r}; 'mycomesh model list' prints the names")
    shown = [_json(store, db, each) for each in found]
    if args.json:
        print_json(shown)
        return
    rows = []
    for each in shown:
        here = "here" if each["parts"] >= each["parts_total"] else f"{each['parts']} of {each['parts_total']} parts"
        size, digest = byte_count(each["size"]), each["sha256"][:DIGITS]
        rows.append((each["name"], str(each["version"]), size, digest, each["nodes"] or "none", here))
    print_table(("MODEL", "VERSION", "SIZE", "SHA256", "NODES", "BYTES"), rows)
    if args.action == "show":
        say("", *found[0].card.splitlines())


def _test(args: argparse.Namespace, db: Any) -> int:
    module = importlib.import_module("mycomesh.tools.flows.onnx_function")
    tensors = importlib.import_module("mycomesh.tools.models.tensors")
    not_ready = importlib.import_module("mycomesh.tools.flows.sql_function").NotReadyError
    worker = module.ModelWorker(db, args.name, ".", TIMEOUT_S, MEMORY_MIB, only=args.version)
    try:
        worker.load()
        rows = _rows(args, db) if args.on else []
        if rows:
            found = _outputs(worker, tensors, rows)
        else:
            every = {each.name: 0 for each in worker.signature.inputs}
            names = {each.name: 0 for each in worker.signature.outputs}
            began = time.perf_counter()
            (answer,) = worker.ask([{"rows": 1, "batch": True, "inputs": {}, "constants": every, "outputs": names}])
            found = [({}, f"{1_000 * (time.perf_counter() - began):.1f} ms" if isinstance(answer, dict) else answer)]
        failed = bool(rows) and any(isinstance(each, str) for _, each in found)
        _print_test(args, worker, found)
    except not_ready as error:
        raise ConfigError(str(error)) from error
    finally:
        worker.close()
    return exits.FAILED if failed else exits.DONE


def _rows(args: argparse.Namespace, db: Any) -> list[dict[str, Any]]:
    """Return the latest rows of a table, or the first ones of a SELECT."""
    apsw = importlib.import_module("apsw")
    quoted = importlib.import_module("mycomesh.sync.sqlite.identifiers").quoted
    is_select = args.on.lstrip().upper().startswith(("SELECT", "WITH"))
    sql = f"SELECT * FROM ({args.on})" if is_select else f"SELECT * FROM {quoted(args.on)} ORDER BY rowid DESC"
    try:
        cursor = db.execute(f"{sql} LIMIT ?", (args.sample,))
        names = [each[0] for each in cursor.get_description()]
        return [dict(zip(names, row, strict=True)) for row in cursor]
    except apsw.ExecutionCompleteError:
        return []
    except apsw.Error as error:
        raise ConfigError(f"--on {args.on}: {error}") from error


def _outputs(worker: Any, tensors: Any, rows: list[dict[str, Any]]) -> list[tuple[dict[str, Any], Any]]:
    signature = worker.signature
    into = [name for each in signature.outputs for name in signature.columns.get(each.name, (each.name,))]
    try:
        plan = tensors.plan(signature, tensors.Tensors(keep=()), tuple(rows[0]), into)
    except tensors.TensorError as error:
        raise ConfigError(str(error)) from error
    return [(row, worker.results(plan, [row])[0]) for row in rows]


def _print_test(args: argparse.Namespace, worker: Any, found: list[tuple[dict[str, Any], Any]]) -> None:
    version, signature = worker.version, worker.signature
    if args.json:
        print_json(
            {
                "name": version.name,
                "version": version.version,
                "sha256": version.sha256,
                "inputs": [[each.name, each.kind, list(each.shape)] for each in signature.inputs],
                "outputs": [[each.name, each.kind, list(each.shape)] for each in signature.outputs],
                "rows": [
                    {
                        "row": _plain(row),
                        "outputs": _plain(each) if isinstance(each, dict) else {},
                        "note": each if isinstance(each, str) else "",
                    }
                    for row, each in found
                ],
            }
        )
        return
    say(f"{version.title} has its digest")
    for side, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for each in tensors:
            shape = ", ".join("any" if size is None else str(size) for size in each.shape)
            say(f"{side} {each.name}: {each.kind}[{shape}]")
    print_table(
        ("ROW", "OUTPUTS"), [(_text(row), _text(each) if isinstance(each, dict) else each) for row, each in found]
    )


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: {"bytes": len(value)} if isinstance(value, bytes) else value for name, value in row.items()}


def _text(row: dict[str, Any]) -> str:
    shown = (
        (name, f"{len(value)} bytes" if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False))
        for name, value in row.items()
    )
    return ", ".join(f"{name}={value}" for name, value in shown)
