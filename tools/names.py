"""Names of the members behind sites, from the running node or from the stored files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mycomesh.mesh.node.errors import NodeError
from mycomesh.tools.commands.rights import ask_or_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mycomesh.mesh.node.home import Home

__all__ = ["display_name", "member_name", "member_names"]

_SITE_PREFIX = 16  # a site begins with this many hexadecimal digits of its node's id


def member_names(home: Home) -> dict[str, str]:
    """Return the members' names by the prefix of their sites; empty if the members are unknown."""
    try:
        found = ask_or_files(home, "members")[0]["members"]
    except NodeError:  # no mesh here, or its files are in use
        return {}
    return {member["node_id"][:_SITE_PREFIX]: member["name"] for member in found}


def member_name(names: Mapping[str, str], site: str) -> str:
    """Return the name of the member that writes as a site; "" if it is unknown."""
    return names.get(site[:_SITE_PREFIX], "")


def display_name(names: Mapping[str, str], site: str) -> str:
    """Return the same for people; the first digits of the site if the member is unknown."""
    return member_name(names, site) or site[:8]
