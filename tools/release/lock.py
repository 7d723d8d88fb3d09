"""`python -m tools.release.lock`: writes .ci/release.txt, the versions and hashes that a release is built from.

pip resolves the newest versions that pyproject.toml allows, and reports the hash of each wheel for the machines and Pythons on
which a release may be built. `make dist` installs these wheels and no others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "release.txt"
MACHINES = ("x86_64", "aarch64")
PYTHONS = ("3.11", "3.12", "3.13")
# The manylinux tags of wheels, the newest glibc first: Debian 12 has 2.36.
GLIBCS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_26", "manylinux_2_17", "manylinux2014")
_HEAD = """\
# The wheels that `make dist` builds a release from, for CPython {pythons} on {machines}.
# Written by `python -m tools.release.lock`.
"""


def main() -> int:
    """Write the lock file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["release"],
        *project["build-system"]["requires"],
        "editables",  # hatchling needs it to install the source tree
    ]
    versions: dict[str, str] = {}
    hashes: defaultdict[str, set[str]] = defaultdict(set)
    for python in PYTHONS:
        for machine in MACHINES:
            pinned = [f"{name}=={version}" for name, version in versions.items()]
            for name, version, sha256 in _resolved([*wanted, *pinned], python, machine):
                versions[name] = version
                hashes[name].add(sha256)
    lines = [_HEAD.format(pythons=", ".join(PYTHONS), machines=" and ".join(MACHINES))]
    for name in sorted(versions):
        files = " \\\n".join(f"    --hash=sha256:{sha256}" for sha256 in sorted(hashes[name]))
        lines.append(f"{name}=={versions[name]} \\\n{files}\n")
    LOCK.write_text("".join(lines))
    print(f"{LOCK.relative_to(ROOT)}: {len(versions)} packages")
    return 0


def _resolved(wanted: list[str], python: str, machine: str) -> list[tuple[str, str, str]]:
    """Return (name, version, SHA-256) of the wheels that pip chooses for one Python and machine."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp", "--target", "unused"]
    for glibc in GLIBCS:
        command += ["--platform", f"{glibc}_{machine}"]
    done = subprocess.run([*command, *wanted], stdout=subprocess.PIPE, check=True)  # noqa: S603 - pip with our own list
    found = []
    for item in json.loads(done.stdout)["install"]:
        metadata = item["metadata"]
        found.append(
            (metadata["name"].lower(), metadata["version"], item["download_info"]["archive_info"]["hashes"]["sha256"])
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
