"""What became of one bundle that was applied, for those who asked for it.

Owns only plain values. It must not know how they come about.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.sync.merge.merge import Merged

__all__ = ["Applied"]


@dataclass(slots=True)
class Applied:
    """The outcome of `apply`: batches of local writes drained on the way, what was merged, tables that show a gap."""

    published: list[bytes] = field(default_factory=list)
    merged: Merged = field(default_factory=Merged)
    gaps: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    windows: list[tuple[str, bytes, int, int]] = field(default_factory=list)  # what a catch-up chunk was read from
    changes: int = 0  # in the bundle, news or not
    refused: int = 0  # catch-up changes left out because they are stamped too far ahead
    withheld: bool = False  # changes were left out because one side has not learnt of a table's policy
    misfit: str = ""  # why nothing of a catch-up chunk was applied: a table is defined otherwise here
    forbidden: list[str] = field(default_factory=list)  # tables that the writer may not write: left out, not covered
    renewed: bool = False  # the file goes on under a new site: it had gone back in time
