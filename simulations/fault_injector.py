"""Carries out the faults of a scenario on a running cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from mycomesh.simulations.faults import (
    Backup,
    Betray,
    ClockSet,
    Clone,
    Crash,
    Cut,
    Divide,
    Fault,
    Heal,
    Join,
    Keep,
    MailboxDoes,
    Move,
    Pin,
    PowerCut,
    Purge,
    Radio,
    Reset,
    Restart,
    Restore,
    Revoke,
    Split,
    Stop,
    Upgrade,
    Window,
)

if TYPE_CHECKING:
    from mycomesh.simulations.cluster import Cluster

__all__ = ["inject"]


def inject(cluster: Cluster, fault: Fault) -> None:  # noqa: C901, PLR0912, PLR0915  (one branch a fault)
    """Apply one fault now. The caller waits for the time that the fault names."""
    network = cluster.network
    match fault:
        case Split(_, groups):
            network.split(groups)
        case Heal():
            network.heal()
            cluster.interfaces_changed()
        case Cut(_, source, target, one_way):
            network.cut(source, target, one_way=one_way)
        case Radio(_, node, on):
            network.radio(node, on=on)
            if on:
                cluster.interface_changed(node)
        case Reset():
            network.reset_any()
        case Move(_, positions):
            network.move({node: (x, y) for node, x, y in positions})
        case Crash(_, node, actions, silent):
            cluster.crash(node, actions=actions, silent=silent)
        case PowerCut(_, node, unsynced_s):
            cluster.power_cut(node, unsynced_s)
        case Stop(_, node):
            cluster.stop(node)
        case Restart(_, node) | Join(_, node):
            cluster.start(node)
        case Upgrade(_, node, versions):
            cluster.upgrade(node, versions)
        case Backup(_, node):
            cluster.backup(node)
        case Restore(_, node):
            cluster.restore(node)
        case Clone(_, source, node):
            cluster.clone(source, node)
        case Revoke(_, node):
            cluster.revoke(node)
        case Purge(_, node, since_s):
            cluster.purge(node, since_s)
        case Betray(_, node, lies):
            cluster.betray(node, lies)
        case Keep(_, node, areas):
            cluster.keep(node, areas)
        case Divide(_, node):
            cluster.divide(node)
        case Pin(_, node, age_s):
            cluster.pin(node, age_s)
        case MailboxDoes(_, wrongs):
            cluster.set_mailbox(wrongs)
        case Window(_, base, opens):
            cluster.set_window(base, opens=opens)
        case ClockSet(_, node, clock):
            cluster.set_clock(node, clock)
        case _:
            assert_never(fault)
