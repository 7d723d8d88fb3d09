"""SQL identifiers: case folding, quoting, and the names that are reserved for the node's own tables."""

from __future__ import annotations

import functools
import re

__all__ = [
    "INTERNAL_PREFIX",
    "NAME_MAX",
    "SHARED",
    "fold",
    "is_capture_index",
    "is_capture_trigger",
    "is_internal",
    "is_reserved",
    "quoted",
]

NAME_MAX = 256  # characters of a table's or column's name in a message

INTERNAL_PREFIX = "mycomesh_"
# Tables of commands that replicate as a user's do, under the same rights.
SHARED = frozenset({"mycomesh_flows", "mycomesh_models", "mycomesh_model_parts", "mycomesh_model_uses"})
_TABLES = re.compile(
    r"mycomesh_((pending|changes|runs|seals)_\d+"
    r"|meta|sites|replicated|names|vectors|collected|held|schema|conflicts|moved|parked|sweeps|mark|status|accounts|trouble|peers|tables"
    r"|areas|area_(status|writers)|cursors|readers|touched|dead_letters|signers|bridge_(seen|offsets|rows)|bridges|flow_states|flow_ahead|mailboxes)"
)
_TRIGGERS = re.compile(r"mycomesh_\d+_(insert|update|rekey|delete|evict_[iux])")
_INDEXES = re.compile(r"mycomesh_\d+_keep")

_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@functools.lru_cache(maxsize=4_096)
def fold(name: str) -> str:
    """Return the name with ASCII letters in lower case, as SQLite compares identifiers."""
    return name.translate(_FOLD)


def is_internal(table: str) -> bool:
    """Return True if the node itself creates a table of that name."""
    return _TABLES.fullmatch(table) is not None


def is_reserved(folded: str) -> bool:
    """Return True if no user's table may have that name: it is SQLite's or the node's."""
    return folded.startswith(("sqlite_", INTERNAL_PREFIX)) and folded not in SHARED


def is_capture_trigger(name: str) -> bool:
    """Return True if the node itself creates a trigger of that name."""
    return _TRIGGERS.fullmatch(name) is not None


def is_capture_index(name: str) -> bool:
    """Return True if the node itself creates an index of that name on a user's table."""
    return _INDEXES.fullmatch(name) is not None


def quoted(name: str) -> str:
    """Return the identifier in double quotes, with any quotes inside it doubled."""
    return '"' + name.replace('"', '""') + '"'
