"""Reads a credentials file: a private TOML file with a few texts, which no URL and no config.toml may hold."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import ConfigError, KeystoreError
from mycomesh.mesh.node.home import read_private

if TYPE_CHECKING:
    from pathlib import Path

    from mycomesh.mesh.mailbox.storages import Credentials

__all__ = ["mailbox_credentials", "read_login", "read_secrets"]


def read_secrets(path: Path, known: tuple[str, ...]) -> dict[str, str]:
    """Return the texts of a credentials file, each under one of the `known` keys.

    Raises:
        ConfigError: it is missing, readable by others, or not such a file.
    """
    try:
        data = read_private(path)
    except KeystoreError as error:
        raise ConfigError(str(error)) from error
    if data is None:
        raise ConfigError(f"there is no credentials file {path}")
    try:
        found = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    if not found or not all(key in known and isinstance(value, str) for key, value in found.items()):
        raise ConfigError(f'{path} may have {", ".join(known)}, each a text such as {known[0]} = "ground"')
    return found


def read_login(path: Path, known: tuple[str, ...]) -> dict[str, str]:
    """Return the texts of a credentials file; a relative `ca` begins at the file's directory.

    Raises:
        ConfigError: as `read_secrets`.
    """
    found = read_secrets(path, known)
    if "ca" in found:
        found["ca"] = str(path.absolute().parent / found["ca"])
    return found


def mailbox_credentials(path: Path | None) -> Credentials:
    """Return what a mailbox logs in with.

    Raises:
        ConfigError: as `read_secrets`.
    """
    from mycomesh.mesh.mailbox.storages import CREDENTIALS, Credentials  # noqa: PLC0415 -- 4 MB that a bridge does not need

    if path is None:
        return Credentials()
    return Credentials(**read_login(path, CREDENTIALS))
