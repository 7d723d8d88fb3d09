"""The surroundings of a daemon: waits end, the storage has its thread, and a verb that hangs holds nothing up."""

import asyncio
import threading
import time

import pytest

from mycomesh.mesh.mailbox.mailbox import MailboxError
from mycomesh.mesh.node import mailbox_host
from mycomesh.mesh.node.mailbox_host import NodeSurroundings
from mycomesh.mesh.node.surroundings import Signal


class Storage:
    """A storage that can rest."""

    def __init__(self):
        self.rested = threading.Semaphore(0)

    def rest(self):
        self.rested.release()


class Node:
    def __init__(self):
        self.learnt = []

    def learn(self, certificate):
        self.learnt.append(certificate)

    async def query_replica(self, request):
        return request("replica")


@pytest.fixture
def around():
    made = NodeSurroundings(Node(), object())
    yield made
    made.close()


def test_a_wait_ends_by_its_signal_or_its_time(around):
    async def scene():
        signal = Signal()
        await around.wait(signal, 1)
        waiting = asyncio.create_task(around.wait(signal, 60_000))
        await asyncio.sleep(0)
        signal.set()
        await waiting
        signal.set()
        await around.wait(signal, 60_000)
        return signal.is_set, signal.wake

    assert asyncio.run(scene()) == (False, None)


def test_verbs_run_on_one_thread_and_bring_their_errors(around):
    def refuse():
        raise MailboxError("disk full")

    async def scene():
        threads = {await around.storage(threading.get_ident) for _ in range(3)}
        with pytest.raises(MailboxError, match="disk full"):
            await around.storage(refuse)
        return threads, await around.query(lambda replica: replica)

    threads, answer = asyncio.run(scene())
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert answer == "replica"


def test_a_verb_that_hangs_holds_nothing_up(around):
    go_on = threading.Event()

    async def scene():
        hanging = asyncio.create_task(around.storage(go_on.wait))
        await asyncio.sleep(0.01)
        hanging.cancel()
        skipped = asyncio.create_task(around.storage(time.time))
        await asyncio.sleep(0)
        skipped.cancel()
        await asyncio.gather(hanging, skipped, return_exceptions=True)
        go_on.set()
        return await around.storage(lambda: "works")

    assert asyncio.run(scene()) == "works"


def test_a_certificate_is_learnt_once(around):
    for raw in (b"one", b"two", b"one"):
        around.learn(raw)
    assert around._node.learnt == [b"one", b"two"]


def test_a_storage_rests_once_after_its_last_verb(monkeypatch):
    monkeypatch.setattr(mailbox_host, "IDLE_S", 0.05)
    storage = Storage()
    around = NodeSurroundings(Node(), storage)

    async def scene():
        return [await around.storage(lambda: 7), await asyncio.to_thread(storage.rested.acquire, timeout=30)]

    assert asyncio.run(scene()) == [7, True]
    assert not storage.rested.acquire(timeout=0.2)
    assert asyncio.run(scene()) == [7, True]
    around.close()
