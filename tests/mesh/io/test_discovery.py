"""Discovery on one machine: real mDNS on the loopback alone, and what strangers may say there."""

from __future__ import annotations

import asyncio
import errno
from ipaddress import IPv4Address, ip_address

import pytest
import uvloop
from zeroconf import DNSOutgoing, DNSPointer, IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from mycomesh.mesh.events import Address
from mycomesh.mesh.io import discovery as module
from mycomesh.mesh.io.discovery import SERVICE_TYPE, Discovery
from mycomesh.mesh.io.interfaces import InterfaceState

WAIT_S = 20  # only what is broken takes this long
TAG = "00112233aabbccdd"
OURS = {b"v": b"1", b"m": TAG.encode()}
HOME = InterfaceState(
    known=True,
    multicast=("127.0.0.1",),
    announced=(IPv4Address("127.0.0.1"),),
    own=frozenset({"127.0.0.1", "10.99.0.1"}),
)
RESPONSE = 0x8400  # an authoritative answer (RFC 6762 section 18)
PTR, IN = 12, 1


@pytest.fixture
def run(monkeypatch, multicast):
    """Run a test's coroutine on a machine whose only interface is the loopback."""
    monkeypatch.setattr(module, "interface_state", lambda *, loopback: HOME if loopback else InterfaceState(known=True))

    def start(work):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(asyncio.wait_for(work, WAIT_S * 2))

    return start


class Node:
    """A discovery and what it told."""

    def __init__(self, instance, port=7000, tag=TAG, *, loopback=True, spacing=lambda: 1):
        self.instance, self.port, self.tag = instance, port, tag
        self.found = []
        self.notices = []
        self.told = asyncio.Event()
        self.discovery = Discovery(self.on_found, self.on_notice, loopback=loopback, spacing=spacing)

    async def __aenter__(self):
        await self.discovery.start(self.instance, self.tag, self.port)
        return self

    async def __aexit__(self, *_):
        await self.discovery.close()

    def on_found(self, address, instance):
        self.found.append((address, instance))
        self.told.set()

    def on_notice(self, notice):
        self.notices.append(notice.event)
        self.told.set()

    def names(self):
        return sorted(dict.fromkeys(instance for _, instance in self.found))

    async def until(self, check):
        async with asyncio.timeout(WAIT_S):
            while not check():
                self.told.clear()
                await self.told.wait()

    async def sees(self, instance):
        await self.until(lambda: instance in self.names())


class Stranger:
    """Any other speaker of mDNS on this machine, honest or not."""

    async def __aenter__(self):
        self.zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
        await self.zeroconf.zeroconf.async_wait_for_start()
        return self

    async def __aexit__(self, *_):
        await self.zeroconf.async_close()

    async def says(self, instance, hosts=("127.0.0.1",), port=9, properties=OURS):
        info = service(instance, hosts, port, properties)
        await self.zeroconf.async_register_service(info, cooperating_responders=True, strict=False)
        return info

    async def takes_back(self, info):
        """Say goodbye to what was said."""
        await (await self.zeroconf.async_unregister_service(info))

    def announces(self, instance, hosts=("127.0.0.1",), port=9, properties=OURS):
        """Say it once, and answer no question about it: a node that died right after."""
        info = service(instance, hosts, port, properties)
        out = DNSOutgoing(RESPONSE)
        for record in (info.dns_pointer(), info.dns_service(), info.dns_text(), *info.dns_addresses()):
            out.add_answer_at_time(record, 0)
        self.zeroconf.zeroconf.async_send(out)

    def points_at(self, instances):
        """Names alone, in as few packets as they fit: who wants to know more has to ask."""
        out = DNSOutgoing(RESPONSE)
        for instance in instances:
            out.add_answer_at_time(DNSPointer(SERVICE_TYPE, PTR, IN, 4_500, f"{instance}.{SERVICE_TYPE}"), 0)
        self.zeroconf.zeroconf.async_send(out)


def service(instance, hosts, port, properties=OURS):
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{instance}.{SERVICE_TYPE}",
        addresses=[ip_address(host).packed for host in hosts],
        port=port,
        server=f"host-{port}.local.",
        properties=properties,
    )


# ---- nodes among themselves


def test_nodes_of_one_machine_find_each_other_not_themselves(run):
    async def scene():
        async with Node("a1", 7001) as alpha, Node("b2", 7002) as bravo, Node("c3", 7003) as charlie:
            for node, others in ((alpha, ["b2", "c3"]), (bravo, ["a1", "c3"]), (charlie, ["a1", "b2"])):
                await node.until(lambda node=node, others=others: node.names() == others)
            assert (Address("127.0.0.1", 7002), "b2") in alpha.found
            assert alpha.notices == []

    run(scene())


def test_node_of_another_mesh_or_version_is_not_told(run):
    async def scene():
        async with Stranger() as stranger, Node("a1") as alpha:
            await stranger.says("other-mesh", port=1, properties={**OURS, b"m": b"ff"})
            await stranger.says("other-version", port=2, properties={**OURS, b"v": b"2"})
            await stranger.says("no-text", port=3, properties={})
            await stranger.says("same", port=4)
            await alpha.sees("same")
            assert alpha.names() == ["same"]

    run(scene())


def test_who_only_looks_announces_nothing(run):
    """A node that joins a mesh listens nowhere yet."""

    async def scene():
        async with Node("a1") as alpha, Node("joiner", None) as joiner:
            await joiner.sees("a1")
            async with Node("b2") as bravo:
                await bravo.sees("a1")
                await alpha.sees("b2")
                assert alpha.names() == ["b2"]
                assert bravo.names() == ["a1"]

    run(scene())


def test_end_is_announced_and_foreign_browser_sees_both(run):
    async def scene():
        changes = asyncio.Queue()
        async with Stranger() as stranger:

            def on_change(zeroconf, service_type, name, state_change):
                changes.put_nowait((name, state_change))

            browser = AsyncServiceBrowser(stranger.zeroconf.zeroconf, SERVICE_TYPE, handlers=[on_change])
            async with Node("a1", 7001):
                assert await changes.get() == (f"a1.{SERVICE_TYPE}", ServiceStateChange.Added)
                info = AsyncServiceInfo(SERVICE_TYPE, f"a1.{SERVICE_TYPE}")
                assert await info.async_request(stranger.zeroconf.zeroconf, 3_000)
                assert (info.port, info.parsed_addresses(), info.properties) == (7001, ["127.0.0.1"], OURS)
            state = None
            while state is not ServiceStateChange.Removed:
                _, state = await changes.get()
            await browser.async_cancel()

    run(scene())


def test_known_addresses_are_repeated_at_each_query(run, monkeypatch):
    async def scene():
        monkeypatch.setattr(module, "QUERY_AFTER_S", (0.2, 0.2))
        monkeypatch.setattr(module, "QUERY_EVERY_S", WAIT_S * 10)
        async with Stranger() as stranger:
            await stranger.says("same")
            async with Node("a1", None) as alpha:
                await alpha.sees("same")
                for _ in range(2):
                    before = len(alpha.found)
                    alpha.discovery.network_changed()
                    await alpha.until(lambda before=before: len(alpha.found) >= before + 3)  # at 0, 0.2 and 0.4 s

    run(scene())


def test_contented_node_queries_at_each_nth_wait_alone(run, monkeypatch):
    monkeypatch.setattr(module, "QUERY_AFTER_S", ())
    monkeypatch.setattr(module, "QUERY_EVERY_S", 0.02)
    waits, queried, done = [], [], asyncio.Event()

    def spacing():
        waits.append(len(waits))
        return 4 if len(waits) <= 24 else 1  # after 24 waits the node wants links again

    async def scene():
        async with Node("a1", None, spacing=spacing) as alpha:
            query = alpha.discovery._query

            async def counted():
                queried.append(len(waits))
                if len(queried) == 9:
                    done.set()
                await query()

            alpha.discovery._query = counted
            await asyncio.wait_for(done.wait(), WAIT_S)

    run(scene())
    assert queried[:9] == [0, 4, 8, 12, 16, 20, 24, 25, 26]


def test_a_goodbye_takes_nobody_away_and_starts_no_search(run):
    """One spoofed packet would be enough to make a node disappear, or all the others ask for it."""

    async def scene():
        async with Node("a1") as alpha, Stranger() as stranger:
            await stranger.says("same")
            await alpha.sees("same")
            names, zeroconf = alpha.discovery._resolver, alpha.discovery._zeroconf.zeroconf
            for instance in ("same", "gone"):
                names.on_change(zeroconf, SERVICE_TYPE, f"{instance}.{SERVICE_TYPE}", ServiceStateChange.Removed)
            assert f"gone.{SERVICE_TYPE}" not in names._queried
            names.on_change(zeroconf, SERVICE_TYPE, f"gone.{SERVICE_TYPE}", ServiceStateChange.Added)
            assert f"gone.{SERVICE_TYPE}" in names._queried
            assert alpha.names() == ["same"]

    run(scene())


# ---- names that two bear, and records that outlive their node


def test_a_node_back_at_another_port_is_reported(run):
    async def scene():
        async with Node("a1", None) as alpha, Stranger() as stranger:
            info = await stranger.says("same", port=4)
            await alpha.until(lambda: (Address("127.0.0.1", 4), "same") in alpha.found)
            await stranger.takes_back(info)
            await stranger.says("same", port=5)
            await alpha.until(lambda: (Address("127.0.0.1", 5), "same") in alpha.found)

    run(scene())


def test_a_node_gone_without_goodbye_is_reported_when_back(run):
    async def scene():
        async with Node("a1", None) as alpha, Stranger() as stranger:
            stranger.announces("same", port=4)
            await alpha.until(lambda: (Address("127.0.0.1", 4), "same") in alpha.found)
            async with Stranger() as another:
                await another.says("same", port=5)
                await alpha.until(lambda: (Address("127.0.0.1", 5), "same") in alpha.found)

    run(scene())


def test_the_address_of_a_dead_node_reaches_its_heir(run):
    """The record of the dead node lives twenty minutes longer; it must not hide the node that has its address now."""

    async def scene():
        async with Node("a1", None) as alpha, Stranger() as stranger:
            stranger.announces("dead", port=4)
            await alpha.sees("dead")
            async with Stranger() as another:
                await another.says("heir", port=4)
                await alpha.until(lambda: (Address("127.0.0.1", 4), "heir") in alpha.found)

    run(scene())


def test_both_nodes_that_bear_one_name_are_told(run):
    """A cloned machine may draw the name that its twin has drawn."""

    async def scene():
        async with Stranger() as one, Stranger() as other:
            await one.says("same", port=4)
            async with Node("a1", None) as early:
                await early.until(lambda: (Address("127.0.0.1", 4), "same") in early.found)
                await other.says("same", port=5)
                await early.until(lambda: (Address("127.0.0.1", 5), "same") in early.found)
                async with Node("b2", None) as late:
                    ports = lambda: {address.port for address, _ in late.found}  # noqa: E731
                    await late.until(lambda: ports() == {4, 5})

    run(scene())


def test_two_nodes_that_bear_one_name_find_each_other(run):
    async def scene():
        async with Node("same", 7001) as one, Node("same", 7002) as other, Node("a1", 7003) as alpha:
            await one.until(lambda: (Address("127.0.0.1", 7002), "same") in one.found)
            await other.until(lambda: (Address("127.0.0.1", 7001), "same") in other.found)
            await alpha.until(lambda: {7001, 7002} <= {address.port for address, _ in alpha.found})
            assert not any(address.port == node.port for node in (one, other) for address, _ in node.found)

    run(scene())


# ---- hostile and broken announcements


def test_names_of_other_services_are_left_alone(run):
    """They would end up in logs and on terminals."""

    async def scene():
        async with Stranger() as stranger, Node("a1") as alpha:
            await stranger.says("first", port=8)
            await alpha.sees("first")
            stranger.points_at(["\x1b[2J", "\u202eevil", "two words", "dot.ted", "new\nline", "umlaut-ä"])
            await stranger.says("same")
            await alpha.sees("same")
            assert alpha.names() == ["first", "same"]
            names = alpha.discovery._resolver
            asked = [name.split(".")[0] for name in (*names._queried, *names._pending, *names._resolving)]
            assert set(asked) <= {"first", "same"}

    run(scene())


def test_an_oversized_text_record_is_ignored_and_hides_nobody(run):
    async def scene():
        async with Stranger() as stranger, Node("a1", None) as alpha:
            padding = {b"x%d" % number: b"y" * 240 for number in range(33)}
            await stranger.says("padded", port=7, properties={**OURS, **padding})
            await stranger.says("stuffed", port=8, properties={**padding, b"m": b"ff"})
            await alpha.sees("padded")
            await stranger.says("same", port=9)
            await alpha.sees("same")
            assert alpha.names() == ["padded", "same"]

    run(scene())


def test_a_flood_of_names_is_bounded_and_hides_nobody(run):
    async def scene():
        async with Stranger() as stranger, Node("a1") as alpha:
            await stranger.says("first", port=8)
            await alpha.sees("first")
            for number in range(40):
                stranger.points_at(f"flood-{number}-{one}" for one in range(100))
                await asyncio.sleep(0)
            await stranger.says("same")
            await alpha.sees("same")
            names = alpha.discovery._resolver
            assert len(names._resolving) == module.RESOLVING_MAX
            assert 0 < len(names._pending) <= module.NAMES_MAX
            assert len(names._queried) <= module.NAMES_MAX
            assert alpha.names() == ["first", "same"]

    run(scene())


def test_a_node_after_a_flood_is_found_soon(run, monkeypatch):
    """A full cache may have lost the newcomer's addresses, so that it has to be asked for like any made-up name."""
    monkeypatch.setattr(module, "RESOLVE_MS", 50)

    async def scene():
        asked, late = [], asyncio.Event()

        class Info(AsyncServiceInfo):
            async def async_request(self, zeroconf, *rest):
                asked.append(self.name)
                if self.name.startswith("late."):
                    late.set()
                return await super().async_request(zeroconf, *rest)

        async with Stranger() as stranger, Node("a1") as alpha:
            await stranger.says("first", port=8)
            await alpha.sees("first")
            monkeypatch.setattr(module, "AsyncServiceInfo", Info)
            stranger.points_at([*(f"flood-{number}" for number in range(500)), "late"])
            await late.wait()
            assert len(asked) <= 3 * module.RESOLVING_MAX

    run(scene())


def test_names_beyond_the_limit_are_forgotten_unless_they_answer(run, monkeypatch):
    monkeypatch.setattr(module, "NAMES_MAX", 8)
    monkeypatch.setattr(module, "QUERY_AFTER_S", ())
    monkeypatch.setattr(module, "QUERY_EVERY_S", 0.2)

    async def scene():
        async with Stranger() as stranger:
            await stranger.says("same", port=8)
            async with Node("a1", None) as alpha:
                await alpha.sees("same")
                for number in range(40):
                    stranger.announces(f"dead-{number}", port=100 + number)
                await alpha.until(lambda: len({each[1] for each in alpha.found}) > 40)
                cache = alpha.discovery._zeroconf.zeroconf.cache
                await alpha.until(lambda: len(cache.async_entries_with_name(SERVICE_TYPE)) <= module.NAMES_MAX + 1)
                assert len(cache.names()) <= 3 * (module.NAMES_MAX + 2)
                before = len(alpha.found)
                await alpha.until(lambda: "same" in {each[1] for each in alpha.found[before:]})

    run(scene())


def test_an_unanswered_name_is_queried_ever_more_rarely(run, monkeypatch):
    monkeypatch.setattr(module, "RESOLVE_MS", 50)
    monkeypatch.setattr(module, "QUERY_AFTER_S", ())
    monkeypatch.setattr(module, "QUERY_EVERY_S", 0.2)

    async def scene():
        asked = []

        class Info(AsyncServiceInfo):
            async def async_request(self, zeroconf, *rest):
                asked.append(self.name)
                return await super().async_request(zeroconf, *rest)

        monkeypatch.setattr(module, "AsyncServiceInfo", Info)
        async with Stranger() as stranger:
            await stranger.says("same")
            async with Node("a1", None) as alpha:
                await alpha.sees("same")
                stranger.points_at(["crashed"])
                await alpha.until(lambda: len(alpha.found) >= 6)
                assert asked.count(f"crashed.{SERVICE_TYPE}") == 1
                alpha.discovery.network_changed()  # elsewhere it may answer
                before = len(alpha.found)
                await alpha.until(lambda: len(alpha.found) > before + 1)
                assert asked.count(f"crashed.{SERVICE_TYPE}") == 2

    run(scene())


# ---- which addresses are reported


def told(hosts, *, port=9, loopback=False, state=HOME, properties=OURS):
    """Return the events for a service with these addresses; `%3` after one is the interface by which it came."""
    found = []
    names = module._Resolver(
        module._Service("a1", TAG, None), lambda address, _: found.append(address), loopback=loopback
    )
    names.network_changed(state)
    index = next((int(host.split("%")[1]) for host in hosts if "%" in host), None)
    info = AsyncServiceInfo(
        SERVICE_TYPE,
        f"same.{SERVICE_TYPE}",
        addresses=[ip_address(host.split("%")[0]).packed for host in hosts],
        port=port,
        properties=properties,
        interface_index=index,
    )
    names._report(info, "same")
    assert all(address.port == port for address in found)
    return sorted(address.host for address in found)


def test_all_addresses_of_a_node_are_told():
    hosts = ["10.99.0.2", "192.168.1.4", "fd00::7", "2001:db8::1"]
    assert told(hosts) == sorted(hosts)


@pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.251", "::", "ff02::fb", "127.0.0.1", "::1"])
def test_addresses_that_cannot_be_another_node_are_not_told(host):
    assert told([host, "10.99.0.2"]) == ["10.99.0.2"]


def test_port_0_is_no_address():
    assert told(["10.99.0.2"], port=0) == []


def test_loopback_is_told_only_of_nodes_on_this_machine():
    assert told(["127.0.0.1", "10.99.0.1"], loopback=True) == ["10.99.0.1", "127.0.0.1"]
    assert told(["127.0.0.1", "10.99.0.2"], loopback=True) == ["10.99.0.2"], "its loopback is not ours"
    assert told(["127.0.0.1", "10.99.0.1"], loopback=False) == ["10.99.0.1"]


def test_node_with_very_many_addresses_is_dialled_few_times():
    assert len(told([f"10.1.{number}.1" for number in range(200)])) == module.ADDRESSES_MAX


def test_a_link_local_address_names_its_interface():
    assert told(["fe80::7%1"]) == ["fe80::7%lo"]
    assert told([f"fe80::7%{1 << 30}"]) == [], "the interface has gone"


def test_link_local_address_over_ipv4_is_tried_per_interface():
    state = InterfaceState(known=True, own=frozenset({"fe80::1"}), scopes=("eth0", "wlan0"))
    assert told(["fe80::7"], state=state) == ["fe80::7%eth0", "fe80::7%wlan0"]
    assert told(["fe80::1"], state=state) == [], "it is ours"


# ---- no multicast


def test_missing_multicast_and_its_return_are_reported_once(run, monkeypatch):
    faults = [OSError(errno.EPERM, "Operation not permitted")] * 3 + [None] * 100

    async def scene():
        monkeypatch.setattr(module, "QUERY_AFTER_S", (0.01,) * 10)
        monkeypatch.setattr(module, "multicast_fault", lambda _state: faults.pop(0))
        async with Node("a1") as alpha:
            await alpha.until(lambda: len(alpha.notices) == 2)
            assert alpha.notices == ["discovery.unavailable", "discovery.available"]

    run(scene())


def test_a_port_used_exclusively_is_reported_without_ending(run, monkeypatch):
    def refuse(**_):
        raise OSError(errno.EADDRINUSE, "Address already in use")

    async def scene():
        notices, said = [], asyncio.Event()
        monkeypatch.setattr(module, "AsyncZeroconf", refuse)
        discovery = Discovery(pytest.fail, lambda notice: (notices.append(notice), said.set()), loopback=True)
        await discovery.start("a1", TAG, 7000)
        await said.wait()
        discovery.network_changed()
        await discovery.close()
        assert [notice.level for notice in notices] == ["warning"]
        assert notices[0].text == (
            "multicast is not available (Address already in use): this node cannot find peers; use --peer HOST:PORT"
        )

    run(scene())


def test_an_end_right_after_the_start_is_clean(run):
    async def scene():
        for _ in range(3):
            async with Node("a1"):
                pass
        unstarted = Discovery(pytest.fail, pytest.fail, loopback=True)
        await unstarted.close()

    run(scene())
