"""SQLite's errors by what they are about: one statement, or the file.

An expression of a CHECK, a generated column or an index may fail in many ways for one row: it gets text that is not JSON, an
integer overflows, a value is too large. Each such error refuses that row or that definition, as a constraint does.
"""

from __future__ import annotations

import apsw

__all__ = ["FILE_ERRORS", "REFUSALS"]

# The statement cannot be run, whatever the state of the disk: nothing of it was done, and other statements can be run.
# Out of memory is among them, since SQLite says so of a value for which there is no room.
REFUSALS = (
    apsw.ConstraintError,
    apsw.SQLError,
    apsw.MismatchError,
    apsw.TooBigError,
    apsw.RangeError,
    apsw.AuthError,
    apsw.NoMemError,
)
# The file, its disk or its other users. Damage is not among them: SQLite says so of a full-text index alone, too.
FILE_ERRORS = (
    apsw.BusyError,
    apsw.LockedError,
    apsw.FullError,
    apsw.IOError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
)
