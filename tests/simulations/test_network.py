"""The virtual network: streams in order, cuts, resets, hints, counted faults."""

from __future__ import annotations

import pytest

from mycomesh.mesh.events import Address
from mycomesh.simulations.network import HIGH_WATER_BYTES, LOW_WATER_BYTES, Conditions, Network, address_of, index_of
from mycomesh.simulations.world import SECOND, World

QUIET = Conditions(cut=0)


class Ear:
    """A host that writes down what it hears."""

    def __init__(self, network, index):
        self.network = network
        self.index = index
        self.opened = []
        self.received = {}
        self.closed = []
        self.drained = []
        self.failed = []
        self.hints = []
        self.sizes = []
        network.attach(index, self)

    def on_opened(self, conn, address, *, dialled):
        self.opened.append((conn, dialled))
        self.received[conn] = b""

    def on_received(self, conn, data):
        assert conn not in self.closed
        assert data
        self.sizes.append(len(data))
        self.received[conn] += data

    def on_closed(self, conn):
        self.closed.append(conn)

    def on_drained(self, conn):
        self.drained.append(conn)

    def on_dial_failed(self, address):
        self.failed.append(address)

    def on_hint(self, address, instance):
        self.hints.append(address)


def pair(conditions=QUIET, seed=1):
    world = World(seed)
    network = Network(world, conditions)
    one, two = Ear(network, 1), Ear(network, 2)
    network.dial(1, address_of(2))
    world.run_until(SECOND)
    return world, network, one, two


def test_a_dial_opens_one_stream_with_two_ends():
    _, _, one, two = pair()
    assert [dialled for _, dialled in one.opened] == [True]
    assert [dialled for _, dialled in two.opened] == [False]
    assert one.opened[0][0] != two.opened[0][0]


def test_bytes_arrive_in_order_under_cuts_and_loss():
    for seed in range(20):
        world, network, one, two = pair(Conditions(cut=0.5, loss=0.2), seed)
        world.run_until(30 * SECOND)
        sent = b""
        for number in range(200):
            data = bytes([number % 256]) * (1 + number * 7 % 5_000)
            sent += data
            network.write(1, one.opened[0][0], data)
        world.run_until(2_000 * SECOND)
        assert two.received[two.opened[0][0]] == sent
        assert network.faults["loss"] > 0
        assert max(two.sizes) <= 65_536 + 5_000


def test_bandwidth_takes_time():
    world, network, one, two = pair(Conditions(bandwidth_bytes_s=1_000, cut=0))
    network.write(1, one.opened[0][0], b"a" * 1_000)
    network.write(1, one.opened[0][0], b"b" * 1_000)
    world.run_until(world.now_us + SECOND // 2)
    assert two.received[two.opened[0][0]] == b""
    world.run_until(world.now_us + SECOND)
    assert two.received[two.opened[0][0]] == b"a" * 1_000


def test_closing_flushes_and_tells_the_other_end_once():
    world, network, one, two = pair()
    network.write(1, one.opened[0][0], b"last words")
    network.close(1, one.opened[0][0])
    world.run_until(2 * SECOND)
    assert two.received[two.opened[0][0]] == b"last words"
    assert two.closed == [two.opened[0][0]]
    assert one.closed == []
    network.write(2, two.opened[0][0], b"into the void")
    world.run_until(3 * SECOND)
    assert one.received[one.opened[0][0]] == b""


def test_a_split_holds_bytes_back_until_it_heals():
    world, network, one, two = pair()
    network.split([[1], [2]])
    network.write(1, one.opened[0][0], b"held")
    world.run_until(60 * SECOND)
    assert two.received[two.opened[0][0]] == b""
    network.heal()
    world.run_until(200 * SECOND)
    assert two.received[two.opened[0][0]] == b"held"
    assert network.faults["split"] == 1
    assert network.faults["held"] == 1


def test_bytes_in_flight_when_split_comes_are_held_too():
    world, network, one, two = pair()
    network.write(1, one.opened[0][0], b"flying")
    network.split([[1], [2]])
    world.run_until(60 * SECOND)
    assert two.received[two.opened[0][0]] == b""
    network.heal()
    world.run_until(200 * SECOND)
    assert two.received[two.opened[0][0]] == b"flying"


def test_a_one_way_cut_lets_the_other_way_through():
    world, network, one, two = pair()
    network.cut(1, 2)
    network.write(1, one.opened[0][0], b"lost in space")
    network.write(2, two.opened[0][0], b"heard")
    world.run_until(60 * SECOND)
    assert two.received[two.opened[0][0]] == b""
    assert one.received[one.opened[0][0]] == b"heard"
    assert not network.reachable(1, 2)
    assert network.reachable(2, 1)


def test_a_dial_fails_when_nobody_answers_or_nobody_listens():
    world = World(1)
    network = Network(world, QUIET)
    one, _ = Ear(network, 1), Ear(network, 2)
    network.dial(1, address_of(9))
    world.run_until(SECOND)
    assert one.failed == [address_of(9)]
    network.split([[1], [2]])
    network.dial(1, address_of(2))
    world.run_until(20 * SECOND)
    assert one.failed == [address_of(9), address_of(2)]
    network.dial(1, Address("192.0.2.1", 80))
    world.run_until(40 * SECOND)
    assert len(one.failed) == 3
    assert one.opened == []


def test_dead_process_is_noticed_and_dead_machine_is_not():
    world, network, one, _ = pair()
    network.detach(2, silent=False)
    world.run_until(2 * SECOND)
    assert one.closed == [one.opened[0][0]]
    world, network, one, _ = pair()
    network.detach(2, silent=True)
    network.write(1, one.opened[0][0], b"anybody there?")
    world.run_until(60 * SECOND)
    assert one.closed == []


def test_a_restarted_machine_resets_its_former_streams():
    world, network, one, _ = pair()
    network.detach(2, silent=True)
    again = Ear(network, 2)
    network.write(1, one.opened[0][0], b"still there?")
    world.run_until(3 * SECOND)
    assert one.closed == [one.opened[0][0]]
    assert again.received == {}


def test_a_reset_ends_both_sides():
    world, network, one, two = pair()
    network.reset_any()
    world.run_until(2 * SECOND)
    assert one.closed == [one.opened[0][0]]
    assert two.closed == [two.opened[0][0]]
    assert network.faults["reset"] == 1


def test_a_full_queue_says_once_when_there_is_room():
    world, network, one, _ = pair()
    conn = one.opened[0][0]
    for _ in range(3):
        network.write(1, conn, bytes(HIGH_WATER_BYTES // 2))
    assert one.drained == []
    world.run_until(60 * SECOND)
    assert one.drained == [conn]
    network.write(1, conn, bytes(LOW_WATER_BYTES))
    world.run_until(120 * SECOND)
    assert one.drained == [conn]


def test_hosts_discover_each_other_once_and_within_reach():
    world = World(1)
    network = Network(world, QUIET)
    network.split([[1, 2], [3]])
    ears = [Ear(network, index) for index in (1, 2, 3)]
    world.run_until(10 * SECOND)
    assert [sorted(ear.hints) for ear in ears] == [[address_of(2)], [address_of(1)], []]
    network.heal()
    world.run_until(20 * SECOND)
    assert [len(ear.hints) for ear in ears] == [2, 2, 2]


def test_distance_decides_in_a_radio_network():
    world = World(1)
    network = Network(world, Conditions(range_m=100))
    one, two = Ear(network, 1), Ear(network, 2)
    network.move({1: (0, 0), 2: (300, 0)})
    world.run_until(10 * SECOND)
    assert one.hints == two.hints == []
    network.move({2: (60, 60)})
    world.run_until(20 * SECOND)
    assert one.hints == [address_of(2)]


def test_addresses_name_hosts():
    for index in (0, 1, 255, 256, 70_000):
        assert index_of(address_of(index)) == index
    assert index_of(Address("fe80::1", 4747)) is None


@pytest.mark.parametrize("field", [{"loss": 1.0}, {"loss": -0.1}, {"delay_us": -1}, {"bandwidth_bytes_s": 0}])
def test_impossible_conditions_are_refused(field):
    with pytest.raises(ValueError, match=r"probability|negative"):
        Conditions(**field)
