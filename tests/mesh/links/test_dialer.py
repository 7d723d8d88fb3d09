"""The dialler: spoofed addresses cost a few dials, and honest ones do not wait for them."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from mycomesh.mesh.address import nats_address
from mycomesh.mesh.config import MeshConfig
from mycomesh.mesh.events import Address, AddressFound, DialFailed, NetworkChanged
from mycomesh.mesh.links.dialer import (
    ADDRESSES_MAX,
    FAILURES_MAX,
    HASTE_MS,
    REVISIT_MS,
    UNPROVEN_AT_ONCE,
    UNPROVEN_EVERY_MS,
    UNPROVEN_MAX,
    Dialer,
)

RENEWED_MS = 30_000  # mDNS repeats what it knows this often
MEMBER = b"m" * 16


class Scene:
    """A dialler in a network where nobody answers, except at the addresses of `members`."""

    def __init__(self, *members):
        self.now_ms = 0
        self.dialler = Dialer(MeshConfig(), random.Random(1))
        self.members = members
        self.dials = []

    def hint(self, *addresses, instance="x", **more):
        for address in addresses:
            self.dialler.on_address_found(address, self.now_ms, instance=instance, **more)

    def run(self, until_ms):
        """Let time pass; every dial ends within its millisecond."""
        while True:
            for address in self.dialler.start_dials(self.now_ms):
                self.dials.append((self.now_ms, address))
                if address in self.members:
                    self.dialler.on_conn_opened(address)
                    self.dialler.record_member(address, MEMBER)
                else:
                    self.dialler.on_dial_failed(address, self.now_ms)
            due_ms = self.dialler.deadline()
            if due_ms is None or due_ms > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = max(self.now_ms + 1, due_ms)

    def times(self, address):
        return [at_ms for at_ms, dialled in self.dials if dialled == address]


def addresses(count, network=10):
    return [Address(f"{network}.{index >> 8}.{index & 255}.1", 9) for index in range(count)]


def test_dead_names_that_mdns_repeats_are_dialled_few_times():
    scene, names = Scene(), addresses(64)
    for told_ms in range(0, 600_000, RENEWED_MS):
        scene.run(told_ms)
        scene.hint(*names)
    scene.run(600_000)
    counts = [len(scene.times(name)) for name in names]
    assert min(counts) >= FAILURES_MAX
    assert max(counts) <= FAILURES_MAX + 600_000 // REVISIT_MS


def test_an_address_that_is_given_up_causes_no_timer():
    scene, (name,) = Scene(), addresses(1)
    scene.hint(name)
    scene.run(600_000)
    assert len(scene.dials) == FAILURES_MAX
    assert scene.dialler.deadline() is None


@pytest.mark.parametrize("more", [{"instance": "y"}, {"node_id": MEMBER}, {"static": True}])
def test_hint_of_a_dropped_address_is_dialled_at_once(more):
    scene, (name,) = Scene(), addresses(1)
    scene.hint(name)
    scene.run(600_000)
    scene.hint(name, **more)
    scene.run(600_000)
    assert scene.times(name)[-1] == 600_000


def test_a_change_of_the_network_tries_everything_again():
    scene, names = Scene(), addresses(3)
    scene.hint(*names)
    scene.run(600_000)
    scene.dialler.on_event(NetworkChanged(), 600_000)
    scene.run(600_000)
    assert [scene.times(name)[-1] for name in names] == [600_000] * 3


@pytest.mark.parametrize("proven", [True, False])
def test_a_change_brings_members_back_at_once(proven):
    scene, (name,) = Scene(), addresses(1)
    scene.members = (name,) if proven else ()
    scene.hint(name)
    scene.run(10)
    scene.members = ()
    if proven:
        scene.dialler.on_conn_closed(name, scene.now_ms)
    first = scene.times(name)[-1]
    for at in range(first + 20, first + 400, 20):  # a cable makes several changes while it is plugged in
        scene.run(at)
        scene.dialler.on_event(NetworkChanged(), at)
    scene.run(first + 400)
    later = [at - first for at in scene.times(name)[scene.times(name).index(first) + 1 :]]
    spaced = all(after - before >= HASTE_MS for before, after in pairwise([0, *later]))
    assert (len(later) >= 5 and spaced) if proven else later == [], later


def test_hint_of_proven_address_is_followed_at_once():
    scene, (name,) = Scene(), addresses(1)
    scene.members = (name,)
    scene.hint(name)
    scene.run(10)
    scene.members = ()
    scene.dialler.on_conn_closed(name, scene.now_ms)
    scene.run(600_000)
    scene.hint(name)
    scene.run(600_000)
    assert scene.times(name)[-1] == 600_000


def test_a_flood_of_spoofed_names_is_bounded_and_ends():
    scene = Scene()
    for name in addresses(8_000):
        scene.hint(name)
        scene.run(scene.now_ms + 1)
    assert len(scene.dialler._book) == UNPROVEN_MAX
    for told_ms in range(30_000, 600_000, RENEWED_MS):
        scene.run(told_ms)
        scene.hint(*addresses(256))
    scene.run(600_000)
    rate = 60_000 // UNPROVEN_EVERY_MS
    for minute_ms in range(60_000, 600_000, 60_000):
        assert sum(minute_ms <= at_ms < minute_ms + 60_000 for at_ms, _ in scene.dials) <= rate + 1
    assert sum(at_ms < 60_000 for at_ms, _ in scene.dials) <= UNPROVEN_AT_ONCE + rate


def test_member_that_comes_after_flood_is_dialled_within_second():
    scene, (late,) = Scene(), addresses(1, network=11)
    scene.hint(*addresses(8_000))
    scene.run(20_000)
    scene.hint(late)
    scene.run(21_000)
    assert scene.times(late)


def test_spoofed_addresses_do_not_delay_proven_and_static_ones():
    scene, (member, named) = Scene(), addresses(2, network=11)
    scene.members = (member,)
    scene.hint(member)
    scene.run(0)
    scene.dialler.on_link_up(MEMBER, member.host)
    scene.members = ()
    scene.hint(*addresses(8_000))
    scene.run(20_000)
    scene.hint(named, static=True)
    scene.dialler.on_conn_closed(member, scene.now_ms)
    scene.dialler.on_link_down(MEMBER, scene.now_ms)
    scene.run(21_000)
    assert scene.times(named)[0] == 20_000
    assert 20_000 < scene.times(member)[-1] <= 21_000
    assert len(scene.dialler._book) <= ADDRESSES_MAX


def test_dials_that_find_members_cost_no_token():
    names = addresses(3 * UNPROVEN_AT_ONCE)
    scene = Scene(*names)
    for name in names:
        scene.hint(name)
        scene.run(0)
    assert len(scene.dials) == len(names)


def test_repeated_hints_do_not_fill_the_queue():
    scene, names = Scene(), addresses(100)
    for _ in range(100):
        scene.hint(*names, instance="")
        scene.dialler.on_event(NetworkChanged(), scene.now_ms)
        for name in names:
            scene.dialler.on_event(AddressFound(name), scene.now_ms)
            scene.dialler.on_event(DialFailed(name), scene.now_ms)
    assert len(scene.dialler._queue) <= 4 * ADDRESSES_MAX + 1


def test_a_link_over_a_server_leaves_direct_addresses_dialled():
    over, direct = nats_address(b"instance"), Address("10.0.0.1", 7447)
    scene = Scene(over)
    scene.hint(over)
    scene.hint(direct, node_id=MEMBER)
    scene.run(1)
    scene.dialler.on_link_up(MEMBER, over.host)
    scene.dials.clear()
    scene.run(60_000)
    assert {address for _, address in scene.dials} == {direct}
    scene.dialler.on_link_up(MEMBER, direct.host)
    scene.dialler.on_conn_closed(over, scene.now_ms)
    scene.dials.clear()
    scene.run(scene.now_ms + 600_000)
    assert scene.dials == []
    scene.dialler.on_link_down(MEMBER, scene.now_ms)
    scene.run(scene.now_ms + 60_000)
    assert {address for _, address in scene.dials} == {over, direct}


def test_a_port_behind_a_server_is_nothing_to_dial():
    scene = Scene()
    scene.hint(Address(nats_address(b"instance").host, 7447), node_id=MEMBER)
    scene.run(60_000)
    assert scene.dials == []


def test_a_sought_member_is_dialled_beyond_the_view():
    base, other = Address("192.0.2.1", 4747), Address("192.0.2.2", 4747)
    scene = Scene(base)
    scene.dialler.links_wanted = 0
    scene.hint(other)
    scene.hint(base, node_id=MEMBER)
    scene.run(1_000)
    assert scene.dials == []
    scene.dialler.sought = frozenset((MEMBER,))
    scene.run(2_000)
    assert [address for _, address in scene.dials] == [base]


def test_a_sought_member_without_an_answer_is_dialled_rarely():
    gone = Address("192.0.2.1", 4747)
    scene = Scene()
    scene.dialler.links_wanted = 0
    scene.dialler.sought = frozenset((MEMBER,))
    scene.hint(gone, node_id=MEMBER)
    scene.run(120_000)
    assert 4 <= len(scene.times(gone)) <= FAILURES_MAX


def test_avoided_members_are_dialled_only_if_they_are_sought():
    kin, other = Address("192.0.2.1", 4747), Address("192.0.2.2", 4747)
    scene = Scene()
    scene.dialler.links_wanted = 1
    scene.dialler.avoided = frozenset((MEMBER,))
    scene.hint(kin, node_id=MEMBER)
    scene.run(10_000)
    assert scene.dials == []
    scene.hint(other)
    scene.run(20_000)
    assert kin not in [address for _, address in scene.dials]
    assert scene.times(other)
    scene.dialler.sought = scene.dialler.avoided
    scene.run(21_000)
    assert scene.times(kin)


def test_what_was_avoided_is_dialled_once_it_is_not():
    kin = Address("192.0.2.1", 4747)
    scene = Scene()
    scene.dialler.links_wanted = 1
    scene.dialler.avoided = frozenset((MEMBER,))
    scene.hint(kin, node_id=MEMBER)
    scene.run(10_000)
    scene.dialler.avoided = frozenset()
    scene.run(11_000)
    assert scene.times(kin)


def test_an_address_that_became_anybodys_is_not_sought():
    names = addresses(MeshConfig().dials_max + 1)
    dialler = Dialer(MeshConfig(), random.Random(1))
    dialler.links_wanted, dialler.sought = 0, frozenset((MEMBER,))
    for address in names:
        dialler.on_address_found(address, 0, node_id=MEMBER)
    dialled = [address for ms in range(0, 60_000, 500) for address in dialler.start_dials(ms)]
    assert len(dialled) == MeshConfig().dials_max  # they are under way, and the last one waits for a slot
    (last,) = set(names) - set(dialled)
    dialler.on_address_found(last, 60_000)  # a node announces it without saying who it is
    dialler.on_dial_failed(dialled[0], 60_000)
    assert last not in dialler.start_dials(60_000)
