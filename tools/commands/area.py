"""`mycomesh area`: cuts a table into areas by a column, or lists the tables that are cut and their areas."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, print_json, print_table, say, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

WRITERS_SHOWN = 3  # of an area, on one line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("table", nargs="?", metavar="TABLE", help="the table; without one, all that are cut")
    parser.add_argument(
        "by",
        nargs="*",
        metavar="BY COLUMN",
        help="the column whose values are the areas; this holds for the whole mesh, and for good",
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Cut a table or list areas, through the running node or in a file that no node serves."""
    match args.by:
        case []:
            column = None
        case [word, column] if word.upper() == "BY":
            pass
        case _:
            raise exits.UsageError(f"after the table comes BY and a column: area {args.table} BY drone_id")
    answer = decide(args, home, "area", table=args.table, column=column)
    if column is not None:
        line = f"{args.table} is cut by {column} here, and on every other node once the decision reaches it"
        line += _rows(answer.get("decided"))
        tell(
            args,
            answer,
            line,
            "what each node keeps is in its [keep] (docs/areas.md); without it a node keeps all areas",
        )
    elif args.json:
        print_json(answer)
    elif args.table is None:
        _show_tables(answer["tables"])
    else:
        _show_areas(answer["tables"][0])
    return exits.DONE


def _show_tables(tables: list[dict[str, Any]]) -> None:
    rows = [
        (
            each["table"],
            each["by"],
            str(len(each["areas"]) + each["more"]),
            str(sum(area["kept"] for area in each["areas"])),
            str(sum(area["rows"] for area in each["areas"])),
            str(each["no_area"]),
        )
        for each in tables
    ]
    print_table(("TABLE", "BY", "AREAS", "KEPT", "ROWS", "OF NO AREA"), rows)


def _rows(decided: dict[str, Any] | None) -> str:
    """Return what becomes of the rows that a table has when it is cut."""
    if not decided or not decided["rows"]:
        return ""
    if decided["rows_get_areas"]:
        return f"; its {decided['rows']:,} row(s) here go into {decided['areas']:,} area(s), each with its history"
    return f"; its {decided['rows']:,} row(s) here stay with everybody until they are written again"


def _writers(writers: list[dict[str, Any]]) -> str:
    shown = [f"{each['node_id'][:8]} {each['changes']:,}" for each in writers[:WRITERS_SHOWN]]
    return ", ".join([*shown, *(["..."] if len(writers) > WRITERS_SHOWN else [])])


def _show_areas(table: dict[str, Any]) -> None:
    if not table["by"]:
        say(f"{table['table']} is not cut")
        return
    rows = [
        (each["area"], "yes" if each["kept"] else "no", str(each["rows"]), _writers(each["writers"]))
        for each in table["areas"]
    ]
    print_table(("AREA", "KEPT", "ROWS", "CHANGES HERE, BY NODE"), rows)
    if table["more"]:
        print(f"and {table['more']} more")
