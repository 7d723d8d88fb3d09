"""Loadable extensions of SQLite, such as sqlite-vec or mod_spatialite: native code that the operator's settings name.

Invariant: SQL cannot load one. The C interface is open only while the settings' own are loaded, and load_extension() never is.
"""

from __future__ import annotations

from collections.abc import Sequence

import apsw

from mycomesh.sync.errors import ExtensionError

__all__ = ["load_extensions"]


def load_extensions(db: apsw.Connection, paths: Sequence[str]) -> None:
    """Load extensions into a connection, in this order.

    Raises:
        ExtensionError: one cannot be loaded.
    """
    if not paths:
        return
    try:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1)
    except apsw.Error as error:  # this SQLite was built without
        raise ExtensionError(f"extensions cannot be loaded here: {error}; take them out of config.toml") from error
    try:
        for path in paths:
            try:
                db.load_extension(path)
            except (apsw.Error, AttributeError) as error:
                reason = " ".join(str(error).split()).removeprefix("ExtensionLoadingError: ")
                raise ExtensionError(
                    f"{path}: no extension that SQLite can load: {reason}; correct 'extensions'"
                ) from error
    finally:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0)
