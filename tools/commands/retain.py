"""`mycomesh retain`: shows or sets how long the rows of a table are kept, on every node or on this one."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from mycomesh.mesh.node.journal import printable
from mycomesh.tools import exits
from mycomesh.tools.commands.deciding import add_file, decide
from mycomesh.tools.render import add_json, duration, print_json, print_table, tell

if TYPE_CHECKING:
    from mycomesh.mesh.node.home import Home

__all__ = ["add_arguments", "run"]

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_OFF = "off"
_AGE_MS_ENDED = 36_600 * _UNITS_MS["d"]  # 100 years; a rule of so long has ended, and is shown for what had gone by it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "table", nargs="?", metavar="TABLE", help="the table; without one, all that keep rows for a time"
    )
    parser.add_argument(
        "age",
        nargs="?",
        type=_age_ms,
        metavar="AGE",
        help="how long: 90s, 30m, 12h, 7d or 8w; off keeps all from now on",
    )
    parser.add_argument(
        "by",
        nargs="*",
        metavar="BY COLUMN",
        help="the column that has the time of a row, as ISO 8601 text or a number of seconds or milliseconds since 1970;"
        " without it a row is as old as its insert",
    )
    parser.add_argument(
        "--local", type=_age_ms, metavar="AGE", help="keep rows for less time on this node alone; off ends that"
    )
    add_file(parser)
    add_json(parser)


def run(args: argparse.Namespace, home: Home) -> int:
    """Show or set the rule through the running node, or in a file that no node serves."""
    asked = _asked(args)
    answer = decide(args, home, "retain", **asked)
    if args.json:
        print_json(answer)
        return exits.DONE
    if args.age is None and args.local is None:
        _show(answer["tables"])
        return exits.DONE
    shown = answer["tables"][0] if answer["tables"] else {}
    if args.age is None:
        kept = f"for {_age(args.local)} on this node" if args.local else "as long as on the mesh"
        tell(args, answer, f"rows of {args.table} are kept {kept}")
    elif args.age:
        by = f"by {shown['by']}" if shown["by"] else "after their insert"
        tell(
            args, answer, f"rows of {args.table} go everywhere {_age(args.age)} {by}, once the decision reaches a node"
        )
    else:
        tell(args, answer, f"rows of {args.table} stay from now on")
    return exits.DONE


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of the request; a wrong combination ends the command."""
    if args.table is None:
        return {}
    asked: dict[str, Any] = {"table": args.table}
    if args.local is not None:
        if args.age is not None:
            raise exits.UsageError(f"give either AGE, for all nodes, or --local AGE: retain {args.table} --local 1d")
        return asked | {"local_ms": args.local}
    if args.age is None:
        return asked
    match args.by:
        case []:
            return asked | {"age_ms": args.age}
        case [word, column] if word.upper() == "BY" and args.age:
            return asked | {"age_ms": args.age, "by": column}
        case _ if not args.age:
            raise exits.UsageError(f"{_OFF} takes no BY and no column: retain {args.table} {_OFF}")
        case _:
            raise exits.UsageError(f"after the age comes BY and a column: retain {args.table} 7d BY at")


def _age_ms(text: str) -> int:
    """Parse an age such as `7d`; return milliseconds, 0 for `off`."""
    if text == _OFF:
        return 0
    found = re.fullmatch(r"([1-9][0-9]{0,6})([smhdw])", text)
    age_ms = int(found[1]) * _UNITS_MS[found[2]] if found else 0
    if not 0 < age_ms <= _AGE_MS_ENDED:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no age of at most 100 years; write 90s, 30m, 12h, 7d, 8w or {_OFF}"
        )
    return age_ms


def _age(age_ms: int) -> str:
    for unit in ("d", "h", "m", "s"):
        if age_ms % _UNITS_MS[unit] == 0:
            return f"{age_ms // _UNITS_MS[unit]}{unit}"
    return duration(age_ms)


def _show(tables: list[dict[str, Any]]) -> None:
    rows = [
        (
            each["table"],
            _OFF if each["age_ms"] >= _AGE_MS_ENDED else _age(each["age_ms"]),
            each["by"] or "insert",
            _age(each["local_ms"]) if each["local_ms"] else "-",
            each["horizon"] or "-",
            str(each["cut"]),
            str(each["refused"]),
            str(each["untimed"]),
        )
        for each in tables
    ]
    notes = [
        f"{each['table']}: {note}; 'mycomesh retain {each['table']} 7d BY COLUMN' names another column, 'off' ends the rule"
        for each in tables
        if (note := each.get("note"))  # a node of an earlier version has none
    ]
    print_table(("TABLE", "AGE", "BY", "HERE", "HORIZON", "CUT", "REFUSED", "NO TIME"), rows)
    for line in notes:
        print(printable(line))
