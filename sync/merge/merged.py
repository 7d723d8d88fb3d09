"""Effect of received changes, as merges count it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Merged"]


@dataclass(slots=True)
class Merged:
    """Effect of received changes.

    changes: changes that were news.
    repaired: those among them that this replica covered already, and had lost.
    conflicts: conflict records made.
    parked: rows that SQLite refused.
    parked_new: those among them that were not in the user's table before, so that no other row can fit because of them.
    left_out: inserts that were left out and not covered, as too many rows of their writer are parked.
    large_keys: changes that were left out and not covered, as the keys of their rows are too large.
    """

    changes: int = 0
    repaired: int = 0
    conflicts: int = 0
    parked: int = 0
    parked_new: int = 0
    left_out: int = 0
    large_keys: int = 0

    def add(self, other: Merged) -> None:
        """Add the counts of another part."""
        self.changes += other.changes
        self.repaired += other.repaired
        self.conflicts += other.conflicts
        self.parked += other.parked
        self.parked_new += other.parked_new
        self.left_out += other.left_out
        self.large_keys += other.large_keys
