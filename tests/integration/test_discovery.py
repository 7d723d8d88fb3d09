"""Discovery between hosts: mDNS across a switch, cables that come late, links without IPv4, and a foreign client."""

from __future__ import annotations

import json
import queue
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
ZEROCONF_QUIET_S = 15  # the last question of python-zeroconf's own browser leaves 14 s after its start


class Host:
    """A finder on a host of the lab, and what it has said so far."""

    def __init__(self, lab, name, *options, tag=TAG):
        self.name = name
        self.said = []
        self._lines = queue.Queue()
        self.process = lab.popen(
            name,
            *(sys.executable, "-m", "tests.integration.finder", name, tag, *options),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def hears(self, what, event, **detail):
        """Wait until it says so; return the line."""
        wanted = {"event": event, **detail}
        end = time.monotonic() + WAIT_S
        for line in self._all(end):
            if wanted.items() <= line.items():
                return line
        raise AssertionError(f"{self.name}, not within {WAIT_S} s: {what}; it said {self.said[-10:]}")

    def stop(self):
        """Let it say goodbye; return its last line."""
        self.process.send_signal(signal.SIGTERM)
        line = self.hears("its end", "stopped")
        assert self.process.wait(WAIT_S) == 0
        return line

    def heard(self, event, **detail):
        """What it has said of this kind until now."""
        self._drain()
        wanted = {"event": event, **detail}
        return [line for line in self.said if wanted.items() <= line.items()]

    def _all(self, end):
        yield from list(self.said)
        while (left := end - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                return
            self.said.append(line)
            yield line

    def _drain(self):
        while not self._lines.empty():
            self.said.append(self._lines.get())

    def _read(self):
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(json.loads(line))


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


def test_hosts_of_another_mesh_are_not_told(lab):
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


def test_groups_that_a_switch_joins_out_of_sight_find_each_other(lab):
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


def test_hosts_without_ipv4_meet_by_link_local_addresses_with_their_interface(lab):
    alpha, bravo = plugged_in(lab, "alpha", ipv4=False), plugged_in(lab, "bravo", ipv4=False)
    found = bravo.hears("alpha was found", "found", instance="alpha")
    assert found["host"].startswith("fe80::")
    assert found["host"].endswith("%eth0")
    opened = bravo.hears("a connection", "opened", dialled=True)
    assert opened["host"] == found["host"]
    alpha.hears("a connection", "opened", dialled=False)
    alpha.stop()
    bravo.stop()


def test_no_network_is_said_once_and_mended_when_one_comes(lab):
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
