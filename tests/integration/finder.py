"""A program with a node's discovery, network monitor and transport alone; it reports events as JSON lines on stdout.

Run it as `python -m tests.integration.finder INSTANCE TAG [QUERY_EVERY_S]`. It listens on a free port, dials each address that
it finds once, and withdraws its announcement on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

import uvloop

from mycomesh.mesh.events import ConnOpened, DialFailed
from mycomesh.mesh.io import discovery
from mycomesh.mesh.io.discovery import Discovery
from mycomesh.mesh.io.netlink import Netlink
from mycomesh.mesh.io.transport import Transport

BEGAN = time.monotonic()


def say(event, **detail):
    print(json.dumps({"event": event, "at_s": round(time.monotonic() - BEGAN, 3), **detail}), flush=True)


class Finder:
    """Connects the three as a node does."""

    def __init__(self):
        self.transport = Transport(self.on_event)
        self.discovery = Discovery(self.on_found, lambda notice: say("notice", name=notice.event), loopback=False)
        self.netlink = Netlink(self.on_changed)
        self.dialled = set()

    async def run(self, instance, tag):
        stopped = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
        await self.transport.start(0)
        self.netlink.start()
        await self.discovery.start(instance, tag, self.transport.address.port)
        say("started", port=self.transport.address.port)
        await stopped.wait()
        self.netlink.close()
        await self.discovery.close()
        await self.transport.close_all()
        say("stopped", cpu_s=round(time.process_time(), 3))

    def on_changed(self):
        say("changed")
        self.discovery.network_changed()

    def on_found(self, address, instance):
        say("found", instance=instance, host=address.host, port=address.port)
        if address not in self.dialled:
            self.dialled.add(address)
            self.transport.dial(address)

    def on_event(self, event):
        match event:
            case ConnOpened(_, address, dialled):
                say("opened", host=address.host, port=address.port, dialled=dialled)
            case DialFailed(address):
                say("failed", host=address.host)


if __name__ == "__main__":
    if len(sys.argv) > 3:
        discovery.QUERY_EVERY_S = float(sys.argv[3])
    uvloop.run(Finder().run(sys.argv[1], sys.argv[2]))
