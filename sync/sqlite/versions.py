"""The SQLite that a definition needs: functions and syntax by the version that brought them.

A program that meets a function or syntax which its SQLite lacks, anywhere in the schema, can read no table of the file. So a
definition that is newer than the programs beside the nodes must not spread.
tests/sync/sqlite/test_versions.py fails when an SQLite has a function that is not classified here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from mycomesh.sync.sqlite.identifiers import fold
from mycomesh.sync.sqlite.parser_stack import STACK_MAX, stack_depth
from mycomesh.sync.sqlite.tokens import BLANKS, COMMENTS, TOKEN

__all__ = ["FLOOR_DEFAULT", "OLDER", "SINCE", "Version", "newest_need", "parse_version"]

Version = tuple[int, int]
FLOOR_DEFAULT: Version = (3, 40)  # that of Debian 12, from 2022; the stock Python of most machines has no older one
FLOOR_MIN: Version = (3, 24)  # from 2018; what the node itself adds to a file needs no newer one

# Functions that came with 3.32 or later (sqlite.org/changes.html).
SINCE: dict[str, Version] = {
    "iif": (3, 32),
    "substring": (3, 34),
    **dict.fromkeys(
        ("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "ceiling", "cos", "cosh", "degrees", "exp",
         "floor", "ln", "log", "log10", "log2", "mod", "pi", "pow", "power", "radians", "sign", "sin", "sinh", "sqrt",
         "tan", "tanh", "trunc"), (3, 35)
    ),
    "format": (3, 38),
    "unixepoch": (3, 38),
    "unhex": (3, 41),
    "json_error_position": (3, 42),
    "octet_length": (3, 43),
    "timediff": (3, 43),
    "concat": (3, 44),
    "concat_ws": (3, 44),
    "string_agg": (3, 44),
    **dict.fromkeys(
        ("jsonb", "jsonb_array", "jsonb_extract", "jsonb_group_array", "jsonb_group_object", "jsonb_insert", "jsonb_object",
         "jsonb_patch", "jsonb_remove", "jsonb_replace", "jsonb_set"), (3, 45)
    ),
    "json_pretty": (3, 46),
    "fts5_get_locale": (3, 47),
    "fts5_insttoken": (3, 47),
    "fts5_locale": (3, 47),
    "if": (3, 48),
    "unistr": (3, 50),
    "unistr_quote": (3, 50),
    "median": (3, 51),
    "percentile": (3, 51),
    "percentile_cont": (3, 51),
    "percentile_disc": (3, 51),
    "json_array_insert": (3, 53),
    "jsonb_array_insert": (3, 53),
}  # fmt: skip
# Functions that were there before 3.32, or that depend on how SQLite was compiled and not on its version.
_OLDER = """
    -> ->> abs avg bm25 changes char coalesce count cume_dist current_date current_time current_timestamp date datetime
    dense_rank first_value fts3_tokenizer fts5 fts5_source_id geopoly_area geopoly_bbox geopoly_blob geopoly_ccw
    geopoly_contains_point geopoly_debug geopoly_group_bbox geopoly_json geopoly_overlap geopoly_regular geopoly_svg
    geopoly_within geopoly_xform glob group_concat hex highlight ifnull instr json json_array json_array_length
    json_extract json_group_array json_group_object json_insert json_object json_patch json_quote json_remove
    json_replace json_set json_type json_valid julianday lag last_insert_rowid last_value lead length like likelihood
    likely load_extension lower ltrim match matchinfo max min nth_value ntile nullif offsets optimize percent_rank
    printf quote random randomblob rank replace round row_number rtreecheck rtreedepth rtreenode rtrim snippet
    sqlite_compileoption_get sqlite_compileoption_used sqlite_log sqlite_source_id sqlite_version strftime substr
    subtype sum time total total_changes trim typeof unicode unlikely upper zeroblob
"""
OLDER = frozenset(_OLDER.split())
# Functions that took other numbers of arguments only later: the usual numbers, and the version that brought the others.
_ARGUMENTS: dict[str, tuple[frozenset[int], Version]] = {
    "json_valid": (frozenset({1}), (3, 45)),
    "iif": (frozenset({3}), (3, 48)),
}
_NAME_AT_END = re.compile(r"[A-Za-z_][\w$]*\Z")
# Words that can stand before a bracket with an ORDER BY in it that is no aggregate's: a window, a subquery.
_NO_AGGREGATE = (
    "over",
    "as",
    "in",
    "exists",
    "from",
    "join",
    "select",
    "not",
    "and",
    "or",
    "where",
    "on",
    "then",
    "when",
)
_SEPARATED_DIGITS = re.compile(r"(?<![\w$])\d+_\d")
_NOT_CALLED = ("table", "on", "references", "constraint", "index")  # a name and a bracket after these are no call
_QUOTES = {'"': '"', "`": "`", "[": "]"}
_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.\d{1,3})?")


def parse_version(text: str) -> Version | None:
    """Return the version that a text such as "3.45" or "3.45.1" names; None for any other, and for one that is too old."""
    found = _VERSION.fullmatch(text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    return version if version >= FLOOR_MIN else None


@functools.lru_cache(maxsize=512)
def newest_need(sql: str) -> tuple[Version, str]:
    """Return the newest version that a CREATE statement or the text of a column needs, and why; ((0, 0), "") for any version."""
    return max(_needs([piece for piece in TOKEN.findall(sql) if not _is_blank(piece)]), default=((0, 0), ""))


def _needs(pieces: Sequence[str]) -> Iterator[tuple[Version, str]]:
    depth = 0
    if stack_depth(pieces) > STACK_MAX:
        yield (3, 47), "its nesting"
    for at, piece in enumerate(pieces):
        depth += (piece == "(") - (piece == ")")
        if piece == "(" and at:
            yield from _call_needs(pieces, at)
        elif piece[0] not in "'\"`[":
            if "->" in piece:
                yield (3, 38), "the operator ->"
            if _SEPARATED_DIGITS.search(piece):
                yield (3, 46), f"the number {piece}"
        words = [fold(each) for each in pieces[at : at + 2]]
        if words == ["distinct", "from"]:
            yield (3, 39), "IS DISTINCT FROM"
        if words in (["right", "join"], ["right", "outer"], ["full", "join"], ["full", "outer"]):
            yield (3, 39), f"{words[0].upper()} JOIN"
        if words == ["materialized", "("]:
            yield (3, 35), "MATERIALIZED"
        if not depth and words[:1] == ["strict"] and ")" in pieces[:at]:
            yield (3, 37), "STRICT"


def _call_needs(pieces: Sequence[str], at: int) -> Iterator[tuple[Version, str]]:
    """Yield what the call needs whose opening bracket is at an index, if it is a call."""
    before = pieces[at - 1]
    closing = _QUOTES.get(before[0])
    found = None if closing else _NAME_AT_END.search(before)
    name = fold(before[1:-1] if closing else found[0] if found else "")
    if at > 1 and fold(pieces[at - 2]) in _NOT_CALLED:
        return
    words = list(map(fold, _inner(pieces, at)))
    if name and name not in _NO_AGGREGATE and "order" in words and words[0] not in ("select", "with", "values"):
        yield (3, 44), f"ORDER BY in {name}()"
    if name == "raise" and len(words) > 3:
        yield (3, 47), "a message of RAISE that is computed"
    if name in SINCE:
        yield SINCE[name], f"{name}()"
    if name in _ARGUMENTS:
        usual, version = _ARGUMENTS[name]
        count = _arguments(pieces, at)
        if count not in usual:
            yield version, f"{name}() with {count} arguments"


def _inner(pieces: Sequence[str], at: int) -> list[str]:
    """Return the pieces in the brackets that open at an index, without those in brackets within them."""
    found, depth = [], 0
    for piece in pieces[at:]:
        depth += (piece == "(") - (piece == ")")
        if not depth:
            break
        if depth == 1 and piece not in "()":
            found.append(piece)
    return found


def _arguments(pieces: Sequence[str], at: int) -> int:
    """Return the number of arguments in the brackets that open at an index."""
    depth, commas = 0, 0
    for end in range(at, len(pieces)):
        depth += (pieces[end] == "(") - (pieces[end] == ")")
        commas += depth == 1 and pieces[end] == ","
        if not depth:
            return 0 if end == at + 1 else commas + 1
    return 0


def _is_blank(piece: str) -> bool:
    return piece[0] in BLANKS or piece.startswith(COMMENTS)
