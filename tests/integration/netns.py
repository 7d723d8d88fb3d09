"""Several hosts on one machine: network namespaces on switches that lie in a namespace of their own.

The machine's own network is never touched. Multicast crosses the switches, so mDNS works as on a LAN; a host's cable is cut by
taking the switch's end of it down, and two switches are parted by a cable that no host sees. Everything is removed again at the
end, whatever happened in between; what a killed process left behind is removed by the next one.
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

needs_namespaces = pytest.mark.netns  # tests/conftest.py skips what bears it where namespaces are not to be had

_LABS = itertools.count()
_NAME = re.compile(r"mc(\d+)x\d+\w+")


@functools.cache
def why_not():
    """Returns why there are no network namespaces here, "" if there are."""
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
    """A switch with hosts: `lab.host(name)` plugs one in, `cut` and `plug` pull and push its cable.

    A host with `switch=None` is plugged in nowhere; `cable` joins two hosts directly, on a network of their own.
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
        """Adds a host with an address on the switch's network; returns its command prefix.

        `switch` 1 is a second one, apart until `join`; without `ipv4` there are only link-local IPv6 addresses.
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
        """The host's IPv4 address on the switch's network."""
        return f"10.99.0.{list(self._hosts).index(name) + 1}"

    def addresses(self, name, count):
        """Gives a host further addresses, as if it were many; returns them."""
        found = [f"10.99.0.{100 + number}" for number in range(count)]
        for address in found:
            self._ip("-n", self._hosts[name], "addr", "add", f"{address}/24", "dev", "eth0")
        return found

    def run(self, name, *words, **options):
        """Runs a command on a host to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self._hosts[name], *words], capture_output=True, text=True, check=False, **options
        )

    def popen(self, name, *words, **options):
        """Starts a command on a host; it is killed at the end if it has not ended by then."""
        process = subprocess.Popen(["ip", "netns", "exec", self._hosts[name], *words], **options)
        self._processes.append(process)
        return process

    def move(self, name, heir):
        """Gives a host's IPv4 address to another one, that then has no other."""
        left, taken = (f"{self.address(each)}/24" for each in (heir, name))
        self._ip("-n", self._hosts[name], "addr", "del", taken, "dev", "eth0")
        self._ip("-n", self._hosts[heir], "addr", "del", left, "dev", "eth0")
        self._ip("-n", self._hosts[heir], "addr", "add", taken, "dev", "eth0")
        self._ip("-n", self._hosts[heir], "route", "add", "default", "dev", "eth0")
        for space in self._hosts.values():  # what the gratuitous ARP of a DHCP client does
            self._ip("-n", space, "neigh", "flush", "to", self.address(name), "dev", "eth0")

    def cut(self, name):
        """Pulls a host's cable."""
        self._port(name, "down")

    def plug(self, name):
        """Pushes it in again."""
        self._port(name, "up")

    def cable(self, left, right):
        """Joins two hosts by a cable that nobody else sees."""
        number = self._cables[left, right] = len(self._cables) + 1
        spaces = (self._hosts[left], self._hosts[right])
        end = f"c{number}"
        self._ip("link", "add", end, "netns", spaces[0], "type", "veth", "peer", "name", end, "netns", spaces[1])
        for at, space in enumerate(spaces, start=1):
            self._ip("-n", space, "addr", "add", f"10.98.{number}.{at}/24", "dev", end)
            self._ip("-n", space, "link", "set", end, "up")

    def cable_cut(self, left, right):
        """Pulls the cable between two hosts."""
        self._ip("-n", self._hosts[left], "link", "set", f"c{self._cables[left, right]}", "down")

    def cable_mended(self, left, right):
        """Puts it back."""
        self._ip("-n", self._hosts[left], "link", "set", f"c{self._cables[left, right]}", "up")

    def join(self):
        """Joins the two switches by a cable that no host sees."""
        for number in (0, 1):
            self._ip("-n", self._switch, "link", "set", f"up{number}", "up")

    def part(self):
        """Parts them again."""
        self._ip("-n", self._switch, "link", "set", "up0", "down")

    def _port(self, name, state):
        self._ip("-n", self._switch, "link", "set", f"p{list(self._hosts).index(name) + 1}", state)

    def _ip(self, *words):
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)


def _sweep():
    """Removes namespaces whose process is gone."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        space = line.split(" ", 1)[0]
        found = _NAME.fullmatch(space)
        if found is not None and not Path("/proc", found[1]).exists():
            _remove(space)


def _remove(space):
    """Ends what still runs in a namespace, and removes it."""
    found = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
    for pid in found.stdout.split():
        subprocess.run(["kill", "-9", pid], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)
