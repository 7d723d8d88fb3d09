"""The build hook of pyproject.toml: an editable install contains links to the source tree and no copies of it.

Hatchling copies what `force-include` names into editable installs too. A copy in site-packages/mycomesh would be imported
before the source tree, and would go out of date with the first edit.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["EditableHook"]


class EditableHook(BuildHookInterface[Any]):
    """Restrict the copied files of an editable install to the short name `mesh`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Set the files that an editable install copies; a wheel and a source archive keep theirs."""
        if version == "editable":
            build_data["force_include_editable"] = {
                "mesh/__init__.py": "mesh/__init__.py",
                "mesh/py.typed": "mesh/py.typed",
            }
