"""Result of applying one bundle."""

from __future__ import annotations

from dataclasses import dataclass, field

from mycomesh.sync.merge.merged import Merged

__all__ = ["Applied"]


@dataclass(slots=True)
class Applied:
    """Result of `Replica.apply`. Tables are named by canonical name."""

    published: list[bytes] = field(default_factory=list)  # batches of local writes that were stamped first
    merged: Merged = field(default_factory=Merged)
    gaps: list[str] = field(default_factory=list)  # tables in which earlier changes of a site are missing
    unknown: list[str] = field(default_factory=list)  # tables that this file does not have
    windows: list[tuple[str, bytes, int, int]] = field(
        default_factory=list
    )  # (table, site, after, upto) of a catch-up chunk
    changes: int = 0  # in the bundle, new here or not
    full: list[bytes] = field(default_factory=list)  # beginnings of sites of which too many rows are parked since now
    crowded: int = 0  # changes of a catch-up chunk left out because this file has no room for their sites or decisions
    refused: int = 0  # changes of a catch-up chunk left out because their stamps lie too far ahead
    withheld: bool = False  # changes were left out because one of the two nodes has not learnt a policy or an area yet
    misfit: str = ""  # why nothing of a catch-up chunk was applied: a table has another definition here
    forbidden: list[str] = field(default_factory=list)  # tables that the writer may not write: left out, not covered
    unsigned: int = 0  # changes of signed tables that were left out, because their writers did not sign them
    renewed: bool = False  # the file had gone back in time and continues under a new site
