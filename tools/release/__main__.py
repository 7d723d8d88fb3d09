"""`python -m tools.release`: builds a self-contained mycomesh: a directory in a tarball, a .deb, and with `--onefile` one file.

The directory is the main form, because one file unpacks itself at every call. Each build is run before it counts as done.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mycomesh.mesh.node.version import __version__
from mycomesh.tools import exits
from mycomesh.tools.render import print_table

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["ReleaseError", "main"]

ROOT = Path(__file__).parents[2]
# Packages that are loaded by name or contain data. Tests, benchmarks and release tools stay out.
COLLECTED = (
    "mycomesh.mesh",
    "mycomesh.sync",
    "mycomesh.simulations",
    "mycomesh.tools.bridges",
    "mycomesh.tools.commands",
    "mycomesh.tools.flows",
    "mycomesh.tools.top",
    "mycomesh.tools.web",
    "mycomesh.tools.data",
)
LEFT_OUT = (
    "tests",
    "mycomesh.tools.bench",
    "mycomesh.tools.release",
    "distributed",
    "dask",
    "tkinter",
    "hypothesis",
    "pytest",
)
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64"}
_GLIBC = re.compile(rb"GLIBC_(\d+)\.(\d+)")
_CONTROL = """\
Package: mycomesh
Version: {version}
Architecture: {architecture}
Maintainer: mycomesh developers <mycomesh@localhost>
Installed-Size: {size_kib}
Depends: libc6 (>= {glibc})
Section: net
Priority: optional
Description: peer-to-peer sync of ordinary SQLite databases
 Programs write plain SQL into a local file; a node beside it finds its peers on the LAN and keeps all
 replicas equal, over an encrypted mesh, without a server. This package brings its own Python.
"""


class ReleaseError(Exception):
    """A build does not work. The text is one line."""


def main() -> int:
    """Build into a directory; print the files and the glibc that they need."""
    parser = argparse.ArgumentParser(prog="python -m tools.release", description="Build a self-contained mycomesh.")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("dist"), metavar="DIR", help="directory of the result (default: dist)"
    )
    parser.add_argument(
        "--onefile", action="store_true", help="build also one file, which unpacks itself at every call"
    )
    args = parser.parse_args()
    try:
        builder = importlib.import_module("PyInstaller.__main__")
    except ImportError:
        print("release: needs PyInstaller: pip install '.[release]'", file=sys.stderr)
        return exits.FAILED
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="mycomesh-release-") as work:
            rows, glibc = _build_all(builder, Path(work), output, onefile=args.onefile)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return exits.FAILED
    print_table(["FILE", "SIZE"], rows)
    print(f"needs glibc {glibc} or later")
    return exits.DONE


def _build_all(builder: ModuleType, work: Path, output: Path, *, onefile: bool) -> tuple[list[list[str]], str]:
    """Build every form; return the files with their sizes, and the glibc version that they need."""
    version, machine = __version__, platform.machine()
    tree = _build(builder, work, "--onedir")
    glibc = _glibc(tree)
    made = [_pack(tree, output / f"mycomesh-{version}-linux-{machine}.tar.gz")]
    if shutil.which("dpkg-deb") is not None:
        made.append(_deb(tree, work, output, version, glibc))
    else:
        print("release: no dpkg-deb on this machine, so no .deb", file=sys.stderr)
    if onefile:
        one = output / f"mycomesh-{version}-linux-{machine}"
        shutil.copy2(_build(builder, work, "--onefile"), one)
        made.append(one)
    unpacked = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file() and not path.is_symlink())
    rows = [[path.name, f"{path.stat().st_size / 1e6:.1f} MB"] for path in made]
    return [*rows, ["(unpacked)", f"{unpacked / 1e6:.1f} MB"]], glibc


def _build(builder: ModuleType, work: Path, form: str) -> Path:
    """Run PyInstaller; return the directory or the file after a smoke test."""
    target = work / form.strip("-")
    options = ["--name", "mycomesh", "--noconfirm", "--log-level", "WARN", "--strip", form]
    options += ["--distpath", str(target), "--workpath", str(work / "work"), "--specpath", str(work)]
    options += ["--paths", str(ROOT), "--hidden-import", "uvloop"]
    options += ["--hidden-import", "_cffi_backend"]  # PyNaCl imports it from C
    for package in COLLECTED:
        options += ["--collect-submodules", package]
    options += ["--collect-data", "mycomesh.tools.data", "--collect-data", "mycomesh.tools.web"]
    for module in LEFT_OUT:
        options += ["--exclude-module", module]
    builder.run([*options, str(ROOT / "tools" / "__main__.py")])
    made = target / "mycomesh"
    _smoke_test(made / "mycomesh" if made.is_dir() else made, work)
    return made


def _smoke_test(program: Path, work: Path) -> None:
    """Run the build in an empty environment: every command loads, keys are made, simulated nodes link and sync."""
    environ = {"HOME": str(work), "PATH": os.defpath, "MYCOMESH_HOME": str(work / f"home-{program.parent.name}")}
    for words in (["--version"], ["completion", "bash"], ["init"], ["simulate", "two-nodes", "--seed", "1"]):
        command = [str(program), *words]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - our own build
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ReleaseError(f"the build cannot run 'mycomesh {' '.join(words)}': {reason}")


def _pack(tree: Path, target: Path) -> Path:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(tree, arcname="mycomesh", filter=_owned_by_root)
    return target


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _deb(tree: Path, work: Path, output: Path, version: str, glibc: str) -> Path:
    root = work / "deb"
    shutil.copytree(tree, root / "usr" / "lib" / "mycomesh", symlinks=True)
    (root / "usr" / "bin").mkdir(parents=True)
    (root / "usr" / "bin" / "mycomesh").symlink_to("../lib/mycomesh/mycomesh")
    documents = root / "usr" / "share" / "doc" / "mycomesh"
    documents.mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "LICENSE", documents / "copyright")
    size_kib = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) // 1024
    architecture = DEBIAN.get(platform.machine(), platform.machine())
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN" / "control").write_text(
        _CONTROL.format(version=version, architecture=architecture, size_kib=size_kib, glibc=glibc)
    )
    target = output / f"mycomesh_{version}_{architecture}.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(root), str(target)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - dpkg's own program with our paths
    return target


def _glibc(tree: Path) -> str:
    """Return the newest glibc version that any library or program in the tree needs."""
    found = {(2, 17)}  # a manylinux2014 wheel needs at least this one
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.open("rb").read(4) == b"\x7fELF":
            found |= {(int(major), int(minor)) for major, minor in _GLIBC.findall(path.read_bytes())}
    major, minor = max(found)
    return f"{major}.{minor}"


if __name__ == "__main__":
    sys.exit(main())
