"""Several hosts on one machine: network namespaces, connected by switches in a further namespace.

The machine's own network is never touched. Multicast crosses the switches, so mDNS works as on a LAN. `cut` takes down the
switch's end of a host's cable; `part` takes down the cable between the two switches, which no host can notice. The lab removes
everything at its end, also after a failure. The next lab removes the leftovers of a killed process.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["Lab", "needs_namespaces", "why_not"]

needs_namespaces = pytest.mark.netns  # tests/conftest.py skips marked tests if namespaces are not available

_LABS = itertools.count()
_NAME = re.compile(r"mc(\d+)x\d+\w+")


@functools.cache
def why_not():
    """Return why network namespaces are not available here, or "" if they are."""
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if shutil.which("ip") is None:
        return "needs the ip command (apt-get install iproute2)"
    name = f"mc{os.getpid()}x0probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    usable = made.returncode == 0
    if usable:
        tried = subprocess.run(
            ["ip", "-n", name, "link", "add", "br0", "type", "bridge"], capture_output=True, text=True, check=False
        )
        usable = tried.returncode == 0
        made = tried
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return "" if usable else f"network namespaces are not available here: {made.stderr.strip()}"


class Lab:
    """Two switches with hosts: `lab.host(name)` adds a host; `cut` and `plug` disconnect and connect its cable.

    A host with `switch=None` has no cable to a switch. `cable` connects two hosts directly, on a separate network.
    """

    def __init__(self):
        self._tag = f"mc{os.getpid()}x{next(_LABS)}"
        self._switch = f"{self._tag}sw"
        self._hosts = {}
        self._cables = {}
        self._processes = []

    def __enter__(self):
        _sweep()
        try:
            self._ip("netns", "add", self._switch)
            for number in (0, 1):
                self._ip("-n", self._switch, "link", "add", f"br{number}", "type", "bridge")
                self._ip("-n", self._switch, "link", "set", f"br{number}", "up")
            self._ip("-n", self._switch, "link", "add", "up0", "type", "veth", "peer", "name", "up1")
            for number in (0, 1):
                self._ip("-n", self._switch, "link", "set", f"up{number}", "master", f"br{number}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for space in (*self._hosts.values(), self._switch):
            _remove(space)

    def host(self, name, *, switch=0, ipv4=True, plugged=True):
        """Add a host with an address on the switch's network; return its command prefix.

        `switch` 1 is the second switch, separate until `join`. Without `ipv4` the host has only link-local IPv6 addresses.
        """
        number = len(self._hosts) + 1
        space = self._hosts[name] = f"{self._tag}h{number}"
        port = f"p{number}"
        self._ip("netns", "add", space)
        if switch is None:
            self._ip("-n", space, "link", "set", "lo", "up")
            return ["ip", "netns", "exec", space]
        self._ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", port, "netns", self._switch)
        self._ip("-n", self._switch, "link", "set", port, "master", f"br{switch}", "up" if plugged else "down")
        self._ip("-n", space, "link", "set", "lo", "up")
        if ipv4:
            self._ip("-n", space, "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
        self._ip("-n", space, "link", "set", "eth0", "up")
        if ipv4:
            self._ip("-n", space, "route", "add", "default", "dev", "eth0")
        return ["ip", "netns", "exec", space]

    def address(self, name):
        """Return the host's IPv4 address on the switch's network."""
        return f"10.99.0.{list(self._hosts).index(name) + 1}"

    def addresses(self, name, count):
        """Add addresses to a host, as if it were many hosts; return them."""
        found = [f"10.99.0.{100 + number}" for number in range(count)]
        for address in found:
            self._ip("-n", self._hosts[name], "addr", "add", f"{address}/24", "dev", "eth0")
        return found

    def run(self, name, *words, **options):
        """Run a command on a host to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self._hosts[name], *words], capture_output=True, text=True, check=False, **options
        )

    def popen(self, name, *words, **options):
        """Start a command on a host; the lab's end kills it if it still runs."""
        process = subprocess.Popen(["ip", "netns", "exec", self._hosts[name], *words], **options)
        self._processes.append(process)
        return process

    def move(self, name, heir):
        """Move a host's IPv4 address to another host, which then has no other."""
        left, taken = (f"{self.address(each)}/24" for each in (heir, name))
        self._ip("-n", self._hosts[name], "addr", "del", taken, "dev", "eth0")
        self._ip("-n", self._hosts[heir], "addr", "del", left, "dev", "eth0")
        self._ip("-n", self._hosts[heir], "addr", "add", taken, "dev", "eth0")
        self._ip("-n", self._hosts[heir], "route", "add", "default", "dev", "eth0")
        for space in self._hosts.values():  # the effect of a DHCP client's gratuitous ARP
            self._ip("-n", space, "neigh", "flush", "to", self.address(name), "dev", "eth0")

    def cut(self, name):
        """Disconnect a host's cable."""
        self._port(name, "down")

    def plug(self, name):
        """Connect a host's cable again."""
        self._port(name, "up")

    def cable(self, left, right):
        """Connect two hosts directly, without a switch."""
        number = self._cables[left, right] = len(self._cables) + 1
        spaces = (self._hosts[left], self._hosts[right])
        end = f"c{number}"
        self._ip("link", "add", end, "netns", spaces[0], "type", "veth", "peer", "name", end, "netns", spaces[1])
        for at, space in enumerate(spaces, start=1):
            self._ip("-n", space, "addr", "add", f"10.98.{number}.{at}/24", "dev", end)
            self._ip("-n", space, "link", "set", end, "up")

    def cable_cut(self, left, right):
        """Disconnect the direct cable between two hosts."""
        self._ip("-n", self._hosts[left], "link", "set", f"c{self._cables[left, right]}", "down")

    def cable_repaired(self, left, right):
        """Connect the direct cable between two hosts again."""
        self._ip("-n", self._hosts[left], "link", "set", f"c{self._cables[left, right]}", "up")

    def join(self):
        """Connect the two switches, which no host can notice."""
        for number in (0, 1):
            self._ip("-n", self._switch, "link", "set", f"up{number}", "up")

    def part(self):
        """Disconnect the two switches."""
        self._ip("-n", self._switch, "link", "set", "up0", "down")

    def _port(self, name, state):
        self._ip("-n", self._switch, "link", "set", f"p{list(self._hosts).index(name) + 1}", state)

    def _ip(self, *words):
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)


def _sweep():
    """Remove the namespaces of processes that have ended."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        space = line.split(" ", 1)[0]
        found = _NAME.fullmatch(space)
        if found is not None and not Path("/proc", found[1]).exists():
            _remove(space)


def _remove(space):
    """Kill the processes in a namespace, and remove it."""
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
