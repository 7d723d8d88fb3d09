"""Who a site is: the members' names, asked of the running node or read from the stored files.

Owns the way from a site to a name. What always holds: a site that nobody here knows is shown by its first digits. It must
not know what was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.commands.rights import ask_or_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home

__all__ = ["known", "member_names", "named"]

_SITE_PREFIX = 16  # hexadecimal digits of a site that are its node id's first


def member_names(home: Home) -> dict[str, str]:
    """Return names by the first 16 digits of node ids, which begin their sites; empty where nothing is known."""
    try:
        found = ask_or_files(home, "members")[0]["members"]
    except NodeError:  # no mesh here, or its files are in use: sites are shown as they are
        return {}
    return {member["node_id"][:_SITE_PREFIX]: member["name"] for member in found}


def known(names: Mapping[str, str], site: str) -> str:
    """Return who writes under a site, empty for a stranger."""
    return names.get(site[:_SITE_PREFIX], "")


def named(names: Mapping[str, str], site: str) -> str:
    """Return the same for people: a stranger is the site's first digits."""
    return known(names, site) or site[:8]
