"""Exit codes, which scripts rely on; 69 is EX_UNAVAILABLE of sysexits.h."""

from __future__ import annotations

__all__ = ["DONE", "FAILED", "INTERRUPTED", "NOT_CONVERGED", "NO_NODE", "USAGE", "UsageError"]

DONE = 0
FAILED = 1
USAGE = 2
NOT_CONVERGED = 3
NO_NODE = 69
INTERRUPTED = 130  # the status that shells report after SIGINT


class UsageError(Exception):
    """An argument is wrong in a way that argparse cannot check. The text is one line; nothing was changed."""

    code = "usage"
