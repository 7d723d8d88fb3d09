"""The packages are complete: the sdist builds the wheel, and the wheel serves a file from a fresh environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import mesh
from mycomesh.tools.release import build_hook
from tests.integration.machines import ROOT, eventually

INSTALL_S_MAX = 100


def run(*command, cwd=None, env=None):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=INSTALL_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that is built from the sdist, so both are looked at."""
    place = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", place, cwd=ROOT)
    (sdist,) = place.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(place / "source", filter="data")
    (source,) = (place / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", place, cwd=source)
    (found,) = place.glob("*.whl")
    return found


def test_the_wheel_holds_every_module_and_no_test(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tracked = run("git", "ls-files", "mesh", "sync", "simulations", "tools", cwd=ROOT).split() if _is_clone() else []
    assert {f"mycomesh/{name}" for name in tracked} <= names
    assert "mesh/py.typed" in names
    page = {name.rpartition("/")[2] for name in names if name.startswith("mycomesh/tools/web/static/")}
    assert page >= {"index.html", "main.js", "main.css", "land.json", "licences.txt"} or shutil.which("npm") is None
    assert f"mycomesh-{mesh.__version__}.dist-info/METADATA" in names
    assert not [name for name in names if "tests/" in name]


def can_compile():
    """Whether this machine has a compiler and Python's headers."""
    return shutil.which("cc") is not None and (Path(sysconfig.get_path("include")) / "Python.h").exists()


def test_wheel_has_the_row_codec_where_it_was_compiled(wheel):
    with zipfile.ZipFile(wheel) as archive:
        compiled = "mycomesh/sync/storage/_rows.abi3.so" in archive.namelist()
    assert compiled is can_compile()
    assert ("-cp311-abi3-" if compiled else "-py3-none-any") in wheel.name


def test_build_without_compiler_is_pure(tmp_path, monkeypatch, capfd):
    (tmp_path / build_hook.FOLDER).mkdir(parents=True)
    source = tmp_path / build_hook.FOLDER / "_rows.c"
    shutil.copy(ROOT / build_hook.FOLDER / "_rows.c", source)
    for compiler in ("no-such-compiler", "false"):
        (tmp_path / build_hook.COMPILED).write_text("of another machine")
        monkeypatch.setenv("CC", compiler)
        assert not build_hook.compile_rows(tmp_path)
        assert [path.name for path in source.parent.iterdir()] == ["_rows.c"]
        assert "nothing was compiled" in capfd.readouterr().err
    monkeypatch.delenv("CC")
    monkeypatch.setenv("MYCOMESH_PURE", "1")
    assert not build_hook.compile_rows(tmp_path)
    assert not capfd.readouterr().err
    monkeypatch.delenv("MYCOMESH_PURE")
    assert build_hook.compile_rows(tmp_path) is can_compile()


def test_the_wheel_claims_no_name_but_its_own(wheel):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
    assert tops == {"mycomesh", "mesh", f"mycomesh-{mesh.__version__}.dist-info"}


def requirements():
    """The dependencies of pyproject.toml: name, lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["project"]["optional-dependencies"]
    lists = {"core": project["project"]["dependencies"], "build": project["build-system"]["requires"], **groups}
    return {group: dict(re.split(">=|==", each) for each in wanted) for group, wanted in lists.items()}


def pins(file):
    lines = (line.split(" ")[0] for line in (ROOT / ".ci" / file).read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def test_lowest_versions_are_those_that_pyproject_allows():
    wanted, lowest = requirements(), pins("lowest.txt")
    assert lowest.keys() >= wanted["core"].keys() | wanted["qr"].keys() | wanted["build"].keys()
    bounds = {name: version for group in wanted.values() for name, version in group.items()}
    assert all((lowest[name] + ".").startswith(bounds[name] + ".") for name in lowest)


def test_a_release_is_built_from_wheels_known_by_hash():
    wanted, locked = requirements(), pins("release.txt")
    assert locked.keys() >= wanted["core"].keys() | wanted["release"].keys() | wanted["build"].keys()
    text = (ROOT / ".ci" / "release.txt").read_text()
    entries = [entry for entry in text.split("\n") if entry and not entry.startswith(("#", " "))]
    assert len(entries) == len(locked)
    assert all(part.count("--hash=sha256:") for part in re.split(r"(?m)^(?=[a-z0-9])", text)[1:])


def test_an_application_may_have_modules_named_like_our_folders(tmp_path):
    for name in ("tools.py", "sync.py", "simulations.py"):
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "app.py").write_text(
        "import mesh, mycomesh, sync, tools\nprint(mesh.NodeConfig, mycomesh.open, sync.x, tools.x)\n"
    )
    environ = {"PATH": os.defpath, "PYTHONPATH": "."}
    said = run(sys.executable, "app.py", cwd=tmp_path, env=environ)
    assert "mycomesh.mesh.node.config.NodeConfig" in said
    assert said.endswith(" 1 1\n")
    command = Path(sys.executable).with_name("mycomesh")
    assert run(command, "--version", cwd=tmp_path, env=environ) == f"mycomesh {mesh.__version__}\n"


def test_a_fresh_environment_serves_a_file(wheel, tmp_path):
    # Modules that nothing imports need not be compiled, and this environment's pip can fill the other.
    own = find_spec("pip") is None
    run(sys.executable, "-m", "venv", *([] if own else ["--without-pip"]), tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip"] if own else [sys.executable, "-m", "pip", "--python", python]
    installed = subprocess.run(
        [*pip, "install", "-q", "--no-compile", "--disable-pip-version-check", wheel],
        capture_output=True,
        text=True,
        timeout=INSTALL_S_MAX,
        check=False,
    )
    if installed.returncode and "No matching distribution" in installed.stderr:
        pytest.skip("the dependencies cannot be had here: no package index is in reach")
    assert installed.returncode == 0, installed.stderr
    command = tmp_path / "venv" / "bin" / "mycomesh"
    environ = {"PATH": os.defpath, "HOME": str(tmp_path), "MYCOMESH_HOME": str(tmp_path / "home")}
    run(command, "init", env=environ)
    with (tmp_path / "log.txt").open("w") as log:
        up = [command, "up", "fleet.db", "--no-multicast", "--port", "0"]
        node = subprocess.Popen(up, cwd=tmp_path, env=environ, stdout=log, stderr=subprocess.STDOUT)
    try:

        def serves():
            assert node.poll() is None, (tmp_path / "log.txt").read_text()
            status = subprocess.run([command, "status"], env=environ, capture_output=True, text=True, check=False)
            return status.returncode == 0 and str(tmp_path / "fleet.db") in status.stdout

        eventually(serves, "the node serves")
        run(command, "down", env=environ)
        assert node.wait(30) == 0
    finally:
        node.kill()
        node.wait()


def _is_clone():
    return (ROOT / ".git").exists()
