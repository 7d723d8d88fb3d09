"""`mycomesh service`: the unit that is written, what systemd thinks of it, and what is never overwritten."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from mycomesh.tools import exits
from mycomesh.tools.cli import main
from mycomesh.tools.commands import service

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)"
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A user's unit directory, and a systemctl that records its arguments."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    programs = tmp_path / "bin"
    programs.mkdir()
    fake = programs / "systemctl"
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return tmp_path


def unit(place):
    return place / "config" / "systemd" / "user" / "mycomesh.service"


def told(place):
    return (place / "told").read_text().splitlines()


def test_install_writes_what_show_prints_and_uninstall_removes_it(place, capsys):
    file = str(place / "fleet.db")
    assert main(["service", "show", file]) == exits.DONE
    shown = capsys.readouterr().out
    assert main(["service", "install", file]) == exits.DONE
    assert unit(place).read_text() == shown
    assert "systemctl --user enable --now mycomesh.service" in capsys.readouterr().err
    assert not (place / "told").exists()
    assert main(["service", "uninstall"]) == exits.DONE
    assert not unit(place).exists()
    assert told(place) == ["--user disable --now mycomesh.service", "--user daemon-reload"]


def test_directories_that_only_shell_names_are_in_unit(place, capsys, monkeypatch):
    monkeypatch.delenv("MYCOMESH_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "my state"))
    assert main(["service", "show", str(place / "fleet.db")]) == exits.DONE
    assert f'Environment="XDG_STATE_HOME={place}/my state"\n' in capsys.readouterr().out
    assert main(["--home", str(place / "h"), "service", "show", str(place / "fleet.db")]) == exits.DONE
    assert "Environment=" not in capsys.readouterr().out


def test_now_starts_it(place):
    assert main(["service", "install", str(place / "fleet.db"), "--now"]) == exits.DONE
    assert told(place) == ["--user daemon-reload", "--user enable --now mycomesh.service"]


def test_what_systemd_refuses_is_said(place, capsys):
    (place / "bin" / "systemctl").write_text("#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    assert main(["service", "install", str(place / "fleet.db"), "--now"]) == exits.FAILED
    assert "Failed to connect to bus; the unit is written" in capsys.readouterr().err
    assert unit(place).exists()


def test_a_unit_of_somebody_else_stays(place, capsys):
    unit(place).parent.mkdir(parents=True)
    unit(place).write_text("[Service]\nExecStart=/bin/true\n")
    for words in (["install", str(place / "fleet.db")], ["uninstall"]):
        assert main(["service", *words]) == exits.FAILED
        assert "was not written by this command" in capsys.readouterr().err
    assert "ExecStart=/bin/true" in unit(place).read_text()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["install"], exits.USAGE, "needs the FILE.db"),
        (["uninstall"], exits.FAILED, "service install FILE.db"),
        (["install", "/nowhere/at/all/fleet.db"], exits.FAILED, "there is no directory /nowhere/at/all"),
        (["install", "/tmp"], exits.FAILED, "/tmp is a directory"),
        (["show", "a\nb.db"], exits.USAGE, "rename the file"),
    ],
)
def test_wrong_calls_are_one_line(place, capsys, words, code, says):
    assert main(["service", *words]) == code
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def shown(capsys, *words):
    assert main([*words]) == exits.DONE
    return capsys.readouterr().out


@needs_systemd
@pytest.mark.parametrize("system", [[], ["--system"]])
def test_systemd_calls_the_exposure_low(place, capsys, monkeypatch, system):
    monkeypatch.setattr(service, "_users_have_namespaces", lambda: True)
    path = place / "mycomesh.service"
    path.write_text(shown(capsys, "service", "show", "/srv/data/fleet.db", *system))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", path]  # tenths: 3.0 of 10
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0


def test_a_user_without_namespaces_gets_a_unit_that_starts(place, capsys, monkeypatch):
    denied = place / "max_user_namespaces"
    denied.write_text("0\n")
    monkeypatch.setattr(service, "_NAMESPACES_DENIED", ((str(place / "absent"), "0"), (str(denied), "0")))
    text = shown(capsys, "service", "show", "/srv/data/fleet.db")
    for option in (
        "PrivateUsers",
        "CapabilityBoundingSet",
        "PrivateDevices",
        "ProtectClock",
        "ProtectKernel(Logs|Modules)",
    ):
        assert not re.search(f"^{option}=", text, re.MULTILINE)
    assert "ProtectSystem=strict\n" in text
    denied.write_text("1000\n")
    assert "PrivateUsers=yes\n" in shown(capsys, "service", "show", "/srv/data/fleet.db")


def test_a_file_in_tmp_stays_visible_to_its_service(place, capsys):
    assert "PrivateTmp" not in shown(capsys, "service", "show", "/tmp/fleet.db")
    assert "PrivateTmp=yes\n" in shown(capsys, "--home", "/srv/home", "service", "show", "/srv/data/fleet.db")


def test_socket_of_users_service_has_directory_after_each_boot(place, capsys, monkeypatch):
    monkeypatch.delenv("MYCOMESH_HOME", raising=False)
    assert "RuntimeDirectory=mycomesh\n" in shown(capsys, "service", "show", "/srv/data/fleet.db")
    for words in (["--system"], ["--home", "/srv/home"]):
        assert "RuntimeDirectory=" not in shown(capsys, "service", "show", "/srv/data/fleet.db", *words)


@needs_systemd
@pytest.mark.parametrize("name", ["fleet.db", "a file $HOME 100%.db", "quo\"te'd.db"])
@pytest.mark.parametrize("system", [[], ["--system"]])
def test_systemd_finds_nothing_wrong_with_the_unit(place, capsys, name, system):
    assert main(["--home", str(place / "my home"), "service", "show", str(place / name), *system]) == exits.DONE
    path = place / "mycomesh.service"
    path.write_text(capsys.readouterr().out)
    done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "mycomesh" in line]
    assert (done.returncode, complaints) == (0, [])
