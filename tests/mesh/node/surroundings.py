"""`Surroundings` for tests: what waits makes a virtual world go on, and a verb of the storage runs at once."""

from __future__ import annotations

import asyncio

from tests.mesh.pipes import WALL_MS

STEP_MS = 50


class StillSurroundings:
    """Surroundings without time: a wait yields to other coroutines once, and its time is over."""

    def __init__(self, replica=None):
        self.now_ms = 0
        self.replica = replica
        self.learnt = []

    def clock(self):
        return self.now_ms, WALL_MS + self.now_ms

    async def wait(self, signal, ms_max):
        await asyncio.sleep(0)
        self.now_ms += 0 if signal.is_set else ms_max
        signal.is_set = False

    async def storage(self, call, *args):
        return call(*args)

    def storage_ms(self):
        return 0

    async def query(self, request):
        return request(self.replica)

    def learn(self, certificate):
        self.learnt.append(certificate)


class WorldSurroundings(StillSurroundings):
    """Surroundings of one node of a virtual world of exchanges (tests/sync/exchanges.py)."""

    def __init__(self, world, node):
        super().__init__(node.peer.replica)
        self.world = world

    def clock(self):
        return self.world.now, WALL_MS + self.world.now

    async def wait(self, signal, ms_max):
        end_ms = self.world.now + ms_max
        while not signal.is_set and self.world.now < end_ms:
            self.world.run(min(STEP_MS, end_ms - self.world.now))
        signal.is_set = False
