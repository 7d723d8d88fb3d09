"""`mycomesh import FILE TABLE`: flight logs, tracks and tables of text become rows, which spread like any others."""

from __future__ import annotations

import argparse
import importlib
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mycomesh.mesh.node.control.client import ask
from mycomesh.mesh.node.errors import NodeError
from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.progress import progress
from mycomesh.tools.render import add_json, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home
    from mycomesh.tools.imports.record import Reader

__all__ = ["add_arguments", "run"]

READERS: Final = {
    ".tlog": "flight_logs:TelemetryLog",
    ".bin": "flight_logs:DataFlashLog",
    ".ulg": "ulog:ULog",
    ".csv": "text_files:CsvFile",
    ".json": "text_files:JsonFile",
    ".jsonl": "text_files:JsonFile",
    ".geojson": "text_files:GeoJsonFile",
    ".nmea": "nmea_log:NmeaLog",
}
COMPRESSED: Final = (".csv", ".json", ".jsonl", ".geojson", ".nmea")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", type=Path, metavar="FILE", help=f"{' '.join(READERS)}; those of text also as .gz")
    parser.add_argument("table", metavar="TABLE", help="the table for its rows; it is made if it is not there")
    parser.add_argument(
        "--messages",
        metavar="NAME,...",
        help="of a flight log, import these messages ('all': every one), each into its table TABLE_name, not the positions",
    )
    parser.add_argument(
        "--key",
        metavar="COLUMN,...",
        help="columns of the file that are the key of a new table (default: the file's fingerprint and a running number)",
    )
    parser.add_argument(
        "--file", type=Path, metavar="FILE.db", help="import into this database instead of the running node's"
    )
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Read the file and write its rows; print how many are new and how many were there."""
    reader = _reader(args)
    database = Path(ask(home, "status")["file"]) if args.file is None else args.file.absolute()
    if not database.is_file():
        raise exits.UsageError(f"there is no database {database}; create it with sqlite3, or name another")
    records = importlib.import_module("mycomesh.tools.imports.record")
    log = records.fingerprint(args.source)
    writer = importlib.import_module("mycomesh.tools.imports.table_writer").TableWriter
    size, done, start = args.source.stat().st_size, [0], time.monotonic()
    key = tuple(filter(None, (args.key or "").split(",")))
    with progress(f"importing {args.source.name}", lambda: (done[0], max(1, size))):
        try:
            with writer(database, args.table, log, key) as into:
                for record in into.write(reader.records(), reader.columns):
                    done[0] = record.offset
                counts = dict(sorted(into.counts.items()))
        except records.BadFileError as error:
            text = str(error)
            raise records.BadFileError(
                text if text.startswith(str(args.source)) else f"{args.source}: {text}"
            ) from error
        except sqlite3.Error as error:
            raise NodeError(f"{database}: {error}; check that it is an SQLite database that you may write") from error
        except OSError as error:
            raise records.BadFileError(f"{args.source}: cannot be read: {error.strerror}; check the path") from error
    tell(args, _answer(args, log, counts, reader, time.monotonic() - start), *_lines(args, counts, reader))
    return exits.DONE


def _reader(args: argparse.Namespace) -> Reader:
    suffixes = [suffix.lower() for suffix in args.source.suffixes[-2:]]
    kind = suffixes[-1] if suffixes else ""
    if kind == ".gz" and len(suffixes) == 2:
        kind = suffixes[0]
        if kind not in COMPRESSED:
            raise exits.UsageError(f"{args.source}: decompress it first; only {' '.join(COMPRESSED)} are read as .gz")
    if kind not in READERS:
        raise exits.UsageError(f"{args.source}: no reader of {kind!r} files; there is one of {' '.join(READERS)}")
    if not args.source.is_file():
        raise exits.UsageError(f"there is no file {args.source}; check the path")
    module, _, name = READERS[kind].partition(":")
    selection = importlib.import_module("mycomesh.tools.imports.record").Selection
    words = tuple(filter(None, (args.messages or "").split(",")))
    chosen = selection(() if words == ("all",) else words, words == ("all",))
    reader: Reader = getattr(importlib.import_module(f"mycomesh.tools.imports.{module}"), name)(args.source, chosen)
    return reader


def _answer(
    args: argparse.Namespace, log: str, counts: dict[str, tuple[int, int]], reader: Reader, took_s: float
) -> dict[str, Any]:
    skipped = reader.notes.skipped
    return {
        "file": str(args.source),
        "log": log,
        "tables": [{"name": name, "new": new, "there": old} for name, (new, old) in counts.items()],
        "skipped": skipped.count,
        "first_skipped": skipped.first,
        "notes": reader.notes.lines,
        "seconds": round(took_s, 3),
    }


def _lines(args: argparse.Namespace, counts: dict[str, tuple[int, int]], reader: Reader) -> list[str]:
    lines = [
        f"{args.source.name}: {_count(new, 'row')} into {name}" + (f", {old:,} were there" if old else "")
        for name, (new, old) in counts.items()
    ]
    if not counts:
        missing = "these messages" if args.messages else "position with a 3D fix" if _is_log(args.source) else "rows"
        lines.append(f"{args.source.name}: no {missing} in it; nothing was imported")
    skipped = reader.notes.skipped
    if skipped.count:
        unit = "damaged line" if skipped.first.startswith("line") else "damaged byte"
        lines.append(f"{_count(skipped.count, unit)} passed over, the first at {skipped.first}")
    return [printable(line) for line in [*lines, *reader.notes.lines]]


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _is_log(path: Path) -> bool:
    return not any(suffix.lower() in (".csv", ".json", ".jsonl", ".geojson") for suffix in path.suffixes[-2:])
