"""Several hosts on one machine: network namespaces on a bridge that lies in a namespace of its own.

The machine's own network is never touched. Multicast crosses the bridge, so mDNS works as on a LAN; a cable is cut by taking
the bridge's end of it down. Everything is removed again at the end, whatever happened in between.
"""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

__all__ = ["Lab", "needs_namespaces"]


def _usable():
    if os.geteuid() != 0:
        return "needs root for network namespaces"
    if shutil.which("ip") is None:
        return "needs the ip command (apt-get install iproute2)"
    name = f"mcprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return "network namespaces are not available here"
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return ""


_REASON = _usable()
needs_namespaces = pytest.mark.skipif(bool(_REASON), reason=_REASON or "namespaces are usable")


class Lab:
    """A switch with hosts: `lab.host(name)` plugs one in, `cut` and `plug` pull and push its cable."""

    def __init__(self):
        self._tag = f"mc{os.getpid() % 100_000}"
        self._switch = f"{self._tag}sw"
        self._hosts = {}

    def __enter__(self):
        self._ip("netns", "add", self._switch)
        self._inside(self._switch, "ip", "link", "add", "br0", "type", "bridge")
        self._inside(self._switch, "ip", "link", "set", "br0", "up")
        return self

    def __exit__(self, *_):
        for name in (*self._hosts.values(), self._switch):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def host(self, name):
        """Adds a host with an address on the switch's network; returns its command prefix."""
        number = len(self._hosts) + 1
        space = f"{self._tag}h{number}"
        self._ip("netns", "add", space)
        self._hosts[name] = space
        self._ip(
            "link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", f"p{number}", "netns", self._switch
        )
        self._inside(self._switch, "ip", "link", "set", f"p{number}", "master", "br0", "up")
        self._inside(space, "ip", "link", "set", "lo", "up")
        self._inside(space, "ip", "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
        self._inside(space, "ip", "link", "set", "eth0", "up")
        self._inside(space, "ip", "route", "add", "default", "dev", "eth0")
        return ["ip", "netns", "exec", space]

    def cut(self, name):
        """Pulls a host's cable."""
        self._port(name, "down")

    def plug(self, name):
        """Pushes it in again."""
        self._port(name, "up")

    def _port(self, name, state):
        number = list(self._hosts).index(name) + 1
        self._inside(self._switch, "ip", "link", "set", f"p{number}", state)

    def _inside(self, space, *words):
        self._ip("netns", "exec", space, *words)

    def _ip(self, *words):
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stderr)
