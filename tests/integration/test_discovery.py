"""Discovery between hosts: mDNS across a switch, cables that are plugged in late, links without IPv4, and Avahi."""

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
from tests.sync.scale import SCALE

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
TAG = "00112233aabbccdd"
WAIT_S = 60  # only a broken program needs this long
# python-zeroconf's own browser sends its last query 14 s after the last change of the network.
QUIET_S, QUERY_EVERY_S = (6, 1) if SCALE == 1 else (18, 6)


AVAHI = ("avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare")
# Avahi talks to its clients over D-Bus. Both run with a separate /run, so that they do not use the machine's own daemons.
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


class Output:
    """The output of a process on a host of the lab, line by line."""

    def __init__(self, lab, name, *words, **options):
        self.name = name
        self.printed = []
        self._lines = queue.Queue()
        self.process = lab.popen(name, *words, stdout=subprocess.PIPE, text=True, **options)
        threading.Thread(target=self._read, daemon=True).start()

    def expect(self, what, check):
        """Wait for a line that satisfies the check; return it."""
        end = time.monotonic() + WAIT_S
        for line in self._all(end):
            if check(line):
                return line
        raise AssertionError(f"{self.name}, not within {WAIT_S} s: {what}; it printed {self.printed[-10:]}")

    def lines(self, check):
        """Return the lines so far that satisfy the check."""
        list(self._all(time.monotonic()))
        return [line for line in self.printed if check(line)]

    def _all(self, end):
        yield from list(self.printed)
        while True:
            try:
                line = self._lines.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                return
            if line is None:
                self._lines.put(None)
                return
            self.printed.append(line)
            yield line

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)


class Host:
    """A finder on a host of the lab, and its output."""

    def __init__(self, lab, name, *options, tag=TAG, instance=None):
        self.name = name
        command = (sys.executable, "-m", "tests.integration.finder", instance or name, tag, *options)
        self._output = Output(lab, name, *command, cwd=ROOT)

    def expect(self, what, event, **detail):
        """Wait for an event with these details; return the event."""
        return json.loads(self._output.expect(what, _matching(event, detail)))

    def events(self, event, **detail):
        """Return the events so far with these details."""
        return [json.loads(line) for line in self._output.lines(_matching(event, detail))]

    def crash(self):
        """Kill the finder, so that its announcement stays in the others' caches."""
        self._output.process.kill()
        self._output.process.wait(WAIT_S)

    def stop(self):
        """Stop the finder, which withdraws its announcement; return its last event."""
        self._output.process.send_signal(signal.SIGTERM)
        line = self.expect("its end", "stopped")
        assert self._output.process.wait(WAIT_S) == 0
        return line


def _matching(event, detail):
    wanted = {"event": event, **detail}
    return lambda line: wanted.items() <= json.loads(line).items()


def plugged_in(lab, name, *options, tag=TAG, **plug):
    """Add a host and start its finder."""
    lab.host(name, **plug)
    return Host(lab, name, *options, tag=tag)


@pytest.fixture
def lab():
    with Lab() as made:
        yield made


def test_two_hosts_find_each_other_and_connect(lab):
    alpha = plugged_in(lab, "alpha")
    alpha.expect("start", "started")
    bravo = plugged_in(lab, "bravo")
    port = alpha.expect("start", "started")["port"]
    bravo.expect("alpha was found", "found", instance="alpha", host="10.99.0.1", port=port)
    alpha.expect("bravo was found", "found", instance="bravo", host="10.99.0.2")
    bravo.expect("a connection", "opened", host="10.99.0.1", dialled=True)
    alpha.expect("a connection", "opened", host="10.99.0.2", dialled=False)
    for host in (alpha, bravo):
        host.stop()
        assert not host.events("found", instance=host.name), "a node never finds itself"


def test_hosts_of_another_mesh_are_not_reported(lab):
    alpha, other, bravo = plugged_in(lab, "alpha"), plugged_in(lab, "other", tag="ff" * 8), plugged_in(lab, "bravo")
    for host in (alpha, other):
        host.expect("start", "started")
    alpha.expect("bravo was found", "found", instance="bravo")
    bravo.expect("alpha was found", "found", instance="alpha")
    for host in (alpha, bravo, other):
        host.stop()
    assert not alpha.events("found", instance="other")
    assert not other.events("found")


def test_a_cable_that_is_plugged_late_is_noticed(lab):
    alpha, bravo = plugged_in(lab, "alpha"), plugged_in(lab, "bravo", plugged=False)
    for host in (alpha, bravo):
        host.expect("start", "started")
    lab.plug("bravo")
    bravo.expect("the cable", "changed")
    alpha.expect("bravo was found", "found", instance="bravo")
    bravo.expect("alpha was found", "found", instance="alpha")
    alpha.stop()
    bravo.stop()


def test_groups_find_each_other_after_a_switch_joins_them(lab):
    """The hosts query in vain, in `make long` for longer than python-zeroconf alone would; then the switches join, unseen."""
    alpha, bravo = (
        plugged_in(lab, name, str(QUERY_EVERY_S), switch=number) for number, name in enumerate(("alpha", "bravo"))
    )
    for host in (alpha, bravo):
        host.expect("start", "started")
    # A wait in real time, because no event may happen during the quiet time.
    threading.Event().wait(QUIET_S)
    assert not alpha.events("found")
    assert not bravo.events("found")
    settled = [len(host.events("changed")) for host in (alpha, bravo)]
    lab.join()
    alpha.expect("bravo was found", "found", instance="bravo")
    bravo.expect("alpha was found", "found", instance="alpha")
    assert [len(host.events("changed")) for host in (alpha, bravo)] == settled, "no host saw the cable"
    alpha.stop()
    bravo.stop()


def test_two_hosts_with_one_name_are_both_found(lab):
    """A cloned machine may draw the same name as its original."""
    for name in ("alpha", "bravo", "charlie"):
        lab.host(name)
    alpha, bravo = Host(lab, "alpha"), Host(lab, "bravo", instance="twin")
    port = bravo.expect("start", "started")["port"]
    alpha.expect("the first", "found", host="10.99.0.2", port=port)
    charlie = Host(lab, "charlie", instance="twin")
    twin_port = charlie.expect("start", "started")["port"]
    alpha.expect("the second", "found", host="10.99.0.3", port=twin_port)
    bravo.expect("a connection with its twin", "opened", host="10.99.0.3")
    for host in (alpha, bravo, charlie):
        host.stop()
    assert not bravo.events("found", host="10.99.0.2", port=port), "a node never finds itself"


def test_a_dead_hosts_address_reaches_its_next_owner(lab):
    """The dead host's records remain for minutes. Its address's next owner is reached at once, at its own port."""
    for name in ("alpha", "bravo", "charlie"):
        lab.host(name)
    alpha, bravo = Host(lab, "alpha"), Host(lab, "bravo")
    alpha.expect("bravo was found", "found", instance="bravo", host="10.99.0.2")
    bravo.expect("alpha was found", "found", instance="alpha")
    bravo.crash()
    lab.move("bravo", "charlie")
    charlie = Host(lab, "charlie")
    port = charlie.expect("start", "started")["port"]
    alpha.expect("charlie was found", "found", instance="charlie", host="10.99.0.2", port=port)
    charlie.expect("alpha was found", "found", instance="alpha")
    alpha.expect("a connection with charlie", "opened", host="10.99.0.2", port=port, dialled=True)
    charlie.stop()
    alpha.stop()


def test_hosts_without_ipv4_connect_by_link_local_addresses(lab):
    alpha, bravo = plugged_in(lab, "alpha", ipv4=False), plugged_in(lab, "bravo", ipv4=False)
    found = bravo.expect("alpha was found", "found", instance="alpha")
    assert found["host"].startswith("fe80::")
    assert found["host"].endswith("%eth0")
    opened = bravo.expect("a connection", "opened", dialled=True)
    assert opened["host"] == found["host"]
    alpha.expect("a connection", "opened", dialled=False)
    alpha.stop()
    bravo.stop()


def test_a_missing_network_is_reported_once_until_it_returns(lab):
    lab.host("alpha", ipv4=False)
    lab.run("alpha", "ip", "link", "set", "eth0", "down")
    lab.run("alpha", "ip", "link", "set", "lo", "down")
    alpha = Host(lab, "alpha")
    alpha.expect("no network", "notice", name="discovery.unavailable")
    lab.run("alpha", "ip", "link", "set", "eth0", "up")
    alpha.expect("a network", "notice", name="discovery.available")
    bravo = plugged_in(lab, "bravo", ipv4=False)
    alpha.expect("bravo was found", "found", instance="bravo")
    assert len(alpha.events("notice")) == 2
    bravo.stop()
    alpha.stop()


def test_avahi_and_a_node_see_each_other(lab):
    """Avahi, another implementation of mDNS, on another host: each side understands the other's records."""
    missing = [program for program in AVAHI if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)} (apt-get install avahi-daemon avahi-utils dbus)")
    alpha = plugged_in(lab, "alpha")
    port = alpha.expect("start", "started")["port"]
    lab.host("foreign")
    avahi = Output(lab, "foreign", "unshare", "--mount", "--propagation", "private", "sh", "-c", FOREIGN, TAG)
    try:
        line = avahi.expect("alpha, resolved", lambda line: line.startswith("=;eth0;IPv4;alpha;"))
    except AssertionError:
        if avahi.process.poll() == 77:
            pytest.skip("avahi does not run in a namespace here")
        raise
    assert line == f'=;eth0;IPv4;alpha;_mycomesh._tcp;local;alpha.local;10.99.0.1;{port};"m={TAG}" "v=1"'
    found = alpha.expect("avahi's service", "found", instance="foreign", host="10.99.0.2")
    assert found["port"] == 4711
    assert not alpha.events("found", host="127.0.0.1"), "avahi announces its loopback address, which is useless here"
    alpha.stop()
    avahi.expect("the withdrawal", lambda line: line == "-;eth0;IPv4;alpha;_mycomesh._tcp;local")
