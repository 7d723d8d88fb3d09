"""The build hook of pyproject.toml: compiles the row codec, bundles the console's page, and keeps editable installs to links.

`sync/storage/_rows.c` is optional (ADR 47). A wheel with it is for one platform and every Python from 3.11 on; without a compiler
the wheel is for all platforms, and its nodes run the same functions in Python.

Hatchling copies what `force-include` names into editable installs too. A copy in site-packages/mycomesh would be imported
before the source tree, and would go out of date with the first edit.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["BuildHook", "compile_rows"]

FOLDER = Path("sync") / "storage"
COMPILED = FOLDER / "_rows.abi3.so"
COMPILE_WAIT_S = 120


class BuildHook(BuildHookInterface[Any]):
    """Compile the row codec, bundle the page, and restrict the copied files of an editable install to the short name `mesh`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before a wheel or an editable install is put together; a source archive has the page, and C as source."""
        self._bundle_page()
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        compiled = compile_rows(root)
        if version == "editable":
            build_data["force_include_editable"] = {
                "mesh/__init__.py": "mesh/__init__.py",
                "mesh/py.typed": "mesh/py.typed",
            }
        elif compiled:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"cp311-abi3-{platform}"

    def _bundle_page(self) -> None:
        """Bundle the page of the web console, or print one line that says why not."""
        # By its path: the package that is being built is not installed yet.
        spec = importlib.util.spec_from_file_location("page", Path(self.root) / "tools" / "release" / "page.py")
        assert spec is not None
        assert spec.loader is not None
        page = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(page)
        try:
            page.build()
        except page.BuildError as error:
            print(f"mycomesh: {error}", file=sys.stderr)


def compile_rows(root: Path) -> bool:
    """Compile the row codec into the source tree; return False, after one line that says why, where that is impossible."""
    target = root / COMPILED
    target.unlink(missing_ok=True)  # it may be of another machine
    if os.environ.get("MYCOMESH_PURE"):
        return False
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    made = target.with_suffix(f".{os.getpid()}")
    options = ["-O2", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", "-o", str(made)]
    command = [*compiler, *options, str(root / FOLDER / "_rows.c")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_WAIT_S, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return _go_without(str(error))
    if done.returncode:
        return _go_without((done.stderr.strip().splitlines() or ["no message"])[0])
    made.replace(target)  # at once: a running node keeps the file that it has mapped
    return True


def _go_without(reason: str) -> bool:
    print(
        f"mycomesh: stamping and merging run in Python, at half the speed; nothing was compiled: {reason}",
        file=sys.stderr,
    )
    return False
