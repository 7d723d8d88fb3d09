"""Keeps Python's garbage collector out while the file is locked.

A full collection walks through all objects of the process, which takes tens of milliseconds on a small machine. The small ones
walk through the rows of a chunk again and again, although all of them go with the chunk. A collection that falls due runs after
the lock is free.
"""

from __future__ import annotations

import gc

__all__ = ["CollectorPause"]


class CollectorPause:
    """One pause at a time; other threads go without the collector too."""

    __slots__ = ("_resumes",)

    def __init__(self) -> None:
        self._resumes = False

    def begin(self) -> None:
        """Turn the collector off."""
        self._resumes = gc.isenabled()  # a program that embeds the node may have turned it off
        gc.disable()

    def end(self) -> None:
        """Turn the collector on again if the pause turned it off."""
        if self._resumes:
            self._resumes = False
            gc.enable()
