"""Checks the loadable extensions that the settings name: a user who can change one of these files runs code in the node."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import ConfigError
from mycomesh.mesh.node.home import tampering

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["checked_extensions"]

_SUFFIX = ".so"  # SQLite adds it to a name without


def checked_extensions(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the paths of the files to load.

    Raises:
        ConfigError: a path is not absolute or names no plain file, or another user can change the file or its directory.
    """
    return tuple(map(_checked, paths))


def _checked(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(
            f"extension {path!r} is not an absolute path; write the whole path, such as /usr/lib/{path}.so"
        )
    file = Path(os.path.realpath(path if Path(path).exists() else path + _SUFFIX))
    try:
        info, folder = file.stat(), file.parent.stat()
    except OSError as error:
        raise ConfigError(f"extension {path}: {error.strerror}; correct 'extensions' in config.toml") from error
    if not stat.S_ISREG(info.st_mode):
        raise ConfigError(f"extension {path} is no plain file; correct 'extensions' in config.toml")
    for what, found in ((file, info), (file.parent, folder)):
        who = tampering(found)
        if who:
            raise ConfigError(f"extension {path}: {what} {who}; run: chown {os.geteuid()} {what} && chmod go-w {what}")
    return str(file)
