"""The table [base] of config.toml: the mailbox to which a node is a gateway."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mycomesh.mesh.node.errors import ConfigError

__all__ = ["Base"]

BASE_CHARS_MAX = 16  # of a base's name, which goes into every statement
URL_CHARS_MAX = 2_048  # of a mailbox; a person writes it


@dataclass(frozen=True, slots=True)
class Base:
    """The mailbox of a gateway: its URL, the name of this base, and the absolute path of a file with credentials; "" for none."""

    mailbox: str
    name: str = ""
    credentials: str = ""

    @classmethod
    def parse(cls, value: Any) -> Base:
        """Check the table [base] of the file.

        Raises:
            ConfigError: a key is unknown or of another type, or there is no mailbox.
        """
        keys = ("name", "mailbox", "credentials")
        if not isinstance(value, dict) or not value.keys() <= set(keys) or "mailbox" not in value:
            raise ConfigError(
                "[base] needs 'mailbox' (a URL such as dir:/media/share), and takes 'name' and 'credentials'"
            )
        if not all(isinstance(each, str) for each in value.values()):
            raise ConfigError("[base]: 'name', 'mailbox' and 'credentials' are strings")
        name, url = value.get("name", ""), value["mailbox"]
        if not re.fullmatch(rf"[A-Za-z0-9_-]{{0,{BASE_CHARS_MAX}}}", name):
            raise ConfigError(f"base {name!r}: a name has at most {BASE_CHARS_MAX} letters, digits, '-' and '_'")
        if not url or not url.isprintable() or len(url) > URL_CHARS_MAX:
            raise ConfigError(f"[base]: 'mailbox' is no URL: {url[:80]!r}; write for example dir:/media/share")
        credentials = value.get("credentials", "")
        if credentials and not Path(credentials).is_absolute():
            raise ConfigError(f"[base]: 'credentials' must be an absolute path, not {credentials!r}")
        return cls(url, name, credentials)
