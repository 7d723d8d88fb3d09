"""Discovery between hosts: mDNS across a switch, cables that come late, links without IPv4, and a foreign client."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.integration.netns import Lab

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
TAG = "00112233aabbccdd"
WAIT_S = 30  # only what is broken takes this long
ZEROCONF_QUIET_S = 18  # python-zeroconf's own browser asks for the last time 14 s after the last change of the network


AVAHI = ("avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare")
# Avahi speaks to its clients by D-Bus: both get a /run of their own, so that the machine's are not met.
FOREIGN = """
mount -t tmpfs none /run && mkdir -p /run/dbus /run/avahi-daemon || exit 77
dbus-daemon --system --fork --nopidfile || exit 77
avahi-daemon --no-rlimits --no-chroot --no-drop-root 2>/dev/null &
tries=0
until avahi-browse -t _mycomesh._tcp >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 100 ] || exit 77; sleep 0.05
done
avahi-publish -s foreign _mycomesh._tcp 4711 v=1 m=$0 2>/dev/null &
exec avahi-browse -rp _mycomesh._tcp
"""


class Told:
    """What a process on a host of the lab says, line by line."""

    def __init__(self, lab, name, *words, **options):
        self.name = name
        self.said = []
        self._lines = queue.Queue()
        self.process = lab.popen(name, *words, stdout=subprocess.PIPE, text=True, **options)
        threading.Thread(target=self._read, daemon=True).start()

    def says(self, what, check):
        """Wait until a line satisfies the check; return it."""
        end = time.monotonic() + WAIT_S
        for line in self._all(end):
            if check(line):
                return line
        raise AssertionError(f"{self.name}, not within {WAIT_S} s: {what}; it said {self.said[-10:]}")

    def heard(self, check):
        """What it has said until now that satisfies the check."""
        list(self._all(time.monotonic()))
        return [line for line in self.said if check(line)]

    def _all(self, end):
        yield from list(self.said)
        while True:
            try:
                line = self._lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                return
            if line is None:
                self._lines.put(None)
                return
            self.said.append(line)
            yield line

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


class Host:
    """A finder on a host of the lab, and what it has said so far."""

    def __init__(self, lab, name, *options, tag=TAG, instance=None):
        self.name = name
        command = (sys.executable, "-m", "tests.integration.finder", instance or name, tag, *options)
        self._told = Told(lab, name, *command, cwd=ROOT)

    def hears(self, what, event, **detail):
        """Wait until it says so; return the line."""
        return json.loads(self._told.says(what, _saying(event, detail)))

    def heard(self, event, **detail):
        """What it has said of this kind until now."""
        return [json.loads(line) for line in self._told.heard(_saying(event, detail))]

    def crash(self):
        """No goodbye: what it announced stays in the others' caches."""
        self._told.process.kill()
        self._told.process.wait(WAIT_S)

    def stop(self):
        """Let it say goodbye; return its last line."""
        self._told.process.send_signal(signal.SIGTERM)
        line = self.hears("its end", "stopped")
        assert self._told.process.wait(WAIT_S) == 0
        return line


def _saying(event, detail):
    wanted = {"event": event, **detail}
    return lambda line: wanted.items() <= json.loads(line).items()


def plugged_in(lab, name, *options, tag=TAG, **plug):
    """A host with its finder."""
    lab.host(name, **plug)
    return Host(lab, name, *options, tag=tag)


@pytest.fixture
def lab():
    with Lab() as made:
        yield made


def test_two_hosts_find_each_other_and_connect(lab):
    alpha = plugged_in(lab, "alpha")
    alpha.hears("start", "started")
    bravo = plugged_in(lab, "bravo")
    port = alpha.hears("start", "started")["port"]
    bravo.hears("alpha was found", "found", instance="alpha", host="10.99.0.1", port=port)
    alpha.hears("bravo was found", "found", instance="bravo", host="10.99.0.2")
    bravo.hears("a connection", "opened", host="10.99.0.1", dialled=True)
    alpha.hears("a connection", "opened", host="10.99.0.2", dialled=False)
    for host in (alpha, bravo):
        host.stop()
        assert not host.heard("found", instance=host.name), "a node is not told of itself"


def test_hosts_of_another_mesh_are_not_reported(lab):
    alpha, other, bravo = plugged_in(lab, "alpha"), plugged_in(lab, "other", tag="ff" * 8), plugged_in(lab, "bravo")
    for host in (alpha, other):
        host.hears("start", "started")
    alpha.hears("bravo was found", "found", instance="bravo")
    bravo.hears("alpha was found", "found", instance="alpha")
    for host in (alpha, bravo, other):
        host.stop()
    assert not alpha.heard("found", instance="other")
    assert not other.heard("found")


def test_a_cable_that_is_plugged_late_is_noticed(lab):
    alpha, bravo = plugged_in(lab, "alpha"), plugged_in(lab, "bravo", plugged=False)
    for host in (alpha, bravo):
        host.hears("start", "started")
    lab.plug("bravo")
    bravo.hears("the cable", "changed")
    alpha.hears("bravo was found", "found", instance="bravo")
    bravo.hears("alpha was found", "found", instance="alpha")
    alpha.stop()
    bravo.stop()


def test_groups_find_each_other_after_a_switch_joins_them(lab):
    """Both ask and get no answer until python-zeroconf alone would have gone quiet; then no cable of theirs changes."""
    alpha, bravo = plugged_in(lab, "alpha", "6"), plugged_in(lab, "bravo", "6", switch=1)
    for host in (alpha, bravo):
        host.hears("start", "started")
    # The quiet is real time on both hosts; nothing can be waited for, since nothing may happen.
    threading.Event().wait(ZEROCONF_QUIET_S)
    assert not alpha.heard("found")
    assert not bravo.heard("found")
    settled = [len(host.heard("changed")) for host in (alpha, bravo)]
    lab.join()
    alpha.hears("bravo was found", "found", instance="bravo")
    bravo.hears("alpha was found", "found", instance="alpha")
    assert [len(host.heard("changed")) for host in (alpha, bravo)] == settled, "no host saw the cable"
    alpha.stop()
    bravo.stop()


def test_two_hosts_with_one_name_are_both_found(lab):
    """A cloned machine may draw the name that its twin has drawn."""
    for name in ("alpha", "bravo", "charlie"):
        lab.host(name)
    alpha, bravo = Host(lab, "alpha"), Host(lab, "bravo", instance="twin")
    port = bravo.hears("start", "started")["port"]
    alpha.hears("the first", "found", host="10.99.0.2", port=port)
    charlie = Host(lab, "charlie", instance="twin")
    twin_port = charlie.hears("start", "started")["port"]
    alpha.hears("the second", "found", host="10.99.0.3", port=twin_port)
    bravo.hears("a connection with its twin", "opened", host="10.99.0.3")
    for host in (alpha, bravo, charlie):
        host.stop()
    assert not bravo.heard("found", host="10.99.0.2", port=port), "a node is not told of itself"


def test_a_dead_hosts_address_reaches_its_next_owner(lab):
    """Its records live on for minutes; the heir starts at that address and is reached at once, at its own port."""
    for name in ("alpha", "bravo", "charlie"):
        lab.host(name)
    alpha, bravo = Host(lab, "alpha"), Host(lab, "bravo")
    alpha.hears("bravo was found", "found", instance="bravo", host="10.99.0.2")
    bravo.hears("alpha was found", "found", instance="alpha")
    bravo.crash()
    lab.move("bravo", "charlie")
    charlie = Host(lab, "charlie")
    port = charlie.hears("start", "started")["port"]
    alpha.hears("charlie was found", "found", instance="charlie", host="10.99.0.2", port=port)
    charlie.hears("alpha was found", "found", instance="alpha")
    alpha.hears("a connection with the heir", "opened", host="10.99.0.2", port=port, dialled=True)
    charlie.stop()
    alpha.stop()


def test_hosts_without_ipv4_connect_by_link_local_addresses(lab):
    alpha, bravo = plugged_in(lab, "alpha", ipv4=False), plugged_in(lab, "bravo", ipv4=False)
    found = bravo.hears("alpha was found", "found", instance="alpha")
    assert found["host"].startswith("fe80::")
    assert found["host"].endswith("%eth0")
    opened = bravo.hears("a connection", "opened", dialled=True)
    assert opened["host"] == found["host"]
    alpha.hears("a connection", "opened", dialled=False)
    alpha.stop()
    bravo.stop()


def test_a_missing_network_is_reported_once_until_it_returns(lab):
    lab.host("alpha", ipv4=False)
    lab.run("alpha", "ip", "link", "set", "eth0", "down")
    lab.run("alpha", "ip", "link", "set", "lo", "down")
    alpha = Host(lab, "alpha")
    alpha.hears("no network", "notice", name="discovery.unavailable")
    lab.run("alpha", "ip", "link", "set", "eth0", "up")
    alpha.hears("a network", "notice", name="discovery.available")
    bravo = plugged_in(lab, "bravo", ipv4=False)
    alpha.hears("bravo was found", "found", instance="bravo")
    assert len(alpha.heard("notice")) == 2
    bravo.stop()
    alpha.stop()


def test_avahi_and_a_node_see_each_other(lab):
    """A foreign implementation of mDNS on another host: what we say is understood, and what it says as well."""
    missing = [program for program in AVAHI if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (apt-get install avahi-daemon avahi-utils dbus)")
    alpha = plugged_in(lab, "alpha")
    port = alpha.hears("start", "started")["port"]
    lab.host("foreign")
    avahi = Told(lab, "foreign", "unshare", "--mount", "--propagation", "private", "sh", "-c", FOREIGN, TAG)
    try:
        line = avahi.says("alpha, resolved", lambda line: line.startswith("=;eth0;IPv4;alpha;"))
    except AssertionError:
        if avahi.process.poll() == 77:
            pytest.skip("avahi does not run in a namespace here")
        raise
    assert line == f'=;eth0;IPv4;alpha;_mycomesh._tcp;local;alpha.local;10.99.0.1;{port};"m={TAG}" "v=1"'
    found = alpha.hears("avahi's service", "found", instance="foreign", host="10.99.0.2")
    assert found["port"] == 4711
    assert not alpha.heard("found", host="127.0.0.1"), "avahi announces its loopback, which leads nowhere from here"
    alpha.stop()
    avahi.says("its goodbye", lambda line: line == "-;eth0;IPv4;alpha;_mycomesh._tcp;local")
