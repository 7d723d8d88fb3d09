"""NodeConfig: what a person may set, and the one line for everything else."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from mycomesh.mesh.node.config import (
    HOOK_TIMEOUT_S_MAX,
    HOOKS_MAX,
    KEYS,
    PORT_DEFAULT,
    SECTIONS_MAX,
    Hook,
    NodeConfig,
    PeerName,
    load,
    sections_of,
)
from mycomesh.mesh.node.errors import ConfigError


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.toml"


def test_without_a_file_the_defaults_hold(file):
    assert load(file) == NodeConfig()
    assert NodeConfig().port is None  # the default one if it is free, else any


def test_every_key_of_the_file_reaches_its_field(file):
    file.write_text(
        'port = 9000\npeers = ["127.0.0.2:7000", "pi.local"]\nonly = ["drones"]\nexcept = ["cache"]\n'
        'urgent = ["alerts"]\n'
        'loopback = true\nmulticast = false\nlog_level = "warning"\n'
    )
    assert load(file) == NodeConfig(
        port=9000,
        peers=(PeerName("127.0.0.2", 7000), PeerName("pi.local", PORT_DEFAULT)),
        only=("drones",),
        exclude=("cache",),
        urgent=("alerts",),
        loopback=True,
        multicast=False,
        log_level="warning",
    )


def test_command_line_wins_over_file_where_it_says_something(file):
    file.write_text("port = 9000\nloopback = true\n")
    assert load(file, port=0, loopback=None) == NodeConfig(port=0, loopback=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prot = 1", "unknown key 'prot'"),
        ("port = true", "'port' must be a whole number"),
        ('port = "7447"', "'port' must be a whole number"),
        ("port = 65536", "port 65536 is out of range"),
        ("free_mb_min = -1", "free_mb_min -1 is out of range"),
        ("free_mb_min = 0.5", "'free_mb_min' must be a whole number"),
        ("peers = [1]", "'peers' must be a list of strings"),
        ('peers = "10.0.0.2"', "'peers' must be a list of strings"),
        ('peers = [":7"]', "is not host:port"),
        ('log_level = "loud"', "log_level 'loud' is unknown"),
        ('log_format = "xml"', "log_format 'xml' is unknown"),
        ("metrics = 9464", "'metrics' must be a string such as 127.0.0.1:9464"),
        ('metrics = "here:port"', "has no port between 1 and 65535"),
        ('metrics = ":9464"', "is not host:port"),
        ("protocol = 1", "'protocol' must be a list of the oldest and the newest version, such as [1, 2]"),
        ("protocol = [1, true]", "'protocol' must be a list of the oldest and the newest version"),
        ("protocol = [2, 1]", "'protocol' [2, 1] is not a range"),
        ("protocol = [0, 1]", "'protocol' [0, 1] is not a range"),
        ("protocol = [2, 3]", "protocol 2 to 3 is not supported; this mycomesh speaks 1 to 2"),
        ('only = [""]', "none of them empty"),
        ('only = ["t"]\nexcept = ["T"]', "in both 'only' and 'except'"),
        ("loopback = 1", "'loopback' must be true or false"),
        ("port = ", "not valid TOML"),
        ("[[[", "not valid TOML"),
    ],
)
def test_wrong_file_is_one_line_with_file_and_key(file, text, said):
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    line = str(caught.value)
    assert said in line
    assert str(file) in line
    assert "\n" not in line


@pytest.mark.parametrize("bits", [0o666, 0o664, 0o646])
def test_a_file_that_others_can_write_is_refused(file, bits):
    file.write_text("port = 9000\n")
    file.chmod(bits)
    with pytest.raises(
        ConfigError, match=rf"can be changed by other users \(mode {bits:04o}\); run: chown .* chmod 644"
    ):
        load(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_refused(file):
    file.write_text("port = 9000\n")
    os.chown(file, 12345, -1)
    with pytest.raises(ConfigError, match="belongs to user 12345, not to root"):
        load(file)


@pytest.mark.parametrize("peer", ["10.0.0.5", "fe80::1%eth0", "[2001:db8::1]:7"])
def test_loopback_and_a_peer_elsewhere_contradict_each_other(peer):
    with pytest.raises(ConfigError, match="cannot be reached with 'loopback'"):
        NodeConfig(loopback=True, peers=(PeerName.parse(peer),))


def test_loopback_takes_peers_on_this_machine_and_names():
    peers = tuple(PeerName.parse(text) for text in ("127.0.0.2", "::1", "pi.local"))
    assert NodeConfig(loopback=True, peers=peers).peers == peers


def test_a_file_that_is_not_text_is_one_line(file):
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(file)


def test_a_directory_in_its_place_is_one_line(file):
    file.mkdir()
    with pytest.raises(ConfigError, match="cannot read"):
        load(file)


@pytest.mark.parametrize(
    ("text", "peer"),
    [
        ("10.0.0.2:7000", PeerName("10.0.0.2", 7000)),
        ("pi.local", PeerName("pi.local", PORT_DEFAULT)),
        ("fe80::1%eth0", PeerName("fe80::1%eth0", PORT_DEFAULT)),
        ("[fe80::1%eth0]:7000", PeerName("fe80::1%eth0", 7000)),
        ("[::1]", PeerName("::1", PORT_DEFAULT)),
    ],
)
def test_a_peer_is_read_as_people_write_it(text, peer):
    assert PeerName.parse(text) == peer


@pytest.mark.parametrize(
    "text", ["", ":7000", "a:", "a:0", "a:65536", "a:-1", "[::1", "[::1]7000", "a b:1", "a:٣", "x" * 300]
)
def test_what_is_no_peer_is_refused_in_one_line(text):
    with pytest.raises(ConfigError, match="peer"):
        PeerName.parse(text)


@given(st.text(max_size=60))
def test_any_text_is_a_peer_or_one_line(text):
    try:
        peer = PeerName.parse(text)
    except ConfigError as error:
        peer, line = None, str(error)
        event("refused")
    if peer is None:
        assert len(line.splitlines()) == 1
    else:
        assert 1 <= peer.port <= 65535
        assert peer.host


def test_too_many_peers_are_refused():
    with pytest.raises(ConfigError, match="more than 256"):
        NodeConfig(peers=(PeerName("a", 1),) * 257)


def test_the_docs_tell_of_every_setting():
    page = (Path(__file__).parents[3] / "docs" / "config.md").read_text()
    assert re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE) == list(KEYS)
    example = re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1]
    assert set(tomllib.loads(example)) <= set(KEYS)


def test_the_oldest_sqlite_is_a_version(file):
    file.write_text('sqlite_floor = "3.45.1"')
    assert load(file).sqlite_floor == (3, 45)
    for wrong in ('"3"', '"new"', "3.45", '"2.8"'):
        file.write_text(f"sqlite_floor = {wrong}")
        with pytest.raises(ConfigError, match="a version of SQLite"):
            load(file)


def test_metrics_without_port_do_not_share_the_peers_port(file):
    for text, address in (
        ("127.0.0.1", PeerName("127.0.0.1", 9464)),
        ("::1", PeerName("::1", 9464)),
        ("[::1]", PeerName("::1", 9464)),
        ("[::1]:80", PeerName("::1", 80)),
    ):
        file.write_text(f'metrics = "{text}"')
        assert load(file).metrics == address


def test_the_example_of_the_docs_is_taken(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "config.md").read_text()
    file = tmp_path / "config.toml"
    file.write_text(re.search(r"```toml\n(.*?)```", page, re.DOTALL)[1])
    assert load(file).metrics == PeerName("127.0.0.1", 9464)


def test_names_are_compared_as_sqlite_does(file):
    """ASCII letters alone: the other two are two tables."""
    file.write_text('only = ["Ä"]\nexcept = ["ä"]\n')
    assert (load(file).only, load(file).exclude) == (("Ä",), ("ä",))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# port = 1\nport = 70000\n", 2),
        ('log_level = "info"\n\n  "peers" = ["host:99999"]\n', 3),
        ('only = [\n  "port",\n]\nport = "x"\n', 4),
        ("loopback = true\n[node]\nport = 1\n", 2),
        ("loopback = true\nmetrics.port = 1\n", 2),
        ('only = ["a"]\nexcept = ["a"]\n', 2),
    ],
)
def test_an_error_names_the_file_and_the_line(file, text, line):
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}:{line}: ")


def test_hooks_are_read_with_their_defaults(file):
    file.write_text(
        '[hook.pager]\non = "alerts"\nrun = "cat"\n[hook.b-2]\non = "t"\nrun = "x"\nfrom = "now"\ntimeout_s = 5\n'
    )
    assert load(file).hooks == (Hook("pager", "alerts", "cat", False, 60), Hook("b-2", "t", "x", True, 5))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('hook = "cat"', "must be a table such as"),
        ("[hook.a]\non = 't'", "needs 'on'"),
        ("[hook.a]\non = 't'\nrun = 'x'\nshell = 'x'", "needs 'on'"),
        ("[hook.'a b']\non = 't'\nrun = 'x'", "a name has 1 to 64 letters"),
        ("[hook.a]\non = ''\nrun = 'x'", "'on' must be the name of a table"),
        ("[hook.a]\non = 't'\nrun = ' '", "'run' a command"),
        ("[hook.a]\non = 't'\nrun = 'x'\nfrom = 'end'", "'from' must be"),
        ("[hook.a]\non = 't'\nrun = 'x'\ntimeout_s = 0", "'timeout_s' must be 1..86,400"),
        (f"[hook.a]\non = 't'\nrun = 'x'\ntimeout_s = {HOOK_TIMEOUT_S_MAX - 1}", ""),
        (f"[hook.a]\non = 't'\nrun = 'x'\ntimeout_s = {HOOK_TIMEOUT_S_MAX}", ""),
        (f"[hook.a]\non = 't'\nrun = 'x'\ntimeout_s = {HOOK_TIMEOUT_S_MAX + 1}", "'timeout_s' must be 1..86,400"),
        ("".join(f"[hook.a{n}]\non = 't'\nrun = 'x'\n" for n in range(HOOKS_MAX)), ""),
        ("".join(f"[hook.a{n}]\non = 't'\nrun = 'x'\n" for n in range(HOOKS_MAX + 1)), "33 hooks are more than 32"),
    ],
)
def test_hooks_are_checked_in_one_line(file, text, fault):
    file.write_text(text)
    if not fault:
        assert load(file).hooks
        return
    with pytest.raises(ConfigError, match=re.escape(fault)) as caught:
        load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("bridge = 'nats'", "'bridge' must be tables such as [bridge.NAME]"),
        ("[bridge]\nurl = 'x'", "'bridge' must be tables such as [bridge.NAME]"),
        ("[bridge.'a b']", "a name has 1 to 64 letters"),
        ("".join(f"[bridge.a{n}]\n" for n in range(SECTIONS_MAX)), ""),
        ("".join(f"[bridge.a{n}]\n" for n in range(SECTIONS_MAX + 1)), "33 sections with processes are more than 32"),
    ],
)
def test_sections_are_checked_in_one_line(file, text, fault):
    file.write_text(text)
    if not fault:
        assert [section.kind for section in load(file).children] == ["bridge"] * SECTIONS_MAX
        assert list(sections_of(file, "bridge")) == [f"a{n}" for n in range(SECTIONS_MAX)]
        return
    with pytest.raises(ConfigError, match=re.escape(fault)) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_server_of_nats_is_a_peer(file):
    file.write_text(
        'peers = ["nats://hub.example:4300", "nats://[::1]", "10.0.0.5"]\npeer_credentials = "/etc/nats.toml"'
    )
    found = load(file)
    assert found.peers == (
        PeerName("hub.example", 4300, nats=True),
        PeerName("::1", 4222, nats=True),
        PeerName("10.0.0.5", 7447),
    )
    assert found.peer_credentials == "/etc/nats.toml"
    for wrong in ("nats://", "nats://user:pw@host", "nats://host:0", "nats://host/x"):
        with pytest.raises(ConfigError) as caught:
            PeerName.peer(wrong)
        assert "pw" not in str(caught.value)
